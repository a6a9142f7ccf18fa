"""What the comparisons on MuJoCo tasks share: each task's settings, and what came out of the arms.

No experiment. Left out: which arms there are (`mujoco`, `teachers`, `ablations`, `cheetah_one_leg`).

Shapes: K seeds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from backflip.experiments.arms import normalised_return, values
from backflip.measures.stats import mean_interval, share_interval

if TYPE_CHECKING:
    from backflip.run import Run

TRUE = "true_reward"
"""The arm in which nobody is asked."""
RUNNING = {"gamma": "0.99", "environments": "16", "row_steps": "250", "piece_steps": "50", "horizons": "1000"}
SHORT = {
    "gamma": "0.99",
    "fit.every": "1",
    "environments": "40",
    "row_steps": "50",
    "piece_steps": "25",
    "horizons": "50",
}
ALIKE = {
    "ask_at_once": "20",
    "first_share": "0.25",
    "schedule_steps": "3e4",
    "lr": "3e-4",
    "ppo.minibatches": "16",
    "settle": "0.5",
    "fit.batch": "64",
    "fit.steps": "100",
    "fit.lr": "3e-3",
    "fit.noise": "0.1",
    "ppo.clip": "0.2",
    "policy.first_std": "0.6",
}
"""The same for all tasks."""
SETTINGS: Mapping[str, Mapping[str, str]] = {
    "HalfCheetah-v5": {"full_score": "200", "steps": "600000", "clip_seconds": "1.5", "fit.every": "2"} | RUNNING,
    "Hopper-v5": {"full_score": "400", "steps": "800000", "clip_seconds": "0.8", "fit.every": "5"}
    | RUNNING
    | {"gamma": "0.995"},
    "Walker2d-v5": {"full_score": "400", "steps": "1000000", "clip_seconds": "0.8", "fit.every": "5"}
    | RUNNING
    | {"gamma": "0.995"},
    "Swimmer-v5": {"full_score": "20", "steps": "500000", "clip_seconds": "1.5", "fit.every": "2"}
    | RUNNING
    | {"gamma": "0.999"},
    "Ant-v5": {"full_score": "200", "steps": "1000000", "clip_seconds": "1.5", "fit.every": "2"} | RUNNING,
    "Reacher-v5": {
        "full_score": "10",
        "steps": "300000",
        "clip_seconds": "0.5",
        "fit.noise": "0",
        "fit.reads": "what_came_of_it",
    }
    | SHORT,
    "InvertedPendulum-v5": {"full_score": "2", "steps": "100000", "clip_seconds": "0.6"} | SHORT,
    "InvertedDoublePendulum-v5": {"full_score": "40", "steps": "200000", "clip_seconds": "0.75"} | SHORT,
}
"""Real steps, clips, the shape of a batch, and what a clip is worth that scores 1 (ablations), for each task; all else is alike, and alike for both arms."""


def options(task: str, steps: int = 0) -> dict[str, str]:
    """Return the options of `backflip run control` on a task."""
    chosen = dict(SETTINGS[task]) | ({"steps": str(steps)} if steps else {})
    gamma = chosen.pop("gamma")
    return {"env": task, "judged_by": "watched", "ppo.gamma": gamma} | ALIKE | chosen


def report_returns(found: Mapping[str, list[Mapping[str, Any]]], run: Run) -> None:
    """Write the return of every arm, and of those that learned its share of the way from an untrained policy to the true reward."""
    true_K = values(found[TRUE], "true_return")
    random_K = values(found[TRUE], "untrained_return")
    run.estimate("untrained_return", mean_interval(random_K))
    rows: list[dict[str, str | int | float]] = []
    for name, summaries in found.items():
        return_K = values(summaries, "true_return")
        run.estimate(f"{name}_return", mean_interval(return_K))
        rows += [{"arm": name, "run": place, "true_return": float(value)} for place, value in enumerate(return_K)]
        if name == TRUE:
            continue
        if all("pair_accuracy" in one.get("estimates", {}) for one in summaries):
            run.estimate(f"{name}_pair_accuracy", share_interval(values(summaries, "pair_accuracy")))
        else:
            run.note(
                f"{name}: in some run nothing could be learned from the answers, so its pair accuracy is not given"
            )
        share = normalised_return(return_K, true_K, random_K)
        if share is None:
            run.note(f"{name}: the true reward does not beat an untrained policy at these steps, so no share is given")
        else:
            run.estimate(f"{name}_normalised_return", share)
            run.note(f"{name}: {share.value:.2f} ({share.low:.2f} to {share.high:.2f}) of what the true reward brings")
    run.table("returns", rows)
