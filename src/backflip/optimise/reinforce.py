"""REINFORCE with a baseline, and RLOO: one unclipped policy-gradient step on rows that were just sampled.

No critic, no ratio, no clip: what is followed is the gradient of the expected reward itself. docs/reinforce.md says when
that is enough. Left out: several epochs on one batch (`grpo`, `ppo`) and the KL penalty (`kl.shape_reward`, before).

Shapes: B rows, T decisions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from backflip.data import Episodes, Evaluation
from backflip.errors import ConfigError
from backflip.masked import masked_mean, masked_sum, masked_whiten
from backflip.optimise.groups import equal_group_fraction, mean_of_others, numbered
from backflip.optimise.on_policy import Tolerance, check_agreement, sampled_logp_BT, work
from backflip.optimise.returns import check_reward, gae
from backflip.optimise.step import Aggregate, Autocast, accumulate, decision_weights, take_step
from backflip.protocols import Policy


@dataclass(frozen=True)
class ReinforceConfig:
    """Settings of one REINFORCE step; `rloo()` returns those of RLOO."""

    baseline: Literal["none", "batch", "group"] = "batch"
    """What is taken from a row's return: nothing, the mean of all other rows, or that of the others of its group (RLOO)."""
    credit: Literal["row", "to_go"] = "row"
    """row: every decision gets the return of its whole row, which is constant at the optimum of a KL-penalised text, so
    nothing is noisy there. to_go: only what came after it, which long rows of control need."""
    gamma: float = 1.0
    """Discount a decision."""
    whiten_advantages: bool = False
    """Scale advantages to mean 0 and variance 1 over the batch."""
    entropy_coef: float = 0.0
    """Weight of an entropy bonus, nats a decision; needs a policy whose entropy carries gradients."""
    aggregate: Aggregate = "token"
    """How decisions are weighed: token (all alike), sequence (all rows alike, which favours short rows) or constant."""
    constant_length: int | None = None
    """Decisions a row that aggregate=constant divides by; 1 gives the plain sum over a row's decisions."""
    max_grad_norm: float = 1.0
    """The gradient is scaled down to this norm; inf for no limit."""
    tokens_per_microbatch: int = 2048
    """Tokens, prompt and padding included, that are computed at once; changes memory and speed, never the result."""
    autocast: Autocast = "none"
    """none: fp32 as the weights are. bf16: faster where the processor has it."""
    low_precision_sampling: bool = False
    """Whether sampling ran in another precision, so that log-probabilities agree only to `gap_tolerance_nats`."""
    ratio_tolerance: float = 1e-4
    """fp32: largest |ratio - 1| to sampling that is accepted."""
    gap_tolerance_nats: float = 0.1
    """In low precision: largest mean |difference| to sampling that is accepted."""

    def __post_init__(self) -> None:
        if not 0 <= self.gamma <= 1:
            raise ConfigError(f"gamma is {self.gamma}, expected 0 to 1")
        if not 0 <= self.entropy_coef < math.inf:
            raise ConfigError(f"entropy_coef is {self.entropy_coef}, expected 0 or more")
        for name in ("max_grad_norm", "ratio_tolerance", "gap_tolerance_nats"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected above 0")


def rloo() -> ReinforceConfig:
    """Return the settings of REINFORCE leave-one-out (Kool et al. 2019; Ahmadian et al. 2024, section 4)."""
    return replace(ReinforceConfig(), baseline="group", credit="row")


def update(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    episodes: Episodes,
    reward_BT: Tensor,
    config: ReinforceConfig,
    rng: np.random.Generator | None = None,
) -> dict[str, float]:
    """Take one step along sum_t advantage_t * grad log pi(a_t) (Williams 1992, eq. 11); return statistics (docs/reinforce.md).

    `reward_BT` holds everything, KL penalty included; `episodes` must have been sampled with the weights as they are.
    `rng` is not needed: nothing is drawn.

    Raises:
        DataError: rewards that are not finite or not on decisions; sampling and scoring disagree; a loss or gradient that
            is not finite. No parameter has moved.
        ConfigError: baseline=group and a group of one row; settings that contradict each other.
    """
    check_reward(reward_BT, episodes.mask_BT)
    sampled_logp_BT(episodes, "REINFORCE")
    optimizer.zero_grad()
    advantage_BT = advantages_BT(episodes, reward_BT, config)
    stats = {
        "reward_sum_mean": float(reward_BT.sum(1).mean()),
        "advantage_mean": float(masked_mean(advantage_BT, episodes.mask_BT)),
        "advantage_std": _spread(advantage_BT, episodes.mask_BT),
        "equal_group_fraction": equal_group_fraction(reward_BT, episodes.group_B),
    }
    if config.whiten_advantages:
        advantage_BT = masked_whiten(advantage_BT, episodes.mask_BT)
    weight_BT = decision_weights(episodes.mask_BT, config.aggregate, config.constant_length)

    def loss(evaluation: Evaluation, part: Mapping[str, Tensor]) -> Tensor:
        total_BT = -part["advantage"] * evaluation.logp_BT
        if config.entropy_coef:
            if not evaluation.entropy_BT.requires_grad:
                raise ConfigError("entropy_coef is set, but this policy's entropy carries no gradient; set it to 0")
            total_BT = total_BT - config.entropy_coef * evaluation.entropy_BT
        return masked_sum(part["weight"] * total_BT, part["weight"] > 0)

    evaluation, value = accumulate(
        policy,
        episodes,
        {"advantage": advantage_BT, "weight": weight_BT},
        loss,
        tokens_per_microbatch=config.tokens_per_microbatch,
        autocast=config.autocast,
    )
    low = config.low_precision_sampling or config.autocast != "none"
    tolerance = Tolerance(config.ratio_tolerance, config.gap_tolerance_nats)
    stats |= check_agreement(evaluation, episodes, tolerance, recomputed=low)
    stats["policy_loss"] = float(masked_sum(-weight_BT * advantage_BT * evaluation.logp_BT, episodes.mask_BT))
    stats["entropy_nats"] = float(masked_mean(evaluation.entropy_BT, episodes.mask_BT))
    stats |= {"loss": value, "grad_norm": take_step(optimizer, value, config.max_grad_norm)}
    return stats | work(episodes, config.tokens_per_microbatch)


def advantages_BT(episodes: Episodes, reward_BT: Tensor, config: ReinforceConfig) -> Tensor:
    """Return each decision's return less its baseline, 0 where masked.

    Raises:
        ConfigError: baseline=group and a group of one row, which has no others to be compared with.
    """
    mask_BT = episodes.mask_BT
    zero_BT = torch.zeros(mask_BT.shape, dtype=torch.float64)
    return_BT, _ = gae(reward_BT.cpu(), zero_BT, mask_BT.cpu(), episodes.bootstrap_B.cpu(), gamma=config.gamma, lam=1.0)
    if config.credit == "row":
        first_B1 = mask_BT.cpu().int().argmax(1, keepdim=True)
        return_BT = return_BT.gather(1, first_B1)
    counted_BT = mask_BT.cpu() if config.credit == "to_go" else torch.ones_like(return_BT, dtype=torch.bool)
    if config.baseline == "none":
        baseline_BT = torch.zeros_like(return_BT)
    elif config.baseline == "batch":
        baseline_BT = mean_of_others(return_BT, counted_BT, torch.zeros_like(episodes.group_B))
    else:
        index_B, groups = numbered(episodes.group_B)
        if (torch.bincount(index_B, minlength=groups) < 2).any():
            raise ConfigError(
                "baseline=group compares a row with the others of its group, and a group holds one row; sample with a "
                "group size of 2 or more, or set baseline=batch"
            )
        baseline_BT = mean_of_others(return_BT, counted_BT, episodes.group_B)
    advantage_BT = (return_BT - baseline_BT).float().to(mask_BT.device)
    return torch.where(mask_BT, advantage_BT, torch.zeros((), device=mask_BT.device))


def _spread(x_BT: Tensor, mask_BT: Tensor) -> float:
    """Return the population standard deviation over the mask."""
    mean = masked_mean(x_BT, mask_BT)
    return float(masked_mean((x_BT - mean) ** 2, mask_BT)) ** 0.5
