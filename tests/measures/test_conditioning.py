"""What asking for a return comes to, against Bayes' rule by hand and by counting episodes."""

from __future__ import annotations

import numpy as np
import pytest

from backflip.errors import DataError
from backflip.experiments.luck import BEGIN, GAMBLE, LUCKY, UNLUCKY, LuckConfig, gamble
from backflip.measures.conditioning import asked_for_mean, asked_for_return, return_chances
from backflip.worlds.listed import Listed, best, rollouts, table_policy, uniform, value

CONFIG = LuckConfig()


def test_returns_and_their_chances_are_those_of_the_tree() -> None:
    return_G, chance_SAG = return_chances(gamble(0.25, CONFIG), uniform(gamble(0.25, CONFIG)))
    assert return_G.tolist() == [0.0, 0.2, 0.3, 0.6, 1.0]
    assert chance_SAG[BEGIN, GAMBLE].tolist() == [0.375, 0.125, 0.375, 0, 0.125]
    assert chance_SAG[BEGIN, 0].tolist() == [0, 0, 0, 1, 0]


def test_the_conditional_is_what_the_base_did_in_episodes_that_came_to_the_return() -> None:
    """A base that seldom gambles, in a world where both actions can come to 1: Bayes, and 40,000 episodes counted."""
    world = Listed(
        next_SAK=np.full((2, 2, 2), 1),
        chance_SAK=np.array([[[0.2, 0.8], [0.6, 0.4]], [[1, 0], [1, 0]]]),
        reward_SAK=np.array([[[1.0, 0.0], [1.0, 0.0]], [[0, 0], [0, 0]]]),
        start_S=np.array([1.0, 0.0]),
        over_S=np.array([False, True]),
    )
    base_SA = np.array([[0.9, 0.1], [0.5, 0.5]])
    asked_SA = asked_for_return(world, base_SA, 1.0)
    assert asked_SA[0] == pytest.approx(np.array([0.18, 0.06]) / 0.24)
    rows = rollouts(world, table_policy(world, base_SA), 40_000, np.random.default_rng(0))
    assert rows.reward_BT is not None
    won = rows.action[rows.reward_BT.sum(1) == 1, 0, 0].double()
    assert float(won.mean()) == pytest.approx(asked_SA[0, 1], abs=0.02)


@pytest.mark.parametrize("p", [0.1, 0.25, 0.4286, 0.6, 0.99])
def test_asked_for_luck_it_gambles_whatever_the_odds(p: float) -> None:
    """[exact] It delivers p + 0.3 (1 - p); the optimum is the larger of that and 0.6."""
    world = gamble(p, CONFIG)
    policy_SA = asked_for_return(world, uniform(world))
    assert policy_SA[BEGIN, GAMBLE] == policy_SA[LUCKY, 0] == policy_SA[UNLUCKY, 0] == 1
    assert value(world, policy_SA) == pytest.approx(p + 0.3 * (1 - p))
    assert value(world, best(world)) == pytest.approx(max(0.6, p + 0.3 * (1 - p)))


def test_what_is_asked_for_is_delivered_where_nothing_is_left_to_luck() -> None:
    world = gamble(1.0, CONFIG)
    for asked in (0.2, 0.6, 1.0):
        assert value(world, asked_for_return(world, uniform(world), asked)) == pytest.approx(asked)


def test_mean_returns_are_one_step_of_improvement_on_the_base() -> None:
    world = gamble(0.6, CONFIG)  # the base makes 0.42 of the gamble, which is worth 0.72
    assert asked_for_mean(world, uniform(world))[BEGIN, GAMBLE] == 0
    assert asked_for_mean(world, best(world))[BEGIN, GAMBLE] == 1, "an action that the base never takes has no mean"
    nearly = 0.9 * best(world) + 0.1 * uniform(world)
    assert asked_for_mean(world, nearly) == pytest.approx(best(world))


def test_a_world_that_pays_on_the_way_is_refused() -> None:
    world = gamble(0.5, CONFIG)
    paid = world.reward_SAK.copy()
    paid[BEGIN, GAMBLE] = 0.1
    with pytest.raises(DataError, match="pays only at the end"):
        return_chances(Listed(world.next_SAK, world.chance_SAK, paid, world.start_S, world.over_S), uniform(world))
