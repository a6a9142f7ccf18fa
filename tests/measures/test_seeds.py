"""Seeds: mean, worst and best of n, and differences that are paired."""

from __future__ import annotations

import numpy as np
import pytest

from backflip.data import Estimate
from backflip.errors import DataError
from backflip.measures.seeds import arm_differences, higher_is_better, over_seeds, seed_difference, varying
from backflip.measures.stats import mean_interval


def test_mean_and_ends_of_the_seeds() -> None:
    found = over_seeds({0: 0.2, 1: 0.6, 2: 0.4}, "true_return")
    assert found.mean == mean_interval([0.2, 0.6, 0.4]) and (found.lowest, found.highest) == (0.2, 0.6)
    assert over_seeds({3: 2.0}, "x").mean == Estimate(2.0, 2.0, 2.0, 0)
    share = over_seeds({0: 0.99, 1: 0.9, 2: 0.6}, "gold_win_rate").mean
    assert share.high == 1.0 and share.low < 0.83
    assert over_seeds({0: 1.0, 1: 1.0}, "gold_win_rate").mean.low < 1  # two of two prove nothing
    with pytest.raises(DataError, match='no seed measured "x"'):
        over_seeds({}, "x")


def test_differences_are_taken_seed_by_seed() -> None:
    """Seeds that differ widely and an arm that is better in every one of them: paired, it shows."""
    first = {0: 1.0, 1: 5.0, 2: 9.0, 3: 20.0, 4: -7.0}
    other = {3: 21.1, 0: 2.0, 1: 6.1, 9: 100.0, 2: 9.9, 4: -6.1}
    found = seed_difference(first, other)
    assert found is not None and found.told
    exact = mean_interval([1.0, 1.1, 0.9, 1.1, 0.9])
    assert (found.difference.low, found.difference.high) == pytest.approx((exact.low, exact.high))
    assert found.difference.n == 5 and found.p < 1e-4
    few = seed_difference({seed: first[seed] for seed in range(4)}, other)
    assert few is not None and few.difference.low > 0 and not few.told  # four seeds tell nothing
    back = seed_difference(other, first)
    assert back is not None and back.difference.value == pytest.approx(-found.difference.value)
    assert seed_difference(first, {0: 1.0, 7: 2.0}) is None
    same = seed_difference(first, first)
    assert same is not None and not same.told and same.p == 1.0 and same.needed is None


def test_what_is_better() -> None:
    assert higher_is_better("ppo_gold_win_rate") and higher_is_better("true_return")
    assert higher_is_better("held_out_loss") is False and higher_is_better("ppo_kl_nats_per_sequence") is None


def test_what_no_setting_touches_is_left_out() -> None:
    def arm(*values: float) -> dict[str, dict[str, float]]:
        return {"values": {str(seed): value for seed, value in enumerate(values)}}

    measures = {
        "kl_nats_per_sequence": {"a": arm(1, 2), "b": arm(3, 4)},
        "base_gold_win_rate": {"a": arm(0.5, 0.6), "b": arm(0.5, 0.6)},
        "ppo_gold_win_rate": {"a": arm(0.7, 0.6), "b": arm(0.7, 0.8)},
        "budget": {"a": arm(3, 3)},
        "accuracy": {"a": arm(0.1, 0.2)},
    }
    assert varying(measures) == ["ppo_gold_win_rate", "kl_nats_per_sequence", "accuracy"]


def test_a_win_rate_is_a_share_whoever_says_it_and_nats_are_not_below_0() -> None:
    for name in ("win_rate_by_overseer", "nash_md_win_rate_by_preference", "ppo_gold_win_rate"):
        assert over_seeds({0: 7 / 12, 1: 8 / 12}, name).mean.high == 1.0, name
        assert higher_is_better(name), name
        measures = {each: {"a": {"values": {"0": 0.1, "1": 0.2}}} for each in ("ppo_kl_nats_per_sequence", name)}
        assert varying(measures)[0] == name
    nats = over_seeds({0: 0.0379, 1: 0.123}, "ppo_kl_nats_per_sequence").mean
    assert nats.low == 0.0 and nats.high == pytest.approx(0.621, abs=0.01)
    assert over_seeds({0: 0.0379, 1: 0.123}, "ppo_proxy").mean.low < 0
    assert (
        over_seeds({0: -0.1, 1: 0.123}, "ppo_kl_nats_per_sequence").mean.low < -0.1
    )  # an estimate that may be below 0


def test_many_arms_are_held_to_more() -> None:
    """Eight arms that do not differ: told by themselves one is in a quarter of all sweeps."""
    rng, sweeps = np.random.default_rng(0), 400
    told = alone = 0
    for _ in range(sweeps):
        arms = {str(arm): dict(enumerate(rng.normal(size=5))) for arm in range(8)}
        found = arm_differences(arms.pop("0"), arms).values()
        told += any(one.told for one in found)
        alone += any(one.p <= 0.05 for one in found)
        assert all(one.needed is not None and one.needed > 5 for one in found if not one.told)
    assert told / sweeps < 0.08 and alone / sweeps > 0.15
    first, other = dict.fromkeys(range(6), 0.0), {seed: 1 + 0.01 * seed for seed in range(6)}
    many = arm_differences(first, {"a": other, "b": first, "c": {0: 3.0}})
    assert set(many) == {"a", "b"} and many["a"].told and many["a"].p_of_all == 2 * many["a"].p
