"""What rows of one group (answers to one prompt) say about each other: means, spreads, pairs.

Everything is computed in float64, so a constant in every score drops out of every difference. Left out: what is made of
it (`reinforce`, `grpo`, `dpo`, `nash_md`).

Shapes: B rows, T decisions, G groups, 2 rows of a pair.
"""

from __future__ import annotations

import torch
from torch import Tensor

from backflip.errors import DataError


def numbered(group_B: Tensor) -> tuple[Tensor, int]:
    """Return every row's group as a number from 0, on the CPU, and how many groups there are."""
    found, index_B = group_B.detach().cpu().unique(return_inverse=True)
    return index_B, len(found)


def mean_of_others(x_BT: Tensor, mask_BT: Tensor, group_B: Tensor) -> Tensor:
    """Return, column by column, the mean over the group's *other* rows that have a value there; 0 where none has.

    It does not depend on a row's own value, so it may be taken from the row's return without any bias
    (Williams 1992, section 6; Kool, van Hoof and Welling 2019). float64 of the shape of `x_BT`, on the CPU.
    """
    index_B, groups = numbered(group_B)
    mask_BT = mask_BT.cpu()
    value_BT = torch.where(mask_BT, x_BT.detach().cpu().double(), 0.0)
    total_GT = torch.zeros(groups, x_BT.shape[1], dtype=torch.float64).index_add_(0, index_B, value_BT)
    count_GT = torch.zeros_like(total_GT).index_add_(0, index_B, mask_BT.double())
    others_BT = count_GT[index_B] - mask_BT.double()
    return torch.where(others_BT > 0, (total_GT[index_B] - value_BT) / others_BT.clamp(min=1), 0.0)


def moments(score_B: Tensor, group_B: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and population standard deviation of every row's group, float64, on the CPU.

    A group whose scores are all equal, up to rounding, has a standard deviation of exactly 0.
    """
    index_B, groups = numbered(group_B)
    score_B = score_B.detach().cpu().double()
    count_G = torch.bincount(index_B, minlength=groups).double()
    mean_B = (torch.zeros(groups, dtype=torch.float64).index_add_(0, index_B, score_B) / count_G)[index_B]
    square_B = (score_B - mean_B) ** 2
    std_B = (torch.zeros(groups, dtype=torch.float64).index_add_(0, index_B, square_B) / count_G).sqrt()[index_B]
    return mean_B, torch.where(std_B > 1e-6 * mean_B.abs(), std_B, 0.0)


def equal_group_fraction(reward_BT: Tensor, group_B: Tensor) -> float:
    """Return the share of groups whose rows all have the same score: from them a method that compares rows learns nothing.

    Ask it of scores as they were before a KL penalty; the penalty differs from row to row and hides it.
    """
    _, std_B = moments(reward_BT.detach().cpu().double().sum(1), group_B)
    index_B, groups = numbered(group_B)
    equal_G = torch.zeros(groups).index_fill_(0, index_B[std_B == 0], 1.0)
    return float(equal_G.mean())


def pair_rows(group_B: Tensor) -> Tensor:
    """Return the two row positions of every group, int64 (G, 2), earlier row first.

    Raises:
        DataError: a group has not exactly two rows; it is named.
    """
    index_B, groups = numbered(group_B)
    count_G = torch.bincount(index_B, minlength=groups)
    if (count_G != 2).any():
        wrong = int((count_G != 2).nonzero()[0])
        group = int(group_B[int((index_B == wrong).nonzero()[0])])
        raise DataError(
            f"group {group} has {int(count_G[wrong])} rows, expected 2 in every group: the two answers that were compared"
        )
    return index_B.argsort(stable=True).view(-1, 2)
