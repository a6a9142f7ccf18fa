"""One gradient step from parts that fit in memory, equal to one step on the whole batch.

Rows are sorted by length and cut into micro-batches by a budget of tokens, and each micro-batch loses the columns that
only hold its filling, so little work is spent on padding. Losses come in with weights that already hold the
denominators of the whole batch; therefore the gradients of the parts simply add up.

Left out: what the loss is (`ppo`, `sft`), schedules and devices (the loop).

Shapes: B rows, T decisions, P prompt columns; b, t, p those of a micro-batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from backflip.data import PAD, Episodes, Evaluation
from backflip.errors import ConfigError, DataError
from backflip.protocols import Policy

Autocast = Literal["none", "bf16"]
Aggregate = Literal["token", "sequence", "constant"]
Loss = Callable[[Evaluation, Mapping[str, Tensor]], Tensor]
"""From a micro-batch's evaluation and its part of the targets to a scalar: a sum under whole-batch weights."""


@dataclass(frozen=True)
class MicroBatch:
    """Some rows of a batch, trimmed."""

    rows: Tensor
    """int64, positions in the batch."""
    episodes: Episodes
    tokens: int
    """Positions that will be computed, padding included."""


def prompt_width_B(episodes: Episodes) -> Tensor:
    """Count the columns of `obs` from a row's first that is no filling; all columns where nothing is filled."""
    obs = episodes.obs
    if obs.dim() != 2 or obs.dtype != torch.int64:  # only int64 token rows are ever filled with PAD
        return torch.full((len(obs),), obs.shape[1] if obs.dim() > 1 else 1, dtype=torch.long, device=obs.device)
    real_BP = obs != PAD
    first_B = torch.where(real_BP.any(1), real_BP.int().argmax(1), obs.shape[1])
    return obs.shape[1] - first_B


def answer_width_B(episodes: Episodes) -> Tensor:
    """Count the columns up to and with a row's last decision."""
    mask_BT = episodes.mask_BT
    position_T = torch.arange(1, mask_BT.shape[1] + 1, device=mask_BT.device)
    return (mask_BT * position_T).amax(1) if mask_BT.shape[1] else mask_BT.sum(1)


def trim(episodes: Episodes) -> Episodes:
    """Cut leading `obs` columns that are filling in every row, and trailing columns without a decision in any row.

    What comes after a row's last decision cannot change any decision, so log-probabilities stay what they were. Where
    `obs` has one entry a decision, its first T entries are those of the T decisions that are left.
    """
    prompt, answer = int(prompt_width_B(episodes).max()), int(answer_width_B(episodes).max())
    obs = episodes.obs
    cut: dict[str, Any] = {"obs": obs[:, obs.shape[1] - prompt :] if obs.dim() > 1 else obs}
    for name in ("action", "mask_BT", "logp_BT", "value_BT", "ref_logp_BT", "reward_BT"):
        tensor = getattr(episodes, name)
        cut[name] = None if tensor is None else tensor[:, :answer]
    return replace(episodes, **cut)


def micro_batches(episodes: Episodes, tokens_per_microbatch: int, *, whole_groups: bool = False) -> list[MicroBatch]:
    """Cut episodes into trimmed micro-batches of at most this many tokens (one row at least), longest rows first.

    Rows without any decision are left out. Longest first, so that a batch that does not fit in memory fails at once.
    With `whole_groups` the rows of a group stay together, one after the other, and the smallest part is a group.
    """
    if tokens_per_microbatch < 1:
        raise ConfigError(f"tokens_per_microbatch is {tokens_per_microbatch}, expected 1 or more")
    prompt_B, answer_B = prompt_width_B(episodes).cpu().numpy(), answer_width_B(episodes).cpu().numpy()
    rows, whole = len(episodes), episodes.obs.shape[1] + episodes.mask_BT.shape[1]
    if rows and (prompt_B + answer_B == whole).all() and rows * whole <= tokens_per_microbatch:
        return [MicroBatch(torch.arange(rows), episodes, rows * whole)]  # nothing to cut, order or trim
    order = np.lexsort((-prompt_B, -(prompt_B + answer_B)))
    group_B = episodes.group_B.cpu().numpy() if whole_groups else np.arange(rows)
    together: dict[int, list[int]] = {}
    for row in order[answer_B[order] > 0].tolist():
        together.setdefault(int(group_B[row]), []).append(row)
    prompts, answers = prompt_B.tolist(), answer_B.tolist()
    chunks: list[list[int]] = []
    prompt = answer = 0
    for unit in together.values():
        wide = max(prompts[row] for row in unit), max(answers[row] for row in unit)
        wider = max(prompt, wide[0]), max(answer, wide[1])
        if chunks and (len(chunks[-1]) + len(unit)) * sum(wider) <= tokens_per_microbatch:
            chunks[-1].extend(unit)
            prompt, answer = wider
        else:
            chunks.append(list(unit))
            prompt, answer = wide
    parts = [(torch.as_tensor(chunk), trim(episodes.select(chunk))) for chunk in chunks]
    return [MicroBatch(rows, part, len(rows) * (part.obs.shape[1] + part.mask_BT.shape[1])) for rows, part in parts]


