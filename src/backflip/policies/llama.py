"""Run Llama, Mistral, Qwen2 and Qwen3 for the sampler with plain matrix products: the fast path.

The weights are taken once for each call of the sampler, while they do not change: adapters merged, query-key-value and gate-up
projections joined, norm gains and the attention scale folded into the products that follow them, and each head's
dimensions reordered so that a rotary embedding is one complex product. What it leaves out: gradients, sliding windows, and
rotary embeddings that change with the length; `is_plain_llama` says no to these and `hf_engine` takes them.

Shapes: S slots, N prompts, P prompt columns, C columns in use, D hidden, Q query heads, K key heads, G = Q / K, E head dimension, F feed-forward,
H heads of either kind, M rows of a product, R rows read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backflip.policies.columns import Columns
from backflip.policies.llama_forward import is_known
from backflip.policies.products import Packed
from backflip.policies.score import ScoredLM

USUAL_ROWS = 64
LARGEST_COPY = 2**31
"""Models of more parameters are not copied for sampling; they run through their own forward pass."""


@dataclass(frozen=True)
class _Layer:
    """Weights of one layer."""

    qkv: Packed
    out: Packed
    gate_up: Packed
    down: Packed
    query_gain_E: Tensor | None
    """Gains of the norms over each head (Qwen3), reordered and, for queries, scaled."""
    key_gain_E: Tensor | None


def is_plain_llama(scored: ScoredLM) -> bool:
    """Say whether this engine computes exactly what the model's own forward pass computes."""
    decoder, head = scored.plain.base_model, scored.plain.get_output_embeddings()
    if not is_known(decoder) or sum(parameter.numel() for parameter in decoder.parameters()) > LARGEST_COPY:
        return False
    linears = [module for layer in decoder.layers for module in _linears(layer)]
    return type(decoder.embed_tokens) is nn.Embedding and all(_can_take(module) for module in [*linears, head])


