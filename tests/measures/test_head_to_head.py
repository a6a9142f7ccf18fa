"""Duels: who beats whom on prompts, on episodes and over seeds, and that none is told that cannot be."""

from __future__ import annotations

import numpy as np
import pytest

from backflip.errors import DataError
from backflip.measures.head_to_head import duels_of_arms, duels_of_shares, duels_of_values

RNG = np.random.default_rng


def test_a_duel_is_the_share_won_and_what_nobody_judged_counts_for_nothing() -> None:
    share = np.array([1.0] * 60 + [0.0] * 30 + [0.5] * 10 + [np.nan] * 7)
    (found,) = duels_of_shares({(0, 1): share}, RNG(0))
    assert found.win_rate.value == pytest.approx(0.65) and found.win_rate.n == 100 and found.ties == 0.1
    assert found.told and found.p_of_all == found.p < 0.01
    (back,) = duels_of_shares({(1, 0): 1 - share}, RNG(0))
    assert back.win_rate.value == pytest.approx(0.35) and back.needed == found.needed
    with pytest.raises(DataError, match="judged units"):
        duels_of_shares({(0, 1): [np.nan]}, RNG(0))


def test_many_duels_are_held_to_more() -> None:
    share = np.array([1.0] * 61 + [0.0] * 39)
    (alone,) = duels_of_shares({(0, 1): share}, RNG(0))
    assert alone.told
    even = np.tile([0.0, 1.0], 50)
    among = duels_of_shares(
        {(0, 1): share, **{(a, b): even for a in range(5) for b in range(a + 1, 5) if b > 1}}, RNG(0)
    )
    assert among[0].p == pytest.approx(alone.p, abs=0.01) and not among[0].told
    assert among[1].needed is None and among[1].p_of_all == 1.0


def test_returns_of_like_beginnings_are_paired() -> None:
    hard = RNG(1).normal(0, 10, 30)
    better = hard + 1 + RNG(2).normal(0, 0.5, 30)
    (paired,) = duels_of_values([better, hard], {(0, 1): True}, RNG(0))
    (apart,) = duels_of_values([better, hard], {(0, 1): False}, RNG(0))
    assert paired.told and not apart.told and paired.difference is not None and apart.difference is not None
    assert paired.difference.value == pytest.approx(apart.difference.value)
    assert apart.win_rate.value == pytest.approx((better[:, None] > hard[None, :]).mean())
    assert paired.needed is not None and apart.needed is not None and apart.needed > 50 * paired.needed
    with pytest.raises(DataError, match="measured once"):
        duels_of_values([[1.0], [2.0, 3.0]], {(0, 1): False}, RNG(0))


def test_arms_are_compared_over_the_seeds_they_share() -> None:
    arms, seeds = [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10]], [0, 1, 2, 3, 4, 9, 4, 3, 2, 1, 0]
    value = {(a, b): 0.5 for a in range(11) for b in range(a + 1, 11)}
    value |= {(0, 10): 0.6, (1, 9): 0.62, (2, 8): 0.58, (3, 7): 0.61, (4, 6): 0.59}
    (found,) = duels_of_arms(value, arms, seeds, share=True)
    assert found.win_rate.value == pytest.approx(0.6) and found.win_rate.n == 5 and found.told
    (turned,) = duels_of_arms(value, arms[::-1], seeds, share=True)
    assert turned.win_rate.value == pytest.approx(0.4)
    (few,) = duels_of_arms(value, [[0, 1, 2, 3], arms[1]], seeds, share=True)
    assert few.p < 0.05 and not few.told and few.needed == 5, "four seeds tell nothing"
    assert duels_of_arms(value, [[0], [10]], seeds, share=True) == []
    assert (found.lowest, found.highest) == (0.58, 0.62) and found.units == 5
    returns = duels_of_arms({pair: share - 0.5 for pair, share in value.items()}, arms, seeds, share=False)
    assert (returns[0].lowest, returns[0].highest) == pytest.approx((0.08, 0.12))


def test_more_units_are_needed_than_did_not_tell() -> None:
    """Verdicts are raised for the number of duels, and so is what is needed: never fewer than there were."""
    rng = RNG(3)
    shares = {(a, b): rng.choice([0.0, 0.5, 1.0], 40, p=(0.2, 0.4, 0.4)) for a in range(5) for b in range(a + 1, 5)}
    found = duels_of_shares(shares, RNG(0))
    missed = [one for one in found if not one.told and one.p <= 0.05]
    assert missed, "told by themselves, and not among all"
    assert all(one.needed is not None and one.needed > one.units == 40 for one in found if not one.told)
    alone = duels_of_shares({(0, 1): shares[missed[0].first, missed[0].second]}, RNG(0))[0]
    assert alone.told and alone.needed is not None and missed[0].needed is not None
    assert alone.needed < missed[0].needed


def test_unlike_episodes_are_not_told_by_their_spread() -> None:
    rng = RNG(4)
    found = [
        duels_of_values([rng.normal(0, 1, 20), rng.normal(0, 3, 5)], {(0, 1): False}, rng)[0].told for _ in range(200)
    ]
    assert np.mean(found) < 0.1  # means exchanged: 0.27
    (apart,) = duels_of_values([np.arange(10) + 100.0, np.arange(10.0)], {(0, 1): False}, rng)
    assert apart.told and apart.win_rate.value == 1.0 and apart.win_rate.low < 0.8 and apart.units == 10
