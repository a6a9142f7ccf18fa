"""Sample answers for many prompts, refilling each finished slot from the prompts that wait.

The scheduler here is the same for every model. An engine runs the model: `HFEngine` for any causal LM with a plain
key-value cache, `llama.LlamaEngine` for the Llama family. Every row has its own uniform numbers, drawn before
anything is sampled, so what a row says does not depend on which slot it got, when, or beside whom (beyond the last bits of a
matrix product). Nothing is truncated: no top-k, no top-p, no minimum length.

Shapes: B rows asked for, S slots, T decisions, P prompt tokens, N prefilled prompts, K slots refilled at once, D hidden,
U slots in use, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from backflip.data import PAD, Act
from backflip.errors import ConfigError, DataError
from backflip.policies.draw import draw, logits_to_logp


class Engine(Protocol):
    """Runs a model for the scheduler. Hidden states come after the final norm, for the last token of each row."""

    has_values: bool
    guard: Any
    """The context it runs in: `torch.no_grad`, or `torch.inference_mode` where the model keeps nothing it computes."""

    def prefill(self, ids_NP: Tensor, length_N: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        """Read left-padded prompts. Return hidden_ND and keys and values as blocks for `Columns.splice`."""
        ...

    def open(self, slots: int, longest: int, likes: Sequence[Tensor]) -> None:
        """Make room for `slots` rows of at most `longest` tokens."""
        ...

    def splice(self, slots_K: Tensor, blocks: Sequence[Tensor], pick_K: Tensor, length_K: Tensor) -> None:
        """Begin prefilled rows in these slots."""
        ...

    def step(self, token_S: Tensor) -> Tensor:
        """Read one token a slot and return hidden_SD."""
        ...

    def release(self, slots_K: Tensor) -> None:
        """Forget the rows in these slots."""
        ...

    def keep(self, slots_K: Tensor) -> None:
        """Drop all slots but these."""
        ...

    def logits(self, hidden_SD: Tensor) -> Tensor:
        """Apply the output head."""
        ...

    def values(self, hidden_SD: Tensor) -> Tensor:
        """Apply the value head."""
        ...


@dataclass(frozen=True)
class SampleSettings:
    """What the scheduler needs to know."""

    temperature: float
    max_new_tokens: int
    end_tokens: tuple[int, ...]
    """Any of these ends a row; it is the row's last decision."""
    slots: int
    """Rows decoded at once."""


class _Waiting:
    """The prompts that wait, longest first, prefilled a block at a time; their first tokens are drawn at once."""

    def __init__(self, engine: Engine, prompts_BP: Tensor, answers: _Answers, block: int) -> None:
        self.engine = engine
        self.prompts_BP = prompts_BP
        self.length_B = (prompts_BP != PAD).sum(1)
        if int(self.length_B.min()) == 0:
            row = int((self.length_B == 0).nonzero()[0])
            raise DataError(
                f"prompt {row} has no tokens; expected at least one, such as a begin-of-text token: drop it"
            )
        self.order = self.length_B.argsort(descending=True, stable=True)
        self.answers = answers
        self.block = block
        self.read = 0
        self.blocks: Sequence[Tensor] = ()
        self.rows_N = self.order[:0]
        self.pick_N = self.order[:0]
        self.taken = 0

    def fill(self) -> bool:
        """Prefill blocks until some row wants to go on; False when no prompt is left."""
        while self.taken == len(self.rows_N):
            if self.read >= len(self.order):
                return False
            self._prefill(self.order[self.read : self.read + self.block])
            self.read += self.block
        return True

    def take(self, count: int) -> tuple[Tensor, Tensor]:
        """Return (row, place in the block) of at most `count` prefilled rows."""
        part = slice(self.taken, self.taken + count)
        self.taken = min(self.taken + count, len(self.rows_N))
        return self.rows_N[part], self.pick_N[part]

    def _prefill(self, rows_N: Tensor) -> None:
        width = int(self.length_B[rows_N].max())
        block_NP = self.prompts_BP[rows_N, self.prompts_BP.shape[1] - width :]
        # Rows of one group share a prompt: read each distinct prompt once.
        distinct_UP, which_N = torch.unique(block_NP, dim=0, return_inverse=True)
        hidden_UD, self.blocks = self.engine.prefill(distinct_UP.clamp(min=0), (distinct_UP != PAD).sum(1))
        done_N = self.answers.record(rows_N, torch.zeros_like(rows_N), hidden_UD, which_N)
        self.rows_N, self.pick_N, self.taken = rows_N[~done_N], which_N[~done_N], 0


