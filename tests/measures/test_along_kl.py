"""Gold at an equal KL: read off a straight path, the first time it passes, and never beyond its looks."""

from __future__ import annotations

import numpy as np
import pytest

from backflip.errors import DataError
from backflip.measures.along_kl import WIDEST, value_at_kl


def test_on_a_line_in_the_root_of_the_kl_the_value_is_the_lines_own() -> None:
    rng = np.random.default_rng(0)
    kl_P = np.cumsum(rng.random(9))
    for nats in np.linspace(kl_P[0], kl_P[-1], 7):
        found = value_at_kl(kl_P, 2 * np.sqrt(kl_P) + 1, float(nats))
        assert found == pytest.approx(2 * nats**0.5 + 1)


def test_a_path_of_few_looks_is_not_marked_down() -> None:
    """The same path, every look of it or every third, says the same where gold grows as it does near the base."""
    kl_P = np.linspace(0, 1.1, 10) ** 2
    gold_P = 0.5 + 0.3 * np.sqrt(kl_P) - 0.05 * kl_P
    for nats in (0.25, 0.5, 1.0):
        often, seldom = (value_at_kl(kl_P[::step], gold_P[::step], nats) for step in (1, 3))
        assert often is not None and seldom == pytest.approx(often, abs=0.003)


def test_between_looks_that_are_far_apart_nothing_is_read() -> None:
    assert value_at_kl([0.0, 2.4], [0.5, 0.7], 1.0) is None
    assert value_at_kl([0.0, WIDEST**2 - 0.01], [0.5, 0.7], 0.25) is not None
    assert value_at_kl([0.0, 2.4, 2.8], [0.5, 0.7, 0.8], 2.5) is not None


def test_what_a_path_never_passes_is_not_known() -> None:
    assert value_at_kl([0.0, 1.0], [0.5, 0.7], 1.01) is None
    assert value_at_kl([0.4, 1.0], [0.5, 0.7], 0.2) is None, "an asked policy begins away from the base"
    assert value_at_kl([], [], 0.2) is None
    assert value_at_kl([0.3], [0.5], 0.3) == 0.5


def test_a_path_that_turns_back_counts_where_it_first_passes() -> None:
    assert value_at_kl([0.25, 1.0, 0.25, 1.44], [0.0, 1.0, 9.0, 9.0], 0.5625) == pytest.approx(0.5)
    assert value_at_kl([1.0, 0.25], [1.0, 0.0], 0.5625) == pytest.approx(0.5), "downwards too"


@pytest.mark.parametrize(
    ("kl", "value", "words"),
    [([0.0, 1.0], [1.0], "as many"), ([0.0, np.nan], [1.0, 1.0], "finite"), ([-0.1, 1.0], [1.0, 1.0], "a KL of -0.1")],
)
def test_what_is_no_path_is_refused(kl: list[float], value: list[float], words: str) -> None:
    with pytest.raises(DataError, match=words):
        value_at_kl(kl, value, 0.5)
