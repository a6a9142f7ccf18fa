"""Rounds of sample, ask, fit, imitate: a reward model learned from comparisons rates answers, and the best are learned by heart (FeedME).

With `rating:by_overseer` the overseer grades answers itself, and no reward model is learned (`rating`).

Every update samples anew from the policy so far and keeps the best answer of each group, so its limit moves on with every update, and no
KL holds it: the number of updates is the leash. Left out: which rows are kept, and the tuning on them (`optimise.feedme`).

Shapes: B rows, T decisions.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from backflip.errors import ConfigError
from backflip.loops import rating
from backflip.loops.asking import close, reread
from backflip.loops.fitting import hear_and_fit
from backflip.loops.improving import Stopwatch, refuse_constant, sample, score, take_updates, warn_of_equal_groups
from backflip.loops.parts import Method, Parts, Trained, Training, begin, end_round, stream
from backflip.loops.rating import ByOverseer
from backflip.loops.settings import RewardLearningConfig, reward_work
from backflip.optimise import feedme
from backflip.optimise.feedme import FeedMEConfig, TopShare
from backflip.plan import MethodWork
from backflip.rewards.combine import WeightedRewards

if TYPE_CHECKING:
    from backflip.run import Run


@dataclass(frozen=True)
class ByReward:
    """A reward model rates the answers of every update; it is learned from comparisons."""


@dataclass(frozen=True)
class FeedMELoopConfig(RewardLearningConfig):
    """Settings of the recipe."""

    updates: int = 24
    """Updates of the policy, over all rounds."""
    lr: float = 1e-4
    """Adam's learning rate."""
    group: int = 4
    """Answers to each prompt, of which the best are kept."""
    feedme: FeedMEConfig = field(default_factory=lambda: FeedMEConfig(keep=TopShare(0.25, within_group=True)))
    """Which rows are kept, and the supervised tuning on them."""
    rating: ByReward | ByOverseer = field(default_factory=ByReward)
    """Who rates the answers."""

    def __post_init__(self) -> None:
        RewardLearningConfig.__post_init__(self)
        if self.group < 2 or self.episodes % self.group:
            raise ConfigError(
                f"group is {self.group} and episodes {self.episodes}; expected groups of 2 or more, and episodes to be a multiple of group"
            )
        if isinstance(self.rating, ByOverseer):
            usual = type(self)()
            for name in ("members", "fit", "ensemble", "normalise_on", "episodes", "group", "scores", "weigh_people"):
                if getattr(self, name) != getattr(usual, name):
                    raise ConfigError(
                        f"{name} has no meaning with rating:by_overseer, where no reward is learned; leave it out"
                    )
            if self.feedme.keep != usual.feedme.keep:
                raise ConfigError("with rating:by_overseer the bar is rating.keep; leave feedme.keep out")

    @property
    def work(self) -> MethodWork:
        """What the run will do."""
        if isinstance(self.rating, ByOverseer):
            tuning = self.feedme.sft
            return MethodWork(0, self.rating.answers * self.updates, tuning.epochs, tuning.tokens_per_microbatch)
        return reward_work(self, self.feedme.sft.epochs, self.feedme.sft.tokens_per_microbatch)


def train(parts: Parts, config: FeedMELoopConfig, run: Run) -> Trained:
    """Carry out the recipe, or what is left of it after a kill; logs phases `ask`, `reward`, `feedme`, `check`.

    Raises:
        ConfigError: the overseer is to grade, and cannot.
        DataError: a reward is not finite, all answers are rated alike, or nobody answered a single question.
    """
    if isinstance(config.rating, ByOverseer):
        return rating.train(parts, config, config.rating, run)
    now = begin(parts, config, run)
    told, reward = reread(now.at, run), None
    for _ in range(now.at.round, config.rounds):
        told, reward, rewards = hear_and_fit(parts, told, config, now, run)
        update = partial(improve, parts, rewards, now, config, run)
        take_updates("feedme", update, rewards, parts, now, config, run)
        end_round(now, config.rounds, parts, run)
    return replace(close(told, reward, now, parts, config, run), noise=config.fit.noise)


def improve(
    parts: Parts, rewards: WeightedRewards, now: Training, config: FeedMELoopConfig, run: Run
) -> dict[str, float]:
    """Sample, score, and learn the best by heart; return the statistics."""
    watch = Stopwatch()
    rows = sample(parts, now, config.episodes, config.group, config)
    sampled = watch.lap()
    rows, score_BT, stats = score(rows, parts, rewards, now, config, config.feedme.sft.tokens_per_microbatch)
    refuse_constant(stats["proxy_mean"], stats["proxy_std"])
    equal = warn_of_equal_groups(score_BT, rows, now, run)
    scored = watch.lap()
    rng = stream(config.seed, "minibatches", now.at.update)
    stats |= feedme.update(now.policy, now.optimizer, rows, score_BT, config.feedme, rng)
    stats["equal_group_fraction"] = equal
    return stats | {"seconds_sample": sampled, "seconds_score": scored, "seconds_update": watch.lap()}


METHOD = Method("FeedME", FeedMELoopConfig, train)
