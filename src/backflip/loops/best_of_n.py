"""Rounds of sample, ask, fit, and then no training at all: the reward chooses among n answers of the policy that was started from.

Every round asks about fresh answers of that same policy; more than one are of use where questions are chosen (`queries`). What comes out has no
distribution over tokens, so its KL is a bound. Left out: choosing (`policies.best_of`), and what n is worth (`measures.best_of_n`).

Shapes: B rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

from backflip.errors import ConfigError
from backflip.loops.asking import close, reread
from backflip.loops.choosing import check_queries
from backflip.loops.fitting import hear_and_fit
from backflip.loops.improving import constant
from backflip.loops.parts import Method, Parts, Trained, begin, end_round, stream
from backflip.loops.settings import one_or_more
from backflip.loops.stop import StopRules
from backflip.plan import MethodWork
from backflip.policies.best_of import BestOfN
from backflip.rewards.ensemble import EnsembleRule, Mean, check_rule
from backflip.rewards.fit import FitConfig
from backflip.rewards.queries import Choice

if TYPE_CHECKING:
    from backflip.run import Run


LOOKED_AT = 64
"""Answers on which a reward that is given is looked at for whether it tells any apart."""


@dataclass(frozen=True)
class BestOfNLoopConfig:
    """Settings of the recipe: those of a method that learns a reward, without what updates need."""

    updates: ClassVar[int] = 0
    """No setting: nothing is trained."""
    check_every: ClassVar[int] = 1
    """No setting: there are no updates to look between."""
    check_early: ClassVar[bool] = False
    """No setting, for the same reason."""
    lr: ClassVar[float] = 0.0
    """No setting: the optimiser takes no step."""
    adam_eps: ClassVar[float] = 0.0
    """No setting, for the same reason."""

    seed: int = 0
    """Of everything random."""
    best_of: int = 16
    """Answers among which the reward chooses."""
    rounds: int = 1
    """Rounds of sample, ask, fit; the comparisons are shared among them."""
    comparisons: int = 2000
    """Questions put to the overseer, over all rounds."""
    queries: Choice = "random"
    """Which pairs are asked about after the first round: random, those on which the reward models of the round before disagree, or mixed."""
    candidates: int = 4
    """Pairs drawn for each that is asked about, where they are not random."""
    wait_seconds: float = float("inf")
    """How long a round waits for answers; those that come later are used in the next round."""
    weigh_people: bool = True
    """Whether answers of people count by how often they seem to be right (docs/labeling.md)."""
    stop: StopRules = field(default_factory=StopRules)
    """When to stop early; of these only the number of judgements means something here."""
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

    def __post_init__(self) -> None:
        one_or_more(self, ("best_of", "rounds", "comparisons", "members"))
        check_rule(self.ensemble, self.members)
        check_queries(self.queries, self.candidates, self.rounds, self.members)
        if self.normalise_on < 2 or self.questions < self.rounds or not self.wait_seconds >= 0:
            raise ConfigError(
                f"normalise_on is {self.normalise_on}, comparisons {self.questions} in {self.rounds} rounds, wait_seconds "
                f"{self.wait_seconds}; expected 2 or more, one a round or more, and 0 or more"
            )

    @property
    def questions(self) -> int:
        """Questions put to the overseer over all rounds, as far as the stop rule lets."""
        return min(self.comparisons, self.stop.judgements or self.comparisons)

    @property
    def work(self) -> MethodWork:
        """What the run will do."""
        return MethodWork(
            sampled=self.rounds * self.normalise_on,
            updated=0,
            passes=0,
            tokens_per_microbatch=2048,
            reward_models=self.members,
            reward_epochs=self.fit.epochs * self.rounds,
        )


def train(parts: Parts, config: BestOfNLoopConfig, run: Run) -> Trained:
    """Carry out the recipe, or what is left of it after a kill; logs phases `ask`, `reward`.

    Raises:
        DataError: nobody answered a single question.
    """
    now = begin(parts, config, run)
    told, reward = reread(now.at, run), None
    rewards, series = parts.given, ""
    for number in range(now.at.round, config.rounds):
        told, reward, rewards = hear_and_fit(parts, told, config, now, run)
        series = f"reward_model-{number}" if reward is not None and not parts.components else ""
        end_round(now, config.rounds, parts, run)
    assert rewards is not None
    if parts.given is not None:
        looked = now.counted(parts.world.collect(now.reference, LOOKED_AT, stream(config.seed, "constant", 0)))
        score_B = rewards(looked).sum(1)
        if said := constant(float(score_B.mean()), float(score_B.std(correction=0))):
            run.note(f"{said}: of answers that are all worth as much the first is taken, as if none were chosen")
    chosen = BestOfN(now.reference, rewards, config.best_of, series)
    return replace(close(told, reward, now, parts, config, run), policy=chosen, noise=config.fit.noise)


METHOD = Method("Best of n", BestOfNLoopConfig, train)
