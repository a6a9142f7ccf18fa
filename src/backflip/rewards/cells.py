"""A reward for every cell of the rooms, learned from comparisons of short walks or given.

Bradley-Terry on the sums over a walk's steps, as for clips and texts, with one free number a cell: the fit is convex, so nothing
is left to chance but the answers. Left out: rewards that generalise over cells (`clips`).

Shapes: B rows, T steps, S states, C cells (one more for being switched off), N comparisons, R distinct walks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from backflip.data import Episodes
from backflip.errors import ConfigError, DataError
from backflip.rewards.comparisons import Comparison
from backflip.rewards.fit import Rows, bradley_terry_loss
from backflip.worlds.rooms import STATE, Rooms


class CellReward:
    """A reward model that pays for the cell that a step leads to."""

    def __init__(self, world: Rooms, reward_C: Tensor) -> None:
        """Keep one reward a cell, and with an off-switch a last one for being off.

        Raises:
            DataError: there are more or fewer.
        """
        self.cell_S = torch.from_numpy(world.cell_S())
        if len(reward_C) != int(self.cell_S.max()) + 1:
            raise DataError(f"{len(reward_C)} rewards for {int(self.cell_S.max()) + 1} cells; expected one a cell")
        self.reward_C = reward_C.double()

    def __call__(self, episodes: Episodes) -> Tensor:
        """Return reward_BT."""
        reward_BT = self.reward_C[self.cell_S[episodes.obs[:, 1:, STATE]]]
        return torch.where(episodes.mask_BT, reward_BT, 0.0).float()

    def state_reward_S(self) -> Tensor:
        """Return the reward of coming to each state."""
        return self.reward_C[self.cell_S]


def fit_cells(world: Rooms, pairs: Sequence[Comparison], l2: float = 0.5) -> tuple[CellReward, dict[str, float]]:
    """Return the most probable reward under Bradley-Terry and a normal prior of variance 1 / (2 l2), and `loss`, `accuracy`, `n`.

    Raises:
        DataError: there are no comparisons.
        ConfigError: `l2` is not above 0, where cells that nobody compared have no best reward.
    """
    if not pairs:
        raise DataError("no comparisons to fit a reward on; ask an overseer first")
    if not l2 > 0:
        raise ConfigError(f"l2 is {l2}, expected above 0")
    rows = Rows.of(world, pairs)
    cell_S = torch.from_numpy(world.cell_S())
    count = int(cell_S.max()) + 1
    visits_RC = torch.nn.functional.one_hot(cell_S[rows.episodes.obs[:, 1:, STATE]], count).sum(1).double()
    gap_NC = visits_RC[rows.first_B] - visits_RC[rows.second_B]
    share_N, weight_N = rows.share_B.double(), rows.weight_B.double()
    reward_C = torch.zeros(count, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([reward_C], max_iter=200, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        told = bradley_terry_loss(gap_NC @ reward_C, share_N, weight_N, noise=0.0) * weight_N.sum()
        total = told + l2 * (reward_C**2).sum()
        total.backward()
        return total

    solver.step(loss)
    with torch.no_grad():
        delta_N = gap_NC @ reward_C
        decisive_N = share_N != 0.5
        right_N = ((delta_N > 0) == (share_N > 0.5))[decisive_N].double()
        stats = {
            "loss": float(bradley_terry_loss(delta_N, share_N, weight_N, noise=0.0)),
            "accuracy": float(right_N.mean()) if len(right_N) else 0.5,
            "n": float(len(pairs)),
        }
    return CellReward(world, reward_C.detach()), stats
