"""What all methods share that learn from rows they have just sampled: the clipped ratio, and the check of old log-probabilities.

The check is the best single one that policy gradients have: before the first step the policy that is scored must be the
policy that acted. Left out: where advantages come from (`ppo`, `grpo`, `reinforce`).

Shapes: B rows, T decisions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from backflip.data import Episodes, Evaluation
from backflip.errors import DataError
from backflip.masked import masked_mean
from backflip.optimise.step import micro_batches

LOG_RATIO_LIMIT = 20.0
"""exp() of more than this is no number to learn from; how often it is reached is logged."""


@dataclass(frozen=True)
class Tolerance:
    """How far scoring may be from sampling before the first step."""

    ratio: float = 1e-4
    """Largest |ratio - 1| where old log-probabilities are those of sampling."""
    gap_nats: float = 0.1
    """Largest mean |difference| where they are recomputed, in low precision."""


def clipped_surrogate(logp_BT: Tensor, old_logp_BT: Tensor, advantage_BT: Tensor, clip: float) -> dict[str, Tensor]:
    """Return the terms of the clipped ratio loss of every decision (Schulman et al. 2017, eq. 7), and what was cut.

    `policy_loss`, `approx_kl_nats`, `clip_fraction`, `log_ratio_limited_fraction` and `ratio`, all (B, T). Values at
    masked positions mean nothing.
    """
    raw_BT = logp_BT - old_logp_BT
    log_ratio_BT = raw_BT.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    ratio_BT = log_ratio_BT.exp()
    plain_BT = -advantage_BT * ratio_BT
    clipped_BT = -advantage_BT * ratio_BT.clamp(1 - clip, 1 + clip)
    return {
        "policy_loss": torch.maximum(plain_BT, clipped_BT),
        "approx_kl_nats": ratio_BT - 1 - log_ratio_BT,
        "clip_fraction": (clipped_BT > plain_BT).float(),
        "log_ratio_limited_fraction": (raw_BT.abs() > LOG_RATIO_LIMIT).float(),
        "ratio": ratio_BT,
    }


def sampled_logp_BT(episodes: Episodes, method: str) -> Tensor:
    """Return the log-probabilities under which the rows were sampled.

    Raises:
        DataError: there are none: the rows are demonstrations.
    """
    if episodes.logp_BT is None:
        raise DataError(
            f"the episodes carry no logp_BT: they are demonstrations, and {method} needs rows that the policy sampled"
        )
    return episodes.logp_BT.detach()


def check_agreement(
    evaluation: Evaluation, episodes: Episodes, tolerance: Tolerance, *, recomputed: bool
) -> dict[str, float]:
    """Compare the update's first forward pass with sampling, before any step; refuse to go on where they differ.

    Returns `ratio_max_error`, `logp_gap_mean_nats`, `logp_gap_max_nats`. `recomputed` says that old log-probabilities
    are the update's own, so only the gap in nats is judged.

    Raises:
        DataError: they differ by more than the tolerance, or the episodes carry no log-probabilities.
    """
    old_BT = sampled_logp_BT(episodes, "this update")
    gap_BT = torch.where(episodes.mask_BT, evaluation.logp_BT - old_BT, 0.0)
    gap = float(masked_mean(gap_BT.abs(), episodes.mask_BT))
    ratio_error = float((gap_BT.exp() - 1).abs().max())
    reasons = (
        "sampling and scoring disagree. Look for a temperature left out of one of them, dropout, a pad equal to eos, "
        "padding or positions that matter, weights that moved since sampling, or, in control, a learning rate (--lr) so high that the "
        "policy's numbers no longer fit"
    )
    if recomputed and not gap <= tolerance.gap_nats:
        raise DataError(
            f"old log-probabilities differ from those of sampling by {gap:.3g} nats a decision, expected at most "
            f"{tolerance.gap_nats:g} in low precision: {reasons}"
        )
    if not recomputed and not ratio_error <= tolerance.ratio:
        raise DataError(
            f"|ratio - 1| is {ratio_error:.3g} before the first step, expected at most {tolerance.ratio:g}: "
            f"{reasons}; if sampling ran in bf16, set recompute_old_logp"
        )
    return {"ratio_max_error": ratio_error, "logp_gap_mean_nats": gap, "logp_gap_max_nats": float(gap_BT.abs().max())}


def work(episodes: Episodes, tokens_per_microbatch: int) -> dict[str, float]:
    """Count decisions, micro-batches, and the tokens computed in one pass, prompts and padding included."""
    parts = micro_batches(episodes, tokens_per_microbatch)
    return {
        "decisions": float(episodes.mask_BT.sum()),
        "microbatches": float(len(parts)),
        "tokens_per_pass": float(sum(part.tokens for part in parts)),
    }
