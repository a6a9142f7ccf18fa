"""Rounds of sample, ask, fit, improve: comparisons make a preference model, and Nash-MD a policy that is hard to beat by it.

A preference says how likely one answer is liked better than another, which need come from no score: it may go round in circles. The
reward of an answer is how likely it is preferred to answers of the policy mixed with the one that was started from, less a half.
Left out: the update (`optimise.nash_md`), and the model (`rewards.preference`).

Shapes: B rows, T decisions.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from backflip.errors import ConfigError
from backflip.loops.asking import Told, ask, close, reread
from backflip.loops.improving import Stopwatch, sample, take_updates, warn_of_constant
from backflip.loops.parts import Method, Parts, Trained, Training, begin, end_round, save, stream
from backflip.loops.settings import LearningConfig, one_or_more
from backflip.memory import give_back
from backflip.optimise import nash_md
from backflip.optimise.kl import FixedKL, KLControl, k1_nats_B, shape_reward
from backflip.optimise.nash_md import NashMDConfig, Preference
from backflip.optimise.reinforce import ReinforceConfig
from backflip.optimise.scores import ScoreRules, apply_rules
from backflip.optimise.step import evaluate_all
from backflip.plan import MethodWork
from backflip.rewards.comparisons import Comparison
from backflip.rewards.fit import FitConfig
from backflip.rewards.preference import PreferenceEnsemble, PreferenceModel, ScorePreference, fit_preferences
from backflip.store.lineage import Lineage

if TYPE_CHECKING:
    from backflip.run import Run

SERIES = "preference_model"


@dataclass(frozen=True)
class NashMDLoopConfig(LearningConfig):
    """Settings of the recipe."""

    members: int = 3
    """Preference models, whose probabilities are averaged."""
    pairs: int = 2
    """Pairs of numbers that a model says of an answer beside its score: with none it could not go round in circles."""
    fit: FitConfig = field(
        default_factory=lambda: FitConfig(lr=3e-4, head_lr=3e-4, batch=16, bootstrap=False, held_out=0.05)
    )
    """The fit of each of them."""
    episodes: int = 160
    """Answers sampled for each update."""
    group: int = 4
    """Answers to each prompt; each meets all others of its group."""
    nash_md: NashMDConfig = field(default_factory=lambda: NashMDConfig(step=ReinforceConfig(entropy_coef=0.003)))
    """The update, and how much of its rivals is the policy that was started from."""
    kl: KLControl = field(default_factory=lambda: FixedKL(0.01))
    """The leash to the policy that was started from; a reward lies between -1/2 and 1/2."""
    scores: ScoreRules = field(default_factory=lambda: ScoreRules(missing_end="subtract", missing_end_value=0.1))
    """What happens to rewards before the KL penalty."""

    def __post_init__(self) -> None:
        LearningConfig.__post_init__(self)
        one_or_more(self, ("members", "pairs", "episodes"))
        if self.group < 2 or self.episodes % self.group:
            raise ConfigError(
                f"group is {self.group} and episodes {self.episodes}; expected groups of 2 or more, and episodes to be a multiple of group"
            )

    @property
    def work(self) -> MethodWork:
        """What the run will do."""
        rows = self.updates * self.episodes
        return MethodWork(
            sampled=rows,
            updated=rows,
            passes=1,
            tokens_per_microbatch=self.nash_md.step.tokens_per_microbatch,
            reward_models=self.members,
            reward_epochs=self.fit.epochs * self.rounds,
        )


def train(parts: Parts, config: NashMDLoopConfig, run: Run) -> Trained:
    """Carry out the recipe, or what is left of it after a kill; logs phases `ask`, `preference`, `nash_md`, `check`.

    A preference that is given is taken as it is, and so is a reward, which prefers what it scores higher: nobody is asked then.

    Raises:
        DataError: sampling and scoring disagree, a preference is no probability, or nobody answered a single question.
    """
    now = begin(parts, config, run, config.kl.beta)
    at, told = now.at, reread(now.at, run)
    preference = parts.preference or (None if parts.given is None else ScorePreference(parts.given))
    learned: PreferenceEnsemble | None = None
    for _ in range(at.round, config.rounds):
        if preference is None and at.fitted:
            learned = PreferenceEnsemble.load(run.path / "checkpoints" / f"{SERIES}-{at.round}")
        elif preference is None:
            told = ask(parts, told, config, now, run)
            learned = learn_preference(parts, told, config, now, run)
            at.fitted = True
            save(now, parts, run)
        known = preference or learned
        assert known is not None
        take_updates("nash_md", partial(improve, parts, known, now, config, run), None, parts, now, config, run)
        end_round(now, config.rounds, parts, run)
    return replace(close(told, None, now, parts, config, run), preference=preference or learned)


def learn_preference(parts: Parts, told: Told, config: NashMDLoopConfig, now: Training, run: Run) -> PreferenceEnsemble:
    """Fit this round's preference to everything that was said so far, and keep it; logs the phase `preference`."""
    at, number = now.at, now.at.round
    models, at.fits = fit_models(parts, told.pairs, config, run, number)
    learned = PreferenceEnsemble(models)
    run.checkpoint(SERIES, number, lambda folder: learned.save(folder, now.policy.tokenizer))
    made = Lineage(run.store).add_reward(run.id, f"{SERIES}-{number}", told.taught, time.time())
    at.rewards = [*at.rewards, made]
    return learned


