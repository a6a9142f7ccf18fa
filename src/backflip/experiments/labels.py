"""What labels buy: how good a reward and a policy get with the number of comparisons, and whether choosing the questions saves any.

Two parts. *Curves*: on answers of the base, one reward ensemble after another is fitted to ever more comparisons, which are random, those on
which the ensemble so far disagrees, or half and half; each is measured against the gold judge on openings that nobody was asked about. *Runs*
(`run_labels`): whole runs of `reviews` with equal labels, all asked before training (frozen), or asked in rounds, with a reward fitted anew
to all of them each time (refreshed; and those of the later rounds random, by disagreement, or mixed).

Predicted before measuring. P1: at no number of comparisons is the held-out accuracy after disagreement or mixed queries more than 3 points from
that after random ones; a 95 % interval of the paired difference over seeds that lies wholly beyond 3 points, either side, refutes it. P2: a
refreshed reward model reaches a higher final gold win rate than a frozen one at equal labels; an interval of the difference wholly below 0
refutes it, and one that holds 0 tells nothing. The control arm is random queries. What n seeds cannot tell apart, the run says.

Shapes: none of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from backflip.errors import ConfigError
from backflip.experiments import experiment
from backflip.experiments.arms import Arm, ArmsConfig, carry_out, processors, values
from backflip.experiments.arms_plan import config_of
from backflip.experiments.labels_curves import QUERIES, Point, curves
from backflip.experiments.labels_results import (
    BESIDE,
    PREDICTED,
    Asked,
    beside,
    figures_of,
    needed,
    second_verdict,
    tell_apart,
    write_curves,
)
from backflip.experiments.reviews import ReviewsConfig
from backflip.experiments.reviews import plan as reviews_plan
from backflip.measures.seeds import over_seeds
from backflip.plan import Plan
from backflip.rewards.fit import FitConfig

if TYPE_CHECKING:
    from backflip.run import Run

MEASURES = ("ppo_gold_win_rate", "reward_model_agreement_with_gold", "ppo_kl_nats_per_sequence")
"""Of whole runs."""


@dataclass(frozen=True)
class LabelsConfig(ArmsConfig):
    """Settings of the experiment."""

    labels: tuple[int, ...] = (50, 100, 200, 400, 800)
    """Numbers of comparisons at which a reward is fitted and measured, rising. The first are random for all."""
    candidates: int = 4
    """Pairs drawn for each that is asked about, where they are not random."""
    agreement: float = 0.75
    """How often the teacher agrees with the gold judge's own choice."""
    members: int = 3
    """Reward models of an ensemble."""
    fit: FitConfig = field(
        default_factory=lambda: FitConfig(lr=3e-4, head_lr=3e-4, batch=16, bootstrap=True, held_out=0.0)
    )
    """The fit of each; a bootstrap of its own for each makes them disagree."""
    openings: int = 300
    """Held-out openings of a seed, drawn anew for each."""
    best_of: int = 8
    """Answers of the base to each of them: what the reward likes best of these is its gold, their pairs are its accuracy."""
    run_labels: tuple[int, ...] = (200, 800)
    """Numbers of comparisons of whole runs; none: curves alone."""
    rounds: int = 4
    """Rounds of a run whose reward is refreshed."""
    updates: int = 36
    """PPO updates of a whole run, over all rounds."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.labels) < 2 or min(self.labels) < 2 or list(self.labels) != sorted(set(self.labels)):
            raise ConfigError(f"labels are {self.labels}; expected two numbers or more, rising, of 2 or more")
        if self.candidates < 1 or self.members < 2 or self.best_of < 2 or self.openings < 2:
            raise ConfigError(
                f"candidates {self.candidates}, members {self.members}, best_of {self.best_of}, openings {self.openings}: expected 1 or "
                "more, 2 or more, 2 or more (a pair), 2 or more"
            )
        if not 0.5 < self.agreement < 1:
            raise ConfigError(f"agreement is {self.agreement}, expected above 0.5 (a coin) and below 1")
        if self.rounds < 2 or self.updates < self.rounds or any(count < self.rounds for count in self.run_labels):
            raise ConfigError(
                f"rounds {self.rounds}, updates {self.updates}, run_labels {self.run_labels}: expected 2 or more, and at least as many "
                "updates and labels as rounds"
            )


def arms_of(config: LabelsConfig) -> list[Arm]:
    """Return the whole runs: for each number of labels a frozen reward, and a refreshed one by each way to choose."""
    found: list[Arm] = []
    for count in config.run_labels:
        own = {
            "comparisons": str(count),
            "updates": str(config.updates),
            "agreement": str(config.agreement),
            "check-every": str(config.updates),
        }
        found.append(Arm(f"frozen_{count}", "reviews", own))
        for how in QUERIES:
            more = {"rounds": str(config.rounds), "queries": how, "candidates": str(config.candidates)}
            found.append(Arm(f"refreshed_{how}_{count}", "reviews", own | more))
    return found


def plan(config: LabelsConfig) -> Plan:
    """Say what both parts will need."""
    curve = _curves_plan(config)
    if not config.run_labels:
        return curve
    runs = {arm.name: reviews_plan(config_of(_in_python(arm), ReviewsConfig)) for arm in arms_of(config)}
    workers = min(len(processors(config.workers)), len(runs) * config.seeds)
    return Plan(
        memory_mib={f"{workers} runs at once": workers * max(sum(one.memory_mib.values()) for one in runs.values())},
        seconds=curve.seconds
        | {
            f"{name}, {config.seeds} seeds": config.seeds * sum(one.seconds.values()) / workers
            for name, one in runs.items()
        },
        comparisons=curve.comparisons + config.seeds * sum(one.comparisons for one in runs.values()),
        judge_seconds=0.0,
    )


def _in_python(arm: Arm) -> Arm:
    return Arm(arm.name, arm.experiment, {name.replace("-", "_"): value for name, value in arm.options.items()})


def _curves_plan(config: LabelsConfig) -> Plan:
    """Count the curves as a run of `reviews` that samples, fits and scores as often."""
    fits = sum(config.labels) * len(QUERIES)
    looked_at = (
        config.candidates * config.labels[-1] * 3 // 2 + config.openings * config.best_of * len(config.labels) * 3 // 2
    )
    whole = reviews_plan(
        ReviewsConfig(comparisons=fits, members=config.members, fit=config.fit, updates=1, episodes=looked_at)
    )
    kept = {name: whole.seconds[name] for name in whole.seconds if not name.startswith("update")}
    return Plan(
        whole.memory_mib,
        {f"curves, {config.seeds} seeds": config.seeds * sum(kept.values())},
        config.seeds * (len(QUERIES) * config.labels[-1]),
        0.0,
    )


@experiment(config=LabelsConfig, plan=plan)
def main(config: LabelsConfig, run: Run) -> None:
    """Measure what comparisons buy: accuracy and gold by their number, chosen questions against random ones, frozen against refreshed rewards."""
    points = curves(config, run)
    run.note(PREDICTED)
    first = write_curves(points, config.seeds, run)
    write_needed(points, config, run)
    figures = figures_of(points)
    second = "P2, refreshed against frozen rewards: not decided, no whole runs were made"
    if config.run_labels:
        drawn, second = write_runs(carry_out(arms_of(config), config, run), config, run)
        figures |= drawn
    run.note(f"{first}. {second}")
    run.result("lines", figures)
    run.result(
        "cost",
        {
            "seconds": run.seconds,
            "judge": "synthetic teacher (stochastic)",
            "seconds_by_phase": run.progress.seconds_by_phase,
        },
    )


def write_needed(points: Sequence[Point], config: LabelsConfig, run: Run) -> None:
    """Write how many labels each way to choose needs for the accuracy that random ones reach with the last number but one."""
    for how in QUERIES[1:]:  # random queries need that number by the question
        found = needed(points, how, config.labels)
        if found is None:
            run.note(
                f"{how}: labels for the accuracy that random queries reach at {config.labels[-2]}: beyond the range measured in some seed"
            )
        else:
            run.estimate(f"{how}_labels_for_the_accuracy_of_{config.labels[-2]}_random", found)


def write_runs(
    found: Mapping[str, Sequence[Mapping[str, Any]]], config: LabelsConfig, run: Run
) -> tuple[dict[str, Any], str]:
    """Write what whole runs came to, and what the seeds tell of refreshing and of choosing; return their figure, and what became of P2."""
    series: dict[str, list[tuple[int, Any]]] = {}
    refreshing, choosing = list[Asked](), list[Asked]()
    for count in config.run_labels:
        arms = [f"frozen_{count}", *(f"refreshed_{how}_{count}" for how in QUERIES)]
        for measure in MEASURES:
            by_seed = {name: dict(enumerate(values(found[name], measure).tolist())) for name in arms}
            for name in arms:
                mean = over_seeds(by_seed[name], measure).mean
                run.estimate(f"{name}_{measure}", mean)
                if measure == MEASURES[0]:
                    series.setdefault(name.rpartition("_")[0].replace("_", ", "), []).append((count, mean))
            if measure == MEASURES[0]:
                asked = f"final gold with {count} labels"
                refreshing.append(Asked(asked, by_seed, arms[0], arms[1]))
                choosing += [Asked(asked, by_seed, arms[1], name) for name in arms[2:]]
    said = second_verdict(tell_apart(refreshing, run))
    tell_apart(choosing, run)
    return _runs_figure(series), said


def _runs_figure(series: Mapping[str, Sequence[tuple[int, Any]]]) -> dict[str, Any]:
    return {
        "runs": {
            "title": "Final gold by the number of comparisons",
            "caption": "Whole runs of reviews with PPO, mean over seeds with its 95 % interval. Frozen: all questions before training. "
            f"Refreshed: asked in rounds, the reward fitted anew to all of them each time. {BESIDE}",
            "x": {"label": "Comparisons", "unit": "count"},
            "y": {"label": "Gold win rate against base", "unit": "share"},
            "series": [
                {
                    "name": name,
                    "x": [beside(count, place) for count, _ in held],
                    "estimates": [mean.as_json() for _, mean in held],
                }
                for place, (name, held) in enumerate(series.items())
            ],
        }
    }
