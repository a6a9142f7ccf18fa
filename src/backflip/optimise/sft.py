"""Supervised tuning: raise the log-probability of given answers, each with a weight.

Demonstrations, filtered samples and rated samples are all this one loss with other weights. Left out: reading data and
schedules (the loop).

Shapes: B rows, T decisions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from backflip.data import Episodes, Evaluation
from backflip.errors import ConfigError
from backflip.masked import masked_mean, masked_sum
from backflip.optimise.returns import check_reward
from backflip.optimise.step import Aggregate, Autocast, accumulate, decision_weights, minibatches, take_step
from backflip.protocols import Policy


@dataclass(frozen=True)
class SFTConfig:
    """Settings of supervised updates on one batch."""

    epochs: int = 1
    """Passes over the batch."""
    minibatches: int = 1
    """Gradient steps a pass; more than one needs `rng`."""
    aggregate: Aggregate = "token"
    """How decisions are weighed: token (all alike), sequence (all rows alike) or constant (by `constant_length`)."""
    constant_length: int | None = None
    """Decisions a row that aggregate=constant divides by."""
    max_grad_norm: float = 1.0
    """The gradient is scaled down to this norm; inf for no limit."""
    tokens_per_microbatch: int = 2048
    """Tokens, prompt and padding included, that are computed at once; changes memory and speed, never the result."""
    autocast: Autocast = "none"
    """none: fp32 as the weights are. bf16: faster where the processor has it."""

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.minibatches < 1:
            raise ConfigError(f"epochs and minibatches must be 1 or more, got {self.epochs} and {self.minibatches}")
        if not self.max_grad_norm > 0:
            raise ConfigError(f"max_grad_norm is {self.max_grad_norm}, expected above 0; inf for no limit")


def update(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    episodes: Episodes,
    reward_BT: Tensor,
    config: SFTConfig,
    rng: np.random.Generator | None = None,
) -> dict[str, float]:
    """Maximise the log-probability of every row's decisions times the row's weight, the sum of its reward.

    Weight 1 on the last decision of every row is plain supervised tuning; 0 leaves a row out; a negative weight is
    refused, because the loss would have no lower bound. Weights are not normalised: half of them, half the gradient.

    Returns `nats_per_token` (unweighted, before each step), `loss`, `grad_norm`, `entropy_nats`, means over the steps
    taken, and `decisions`.

    Raises:
        DataError: weights that are not finite or not on decisions; a loss or gradient that is not finite.
        ConfigError: a negative weight, all weights 0, or settings that contradict each other.
    """
    check_reward(reward_BT, episodes.mask_BT)
    row_weight_B = reward_BT.sum(1)
    if (row_weight_B < 0).any() or not (row_weight_B > 0).any():
        raise ConfigError(
            f"supervised tuning got row weights from {float(row_weight_B.min()):g} to {float(row_weight_B.max()):g}; "
            "expected none below 0 and one above it"
        )
    optimizer.zero_grad()
    steps: list[dict[str, float]] = []
    for _ in range(config.epochs):
        for rows in minibatches(len(episodes), config.minibatches, rng):
            part = episodes if config.minibatches == 1 else episodes.select(rows)
            weight_BT = decision_weights(part.mask_BT, config.aggregate, config.constant_length)
            weight_BT = weight_BT * row_weight_B[rows.to(row_weight_B.device)].unsqueeze(1)
            evaluation, loss = accumulate(
                policy,
                part,
                {"weight": weight_BT},
                weighted_nll,
                tokens_per_microbatch=config.tokens_per_microbatch,
                autocast=config.autocast,
            )
            steps.append(
                {
                    "loss": loss,
                    "nats_per_token": -float(masked_mean(evaluation.logp_BT, part.mask_BT)),
                    "entropy_nats": float(masked_mean(evaluation.entropy_BT, part.mask_BT)),
                    "grad_norm": take_step(optimizer, loss, config.max_grad_norm),
                }
            )
    stats = {name: sum(step[name] for step in steps) / len(steps) for name in steps[0]}
    return stats | {"decisions": float(episodes.mask_BT.sum())}


def weighted_nll(evaluation: Evaluation, targets: Mapping[str, Tensor]) -> Tensor:
    """Sum the negative log-probabilities under `targets["weight"]`, (B, T), nats."""
    return -masked_sum(targets["weight"] * evaluation.logp_BT, targets["weight"] > 0)
