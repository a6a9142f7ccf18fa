"""What every recipe on texts is given, what it keeps between its steps, and what it hands back.

A recipe is a file of its own (`ppo`, `grpo`, `dpo`, ...) that ends with its `METHOD`; what recipes share are steps: `asking`,
`fitting`, `improving`. Left out: where prompts, policy and overseer come from (the experiment).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch

from backflip.data import Episodes
from backflip.optimise.kl import KLControl
from backflip.protocols import Overseer, RewardModel, World

if TYPE_CHECKING:  # a loop without a language model is spared transformers' start
    from backflip.loops.settings import Settings
    from backflip.optimise.nash_md import Preference
    from backflip.policies.asked import AskedLM
    from backflip.policies.best_of import BestOfN
    from backflip.policies.lm import LMPolicy
    from backflip.rewards.comparisons import Comparison
    from backflip.rewards.ensemble import RewardEnsemble
    from backflip.rewards.model import SequenceRewardModel
    from backflip.run import Run


class PairWorld(World, Protocol):
    """A world whose rows come in pairs from one prompt, and which can say whether a row ended by itself."""

    group_size: int

    def ended_B(self, episodes: Episodes) -> torch.Tensor:
        """Return True for rows that the policy ended."""
        ...


@dataclass(frozen=True)
class Parts:
    """What the recipe is applied to."""

    policy: LMPolicy
    """Improved in place."""
    world: PairWorld
    """Training prompts."""
    overseer: Overseer
    start_reward: Callable[[np.random.Generator], SequenceRewardModel]
    """Makes a fresh reward model, its head drawn from the generator."""
    question: str
    """What the overseer is asked."""
    components: Mapping[str, tuple[float, RewardModel]] = field(default_factory=dict[str, tuple[float, RewardModel]])
    """Rewards with their weights that are added to the learned one (weight 1), and logged apart."""
    given: RewardModel | None = None
    """A reward that is known, a plain function say: nobody is asked for one, and none is learned."""
    preference: Preference | None = None
    """A preference that is known, for a method that learns one: nobody is asked, and none is learned."""
    check: Callable[[LMPolicy | AskedLM, RewardModel | None], dict[str, float]] | None = None
    """A look at held-out prompts, with the reward where there is one; may cost, never teaches."""


@dataclass(frozen=True)
class Trained:
    """What came of it, and what it cost."""

    policy: LMPolicy | AskedLM | BestOfN
    """What was trained, as it is meant to be used."""
    reward: RewardEnsemble | None
    """What was learned from the comparisons; None for a method that learns no reward."""
    fits: list[dict[str, float]]
    """Statistics of each member's fit, among them its accuracy on comparisons that it set aside."""
    pairs: list[Comparison]
    """What the overseer said, comparisons that a fit set aside among them."""
    counts: dict[str, int]
    """judgements, unanswered, ties."""
    reference: LMPolicy
    episodes: int
    """Answers sampled, for questions and for updates."""
    tokens: int
    updates: int
    """Updates that were planned: the number in the policy's checkpoint."""
    given: RewardModel | None = None
    """The reward that was known from the beginning."""
    preference: Preference | None = None
    """What was learned or known of preferences that need come from no score; None for a method that learns none."""
    judged: Literal["comparisons", "ratings"] = "comparisons"
    """What the overseer was asked for."""
    noise: float = 0.0
    """Share of the answers that the fit of the reward took for coin flips."""


@dataclass
class Position:
    """How far the recipe has come; part of the saved state."""

    round: int = 0
    fitted: bool = False
    """Whether this round's questions are answered, and what is fitted to them is fitted."""
    update: int = 0
    asked: list[str] = field(default_factory=list[str])
    """Ids of the questions so far: the store may hold those of other runs too."""
    asked_at: list[int] = field(default_factory=list[int])
    """In which round each of them was asked first."""
    heard: list[str] = field(default_factory=list[str])
    """Ids of the judgements that were learned from last, in the order of the questions."""
    weights: dict[str, float] = field(default_factory=dict[str, float])
    """What the answers of each person weigh in them."""
    rewards: list[str] = field(default_factory=list[str])
    """Ids of the reward models so far, as their lineage has them."""
    episodes: int = 0
    tokens: int = 0
    fits: list[dict[str, float]] = field(default_factory=list[dict[str, float]])
    look_due: bool = True
    """Whether a look is to be taken before all else: where every curve begins, and where the last one failed."""
    constant: bool = False
    """Whether the run has said that its reward is constant."""


