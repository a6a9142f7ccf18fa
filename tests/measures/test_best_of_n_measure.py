"""The estimator equals brute force over all subsets, ties and all, and the KL has its closed form."""

import math
from collections.abc import Sequence
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from backflip.errors import DataError
from backflip.measures.best_of_n import best_of_n, kl_bound_nats, kl_exact_nats, kl_of_kept_nats, subset_weights


def brute(proxy: Sequence[float], gold: Sequence[float], n: int, pick: object = max) -> float:
    means: list[float] = []
    for chosen in combinations(range(len(proxy)), n):
        top = pick(proxy[i] for i in chosen)  # type: ignore[operator]
        means.append(float(np.mean([gold[i] for i in chosen if proxy[i] == top])))
    return float(np.mean(means))


def test_seven_choose_three():
    rng = np.random.default_rng(0)
    proxy, gold = rng.normal(size=(2, 7))
    assert best_of_n([proxy], [gold], 3).value == pytest.approx(brute(list(proxy), list(gold), 3))


@given(st.data())
def test_equals_brute_force_with_ties(data: st.DataObject):
    size = data.draw(st.integers(1, 9))
    n = data.draw(st.integers(1, size))
    proxy = data.draw(st.lists(st.integers(0, 3), min_size=size, max_size=size))
    gold = data.draw(st.lists(st.floats(-5, 5), min_size=size, max_size=size))
    assert best_of_n([proxy], [gold], n).value == pytest.approx(brute(proxy, gold, n), abs=1e-9)
    assert best_of_n([proxy], [gold], n, worst=True).value == pytest.approx(brute(proxy, gold, n, min), abs=1e-9)


def test_best_of_one_is_the_mean_and_of_all_the_top():
    rng = np.random.default_rng(1)
    proxy, gold = rng.normal(size=(2, 4, 12))
    assert best_of_n(proxy, gold, 1).value == pytest.approx(gold.mean())
    assert best_of_n(proxy, proxy, 12).value == pytest.approx(proxy.max(1).mean())
    assert best_of_n(proxy, gold, 12).n == 4


def test_weights_are_shares_and_large_n_is_exact():
    for samples, n in ((12, 5), (500, 64)):
        assert subset_weights(samples, n).sum() == pytest.approx(1)


def test_unbiased_on_a_known_expectation():
    """The best of n uniform numbers is n / (n + 1) on average."""
    draws = np.random.default_rng(2).random((4000, 8))
    found = best_of_n(draws, draws, 4)
    assert found.low < 4 / 5 < found.high and found.high - found.low < 0.01


def test_less_variance_than_one_subset():
    draws = np.random.default_rng(3).random((500, 16))
    naive = draws[:, :4].max(1)
    assert best_of_n(draws, draws, 4).high - best_of_n(draws, draws, 4).low < 0.8 * 2 * 1.96 * naive.std() / math.sqrt(
        500
    )


@pytest.mark.parametrize(
    ("n", "nats"), [(1, 0.0), (2, 0.193), (4, 0.636), (8, 1.204), (16, 1.835), (64, 3.175), (256, 4.549), (1024, 5.932)]
)
def test_bound_values(n: int, nats: float):
    assert kl_bound_nats(n) == pytest.approx(nats, abs=5e-4)


def test_exact_kl_values_on_seven_grades():
    grades = np.full(7, 1 / 7)
    assert kl_exact_nats(grades, 16) == pytest.approx(1.637, abs=5e-4)
    assert kl_exact_nats(grades, 64) == pytest.approx(1.945, abs=5e-4)
    assert kl_exact_nats(np.full(20_000, 1 / 20_000), 16) == pytest.approx(kl_bound_nats(16), abs=1e-3), (
        "without atoms the bound is tight"
    )


def test_exact_kl_by_listing_every_draw():
    base, score, n = np.array([0.5, 0.2, 0.2, 0.1]), np.array([0, 1, 1, 2]), 3
    chosen = np.zeros(4)
    for draw in product(range(4), repeat=n):
        top = max(score[list(draw)])
        first = next(i for i in draw if score[i] == top)
        chosen[first] += np.prod(base[list(draw)])
    listed = float(np.sum(chosen * np.log(chosen / base)))
    assert kl_exact_nats([0.5, 0.4, 0.1], n) == pytest.approx(listed)
    assert listed < kl_bound_nats(n)


def test_nonsense_is_refused():
    with pytest.raises(DataError, match="best of 5"):
        best_of_n([[1, 2]], [[1, 2]], 5)
    with pytest.raises(DataError, match="one shape"):
        best_of_n([[1, 2]], [[1, 2, 3]], 1)
    with pytest.raises(DataError, match="distribution"):
        kl_exact_nats([0.5, 0.6], 2)


def test_a_row_of_the_best_few_costs_what_its_ranks_say():
    """Counted: a sample's quantile, and so how often it is among the kept, is a mean over its rank's order statistics."""
    for n, kept in ((4, 1), (8, 2), (16, 12)):
        middle = (np.arange(200_000) + 0.5) / 200_000
        ranks = [scipy_stats.beta.pdf(middle, n - j, j + 1) for j in range(kept)]
        ratio = np.mean(ranks, axis=0)
        assert kl_of_kept_nats(n, kept) == pytest.approx(float(np.mean(ratio * np.log(ratio + 1e-300))), abs=1e-4)
        assert kl_of_kept_nats(n, kept) < math.log(n / kept)
    assert kl_of_kept_nats(256, 1) == pytest.approx(kl_bound_nats(256), abs=1e-9) and kl_of_kept_nats(5, 5) < 1e-12
    with pytest.raises(DataError, match="the best 5 of 4"):
        kl_of_kept_nats(4, 5)


def test_the_best_of_four_is_less_than_the_best_quarter():
    """200 normal scores: what FeedME's usual rule comes to in one round, and what the best quarter of all does."""
    score = scipy_stats.norm.ppf((np.arange(200) + 0.5) / 200)
    kept = (np.arange(1, 201) / 200) ** 3  # the other three of the group are no better; equal ones are kept with it
    share = kept / kept.sum()
    assert share @ score == pytest.approx(1.025, abs=1e-3)
    assert share @ np.log(200 * share) == pytest.approx(0.633, abs=1e-3) and kl_of_kept_nats(4, 1) > 0.633
    assert score[-50:].mean() == pytest.approx(1.269, abs=1e-3)
