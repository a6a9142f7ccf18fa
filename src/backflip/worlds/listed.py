"""Worlds of a handful of states in which every transition is written down, for questions that one can also answer by hand.

Values, optimal actions and the chance of coming to a state are exact; rows are sampled for learners who do not know the lists. A row may
be cut before its episode ends, as if whoever watched saw only a piece. Left out: what is shown to people, and rewards of states
that are learned.

Shapes: B rows, T decisions, S states, A actions, K outcomes of an action.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from backflip.data import Episodes
from backflip.errors import ConfigError, DataError
from backflip.policies.tabular import TablePolicy

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Listed:
    """A world: what can happen, with which chance, and what it pays."""

    next_SAK: Ints
    """State after each outcome; always a later one than the state before, so every episode ends."""
    chance_SAK: Floats
    """Chance of each outcome."""
    reward_SAK: Floats
    """What each outcome pays."""
    start_S: Floats
    """Chance that an episode begins in a state."""
    over_S: NDArray[np.bool_]
    """States in which an episode is over; nothing is decided there."""

    def __post_init__(self) -> None:
        live_S = ~self.over_S
        if not (np.isfinite(self.reward_SAK).all() and (self.chance_SAK >= 0).all() and (self.start_S >= 0).all()):
            raise DataError("a listed world has a reward that is not finite, or a chance below 0")
        if np.abs(self.chance_SAK[live_S].sum(2) - 1).max() > 1e-9 or abs(self.start_S.sum() - 1) > 1e-9:
            raise DataError("the chances of what an action leads to, and those of the start, must sum to 1")
        if (self.next_SAK[live_S] <= np.flatnonzero(live_S)[:, None, None]).any() or self.start_S[self.over_S].any():
            raise DataError("every outcome must lead to a later state, and no episode may begin where it is over")

    @property
    def states(self) -> int:
        """How many there are, those in which an episode is over among them."""
        return len(self.over_S)

    @property
    def actions(self) -> int:
        """How many there are in every state."""
        return self.next_SAK.shape[1]

    @property
    def longest(self) -> int:
        """Decisions of the longest episode, at most."""
        return int((~self.over_S).sum())


def action_values(world: Listed, policy_SA: Floats) -> Floats:
    """Return the expected return of every action, `policy_SA` being followed after it, (S, A); 0 where it is over."""
    value_S = np.zeros(world.states)
    q_SA = np.zeros((world.states, world.actions))
    for state in np.flatnonzero(~world.over_S)[::-1]:  # every outcome is later, so its value is there already
        q_SA[state] = (world.chance_SAK[state] * (world.reward_SAK[state] + value_S[world.next_SAK[state]])).sum(1)
        value_S[state] = policy_SA[state] @ q_SA[state]
    return q_SA


def value(world: Listed, policy_SA: Floats) -> float:
    """Return the expected return of an episode."""
    return float(world.start_S @ (action_values(world, policy_SA) * policy_SA).sum(1))


def best(world: Listed) -> Floats:
    """Return an optimal policy by dynamic programming, (S, A); equally good actions are taken alike."""
    policy_SA = uniform(world)
    for state in np.flatnonzero(~world.over_S)[::-1]:
        policy_SA[state] = greedy(action_values(world, policy_SA)[state])
    return policy_SA


def greedy(q: Floats) -> Floats:
    """Return the policy that takes the best action, (..., A); equally good ones alike."""
    best_A = q >= q.max(-1, keepdims=True) - 1e-9
    return best_A / best_A.sum(-1, keepdims=True)


def uniform(world: Listed) -> Floats:
    """Return the policy that takes every action alike."""
    return np.full((world.states, world.actions), 1 / world.actions)


def reach(world: Listed, policy_SA: Floats, start: int, goal: int) -> float:
    """Return the chance that an episode from `start` comes to `goal`."""
    at_S = np.zeros(world.states)
    at_S[start] = 1.0
    for state in np.flatnonzero(~world.over_S):
        flow_AK = at_S[state] * policy_SA[state][:, None] * world.chance_SAK[state]
        at_S += np.bincount(world.next_SAK[state].ravel(), weights=flow_AK.ravel(), minlength=world.states)
    return float(at_S[goal])


def table_policy(world: Listed, policy_SA: Floats | None = None) -> TablePolicy:
    """Return a table over the states, a critic at 0 beside it, that acts as `policy_SA` does; without one, all actions alike."""
    table = TablePolicy(torch.ones(1), world.states, world.actions)
    if policy_SA is not None:
        with torch.no_grad():
            table.logits_NA.copy_(torch.from_numpy(np.log(np.maximum(policy_SA, 1e-12))))
    return table


def rollouts(world: Listed, policy: TablePolicy, n: int, rng: np.random.Generator, cut: int | None = None) -> Episodes:
    """Return n rows of a policy, and in `reward_BT` what they were paid.

    `obs` is the number of the state, (B, T + 1, 1). With `cut` a row has so many decisions at most; where its episode is not over then,
    `bootstrap_B` is what the policy's critic expects of the state it was left in, which is 0 for a critic that nobody trained.

    Raises:
        ConfigError: no row or no decision is asked for.
    """
    steps = world.longest if cut is None else min(cut, world.longest)
    if n < 1 or steps < 1:
        raise ConfigError(f"{n} rows of {steps} decisions were asked for; expected 1 or more of both")
    state_B = rng.choice(world.states, n, p=world.start_S)
    seen, actions, masks, logp, values, rewards = [state_B], [], [], [], [], []
    for _ in range(steps):
        live_B = ~world.over_S[state_B]
        act = policy.act(torch.from_numpy(state_B).float()[:, None, None], rng)
        action_B = act.action[:, 0, 0].numpy()
        drawn_B1 = rng.random(n)[:, None]
        outcome_B = (
            (world.chance_SAK[state_B, action_B].cumsum(1) < drawn_B1).sum(1).clip(max=world.next_SAK.shape[2] - 1)
        )
        rewards.append(np.where(live_B, world.reward_SAK[state_B, action_B, outcome_B], 0.0))
        actions.append(act.action)
        masks.append(torch.from_numpy(live_B)[:, None])
        logp.append(torch.where(masks[-1], act.logp_BT, 0.0))
        values.append(torch.zeros(n, 1) if act.value_BT is None else torch.where(masks[-1], act.value_BT, 0.0))
        state_B = np.where(live_B, world.next_SAK[state_B, action_B, outcome_B], state_B)
        seen.append(state_B)
    with torch.no_grad():
        ahead_B = torch.where(torch.from_numpy(world.over_S[state_B]), 0.0, policy.value_N[torch.from_numpy(state_B)])
    return Episodes(
        obs=torch.from_numpy(np.stack(seen, 1)).float()[..., None],
        action=torch.cat(actions, 1),
        mask_BT=torch.cat(masks, 1),
        logp_BT=torch.cat(logp, 1),
        bootstrap_B=ahead_B,
        group_B=torch.arange(n),
        value_BT=torch.cat(values, 1),
        reward_BT=torch.from_numpy(np.stack(rewards, 1)).float(),
    )
