"""Exact frontiers: the recursion reaches the closed form over whole walks, and visits are what sampling sees."""

from itertools import product

import numpy as np
import pytest
import torch

from backflip.errors import ConfigError, DataError
from backflip.optimise.soft_control import Tables, Walk, arrivals_S, most_spread, optimum, uniform, walk
from backflip.policies.rooms_policy import StatePolicy
from backflip.worlds.rooms import STATE, Rooms, RoomsConfig

SMALL = "######\n#S.cG#\n#....#\n######"


def small(horizon: int = 5, off_chance: float = 0.0) -> tuple[Rooms, Tables]:
    plan = SMALL.replace("#....#", "#B...#")
    world = Rooms(RoomsConfig(plan=plan, horizon=horizon, off_chance=off_chance))
    return world, Tables(world.next_SAK, world.chance_SAK, world.start, horizon)


@pytest.mark.parametrize("beta", [0.3, 1.0, 5.0])
def test_the_optimum_is_chance_tilted_by_the_reward_over_all_walks(beta: float) -> None:
    """In a deterministic world the best distribution over walks is uniform * exp(reward / beta) / Z, its value beta * ln Z."""
    world, tables = small()
    reward_SA = np.random.default_rng(0).normal(size=(world.states, 4))
    totals = []
    for actions in product(range(4), repeat=5):
        state, total = world.start, 0.0
        for action in actions:
            total += reward_SA[state, action]
            state = int(world.next_SAK[state, action, 0])
        totals.append(total)
    tilted = np.exp(np.array(totals) / beta)
    done = optimum(tables, reward_SA, beta)
    assert done.total(reward_SA) == pytest.approx(float(tilted @ totals / tilted.sum()), rel=1e-9)
    value = beta * np.log(tilted.mean())
    assert done.total(reward_SA) - beta * done.kl_nats == pytest.approx(float(value), rel=1e-9)


def test_a_price_of_nothing_takes_the_best_walk() -> None:
    world, tables = small()
    reward_SA = tables.expected_SA(world.score_SAK())
    best = max(_score(world, reward_SA, actions) for actions in product(range(4), repeat=5))
    assert optimum(tables, reward_SA, 0.0).total(reward_SA) == pytest.approx(best)
    assert optimum(tables, reward_SA, 1e-4).total(reward_SA) == pytest.approx(best, abs=1e-3)


def _score(world: Rooms, reward_SA: np.ndarray, actions: tuple[int, ...]) -> float:
    state, total = world.start, 0.0
    for action in actions:
        total += float(reward_SA[state, action])
        state = int(world.next_SAK[state, action, 0])
    return total


def test_exact_visits_agree_with_sampling_where_the_switch_is_random() -> None:
    world, tables = small(horizon=8, off_chance=0.1)
    policy = StatePolicy(world.states, 4, 8)
    with torch.no_grad():
        policy.logits_SA.copy_(torch.from_numpy(np.random.default_rng(0).normal(size=policy.logits_SA.shape)))
    share_S = arrivals_S(tables, walk(tables, policy.chances_SA()[None]).visits_TSA)
    rows = world.collect(policy, 3000, np.random.default_rng(1))
    seen_S = (
        np.bincount(rows.obs[:, 1:, STATE].numpy().ravel(), minlength=world.states) / rows.obs[:, 1:].shape[:2].numel()
    )
    assert share_S.sum() == pytest.approx(1) and np.abs(share_S - seen_S).max() < 0.01
    kl = float(policy.kl_BT(StatePolicy(world.states, 4, 8), rows).sum(1).mean())
    assert walk(tables, policy.chances_SA()[None]).kl_nats == pytest.approx(kl, rel=0.03)


def test_the_most_spread_walk_beats_others_and_its_own_neighbours() -> None:
    _, tables = small(horizon=6)

    def objective(done: Walk, beta: float) -> float:
        share_S = arrivals_S(tables, done.visits_TSA)
        entropy = -float((share_S[share_S > 0] * np.log(share_S[share_S > 0])).sum())
        return 6 * entropy - beta * done.kl_nats

    rng = np.random.default_rng(0)
    best = most_spread(tables, 1.0, uniform(tables), gap=1e-3)
    for scale in (0.0, 0.05, 1.0):
        for _ in range(10):
            policy_TSA = best.policy_TSA * np.exp(scale * rng.normal(size=best.policy_TSA.shape))
            other = walk(tables, policy_TSA / policy_TSA.sum(2, keepdims=True))
            assert objective(other, 1.0) <= objective(best, 1.0) + 2e-3
    assert objective(best, 1.0) > objective(uniform(tables), 1.0) + 0.1


def test_bad_settings_are_refused() -> None:
    _, tables = small()
    with pytest.raises(ConfigError, match="beta"):
        optimum(tables, np.zeros((8, 4)), -1.0)
    with pytest.raises(DataError, match="not finite"):
        optimum(tables, np.full((8, 4), np.nan), 1.0)
    with pytest.raises(DataError, match="rounds"):
        most_spread(tables, 0.01, uniform(tables), gap=1e-12, most=2)
