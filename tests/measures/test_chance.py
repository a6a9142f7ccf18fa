"""Kappa and alpha against other implementations and known limits, and how often their intervals hold the truth."""

from __future__ import annotations

import krippendorff
import numpy as np
import pytest
from numpy.typing import NDArray

from backflip.data import Estimate
from backflip.measures import chance
from backflip.measures.stats import score_interval, wilson

Choices = NDArray[np.int64]
CHOICES = np.array([-1, 0, 1])


def counted(choice_PJ: Choices) -> Choices:
    """Return how many made each choice; 9 is no choice, and pairs that fewer than two judged are left out."""
    count_PC = (choice_PJ[:, :, None] == CHOICES).sum(1)
    return count_PC[count_PC.sum(1) > 1]


def crowd(right: float, people: int, pairs: int, rng: np.random.Generator) -> Choices:
    best_P1 = rng.choice([-1, 1], (pairs, 1))
    return np.where(rng.random((pairs, people)) < right, best_P1, -best_P1)


def test_kappa_of_a_table_that_is_worked_by_hand() -> None:
    """20 and 15 of 50 alike; one says yes to 25, the other to 30: (0.7 - 0.5) / (1 - 0.5)."""
    first = np.array([1] * 25 + [-1] * 25)
    second = np.array([1] * 20 + [-1] * 5 + [1] * 10 + [-1] * 15)
    found = chance.kappa(first, second)
    assert found and found.value == pytest.approx(0.4) and found.n == 50
    seen = wilson(35, 50)
    assert (found.low, found.high) == (pytest.approx(2 * seen.low - 1), pytest.approx(2 * seen.high - 1))
    assert chance.kappa(first, -first).value == -1.0  # type: ignore[union-attr]


@pytest.mark.parametrize("seed", range(4))
def test_alpha_is_that_of_another_implementation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    choice_PJ = np.where(rng.random((40, 5)) < 0.6, rng.choice(CHOICES, (40, 1)), rng.choice(CHOICES, (40, 5)))
    choice_PJ = np.where(rng.random((40, 5)) < 0.7, choice_PJ, 9)
    known_JP = np.where(choice_PJ == 9, np.nan, choice_PJ).T
    found = chance.alpha(counted(choice_PJ))
    expected = float(krippendorff.alpha(reliability_data=known_JP, level_of_measurement="nominal"))
    assert found and found.value == pytest.approx(expected) and found.low < expected < found.high


def test_nothing_is_beyond_chance_where_all_choose_alike() -> None:
    same = np.ones(20, dtype=np.int64)
    assert chance.kappa(same, same) is None and chance.alpha(counted(np.stack([same, same], 1))) is None


def test_ten_of_ten_do_not_prove_that_two_always_agree() -> None:
    one = np.array([1, -1] * 5)
    for found in (chance.kappa(one, one), chance.alpha(counted(np.stack([one, one], 1)))):
        assert found and (found.value, found.high) == (1.0, 1.0) and 0.3 < found.low < 0.6
    never = chance.kappa(one, -one)
    assert never and never.low == -1.0 and never.high > -0.6


@pytest.mark.parametrize("people", [2, 4])
@pytest.mark.parametrize("right", [0.95, 0.8, 0.6])
def test_intervals_hold_the_truth_about_95_times_in_100(right: float, people: int) -> None:
    rng = np.random.default_rng(7)
    truth = 2 * (right**2 + (1 - right) ** 2) - 1
    for pairs in (10, 20, 50, 200):
        drawn = [crowd(right, people, pairs, rng) for _ in range(600)]
        measured = [[chance.alpha(counted(one)) for one in drawn]]
        if people == 2:
            measured.append([chance.kappa(one[:, 0], one[:, 1]) for one in drawn])
        for found in measured:
            there = [one for one in found if one is not None]
            assert len(there) > 590 and min(one.high - one.low for one in there) > 0.3 / np.sqrt(pairs)
            # Three standard errors of 600 draws about 0.92 and 0.99.
            assert 0.89 < np.mean([one.low <= truth <= one.high for one in there]) <= 0.997, (pairs, people, right)


@pytest.mark.parametrize(("people", "right"), [(2, 0.9), (4, 0.9), (4, 0.6), (8, 0.8)])
def test_of_many_pairs_the_interval_is_as_wide_as_alpha_varies(people: int, right: float) -> None:
    rng = np.random.default_rng(3)
    found = [found for _ in range(300) if (found := chance.alpha(counted(crowd(right, people, 1000, rng))))]
    spread = 2 * 1.96 * np.std([one.value for one in found])
    assert np.mean([one.high - one.low for one in found]) == pytest.approx(spread, rel=0.15)


def test_a_share_of_sure_outcomes_has_wilsons_interval_and_ties_make_it_narrower() -> None:
    for successes, n in ((0, 12), (12, 12), (9, 12), (1, 40)):
        found, expected = score_interval([1.0] * successes + [0.0] * (n - successes)), wilson(successes, n)
        assert (found.low, found.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
        assert (found.value, found.n) == (pytest.approx(successes / n), n)
    tied = score_interval([1.0] * 8 + [0.5] * 4)
    assert tied.value == pytest.approx(10 / 12) and tied.high < 1.0
    assert 0 < tied.high - tied.low < wilson(10, 12).high - wilson(10, 12).low
    halves = score_interval([0.5] * 12)
    assert halves.low < 0.45 and halves.high > 0.55, "twelve ties do not prove that all are"


@pytest.mark.parametrize(("right", "ties"), [(0.95, 0.1), (0.9, 0.05), (0.8, 0.1), (0.9, 0.3)])
def test_shares_with_ties_are_held_about_95_times_in_100(right: float, ties: float) -> None:
    rng = np.random.default_rng(5)
    truth = right * (1 - ties) + ties / 2
    for n in (10, 20, 50):
        value_DN = np.where(rng.random((1500, n)) < ties, 0.5, rng.random((1500, n)) < right)
        found: list[Estimate] = [score_interval(each_N) for each_N in value_DN]
        assert 0.93 < np.mean([one.low <= truth <= one.high for one in found]) < 0.99, n
