"""Gold at an equal KL: read off a straight path, the first time it passes, and never beyond its looks."""

from __future__ import annotations

import numpy as np
import pytest

from backflip.errors import DataError
from backflip.measures.along_kl import value_at_kl


def test_on_a_line_the_value_is_the_lines_own() -> None:
    rng = np.random.default_rng(0)
    kl_P = np.cumsum(rng.random(9))
    for nats in np.linspace(kl_P[0], kl_P[-1], 7):
        found = value_at_kl(kl_P, 2 * kl_P + 1, float(nats))
        assert found == pytest.approx(2 * nats + 1)


def test_what_a_path_never_passes_is_not_known() -> None:
    assert value_at_kl([0.0, 1.0], [0.5, 0.7], 1.01) is None
    assert value_at_kl([0.4, 1.0], [0.5, 0.7], 0.2) is None, "an asked policy begins away from the base"
    assert value_at_kl([], [], 0.2) is None
    assert value_at_kl([0.3], [0.5], 0.3) == 0.5


def test_a_path_that_turns_back_counts_where_it_first_passes() -> None:
    assert value_at_kl([0.0, 2.0, 1.0, 3.0], [0.0, 1.0, 9.0, 9.0], 1.5) == pytest.approx(0.75)
    assert value_at_kl([2.0, 0.0], [1.0, 0.0], 1.0) == pytest.approx(0.5), "downwards too"


@pytest.mark.parametrize(
    ("kl", "value", "words"),
    [([0.0, 1.0], [1.0], "as many"), ([0.0, np.nan], [1.0, 1.0], "finite"), ([-0.1, 1.0], [1.0, 1.0], "a KL of -0.1")],
)
def test_what_is_no_path_is_refused(kl: list[float], value: list[float], words: str) -> None:
    with pytest.raises(DataError, match=words):
        value_at_kl(kl, value, 0.5)
