"""The steps from comparisons to a reward: a fresh ensemble on all of them, normalised on the policy that was started from.

Left out: the fit itself (`rewards.fit`) and what the reward is used for.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from backflip.loops.answers import write_weighting
from backflip.loops.asking import Told, ask
from backflip.loops.choosing import Asking
from backflip.loops.parts import Parts, Training, save, stream
from backflip.measures.weighting import what_weighting_changed
from backflip.memory import give_back
from backflip.rewards.combine import WeightedRewards
from backflip.rewards.comparisons import Comparison, comparisons
from backflip.rewards.ensemble import RewardEnsemble, fit_ensemble
from backflip.rewards.fit import Rows
from backflip.rewards.model import SequenceRewardModel
from backflip.store.lineage import Lineage

if TYPE_CHECKING:
    from backflip.loops.settings import FitSettings
    from backflip.run import Run


def hear_and_fit(
    parts: Parts, told: Told, config: FitSettings, now: Training, run: Run
) -> tuple[Told, RewardEnsemble | None, WeightedRewards]:
    """Carry out the first half of a round: ask, fit and save, or read again what was asked and fitted before a kill.

    Returns what was said so far, what was learned from it (None where the reward is given), and all rewards together.
    """
    if parts.given is not None:
        return told, None, WeightedRewards({"given": (1.0, parts.given), **parts.components})
    if now.at.fitted:
        reward = reread_reward(config, now, run)
    else:
        told = ask(parts, told, config, now, run, asking_of(config, now, run))
        reward = learn_reward(parts, told, config, now, run)
        now.at.fitted = True
        save(now, parts, run)
    reward.check_reference(now.reference.hash())
    return told, reward, WeightedRewards({"learned": (1.0, reward), **parts.components})


def learn_reward(parts: Parts, told: Told, config: FitSettings, now: Training, run: Run) -> RewardEnsemble:
    """Fit this round's reward to everything that was said so far, normalise it, keep it; logs the phase `reward`."""
    at, number = now.at, now.at.round
    reward, at.fits = fit_reward(parts, told.pairs, config, run, number)
    with run.progress.phase("normalise the reward", total=config.normalise_on) as bar:
        probe = parts.world.collect(now.reference, config.normalise_on, stream(config.seed, "normalise", number))
        reward.measure_normaliser(probe, now.reference.hash())
        bar.advance(config.normalise_on)
    if told.weight and number + 1 == config.rounds:
        equal_pairs, _ = comparisons(told.questions, told.answers)
        changed = weighting_changed(parts, equal_pairs, reward, at.fits, config, run)
        write_weighting(run, told.weight, [one.judge for one in told.answers if one.answer is not None], changed)
    run.checkpoint("reward_model", number, lambda folder: reward.save(folder, now.policy.tokenizer))
    made = Lineage(run.store).add_reward(run.id, f"reward_model-{number}", told.taught, time.time())
    at.rewards = [*at.rewards, made]
    return reward


def asking_of(config: FitSettings, now: Training, run: Run) -> Asking | None:
    """Return how this round's pairs are chosen by the models of the round before; None where they are random."""
    if config.queries == "random" or now.at.round == 0:
        return None
    before = RewardEnsemble.load(run.path / "checkpoints" / f"reward_model-{now.at.round - 1}")
    return Asking(config.queries, config.candidates, before.models)


def reread_reward(config: FitSettings, now: Training, run: Run) -> RewardEnsemble:
    """Return the reward of this round, fitted before a kill."""
    reward = RewardEnsemble.load(run.path / "checkpoints" / f"reward_model-{now.at.round}")
    return RewardEnsemble(reward.models, config.ensemble)


def fit_reward(
    parts: Parts,
    pairs: Sequence[Comparison],
    config: FitSettings,
    run: Run,
    number: int,
    phase: str = "reward",
) -> tuple[RewardEnsemble, list[dict[str, float]]]:
    """Fit a fresh ensemble on every comparison so far."""
    rngs = [stream(config.seed, "fit", number, member) for member in range(config.members)]

    def report(member: int, stats: dict[str, float]) -> None:
        run.log(int(stats["epoch"]), phase, round=float(number), member=float(member), **stats)
        bar.advance(1, **{name: stats[name] for name in ("loss", "held_out_accuracy") if name in stats})

    with run.progress.phase(
        f"fit {config.members} reward models on {len(pairs)} comparisons", config.members * config.fit.epochs
    ) as bar:
        fitted: list[tuple[SequenceRewardModel, dict[str, float]]] = []
        for member in fit_ensemble(parts.start_reward, parts.world, pairs, config.fit, rngs, report):
            fitted.append(member)
            give_back()
    return RewardEnsemble([model for model, _ in fitted], config.ensemble), [stats for _, stats in fitted]


def weighting_changed(
    parts: Parts,
    pairs: Sequence[Comparison],
    reward: RewardEnsemble,
    fits: Sequence[Mapping[str, float]],
    config: FitSettings,
    run: Run,
) -> dict[str, float]:
    """Fit the last reward once more, everybody weighing the same, and return how the two differ on all comparisons."""
    equal, equal_fits = fit_reward(parts, pairs, config, run, config.rounds - 1, phase="reward_equal")
    rows = Rows.of(parts.world, pairs)
    deltas = [
        np.mean([rows.delta_B(model).float().cpu().numpy() for model in one.models], 0) for one in (reward, equal)
    ]
    found = what_weighting_changed(*deltas)
    for name, each in (("weighted", fits), ("equal", equal_fits)):
        known = [one["held_out_accuracy"] for one in each if "held_out_accuracy" in one]
        found |= {f"held_out_accuracy_{name}": float(np.mean(known))} if known else {}
    return found
