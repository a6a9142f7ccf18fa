"""Proximal policy optimisation with a critic (Schulman et al. 2017), as RLHF on language models needs it.

One `update` is several epochs over one batch of episodes. Every choice is argued in docs/ppo.md, which also explains
every statistic. Left out: sampling, the KL penalty (`kl.shape_reward`, before) and score rules (`scores.apply_rules`,
before that). What the rows hold, tokens or steps, makes no difference here.

Shapes: B rows, T decisions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from backflip.data import Episodes, Evaluation
from backflip.errors import ConfigError
from backflip.masked import masked_mean, masked_sum, masked_whiten
from backflip.optimise.on_policy import Tolerance, check_agreement, clipped_surrogate, sampled_logp_BT, work
from backflip.optimise.returns import advantages, check_reward
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

LEAST_TO_WHITEN = 8
"""Decisions that a batch needs before it is scaled by its own spread (Ziegler et al. 2019 and its ports assert it)."""


@dataclass(frozen=True)
class PPOConfig:
    """Settings of one PPO update; presets with their sources are in `backflip.optimise.presets`."""

    epochs: int = 4
    """Passes over the batch."""
    minibatches: int = 1
    """Gradient steps a pass; more than one needs `rng`."""
    clip: float = 0.2
    """The ratio to the acting policy is worth nothing beyond 1 +- clip."""
    value_clip: float = 0.2
    """A value is not rewarded for moving further than this from what it was, in reward units; inf for no limit."""
    value_coef: float = 0.1
    """Weight of the value loss."""
    entropy_coef: float = 0.0
    """Weight of an entropy bonus, nats a decision; needs a policy whose entropy carries gradients."""
    gamma: float = 1.0
    """Discount a decision."""
    lam: float = 0.95
    """GAE lambda: 1 trusts sampled returns, 0 trusts the critic."""
    whiten_advantages: bool = True
    """Scale advantages to mean 0 and variance 1 over the batch."""
    whiten_rewards: bool = False
    """Scale rewards, KL penalty included, to variance 1 over the batch, keeping their mean."""
    center_values: bool = True
    """Let the critic learn returns less their batch mean, which each batch adds back: a constant in the score, or a
    critic that starts at 0, then changes nothing (docs/ppo.md)."""
    aggregate: Aggregate = "token"
    """How decisions are weighed: token (all alike), sequence (all rows alike) or constant (by `constant_length`)."""
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
        if not (0 <= self.gamma <= 1 and 0 <= self.lam <= 1):
            raise ConfigError(f"gamma and lam must lie in [0, 1], got {self.gamma} and {self.lam}")
        for name in ("clip", "value_clip", "max_grad_norm", "ratio_tolerance", "gap_tolerance_nats"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected above 0")
        for name in ("value_coef", "entropy_coef"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected 0 or more")
        if self.constant_length is not None and self.constant_length < 1:
            raise ConfigError(f"constant_length is {self.constant_length}, expected 1 or more")

    @property
    def recomputes(self) -> bool:
        """Whether old log-probabilities come from the update's own forward pass."""
        return self.recompute_old_logp or self.autocast != "none"


def update(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    episodes: Episodes,
    reward_BT: Tensor,
    config: PPOConfig,
    rng: np.random.Generator | None = None,
) -> dict[str, float]:
    """Improve the policy on rows that it has just sampled; return statistics (docs/ppo.md has the list).

    `reward_BT` holds everything, KL penalty included. `episodes.logp_BT` must be those of the acting policy, with the
    weights it has now. `rng` is only needed for more than one minibatch. Takes epochs * minibatches steps.

    Raises:
        DataError: rewards that are not finite or not on decisions; a ratio other than 1 before the first step (sampling
            and scoring disagree); a loss or gradient that is not finite. No parameter has moved in the first two cases.
        ConfigError: a policy without values; settings that contradict each other.
    """
    check_reward(reward_BT, episodes.mask_BT)
    optimizer.zero_grad()
    logp_BT, value_BT = _old(policy, episodes, config)
    mask_BT = episodes.mask_BT
    if (config.whiten_rewards or config.whiten_advantages) and mask_BT.sum() < LEAST_TO_WHITEN:
        raise ConfigError(
            f"{int(mask_BT.sum())} decisions are too few to scale by their spread, expected {LEAST_TO_WHITEN} or more; sample "
            "more episodes an update, or set whiten_advantages and whiten_rewards to False"
        )
    if config.whiten_rewards:
        reward_BT = masked_whiten(reward_BT, mask_BT, keep_mean=True)
    advantage_BT, target_BT, stats = advantages(
        reward_BT, value_BT, episodes, config.gamma, config.lam, center=config.center_values
    )
    if config.whiten_advantages:
        advantage_BT = masked_whiten(advantage_BT, mask_BT)
    targets = {"old_logp": logp_BT, "old_value": value_BT, "advantage": advantage_BT, "return": target_BT}
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