def fit_models(
    parts: Parts, pairs: Sequence[Comparison], config: NashMDLoopConfig, run: Run, number: int
) -> tuple[list[PreferenceModel], list[dict[str, float]]]:
    """Fit fresh models on every comparison so far; return them with their statistics."""
    rngs = [stream(config.seed, "fit", number, member) for member in range(config.members)]
    with run.progress.phase(
        f"fit {config.members} preference models on {len(pairs)} comparisons", config.members * config.fit.epochs
    ) as bar:

        def report(member: int, stats: dict[str, float]) -> None:
            run.log(int(stats["epoch"]), "preference", round=float(number), member=float(member), **stats)
            bar.advance(1, **{name: stats[name] for name in ("loss", "held_out_accuracy") if name in stats})

        fitted: list[tuple[PreferenceModel, dict[str, float]]] = []

        def start(rng: np.random.Generator) -> PreferenceModel:
            return PreferenceModel.widened(parts.start_reward(rng), rng, config.pairs)

        for one in fit_preferences(start, parts.world, pairs, config.fit, rngs, report):
            fitted.append(one)
            give_back()
    return [model for model, _ in fitted], [stats for _, stats in fitted]


def improve(
    parts: Parts, preference: Preference, now: Training, config: NashMDLoopConfig, run: Run
) -> dict[str, float]:
    """Sample, let every answer meet its rivals, and update once; return the statistics and set the KL weight of the next update."""
    watch, at = Stopwatch(), now.at
    step = config.nash_md.step
    rows = sample(parts, now, config.episodes, config.group, config)
    sampled = watch.lap()
    rows = replace(
        rows, ref_logp_BT=evaluate_all(now.reference, rows, tokens_per_microbatch=step.tokens_per_microbatch).logp_BT
    )
    duel_BT, duels = nash_md.duel_rewards(rows, preference, config.nash_md, stream(config.seed, "rivals", at.update))
    reward_BT, scores = apply_rules(duel_BT, rows, parts.world.ended_B(rows), config.scores)
    warn_of_constant(duels["win_rate_over_rival_mean"], scores["score_std"], now, run, "win rate over rivals")
    kl_B = k1_nats_B(rows)
    stats = duels | {
        "win_rate_over_rival_std": scores["score_std"],
        "kl_nats_per_sequence": float(kl_B.mean()),
        "kl_standard_error_nats": float(kl_B.std()) / len(kl_B) ** 0.5,
        "length_tokens": float(rows.mask_BT.sum(1).float().mean()),
        "ended_fraction": 1.0 - scores["missing_end_fraction"],
        "beta": now.beta,
        "lr": now.optimizer.param_groups[0]["lr"],
    }
    scored = watch.lap()
    rng = stream(config.seed, "minibatches", at.update)
    stats |= nash_md.update(
        now.policy, now.optimizer, rows, shape_reward(reward_BT, rows, now.beta), config.nash_md, rng
    )
    now.move_leash(config.kl, stats, len(rows))
    return stats | {"seconds_sample": sampled, "seconds_score": scored, "seconds_update": watch.lap()}


METHOD = Method("Nash-MD", NashMDLoopConfig, train, rewarded=False, preferring=True)
