"""Rounds of sample, ask, fit, improve: comparisons make a reward model, and PPO a better policy.

The whole recipe stands here; its steps have files of their own (`asking`, `fitting`, `improving`). What it leaves out: where prompts, policy
and overseer come from, and what the result is worth (the experiment). It can be killed at any moment: everything random is a
function of the seed and of where in the recipe it is drawn, and the state is saved at the start of every round, after every
fit, and every `save_every` updates.

Shapes: B rows, T decisions.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from backflip.errors import ConfigError
from backflip.loops.asking import close, reread
from backflip.loops.choosing import check_queries
from backflip.loops.fitting import hear_and_fit
from backflip.loops.improving import Stopwatch, sample, score, take_updates, warn_of_constant
from backflip.loops.parts import Method, Parts, Trained, Training, begin, end_round, stream
from backflip.loops.settings import reward_work
from backflip.loops.stop import StopRules
from backflip.optimise import ppo
from backflip.optimise.kl import FixedKL, KLControl, shape_reward
from backflip.optimise.ppo import PPOConfig
from backflip.optimise.scores import ScoreRules
from backflip.plan import MethodWork
from backflip.rewards.combine import WeightedRewards
from backflip.rewards.ensemble import EnsembleRule, Mean, check_rule
from backflip.rewards.fit import FitConfig
from backflip.rewards.queries import Choice

if TYPE_CHECKING:
    from backflip.run import Run


@dataclass(frozen=True)
class PPOLoopConfig:
    """Settings of the recipe."""

    seed: int = 0
    """Of everything random."""
    rounds: int = 1
    """Rounds of sample, ask, fit, improve; the comparisons and updates are shared among them."""
    comparisons: int = 2000
    """Questions put to the overseer, over all rounds."""
    queries: Choice = "random"
    """Which pairs are asked about after the first round: random, those on which the reward models of the round before disagree, or mixed."""
    candidates: int = 4
    """Pairs drawn for each that is asked about, where they are not random."""
    wait_seconds: float = float("inf")
    """How long a round waits for answers; those that come later are used in the next round."""
    members: int = 3
    """Reward models in the ensemble."""
    fit: FitConfig = field(default_factory=FitConfig)
    """The fit of each of them."""
    ensemble: EnsembleRule = field(default_factory=Mean)
    """How what the reward models say becomes one reward."""
    weigh_people: bool = True
    """Whether answers of people count in the fit by how often they seem to be right (docs/labeling.md)."""
    normalise_on: int = 512
    """Answers of the reference policy on which rewards get mean 0 and standard deviation 1."""
    updates: int = 60
    """PPO updates, over all rounds."""
    episodes: int = 128
    """Answers sampled for each update."""
    lr: float = 3e-4
    """Adam's learning rate."""
    adam_eps: float = 1e-5
    """Adam's epsilon (Ziegler et al. 2019)."""
    decay: bool = True
    """Whether the learning rate falls linearly to 0 over the updates."""
    ppo: PPOConfig = field(default_factory=PPOConfig)
    """The update."""
    kl: KLControl = field(default_factory=FixedKL)
    """The leash to the policy that was started from."""
    scores: ScoreRules = field(default_factory=lambda: ScoreRules(missing_end="replace"))
    """What happens to scores before the KL penalty."""
    stop: StopRules = field(default_factory=StopRules)
    """When to stop early."""
    check_every: int = 10
    """Updates between looks at held-out prompts."""
    check_early: bool = False
    """Whether to look also after updates 1, 2, 4, ... before the first of these: for a method that goes far at once."""
    save_every: int = 10
    """Updates between saved states."""

    def __post_init__(self) -> None:
        for name in ("rounds", "comparisons", "members", "updates", "episodes", "check_every", "save_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected 1 or more")
        if not (0 < self.lr < float("inf") and 0 <= self.adam_eps < float("inf") and self.wait_seconds >= 0):
            raise ConfigError(
                f"lr is {self.lr}, adam_eps {self.adam_eps}, wait_seconds {self.wait_seconds}; expected a finite lr above 0, a "
                "finite adam_eps of 0 or more, and wait_seconds of 0 or more"
            )
        check_rule(self.ensemble, self.members)
        check_queries(self.queries, self.candidates, self.rounds, self.members)
        if self.normalise_on < 2:
            raise ConfigError(f"normalise_on is {self.normalise_on}, expected 2 or more answers: one has no spread")
        if min(self.questions, self.updates) < self.rounds:
            raise ConfigError(f"{self.rounds} rounds need as many comparisons and updates; raise them, or lower rounds")

    @property
    def questions(self) -> int:
        """Questions put to the overseer over all rounds, as far as the stop rule lets."""
        return min(self.comparisons, self.stop.judgements or self.comparisons)

    @property
    def work(self) -> MethodWork:
        """What the run will do."""
        return reward_work(self, self.ppo.epochs, self.ppo.tokens_per_microbatch)


def train(parts: Parts, config: PPOLoopConfig, run: Run) -> Trained:
    """Carry out the recipe, or what is left of it after a kill; logs phases `ask`, `reward`, `ppo`, `check`.

    Raises:
        DataError: sampling and scoring disagree, a reward is not finite, or nobody answered a single question.
    """
    now = begin(parts, config, run, config.kl.beta)
    told, reward = reread(now.at, run), None
    for _ in range(now.at.round, config.rounds):
        told, reward, rewards = hear_and_fit(parts, told, config, now, run)
        update = partial(improve, parts, rewards, now, config, run)
        take_updates("ppo", update, rewards, parts, now, config, run)
        end_round(now, config.rounds, parts, run)
    return replace(close(told, reward, now, parts, config, run), noise=config.fit.noise)


def improve(parts: Parts, rewards: WeightedRewards, now: Training, config: PPOLoopConfig, run: Run) -> dict[str, float]:
    """Sample, score, and update once; return the statistics and set the KL weight of the next update."""
    watch = Stopwatch()
    rows = sample(parts, now, config.episodes, parts.world.group_size, config)
    sampled = watch.lap()
    rows, score_BT, stats = score(rows, parts, rewards, now, config, config.ppo.tokens_per_microbatch)
    warn_of_constant(stats["proxy_mean"], stats["proxy_std"], now, run)
    scored = watch.lap()
    stats |= ppo.update(
        now.policy,
        now.optimizer,
        rows,
        shape_reward(score_BT, rows, now.beta),
        config.ppo,
        stream(config.seed, "minibatches", now.at.update),
    )
    now.move_leash(config.kl, stats, len(rows))
    return stats | {"seconds_sample": sampled, "seconds_score": scored, "seconds_update": watch.lap()}


METHOD = Method("PPO", PPOLoopConfig, train)
