"""Reward-conditioned training: learn from every answer what it was worth, and then ask for the best.

Each row is told, in front, the level that its reward reached (hindsight), and is learnt as a demonstration of that level. Two
levels are GOOD and BAD; more are quantiles. Asked for GOOD, the limit is the same as FeedME's (docs/conditional.md). How a level is
told (a control token, a feature) is a function that the caller gives, so text and control take the same path. Left out:
sampling (the loop).

Shapes: B rows, T decisions, L levels, P prompt columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from backflip.data import PAD, Act, Episodes, Evaluation
from backflip.errors import ConfigError, DataError
from backflip.optimise import sft
from backflip.optimise.returns import check_reward, on_last_decision
from backflip.optimise.sft import SFTConfig
from backflip.protocols import Policy

Tell = Callable[[Tensor, Tensor], Tensor]
"""From `obs` and every row's level, int64 (B,), to `obs` with the level told in it."""


@dataclass(frozen=True)
class ConditionalConfig:
    """Settings of one update of reward-conditioned training."""

    edges: tuple[float, ...] = (0.0,)
    """Rewards at which the next level begins, ascending; one edge makes BAD (0) and GOOD (1). `quantile_edges` makes more."""
    sft: SFTConfig = field(default_factory=SFTConfig)
    """The supervised tuning on the rows and their levels; aggregate=constant is the one whose limit is exactly the conditional."""

    def __post_init__(self) -> None:
        rising = all(low < high for low, high in zip(self.edges, self.edges[1:], strict=False))
        if not self.edges or not rising or not all(map(math.isfinite, self.edges)):
            raise ConfigError(f"edges are {self.edges}, expected one or more finite rewards, each above the one before")

    @property
    def top(self) -> int:
        """The best level, the one to ask for."""
        return len(self.edges)


class Asked:
    """A policy that is always asked for one level, as a `Policy` that plain worlds and measures can use.

    What it samples holds the prompts as they were, without the level, and the log-probabilities of the asked policy.
    """

    def __init__(self, policy: Policy, tell: Tell, level: int) -> None:
        """Wrap a policy that is trained with `update` and the same `tell`."""
        self.policy, self.tell, self.level = policy, tell, level

    def act(self, obs: Tensor, rng: np.random.Generator) -> Act:
        """Let the policy act, asked for the level."""
        return self.policy.act(self.tell(obs, torch.full((len(obs),), self.level)), rng)

    def evaluate(self, episodes: Episodes) -> Evaluation:
        """Evaluate every decision as if the level had been asked for, with gradients."""
        return self.policy.evaluate(told(episodes, torch.full((len(episodes),), self.level), self.tell))

    def kl_BT(self, reference: Policy, episodes: Episodes) -> Tensor:
        """Refuse: the reference reads other prompts than the policy, so compare log-probabilities instead.

        Raises:
            ConfigError: always; `measures.kl.k1_nats_per_sequence` works, with the unprompted base as reference.
        """
        raise ConfigError(
            "a policy that is asked for a level reads another prompt than its reference; measure its KL with "
            "k1_nats_per_sequence"
        )


