"""Intervals over seeds and openings at once hold the truth as often as they say, where those over one of the two alone do not."""

from __future__ import annotations

import numpy as np
import pytest

from backflip.errors import DataError
from backflip.measures.crossed import crossed_interval
from backflip.measures.stats import mean_interval

SEEDS, OPENINGS, DRAWS = 3, 24, 1000


def covered(seed_sd: float, opening_sd: float, rest_sd: float) -> tuple[float, float]:
    """How often the interval holds 0, the truth: crossed, and over openings after averaging over seeds."""
    rng = np.random.default_rng(7)
    hits = np.zeros(2)
    for _ in range(DRAWS):
        table_SK = (
            seed_sd * rng.normal(size=(SEEDS, 1))
            + opening_sd * rng.normal(size=OPENINGS)
            + rest_sd * rng.normal(size=(SEEDS, OPENINGS))
        )
        both, one = crossed_interval(table_SK), mean_interval(table_SK.mean(0))
        hits += [both.low <= 0 <= both.high, one.low <= 0 <= one.high]
    return float(hits[0]) / DRAWS, float(hits[1]) / DRAWS


@pytest.mark.parametrize(
    "spread", [(1.0, 0.0, 1.0), (0.3, 1.0, 1.0), (0.0, 1.0, 0.5), (0.0, 0.0, 1.0), (1.0, 1.0, 0.1)]
)
def test_it_holds_the_truth_at_least_as_often_as_it_says(spread: tuple[float, float, float]) -> None:
    assert covered(*spread)[0] > 0.925


def test_openings_alone_would_be_sure_of_what_other_seeds_refute() -> None:
    both, one = covered(1.0, 0.3, 0.3)
    assert both > 0.925 and one < 0.6


def test_of_one_seed_it_is_the_interval_over_openings() -> None:
    value_K = np.random.default_rng(0).normal(size=9)
    found, usual = crossed_interval(value_K[None]), mean_interval(value_K)
    assert (found.value, found.low, found.high) == (usual.value, usual.low, usual.high) and found.n == 9
    assert crossed_interval(value_K[:, None]).high == usual.high


def test_a_worked_table() -> None:
    # Mean squares: seeds 2 * ((-1)^2 + 1^2) / 1 = 4, openings 2 * (0.5^2 + 0.5^2) / 1 = 1, the rest 0; variance (4 + 1 - 0) / 4.
    found = crossed_interval([[0.0, 1.0], [2.0, 3.0]])
    assert found.value == 1.5 and found.n == 2
    free = 25 / (16 + 1)
    from scipy.stats import t

    assert found.high - 1.5 == pytest.approx(t.ppf(0.975, free) * np.sqrt(5 / 4))


def test_what_does_not_vary_has_no_width_and_nothing_is_refused() -> None:
    assert crossed_interval(np.full((3, 5), 2.0)) == crossed_interval(np.full((2, 5), 2.0))
    assert crossed_interval(np.full((3, 5), 2.0)).low == 2.0
    for broken in ([[1.0, np.nan]], np.empty((0, 3))):
        with pytest.raises(DataError):
            crossed_interval(broken)
