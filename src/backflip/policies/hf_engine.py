"""Run any Hugging Face causal LM with a plain key-value cache for the sampler.

Models that keep a recurrent state (Mamba, RWKV, and hybrids of these with attention) cannot have a row replaced by copying
columns; `refuse_recurrent` turns them away in one line before anything is sampled.

Shapes: S slots, N prompts, P prompt columns, C columns in use, H heads, D head or hidden dimension, K slots picked, L tokens of a row.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from backflip.errors import ConfigError
from backflip.policies.columns import Columns
from backflip.policies.score import ScoredLM, autocast

ATTENTION_LAYERS = frozenset({"full_attention", "sliding_attention", "attention", "global", "local"})


class _ColumnLayer(DynamicLayer):
    """One layer's view of the columns in use, in the form that models expect of their cache."""

    def __init__(self, columns: Columns, index: int) -> None:
        super().__init__()
        self.columns = columns
        self.index = index
        self.rewind()

    def rewind(self) -> None:
        """Show the columns before the current one."""
        keys, values = self.columns.buffers[self.index], self.columns.buffers[self.index + 1]
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True
        live = slice(self.columns.first, self.columns.used)
        self.keys, self.values = keys[:, :, live], values[:, :, live]

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the current column in place; nothing is concatenated."""
        keys, values = self.columns.buffers[self.index], self.columns.buffers[self.index + 1]
        now = self.columns.used
        keys[:, :, now] = key_states[:, :, 0]
        values[:, :, now] = value_states[:, :, 0]
        live = slice(self.columns.first, now + 1)
        self.keys, self.values = keys[:, :, live], values[:, :, live]
        return self.keys, self.values


class HFEngine:
    """`sampler.Engine` through the model's own forward pass."""

    guard: Any = torch.no_grad

    def __init__(self, scored: ScoredLM, dtype: torch.dtype = torch.float32) -> None:
        """Sample in `dtype` by autocast where it is not float32."""
        self.scored = scored
        self.dtype = dtype
        self.has_values = scored.value_head is not None
        accepted = inspect.signature(scored.plain.base_model.forward).parameters
        self.takes_positions = "position_ids" in accepted
        self.columns: Columns | None = None
        self.layers: list[_ColumnLayer] = []

    def prefill(self, ids_NP: Tensor, length_N: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        """Read left-padded prompts in one pass."""
        width = ids_NP.shape[1]
        mask_NP = torch.arange(width, device=ids_NP.device) >= (width - length_N)[:, None]
        cache = DynamicCache()
        hidden_NPD = self._forward(ids_NP, mask_NP, (mask_NP.cumsum(1) - 1).clamp(min=0), cache)
        layers: list[Any] = list(cache.layers)
        if any(layer.keys is None or layer.keys.shape[-2] != width for layer in layers):
            raise _recurrent(self.scored.plain)
        return hidden_NPD[:, -1], [block for layer in layers for block in (layer.keys, layer.values)]

    def open(self, slots: int, longest: int, likes: Sequence[Tensor]) -> None:
        """Allocate columns."""
        self.columns = Columns(likes, slots, longest)
        self.layers = [_ColumnLayer(self.columns, index) for index in range(0, len(likes), 2)]

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
        for layer in self.layers:
            layer.rewind()
        column_C = torch.arange(columns.first, columns.used + 1, device=token_S.device)
        mask_SC = column_C >= columns.start_S[:, None]
        position_S1 = (columns.used - columns.start_S)[:, None]
        hidden_S1D = self._forward(token_S[:, None], mask_SC, position_S1, Cache(layers=list(self.layers)))
        columns.advance()
        return hidden_S1D[:, 0]

    def release(self, slots_K: Tensor) -> None:
        """Forget rows."""
        self._open_columns().release(slots_K)

    def keep(self, slots_K: Tensor) -> None:
        """Drop the other slots."""
        self._open_columns().keep(slots_K)

    def logits(self, hidden_SD: Tensor) -> Tensor:
        """Apply the output head."""
        return self.scored.logits_NV(hidden_SD)

    def values(self, hidden_SD: Tensor) -> Tensor:
        """Apply the value head."""
        return self.scored.values_N(hidden_SD)

    def _forward(self, ids: Tensor, mask: Tensor, position: Tensor, cache: Cache) -> Tensor:
        inputs: dict[str, Any] = {"attention_mask": mask.long(), "past_key_values": cache, "use_cache": True}
        if self.takes_positions:
            inputs["position_ids"] = position
        with autocast(ids.device, self.dtype):
            return self.scored.hidden_BLD(ids, **inputs)


def refuse_recurrent(scored: ScoredLM) -> None:
    """Raise ConfigError for a model whose memory is not one column of keys and values a token in every layer.

    The config is asked first; then a short input is read in one pass and token by token, which must agree.
    """
    plain = scored.plain
    config = plain.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ()) | set(getattr(config, "layers_block_type", None) or ())
    if getattr(plain, "_is_stateful", False) or config.is_encoder_decoder or kinds - ATTENTION_LAYERS:
        raise _recurrent(plain)
    if "past_key_values" not in inspect.signature(plain.base_model.forward).parameters:
        raise _recurrent(plain)
    ids_1L = torch.arange(1, 6, device=plain.device).view(1, 5) % config.vocab_size
    engine = HFEngine(scored)
    with torch.no_grad():
        whole_LD = scored.hidden_BLD(ids_1L, use_cache=False)[0]
        hidden_1D, blocks = engine.prefill(ids_1L[:, :2], torch.tensor([2], device=ids_1L.device))
        engine.open(1, 5, blocks)
        zero_1 = torch.zeros(1, dtype=torch.long, device=ids_1L.device)
        engine.splice(zero_1, blocks, zero_1, zero_1 + 2)
        stepped = [hidden_1D, *(engine.step(ids_1L[:, column]) for column in range(2, 5))]
    allowed = (1e-3 if plain.dtype == torch.float32 else 5e-2) * float(whole_LD.abs().max().clamp_min(1.0))
    if not torch.allclose(torch.cat(stepped), whole_LD[1:], atol=allowed, rtol=0):
        raise _recurrent(plain)


def _recurrent(plain: Any) -> ConfigError:
    return ConfigError(
        f"{type(plain).__name__} keeps more than keys and values (a recurrent, hybrid or encoder-decoder cache), so finished rows "
        "cannot be refilled; expected a causal LM with attention in every layer: choose another model"
    )
