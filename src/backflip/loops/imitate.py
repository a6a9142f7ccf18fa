"""Online imitation: the policy answers, and an expert model says of every token how likely it would have been its own.

As in DAgger (Ross, Gordon and Bagnell 2011) the policy is corrected on its own answers, not on the expert's. Nobody is asked while it learns: the expert is
a causal language model over the same vocabulary, the policy of another run say. People who write or correct answers are not experts of this kind: they
give answers, not probabilities, and `sft` learns from what they prefer. Left out: the update (`optimise.imitate`).

Shapes: B rows, T decisions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from backflip.errors import ConfigError
from backflip.loops.asking import Told, close
from backflip.loops.improving import Stopwatch, sample, take_updates
from backflip.loops.parts import Method, Parts, Trained, Training, begin, end_round, stream
from backflip.loops.settings import one_or_more
from backflip.loops.stop import StopRules
from backflip.optimise import imitate
from backflip.optimise.imitate import ImitateConfig
from backflip.plan import MethodWork
from backflip.policies.lm import LMPolicy, load_policy

if TYPE_CHECKING:
    from backflip.run import Run


@dataclass(frozen=True)
class ImitateLoopConfig:
    """Settings of the recipe."""

    rounds: ClassVar[int] = 1
    """No setting: nobody is asked again."""
    questions: ClassVar[int] = 0
    """No setting: nobody is asked."""

    seed: int = 0
    """Of everything random."""
    expert: str = ""
    """Who is imitated: the folder of a causal language model with the policy's tokenizer, such as RUN/checkpoints/policy-36. Required."""
    updates: int = 36
    """Updates of the policy."""
    episodes: int = 160
    """Answers sampled for each update."""
    lr: float = 1.2e-4
    """Adam's learning rate."""
    adam_eps: float = 1e-5
    """Adam's epsilon (Ziegler et al. 2019)."""
    decay: bool = True
    """Whether the learning rate falls linearly to 0 over the updates."""
    imitate: ImitateConfig = field(default_factory=ImitateConfig)
    """The update."""
    stop: StopRules = field(default_factory=StopRules)
    """When to stop early."""
    check_every: int = 10
    """Updates between looks at held-out prompts."""
    check_early: bool = False
    """Whether to look also after updates 1, 2, 4, ... before the first of these: for a method that goes far at once."""
    save_every: int = 10
    """Updates between saved states."""

    def __post_init__(self) -> None:
        one_or_more(self, ("updates", "episodes", "check_every", "save_every"))
        if not (0 < self.lr < float("inf") and 0 <= self.adam_eps < float("inf")):
            raise ConfigError(f"lr is {self.lr}, adam_eps {self.adam_eps}; expected a finite lr above 0, and 0 or more")
        if self.episodes % 2:
            raise ConfigError(f"episodes is {self.episodes}, expected an even number: prompts are answered twice")

    @property
    def work(self) -> MethodWork:
        """What the run will do."""
        rows = self.updates * self.episodes
        return MethodWork(rows, rows, 1, self.imitate.tokens_per_microbatch)


def train(parts: Parts, config: ImitateLoopConfig, run: Run) -> Trained:
    """Carry out the recipe, or what is left of it after a kill; logs phases `imitate`, `check`.

    Raises:
        ConfigError: there is no expert, or it reads other tokens.
        DataError: a log-probability is not finite, or sampling and scoring disagree.
    """
    now = begin(parts, config, run)
    expert = expert_of(config.expert, now.policy)
    take_updates("imitate", partial(improve, parts, expert, now, config), None, parts, now, config, run)
    end_round(now, config.rounds, parts, run)
    return close(Told(), None, now, parts, config, run)


def expert_of(where: str, policy: LMPolicy) -> LMPolicy:
    """Load the expert, to be asked at the policy's temperature.

    Raises:
        ConfigError: none is named, or its tokens are not the policy's.
        DataError: there is no model there.
    """
    if not where:
        raise ConfigError(
            "--method imitate needs an expert; e.g. --expert RUN/checkpoints/policy-36, the policy of another run"
        )
    expert = load_policy(where, policy.config)
    if expert.tokenizer.get_vocab() != policy.tokenizer.get_vocab():
        raise ConfigError(
            f"the tokenizer of --expert {where} differs from the policy's, so nobody can say what it thinks of the policy's tokens; take "
            "an expert with the same tokenizer"
        )
    return expert


def improve(parts: Parts, expert: LMPolicy, now: Training, config: ImitateLoopConfig) -> dict[str, float]:
    """Sample, let the expert say what it thinks of every token, and update once; return the statistics."""
    watch = Stopwatch()
    rows = sample(parts, now, config.episodes, parts.world.group_size, config)
    sampled = watch.lap()
    logp_BT = imitate.expert_logp(expert, rows, config.imitate.tokens_per_microbatch)
    scored = watch.lap()
    rng = stream(config.seed, "minibatches", now.at.update)
    stats = imitate.update(now.policy, now.optimizer, rows, logp_BT, config.imitate, rng)
    stats |= {"length_tokens": float(rows.mask_BT.sum(1).float().mean()), "lr": now.optimizer.param_groups[0]["lr"]}
    return stats | {"seconds_sample": sampled, "seconds_score": scored, "seconds_update": watch.lap()}


METHOD = Method("Imitation", ImitateLoopConfig, train, rewarded=False)
