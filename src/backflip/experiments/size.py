"""How much larger a supervised model must be to be preferred as often as a small one that was trained on preferences.

Bases of several sizes are made alike (`reviews_base`), each is tuned on the answers that the overseer preferred (`sft`), and the smallest is also
trained on the same kind of comparisons with a reward model (`ppo`). All answer the same held-out openings; the gold judge compares answer with
answer. Where the share that the supervised ones win of the small preference-trained one crosses one half, between two sizes, is the multiplier
(Ouyang et al. 2022, section 4.1, found more than 100 on people's preferences).

Predicted before measuring. P1: at its own size the supervised model wins less than half against the preference-trained one; an interval of that
share above 50 % refutes it. P2: the multiplier is above 2; an interval wholly below 2 refutes it. Where no supervised model reaches one half
the multiplier lies beyond the range measured, and the run says how far that range goes and no more. The control: the untrained bases against
the smallest of them, which is what size alone brings.

Shapes: K openings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from backflip.errors import ConfigError, DataError
from backflip.experiments import experiment
from backflip.experiments.arms import Arm, ArmsConfig, Planned, carry_out, folder_of, go_through, processors, values
from backflip.experiments.reviews import ReviewsConfig
from backflip.experiments.reviews import plan as reviews_plan
from backflip.experiments.reviews_base import ReviewsBaseConfig, new_model
from backflip.experiments.size_results import (
    SMALL,
    answers_by_seed,
    crossings,
    figure_of,
    shares_of,
    write_multiplier,
    write_shares,
)
from backflip.measures.gold import load_gold
from backflip.measures.stats import mean_interval
from backflip.plan import Plan
from backflip.worlds import reviews

if TYPE_CHECKING:
    from backflip.run import Run

WORDS_A_SENTENCE = 26
"""Tokens of a sentence that a base is trained on, about."""


@dataclass(frozen=True)
class SizeConfig(ArmsConfig):
    """Settings of the experiment."""

    hidden: tuple[int, ...] = (64, 128, 256)
    """Widths of the bases, rising; multiples of 64. All have the layers of the shipped base, and feed-forward parts 9/4 as wide."""
    steps: int = 2500
    """Steps in which each base is made."""
    comparisons: int = 2000
    """Comparisons that teach each policy."""
    updates: int = 36
    """PPO updates of the small preference-trained policy."""
    sft_updates: int = 60
    """Updates of the supervised policies."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.hidden) < 3 or list(self.hidden) != sorted(set(self.hidden)):
            raise ConfigError(f"hidden is {self.hidden}; expected three widths or more, rising")
        if wrong := [width for width in self.hidden if width < 64 or width % 64]:
            raise ConfigError(f"hidden holds {wrong[0]}; expected multiples of 64: heads are 32 wide, keys have two")
        if min(self.steps, self.comparisons, self.updates, self.sft_updates) < 1:
            raise ConfigError(
                f"steps {self.steps}, comparisons {self.comparisons}, updates {self.updates}, sft_updates {self.sft_updates}: expected 1 "
                "or more of each"
            )


