"""The main job: learn a taste in film reviews from comparisons.

A small language model continues openings of reviews; an overseer who only compares says which of two continuations is
the more favourable; a reward model learns that; PPO makes a better policy; held-out openings and a judge trained on human
star ratings say how far to trust it. The gold judge answers the teacher and the measures, and nobody else.

Shapes: K openings, N answers an opening.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from backflip.data import Item, Query
from backflip.errors import ConfigError
from backflip.experiments import experiment
from backflip.experiments.methods import load
from backflip.experiments.reviews_answers import (
    OPPONENTS,
    PROMPT_TOKENS,
    QUESTION,
    Gold,
    answers_of,
    held_out_answers,
    texts,
)
from backflip.experiments.reviews_measures import (
    print_result,
    write_cost,
    write_reward_model,
    write_samples,
    write_table,
)
from backflip.loops.asking import pair_up
from backflip.loops.parts import Parts, stream
from backflip.loops.ppo import PPOLoopConfig
from backflip.loops.rating import GRADES, ByOverseer
from backflip.measures.diversity import distinct_ratio, length_tokens
from backflip.measures.gold import gold_scores, load_gold, stored_gold
from backflip.measures.kl import kl_nats_per_sequence
from backflip.measures.win_rate import wins
from backflip.optimise.kl import FixedKL, KLControl
from backflip.optimise.ppo import PPOConfig
from backflip.optimise.scores import ScoreRules
from backflip.overseers.people import PeopleOverseer
from backflip.overseers.recorded import recorded
from backflip.overseers.synthetic import SyntheticTeacher, beta_for_agreement, teacher
from backflip.overseers.terminal import TerminalOverseer
from backflip.plan import SECONDS_BY_A_PERSON, Plan
from backflip.policies.lm import LMConfig, LMPolicy, load_policy
from backflip.protocols import Overseer, Policy, RewardModel
from backflip.rewards.fit import FitConfig
from backflip.rewards.model import SequenceRewardModel
from backflip.worlds import reviews
from backflip.worlds.text import TextWorld, answer, pad_left

if TYPE_CHECKING:
    from backflip.run import Run


@dataclass(frozen=True)
class ReviewsTask:
    """Settings of the main job, whatever the method; the method adds its own."""

    seed: int = 0
    """Of everything random."""
    method: str = "ppo"
    """How the judgements are used; each method has settings of its own (`--method NAME --help`)."""
    policy: Path | None = None
    """Causal language model to start from; none: the base that ships."""
    sampling: LMConfig = field(default_factory=lambda: LMConfig(temperature=0.8, max_new_tokens=32, rows=128))
    """How the policy writes."""
    overseer: Literal["synthetic", "terminal", "people"] = "synthetic"
    """Who compares: the teacher that consults the gold judge, a person at this terminal, or people in the browser (`backflip serve`)."""
    teacher: Literal["oracle", "stochastic", "mistake", "skip", "equal", "myopic", "flipped", "coin"] = "stochastic"
    """How the synthetic teacher errs (Lee et al. 2021); flipped wants the opposite, coin does not look. A text has one
    number of truth, so myopic is the oracle here."""
    agreement: float = 0.75
    """How often a stochastic teacher agrees with the gold judge's own choice."""
    best_of: int = 16
    """n of best-of-n, which is measured wherever a reward is learned."""
    look_at: int = 128
    """Held-out openings of a look while training."""
    held_out: int = 0
    """Held-out openings on which everything is measured; 0: all."""

    def __post_init__(self) -> None:
        if self.best_of < 1:
            raise ConfigError(f"best_of is {self.best_of}, expected 1 or more")
        if self.look_at < 1 or self.held_out < 0 or self.held_out == 1:
            raise ConfigError(
                f"look_at is {self.look_at} and held_out {self.held_out}; expected 1 or more, and 2 or more or 0 for all"
            )
        if not 0.5 < self.agreement < 1:
            raise ConfigError(
                f"agreement is {self.agreement}, expected above 0.5 (a coin) and below 1 (teacher=oracle)"
            )


@dataclass(frozen=True)
class ReviewsConfig(ReviewsTask, PPOLoopConfig):
    """Settings of the main job with PPO."""

    method: Literal["ppo"] = "ppo"
    """How the judgements are used; each method has settings of its own (`--method NAME --help`)."""
    fit: FitConfig = field(
        default_factory=lambda: FitConfig(lr=3e-4, head_lr=3e-4, batch=16, bootstrap=False, held_out=0.05)
    )
    """The fit of each reward model."""
    updates: int = 36
    """PPO updates, over all rounds."""
    episodes: int = 160
    """Answers sampled for each update."""
    lr: float = 1.2e-4
    """Adam's learning rate."""
    ppo: PPOConfig = field(default_factory=lambda: PPOConfig(epochs=2, entropy_coef=0.02))
    """The update. The entropy bonus slows the fall of diversity (docs/ppo.md, rule 25)."""
    kl: KLControl = field(default_factory=lambda: FixedKL(0.045))
    """The leash to the base."""
    scores: ScoreRules = field(default_factory=lambda: ScoreRules(missing_end="subtract", missing_end_value=0.5))
    """What happens to scores before the KL penalty. A score of -1 for every answer that was cut made answers a fifth
    shorter; none at all a fifth longer (lab/LOG.md)."""

    def __post_init__(self) -> None:
        ReviewsTask.__post_init__(self)
        PPOLoopConfig.__post_init__(self)


