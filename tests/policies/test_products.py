"""The fast products equal PyTorch's own, in value and gradient, and step aside where they do not apply."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from backflip.policies import products
from backflip.policies.products import Packed, fast_products, linear, times, transposed_times

needs_onednn = pytest.mark.skipif(not products._HAVE, reason="oneDNN products are not available on this processor")  # pyright: ignore[reportPrivateUsage]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count products that really took the fast way."""
    counted: list[int] = []
    original: Any = products._OP  # pyright: ignore[reportPrivateUsage]

    def counting(*arguments: Any) -> Any:
        counted.append(1)
        return original(*arguments)

    monkeypatch.setattr(products, "_OP", counting)
    return counted


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_keeps_value_and_gradients(calls: list[int], bias: bool) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(48, 20, bias=bias), torch.randn(3, 7, 48, requires_grad=True)
    wanted = [x, *layer.parameters()]
    plain = layer(x)
    plain_grads = torch.autograd.grad(plain.square().sum(), wanted)
    assert not calls
    with fast_products():
        fast = layer(x)
    fast_grads = torch.autograd.grad(fast.square().sum(), wanted)
    assert len(calls) == 3
    assert torch.allclose(plain, fast, atol=1e-5)
    for a, b in zip(plain_grads, fast_grads, strict=True):
        assert torch.allclose(a, b, atol=1e-3, rtol=1e-5)


@needs_onednn
def test_frozen_weights_and_constant_inputs(calls: list[int]) -> None:
    layer, x = nn.Linear(6, 9).requires_grad_(False), torch.randn(4, 6, requires_grad=True)
    with fast_products():
        (grad,) = torch.autograd.grad(layer(x).sum(), [x])
    assert torch.allclose(grad, layer.weight.sum(0).expand(4, 6), atol=1e-6)
    layer.requires_grad_(True)
    with fast_products():
        assert torch.allclose(torch.autograd.grad(layer(x.detach()).sum(), [layer.bias])[0], torch.full((9,), 4.0))
    assert calls


@needs_onednn
def test_the_convolution_of_gpt2_takes_the_fast_way(calls: list[int]) -> None:
    layer, x = Conv1D(10, 6), torch.randn(2, 5, 6)
    with fast_products():
        fast = layer(x)
    assert calls
    assert torch.allclose(fast, layer(x), atol=1e-6)


def test_products_without_gradient() -> None:
    x, weight, y = torch.randn(30, 8), torch.randn(8, 5), torch.randn(30, 11)
    assert torch.allclose(times(x, weight), x @ weight, atol=1e-5)
    assert torch.allclose(transposed_times(x, y), x.T @ y, atol=1e-4)
    assert torch.allclose(transposed_times(y, x), y.T @ x, atol=1e-4)
    packed = Packed(weight.T, torch.arange(5.0), rows=16)
    for rows in (1, 16, 30):
        assert torch.allclose(packed(x[:rows]), x[:rows] @ weight + torch.arange(5.0), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_are_left_alone(calls: list[int], dtype: torch.dtype) -> None:
    x, weight = torch.randn(4, 6, dtype=dtype), torch.randn(3, 6, dtype=dtype)
    assert torch.equal(linear(x, weight), F.linear(x, weight))
    assert torch.equal(Packed(weight, None, 4)(x), F.linear(x, weight))
    assert not calls


def test_autocast_empty_inputs_and_the_switch_are_respected(calls: list[int]) -> None:
    x, weight = torch.randn(4, 6), torch.randn(3, 6)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight).dtype == torch.bfloat16
    assert linear(x[:0], weight).shape == (0, 3)
    torch.backends.mkldnn.enabled = False
    try:
        assert torch.equal(linear(x, weight), F.linear(x, weight))
    finally:
        torch.backends.mkldnn.enabled = True
    assert not calls