def bases_of(config: SizeConfig, run: Run) -> list[Planned]:
    """Return the runs that make the bases: one a size, of the first seed."""
    found: list[Planned] = []
    for width in config.hidden:
        options = {"hidden": str(width), "feed-forward": str(width * 9 // 4), "steps": str(config.steps)}
        arm = Arm(f"base_{width}", "reviews_base", options)
        found.append(Planned(arm, config.seed, folder_of(run, arm.name, config.seed)))
    return found


def arms_of(config: SizeConfig, bases: Sequence[Planned]) -> list[Arm]:
    """Return the runs that train policies: a supervised one of every size, and the smallest on preferences."""
    found: list[Arm] = []
    for width, base in zip(config.hidden, bases, strict=True):
        options = {
            "policy": str(base.folder / "checkpoints" / "reviews" / "base"),
            "comparisons": str(config.comparisons),
            "check-every": str(max(config.updates, config.sft_updates)),
        }
        if not found:
            found.append(Arm(SMALL, "reviews", options | {"updates": str(config.updates)}))
        found.append(Arm(f"sft_{width}", "reviews", {"method": "sft"} | options | {"updates": str(config.sft_updates)}))
    return found


def weights_of(config: SizeConfig) -> list[int]:
    """Return the number of weights of each base."""
    return [
        sum(weight.numel() for weight in new_model(base_config(config, width)).parameters()) for width in config.hidden
    ]


def base_config(config: SizeConfig, width: int) -> ReviewsBaseConfig:
    """Return the settings of a base."""
    return ReviewsBaseConfig(hidden=width, feed_forward=width * 9 // 4, steps=config.steps)


def plan(config: SizeConfig) -> Plan:
    """Say what the bases and the policies will need, from the shipped base's figures in proportion to the weights."""
    whole = reviews_plan(ReviewsConfig(comparisons=config.comparisons, updates=config.updates))
    weights = weights_of(config)
    shipped = sum(weight.numel() for weight in new_model(ReviewsBaseConfig()).parameters())
    run = sum(whole.seconds.values())
    # A base's sentences are updates too: the plan's own speed for those.
    answers = ReviewsConfig(updates=config.updates)
    a_token = whole.seconds["update"] / (answers.updates * answers.episodes * answers.ppo.epochs * (8 + 32))
    a_base = config.steps * ReviewsBaseConfig().batch * WORDS_A_SENTENCE * a_token
    workers = len(processors(config.workers))
    scale = [count / shipped for count in weights]
    return Plan(
        memory_mib={f"{workers} runs at once": workers * sum(whole.memory_mib.values()) * max(1.0, scale[-1])},
        seconds={f"base of {count:,} weights": a_base * part for count, part in zip(weights, scale, strict=True)}
        | {"policies": config.seeds * run * (scale[0] + sum(scale)) / workers},
        comparisons=config.seeds * (len(weights) + 1) * config.comparisons,
        judge_seconds=0.0,
    )


@experiment(config=SizeConfig, plan=plan)
def main(config: SizeConfig, run: Run) -> None:
    """Measure how much larger a supervised model must be to be preferred as often as a small one trained on preferences."""
    bases = bases_of(config, run)
    failed = go_through(bases, processors(config.workers), run)
    if failed:
        raise DataError(
            f"the base {failed[0].folder} could not be made: {failed[0].last_words()}; mend the cause and go on with: backflip run "
            f"--resume {run.path}"
        )
    arms = arms_of(config, bases)
    summaries = carry_out(arms, config, run)
    gold = load_gold(reviews.assets() / "gold.safetensors")
    answers = {arm.name: answers_by_seed([folder_of(run, arm.name, seed) for seed in _seeds(config)]) for arm in arms}
    weights = weights_of(config)
    names = [f"sft_{width}" for width in config.hidden]
    supervised = shares_of([answers[name] for name in names], answers[SMALL], gold, "answer")
    untrained = shares_of([answers[name] for name in names], answers[names[0]], gold, "base")
    write_shares(supervised, untrained, config.hidden, weights, run)
    ratio = np.array(weights, dtype=np.float64) / weights[0]
    write_multiplier(crossings(supervised.mean(-1), ratio), supervised, ratio, run)
    write_kl(summaries, names, run)
    run.result("lines", figure_of(supervised, untrained, ratio))
    run.result(
        "cost",
        {
            "seconds": run.seconds,
            "judge": "synthetic teacher (stochastic)",
            "seconds_by_phase": run.progress.seconds_by_phase,
        },
    )


def write_kl(summaries: Mapping[str, Sequence[Mapping[str, Any]]], names: Sequence[str], run: Run) -> None:
    """Write how far each policy moved from its own base."""
    for name in (SMALL, *names):
        measure = f"{name.partition('_')[0]}_kl_nats_per_sequence"
        run.estimate(f"{name}_kl_nats_per_sequence", mean_interval(values(summaries[name], measure)))


def _seeds(config: SizeConfig) -> range:
    return range(config.seed, config.seed + config.seeds)