def decision_weights(mask_BT: Tensor, aggregate: Aggregate, constant_length: int | None = None) -> Tensor:
    """Return the weight of each decision in a loss over these rows; 0 where masked.

    token: every decision weighs the same (weights sum to 1). sequence: every row weighs the same and its decisions
    share its weight, so decisions of long rows count less. constant: 1 / (rows * `constant_length`), which does not
    depend on the lengths that were sampled (Liu et al. 2025, "Understanding R1-Zero-like training", section 3.2).

    Raises:
        ConfigError: `constant` without a length, or an unknown rule.
        DataError: no decision at all.
    """
    count_B = mask_BT.sum(1)
    if not count_B.any():
        raise DataError("there is no decision in these episodes: the mask is False everywhere")
    mask = mask_BT.float()
    if aggregate == "token":
        return mask / count_B.sum()
    if aggregate == "sequence":
        return mask / count_B.clamp(min=1).unsqueeze(1) / (count_B > 0).sum()
    if aggregate == "constant":
        if constant_length is None or constant_length < 1:
            raise ConfigError("aggregate=constant needs constant_length, e.g. the longest answer allowed, in tokens")
        return mask / (len(mask) * constant_length)
    raise ConfigError(f"aggregate is {aggregate!r}, expected token, sequence or constant")


def precision(device: torch.device, autocast: Autocast) -> AbstractContextManager[Any]:
    """Return the context in which a policy is evaluated: fp32 as it is, or bf16 where autocast allows it."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=autocast == "bf16")


def accumulate(
    policy: Policy,
    episodes: Episodes,
    targets: Mapping[str, Tensor],
    loss: Loss,
    *,
    tokens_per_microbatch: int,
    autocast: Autocast = "none",
    whole_groups: bool = False,
) -> tuple[Evaluation, float]:
    """Add the gradient of a loss to the policy's parameters, one micro-batch at a time; take no step.

    `targets` are (B, T) or (B, 1) tensors that `loss` gets in the micro-batch's rows and columns; `whole_groups` keeps rows
    together that a loss compares. Returns the detached evaluation of the whole batch, (B, T) and 0 where masked, and the loss.
    """
    total = torch.zeros((), device=episodes.mask_BT.device)
    parts: list[tuple[MicroBatch, Evaluation]] = []
    for micro in micro_batches(episodes, tokens_per_microbatch, whole_groups=whole_groups):
        rows, width = micro.rows.to(episodes.mask_BT.device), micro.episodes.mask_BT.shape[1]
        with precision(episodes.mask_BT.device, autocast):
            evaluation = as_float(policy.evaluate(micro.episodes))
        part = loss(evaluation, {name: tensor[rows, :width] for name, tensor in targets.items()})
        part.backward()
        total += part.detach()
        parts.append((micro, evaluation))
    return _whole(episodes, parts), float(total)


def evaluate_all(
    policy: Policy, episodes: Episodes, *, tokens_per_microbatch: int, autocast: Autocast = "none"
) -> Evaluation:
    """Evaluate every decision without gradient, in micro-batches; (B, T), 0 where masked.

    The way to fill `ref_logp_BT`: `evaluate_all(reference, episodes, ...).logp_BT`.
    """
    parts: list[tuple[MicroBatch, Evaluation]] = []
    with torch.no_grad():
        for micro in micro_batches(episodes, tokens_per_microbatch):
            with precision(episodes.mask_BT.device, autocast):
                parts.append((micro, as_float(policy.evaluate(micro.episodes))))
    return _whole(episodes, parts)


def as_float(evaluation: Evaluation) -> Evaluation:
    """Return the evaluation in fp32: losses and statistics are never computed in half precision."""
    value_BT = evaluation.value_BT
    return Evaluation(
        evaluation.logp_BT.float(), evaluation.entropy_BT.float(), None if value_BT is None else value_BT.float()
    )


def _whole(episodes: Episodes, parts: Sequence[tuple[MicroBatch, Evaluation]]) -> Evaluation:
    """Put the detached evaluations of micro-batches back into the rows and columns of the batch."""

    def place(name: str) -> Tensor:
        whole_BT = torch.zeros(episodes.mask_BT.shape, device=episodes.mask_BT.device)
        for micro, evaluation in parts:
            tensor, mask = getattr(evaluation, name).detach(), micro.episodes.mask_BT
            whole_BT[micro.rows.to(whole_BT.device), : mask.shape[1]] = torch.where(mask, tensor, 0.0)
        return whole_BT

    valued = bool(parts) and all(evaluation.value_BT is not None for _, evaluation in parts)
    return Evaluation(place("logp_BT"), place("entropy_BT"), place("value_BT") if valued else None)


def take_step(optimizer: torch.optim.Optimizer, loss: float, max_grad_norm: float) -> float:
    """Clip the accumulated gradient, step, clear it; return its norm before clipping.

    Raises:
        DataError: the loss or the gradient is not finite. The gradient is cleared and no parameter has moved.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if not parameters:
        raise ConfigError("no parameter of the optimizer has a gradient; make it from the parameters of this policy")
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm))
    if not (math.isfinite(loss) and math.isfinite(norm)):
        optimizer.zero_grad()
        raise DataError(
            f"refused a step: loss {loss}, gradient norm {norm}; the weights are as before this step. "
            "Lower the learning rate, or look for rewards and log-probabilities that are out of range"
        )
    optimizer.step()
    optimizer.zero_grad()
    return norm


def minibatches(rows: int, count: int, rng: np.random.Generator | None) -> Iterator[Tensor]:
    """Yield the row positions of `count` minibatches that together hold every row once, in a drawn order.

    Raises:
        ConfigError: more minibatches than rows, or several minibatches without a generator to draw their rows.
    """
    if not 1 <= count <= rows:
        raise ConfigError(f"cannot cut {rows} rows into {count} minibatches; expected 1 to {rows}")
    if count == 1:
        yield torch.arange(rows)
        return
    if rng is None:
        raise ConfigError(f"{count} minibatches need a numpy Generator to draw their rows; pass rng=, or minibatches=1")
    for chunk in np.array_split(rng.permutation(rows), count):
        yield torch.as_tensor(chunk)
