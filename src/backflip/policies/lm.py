"""A policy that is any Hugging Face causal language model: it acts by sampling, and is evaluated with gradients.

What it leaves out: prompts and text (`worlds/text.py`), and any loss (`optimise/`). Tokens of a row are closed up to the left
before the model reads them, so there is no padding before a token, no attention mask, and no way for padding to matter.

Shapes: B rows, P prompt tokens, T answer tokens, L tokens of both closed up, N decisions in all rows, V vocabulary, D hidden,
C columns before closing up, M tokens given.
"""

from __future__ import annotations

import copy
import hashlib
import json
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from backflip.checkpoint import atomic_folder
from backflip.data import PAD, Act, Episodes, Evaluation
from backflip.errors import ConfigError, DataError
from backflip.policies.checkpoints import (
    add_adapters,
    choose_pad,
    end_tokens,
    pick_device,
    read_model,
    read_tokenizer,
    read_value_head,
)
from backflip.policies.draw import logits_to_logp
from backflip.policies.hf_engine import HFEngine, refuse_recurrent
from backflip.policies.llama import LlamaEngine, is_plain_llama
from backflip.policies.sampler import Engine, SampleSettings, sample
from backflip.policies.score import ScoredLM, autocast, blocks

if TYPE_CHECKING:
    from peft import LoraConfig

Precision = Literal["float32", "bfloat16"]
TOKENS_AT_ONCE = 16_384
"""Tokens read at once where there is no gradient."""