class LlamaEngine:
    """`sampler.Engine` for the Llama family. Make a new one whenever the weights have changed."""

    guard: Any = torch.inference_mode

    def __init__(self, scored: ScoredLM, dtype: torch.dtype) -> None:
        """Take the weights as they are now. Products run in `dtype`; the residual stream, norms and softmax of logits in float32."""
        plain = scored.plain
        config = plain.config
        self.scored = scored
        self.has_values = scored.value_head is not None
        self.dtype = dtype
        self.heads = config.num_attention_heads
        self.key_heads = config.num_key_value_heads
        self.head_size: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.eps: float = config.rms_norm_eps
        self.embedding_VD = plain.model.embed_tokens.weight.detach().float()
        self.layers = [self._take(layer) for layer in plain.model.layers]
        self.norm_gain_D = plain.model.norm.weight.detach().float()
        self.head = _join([_effective(plain.lm_head)], None, dtype)
        self.rotary = plain.model.rotary_emb
        self.turn_CE = torch.zeros((0, self.head_size // 2), dtype=torch.complex64, device=plain.device)
        self.columns: Columns | None = None

    def prefill(self, ids_NP: Tensor, length_N: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        """Read left-padded prompts. The one block of keys and values is (layers, 2, N, K, P, E)."""
        prompts, width = ids_NP.shape
        column_P = torch.arange(width, device=ids_NP.device)
        first_N1 = (width - length_N)[:, None]
        turn_NPE = self._turns(width)[(column_P - first_N1).clamp(min=0)]
        # A padded query sees itself: nothing reads it, and its softmax stays finite.
        causal_PP = column_P[None, :] <= column_P[:, None]
        seen_N1PP = (
            (causal_PP & (column_P >= first_N1)[:, None, :]) | torch.eye(width, dtype=torch.bool, device=ids_NP.device)
        )[:, None]
        turn_ME = turn_NPE.flatten(0, 1)
        x_MD = self.embedding_VD[ids_NP].flatten(0, 1)
        kept: list[Tensor] = []
        last = slice(width - 1, width)
        for index, layer in enumerate(self.layers):
            query, key, value = self._project(layer, x_MD, turn_ME)
            query_NQPE, key_NKPE, value_NKPE = (
                t.view(prompts, width, -1, self.head_size).transpose(1, 2) for t in (query, key, value)
            )
            kept.append(torch.stack([key_NKPE, value_NKPE]))
            read = slice(None) if index + 1 < len(self.layers) else last  # only the last token's state is asked for
            mixed_NQRE = F.scaled_dot_product_attention(
                query_NQPE[:, :, read],
                key_NKPE.repeat_interleave(self.heads // self.key_heads, 1),
                value_NKPE.repeat_interleave(self.heads // self.key_heads, 1),
                attn_mask=seen_N1PP[:, :, read],
                scale=1.0,
            )
            x_MD = x_MD.view(prompts, width, -1)[:, read].flatten(0, 1)
            x_MD = self._finish(layer, x_MD, mixed_NQRE.transpose(1, 2).reshape(len(x_MD), -1))
        return self._norm(x_MD) * self.norm_gain_D, [torch.stack(kept)]

    def open(self, slots: int, longest: int, likes: Sequence[Tensor]) -> None:
        """Allocate columns."""
        self.columns = Columns(likes, slots, longest)
        self._turns(longest + 1)

    def _open_columns(self) -> Columns:
        assert self.columns is not None, "the scheduler opens an engine before it uses slots"
        return self.columns

    def splice(self, slots_K: Tensor, blocks: Sequence[Tensor], pick_K: Tensor, length_K: Tensor) -> None:
        """Begin rows."""
        self._open_columns().splice(slots_K, blocks, pick_K, length_K)

    def step(self, token_S: Tensor) -> Tensor:
        """Read one token a slot."""
        columns = self._open_columns()
        columns.make_room()
        now, slots = columns.used, len(token_S)
        column_C = torch.arange(columns.first, now + 1, device=token_S.device)
        hidden_SC = column_C < columns.start_S[:, None]
        bias_S11C = torch.zeros(hidden_SC.shape, dtype=self.dtype, device=token_S.device)
        bias_S11C = bias_S11C.masked_fill_(hidden_SC, -math.inf)[:, None, None]
        turn_SE = self.turn_CE[now - columns.start_S]
        x_SD = self.embedding_VD[token_S]
        current = columns.buffers[0][..., now, :]
        live = columns.buffers[0][..., columns.first : now + 1, :]
        for index, layer in enumerate(self.layers):
            query, key, value = self._project(layer, x_SD, turn_SE)
            current[index, 0], current[index, 1] = key, value
            query_SKGE = query.view(slots, self.key_heads, -1, self.head_size)
            weight_SKGC = ((query_SKGE @ live[index, 0].transpose(-1, -2)) + bias_S11C).softmax(-1)
            mixed_SKGE = weight_SKGC @ live[index, 1]
            x_SD = self._finish(layer, x_SD, mixed_SKGE.reshape(slots, -1))
        columns.advance()
        return self._norm(x_SD) * self.norm_gain_D

    def release(self, slots_K: Tensor) -> None:
        """Forget rows."""
        self._open_columns().release(slots_K)

    def keep(self, slots_K: Tensor) -> None:
        """Drop the other slots."""
        self._open_columns().keep(slots_K)

    def logits(self, hidden_SD: Tensor) -> Tensor:
        """Apply the output head."""
        return self.head(hidden_SD.to(self.dtype)).float()

    def values(self, hidden_SD: Tensor) -> Tensor:
        """Apply the value head."""
        return self.scored.values_N(hidden_SD)

    def _norm(self, x_MD: Tensor) -> Tensor:
        return F.rms_norm(x_MD, x_MD.shape[-1:], None, self.eps)

    def _project(self, layer: _Layer, x_MD: Tensor, turn_ME: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return turned queries and keys, and values: (M, heads, E) in `dtype`."""
        joined = layer.qkv(self._norm(x_MD).to(self.dtype))
        joined_MHE = joined.view(len(x_MD), -1, self.head_size)
        turned = self.heads + self.key_heads
        both_MHE = joined_MHE[:, :turned].float()
        if layer.query_gain_E is not None and layer.key_gain_E is not None:
            query = F.rms_norm(both_MHE[:, : self.heads], (self.head_size,), layer.query_gain_E, self.eps)
            key = F.rms_norm(both_MHE[:, self.heads :], (self.head_size,), layer.key_gain_E, self.eps)
            both_MHE = torch.cat([query, key], dim=1)
        pairs = torch.view_as_complex(both_MHE.unflatten(-1, (-1, 2)))
        both_MHE = torch.view_as_real(pairs * turn_ME[:, None]).flatten(-2).to(self.dtype)
        return both_MHE[:, : self.heads], both_MHE[:, self.heads :], joined_MHE[:, turned:]

    def _finish(self, layer: _Layer, x_MD: Tensor, mixed: Tensor) -> Tensor:
        """Add the attention's output and the feed-forward block to the residual stream."""
        x_MD = x_MD + layer.out(mixed)
        gate, up = layer.gate_up(self._norm(x_MD).to(self.dtype)).chunk(2, dim=-1)
        return x_MD + layer.down(F.silu(gate) * up)

    def _turns(self, length: int) -> Tensor:
        """Return the rotation of every position up to `length`, as unit complex numbers (times the attention factor)."""
        if len(self.turn_CE) < length:
            position_1C = torch.arange(length, device=self.turn_CE.device)[None]
            cos_1CE, sin_1CE = self.rotary(torch.zeros(1, device=self.turn_CE.device), position_1C)
            half = self.head_size // 2
            self.turn_CE = torch.complex(cos_1CE[0, :, :half].float(), sin_1CE[0, :, :half].float())
        return self.turn_CE

    def _take(self, layer: Any) -> _Layer:
        """Copy one layer: join, fold and reorder."""
        attention, scale = layer.self_attn, layer.self_attn.scaling
        query, key, value = (_effective(module) for module in (attention.q_proj, attention.k_proj, attention.v_proj))
        query, key = _interleave(query, self.head_size), _interleave(key, self.head_size)
        query_norm = getattr(attention, "q_norm", None)
        gains: tuple[Tensor | None, Tensor | None] = (None, None)
        if query_norm is None:
            query = (query[0] * scale, None if query[1] is None else query[1] * scale)
        else:
            gains = (
                _pairs_E(query_norm.weight.detach()).float() * scale,
                _pairs_E(attention.k_norm.weight.detach()).float(),
            )
        mlp = layer.mlp
        return _Layer(
            _join([query, key, value], layer.input_layernorm.weight, self.dtype),
            _join([_effective(attention.o_proj)], None, self.dtype),
            _join(
                [_effective(mlp.gate_proj), _effective(mlp.up_proj)], layer.post_attention_layernorm.weight, self.dtype
            ),
            _join([_effective(mlp.down_proj)], None, self.dtype),
            *gains,
        )


def _linears(layer: Any) -> list[Any]:
    attention, mlp = layer.self_attn, layer.mlp
    return [
        attention.q_proj,
        attention.k_proj,
        attention.v_proj,
        attention.o_proj,
        mlp.gate_proj,
        mlp.up_proj,
        mlp.down_proj,
    ]


def _can_take(module: Any) -> bool:
    """Say whether `_effective` gives this module's whole weight: a linear layer, with plain LoRA at most."""
    if type(module) is nn.Linear:
        return True
    is_lora = type(module).__module__ == "peft.tuners.lora.layer" and type(module.base_layer) is nn.Linear
    return is_lora and not module.lora_variant and not any(module.lora_bias.values())


def _effective(module: Any) -> tuple[Tensor, Tensor | None]:
    """Return weight and bias with active adapters merged in."""
    base: Any = module if type(module) is nn.Linear else module.base_layer
    weight, bias = base.weight.detach(), base.bias
    if base is not module and not module.disable_adapters and not module.merged:
        adapted: Any = module
        for name in adapted.active_adapters:
            if name in adapted.lora_A:
                weight = weight + adapted.get_delta_weight(name).detach().to(weight.dtype)
    return weight, None if bias is None else bias.detach()


def _pairs_E(x: Tensor) -> Tensor:
    """Reorder the last dimension from (first halves, second halves) of rotated pairs to pair after pair."""
    return x.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)


def _interleave(linear: tuple[Tensor, Tensor | None], head_size: int) -> tuple[Tensor, Tensor | None]:
    """Reorder the outputs of a query or key projection within each head; products of two reordered vectors are the same."""
    weight, bias = linear
    weight = _pairs_E(weight.T.unflatten(-1, (-1, head_size))).flatten(-2).T
    return weight, None if bias is None else _pairs_E(bias.unflatten(-1, (-1, head_size))).flatten(-2)


def _join(linears: list[tuple[Tensor, Tensor | None]], gain_D: Tensor | None, dtype: torch.dtype) -> Packed:
    """Join projections of one input and fold the gain of the norm before them in."""
    weight = torch.cat([weight for weight, _ in linears]).float()
    if gain_D is not None:
        weight = weight * gain_D.detach().float()
    bias = None
    if any(bias is not None for _, bias in linears):
        bias = torch.cat([weight.new_zeros(len(weight)) if bias is None else bias for weight, bias in linears]).to(
            dtype
        )
    return Packed(weight.to(dtype), bias, USUAL_ROWS)