class _Answers:
    """What has been sampled, by row of the request. Row B is a bin for slots that have no row."""

    def __init__(self, engine: Engine, settings: SampleSettings, uniform_BT: Tensor) -> None:
        rows, longest = uniform_BT.shape
        device = uniform_BT.device
        self.engine = engine
        self.settings = settings
        self.uniform_BT = torch.cat([uniform_BT, uniform_BT.new_full((1, longest), 0.5)])
        self.action_BT = torch.full((rows + 1, longest), PAD, device=device)
        self.logp_BT = torch.zeros((rows + 1, longest), device=device)
        self.value_BT = torch.zeros((rows + 1, longest), device=device) if engine.has_values else None
        self.end_E = torch.tensor(settings.end_tokens, dtype=torch.long, device=device)

    def record(self, row_N: Tensor, time_N: Tensor, hidden: Tensor, which_N: Tensor | None = None) -> Tensor:
        """Draw decision `time_N` of each row from its hidden state and store it. Returns done_N."""
        logp_NV = logits_to_logp(self.engine.logits(hidden), self.settings.temperature)
        logp_NV = logp_NV if which_N is None else logp_NV[which_N]
        token_N, logp_N = draw(logp_NV, self.uniform_BT[row_N, time_N])
        self.action_BT[row_N, time_N] = token_N
        self.logp_BT[row_N, time_N] = logp_N
        if self.value_BT is not None:
            value_N = self.engine.values(hidden)
            self.value_BT[row_N, time_N] = value_N if which_N is None else value_N[which_N]
        return self._is_end(token_N) | (time_N + 1 == self.settings.max_new_tokens)

    def _is_end(self, token: Tensor) -> Tensor:
        return (token[..., None] == self.end_E).any(-1)

    def as_act(self) -> Act:
        """Return everything but the bin, cut to the longest answer. Raises DataError where logits were not finite."""
        action_BT = self.action_BT[:-1]
        mask_BT = action_BT != PAD
        longest = int(mask_BT.sum(1).max())
        logp_BT = self.logp_BT[:-1, :longest]
        if not bool(torch.isfinite(logp_BT).all()):
            raise DataError(
                "the policy's logits are not finite, so nothing can be sampled; go back to an earlier checkpoint"
            )
        value_BT = None if self.value_BT is None else self.value_BT[:-1, :longest]
        # An end token is always the last, so a row that holds one has ended.
        return Act(action_BT[:, :longest], mask_BT[:, :longest], logp_BT, self._is_end(action_BT).any(1), value_BT)


def sample(engine: Engine, prompts_BP: Tensor, settings: SampleSettings, rng: np.random.Generator) -> Act:
    """Sample one answer a prompt. `prompts_BP` is filled on the left with PAD and lies on the engine's device.

    Equal weights, prompts, settings and generator state give equal bits. Raises DataError for an empty prompt or logits
    that are not finite, ConfigError for settings out of range.
    """
    if settings.temperature <= 0 or settings.max_new_tokens < 1 or settings.slots < 1:
        raise ConfigError(f"temperature, max_new_tokens and slots must be above 0, got {settings}")
    if len(prompts_BP) == 0:
        raise DataError("nothing to sample: no prompts; expected at least one row")
    uniform_BT = torch.from_numpy(rng.random((len(prompts_BP), settings.max_new_tokens)))
    precise = torch.float32 if prompts_BP.device.type == "mps" else torch.float64
    answers = _Answers(engine, settings, uniform_BT.to(prompts_BP.device, precise))
    # What is returned is allocated above, outside: tensors made in inference mode cannot take part in a gradient later.
    with engine.guard():
        waiting = _Waiting(engine, prompts_BP, answers, settings.slots)
        if waiting.fill():
            slots = min(settings.slots, len(prompts_BP))
            engine.open(slots, int(waiting.length_B.max()) + settings.max_new_tokens, waiting.blocks)
            _decode(engine, waiting, answers, slots)
    return answers.as_act()


def _decode(engine: Engine, waiting: _Waiting, answers: _Answers, slots: int) -> None:
    """Step all slots together until no row is left, refilling slots as their rows finish."""
    empty_row = len(answers.action_BT) - 1
    row_S = torch.full((slots,), empty_row, device=answers.action_BT.device)
    time_S = torch.ones_like(row_S)
    live = 0
    free_K = torch.arange(slots, device=row_S.device)
    while True:
        while len(free_K) and waiting.fill():
            row_K, pick_K = waiting.take(len(free_K))
            filled_K, free_K = free_K[: len(row_K)], free_K[len(row_K) :]
            engine.splice(filled_K, waiting.blocks, pick_K, waiting.length_B[row_K])
            row_S[filled_K] = row_K
            time_S[filled_K] = 1
            live += len(row_K)
        if live == 0:
            return
        if len(free_K):
            row_S[free_K] = empty_row
            time_S[free_K] = 1
            engine.release(free_K)
            if live <= 0.75 * len(row_S):
                kept_K = (row_S != empty_row).nonzero()[:, 0]
                engine.keep(kept_K)
                row_S, time_S = row_S[kept_K], time_S[kept_K]
        token_S = answers.action_BT[row_S, time_S - 1].clamp(min=0)
        done_S = answers.record(row_S, time_S, engine.step(token_S))
        time_S += 1
        if live < len(row_S):
            empty_S = row_S == empty_row
            done_S &= ~empty_S
            time_S[empty_S] = 1
        free_K = done_S.nonzero()[:, 0]
        live -= len(free_K)
