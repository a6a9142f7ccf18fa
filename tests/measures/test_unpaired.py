"""Differences between unlike units: a test that keeps its level, a share that is never sure, and values that would tell."""

from __future__ import annotations

import numpy as np
import pytest

from backflip.errors import DataError
from backflip.measures.unpaired import share_above, welch

RNG = np.random.default_rng


@pytest.mark.parametrize(
    ("n", "m", "wide"), [(20, 5, 3.0), (20, 5, 1.0), (5, 20, 3.0), (2, 20, 1.0)], ids=["few_wide", "like", "few_narrow", "two"]
)  # fmt: skip
def test_nothing_is_told_where_nothing_differs_whatever_spread_and_size(n: int, m: int, wide: float) -> None:
    """Means exchanged are told in 27 % of the first case, Welch's test alone in 13 % of the last."""
    rng = RNG(1)
    draws = 400
    told = sum(welch(rng.normal(0, 1, n), rng.normal(0, wide, m), rng, draws=199).p <= 0.05 for _ in range(draws))
    assert told / draws < 0.09  # 0.05 and more than three standard errors


def test_rare_values_are_not_told_from_none() -> None:
    """Welch's test alone tells one in six of these."""
    rng = RNG(2)
    found = [welch(rng.random(20) < 0.1, rng.random(5) < 0.1, rng, draws=199).p <= 0.05 for _ in range(300)]
    assert np.mean(found) < 0.09


def test_a_difference_is_told_and_its_interval_is_welchs() -> None:
    stats = pytest.importorskip("scipy.stats")
    ours, theirs = RNG(3).normal(3, 1, 12), RNG(4).normal(0, 2, 9)
    found = welch(ours, theirs, RNG(0))
    exact = stats.ttest_ind(ours, theirs, equal_var=False)
    low, high = exact.confidence_interval()
    assert (found.difference.low, found.difference.high) == pytest.approx((low, high)) and found.difference.n == 9
    assert exact.pvalue <= found.p < 0.01
    assert welch(theirs, ours, RNG(0)).difference.value == pytest.approx(-found.difference.value)
    assert welch([1.0, 2.0], [2.0, 1.0], RNG(0)).p == 1.0 and welch([1.0, 2.0], [2.0, 1.0], RNG(0)).needed is None
    apart = welch([1.0] * 4, [2.0] * 4, RNG(0))
    assert apart.p == pytest.approx(2 / 70) and apart.needed == 4  # no spread at all: exchanging says what it can
    with pytest.raises(DataError, match="two or more of each"):
        welch([1.0], [1.0, 2.0], RNG(0))


def test_as_many_as_are_needed_tell_four_times_in_five() -> None:
    rng = RNG(5)
    seen = np.array([-1.0, 1.0]) * np.sqrt(0.5)  # deviation 1
    needed = welch(seen + 1, seen, rng).needed
    assert needed == 17  # the textbook's for a difference of one deviation
    power = np.mean(
        [welch(rng.normal(1, 1, needed), rng.normal(0, 1, needed), rng, draws=199).p <= 0.05 for _ in range(300)]
    )
    assert 0.72 < power < 0.88
    more = welch(seen + 1, seen, rng, level=0.005).needed
    assert more is not None and more > needed


def test_the_share_above_has_width_everywhere_and_covers() -> None:
    apart = share_above(np.arange(10) + 100.0, np.arange(10.0))
    assert apart.value == 1.0 and apart.low == pytest.approx(0.722, abs=1e-3) and apart.high == 1.0 and apart.n == 10
    none = share_above([0.0] * 6, [1.0] * 8)
    assert (none.value, none.low) == (0.0, 0.0) and 0.3 < none.high < 0.5
    alike = share_above([1.0] * 10, [1.0] * 10)
    assert alike.value == 0.5 and alike.low < 0.4 and alike.high > 0.6
    rng, truth = RNG(6), 0.9
    gap = 1.2815515655446004 * np.sqrt(2)  # normal values this far apart: the first is above in 90 %
    covered = [share_above(rng.normal(gap, 1, 10), rng.normal(0, 1, 10)) for _ in range(400)]
    assert np.mean([one.low <= truth <= one.high for one in covered]) > 0.93  # DeLong's by itself: 83 %
