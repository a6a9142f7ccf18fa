"""The forward pass of the Llama family for whole rows, with gradients: what updates and reward models spend their time in.

The model's own layers do the products; norms, rotary embeddings and short attention are written so that a CPU makes fewer
passes over memory: their gradients by hand, no copies of keys for grouped queries, no mask but the triangle. Rows are closed
up to the left, so padding stands behind every token that is read and needs no mask. Where much of a batch is padding, it is left
out of everything but attention. What it leaves out: caches, sliding windows, long rows and hooks; `can_forward` says no to
these, and the model's own forward pass takes them.

Shapes: B rows, L tokens, M = B x L or as many of them as are no padding, D hidden, K key heads, G queries to a key head, H any
heads, E head dimension.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

ROTARY = frozenset({"default", "linear", "llama3", "yarn"})
FAMILY = frozenset({"LlamaModel", "MistralModel", "Qwen2Model", "Qwen3Model"})
DENSE = 0.75
"""A batch with a smaller share of tokens than this, the rest padding, has the padding left out."""
LONGEST = 256
"""Longer rows go through the model's own attention, which does not hold all scores at once."""


def is_known(decoder: Any) -> bool:
    """Say whether this decoder is of the family in the usual form: full attention, SiLU, a rotary embedding of fixed angles."""
    if type(decoder).__name__ not in FAMILY or not type(decoder).__module__.startswith("transformers.models."):
        return False
    config = decoder.config
    rotary = config.rope_parameters or {}
    windows = config.model_type == "mistral" and config.sliding_window is not None
    windows = windows or "sliding_attention" in (getattr(config, "layer_types", None) or ())
    usual = config.hidden_act == "silu" and rotary.get("rope_type", "default") in ROTARY
    norms = [norm for layer in decoder.layers for norm in (layer.input_layernorm, layer.post_attention_layernorm)]
    whole = all(type(norm).__name__.endswith("RMSNorm") for norm in [*norms, decoder.norm])
    return usual and whole and not windows and "partial_rotary_factor" not in rotary


def can_forward(decoder: Any, ids_BL: Tensor) -> bool:
    """Say whether `forward_BLD` computes what the decoder's own forward pass computes for these rows."""
    return (
        ids_BL.device.type == "cpu"
        and 0 < ids_BL.shape[1] <= LONGEST
        and is_known(decoder)
        and not decoder.gradient_checkpointing
        and not (decoder.training and decoder.config.attention_dropout)
        and not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in decoder.modules())
    )


def forward_BLD(decoder: Any, ids_BL: Tensor, length_B: Tensor | None = None) -> Tensor:
    """Return the last hidden state, after the final norm, of every token of rows closed up to the left.

    `length_B`: tokens of each row that are read; what is returned for those behind them means nothing. None: all are.
    """
    rows, length = ids_BL.shape
    position_L, place_M = torch.arange(length, device=ids_BL.device), None
    if length_B is not None and int(length_B.sum()) < DENSE * ids_BL.numel():
        place_M = (position_L < length_B.to(ids_BL.device)[:, None]).flatten().nonzero()[:, 0]
    x_MD = decoder.embed_tokens(ids_BL.flatten() if place_M is None else ids_BL.flatten()[place_M])
    cos_1LE, sin_1LE = decoder.rotary_emb(x_MD, position_L[None])
    half = cos_1LE.shape[-1] // 2
    turn = (cos_1LE[0, :, None, :half], sin_1LE[0, :, None, :half])
    if place_M is not None:
        turn = (turn[0][place_M % length], turn[1][place_M % length])
    triangle_LL = torch.full((length, length), -math.inf, dtype=x_MD.dtype, device=ids_BL.device).triu_(1)
    for layer in decoder.layers:
        h_MD = _norm(x_MD, layer.input_layernorm)
        x_MD = x_MD + _attend(layer.self_attn, h_MD, rows, turn, triangle_LL, place_M)
        h_MD = _norm(x_MD, layer.post_attention_layernorm)
        x_MD = x_MD + layer.mlp.down_proj(F.silu(layer.mlp.gate_proj(h_MD)) * layer.mlp.up_proj(h_MD))
    return _spread(_norm(x_MD, decoder.norm), rows, length, place_M)


