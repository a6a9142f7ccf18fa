"""A reward model for text: a Hugging Face sequence classifier with one label, and the normaliser that goes with it.

The one place in rewards that knows how text becomes the model's input. Checkpoints are plain
`AutoModelForSequenceClassification` folders, so other tools read ours and we read theirs. Left out: fitting (`fit`),
averaging several (`ensemble`).

Shapes: B rows, P prompt tokens, T answer tokens, L = tokens of prompt and answer together, D hidden, K labels.
"""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from backflip.data import PAD, Episodes
from backflip.errors import ConfigError, DataError
from backflip.policies.llama_forward import can_forward, forward_BLD
from backflip.policies.products import fast_products

NORMALISER_KEY = "backflip_normaliser"
CLOSING_KEY = "backflip_closing_token"
"""In a checkpoint's config: the token that is put behind a row that does not end with it. Models from other tools have none."""
TOKENS_A_PASS = {"cpu": 2048, "cuda": 65_536, "mps": 16_384}
"""Tokens, padding included, that go through the model at once: on a CPU what stays in its cache."""


@dataclass(frozen=True)
class Normaliser:
    """What turns a raw score into a reward of mean 0 and standard deviation 1 on the reference policy's answers."""

    mean: float
    """Mean raw score on the reference answers."""
    std: float
    """Their standard deviation; above 0."""
    n: int
    """How many answers these rest on."""
    reference: str
    """Hash of the policy that wrote them."""

    def __post_init__(self) -> None:
        if not (np.isfinite(self.mean) and np.isfinite(self.std) and self.std > 0 and self.n > 1):
            raise DataError(
                f"scores of mean {self.mean:.3g} and standard deviation {self.std:.3g} over {self.n} answers give no scale: the reward "
                "model says the same of every answer, as it does where every comparison was a tie; ask for other comparisons"
            )