@dataclass(frozen=True)
class LMConfig:
    """How a language model acts and is evaluated."""

    temperature: float = 1.0
    """Divides the logits, in sampling and in every log-probability."""
    max_new_tokens: int = 32
    """Decisions in one answer, the end token among them."""
    rows: int = 64
    """Rows decoded at once; finished ones are refilled from the prompts that wait."""
    sampling: Precision = "float32"
    """Precision of sampling. With bfloat16, recompute log-probabilities with `logp_BT` before an update."""
    updates: Precision = "float32"
    """Precision of matrix products in `evaluate`, `logp_BT` and `kl_BT`; weights and sums stay as they are."""
    weights: Precision = "float32"
    """Precision in which weights are held."""
    attention: Literal["auto", "eager", "sdpa"] = "auto"
    """Attention of the Hugging Face model; auto: eager on a CPU, where it is faster on short texts, else sdpa."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""

    def __post_init__(self) -> None:
        if not self.temperature > 0 or self.max_new_tokens < 1 or self.rows < 1:
            raise ConfigError(
                f"temperature, max_new_tokens and rows must be above 0, got {self.temperature}, {self.max_new_tokens}, {self.rows}"
            )


@dataclass(frozen=True)
class _Decisions:
    """Where decisions lie in closed-up rows."""

    ids_BL: Tensor
    row_N: Tensor
    column_N: Tensor
    """The token before the decision, whose hidden state predicts it."""
    target_N: Tensor
    mask_BT: Tensor
    length_B: Tensor
    """Tokens of each row before its last one, which nothing reads."""


class LMPolicy:
    """A causal LM as a `Policy`. `module` holds everything that is trained."""

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        config: LMConfig | None = None,
        value_head: nn.Module | None = None,
        *,
        adapters: bool = True,
    ) -> None:
        """Wrap a loaded model; `adapters=False` is the frozen reference of a LoRA policy, sharing its weights.

        Raises ConfigError for a model with a recurrent or hybrid cache or an output head that is not understood.
        """
        self.config = config or LMConfig()
        self.tokenizer = tokenizer
        self.module = ScoredLM(model, value_head)
        refuse_recurrent(self.module)
        self.adapters = adapters
        self.pad_id = (
            None if tokenizer is None else choose_pad(tokenizer, len(self.module.plain.get_input_embeddings().weight))
        )
        self.end_tokens = end_tokens(self.module.plain, tokenizer)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.module.plain.device

    # -- acting ----------------------------------------------------------------------------------------------------

    def act(self, obs: Tensor, rng: np.random.Generator) -> Act:
        """Sample one whole answer for each prompt of obs_BP (filled on the left with PAD). Tensors lie on the policy's device.

        `logp_BT` is at the sampling temperature over the whole vocabulary; equal weights, prompts and generator give equal bits.
        Raises DataError for an empty prompt, ConfigError where prompt and answer do not fit the model's context.
        """
        self._check_context(obs.shape[1] + self.config.max_new_tokens)
        settings = SampleSettings(
            self.config.temperature, self.config.max_new_tokens, self.end_tokens, self.config.rows
        )
        with torch.no_grad(), self._active():
            return sample(self._engine(), obs.to(self.device), settings, rng)

    def _engine(self) -> Engine:
        dtype = getattr(torch, self.config.sampling)
        if is_plain_llama(self.module):
            return LlamaEngine(self.module, dtype)
        return HFEngine(self.module, dtype)

    def _active(self) -> Any:
        """Return a context in which the adapters act or not, as this policy wants."""
        return nullcontext() if self.adapters else self.module.adapters_off()

    def _check_context(self, tokens: int) -> None:
        context = getattr(self.module.plain.config.get_text_config(), "max_position_embeddings", None)
        if context is not None and tokens > context:
            raise ConfigError(
                f"prompt and answer need {tokens} tokens and the model reads {context}; shorten the prompts or max_new_tokens"
            )

    # -- evaluating ------------------------------------------------------------------------------------------------

    def evaluate(self, episodes: Episodes) -> Evaluation:
        """Return log-probability (at the sampling temperature), entropy and value of every decision, with gradients.

        Nats, (B, T), 0 where masked. The caller cuts episodes into batches, best sorted by length. A reference gives no gradients.
        """
        found = self._decisions(episodes)
        frozen = nullcontext() if self.adapters else torch.no_grad()
        with frozen, self._active(), autocast(self.device, getattr(torch, self.config.updates)):
            logp_N, entropy_N, value_N = self.module(
                found.ids_BL, found.row_N, found.column_N, found.target_N, self.config.temperature, found.length_B
            )
        value_BT = None if value_N is None else _spread(value_N, found.mask_BT)
        return Evaluation(_spread(logp_N, found.mask_BT), _spread(entropy_N, found.mask_BT), value_BT)

    def logp_BT(self, episodes: Episodes) -> Tensor:
        """Return the log-probability of every decision, nats, 0 where masked; no gradient, batched inside."""
        logp_BT = torch.zeros(episodes.mask_BT.shape, device=self.device)
        with torch.no_grad():
            for rows in row_batches(episodes, TOKENS_AT_ONCE):
                logp_BT[rows.to(self.device)] = self.evaluate(episodes.select(rows)).logp_BT
        return logp_BT

    def kl_BT(self, reference: Any, episodes: Episodes, read: Episodes | None = None) -> Tensor:
        """Return the full-vocabulary KL(self || reference) of every decision, nats, 0 where masked; no gradient.

        `read`: the same rows under the prompts that the reference reads, where these are others. Both at this policy's temperature. Raises ConfigError unless `reference` is an LMPolicy over the same vocabulary.
        """
        if not isinstance(reference, LMPolicy):
            raise ConfigError(
                f"the KL of a language model needs another LMPolicy as reference, got {type(reference).__name__}"
            )
        kl_BT = torch.zeros(episodes.mask_BT.shape, device=self.device)
        with torch.no_grad():
            for rows in row_batches(episodes, TOKENS_AT_ONCE):
                part = episodes.select(rows)
                theirs = part if read is None else read.select(rows)
                kl_BT[rows.to(self.device)] = self._kl_of_batch(reference, part, theirs)
        return kl_BT

    def _kl_of_batch(self, reference: LMPolicy, episodes: Episodes, read: Episodes) -> Tensor:
        found = self._decisions(episodes)
        ours_ND, theirs_ND = (
            self._hidden(found),
            reference._hidden(found if read is episodes else self._decisions(read)),
        )
        parts: list[Tensor] = []
        for part in blocks(ours_ND, self.module.vocabulary):
            with self._active():
                ours_NV = logits_to_logp(self.module.logits_NV(ours_ND[part]), self.config.temperature)
            with reference._active():
                theirs_NV = reference.module.logits_NV(theirs_ND[part].to(reference.device)).to(ours_NV.device)
                theirs_NV = logits_to_logp(theirs_NV, self.config.temperature)
            if ours_NV.shape != theirs_NV.shape:
                raise ConfigError(
                    f"policy and reference have {ours_NV.shape[1]} and {theirs_NV.shape[1]} tokens; expected one vocabulary"
                )
            parts.append((ours_NV.softmax(-1) * (ours_NV - theirs_NV)).sum(-1))
        # Rounding may carry a KL of two equal distributions a hair below 0.
        return _spread(torch.cat(parts).clamp_(min=0), found.mask_BT)

    def _hidden(self, found: _Decisions) -> Tensor:
        with self._active(), autocast(self.device, getattr(torch, self.config.updates)):
            hidden_BLD = self.module.hidden_BLD(found.ids_BL.to(self.device), found.length_B, use_cache=False)
        return hidden_BLD[found.row_N.to(self.device), found.column_N.to(self.device)]

    def _decisions(self, episodes: Episodes) -> _Decisions:
        """Close up prompt and answer to the left and find every decision in them."""
        obs_BP, action_BT, mask_BT = (x.to(self.device) for x in (episodes.obs, episodes.action, episodes.mask_BT))
        token_BC = torch.cat([obs_BP, action_BT], dim=1)
        given_BC = token_BC != PAD
        column_BC = given_BC.cumsum(1) - 1
        length = int(column_BC[:, -1].max()) + 1
        self._check_context(length)
        ids_BL = torch.zeros((len(token_BC), max(length, 1)), dtype=torch.long, device=self.device)
        row_M, place_M = given_BC.nonzero(as_tuple=True)
        ids_BL[row_M, column_BC[row_M, place_M]] = token_BC[row_M, place_M]
        row_N, time_N = mask_BT.nonzero(as_tuple=True)
        column_N = column_BC[row_N, obs_BP.shape[1] + time_N] - 1
        target_N = action_BT[row_N, time_N]
        if bool((target_N < 0).any()) or bool((column_N < 0).any()):
            raise DataError(
                "a decision lies on padding or has no token before it; expected mask_BT True only on actions after a prompt"
            )
        # The last token of the longest row is predicted and never read.
        length_B = column_BC[:, -1].clamp(min=1)
        return _Decisions(ids_BL[:, : max(length - 1, 1)], row_N, column_N, target_N, mask_BT, length_B)

    # -- copies and files --------------------------------------------------------------------------------------------

    def reference(self) -> LMPolicy:
        """Return this policy as it is now, frozen, without a value head: a copy; with LoRA the same module, adapters off."""
        if hasattr(self.module.model, "disable_adapter"):
            return LMPolicy(self.module.model, self.tokenizer, self.config, adapters=False)
        return LMPolicy(copy.deepcopy(self.module.model).requires_grad_(False), self.tokenizer, self.config)

    def hash(self) -> str:
        """Return 32 hexadecimal digits of everything that decides how this policy acts: weights, temperature, length."""
        seen = hashlib.sha256(
            json.dumps([self.config.temperature, self.config.max_new_tokens, self.end_tokens]).encode()
        )
        for name, tensor in sorted(self.module.model.state_dict().items()):
            if not self.adapters and ".lora_" in name:
                continue
            # A LoRA policy with its adapters off is its own base: drop what the wrapper adds to names.
            name = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
            seen.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            seen.update(tensor.detach().contiguous().cpu().view(torch.uint8).numpy().tobytes())
        return seen.hexdigest()[:32]

    def standalone(self) -> Any:
        """Return the plain Hugging Face model that acts as this policy does: a copy, adapters merged or, for a reference, taken off."""
        model: Any = copy.deepcopy(self.module.model)
        if not hasattr(model, "merge_and_unload"):
            return model
        return model.merge_and_unload() if self.adapters else model.unload()

    def save(self, path: str | Path) -> None:
        """Write a Hugging Face checkpoint (adapters merged), the tokenizer, the value head and the config; atomic.

        Raises StoreError when the disk is full; what was there before is then intact.
        """
        with atomic_folder(Path(path)) as folder:
            self.standalone().save_pretrained(folder)
            if self.tokenizer is not None:
                self.tokenizer.save_pretrained(folder)
            if self.module.value_head is not None:
                tensors = {name: tensor.contiguous() for name, tensor in self.module.value_head.state_dict().items()}
                save_file(tensors, folder / "value_head.safetensors")
            (folder / "backflip.json").write_text(json.dumps({"lm": asdict(self.config)}, indent=2), encoding="utf-8")


def load_policy(
    where: str | Path, config: LMConfig | None = None, *, lora: LoraConfig | None = None, value_head: bool = False
) -> LMPolicy:
    """Load any causal LM by folder or hub id.

    `config` None takes the one saved with the policy, or the defaults. `lora` freezes the model and adds adapters. `value_head` adds one
    that starts at 0 (docs/ppo.md, rule 18), or at the weights saved beside the model.
    Raises DataError for a missing or broken checkpoint, ConfigError for a model that cannot be sampled here.
    """
    saved = _saved_config(Path(where))  # read where it is not needed too: a broken file is a broken checkpoint
    config = config or saved
    device = pick_device(config.device)
    attention = ("eager" if device.type == "cpu" else "sdpa") if config.attention == "auto" else config.attention
    model: Any = read_model(where, dtype=getattr(torch, config.weights), device=device, attention=attention)
    tokenizer = read_tokenizer(where)
    width = model.config.get_text_config().hidden_size
    if lora is not None:
        model = add_adapters(model, lora)
    return LMPolicy(model, tokenizer, config, read_value_head(Path(where), width).to(device) if value_head else None)


def row_batches(episodes: Episodes, tokens: int) -> list[Tensor]:
    """Return row indices of batches of about `tokens` tokens, rows of like length together, longest first."""
    length_B = ((episodes.obs != PAD).sum(1) + (episodes.action != PAD).sum(1)).cpu()
    batches: list[Tensor] = []
    order = length_B.argsort(descending=True, stable=True)
    start = 0
    while start < len(order):
        rows = max(1, tokens // max(1, int(length_B[order[start]])))
        batches.append(order[start : start + rows])
        start += rows
    return batches


def _spread(value_N: Tensor, mask_BT: Tensor) -> Tensor:
    """Put one number a decision back into (B, T), 0 elsewhere."""
    return torch.zeros(mask_BT.shape, dtype=value_N.dtype, device=value_N.device).masked_scatter(mask_BT, value_N)


def _saved_config(folder: Path) -> LMConfig:
    saved = folder / "backflip.json"
    if not saved.is_file():
        return LMConfig()
    try:
        values = json.loads(saved.read_text(encoding="utf-8"))["lm"]
        return LMConfig(**{spec.name: values[spec.name] for spec in fields(LMConfig) if spec.name in values})
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"cannot read {saved}: {error}; expected the file that LMPolicy.save writes: save the policy again"
        ) from error
