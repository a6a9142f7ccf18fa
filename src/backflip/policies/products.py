"""Matrix products on a CPU through oneDNN instead of the default library.

PyTorch sends float32 products to MKL, which leaves the wide vector units of AMD processors unused; oneDNN ships in the same wheel
and is at least as fast everywhere we measured (twice as fast on a Zen 5, see docs/sampling.md). `fast_products()` is a context in which linear
layers take that way, forward and backward; `Packed` is a weight laid out once for many products without gradient. Elsewhere
(other devices and dtypes, autocast, oneDNN absent or switched off) everything is PyTorch's own. The choice depends on
nothing that is timed, so a run repeats to the bit. What it leaves out: batched products, which are small here.

Shapes: M rows, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_OP: Any = getattr(getattr(torch.ops, "mkldnn", None), "_linear_pointwise", None)
_REORDER: Any = getattr(getattr(torch.ops, "mkldnn", None), "_reorder_linear_weight", None)
_HAVE = (
    _OP is not None
    and _REORDER is not None
    and torch.backends.mkldnn.is_available()
    and torch.backends.cpu.get_cpu_capability().startswith("AVX")
)


def takes(*tensors: Tensor | None) -> bool:
    """Say whether products of these tensors go through oneDNN."""
    given = [tensor for tensor in tensors if tensor is not None]
    return (
        _HAVE
        and torch.backends.mkldnn.enabled
        and not torch.is_autocast_enabled("cpu")
        and all(
            type(t) in (Tensor, torch.nn.Parameter)
            and t.dtype == torch.float32
            and t.device.type == "cpu"
            and t.numel()
            for t in given
        )
    )


def linear(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """Return x @ weight.T + bias for x of any leading shape, with gradients."""
    if not takes(x, weight_OI, bias_O):
        return F.linear(x, weight_OI, bias_O)
    if torch.is_grad_enabled() and (
        x.requires_grad or weight_OI.requires_grad or (bias_O is not None and bias_O.requires_grad)
    ):
        result: Any = _Linear.apply(x, weight_OI, bias_O)
        return result
    return _OP(x, weight_OI, bias_O, "none", [], "")


def times(x_MO: Tensor, weight_OI: Tensor) -> Tensor:
    """Return x @ weight, without gradient."""
    return _OP(x_MO, weight_OI.t(), None, "none", [], "") if takes(x_MO, weight_OI) else x_MO @ weight_OI


def transposed_times(x_MO: Tensor, y_MI: Tensor) -> Tensor:
    """Return x.T @ y, without gradient: the gradient of a weight."""
    if not takes(x_MO, y_MI):
        return x_MO.t() @ y_MI
    # The second operand is laid out anew by the library: let that be the larger one.
    if x_MO.shape[1] > y_MI.shape[1]:
        return _OP(y_MI.t(), x_MO.t(), None, "none", [], "").t()
    return _OP(x_MO.t(), y_MI.t(), None, "none", [], "")


class _Linear(torch.autograd.Function):
    """A linear layer whose three products go through oneDNN."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight_OI)
        return _OP(x, weight_OI, bias_O, "none", [], "")

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight_OI = ctx.saved_tensors
        grad_MO = grads[0].reshape(-1, weight_OI.shape[0])
        need_x, need_weight, need_bias = ctx.needs_input_grad
        grad_x = times(grad_MO, weight_OI).view(x.shape) if need_x else None
        grad_weight = transposed_times(grad_MO, x.reshape(-1, weight_OI.shape[1])) if need_weight else None
        return grad_x, grad_weight, grad_MO.sum(0) if need_bias else None


class Packed:
    """A weight and a bias laid out once for many products without gradient."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None, rows: int) -> None:
        """Lay out for about `rows` rows at a time."""
        self.bias_O = bias_O
        self.packed = takes(weight_OI, bias_O)
        self.weight = _REORDER(weight_OI.contiguous(), rows) if self.packed else weight_OI.contiguous()

    def __call__(self, x_MI: Tensor) -> Tensor:
        """Return x @ weight.T + bias."""
        if self.packed:
            return _OP(x_MI, self.weight, self.bias_O, "none", [], "")
        return F.linear(x_MI, self.weight, self.bias_O)


class fast_products(TorchFunctionMode):
    """A context in which `linear` layers and `addmm` of any model run through this module."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Redirect two functions and pass on all others."""
        kwargs = kwargs or {}
        if func is F.linear:
            return linear(*args, **kwargs)
        if (
            func is torch.addmm
            and len(args) == 3
            and not kwargs
            and args[1].dim() == args[2].dim() == 2
            and args[0].dim() == 1
        ):
            return linear(args[1], args[2].t(), args[0])
        return func(*args, **kwargs)
