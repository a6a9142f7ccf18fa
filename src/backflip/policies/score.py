"""A causal language model as one module that scores given tokens: log-probability, entropy, value.

`ScoredLM` holds everything that is trained (model, adapters, value head), so an optimiser, a checkpoint or a wrapper
for many devices takes this one module. Logits are computed only where somebody decided, in blocks of bounded memory; the
padding of a batch never reaches the output head. Sampling is in `sampler.py`, files are in `checkpoints.py`.

Shapes: B rows, L tokens of prompt and answer closed up to the left, N decisions picked out of B x L, D hidden, V vocabulary,
M decisions of one block.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from backflip.errors import ConfigError
from backflip.policies.draw import logits_to_logp
from backflip.policies.llama_forward import can_forward, forward_BLD
from backflip.policies.products import fast_products, linear, times, transposed_times

BLOCK_ELEMENTS = {"cpu": 2**21, "cuda": 2**26, "mps": 2**24}
"""Logits computed at once, N x V; on a CPU 8 MiB, which stay in the cache and are not fetched anew from the system each time."""
KEEP_ELEMENTS = 2**26
"""Up to this many logits (256 MiB) are kept for the backward pass; beyond, they are computed again."""


class ScoredLM(nn.Module):
    """A Hugging Face causal LM and, if wanted, a value head on its last hidden state.

    Always in evaluation mode: dropout in the policy, its reference or its critic makes every ratio noise.
    Raises ConfigError when the model's logits are not an output head (with a scale or a soft cap) on its last hidden state.
    """

    def __init__(self, model: nn.Module, value_head: nn.Module | None = None) -> None:
        super().__init__()
        self.model = model
        self.value_head = value_head
        self.eval()
        self._scale, self._cap = _find_head(self)

    def train(self, mode: bool = True) -> ScoredLM:
        """Stay in evaluation mode, whatever is asked: gradients do not need dropout."""
        return super().train(False)

    @property
    def vocabulary(self) -> int:
        """Number of logits."""
        return self.plain.config.get_text_config().vocab_size

    @property
    def plain(self) -> Any:
        """The Hugging Face model itself, without the adapter wrapper around it (adapted layers stay in place)."""
        model: Any = self.model
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    def adapters_off(self) -> AbstractContextManager[None]:
        """Return a context in which LoRA adapters do not act: the reference of an adapted model."""
        if not hasattr(self.model, "disable_adapter"):
            raise ConfigError(
                "this model has no adapters to turn off; expected a model loaded with lora=LoraConfig(...)"
            )
        model: Any = self.model
        return model.disable_adapter()

    def hidden_BLD(self, ids_BL: Tensor, length_B: Tensor | None = None, **inputs: Any) -> Tensor:
        """Return the last hidden state, after the final norm, of every token; `length_B` says how many of each row are read."""
        decoder = self.plain.base_model
        with fast_products():
            if inputs.keys() <= {"use_cache"} and can_forward(decoder, ids_BL):
                return forward_BLD(decoder, ids_BL, length_B)
            return decoder(input_ids=ids_BL, **inputs).last_hidden_state

    def logits_NV(self, hidden_ND: Tensor) -> Tensor:
        """Apply the output head, its scale and its soft cap, in float32."""
        with fast_products():
            logits_NV = self.plain.get_output_embeddings()(hidden_ND).float()
        if self._scale != 1.0:
            logits_NV = logits_NV * self._scale
        return logits_NV if self._cap is None else self._cap * torch.tanh(logits_NV / self._cap)

    def values_N(self, hidden_ND: Tensor) -> Tensor:
        """Apply the value head in float32. Raises ConfigError where there is none."""
        if self.value_head is None:
            raise ConfigError("this policy has no value head; load it with value_head=True")
        weight_dtype = next(self.value_head.parameters()).dtype
        return self.value_head(hidden_ND.to(weight_dtype))[:, 0].float()

    def forward(
        self,
        ids_BL: Tensor,
        row_N: Tensor,
        column_N: Tensor,
        target_N: Tensor,
        temperature: float,
        length_B: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Score `target_N` as the token that follows position (row, column). Returns (logp_N, entropy_N, value_N or None)."""
        hidden_ND = self.hidden_BLD(ids_BL, length_B, use_cache=False)[row_N, column_N]
        logp_N, entropy_N = self._scores(hidden_ND, target_N, temperature)
        return logp_N, entropy_N, None if self.value_head is None else self.values_N(hidden_ND)

    def _scores(self, hidden_ND: Tensor, target_N: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        head = self.plain.get_output_embeddings()
        if type(head) is nn.Linear and self._cap is None:
            scores: Any = FusedScores.apply(hidden_ND, head.weight, head.bias, target_N, temperature / self._scale)
            return scores
        parts = [
            checkpoint(self._block_scores, hidden_ND[part], target_N[part], temperature, use_reentrant=False)
            for part in blocks(hidden_ND, self.vocabulary)
        ]
        logp_N, entropy_N = (torch.cat(column) for column in zip(*parts, strict=True))
        return logp_N, entropy_N

    def _block_scores(self, hidden_ND: Tensor, target_N: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        logp_NV = logits_to_logp(self.logits_NV(hidden_ND), temperature)
        return logp_NV.gather(1, target_N[:, None])[:, 0], -(logp_NV.softmax(-1) * logp_NV).sum(-1)


def blocks(hidden_ND: Tensor, vocabulary: int) -> list[slice]:
    """Cut rows into slices whose logits stay within `BLOCK_ELEMENTS`; at least one slice, which may be empty."""
    rows, size = len(hidden_ND), max(1, BLOCK_ELEMENTS.get(hidden_ND.device.type, 2**24) // vocabulary)
    return [slice(start, min(start + size, rows)) for start in range(0, max(rows, 1), size)]


class FusedScores(torch.autograd.Function):
    """log p(target) and entropy of softmax(head(hidden) / temperature), with the gradient written out.

    Autograd through `log_softmax` keeps several N x V tensors and walks over each; here there is one, or none when it
    would be large. With z the logits over temperature: d logp / dz_j = [j = target] - p_j; dH / dz_j = -p_j (log p_j + H).
    """

    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, target_N: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        """Compute block by block. `temperature` already holds the scale of the head."""
        logp_N = hidden_ND.new_empty(len(hidden_ND), dtype=torch.float32)
        entropy_N = torch.empty_like(logp_N)
        keep = len(hidden_ND) * weight_VD.shape[0] <= KEEP_ELEMENTS
        kept: list[Tensor] = []
        for part in blocks(hidden_ND, weight_VD.shape[0]):
            logp_MV = logits_to_logp(linear(hidden_ND[part], weight_VD, bias_V), temperature)
            logp_N[part] = logp_MV.gather(1, target_N[part, None])[:, 0]
            entropy_N[part] = -(logp_MV.softmax(-1) * logp_MV).sum(-1)
            if keep:
                kept.append(logp_MV)
        ctx.save_for_backward(hidden_ND, weight_VD, bias_V, target_N, entropy_N, *kept)
        ctx.temperature = temperature
        device = hidden_ND.device.type
        ctx.product_dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_ND.dtype
        ctx.set_materialize_grads(False)
        return logp_N, entropy_N

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return gradients for hidden, weight and bias."""
        hidden_ND, weight_VD, bias_V, target_N, entropy_N, *kept = ctx.saved_tensors
        grad_logp_N, grad_entropy_N = grads
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        grad_hidden_ND = torch.empty_like(hidden_ND) if need_hidden else None
        grad_weight_VD = torch.zeros_like(weight_VD) if need_weight else None
        grad_bias_V = torch.zeros_like(bias_V) if need_bias else None
        for index, part in enumerate(blocks(hidden_ND, weight_VD.shape[0])):
            hidden_MD = hidden_ND[part]
            if kept:
                logp_MV = kept[index]
            else:
                logp_MV = logits_to_logp(linear(hidden_MD, weight_VD, bias_V), ctx.temperature)
            grad_MV = logp_MV.softmax(-1)
            if grad_entropy_N is not None:
                outer_M1 = -grad_entropy_N[part, None]
                grad_MV *= outer_M1 * (logp_MV + entropy_N[part, None]) - _column(grad_logp_N, part)
            elif grad_logp_N is not None:
                grad_MV *= -grad_logp_N[part, None]
            if grad_logp_N is not None:
                grad_MV.scatter_add_(1, target_N[part, None], grad_logp_N[part, None])
            grad_MV = (grad_MV / ctx.temperature if ctx.temperature != 1.0 else grad_MV).to(ctx.product_dtype)
            if grad_hidden_ND is not None:
                grad_hidden_ND[part] = times(grad_MV, weight_VD.to(ctx.product_dtype))
            if grad_weight_VD is not None:
                grad_weight_VD += transposed_times(grad_MV, hidden_MD.to(ctx.product_dtype))
            if grad_bias_V is not None:
                grad_bias_V += grad_MV.sum(0)
        return grad_hidden_ND, grad_weight_VD, grad_bias_V, None, None


def _column(grad_N: Tensor | None, part: slice) -> Tensor | float:
    return 0.0 if grad_N is None else grad_N[part, None]


@contextmanager
def autocast(device: torch.device, dtype: torch.dtype) -> Generator[None]:
    """Run matrix products in `dtype` where it is not float32."""
    with nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype):
        yield


def _find_head(scored: ScoredLM) -> tuple[float, float | None]:
    """Read scale and soft cap between head(hidden) and the logits from the config, and check them on a short input."""
    plain = scored.plain
    config = plain.config.get_text_config()
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    cap = getattr(config, "final_logit_softcapping", None)
    probe_BL = torch.arange(6, device=plain.device).view(1, 6) % config.vocab_size
    with torch.no_grad():
        given = plain(input_ids=probe_BL, use_cache=False).logits[0].float()
        ours = plain.get_output_embeddings()(scored.hidden_BLD(probe_BL, use_cache=False)[0]).float() * scale
        ours = ours if cap is None else cap * torch.tanh(ours / cap)
    allowed = 1e-3 if plain.dtype == torch.float32 else 5e-2
    if not torch.allclose(ours, given, atol=allowed * float(given.abs().max().clamp_min(1.0)), rtol=0):
        raise ConfigError(
            f"the logits of {type(plain).__name__} are not its output head on its last hidden state; "
            "expected a causal LM with a linear head (a scale and a soft cap are understood): choose another model"
        )
    return scale, cap