def _old(policy: Policy, episodes: Episodes, config: PPOConfig) -> tuple[Tensor, Tensor]:
    """Return log-probabilities and values of the acting policy, with an extra forward pass only where one is needed.

    With one minibatch, recomputed log-probabilities are those of the first step's own pass, and cost nothing.
    """
    logp_BT, value_BT = sampled_logp_BT(episodes, "PPO"), episodes.value_BT
    if value_BT is None or (config.recomputes and config.minibatches > 1):
        old = evaluate_all(
            policy, episodes, tokens_per_microbatch=config.tokens_per_microbatch, autocast=config.autocast
        )
        if old.value_BT is None:
            raise ConfigError("the policy returns no values; PPO needs a critic: load the policy with value_head=True")
        value_BT = old.value_BT if value_BT is None else value_BT
        logp_BT = old.logp_BT if config.recomputes else logp_BT
    return logp_BT, torch.where(episodes.mask_BT, value_BT.detach().float(), 0.0)


def _gradient(
    policy: Policy, episodes: Episodes, targets: Mapping[str, Tensor], config: PPOConfig, *, first: bool
) -> tuple[Evaluation, float]:
    """Accumulate the gradient of the PPO loss over one minibatch; the first step may be its own old policy."""
    own_logp = first and config.recomputes
    weight_BT = decision_weights(episodes.mask_BT, config.aggregate, config.constant_length)

    def loss(evaluation: Evaluation, part: Mapping[str, Tensor]) -> Tensor:
        old_logp_BT = evaluation.logp_BT.detach() if own_logp else part["old_logp"]
        terms = loss_terms(evaluation, {**part, "old_logp": old_logp_BT}, config)
        total_BT = terms["policy_loss"] + config.value_coef * terms["value_loss"]
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


def loss_terms(evaluation: Evaluation, targets: Mapping[str, Tensor], config: PPOConfig) -> dict[str, Tensor]:
    """Return every per-decision (B, T) term of the PPO loss (Schulman et al. 2017, eq. 7 and 9), and what was cut.

    `targets` holds `old_logp`, `old_value`, `advantage` and `return`. Values at masked positions mean nothing.
    """
    if evaluation.value_BT is None:
        raise ConfigError("the policy returns no values; PPO needs a critic: load the policy with value_head=True")
    old_value_BT, return_BT = targets["old_value"], targets["return"]
    near_BT = old_value_BT + (evaluation.value_BT - old_value_BT).clamp(-config.value_clip, config.value_clip)
    error_BT, near_error_BT = (evaluation.value_BT - return_BT) ** 2, (near_BT - return_BT) ** 2
    return clipped_surrogate(evaluation.logp_BT, targets["old_logp"], targets["advantage"], config.clip) | {
        "value_loss": 0.5 * torch.maximum(error_BT, near_error_BT),
        "value_clip_fraction": (near_error_BT > error_BT).float(),
    }


def _step_statistics(
    evaluation: Evaluation, targets: Mapping[str, Tensor], mask_BT: Tensor, config: PPOConfig
) -> dict[str, float]:
    """Average every term over the decisions of one step, as they were before it."""
    terms = loss_terms(evaluation, targets, config)
    stats = {name: float(masked_mean(term_BT, mask_BT)) for name, term_BT in terms.items() if name != "ratio"}
    stats["entropy_nats"] = float(masked_mean(evaluation.entropy_BT, mask_BT))
    stats["ratio_mean"] = float(masked_mean(terms["ratio"], mask_BT))
    stats["ratio_max"] = float(torch.where(mask_BT, terms["ratio"], 0.0).max())
    return stats
