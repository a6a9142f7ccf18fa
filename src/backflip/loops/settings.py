"""Settings that recipes have in common, so that one name means one thing in all of them.

Those of a recipe that learns from the judgements themselves, and those of one that learns a reward first. PPO writes its own out
(`ppo.PPOLoopConfig`) under the same names. Left out: what a method has alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from backflip.errors import ConfigError
from backflip.loops.choosing import check_queries
from backflip.loops.stop import StopRules
from backflip.optimise.scores import ScoreRules
from backflip.plan import MethodWork
from backflip.rewards.ensemble import EnsembleRule, Mean, check_rule
from backflip.rewards.fit import FitConfig
from backflip.rewards.queries import Choice

if TYPE_CHECKING:
    from backflip.loops.best_of_n import BestOfNLoopConfig
    from backflip.loops.imitate import ImitateLoopConfig
    from backflip.loops.ppo import PPOLoopConfig

RewardSettings: TypeAlias = "PPOLoopConfig | RewardLearningConfig"
"""Of any recipe that learns a reward, and trains a policy on it."""
FitSettings: TypeAlias = "RewardSettings | BestOfNLoopConfig"
"""Of any recipe that learns a reward."""
AskSettings: TypeAlias = "FitSettings | LearningConfig"
"""Of any recipe that asks."""
UpdateSettings: TypeAlias = "RewardSettings | LearningConfig | ImitateLoopConfig"
"""Of any recipe that trains a policy."""
Settings: TypeAlias = "AskSettings | ImitateLoopConfig"
"""Of any recipe."""


@dataclass(frozen=True)
class LearningConfig:
    """What a method is told that learns from the judgements themselves."""

    seed: int = 0
    """Of everything random."""
    rounds: int = 1
    """Rounds of sample, ask, learn; the comparisons and updates are shared among them."""
    comparisons: int = 2000
    """Questions put to the overseer, over all rounds."""
    wait_seconds: float = float("inf")
    """How long a round waits for answers; those that come later are used in the next round."""
    weigh_people: bool = True
    """Whether answers of people count by how often they seem to be right (docs/labeling.md)."""
    updates: int = 36
    """Updates of the policy, over all rounds."""
    lr: float = 1.2e-4
    """Adam's learning rate."""
    adam_eps: float = 1e-5
    """Adam's epsilon (Ziegler et al. 2019)."""
    decay: bool = True
    """Whether the learning rate falls linearly to 0 over the updates."""
    stop: StopRules = field(default_factory=StopRules)
    """When to stop early."""
    check_every: int = 10
    """Updates between looks at held-out prompts."""
    check_early: bool = False
    """Whether to look also after updates 1, 2, 4, ... before the first of these: for a method that goes far at once."""
    save_every: int = 10
    """Updates between saved states."""

    def __post_init__(self) -> None:
        check_learning(self)

    @property
    def questions(self) -> int:
        """Questions put to the overseer over all rounds, as far as the stop rule lets."""
        return min(self.comparisons, self.stop.judgements or self.comparisons)


@dataclass(frozen=True)
class RewardLearningConfig:
    """What a method is told that learns a reward, and improves the policy on rows that it samples."""

    seed: int = 0
    """Of everything random."""
    rounds: int = 1
    """Rounds of sample, ask, learn; the comparisons and updates are shared among them."""
    comparisons: int = 2000
    """Questions put to the overseer, over all rounds."""
    wait_seconds: float = float("inf")
    """How long a round waits for answers; those that come later are used in the next round."""
    weigh_people: bool = True
    """Whether answers of people count by how often they seem to be right (docs/labeling.md)."""
    updates: int = 36
    """Updates of the policy, over all rounds."""
    lr: float = 1.2e-4
    """Adam's learning rate."""
    adam_eps: float = 1e-5
    """Adam's epsilon (Ziegler et al. 2019)."""
    decay: bool = True
    """Whether the learning rate falls linearly to 0 over the updates."""
    stop: StopRules = field(default_factory=StopRules)
    """When to stop early."""
    check_every: int = 10
    """Updates between looks at held-out prompts."""
    check_early: bool = False
    """Whether to look also after updates 1, 2, 4, ... before the first of these: for a method that goes far at once."""
    save_every: int = 10
    """Updates between saved states."""

    queries: Choice = "random"
    """Which pairs are asked about after the first round: random, those on which the reward models of the round before disagree, or mixed."""
    candidates: int = 4
    """Pairs drawn for each that is asked about, where they are not random."""
    members: int = 3
    """Reward models in the ensemble."""
    fit: FitConfig = field(
        default_factory=lambda: FitConfig(lr=3e-4, head_lr=3e-4, batch=16, bootstrap=False, held_out=0.05)
    )
    """The fit of each of them."""
    ensemble: EnsembleRule = field(default_factory=Mean)
    """How what the reward models say becomes one reward."""
    normalise_on: int = 512
    """Answers of the reference policy on which rewards get mean 0 and standard deviation 1."""
    episodes: int = 160
    """Answers sampled for each update."""
    scores: ScoreRules = field(default_factory=lambda: ScoreRules(missing_end="subtract", missing_end_value=0.5))
    """What happens to scores before anything is learned from them."""

    def __post_init__(self) -> None:
        check_learning(self)
        one_or_more(self, ("members", "episodes"))
        check_rule(self.ensemble, self.members)
        check_queries(self.queries, self.candidates, self.rounds, self.members)
        if self.normalise_on < 2:
            raise ConfigError(f"normalise_on is {self.normalise_on}, expected 2 or more answers: one has no spread")

    @property
    def questions(self) -> int:
        """Questions put to the overseer over all rounds, as far as the stop rule lets."""
        return min(self.comparisons, self.stop.judgements or self.comparisons)


def check_learning(config: LearningConfig | RewardLearningConfig) -> None:
    """Refuse settings that cannot be, of those that all methods have.

    Raises:
        ConfigError: one of them cannot.
    """
    one_or_more(config, ("rounds", "comparisons", "updates", "check_every", "save_every"))
    if not (0 < config.lr < float("inf") and 0 <= config.adam_eps < float("inf") and config.wait_seconds >= 0):
        raise ConfigError(
            f"lr is {config.lr}, adam_eps {config.adam_eps}, wait_seconds {config.wait_seconds}; expected a finite lr above 0, a "
            "finite adam_eps of 0 or more, and wait_seconds of 0 or more"
        )
    if min(config.questions, config.updates) < config.rounds:
        raise ConfigError(f"{config.rounds} rounds need as many comparisons and updates; raise them, or lower rounds")


def reward_work(config: RewardSettings, passes: int, tokens_per_microbatch: int) -> MethodWork:
    """Return what a recipe does that learns a reward and samples rows for each update."""
    rows = config.updates * config.episodes
    return MethodWork(
        sampled=config.rounds * config.normalise_on + rows,
        updated=rows,
        passes=passes,
        tokens_per_microbatch=tokens_per_microbatch,
        reward_models=config.members,
        reward_epochs=config.fit.epochs * config.rounds,
    )


def one_or_more(config: object, names: Sequence[str]) -> None:
    """Refuse settings below 1.

    Raises:
        ConfigError: naming the first that is.
    """
    for name in names:
        if getattr(config, name) < 1:
            raise ConfigError(f"{name} is {getattr(config, name)}, expected 1 or more")