class SequenceRewardModel:
    """Score whole answers with a Hugging Face sequence classifier of one label."""

    called, labels_wanted = "reward model", "one label"

    @staticmethod
    def reads(labels: int) -> bool:
        """Return whether a classifier of so many labels is one of these."""
        return labels == 1

    def __init__(self, module: Any, normaliser: Normaliser | Literal["none"] | None = None) -> None:
        """Wrap `module`, a classifier from transformers with one label and `config.pad_token_id` set.

        `normaliser`: "none" says that raw scores are wanted as rewards; None that it is yet to be measured, and
        until then the model refuses to be a reward.

        Raises:
            ConfigError: the module has another number of labels or no pad token.
        """
        if not self.reads(module.config.num_labels):
            raise ConfigError(
                f"a {self.called} needs {self.labels_wanted}, this classifier has {module.config.num_labels}; use another checkpoint"
            )
        if module.config.pad_token_id is None:
            raise ConfigError(
                "config.pad_token_id is not set, so transformers would read the wrong token; set it before wrapping"
            )
        self.module: Any = module.eval()
        self.config: Any = module.config
        self.normaliser = normaliser

    @classmethod
    def from_causal_lm(cls, source: Any, rng: np.random.Generator, pad_token_id: int | None = None) -> Self:
        """Start from a causal language model (a folder or hub id, or one in memory, which is copied).

        The head is drawn from N(0, 1 / (D + 1)) without bias (Ziegler et al. 2019; Stiennon et al. 2020, App. B.1).
        Where the language model has no pad token, or pads with its end token, the reward model gets a row of its own for it.

        Raises:
            DataError: the folder holds no readable checkpoint.
            ConfigError: `pad_token_id` is an end token, or the architecture has no sequence classifier with a linear head.
        """
        import transformers

        lm: Any = source
        if isinstance(source, str | Path):
            lm = _pretrained(transformers.AutoModelForCausalLM, source)[0]
        config = copy.deepcopy(lm.config)
        config.num_labels = 1
        try:
            module: Any = transformers.AutoModelForSequenceClassification.from_config(
                config, attn_implementation=_attention(lm.device)
            )
        except ValueError as error:
            raise ConfigError(
                f"transformers has no sequence classifier for {type(lm).__name__}; use another base model"
            ) from error
        module.to(dtype=torch.float32, device=lm.device)
        module.base_model.load_state_dict(lm.base_model.state_dict())
        ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
        pad = config.pad_token_id if pad_token_id is None else pad_token_id
        if pad is None or pad in ends:
            if pad_token_id is not None:
                raise ConfigError(
                    f"pad token {pad} is an end token, so nobody could tell where an answer ends; give another or none"
                )
            pad = module.get_input_embeddings().num_embeddings
            module.resize_token_embeddings(pad + 1, mean_resizing=False)
        module.config.pad_token_id = pad
        setattr(module.config, CLOSING_KEY, ends[0])
        head = getattr(module, "score", None)
        if not isinstance(head, nn.Linear) or len(list(head.parameters())) != 1:
            raise ConfigError(
                f"{type(module).__name__} has no bias-free linear head `score`; use a decoder-only base model"
            )
        draw = rng.standard_normal(head.weight.shape) / np.sqrt(head.in_features + 1)
        with torch.no_grad():
            head.weight.copy_(torch.from_numpy(draw))
        return cls(module)

    @classmethod
    def load(cls, path: str | Path, normaliser: Literal["stored", "none"] = "stored") -> Self:
        """Read a checkpoint of ours or of another tool (a folder or a hub id).

        Raises:
            DataError: it is missing or half-written, or holds no reward head (a language model, say).
        """
        import transformers

        module, info = _pretrained(transformers.AutoModelForSequenceClassification, path)
        missing = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
        if missing:
            raise DataError(
                f"{path} lacks the weights {', '.join(missing[:3])}; expected a trained reward model, not a language model"
            )
        stored = getattr(module.config, NORMALISER_KEY, None)
        if normaliser == "none":
            return cls(module, "none")
        return cls(module, Normaliser(**stored) if stored else None)

    def save(self, path: Path, tokenizer: Any = None) -> None:
        """Write a plain transformers checkpoint, atomically; the normaliser is in its config.json."""
        from backflip.checkpoint import atomic_folder

        stored = asdict(self.normaliser) if isinstance(self.normaliser, Normaliser) else None
        setattr(self.config, NORMALISER_KEY, stored)
        with atomic_folder(path) as folder:
            self.module.save_pretrained(folder)
            if tokenizer is not None:
                tokenizer.save_pretrained(folder)

    def score_B(self, episodes: Episodes, *, with_grad: bool = False, tokens_a_pass: int | None = None) -> Tensor:
        """Return the raw score of every row, float32; errors and `tokens_a_pass` are those of `said_BK`."""
        return self.said_BK(episodes, with_grad=with_grad, tokens_a_pass=tokens_a_pass)[:, 0]

    def said_BK(self, episodes: Episodes, *, with_grad: bool = False, tokens_a_pass: int | None = None) -> Tensor:
        """Return all that the head says of every row, float32; the same in whatever batch and padding a row stands.

        Rows go through in order of length, at most `tokens_a_pass` tokens (padding included) at once; None: as suits the device.

        Raises:
            DataError: a row holds no token, or a token that the model does not know.
        """
        token_BL, length_B = self._tokens(episodes)
        tokens_a_pass = tokens_a_pass or TOKENS_A_PASS[token_BL.device.type]
        order = torch.argsort(length_B, stable=True)
        scores: list[Tensor] = []
        start = 0
        with torch.set_grad_enabled(with_grad):
            while start < len(order):
                stop = start + 1
                while stop < len(order) and (stop + 1 - start) * int(length_B[order[stop]]) <= tokens_a_pass:
                    stop += 1
                rows = order[start:stop]
                scores.append(self._pass(token_BL[rows], length_B[rows]))
                start = stop
            return torch.cat(scores)[torch.argsort(order)]

    def features_BD(self, episodes: Episodes) -> Tensor:
        """Return what the head reads of every row: the last hidden state of its last token, float32, no gradient."""
        token_BL, length_B = self._tokens(episodes)
        found_BD = torch.zeros(len(length_B), self._head.in_features)
        order = torch.argsort(length_B, stable=True)
        with torch.no_grad():
            for rows in torch.split(order, max(1, TOKENS_A_PASS[token_BL.device.type] // max(1, token_BL.shape[1]))):
                last_BD = self._last_hidden_BD(token_BL[rows], length_B[rows])
                found_BD[rows] = last_BD.float().cpu()
        return found_BD

    def set_head(self, weight_D: Tensor) -> None:
        """Replace the weights of the scalar head."""
        with torch.no_grad():
            self._head.weight[0] = weight_D

    @property
    def _head(self) -> nn.Linear:
        return self.module.score

    def __call__(self, episodes: Episodes) -> Tensor:
        """Return reward_BT: the normalised score on each row's last decision, 0 elsewhere; no gradient.

        Raises:
            DataError: the model has no normaliser and `normaliser="none"` was not asked for.
        """
        return on_last_decision(self.normalised_B(episodes), episodes)

    def normalised_B(self, episodes: Episodes) -> Tensor:
        """Return (raw score - mean) / std of every row, no gradient; raw scores if the normaliser is "none"."""
        if self.normaliser is None:
            raise DataError(
                'this reward model has no normaliser; call measure_normaliser first, or load with normaliser="none"'
            )
        return self.normalise(self.score_B(episodes))

    def normalise(self, raw_B: Tensor) -> Tensor:
        """Return (raw score - mean) / std; raw scores where there is nothing to normalise by."""
        known = self.normaliser
        return (raw_B - known.mean) / known.std if isinstance(known, Normaliser) else raw_B

    def measure_normaliser(self, episodes: Episodes, reference: str) -> Normaliser:
        """Set the normaliser from the reference policy's answers, and return it.

        `reference` is that policy's hash. Raises DataError if all scores are equal.
        """
        score_B = self.score_B(episodes).double()
        self.normaliser = Normaliser(float(score_B.mean()), float(score_B.std(correction=0)), len(score_B), reference)
        return self.normaliser

    def _tokens(self, episodes: Episodes) -> tuple[Tensor, Tensor]:
        """Return prompt and answer without gaps from the left, filled with the pad id, and their lengths."""
        device = self.module.device
        raw_BL = torch.cat([episodes.obs, episodes.action], dim=1).to(device)
        real_BL = raw_BL != PAD
        length_B = real_BL.sum(1)
        if len(length_B) and int(length_B.min()) == 0:
            raise DataError(f"row {int(length_B.argmin())} holds no token; expected a prompt or an answer to score")
        vocabulary = int(self.module.get_input_embeddings().num_embeddings)
        if len(length_B) and (int(raw_BL.max()) >= vocabulary or int(raw_BL.min()) < PAD):
            raise DataError(
                f"token {int(raw_BL.max())} is unknown to a reward model of {vocabulary} tokens; use the tokenizer it was trained with"
            )
        order_BL = torch.argsort((~real_BL).to(torch.uint8), dim=1, stable=True)
        packed_BL = raw_BL.gather(1, order_BL)
        closing: int | None = getattr(self.config, CLOSING_KEY, None)
        if closing is not None and len(length_B):
            # A model reads its verdict off the end token; a row that was cut has none (docs/ppo.md, rule 40).
            open_B = packed_BL.gather(1, length_B[:, None] - 1)[:, 0] != closing
            packed_BL = torch.nn.functional.pad(packed_BL, (0, 1), value=PAD)
            packed_BL[open_B, length_B[open_B]] = closing
            length_B = length_B + open_B
        width = int(length_B.max()) if len(length_B) else 0
        return packed_BL[:, :width].masked_fill(packed_BL[:, :width] == PAD, self.config.pad_token_id), length_B

    def _pass(self, token_BL: Tensor, length_B: Tensor) -> Tensor:
        if isinstance(getattr(self.module, "score", None), nn.Linear):
            # Read at the last token here: transformers looks for the last that is no padding, which a pad equal to eos hides.
            return self._head(self._last_hidden_BD(token_BL, length_B)).float()
        ids_BL, real_BL = _cut(token_BL, length_B)
        return self.module(input_ids=ids_BL, attention_mask=real_BL.long(), use_cache=False).logits.float()

    def _last_hidden_BD(self, token_BL: Tensor, length_B: Tensor) -> Tensor:
        """Return what the model makes of every row's last token; filling stands behind it and is never read."""
        decoder = self.module.base_model
        ids_BL, real_BL = _cut(token_BL, length_B)
        with fast_products():
            if can_forward(decoder, ids_BL):
                hidden_BLD = forward_BLD(decoder, ids_BL, length_B)
            else:
                out = decoder(input_ids=ids_BL, attention_mask=real_BL.long(), use_cache=False)
                hidden_BLD = out.last_hidden_state
        return hidden_BLD[torch.arange(len(length_B)), length_B - 1]


def _cut(token_BL: Tensor, length_B: Tensor) -> tuple[Tensor, Tensor]:
    """Return the columns that hold tokens of any row, and which of their places are real."""
    width = int(length_B.max())
    return token_BL[:, :width], torch.arange(width, device=token_BL.device) < length_B[:, None]


def on_last_decision(score_B: Tensor, episodes: Episodes) -> Tensor:
    """Return reward_BT: each row's score on its last decision, 0 elsewhere.

    Raises:
        DataError: a row has no decision, so its score has no place.
    """
    mask_BT = episodes.mask_BT.to(score_B.device)
    empty = (~mask_BT.any(dim=1)).nonzero()
    if len(empty):
        raise DataError(f"row {int(empty[0])} holds no decision, so its score has no place; leave such rows out")
    place_T = torch.arange(mask_BT.shape[1], device=score_B.device)
    last_B = torch.where(mask_BT, place_T, torch.full_like(place_T, -1)).max(dim=1).values
    reward_BT = score_B.new_zeros(mask_BT.shape)
    return reward_BT.scatter(1, last_B[:, None], score_B[:, None])


def _attention(device: torch.device) -> str:
    """Return the attention that is fastest on short texts: plain products on a CPU."""
    return "eager" if device.type == "cpu" else "sdpa"


def _pretrained(auto: Any, path: str | Path) -> tuple[Any, dict[str, Any]]:
    """Load with transformers, in float32, no code from the checkpoint.

    Raises:
        DataError: there is nothing readable at `path`.
    """
    from safetensors import SafetensorError

    from backflip.policies.checkpoints import quiet_loading

    try:
        with quiet_loading():
            module, info = auto.from_pretrained(
                str(path),
                output_loading_info=True,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                attn_implementation=_attention(torch.get_default_device()),
            )
    except (OSError, SafetensorError, json.JSONDecodeError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise DataError(
            f"cannot read the model {path} ({reason}); expected a transformers folder with safetensors weights, or a hub id"
        ) from error
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data = (
            tensor.data.clone()
        )  # out of the file's pages: products round otherwise where memory begins elsewhere
    return module, info
