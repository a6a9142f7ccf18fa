"""Masked statistics: padding never changes a number."""

import pytest
import torch

from backflip import masked
from backflip.errors import DataError


def batch(rows: int = 4, width: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x_BT = torch.randn(rows, width, generator=generator)
    mask_BT = torch.arange(width) < torch.tensor([[5], [3], [1], [2]])[:rows]
    return x_BT, mask_BT


def test_padding_never_changes_a_number() -> None:
    x_BT, mask_BT = batch()
    values = x_BT[mask_BT]
    for filling in (0.0, 1e9, float("nan"), float("inf")):
        filled_BT = torch.where(mask_BT, x_BT, filling)
        torch.testing.assert_close(masked.masked_mean(filled_BT, mask_BT), values.mean())
        torch.testing.assert_close(masked.masked_sum(filled_BT, mask_BT), values.sum())
        white_BT = masked.masked_whiten(filled_BT, mask_BT)
        torch.testing.assert_close(white_BT[mask_BT], (values - values.mean()) / values.std(correction=0))
        assert (white_BT[~mask_BT] == 0).all()


def test_whitening_uses_population_variance_and_can_keep_the_mean() -> None:
    x_BT, mask_BT = batch()
    kept = masked.masked_whiten(x_BT, mask_BT, keep_mean=True)[mask_BT]
    torch.testing.assert_close(kept.mean(), x_BT[mask_BT].mean())
    torch.testing.assert_close(kept.var(correction=0), torch.tensor(1.0))
    one_BT = torch.tensor([[7.0, 3.0]])
    assert masked.masked_whiten(one_BT, torch.tensor([[True, False]])).tolist() == [[0.0, 0.0]]


def test_means_of_parts_add_up_with_the_denominator_of_the_whole() -> None:
    x_BT, mask_BT = batch()
    count = mask_BT.sum()
    parts = [masked.masked_mean(x_BT[i : i + 2], mask_BT[i : i + 2], count) for i in (0, 2)]
    torch.testing.assert_close(parts[0] + parts[1], masked.masked_mean(x_BT, mask_BT))


def test_gradient_is_zero_where_masked() -> None:
    x_BT, mask_BT = batch()
    x_BT.requires_grad_()
    masked.masked_mean(x_BT**2, mask_BT).backward()
    assert x_BT.grad is not None
    assert (x_BT.grad[~mask_BT] == 0).all() and (x_BT.grad[mask_BT] != 0).all()


def test_a_mean_over_nothing_is_refused() -> None:
    x_BT = torch.ones(2, 2)
    with pytest.raises(DataError, match="no decisions"):
        masked.masked_mean(x_BT, torch.zeros(2, 2, dtype=torch.bool))
