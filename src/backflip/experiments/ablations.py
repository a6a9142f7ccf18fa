"""What each part of learning from comparisons is worth: one taken away at a time (Christiano et al. 2017, fig. 5).

Beside them the whole recipe and the same optimiser on the true reward. What is finished is kept, so a sweep can be gone on with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backflip.errors import ConfigError
from backflip.experiments import experiment
from backflip.experiments.arms import Arm, ArmsConfig, carry_out
from backflip.experiments.arms_plan import arms_plan
from backflip.experiments.mujoco_arms import TRUE, options, report_returns
from backflip.plan import Plan
from backflip.worlds.mujoco_tasks import find_task

if TYPE_CHECKING:
    from backflip.run import Run

WITHOUT: Mapping[str, Mapping[str, str]] = {
    "whole": {},
    "labels_at_the_start": {"first_share": "1.0"},
    "no_ensemble": {"fit.members": "1", "queries": "random"},
    "random_queries": {"queries": "random"},
    "disagreement_alone": {"queries": "disagreement"},
    "bootstrap_kept": {"fit.bootstrap": "kept"},
    "no_bootstrap": {"fit.bootstrap": "none"},
    "single_frames": {"clip_seconds": "0.0"},
    "no_regularisation": {"fit.l2": "0.0"},
    "never_then_and_now": {"older_share": "0.0"},
    "scores_of_single_clips": {"asks": "scores"},
}
"""Arms and what is changed in each; single frames are clips of one step."""


@dataclass(frozen=True)
class AblationsConfig(ArmsConfig):
    """Settings of the ablations."""

    task: str = "HalfCheetah-v5"
    """One of Gymnasium's v5 ids, as in `mujoco`."""
    labels: int = 700
    """Comparisons in every arm."""
    steps: int = 0
    """Real steps of every run; 0: what docs/mujoco.md says for the task."""
    arms: tuple[str, ...] = tuple(WITHOUT)
    """Which arms: whole, labels_at_the_start, no_ensemble, random_queries, disagreement_alone, bootstrap_kept, no_bootstrap, single_frames, no_regularisation,
    never_then_and_now, scores_of_single_clips (a regression on them in place of comparisons)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        find_task(self.task)
        if self.labels < 1 or self.steps < 0:
            raise ConfigError(f"labels {self.labels}, steps {self.steps}: expected 1 or more, and 0 or more")
        if unknown := [name for name in self.arms if name not in WITHOUT]:
            raise ConfigError(f'no arm is called "{unknown[0]}"; expected some of {", ".join(WITHOUT)}')
        if not self.arms or len(set(self.arms)) < len(self.arms):
            raise ConfigError(f"arms are {', '.join(self.arms) or 'none'}; expected some, each once")


def arms_of(config: AblationsConfig) -> list[Arm]:
    """Return the arms: the true reward, and what is compared."""
    own = options(config.task, config.steps)
    asked = own | {"comparisons": str(config.labels)}
    arms = [Arm(TRUE, "control", own | {"reward": "true"})]
    arms += [Arm(name, "control", asked | dict(WITHOUT[name])) for name in config.arms]
    return arms


def plan(config: AblationsConfig) -> Plan:
    """Estimate what the comparison needs by doing a little of each arm."""
    return arms_plan(arms_of(config), config)


@experiment(config=AblationsConfig, plan=plan)
def main(config: AblationsConfig, run: Run) -> None:
    """Take one part of learning from comparisons away at a time, and measure what it was worth."""
    report_returns(carry_out(arms_of(config), config, run), run)
