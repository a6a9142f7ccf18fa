"""What happens to a score before it becomes a reward: a clip, and a rule for rows that never ended.

Both come before the KL penalty. Left out: normalising, which belongs to the reward model's checkpoint.

Shapes: B rows, T decisions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from backflip.data import Episodes
from backflip.errors import ConfigError, DataError
from backflip.masked import masked_mean
from backflip.optimise.returns import check_reward
from backflip.optimise.step import answer_width_B


@dataclass(frozen=True)
class ScoreRules:
    """How scores are made safe; the default changes nothing."""

    clip: float = float("inf")
    """Scores are cut to [-clip, clip]. Hides over-optimisation: the unclipped mean is in the statistics."""
    missing_end: Literal["off", "replace", "subtract"] = "off"
    """What a row that was cut before its end gets: its own score, `missing_end_value` instead of it (Ziegler et al.
    2019), or its score with `missing_end_value` taken off (TRL)."""
    missing_end_value: float = -1.0
    """With replace: the score itself (below what an ordinary row gets). With subtract: what is taken off (above 0)."""

    def __post_init__(self) -> None:
        if not self.clip > 0:
            raise ConfigError(f"scores.clip is {self.clip}, expected above 0; inf for no clip")
        if self.missing_end == "subtract" and self.missing_end_value <= 0:
            raise ConfigError(
                f"missing_end=subtract takes {self.missing_end_value} off, which rewards rows without an end; "
                "expected missing_end_value above 0"
            )


def apply_rules(
    reward_BT: Tensor, episodes: Episodes, ended_B: Tensor, rules: ScoreRules
) -> tuple[Tensor, dict[str, float]]:
    """Clip scores, then apply the rule for rows that did not end; a score is the sum of a row's reward.

    `ended_B` is True where the policy ended the row itself. What a rule changes is changed on the last decision, so the
    sum of a row's reward is its new score. Returns the new reward_BT and `score_mean`, `score_std` (both as given),
    `score_clipped_fraction`, `missing_end_fraction`.

    Raises:
        DataError: see `check_reward`; or a row without a decision.
    """
    check_reward(reward_BT, episodes.mask_BT)
    last_B = answer_width_B(episodes) - 1
    if (last_B < 0).any():
        row = int((last_B < 0).nonzero()[0])
        raise DataError(f"row {row} holds no decision, so its score has no place; leave such rows out")
    score_B = reward_BT.sum(1)
    new_B = score_B.clamp(-rules.clip, rules.clip)
    clipped_B = new_B != score_B
    value = torch.full_like(score_B, rules.missing_end_value)
    if rules.missing_end == "replace":
        new_B = torch.where(ended_B, new_B, value)
    elif rules.missing_end == "subtract":
        new_B = torch.where(ended_B, new_B, new_B - value)
    shaped_BT = reward_BT.clone()
    shaped_BT[torch.arange(len(score_B), device=last_B.device), last_B] += new_B - score_B
    every_B = torch.ones_like(ended_B)
    return shaped_BT, {
        "score_mean": float(masked_mean(score_B, every_B)),
        "score_std": float(score_B.std(correction=0)),
        "score_clipped_fraction": float(masked_mean(clipped_B.float(), every_B)),
        "missing_end_fraction": float(masked_mean((~ended_B).float(), every_B)),
    }
