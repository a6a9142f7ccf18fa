"""Every way to use a judgement on one figure: gold reward against KL, labels and update tokens being equal.

Each arm is a whole run of `reviews` with one method; along its way it is looked at on held-out openings. Methods are compared where their
paths pass the same KL, seed by seed. Best-of-n, which has no token distribution, stands at its bound ln n - (n - 1) / n: an upper bound, so
that it is never shown too far to the left. Nobody trains on gold. docs/frontier.md has what was found.

Shapes: K seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backflip.errors import ConfigError
from backflip.experiments import experiment
from backflip.experiments.arms import Arm, ArmsConfig, carry_out, folder_of, values
from backflip.experiments.frontier_parts import (
    Path,
    best_of_n_path,
    compare_at_equal_kl,
    mean_path,
    path_of,
    verdict,
)
from backflip.experiments.method_arms import MethodSettings, arm_of, methods_plan, spent
from backflip.experiments.methods import load
from backflip.measures.stats import mean_interval, share_interval
from backflip.plan import Plan

if TYPE_CHECKING:
    from backflip.run import Run

BEST_OF_N = "best_of_n"
ENDS = ("gold_win_rate", "gold", "kl_nats_per_sequence", "distinct2_ratio", "length_ratio", "entropy_nats")
"""What a run measures at its end, on all of its held-out openings."""


@dataclass(frozen=True)
class FrontierConfig(ArmsConfig, MethodSettings):
    """Settings of the frontier."""

    matched_nats: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    """KLs from the base at which methods are compared, nats an answer."""

    def __post_init__(self) -> None:
        ArmsConfig.__post_init__(self)
        MethodSettings.__post_init__(self)
        if not self.matched_nats or not all(0 < nats < float("inf") for nats in self.matched_nats):
            raise ConfigError(f"matched_nats is {self.matched_nats}; expected one or more finite numbers above 0")


def arms_of(config: FrontierConfig) -> list[Arm]:
    """Return an arm for each method."""
    return [arm_of(method, config) for method in config.methods]


def plan(config: FrontierConfig) -> Plan:
    """Add up what the runs of all methods need."""
    return methods_plan(arms_of(config), config)


@experiment(config=FrontierConfig, plan=plan)
def main(config: FrontierConfig, run: Run) -> None:
    """Draw gold reward against KL for every method on `reviews`, with equal labels and equal update tokens.

    Prediction (docs/frontier.md): at the same KL no method stands above PPO by more than 3 points of gold win rate, and `sft` and
    `feedme` stand below it. Refuted by an interval of the paired difference that lies above 3 points, or does not lie below 0.
    """
    found = carry_out(arms_of(config), config, run)
    seeds = list(range(config.seed, config.seed + config.seeds))
    paths = {method: {seed: path_of(folder_of(run, method, seed)) for seed in seeds} for method in config.methods}
    paths |= chosen_by_reward(config, seeds, run)
    compared = compare_at_equal_kl(paths, config.methods[0], config.matched_nats)
    ends = write_ends(found, run)
    budget = write_budget(config, seeds, run)
    run.result(
        "frontier",
        {
            "against": config.methods[0],
            "seeds": seeds,
            "held_out": config.held_out,
            "paths": {name: mean_path(list(by_seed.values())) for name, by_seed in paths.items()},
            "by_seed": {name: {str(seed): one.as_json() for seed, one in by_seed.items()} for name, by_seed in paths.items()},
            "ends": ends,
            "budget": budget,
            "compared": compared,
        },
    )  # fmt: skip
    for sentence in verdict(compared, config.methods[0], len(seeds)):
        run.note(sentence)


def chosen_by_reward(config: FrontierConfig, seeds: Sequence[int], run: Run) -> dict[str, dict[int, Path]]:
    """Return the path of best-of-n, n doubling, by the reward of the first method that learns one; empty where none does."""
    rewarded = [method for method in config.methods if load(method).rewarded]
    if not rewarded:
        run.note("no method of these learns a reward, so there is no best-of-n")
        return {}
    return {BEST_OF_N: {seed: best_of_n_path(folder_of(run, rewarded[0], seed)) for seed in seeds}}


def write_ends(found: Mapping[str, Sequence[Mapping[str, Any]]], run: Run) -> dict[str, dict[str, Any]]:
    """Write what each method's runs measured at their ends, over seeds, and return it by method and measure."""
    ends: dict[str, dict[str, Any]] = {}
    for method, summaries in found.items():
        ends[method] = {}
        for name in ENDS:
            value_K = values(summaries, f"{method}_{name}")
            ends[method][name] = (share_interval if name == "gold_win_rate" else mean_interval)(value_K)
            run.estimate(f"{method}: {name}", ends[method][name])
    return ends


def write_budget(config: FrontierConfig, seeds: Sequence[int], run: Run) -> dict[str, dict[str, float]]:
    """Return what each method's runs cost on average, and note how far from equal their update tokens came out."""
    budget: dict[str, dict[str, float]] = {}
    for method in config.methods:
        each = [spent(folder_of(run, method, seed)) for seed in seeds]
        budget[method] = {name: sum(one[name] for one in each) / len(each) for name in each[0]}
    trained = [one["tokens_trained"] for one in budget.values()]
    labels = sorted({round(one["labels"]) for one in budget.values()})
    run.note(
        f"labels heard by a run: {' or '.join(map(str, labels))}; tokens that its updates learned from: {min(trained):,.0f} to "
        f"{max(trained):,.0f} (answers of equal number differ in length)"
    )
    return budget