def update(
    policy: Asked,
    optimizer: torch.optim.Optimizer,
    episodes: Episodes,
    reward_BT: Tensor,
    config: ConditionalConfig,
    rng: np.random.Generator | None = None,
) -> dict[str, float]:
    """Learn every row as a demonstration of the level that its reward reached; return statistics (docs/conditional.md).

    Rows may come from anybody: the base, this policy asked for anything (online decision transformers, Zheng et al. 2022), a
    buffer of both. Returns those of `sft.update`, `reward_sum_mean`, and for each level `level_L_fraction`.

    Raises:
        DataError: rewards that are not finite or not on decisions; all rows reached one level, so there is nothing to tell apart.
        ConfigError: the level asked for does not exist.
    """
    check_reward(reward_BT, episodes.mask_BT)
    if not 0 <= policy.level <= config.top:
        raise ConfigError(
            f"the policy is asked for level {policy.level}, and {config.edges} make levels 0 to {config.top}"
        )
    score_B = reward_BT.sum(1)
    level_B = levels(score_B, config.edges)
    count_L = torch.bincount(level_B.cpu(), minlength=config.top + 1)
    if int((count_L > 0).sum()) == 1:
        raise DataError(
            f"all {len(level_B)} rewards ({float(score_B.min()):g} to {float(score_B.max()):g}) reach level {int(level_B[0])} of "
            f"the edges {config.edges}: nothing can be told apart; move the edges, or look at what rates the rows"
        )
    rows = told(episodes, level_B, policy.tell)
    weight_BT = on_last_decision(torch.ones(len(rows)), rows.mask_BT)
    stats = sft.update(policy.policy, optimizer, rows, weight_BT, config.sft, rng)
    stats["reward_sum_mean"] = float(score_B.mean())
    return stats | {f"level_{level}_fraction": float(n) / len(level_B) for level, n in enumerate(count_L.tolist())}


def levels(score_B: Tensor, edges: Sequence[float]) -> Tensor:
    """Return how many edges every score reaches, int64 (B,): 0 is the worst level; a score on an edge has reached it."""
    edge_L = torch.tensor(list(edges), dtype=score_B.dtype, device=score_B.device)
    return (score_B.unsqueeze(1) >= edge_L).sum(1)


def quantile_edges(score_B: Tensor, count: int) -> tuple[float, ...]:
    """Return the edges that cut these scores into `count` levels of about equal size; equal edges become one.

    Raises:
        DataError: the scores have too few values for two levels.
    """
    if count < 2:
        raise ConfigError(f"{count} levels tell nothing apart, expected 2 or more")
    share_L = torch.arange(1, count, dtype=torch.float64) / count
    sorted_B = score_B.detach().cpu().double().sort().values
    edge_L = sorted_B[(share_L * len(sorted_B)).ceil().long().clamp(max=len(sorted_B) - 1)]
    edges = tuple(edge for edge in dict.fromkeys(edge_L.tolist()) if edge > float(sorted_B[0]))
    if not edges:
        raise DataError(f"{len(sorted_B)} scores have too few values for {count} levels; expected different scores")
    return edges


def told(episodes: Episodes, level_B: Tensor, tell: Tell) -> Episodes:
    """Return the rows with a level told to each; log-probabilities of sampling are dropped, for they were given otherwise."""
    return replace(episodes, obs=tell(episodes.obs, level_B), logp_BT=None, ref_logp_BT=None, value_BT=None)


@dataclass(frozen=True)
class TokenInFront:
    """Tells a level by one token in front of a prompt of tokens (Korbak et al. 2023, section 2)."""

    tokens: tuple[int, ...]
    """The token of every level, worst first: tokens that prompts do not hold otherwise."""
    after: int = 0
    """Prompt tokens that stay before it, such as one that begins every text."""

    def __call__(self, obs: Tensor, level_B: Tensor) -> Tensor:
        """Return obs_BP with one column more; prompts stay filled on the left.

        Raises:
            DataError: a prompt has fewer tokens than stay in front.
        """
        token_B = torch.tensor(self.tokens, device=obs.device)[level_B.to(obs.device)]
        first_B = (obs == PAD).sum(1)
        if (obs.shape[1] - first_B < self.after).any():
            raise DataError(f"a prompt has fewer than the {self.after} tokens that stay before the level's token")
        place_B1 = (first_B + self.after).unsqueeze(1)
        column_P = torch.arange(obs.shape[1] + 1, device=obs.device)
        moved = torch.cat([obs.new_full((len(obs), 1), PAD), obs], 1)
        kept = torch.cat([obs, obs.new_full((len(obs), 1), PAD)], 1)
        return torch.where(column_P < place_B1, kept, torch.where(column_P == place_B1, token_B.unsqueeze(1), moved))
