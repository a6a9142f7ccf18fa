"""DPO and IPO: learn from compared pairs directly, without a reward model and without sampling.

Two rows a group, and `reward_BT` carries the answer: the sum of a row's reward is the probability that it is the better
one. A tie is a half each; a soft label is any other share. The same update serves pairs from a file and pairs that were sampled a
moment ago. Left out: where answers come from (the loop).

Shapes: B rows, T decisions, G pairs, 2 rows of a pair.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from backflip.data import Episodes, Evaluation
from backflip.errors import ConfigError, DataError
from backflip.masked import masked_mean
from backflip.optimise.groups import numbered, pair_rows
from backflip.optimise.on_policy import work
from backflip.optimise.returns import check_reward, on_last_decision
from backflip.optimise.step import Autocast, accumulate, minibatches, take_step
from backflip.protocols import Policy


@dataclass(frozen=True)
class DPOConfig:
    """Settings of updates on compared pairs."""

    loss: Literal["dpo", "ipo"] = "dpo"
    """dpo: the Bradley-Terry likelihood of the answers, with beta * log-ratio as the score (Rafailov et al. 2023, eq. 7).
    ipo: a squared distance to a finite lead, so a pair that everybody agrees on does not pull for ever (Azar et al. 2024, eq. 17)."""
    beta: float = 0.1
    """The leash to the reference, in units of the score a nat; IPO's tau. Larger stays closer."""
    nll_coef: float = 0.0
    """Weight of raising the log-probability of the better answer itself, a decision; against answers that both get
    rarer (Pang et al. 2024, eq. 2)."""
    epochs: int = 1
    """Passes over the batch."""
    minibatches: int = 1
    """Gradient steps a pass, each on whole pairs; more than one needs `rng`."""
    max_grad_norm: float = 1.0
    """The gradient is scaled down to this norm; inf for no limit."""
    tokens_per_microbatch: int = 2048
    """Tokens, prompt and padding included, that are computed at once, at least one pair; changes memory and speed, never the
    result."""
    autocast: Autocast = "none"
    """none: fp32 as the weights are. bf16: faster where the processor has it."""

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.minibatches < 1:
            raise ConfigError(f"epochs and minibatches must be 1 or more, got {self.epochs} and {self.minibatches}")
        if not 0 < self.beta < math.inf:
            raise ConfigError(
                f"beta is {self.beta}, expected above 0 and finite: without a leash the loss has no minimum"
            )
        if not (self.max_grad_norm > 0 and 0 <= self.nll_coef < math.inf):
            raise ConfigError(
                f"max_grad_norm is {self.max_grad_norm} and nll_coef {self.nll_coef}; expected above 0, and 0 or more"
            )


def update(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    episodes: Episodes,
    reward_BT: Tensor,
    config: DPOConfig,
    rng: np.random.Generator | None = None,
) -> dict[str, float]:
    """Fit the policy to compared pairs; return statistics (docs/dpo.md), means over the steps taken.

    `episodes.ref_logp_BT` must be filled: `evaluate_all(reference, episodes, ...).logp_BT`. `answer_rewards` makes
    `reward_BT` of shares. Takes epochs * minibatches steps; `rng` is only needed for more than one minibatch.

    Raises:
        DataError: a group without exactly two rows, with different prompts, or whose answers do not sum to 1; a loss or
            gradient that is not finite.
        ConfigError: no `ref_logp_BT`; settings that contradict each other.
    """
    check_reward(reward_BT, episodes.mask_BT)
    if episodes.ref_logp_BT is None:
        raise ConfigError(
            "the episodes carry no ref_logp_BT, and DPO compares with a reference; fill it with "
            "evaluate_all(reference, episodes, ...).logp_BT"
        )
    share_B = reward_BT.sum(1)
    pair_G2 = _checked_pairs(episodes, share_B).to(share_B.device)
    index_B = numbered(episodes.group_B)[0].to(share_B.device)
    optimizer.zero_grad()
    targets = {
        "share": share_B.unsqueeze(1),
        "pair": index_B.unsqueeze(1),
        "mask": episodes.mask_BT,
        "ref_logp": episodes.ref_logp_BT.detach(),
    }
    steps: list[dict[str, float]] = []
    for _ in range(config.epochs):
        for pairs in minibatches(len(pair_G2), config.minibatches, rng):
            rows = pair_G2[pairs.to(pair_G2.device)].flatten()
            part = episodes if config.minibatches == 1 else episodes.select(rows)
            part_targets = targets if config.minibatches == 1 else {k: v[rows] for k, v in targets.items()}
            evaluation, loss = _gradient(policy, part, part_targets, config)
            step = _statistics(evaluation, part_targets, config)
            steps.append(step | {"loss": loss, "grad_norm": take_step(optimizer, loss, config.max_grad_norm)})
    stats = {name: sum(step[name] for step in steps) / len(steps) for name in steps[0]}
    tied_G = (share_B[pair_G2[:, 0]] - 0.5).abs() < 1e-6
    stats["tie_fraction"] = float(tied_G.float().mean())
    return stats | work(episodes, config.tokens_per_microbatch)