def plan(config: ReviewsConfig) -> Plan:
    """Say what a run will need."""
    looks = config.updates // config.check_every + config.rounds + 1
    looks += (config.check_every - 1).bit_length() if config.check_early else 0
    return Plan.for_text(
        config,
        str(config.policy or reviews.assets() / "base"),
        judgements=config.questions,
        measured=len(openings_of(config)) * (config.best_of + OPPONENTS + 1) + (looks + 1) * config.look_at,
        prompt_tokens=PROMPT_TOKENS,
        seconds_per_judgement=0.0 if config.overseer == "synthetic" else SECONDS_BY_A_PERSON,
    )


@experiment(config=ReviewsConfig, plan=plan, own=ReviewsTask)
def main(config: ReviewsTask, run: Run) -> None:
    """Learn a taste in film reviews from comparisons: base, reward model, PPO, and how far to trust the result."""
    policy = load_policy(config.policy or reviews.assets() / "base", config.sampling, value_head=True)
    gold = load_gold(reviews.assets() / "gold.safetensors")
    world = TextWorld(reviews.read_openings("train"), policy.tokenizer, group_size=2, seed=config.seed)
    held_out = TextWorld(openings_of(config), policy.tokenizer)
    base = policy.reference()
    if run.load_state() is None:
        run.checkpoint("base", 0, base.save)
    overseer = overseer_of(config, gold, world, base, run)
    parts = Parts(
        policy=policy,
        world=world,
        overseer=overseer,
        start_reward=lambda rng: SequenceRewardModel.from_causal_lm(base.module.plain, rng),
        question=QUESTION,
        check=Look(held_out, gold, base, config.seed, config.look_at),
    )
    method = load(config.method)
    trained = method.train(parts, config, run)
    run.checkpoint("policy", trained.updates, trained.policy.save)
    with run.progress.phase("measure on held-out openings"):
        found = answers_of(trained, held_out, gold, config)
        rows = write_table(found, trained, method.title, config, run)
        judged = write_reward_model(found, trained, overseer, config, run)
    write_cost(trained, config, run)
    write_samples(found, config, run)
    print_result(rows, judged, found, trained, run)


def openings_of(config: ReviewsTask) -> list[str]:
    """Return the held-out openings on which a run is measured."""
    return reviews.read_openings("test")[: config.held_out or None]


@dataclass(frozen=True)
class Look:
    """What is looked at while training: a few held-out openings, the same answers of the base each time."""

    world: TextWorld
    gold: Gold
    base: LMPolicy
    seed: int
    openings: int

    @cached_property
    def base_items(self) -> list[Item]:
        """The base's answers, sampled at the first look."""
        rng = stream(self.seed, "look at the base")
        return self.world.show(held_out_answers(self.world, self.base, 1, rng, self.openings))

    def __call__(self, policy: Policy, reward: RewardModel | None) -> dict[str, float]:
        """Return the gold win rate against the base, proxy (where there is one), exact KL, diversity and length."""
        rows = held_out_answers(self.world, policy, 1, stream(self.seed, "look"), self.openings)
        items, base_items = self.world.show(rows), self.base_items
        gold_K = gold_scores(self.gold, items)
        return {
            "gold_win_rate": float(wins(gold_K, gold_scores(self.gold, base_items)).mean()),
            "gold": float(gold_K.mean()),
            "n": float(len(items)),
            **({} if reward is None else {"proxy": float(reward(rows).sum(1).mean())}),
            "kl_nats_per_sequence": kl_nats_per_sequence(policy, self.base, rows).value,
            "distinct2_ratio": distinct_ratio(texts(items), texts(base_items)).value,
            "length_tokens": length_tokens(rows).value,
        }


def overseer_of(config: ReviewsTask, gold: Gold, world: TextWorld, base: LMPolicy, run: Run) -> Overseer:
    """Return a person at this terminal, or the teacher, whose rationality is set on answers of the base to training openings."""
    if (again := recorded(run.path, run.store)) is not None:
        return again
    if config.overseer == "terminal":
        return TerminalOverseer(run.store)
    if config.overseer == "people":
        return PeopleOverseer(run.store)
    tokens = [tokens for tokens in world.tokens[:500] for _ in (0, 1)]
    probe = answer(
        base,
        pad_left(tokens),
        torch.arange(500).repeat_interleave(2)[: len(tokens)],
        stream(config.seed, "rationality"),
    )
    questions: list[Query] = pair_up(world.show(probe), QUESTION, stream(config.seed, "rationality order"))
    beta = beta_for_agreement(gold, questions, config.agreement)
    # gold is a log-odds that may be negative: its size stands for the mean return of which skip and equal take a tenth
    gold_N = gold_scores(gold, [item for query in questions for item in query.items])
    size = float(np.abs(gold_N).mean())
    kept = stored_gold(reviews.assets() / "gold.safetensors", run.store)
    told = teacher(config.teacher, beta=beta, mean_return=size, seed=config.seed)
    if isinstance(getattr(config, "rating", None), ByOverseer):
        # whoever errs in nothing grades the base's best tenth 7: that is a score of 11/12 or more
        told = replace(told, grades=GRADES, full_score=max(size, 1.2 * float(np.quantile(gold_N, 0.9))))
    return SyntheticTeacher(run.store, kept, told)
