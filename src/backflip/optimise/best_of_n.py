"""Best-of-n: keep the row of each group that a reward likes best.

Left out: what best-of-n is worth and what it costs in KL (`backflip.measures.best_of_n`).

Shapes: B rows, T decisions, G groups.
"""

from __future__ import annotations

import torch
from torch import Tensor

from backflip.data import Episodes
from backflip.optimise.returns import check_reward


def choose(episodes: Episodes, reward_BT: Tensor) -> Tensor:
    """Return the position of each group's best row, int64 (G,), groups in the order of their first rows.

    A row's score is the sum of its reward. Of equal scores the row that was drawn first wins: the rule that does not
    look at what was drawn, and which the exact KL with ties assumes. `episodes.select(choose(...))` is the choice.

    Raises:
        DataError: a reward is not finite, or lies on a masked position.
    """
    check_reward(reward_BT, episodes.mask_BT)
    best: dict[int, tuple[float, int]] = {}
    for row, (group, score) in enumerate(zip(episodes.group_B.tolist(), reward_BT.sum(1).tolist(), strict=True)):
        if group not in best or score > best[group][0]:
            best[group] = (score, row)
    return torch.tensor([row for _, row in best.values()], dtype=torch.long, device=episodes.mask_BT.device)
