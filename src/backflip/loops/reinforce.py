"""Rounds of sample, ask, fit, improve: comparisons make a reward model, and REINFORCE a better policy.

A row's return less the mean of the batch's other rows, one step a batch.
The recipe is that of `ppo` with another update and no critic. Left out: the update (`optimise.reinforce`).

Shapes: B rows, T decisions.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from backflip.loops.asking import close, reread
from backflip.loops.fitting import hear_and_fit
from backflip.loops.improving import Stopwatch, sample, score, take_updates, warn_of_constant
from backflip.loops.parts import Method, Parts, Trained, Training, begin, end_round, stream
from backflip.loops.settings import RewardLearningConfig, reward_work
from backflip.optimise import reinforce
from backflip.optimise.kl import FixedKL, KLControl, shape_reward
from backflip.optimise.reinforce import ReinforceConfig
from backflip.plan import MethodWork
from backflip.rewards.combine import WeightedRewards

if TYPE_CHECKING:
    from backflip.run import Run


@dataclass(frozen=True)
class ReinforceLoopConfig(RewardLearningConfig):
    """Settings of the recipe."""

    reinforce: ReinforceConfig = field(default_factory=lambda: ReinforceConfig(entropy_coef=0.02))
    """The update."""
    kl: KLControl = field(default_factory=lambda: FixedKL(0.045))
    """The leash to the policy that was started from."""

    def __post_init__(self) -> None:
        RewardLearningConfig.__post_init__(self)

    @property
    def work(self) -> MethodWork:
        """What the run will do."""
        return reward_work(self, 1, self.reinforce.tokens_per_microbatch)


def train(parts: Parts, config: ReinforceLoopConfig, run: Run) -> Trained:
    """Carry out the recipe, or what is left of it after a kill; logs phases `ask`, `reward`, `reinforce`, `check`.

    Raises:
        DataError: sampling and scoring disagree, a reward is not finite, or nobody answered a single question.
    """
    now = begin(parts, config, run, config.kl.beta)
    told, reward = reread(now.at, run), None
    for _ in range(now.at.round, config.rounds):
        told, reward, rewards = hear_and_fit(parts, told, config, now, run)
        update = partial(improve, parts, rewards, now, config, run)
        take_updates("reinforce", update, rewards, parts, now, config, run)
        end_round(now, config.rounds, parts, run)
    return replace(close(told, reward, now, parts, config, run), noise=config.fit.noise)


def improve(
    parts: Parts, rewards: WeightedRewards, now: Training, config: ReinforceLoopConfig, run: Run
) -> dict[str, float]:
    """Sample, score, and update once; return the statistics and set the KL weight of the next update."""
    watch = Stopwatch()
    rows = sample(parts, now, config.episodes, parts.world.group_size, config)
    sampled = watch.lap()
    rows, score_BT, stats = score(rows, parts, rewards, now, config, config.reinforce.tokens_per_microbatch)
    warn_of_constant(stats["proxy_mean"], stats["proxy_std"], now, run)
    scored = watch.lap()
    stats |= reinforce.update(
        now.policy,
        now.optimizer,
        rows,
        shape_reward(score_BT, rows, now.beta),
        config.reinforce,
        stream(config.seed, "minibatches", now.at.update),
    )
    now.move_leash(config.kl, stats, len(rows))
    return stats | {"seconds_sample": sampled, "seconds_score": scored, "seconds_update": watch.lap()}


METHOD = Method("REINFORCE", ReinforceLoopConfig, train)
