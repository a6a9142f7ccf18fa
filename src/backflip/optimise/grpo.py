"""GRPO and Dr. GRPO: clipped policy gradients whose baseline is the mean of the group, without a critic.

An answer is compared with the other answers to its prompt. The two normalisations of the first paper (by the group's
spread, by the row's length) are options here, because the second paper shows what they bias. docs/grpo.md says what each
does to the limit. Left out: the KL penalty in the reward (`kl.shape_reward`, before), which is the default leash.

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
from backflip.masked import masked_mean, masked_sum
from backflip.optimise.groups import equal_group_fraction, moments
from backflip.optimise.on_policy import Tolerance, check_agreement, clipped_surrogate, sampled_logp_BT, work
from backflip.optimise.returns import check_reward
from backflip.optimise.step import (
    Aggregate,
    Autocast,
    accumulate,
    decision_weights,
    evaluate_all,
    minibatches,
    take_step,
)
from backflip.protocols import Policy

HUBER_NATS = 5.0
"""A loss KL grows linearly beyond this log-ratio: it never lets go, and it never explodes."""


@dataclass(frozen=True)
class GRPOConfig:
    """Settings of one GRPO update; `dr_grpo()` returns those of Dr. GRPO."""

    scale: Literal["group", "batch", "none"] = "group"
    """What a row's lead over its group is divided by: the group's standard deviation (Shao et al. 2024), that of all leads in the
    batch, or nothing (Dr. GRPO). By the group, prompts that are nearly always or never solved weigh as much as others."""
    epochs: int = 2
    """Passes over the batch."""
    minibatches: int = 1
    """Gradient steps a pass; more than one needs `rng`."""
    clip: float = 0.2
    """The ratio to the acting policy is worth nothing beyond 1 +- clip."""
    entropy_coef: float = 0.0
    """Weight of an entropy bonus, nats a decision; needs a policy whose entropy carries gradients."""
    loss_kl_coef: float = 0.0
    """Weight of a KL to the reference in the loss, decision by decision: another objective than the KL in the reward
    (docs/grpo.md). Do not use both without a reason."""
    aggregate: Aggregate = "sequence"
    """How decisions are weighed: sequence (all rows alike, decisions of long rows less; the first paper), token, or constant
    (by `constant_length`; Dr. GRPO)."""
    constant_length: int | None = None
    """Decisions a row that aggregate=constant divides by; the longest answer allowed is the usual choice."""
    max_grad_norm: float = 1.0
    """The gradient is scaled down to this norm; inf for no limit."""
    tokens_per_microbatch: int = 2048
    """Tokens, prompt and padding included, that are computed at once; changes memory and speed, never the result."""
    autocast: Autocast = "none"
    """none: fp32 as the weights are. bf16: faster where the processor has it; implies `recompute_old_logp`."""
    recompute_old_logp: bool = False
    """Take old log-probabilities from the update's own forward pass; needed when sampling ran in another precision."""
    ratio_tolerance: float = 1e-4
    """fp32: largest |ratio - 1| accepted before the first step."""
    gap_tolerance_nats: float = 0.1
    """With recomputed old log-probabilities: largest mean |difference| from those of sampling that is accepted."""

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.minibatches < 1:
            raise ConfigError(f"epochs and minibatches must be 1 or more, got {self.epochs} and {self.minibatches}")
        for name in ("clip", "max_grad_norm", "ratio_tolerance", "gap_tolerance_nats"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected above 0")
        for name in ("entropy_coef", "loss_kl_coef"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected 0 or more")

    @property
    def recomputes(self) -> bool:
        """Whether old log-probabilities come from the update's own forward pass."""
        return self.recompute_old_logp or self.autocast != "none"


def dr_grpo(longest: int) -> GRPOConfig:
    """Return the settings of Dr. GRPO (Liu et al. 2025, section 3.2): no division by spread or by a row's own length.

    `longest` is the longest answer allowed, in decisions.
    """
    return replace(GRPOConfig(), scale="none", aggregate="constant", constant_length=longest)


def update(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    episodes: Episodes,
    reward_BT: Tensor,
    config: GRPOConfig,
    rng: np.random.Generator | None = None,
) -> dict[str, float]:
    """Improve the policy on groups of rows that it has just sampled (Shao et al. 2024, eq. 3); return statistics (docs/grpo.md).

    `reward_BT` holds everything, KL penalty included; a row's score is its sum. `rng` is only needed for more than one
    minibatch. Takes epochs * minibatches steps.

    Raises:
        DataError: rewards that are not finite or not on decisions; a ratio other than 1 before the first step; a loss or
            gradient that is not finite. No parameter has moved in the first two cases.
        ConfigError: no group has two rows; a loss KL without `ref_logp_BT`; settings that contradict each other.
    """
    check_reward(reward_BT, episodes.mask_BT)
    optimizer.zero_grad()
    mask_BT, old_logp_BT = episodes.mask_BT, sampled_logp_BT(episodes, "GRPO")
    if config.recomputes and config.minibatches > 1:
        old_logp_BT = evaluate_all(
            policy, episodes, tokens_per_microbatch=config.tokens_per_microbatch, autocast=config.autocast
        ).logp_BT
    advantage_BT, stats = advantages_BT(episodes, reward_BT, config)
    targets = {"old_logp": old_logp_BT, "advantage": advantage_BT, "ref_logp": _reference_BT(episodes, config)}
    steps: list[dict[str, float]] = []
    for _ in range(config.epochs):
        for rows in minibatches(len(episodes), config.minibatches, rng):
            rows = rows.to(mask_BT.device)
            whole = config.minibatches == 1
            part = episodes if whole else episodes.select(rows)
            part_targets = {name: tensor if whole else tensor[rows] for name, tensor in targets.items()}
            evaluation, loss = _gradient(policy, part, part_targets, config, first=not steps)
            if not steps:
                tolerance = Tolerance(config.ratio_tolerance, config.gap_tolerance_nats)
                stats |= check_agreement(evaluation, part, tolerance, recomputed=config.recomputes)
                if config.recomputes and whole:
                    targets["old_logp"] = part_targets["old_logp"] = evaluation.logp_BT
            step = _step_statistics(evaluation, part_targets, part.mask_BT, config)
            steps.append(step | {"loss": loss, "grad_norm": take_step(optimizer, loss, config.max_grad_norm)})
    stats |= {name: sum(step[name] for step in steps) / len(steps) for name in steps[0]}
    stats["entropy_nats"] = steps[0]["entropy_nats"]
    stats["ratio_max"] = max(step["ratio_max"] for step in steps)
    stats["approx_kl_last_nats"] = steps[-1]["approx_kl_nats"]
    return stats | work(episodes, config.tokens_per_microbatch)


def advantages_BT(episodes: Episodes, reward_BT: Tensor, config: GRPOConfig) -> tuple[Tensor, dict[str, float]]:
    """Return each row's lead over its group, scaled, on all its decisions; and statistics of it before scaling.

    Rows of a group whose scores are all equal get 0, whatever the scale.

    Raises:
        ConfigError: every group holds one row, so nothing can be compared.
    """
    group_B = episodes.group_B
    if len(group_B) == len(group_B.unique()):
        raise ConfigError(
            "GRPO compares the rows of a group, and every group holds one row; sample with a group size of 2 or more"
        )
    score_B = reward_BT.detach().cpu().double().sum(1) + episodes.bootstrap_B.cpu().double()
    mean_B, std_B = moments(score_B, group_B)
    lead_B = torch.where(std_B > 0, score_B - mean_B, 0.0)
    spread = float(lead_B.square().mean().sqrt())
    if config.scale == "group":
        scaled_B = torch.where(std_B > 0, lead_B / std_B.clamp(min=1e-30), 0.0)
    elif config.scale == "batch":
        scaled_B = lead_B / spread if spread > 0 else lead_B
    else:
        scaled_B = lead_B
    mask_BT = episodes.mask_BT
    advantage_BT = torch.where(mask_BT, scaled_B.float().to(mask_BT.device).unsqueeze(1), 0.0)
    return advantage_BT, {
        "reward_sum_mean": float(reward_BT.sum(1).mean()),
        "advantage_mean": float(lead_B.mean()),
        "advantage_std": spread,
        "equal_group_fraction": equal_group_fraction(reward_BT, group_B),
    }


def loss_terms(logp_BT: Tensor, targets: Mapping[str, Tensor], config: GRPOConfig) -> dict[str, Tensor]:
    """Return the terms of `clipped_surrogate`, and `loss_kl_nats`: half the squared log-ratio, linear beyond `HUBER_NATS`.

    At the acting policy the gradient of half the squared log-ratio is that of the decision's KL(policy || reference);
    the gradients of the log-ratio and of k3 are not (docs/grpo.md).
    """
    log_ratio_BT = logp_BT - targets["ref_logp"]
    loss_kl_BT = torch.nn.functional.huber_loss(
        log_ratio_BT, torch.zeros_like(log_ratio_BT), reduction="none", delta=HUBER_NATS
    )
    terms = clipped_surrogate(logp_BT, targets["old_logp"], targets["advantage"], config.clip)
    return terms | {"loss_kl_nats": loss_kl_BT}


def _reference_BT(episodes: Episodes, config: GRPOConfig) -> Tensor:
    """Return the reference's log-probabilities, or zeros where no loss KL asks for them."""
    if not config.loss_kl_coef:
        return torch.zeros(episodes.mask_BT.shape, device=episodes.mask_BT.device)
    if episodes.ref_logp_BT is None:
        raise ConfigError(
            "loss_kl_coef is set, but the episodes carry no ref_logp_BT; fill it, or set loss_kl_coef to 0"
        )
    return torch.where(episodes.mask_BT, episodes.ref_logp_BT.detach(), 0.0)  # a NaN times a weight of 0 is a NaN


def _gradient(
    policy: Policy, episodes: Episodes, targets: Mapping[str, Tensor], config: GRPOConfig, *, first: bool
) -> tuple[Evaluation, float]:
    """Accumulate the gradient over one minibatch; the first step may be its own old policy."""
    own_logp = first and config.recomputes
    weight_BT = decision_weights(episodes.mask_BT, config.aggregate, config.constant_length)

    def loss(evaluation: Evaluation, part: Mapping[str, Tensor]) -> Tensor:
        old_logp_BT = evaluation.logp_BT.detach() if own_logp else part["old_logp"]
        terms = loss_terms(evaluation.logp_BT, {**part, "old_logp": old_logp_BT}, config)
        total_BT = terms["policy_loss"]
        if config.loss_kl_coef:
            total_BT = total_BT + config.loss_kl_coef * terms["loss_kl_nats"]
        if config.entropy_coef:
            if not evaluation.entropy_BT.requires_grad:
                raise ConfigError("entropy_coef is set, but this policy's entropy carries no gradient; set it to 0")
            total_BT = total_BT - config.entropy_coef * evaluation.entropy_BT
        return masked_sum(part["weight"] * total_BT, part["weight"] > 0)

    return accumulate(
        policy,
        episodes,
        {**targets, "weight": weight_BT},
        loss,
        tokens_per_microbatch=config.tokens_per_microbatch,
        autocast=config.autocast,
    )


def _step_statistics(
    evaluation: Evaluation, targets: Mapping[str, Tensor], mask_BT: Tensor, config: GRPOConfig
) -> dict[str, float]:
    """Average every term over the decisions of one step, as they were before it."""
    terms = loss_terms(evaluation.logp_BT, targets, config)
    if not config.loss_kl_coef:
        del terms["loss_kl_nats"]
    stats = {name: float(masked_mean(term_BT, mask_BT)) for name, term_BT in terms.items() if name != "ratio"}
    stats["entropy_nats"] = float(masked_mean(evaluation.entropy_BT, mask_BT))
    stats["ratio_mean"] = float(masked_mean(terms["ratio"], mask_BT))
    stats["ratio_max"] = float(torch.where(mask_BT, terms["ratio"], 0.0).max())
    return stats
