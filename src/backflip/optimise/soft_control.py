"""The best walk for a reward at a price on straying from chance: exact, by dynamic programming, where every transition is listed.

For E[sum of rewards] - beta * KL(policy || uniform), the KL summed over the decisions of an episode, the optimum is a soft
backward recursion (Todorov 2006; Levine 2018, sec. 2): V_t(s) = beta * ln(mean over a of exp(Q_t(s, a) / beta)). So a sequence of betas traces
the whole frontier between chance and the optimum of a reward, with no learner in between. Left out: learning (`ppo`).

Shapes: T steps, S states, A actions, K outcomes of an action.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from backflip.errors import ConfigError, DataError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
TIE = 1e-9


@dataclass(frozen=True)
class Tables:
    """A world with every transition listed, a start, and episodes of one length."""

    next_SAK: Ints
    """State after each outcome."""
    chance_SAK: Floats
    """Chance of each outcome."""
    start: int
    """State in which an episode begins."""
    horizon: int
    """Decisions of an episode."""

    def expected_SA(self, reward_SAK: Floats) -> Floats:
        """Return the mean reward of every action."""
        return (self.chance_SAK * reward_SAK).sum(2)

    def on_arrival_SAK(self, reward_S: Floats) -> Floats:
        """Return rewards of states as rewards of the outcomes that lead there."""
        return reward_S[self.next_SAK]


@dataclass(frozen=True)
class Walk:
    """What a policy does, exactly."""

    policy_TSA: Floats
    """Chance of each action."""
    visits_TSA: Floats
    """Chance of being in a state at a step and taking an action there."""

    def total(self, reward_SA: Floats) -> float:
        """Return the expected sum of a reward over an episode."""
        return float((self.visits_TSA.sum(0) * reward_SA).sum())

    @property
    def kl_nats(self) -> float:
        """KL to the uniform policy over a whole episode: what it strays from chance, summed over its decisions."""
        actions = self.policy_TSA.shape[2]
        log_TSA = np.log(np.where(self.policy_TSA > 0, self.policy_TSA, 1.0)) + np.log(actions)
        return float((self.visits_TSA * log_TSA).sum())


def optimum(tables: Tables, reward_SA: Floats, beta: float) -> Walk:
    """Return the policy that maximises expected reward less beta times its KL to uniform actions.

    beta 0 takes the best action, and equally good ones alike, which is the limit of small betas. Raises ConfigError for a beta
    below 0, DataError for a reward that is not finite.
    """
    if not beta >= 0:
        raise ConfigError(f"beta is {beta}, expected 0 or more")
    if not np.isfinite(reward_SA).all():
        raise DataError("a reward is not finite, so nothing is best; mend the reward")
    states, actions = reward_SA.shape
    policy_TSA = np.empty((tables.horizon, states, actions))
    value_S = np.zeros(states)
    for step in range(tables.horizon - 1, -1, -1):
        q_SA = reward_SA + tables.expected_SA(value_S[tables.next_SAK])
        if beta == 0:
            best_SA = q_SA >= q_SA.max(1, keepdims=True) - TIE
            policy_TSA[step] = best_SA / best_SA.sum(1, keepdims=True)
            value_S = q_SA.max(1)
        else:
            total_S = np.asarray(logsumexp(q_SA / beta, axis=1))
            policy_TSA[step] = np.exp(q_SA / beta - total_S[:, None])
            value_S = beta * (total_S - np.log(actions))
    return walk(tables, policy_TSA)


def walk(tables: Tables, policy_TSA: Floats) -> Walk:
    """Return where a policy, one for each step or (1, S, A) for all steps, will be and what it will do."""
    policy_TSA = np.broadcast_to(policy_TSA, (tables.horizon, *policy_TSA.shape[1:]))
    at_S = np.zeros(len(tables.next_SAK))
    at_S[tables.start] = 1.0
    visits_TSA = np.empty(policy_TSA.shape)
    for step in range(tables.horizon):
        visits_TSA[step] = at_S[:, None] * policy_TSA[step]
        flow_SAK = visits_TSA[step][:, :, None] * tables.chance_SAK
        at_S = np.bincount(tables.next_SAK.ravel(), weights=flow_SAK.ravel(), minlength=len(at_S))
    return Walk(policy_TSA, visits_TSA)


def arrivals_S(tables: Tables, visits_TSA: Floats) -> Floats:
    """Return the share of an episode's steps after which each state is the one that was come to; they sum to 1."""
    flow_SAK = visits_TSA.sum(0)[:, :, None] * tables.chance_SAK
    return np.bincount(tables.next_SAK.ravel(), weights=flow_SAK.ravel(), minlength=len(flow_SAK)) / len(visits_TSA)


def most_spread(tables: Tables, beta: float, begin: Walk, gap: float = 0.02, most: int = 300) -> Walk:
    """Return the policy that maximises T * entropy(arrivals) - beta * KL: curiosity in the limit of perfect counting.

    The objective is concave in the visits, and the inner problem for a linear reward is `optimum`, so the generalised conditional
    gradient converges (Hazan et al. 2019 for entropies; Bredies et al. 2009 for the part that is kept whole). It stops
    where the duality gap is below `gap` nats, or raises DataError after `most` rounds. States that cannot be reached are left out.
    """
    now = begin
    for _ in range(most):
        share_S = np.maximum(arrivals_S(tables, now.visits_TSA), 1e-12)
        reward_SA = tables.expected_SA(tables.on_arrival_SAK(-np.log(share_S)))
        best = optimum(tables, reward_SA, beta)
        ahead = best.total(reward_SA) - beta * best.kl_nats - now.total(reward_SA) + beta * now.kl_nats
        if ahead < gap:
            return now
        now = _between(tables, now, best, beta)
    raise DataError(f"the most spread walk at beta {beta:g} was not found in {most} rounds; allow a larger gap")


def _between(tables: Tables, first: Walk, second: Walk, beta: float) -> Walk:
    """Return the best mixture of two walks' visits, by golden section: the objective is concave along the line."""
    shares = np.linspace(0, 1, 11)[1:]
    found = [_mixed(first, second, float(share)) for share in shares]
    scores = [_spread_score(tables, one, beta) for one in found]
    place = int(np.argmax(scores))
    low, high = ([0.0, *shares])[place], float(shares[min(place + 1, len(shares) - 1)])
    finer = [_mixed(first, second, float(share)) for share in np.linspace(low, high, 9)[1:-1]]
    return max([found[place], *finer], key=lambda one: _spread_score(tables, one, beta))


def _mixed(first: Walk, second: Walk, share: float) -> Walk:
    visits_TSA = (1 - share) * first.visits_TSA + share * second.visits_TSA
    total_TS1 = visits_TSA.sum(2, keepdims=True)
    policy_TSA = np.divide(visits_TSA, total_TS1, out=second.policy_TSA.copy(), where=total_TS1 > 0)
    return Walk(policy_TSA, visits_TSA)


def _spread_score(tables: Tables, one: Walk, beta: float) -> float:
    share_S = arrivals_S(tables, one.visits_TSA)
    entropy = -float((share_S * np.log(np.where(share_S > 0, share_S, 1.0))).sum())
    return tables.horizon * entropy - beta * one.kl_nats


def uniform(tables: Tables) -> Walk:
    """Return the walk of chance."""
    states, actions, _ = tables.next_SAK.shape
    return walk(tables, np.full((1, states, actions), 1 / actions))
