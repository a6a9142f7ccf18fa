"""Sums, means and whitening that padding cannot change.

Every statistic that Backflip logs goes through these functions. A value at a masked position never matters, not
even when it is NaN. Left out: anything that needs to know what a decision is.

Shapes: B rows, T decisions; masks are bool, True where the policy decided.
"""

from __future__ import annotations

import torch
from torch import Tensor

from backflip.errors import DataError


def masked_sum(x_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Sum x where the mask is True; a scalar with gradients, 0 where nothing is True."""
    return torch.where(mask_BT, x_BT, torch.zeros_like(x_BT)).sum()


def masked_mean(x_BT: Tensor, mask_BT: Tensor, denominator: float | Tensor | None = None) -> Tensor:
    """Average x where the mask is True; a scalar with gradients.

    `denominator` replaces the number of True positions: give the count of the whole batch when the batch comes in
    parts, so that the parts add up to exactly the mean of the whole.

    Raises:
        DataError: the mask is False everywhere and no denominator was given.
    """
    total = masked_sum(x_BT, mask_BT)
    if denominator is None:
        denominator = mask_BT.sum()
        if not denominator:
            raise DataError("a mean over no decisions: the mask is False everywhere, expected one True at least")
    return total / denominator


def masked_whiten(x_BT: Tensor, mask_BT: Tensor, *, keep_mean: bool = False) -> Tensor:
    """Scale x to variance 1 over the mask and shift it to mean 0 (unless `keep_mean`); 0 where masked.

    Population variance: Bessel's correction is 0/0 on one decision. One constant value becomes 0, not noise.

    Raises:
        DataError: the mask is False everywhere.
    """
    mean = masked_mean(x_BT, mask_BT)
    variance = masked_mean((x_BT - mean) ** 2, mask_BT)
    if variance <= (1e-6 * mean) ** 2:  # rounding of one constant value
        variance = torch.full_like(variance, torch.inf)
    white_BT = (x_BT - mean) * torch.rsqrt(variance + 1e-8)
    if keep_mean:
        white_BT = white_BT + mean
    return torch.where(mask_BT, white_BT, torch.zeros_like(white_BT))
