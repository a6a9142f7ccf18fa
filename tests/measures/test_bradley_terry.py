"""Bradley-Terry ratings: closed forms, invariance, planted strengths, and what ratings cannot say."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from scipy.special import expit, stdtrit

from backflip.errors import DataError
from backflip.measures.bradley_terry import bradley_terry, cycles


def test_two_players_have_the_closed_form() -> None:
    won = np.array([1.0] * 30 + [0.0] * 10)
    found = bradley_terry([0] * 40, [1] * 40, won, "ab")
    assert found.between(0, 1).value == pytest.approx(math.log(3), abs=1e-9)
    assert found.rating_A.sum() == pytest.approx(0, abs=1e-12)
    error = math.sqrt(1 / (40 * 0.75 * 0.25) * 40 / 39)
    gap = found.between(0, 1)
    assert (gap.high - gap.value) / 2.0226909 == pytest.approx(error, rel=1e-6)
    assert gap.n == 40 and found.chance(0, 1) == pytest.approx(0.75)


def test_a_tie_is_half_a_win_and_who_stands_first_does_not_matter() -> None:
    rng = np.random.default_rng(3)
    pairs = rng.permuted(np.tile(np.arange(4), (200, 1)), axis=1)[:, :2]
    share = rng.choice([0.0, 0.5, 1.0], 200)
    one = bradley_terry(pairs[:, 0].tolist(), pairs[:, 1].tolist(), share, "abcd")
    other = bradley_terry(pairs[:, 1].tolist(), pairs[:, 0].tolist(), 1 - share, "abcd")
    assert other.rating_A == pytest.approx(one.rating_A) and other.covariance_AA == pytest.approx(one.covariance_AA)
    renamed = bradley_terry((3 - pairs[:, 0]).tolist(), (3 - pairs[:, 1]).tolist(), share, "dcba")
    assert renamed.rating_A[::-1] == pytest.approx(one.rating_A)
    split = np.repeat(pairs, 2, axis=0)
    halves = np.array([part for value in share for part in ((1.0, 0.0) if value == 0.5 else (value, value))])
    both = bradley_terry(
        split[:, 0].tolist(), split[:, 1].tolist(), halves, "abcd", np.repeat(np.arange(200), 2)
    )  # a tie said as one win each, on one prompt
    assert both.rating_A == pytest.approx(one.rating_A) and both.covariance_AA == pytest.approx(one.covariance_AA)


def test_every_comparison_said_twice_on_its_prompt_is_no_news() -> None:
    rng = np.random.default_rng(1)
    share = (rng.random(60) < 0.6).astype(float)
    once = bradley_terry([0] * 60, [1] * 60, share, "ab", np.arange(60))
    twice = bradley_terry([0] * 120, [1] * 120, np.tile(share, 2), "ab", np.tile(np.arange(60), 2))
    one, two = once.between(0, 1), twice.between(0, 1)
    assert (two.value, two.low, two.high, two.n) == pytest.approx((one.value, one.low, one.high, 60))
    naive = bradley_terry([0] * 120, [1] * 120, np.tile(share, 2), "ab")
    assert naive.between(0, 1).high < one.high


def test_planted_strengths_are_recovered_and_intervals_cover_them() -> None:
    """Prompts differ in how easy they are for each player, so comparisons of one prompt go together: intervals must know."""
    strength = np.array([-0.8, -0.1, 0.3, 0.6])
    pairs = list(combinations(range(4), 2))
    first, second = ([pair[k] for pair in pairs] for k in (0, 1))
    rng = np.random.default_rng(0)
    inside: list[bool] = []
    centre: list[Any] = []
    for _ in range(150):
        # an answer's worth is its player's strength and a draw of its own: a difference of two Gumbels is logistic
        worth = strength + rng.gumbel(size=(80, 4))
        won = (worth[:, first] > worth[:, second]).astype(float)
        found = bradley_terry(first * 80, second * 80, won.ravel(), "abcd", np.repeat(np.arange(80), len(pairs)))
        centre.append(found.rating_A)
        for a, b in pairs:
            gap = found.between(a, b)
            inside.append(gap.low <= strength[a] - strength[b] <= gap.high)
    assert np.mean(centre, axis=0) == pytest.approx(strength - strength.mean(), abs=0.05)
    assert 0.93 <= np.mean(inside) <= 0.98


def test_what_ratings_cannot_say_is_named() -> None:
    with pytest.raises(DataError, match=r"never met.*\(a, b \| c, d\)"):
        bradley_terry([0, 1, 2, 3], [1, 0, 3, 2], [1, 1, 1, 1], "abcd")
    with pytest.raises(DataError, match="c won every comparison"):
        bradley_terry([0, 1, 2, 2], [1, 0, 0, 1], [1, 1, 1, 1], "abc")
    with pytest.raises(DataError, match="meets itself"):
        bradley_terry([0], [0], [1], "ab")
    for broken in ([float("nan")], [2.0], []):
        with pytest.raises(DataError):
            bradley_terry([0] * len(broken), [1] * len(broken), broken, "ab")


def test_a_cycle_has_equal_ratings_and_is_found() -> None:
    first, second = [0, 1, 2] * 10, [1, 2, 0] * 10
    share = np.array([0.9] * 30)
    found = bradley_terry(first, second, share, "abc")
    assert found.rating_A == pytest.approx([0, 0, 0], abs=1e-9)
    beats = np.zeros((3, 3), dtype=bool)
    beats[[0, 1, 2], [1, 2, 0]] = True
    assert cycles(beats) == [(0, 1, 2)] and cycles(beats.T) == [(0, 2, 1)]
    beats[2, 0] = False
    assert cycles(beats) == []


def test_ratings_of_nothing_but_ties_have_a_width() -> None:
    for count in (2, 20):
        gap = bradley_terry([0] * count, [1] * count, [0.5] * count, "ab").between(0, 1)
        reach = float(stdtrit(count - 1, 0.975)) * math.sqrt(4 / count)
        assert (gap.value, gap.low, gap.high) == pytest.approx((0, -reach, reach))
    once = bradley_terry([0] * 20, [1] * 20, [0.5] * 20, "ab")
    twice = bradley_terry([0] * 40, [1] * 40, [0.5] * 40, "ab", np.arange(40) % 20)
    assert twice.of(0).high == pytest.approx(once.of(0).high), "said twice is no news"
    # a and b give the same answers: whatever c wins of one it wins of the other, which tells nothing of a's lead over b
    won = np.random.default_rng(0).random(30) < 0.5
    first, second = [0] * 30 + [1] * 30 + [0] * 30, [2] * 60 + [1] * 30
    found = bradley_terry(first, second, np.r_[won, won, np.full(30, 0.5)], "abc", np.tile(np.arange(30), 3))
    assert found.between(0, 1).value == pytest.approx(0) and found.between(0, 1).high > 0.3


def test_intervals_of_a_few_comparisons_with_ties_cover() -> None:
    rng, inside = np.random.default_rng(2), 0
    for _ in range(300):
        found = bradley_terry([0] * 6, [1] * 6, rng.choice([0.0, 0.5, 1.0], 6, p=[0.1, 0.8, 0.1]), "ab")
        inside += found.between(0, 1).low <= 0 <= found.between(0, 1).high
    assert inside >= 285


def test_one_prompt_alone_has_no_interval() -> None:
    found = bradley_terry([0, 0, 0], [1, 1, 1], [1, 0, 1], "ab", [7, 7, 7])
    assert found.of(0).low == -math.inf and found.chance(0, 1) == pytest.approx(float(expit(math.log(2))))
