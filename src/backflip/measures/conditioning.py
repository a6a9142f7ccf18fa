"""What asking for a return comes to, exactly, where every transition is listed: Bayes' rule on what the base did.

A policy that was trained on everything, each row told the return it came to, and is then asked for one, acts as the base did in the
episodes that came to it. In those the dice had fallen well, and the rule does not tell luck from choice (Paster et al. 2022; Brandfonbrener
et al. 2022). Told the *mean* return of what was chosen instead, it cannot ask for luck. Left out: learning (`optimise.conditional`).

Shapes: S states, A actions, K outcomes of an action, G returns.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from backflip.errors import DataError
from backflip.worlds.listed import Listed, action_values

Floats = NDArray[np.float64]


def return_chances(world: Listed, base_SA: Floats) -> tuple[Floats, Floats]:
    """Return every return that an episode of the base can come to, ascending, and the chance of each by state and action, (S, A, G).

    Raises:
        DataError: something is paid before an episode is over, so that what is still to come is not what was asked for.
    """
    goes_on_SAK = ~world.over_S[world.next_SAK] & (world.chance_SAK > 0) & ~world.over_S[:, None, None]
    if (world.reward_SAK[goes_on_SAK] != 0).any():
        raise DataError("an outcome pays and the episode goes on; expected a world that pays only at the end")
    live = np.flatnonzero(~world.over_S)
    last_SAK = ~goes_on_SAK & (world.chance_SAK > 0) & ~world.over_S[:, None, None]
    return_G = np.unique(world.reward_SAK[last_SAK])
    chance_SAG = np.zeros((world.states, world.actions, len(return_G)))
    for state in live[::-1]:
        for action, outcome in np.ndindex(world.next_SAK.shape[1:]):
            chance, after = world.chance_SAK[state, action, outcome], world.next_SAK[state, action, outcome]
            if chance > 0 and world.over_S[after]:
                place = np.searchsorted(return_G, world.reward_SAK[state, action, outcome])
                chance_SAG[state, action, place] += chance
            elif chance > 0:
                chance_SAG[state, action] += chance * (base_SA[after] @ chance_SAG[after])
    return return_G, chance_SAG


def asked_for_return(world: Listed, base_SA: Floats, asked: float = np.inf) -> Floats:
    """Return the policy pi(a | s) = base(a | s) * P(return | s, a) / P(return | s) of who is asked for a return.

    Where the base never came to that return from a state, the best one that it did come to is asked for there; `asked` inf asks
    for the best everywhere. Raises DataError as `return_chances` does.
    """
    return_G, chance_SAG = return_chances(world, base_SA)
    joint_SAG = base_SA[..., None] * chance_SAG
    policy_SA = base_SA.copy()
    for state in np.flatnonzero(~world.over_S):
        seen = np.flatnonzero(joint_SAG[state].sum(0) > 0)
        wanted = [place for place in seen if return_G[place] == asked] or [seen[-1]]
        policy_SA[state] = joint_SAG[state, :, wanted[0]] / joint_SAG[state, :, wanted[0]].sum()
    return policy_SA


def asked_for_mean(world: Listed, base_SA: Floats) -> Floats:
    """Return the policy of who was told the mean return of each choice under the base, and is asked for the best of them in every state.

    It takes the action that is best if the base goes on after it: one step of policy improvement.
    """
    q_SA = np.where(base_SA > 0, action_values(world, base_SA), -np.inf)
    best_SA = (q_SA >= q_SA.max(1, keepdims=True) - 1e-9) * base_SA
    return best_SA / best_SA.sum(1, keepdims=True)