def _spread(x: Tensor, rows: int, length: int, place_M: Tensor | None) -> Tensor:
    """Return (M, ...) as (B, L, ...), zeros where padding was left out."""
    if place_M is not None:
        x = x.new_zeros(rows * length, *x.shape[1:]).index_copy(0, place_M, x)
    return x.view(rows, length, *x.shape[1:])


def _attend(
    attention: Any,
    h_MD: Tensor,
    rows: int,
    turn: tuple[Tensor, Tensor],
    triangle_LL: Tensor,
    place_M: Tensor | None,
) -> Tensor:
    """Causal attention within each row, all queries of a key head in one product."""
    length = len(triangle_LL)
    shape = (rows, length) if place_M is None else (len(h_MD),)
    query, key, value = (
        projection(h_MD).view(*shape, -1, attention.head_dim)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    if hasattr(attention, "q_norm"):
        query, key = _norm(query, attention.q_norm), _norm(key, attention.k_norm)
    query, key = _turned(query, *turn), _turned(key, *turn)
    if place_M is not None:
        query, key, value = (_spread(part, rows, length, place_M) for part in (query, key, value))
    heads = key.shape[2]
    query_BKME = (query * attention.scaling).unflatten(2, (heads, -1)).permute(0, 2, 3, 1, 4).flatten(2, 3)
    score_BKML = query_BKME @ key.permute(0, 2, 3, 1)
    weight_BKGLL = (score_BKML.unflatten(2, (-1, length)) + triangle_LL).softmax(-1)
    mixed_BKME = weight_BKGLL.flatten(2, 3).to(value.dtype) @ value.transpose(1, 2)
    mixed = mixed_BKME.unflatten(2, (-1, length)).permute(0, 3, 1, 2, 4).reshape(rows * length, -1)
    return attention.o_proj(mixed if place_M is None else mixed[place_M])


def _norm(x: Tensor, module: Any) -> Tensor:
    eps: float = module.variance_epsilon
    result: Any = _RMSNorm.apply(x, module.weight, eps)
    return result


def _turned(x_BLHE: Tensor, cos_L1E: Tensor, sin_L1E: Tensor) -> Tensor:
    result: Any = _Turn.apply(x_BLHE, cos_L1E, sin_L1E)
    return result


class _RMSNorm(torch.autograd.Function):
    """y = x / rms(x) * gain (Zhang & Sennrich 2019), in float32 as the models do."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain_D: Tensor, eps: float) -> Tensor:
        whole = x.float()
        scale = torch.linalg.vector_norm(whole, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(whole, gain_D, scale)
        ctx.dtype = x.dtype
        return (whole * scale).mul_(gain_D).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, gain_D, scale = ctx.saved_tensors
        grad = grads[0].float()
        unit = x * scale
        grad_gain_D = (grad * unit).flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        if not ctx.needs_input_grad[0]:
            return None, grad_gain_D, None
        weighted = grad * gain_D
        along = (weighted * unit).sum(-1, keepdim=True)
        grad_x = weighted.addcmul_(unit, along, value=-1.0 / x.shape[-1]).mul_(scale)
        return grad_x.to(ctx.dtype), grad_gain_D, None


class _Turn(torch.autograd.Function):
    """The rotary embedding (Su et al. 2021): each pair (first half, second half) is turned; the gradient turns back."""

    @staticmethod
    def forward(ctx: Any, x_BLHE: Tensor, cos_L1E: Tensor, sin_L1E: Tensor) -> Tensor:
        ctx.save_for_backward(cos_L1E, sin_L1E)
        return _turn(x_BLHE, cos_L1E, sin_L1E)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        cos_L1E, sin_L1E = ctx.saved_tensors
        return _turn(grads[0], cos_L1E, -sin_L1E), None, None


def _turn(x_BLHE: Tensor, cos_L1E: Tensor, sin_L1E: Tensor) -> Tensor:
    first, second = x_BLHE.chunk(2, dim=-1)
    turned = torch.empty(x_BLHE.shape, dtype=x_BLHE.dtype, device=x_BLHE.device)
    cos, sin = cos_L1E.to(x_BLHE.dtype), sin_L1E.to(x_BLHE.dtype)
    half = x_BLHE.shape[-1] // 2
    torch.mul(first, cos, out=turned[..., :half]).addcmul_(second, sin, value=-1.0)
    torch.mul(second, cos, out=turned[..., half:]).addcmul_(first, sin)
    return turned