def answer_rewards(episodes: Episodes, share_B: Tensor | Sequence[float]) -> Tensor:
    """Return reward_BT with every row's share of the answer on its last decision.

    Raises:
        DataError: a share outside [0, 1], or a row without a decision.
    """
    share_B = torch.as_tensor(share_B, dtype=torch.float32).to(episodes.mask_BT.device)
    if len(share_B) != len(episodes) or not ((share_B >= 0) & (share_B <= 1)).all():
        raise DataError(f"{len(share_B)} shares for {len(episodes)} rows; expected one a row, each in [0, 1]")
    return on_last_decision(share_B, episodes.mask_BT)


def pair_loss(lead_G: Tensor, share_G: Tensor, config: DPOConfig) -> Tensor:
    """Return every pair's loss from its lead: the first row's log-ratio to the reference less the second's, nats.

    `share_G` is the probability that the first row is better. IPO: (lead - (share - 1/2) / beta)^2, which for a share of
    1 is the published (lead - 1 / (2 beta))^2 and for soft shares its expectation, less a constant.
    """
    if config.loss == "ipo":
        return (lead_G - (share_G - 0.5) / config.beta) ** 2
    margin_G = config.beta * lead_G
    return -(share_G * logsigmoid(margin_G) + (1 - share_G) * logsigmoid(-margin_G))


def _checked_pairs(episodes: Episodes, share_B: Tensor) -> Tensor:
    """Return the rows of every pair, having looked that each is one: one prompt, two answers, shares that sum to 1."""
    pair_G2 = pair_rows(episodes.group_B)
    share_G2 = share_B.cpu()[pair_G2]
    wrong_G = ((share_G2.sum(1) - 1).abs() > 1e-4) | (share_G2 < 0).any(1)
    if wrong_G.any():
        pair = int(wrong_G.nonzero()[0])
        raise DataError(
            f"rows {pair_G2[pair].tolist()} are a pair whose answers are {share_G2[pair].tolist()}, expected two shares that "
            "sum to 1; leave out pairs that nobody could judge"
        )
    first, second = (episodes.obs[pair_G2[:, side].to(episodes.obs.device)] for side in (0, 1))
    if first.dtype == torch.int64 and not torch.equal(first, second):
        pair = int((first != second).flatten(1).any(1).nonzero()[0])
        raise DataError(f"rows {pair_G2[pair].tolist()} are a pair with different prompts; a pair answers one prompt")
    return pair_G2


def _gradient(
    policy: Policy, episodes: Episodes, targets: Mapping[str, Tensor], config: DPOConfig
) -> tuple[Evaluation, float]:
    """Accumulate the gradient of the mean loss over pairs, micro-batches of whole pairs at a time."""
    pairs = len(episodes) / 2

    def loss(evaluation: Evaluation, part: Mapping[str, Tensor]) -> Tensor:
        terms = _terms(evaluation.logp_BT, part, config)
        return terms["loss"].sum() / pairs

    return accumulate(
        policy,
        episodes,
        targets,
        loss,
        tokens_per_microbatch=config.tokens_per_microbatch,
        autocast=config.autocast,
        whole_groups=True,
    )


def _terms(logp_BT: Tensor, part: Mapping[str, Tensor], config: DPOConfig) -> dict[str, Tensor]:
    """Return what a loss and the statistics need of each pair, (G,) and (G, 2), the better row first (a tie: either)."""
    order_G2 = part["pair"].squeeze(1).argsort(stable=True).view(-1, 2)
    share_G2 = part["share"].squeeze(1)[order_G2]
    worse_first_G = share_G2[:, 0] < share_G2[:, 1]
    order_G2 = torch.where(worse_first_G.unsqueeze(1), order_G2.flip(1), order_G2)
    mask_BT = part["mask"]
    zero_BT = torch.zeros_like(logp_BT)
    logp_B = torch.where(mask_BT, logp_BT, zero_BT).sum(1)
    ratio_G2 = (logp_B - torch.where(mask_BT, part["ref_logp"], zero_BT).sum(1))[order_G2]
    share_G = share_G2.amax(1)
    lead_G = ratio_G2[:, 0] - ratio_G2[:, 1]
    loss_G = pair_loss(lead_G, share_G, config)
    if config.nll_coef:
        better_G = order_G2[:, 0]
        nll_G = -logp_B[better_G] / mask_BT.sum(1).clamp(min=1)[better_G]
        loss_G = loss_G + config.nll_coef * torch.where(share_G > 0.5, nll_G, 0.0)
    return {"loss": loss_G, "lead": lead_G, "share": share_G, "ratio": ratio_G2, "logp": logp_B[order_G2]}


def _statistics(evaluation: Evaluation, targets: Mapping[str, Tensor], config: DPOConfig) -> dict[str, float]:
    """Average what is worth watching over the pairs of one step, as it was before it; ties are no test of accuracy."""
    terms = _terms(evaluation.logp_BT, targets, config)
    clear_G = terms["share"] > 0.5 + 1e-6
    right_G = (terms["lead"] > 0).float() + 0.5 * (terms["lead"] == 0).float()
    clear = bool(clear_G.any())
    return {
        "accuracy": float(masked_mean(right_G, clear_G)) if clear else 0.5,
        "margin_mean": float((config.beta * terms["lead"]).mean()),
        "chosen_log_ratio_nats": float(terms["ratio"][:, 0].mean()),
        "rejected_log_ratio_nats": float(terms["ratio"][:, 1].mean()),
        "chosen_logp_nats": float(terms["logp"][:, 0].mean()),
        "rejected_logp_nats": float(terms["logp"][:, 1].mean()),
        "entropy_nats": float(masked_mean(evaluation.entropy_BT, targets["mask"])),
    }