@dataclass
class Training:
    """A policy while it is trained: all that a resumed run needs."""

    policy: LMPolicy
    reference: LMPolicy
    """The policy that was started from."""
    optimizer: torch.optim.Optimizer
    at: Position
    beta: float
    """Weight of the KL to the reference in the next update."""
    asked: AskedLM | None = None
    """The policy asked for something, for a method that trains it to be."""

    @property
    def used(self) -> LMPolicy | AskedLM:
        """The policy as it is meant to be used."""
        return self.asked or self.policy

    def move_leash(self, kl: KLControl, stats: Mapping[str, float], rows: int) -> None:
        """Set the KL weight of the next update by the KL of this one's `rows` rows."""
        self.beta = replace(kl, beta=self.beta).after(stats["kl_nats_per_sequence"], rows).beta

    def counted(self, rows: Episodes) -> Episodes:
        """Return rows that were just sampled, having added them to the costs."""
        self.at.episodes, self.at.tokens = self.at.episodes + len(rows), self.at.tokens + int(rows.mask_BT.sum())
        return rows


@dataclass(frozen=True)
class Method:
    """A recipe as experiments see it: the last line of its file."""

    title: str
    """What its policy is called in tables."""
    config: type[Any]
    """Its settings, which an experiment adds to its own."""
    train: Callable[[Parts, Any, Run], Trained]
    """Carry it out, or what is left of it after a kill."""
    rewarded: bool = True
    """Whether it learns from a reward; else from the pairs themselves."""
    preferring: bool = False
    """Whether it learns a preference, and takes one that is known."""


def begin(parts: Parts, config: Settings, run: Run, beta: float = 0.0) -> Training:
    """Return the training at its beginning, or where the run's resume point left it."""
    policy = parts.policy
    reference = policy.reference()
    optimizer = torch.optim.Adam(policy.module.parameters(), lr=config.lr, eps=config.adam_eps)
    now = Training(policy, reference, optimizer, Position(), beta)
    if (saved := run.load_state()) is not None:
        now.at, now.beta = Position(**saved["at"]), saved["beta"]
        policy.module.load_state_dict(saved["policy"])
        optimizer.load_state_dict(saved["optimizer"])
        parts.world.load_state_dict(saved["world"])
    return now


def save(now: Training, parts: Parts, run: Run) -> None:
    """Make this moment the run's resume point."""
    run.save_state(
        f"round {now.at.round}, update {now.at.update}",
        {
            "at": vars(now.at),
            "beta": now.beta,
            "policy": now.policy.module.state_dict(),
            "optimizer": now.optimizer.state_dict(),
            "world": parts.world.state_dict(),
        },
    )


def end_round(now: Training, rounds: int, parts: Parts, run: Run) -> None:
    """Go on to the next round, if there is one."""
    now.at.round, now.at.fitted = now.at.round + 1, False
    if now.at.round < rounds:
        save(now, parts, run)


def stream(seed: int, name: str, *place: int) -> np.random.Generator:
    """Return the generator for one place in the recipe: the same in every process, apart from all others."""
    return np.random.default_rng([seed, zlib.crc32(name.encode()), *place])


def share(total: int, rounds: int, number: int) -> int:
    """Return what round `number` gets of `total`; shares differ by one at most and add up."""
    return shared_before(total, rounds, number + 1) - shared_before(total, rounds, number)


def shared_before(total: int, rounds: int, number: int) -> int:
    """Return what the rounds before `number` get of `total`, together."""
    return total * number // rounds
