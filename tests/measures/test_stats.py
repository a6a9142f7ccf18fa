"""Intervals cover what they claim, and the permutation test has the p-values that counting gives."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from backflip.errors import DataError
from backflip.measures.stats import (
    bootstrap,
    mean_count_interval,
    mean_interval,
    median_interval,
    pair_share_interval,
    paired_bootstrap,
    permutation_test,
    share_interval,
    wilson,
)


def test_mean_interval_is_students():
    values = [1.0, 2.0, 4.0, 8.0]
    found = mean_interval(values)
    low, high = scipy_stats.t.interval(0.95, 3, loc=np.mean(values), scale=scipy_stats.sem(values))
    assert (found.value, found.low, found.high, found.n) == pytest.approx((3.75, low, high, 4))


def test_copies_within_a_group_do_not_narrow_the_interval():
    values = np.random.default_rng(0).normal(size=40)
    once = mean_interval(values)
    copied = mean_interval(np.repeat(values, 5), groups=np.repeat(np.arange(40), 5))
    assert (copied.value, copied.low, copied.high, copied.n) == pytest.approx((once.value, once.low, once.high, 40))
    assert mean_interval(np.repeat(values, 5)).high < once.high


def test_a_share_of_all_or_none_has_a_width_and_no_share_passes_its_ends():
    every = share_interval([1.0] * 20)
    assert (every.value, every.high, every.n) == (1.0, 1.0, 20)
    assert every.low == pytest.approx(wilson(20, 20).low) and every.low < 0.9
    assert share_interval([0.0] * 20).high == pytest.approx(1 - every.low)
    clustered = share_interval([1.0] * 20, groups=[0] * 10 + [1] * 10)
    assert clustered.n == 2 and clustered.low < every.low
    nearly = share_interval([1.0] * 19 + [0.0])
    assert nearly.high == 1.0 and nearly.low == pytest.approx(mean_interval([1.0] * 19 + [0.0]).low)
    assert share_interval([1 + 1e-9] * 20) == every, "a sum that is rounded"
    with pytest.raises(DataError, match=r"shares in \[0, 1\]"):
        share_interval([0.5, 1.5])


def test_a_share_of_nothing_but_ties_has_a_width():
    for value in (0.5, 0.1, 1 / 3):
        ties = share_interval([value] * 30)
        same = wilson(value * 30, 30)
        assert (ties.value, ties.low, ties.high, ties.n) == pytest.approx((value, same.low, same.high, 30))
    alike = share_interval([0.0, 1.0] * 10, groups=np.repeat(np.arange(10), 2))
    assert (alike.low, alike.high) == pytest.approx((wilson(5, 10).low, wilson(5, 10).high)), "groups came to the same"
    tied = pair_share_interval([0.5] * 40, *np.random.default_rng(0).integers(0, 6, (2, 40)))
    assert (tied.low, tied.high, tied.n) == pytest.approx((wilson(1.5, 3).low, wilson(1.5, 3).high, 6))


def test_pairs_with_an_episode_in_common_are_not_counted_as_independent():
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 6, (2, 40))
    values = rng.integers(0, 2, 40).astype(float)
    gap = values - values.mean()
    common = (first[:, None] == first) | (first[:, None] == second)
    common |= (second[:, None] == first) | (second[:, None] == second)
    reach = scipy_stats.t.ppf(0.975, 5) * math.sqrt(max(gap @ common @ gap * 6 / 5, gap @ gap * 40 / 39)) / 40
    found = pair_share_interval(values, first, second)
    assert (found.value, found.high - found.value, found.n) == pytest.approx((values.mean(), reach, 6))
    every = pair_share_interval([1.0] * 40, first, second)
    assert (every.value, every.high, every.n) == (1.0, 1.0, 6) and every.low == pytest.approx(wilson(3, 3).low)
    assert pair_share_interval([0.5], [0], [1]).low == 0.0 and pair_share_interval([0.0, 1.0], [3, 3], [3, 3]).high == 1
    with pytest.raises(DataError, match="one a row"):
        pair_share_interval([1.0, 0.0], [0], [1, 2])


def test_an_interval_of_pairs_covers_where_some_episodes_are_harder_than_others():
    """Judged as if pairs were independent, it would hold the truth in little more than half of the cases, not in 95 of 100."""
    rng = np.random.default_rng(1)
    truth = float(scipy_stats.norm.cdf(0.5 / math.sqrt(1 + 2)))
    covered = alone = 0
    for _ in range(200):
        hard, sides = rng.normal(size=20), rng.integers(0, 20, (2, 200))
        right = (rng.normal(size=200) < 0.5 + hard[sides[0]] + hard[sides[1]]).astype(float)
        for groups in (True, False):
            found = pair_share_interval(right, *sides) if groups else share_interval(right)
            inside = found.low <= truth <= found.high
            covered, alone = covered + (groups and inside), alone + (not groups and inside)
    assert covered >= 175 and alone < 140


def test_one_unit_says_nothing_of_its_spread():
    assert mean_interval([2.0, 3.0], groups=[1, 1]).high == math.inf


def test_wilson_published_value():
    # Newcombe 1998, table I, method 3: 81 of 263 gives 0.2553 to 0.3662.
    found = wilson(81, 263)
    assert (found.low, found.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)


@given(st.integers(1, 500), st.floats(0, 1))
def test_wilson_holds_its_value_inside_the_unit_interval(n: int, share: float):
    found = wilson(share * n, n)
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_wilson_covers():
    rng = np.random.default_rng(1)
    hits = [wilson(k, 60) for k in rng.binomial(60, 0.9, 2000)]
    assert 0.93 <= np.mean([e.low <= 0.9 <= e.high for e in hits]) <= 0.98


def test_bootstrap_covers_with_groups():
    rng = np.random.default_rng(2)
    inside = 0
    for _ in range(200):
        centre = rng.normal(size=40)
        rows = np.repeat(centre, 4) + 0.2 * rng.normal(size=160)
        found = bootstrap(rows, rng, groups=np.repeat(np.arange(40), 4), draws=300)
        inside += found.low <= 0 <= found.high
    assert 0.88 <= inside / 200 <= 0.99


def test_paired_bootstrap_is_of_the_differences_and_repeats_with_its_seed():
    rng = np.random.default_rng(3)
    first = rng.normal(size=50) * 10
    second = first + 1
    one, two = (paired_bootstrap(first, second, np.random.default_rng(4)) for _ in range(2))
    assert one == two
    assert (one.value, one.low, one.high) == pytest.approx((1, 1, 1))
    with pytest.raises(DataError, match="same units"):
        paired_bootstrap([1.0], [1.0, 2.0], rng)


def test_permutation_test_counts_exactly():
    rng = np.random.default_rng(5)
    assert permutation_test([4.0, 5, 6], [1.0, 2, 3], rng) == pytest.approx(1 / 20)
    assert permutation_test([6.0, 7, 8, 9, 10], [1.0, 2, 3, 4, 5], rng) == pytest.approx(1 / 252)
    assert permutation_test([6.0, 7, 8, 9, 10], [1.0, 2, 3, 4, 5], rng, alternative="two-sided") == pytest.approx(
        2 / 252
    )
    assert permutation_test([1.0, 1, 1], [1.0, 1, 1], rng) == 1


def test_permutation_test_is_uniform_under_the_null_and_sampled_agrees_with_exact():
    rng = np.random.default_rng(6)
    values = [permutation_test(rng.normal(size=4).tolist(), rng.normal(size=4).tolist(), rng) for _ in range(400)]
    assert np.mean(np.array(values) <= 0.05) < 0.09
    treated, control = rng.normal(0.5, 1, 6).tolist(), rng.normal(0, 1, 6).tolist()
    exact = permutation_test(treated, control, rng)
    assert permutation_test(treated, control, rng, draws=900) == pytest.approx(exact, abs=0.05)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_nothing_and_nan_are_no_numbers(values: list[float]):
    with pytest.raises(DataError):
        mean_interval(values)


def test_counts_that_are_all_alike_have_a_poisson_interval() -> None:
    none = mean_count_interval([0] * 10)
    assert (none.value, none.low, none.n) == (0.0, 0.0, 10) and none.high == pytest.approx(0.3689, abs=1e-4)
    three = mean_count_interval([3] * 4)  # 12 events: 6.20 to 20.96 (Garwood 1936)
    assert (three.low * 4, three.high * 4) == (pytest.approx(6.201, abs=1e-3), pytest.approx(20.962, abs=1e-3))
    assert mean_count_interval([0, 0, 0, 1]).low == 0.0 and mean_count_interval([20, 21, 22]) == mean_interval(
        [20, 21, 22]
    )
    with pytest.raises(DataError, match="a count of -1"):
        mean_count_interval([1, -1])


def test_the_median_lies_between_two_of_the_values():
    """Textbook ranks (David and Nagaraja, Order Statistics, 7.1): of 10 the second and ninth, of 25 the eighth and eighteenth."""
    for n, first, last in ((1, 1, 1), (5, 1, 5), (10, 2, 9), (25, 8, 18)):
        found = median_interval(np.arange(n, 0, -1))
        assert (found.value, found.low, found.high, found.n) == ((n + 1) / 2, first, last, n)


@pytest.mark.parametrize("n", [10, 21, 100])
def test_the_medians_interval_holds_it_whatever_the_distribution(n: int):
    draws = np.random.default_rng(0).lognormal(size=(1000, n))
    found = [median_interval(each) for each in draws]
    assert 0.94 < np.mean([one.low <= 1.0 <= one.high for one in found]) < 0.99


def test_the_median_of_many_takes_no_room():
    many = np.random.default_rng(0).lognormal(size=20_000)
    tracemalloc.start()
    found = median_interval(many)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 10 * many.nbytes and found.high - found.low < 0.1
