"""Q-learning in a table (Watkins 1989): the worth of an action is what it pays and the worth of the best action after it.

So what follows a state is learned from any experience of that state, wherever it began: pieces of different episodes are put together.
Left out: function approximation, replay, and how actions are chosen while learning (the caller).

Shapes: B rows, T decisions, S states, A actions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from backflip.data import Episodes
from backflip.errors import ConfigError, DataError
from backflip.optimise.returns import check_reward

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class QConfig:
    """Settings of Q-learning."""

    rate: float = 1.0
    """Share by which an entry moves to what was seen; 1 takes over what was seen, which is right where nothing is left to chance."""
    gamma: float = 1.0
    """Discount a decision; 0 looks at what an action pays itself, and at nothing after it."""

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1 or not 0 <= self.gamma <= 1:
            raise ConfigError(
                f"rate is {self.rate} and gamma {self.gamma}; expected above 0, and 0 to 1, both 1 at most"
            )


def update(q_SA: Floats, episodes: Episodes, reward_BT: Tensor, over_S: NDArray[np.bool_], config: QConfig) -> None:
    """Learn every decision in the order in which it was taken, row after row; `q_SA` is changed in place (Watkins 1989).

    `episodes.obs` holds the number of the state, (B, T + 1, 1); `over_S` says in which nothing follows. A row that was cut is no
    less worth for it: what is expected of the state it was left in is looked up like any other.

    Raises:
        DataError: a reward is not finite, or lies where nothing was decided; a state or an action is none of the table's.
    """
    check_reward(reward_BT, episodes.mask_BT)
    state_BT = episodes.obs[..., 0].round().long().numpy()
    action_BT, mask_BT = episodes.action[..., 0].numpy(), episodes.mask_BT.numpy()
    states, actions = q_SA.shape
    if state_BT.min() < 0 or state_BT.max() >= states or action_BT[mask_BT].max(initial=0) >= actions:
        raise DataError(
            f"a row holds a state or an action outside of the table of {states} states and {actions} actions"
        )
    for row, step in np.argwhere(mask_BT):
        state, action, after = state_BT[row, step], action_BT[row, step], state_BT[row, step + 1]
        ahead = 0.0 if over_S[after] else q_SA[after].max()
        target = float(reward_BT[row, step]) + config.gamma * ahead
        q_SA[state, action] += config.rate * (target - q_SA[state, action])
