"""The standard MuJoCo tasks from comparisons alone, beside the same optimiser on the true reward (Christiano et al. 2017, fig. 2).

Both take the same real steps over the same seeds. One run is one task; what is finished is kept, so a sweep can be gone on with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backflip.errors import ConfigError
from backflip.experiments import experiment
from backflip.experiments.arms import Arm, ArmsConfig, carry_out, normalised_return, values
from backflip.measures.stats import mean_interval
from backflip.worlds.mujoco_tasks import find_task

if TYPE_CHECKING:
    from backflip.run import Run

RUNNING = {"gamma": "0.99", "environments": "16", "row_steps": "250", "piece_steps": "50", "horizons": "1000"}
SHORT = {"gamma": "0.99", "environments": "40", "row_steps": "50", "piece_steps": "25", "horizons": "50"}
SETTINGS: Mapping[str, Mapping[str, str]] = {
    "HalfCheetah-v5": {"steps": "500000", "clip_seconds": "1.5"} | RUNNING,
    "Hopper-v5": {"steps": "800000", "clip_seconds": "0.8"} | RUNNING | {"gamma": "0.995"},
    "Walker2d-v5": {"steps": "1000000", "clip_seconds": "0.8"} | RUNNING | {"gamma": "0.995"},
    "Swimmer-v5": {"steps": "500000", "clip_seconds": "1.5"} | RUNNING | {"gamma": "0.999"},
    "Ant-v5": {"steps": "1000000", "clip_seconds": "1.5"} | RUNNING,
    "Reacher-v5": {"steps": "300000", "clip_seconds": "0.5"} | SHORT,
    "InvertedPendulum-v5": {"steps": "100000", "clip_seconds": "0.6"} | SHORT,
    "InvertedDoublePendulum-v5": {"steps": "200000", "clip_seconds": "0.75"} | SHORT,
}
"""Real steps, clips and the shape of a batch for each task; all else is alike, and alike for both arms."""


@dataclass(frozen=True)
class MujocoConfig(ArmsConfig):
    """Settings of the comparison on one task."""

    task: str = "Reacher-v5"
    """One of Gymnasium's v5 ids: InvertedPendulum, InvertedDoublePendulum, Reacher, HalfCheetah, Hopper, Swimmer, Walker2d, Ant."""
    labels: tuple[int, ...] = (700,)
    """Numbers of comparisons, an arm each; the paper has 350, 700 and 1400."""
    steps: int = 0
    """Real steps of every run; 0: what docs/mujoco.md says for the task."""

    def __post_init__(self) -> None:
        super().__post_init__()
        find_task(self.task)
        if not self.labels or min(self.labels) < 1 or self.steps < 0:
            raise ConfigError(
                f"labels {self.labels}, steps {self.steps}: expected one number or more, each 1 or more, and 0 or more"
            )


@experiment(config=MujocoConfig)
def main(config: MujocoConfig, run: Run) -> None:
    """Learn a MuJoCo task from comparisons alone, and measure it beside the same optimiser on the true reward."""
    own = options(config.task, config.steps)
    arms = [Arm("true_reward", "control", own | {"reward": "true"})]
    arms += [Arm(f"labels_{count}", "control", own | {"comparisons": str(count)}) for count in config.labels]
    found = carry_out(arms, config, run)
    report_returns(found, "true_reward", run)


def options(task: str, steps: int = 0) -> dict[str, str]:
    """Return the options of `backflip run control` on a task."""
    chosen = dict(SETTINGS[task]) | ({"steps": str(steps)} if steps else {})
    gamma = chosen.pop("gamma")
    return {"env": task, "judged_by": "watched", "ppo.gamma": gamma, "ask_at_once": "20"} | chosen


def report_returns(found: Mapping[str, list[Mapping[str, object]]], true_arm: str, run: Run) -> None:
    """Write the return of every arm, and of those that learned its share of the way from an untrained policy to the true reward."""
    true_K = values(found[true_arm], "true_return")
    random_K = values(found[true_arm], "untrained_return")
    run.estimate("untrained_return", mean_interval(random_K))
    rows: list[dict[str, object]] = []
    for name, summaries in found.items():
        return_K = values(summaries, "true_return")
        run.estimate(f"{name}_return", mean_interval(return_K))
        rows += [{"arm": name, "run": place, "true_return": float(value)} for place, value in enumerate(return_K)]
        if name == true_arm:
            continue
        run.estimate(f"{name}_pair_accuracy", mean_interval(values(summaries, "pair_accuracy")))
        share = normalised_return(return_K, true_K, random_K)
        if share is None:
            run.note(f"{name}: the true reward does not beat an untrained policy at these steps, so no share is given")
        else:
            run.estimate(f"{name}_normalised_return", share)
            run.note(f"{name}: {share.value:.2f} ({share.low:.2f} to {share.high:.2f}) of what the true reward brings")
    run.table("returns", rows)
