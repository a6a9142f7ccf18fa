"""FeedME: keep the rated answers that are good enough, and tune on them as if they were demonstrations.

The name is OpenAI's for the models -001 and -002; relatives are expert iteration and rejection sampling. On samples of the
policy itself the limit of a bar is that policy *conditioned* on having passed, and of the best of each group it is best-of-n; neither is
the limit of RL (docs/feedme.md). Left out: the loss, which is `sft`'s, and sampling (the loop).

Shapes: B rows, T decisions, G groups.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from backflip.data import Episodes
from backflip.errors import ConfigError, DataError
from backflip.measures.best_of_n import kl_of_kept_nats
from backflip.optimise import sft
from backflip.optimise.groups import numbered
from backflip.optimise.returns import check_reward, on_last_decision
from backflip.optimise.sft import SFTConfig
from backflip.protocols import Policy


@dataclass(frozen=True)
class AtLeast:
    """Keep rows whose rating reaches a fixed bar. Further rounds with the same bar change nothing in the limit."""

    rating: float = 1.0
    """The bar, in units of the rating; 1 is the top grade of a rating in [0, 1]."""

    def __post_init__(self) -> None:
        if not math.isfinite(self.rating):
            raise ConfigError(f"keep.rating is {self.rating}, expected a finite rating")


@dataclass(frozen=True)
class TopShare:
    """Keep the best rows of the batch: a bar that moves, so every round goes further."""

    share: float = 0.25
    """Rows that are kept, of all rows; those that tie with the last one are kept too."""
    within_group: bool = False
    """Take the share of every group (prompt) instead of the batch, so that hard prompts are learnt from as well."""

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ConfigError(f"keep.share is {self.share}, expected between 0 and 1: all rows kept is no choice")


Keep = AtLeast | TopShare
"""Which rows are learnt from."""


@dataclass(frozen=True)
class FeedMEConfig:
    """Settings of one round of FeedME."""

    keep: Keep = field(default_factory=TopShare)
    """Which rows are learnt from."""
    sft: SFTConfig = field(default_factory=SFTConfig)
    """The supervised tuning on them; aggregate=constant is the one whose limit is exactly the conditional."""


def update(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    episodes: Episodes,
    reward_BT: Tensor,
    config: FeedMEConfig,
    rng: np.random.Generator | None = None,
) -> dict[str, float]:
    """Tune on the rows whose rating, the sum of their reward, is good enough; return statistics (docs/feedme.md).

    Returns those of `sft.update`, and `kept_fraction`, `kept_reward_mean`, `reward_sum_mean`, `bar`.
    `kl_bound_nats` is what going all the way to the kept rows would cost at most: the best-of-n KL where the best of each group are kept
    and none ties with the last one, -ln of the kept share elsewhere.

    Raises:
        DataError: ratings that are not finite or not on decisions; no row is good enough; all rows are rated alike.
    """
    check_reward(reward_BT, episodes.mask_BT)
    rating_B = reward_BT.sum(1)
    kept_B, chose = chosen(rating_B, episodes.group_B, config.keep)
    rows = kept_B.nonzero().flatten()
    part = episodes.select(rows)
    stats = sft.update(policy, optimizer, part, on_last_decision(torch.ones(len(rows)), part.mask_BT), config.sft, rng)
    return stats | chose


def chosen(rating_B: Tensor, group_B: Tensor, keep: Keep) -> tuple[Tensor, dict[str, float]]:
    """Return True for rows that are learnt from, bool (B,), and statistics of the choice.

    Raises:
        DataError: no row is good enough; all rows are rated alike.
    """
    kept_B = kept(rating_B, group_B, keep)
    found = int(kept_B.sum())
    if found == 0:
        raise DataError(
            f"none of {len(kept_B)} rows passes {keep}; the best is rated {float(rating_B.max()):g}: lower the bar, or "
            "sample more rows"
        )
    if found == len(kept_B) and float(rating_B.max()) == float(rating_B.min()):
        raise DataError(
            f"all {found} rows are rated {float(rating_B[0]):g}, so nothing is chosen and tuning on them would teach the policy "
            "itself; look at what rates them"
        )
    return kept_B, {
        "kept_fraction": found / len(kept_B),
        "kept_reward_mean": float(rating_B[kept_B].mean()),
        "reward_sum_mean": float(rating_B.mean()),
        "bar": float(rating_B[kept_B].min()),
        "kl_bound_nats": kl_bound_nats(kept_B, group_B, keep),
    }


def kl_bound_nats(kept_B: Tensor, group_B: Tensor, keep: Keep) -> float:
    """Return what going all the way to the kept rows would cost at most, nats; mean over groups, weighted by the rows they keep.

    Keeping rows with any probability s costs at most -ln of its mean. The best of each group alone, without ties, cost less (`measures`'
    `kl_of_kept_nats`); rows that tie with the last one and are all kept may cost up to a tenth more than that, so it bounds nothing then.
    """
    found = int(kept_B.sum())
    if isinstance(keep, TopShare) and keep.within_group:
        index_B, groups = numbered(group_B)
        size_G = torch.bincount(index_B, minlength=groups).tolist()
        kept_G = torch.bincount(index_B[kept_B.cpu()], minlength=groups).tolist()
        if all(each == wanted(keep, size) for each, size in zip(kept_G, size_G, strict=True)):
            return sum(each * kl_of_kept_nats(size, each) for each, size in zip(kept_G, size_G, strict=True)) / found
    return -math.log(found / len(kept_B))


def wanted(keep: TopShare, rows: int) -> int:
    """Return how many of a group of `rows` are kept where none ties with the last of them."""
    return max(1, round(keep.share * rows))


def kept(rating_B: Tensor, group_B: Tensor, keep: Keep) -> Tensor:
    """Return True for rows that are learnt from, bool (B,). A tie with the bar passes it."""
    if isinstance(keep, AtLeast):
        return rating_B >= keep.rating
    index_B, groups = numbered(group_B)
    if not keep.within_group:
        index_B, groups = torch.zeros_like(index_B), 1
    rating_B, kept_B = rating_B.cpu(), torch.zeros(len(rating_B), dtype=torch.bool)
    for group in range(groups):
        rows = (index_B == group).nonzero().flatten()
        bar = rating_B[rows].sort(descending=True).values[wanted(keep, len(rows)) - 1]
        kept_B[rows] = rating_B[rows] >= bar
    return kept_B.to(group_B.device)
