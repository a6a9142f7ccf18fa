"""Online imitation: the policy acts, and an expert says of every decision how likely it would have been his.

As in DAgger (Ross, Gordon and Bagnell 2011) the learner is corrected where *it* goes, not where the expert would have gone, so
its mistakes do not add up along a row. Here the correction is the expert's log-probability, which any policy can give for tokens and
steps alike. Left out: imitation of given rows (`sft`), and experts that only demonstrate.

Shapes: B rows, T decisions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from backflip.data import Episodes, Evaluation
from backflip.errors import ConfigError, DataError
from backflip.masked import masked_mean, masked_sum
from backflip.optimise.on_policy import Tolerance, check_agreement, sampled_logp_BT, work
from backflip.optimise.step import Aggregate, Autocast, accumulate, decision_weights, evaluate_all, take_step
from backflip.protocols import Policy


@dataclass(frozen=True)
class ImitateConfig:
    """Settings of one step of online imitation."""

    limit_nats: float = 10.0
    """A decision pulls no harder than at this log-ratio to the expert."""
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
        if not (self.limit_nats > 0 and self.max_grad_norm > 0):
            raise ConfigError(f"limit_nats is {self.limit_nats}, max_grad_norm {self.max_grad_norm}; expected above 0")


def expert_logp(expert: Policy, episodes: Episodes, tokens_per_microbatch: int = 2048) -> Tensor:
    """Return what the expert thinks of every decision that was taken: its log-probability, (B, T), nats, 0 where masked."""
    return evaluate_all(expert, episodes, tokens_per_microbatch=tokens_per_microbatch).logp_BT


def update(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    episodes: Episodes,
    reward_BT: Tensor,
    config: ImitateConfig,
    rng: np.random.Generator | None = None,
) -> dict[str, float]:
    """Take one step towards the expert at every decision that the policy has just taken.

    `reward_BT` is `expert_logp(expert, episodes)`. The loss is half the squared log-ratio of policy and expert, whose mean gradient over
    the policy's own rows is that of KL(policy || expert) at each decision; in the limit the policy is the expert. `rng` is not needed.
    Returns `expert_kl_nats` (a decision, k1), `loss`, `entropy_nats`, `grad_norm`, `ratio_max_error`, counts.

    Raises:
        DataError: rows that the policy did not sample with its present weights; log-probabilities that are not finite or above 0; a
            loss or gradient that is not finite. No parameter has moved.
    """
    mask_BT = episodes.mask_BT
    sampled_logp_BT(episodes, "online imitation")
    reward_BT = torch.where(mask_BT, reward_BT, 0.0)
    broken_B = (~torch.isfinite(reward_BT) | (reward_BT > 1e-4)).any(1)
    if broken_B.any():
        raise DataError(
            f"the expert's log-probabilities of row {int(broken_B.nonzero()[0])} are not finite or above 0; expected those of "
            "`expert_logp`"
        )
    optimizer.zero_grad()

    def loss(evaluation: Evaluation, part: Mapping[str, Tensor]) -> Tensor:
        gap_BT = evaluation.logp_BT - part["expert"]
        total_BT = torch.nn.functional.huber_loss(
            gap_BT, torch.zeros_like(gap_BT), reduction="none", delta=config.limit_nats
        )
        return masked_sum(part["weight"] * total_BT, part["weight"] > 0)

    evaluation, value = accumulate(
        policy,
        episodes,
        {"expert": reward_BT, "weight": decision_weights(mask_BT, config.aggregate, config.constant_length)},
        loss,
        tokens_per_microbatch=config.tokens_per_microbatch,
        autocast=config.autocast,
    )
    stats = check_agreement(evaluation, episodes, Tolerance(), recomputed=config.autocast != "none")
    stats["expert_kl_nats"] = float(masked_mean(evaluation.logp_BT - reward_BT, mask_BT))
    stats["entropy_nats"] = float(masked_mean(evaluation.entropy_BT, mask_BT))
    stats |= {"loss": value, "grad_norm": take_step(optimizer, value, config.max_grad_norm)}
    return stats | work(episodes, config.tokens_per_microbatch)
