"""The six teachers of B-Pref (Lee et al. 2021) on one task: what being noisy, short-sighted or unsure costs, labels being equal.

Beside them the same optimiser on the true reward. What is finished is kept, so a sweep can be gone on with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backflip.errors import ConfigError
from backflip.experiments import experiment
from backflip.experiments.arms import Arm, ArmsConfig, carry_out
from backflip.experiments.arms_plan import arms_plan
from backflip.experiments.mujoco_arms import SETTINGS, TRUE, options, report_returns
from backflip.plan import Plan
from backflip.worlds.mujoco_tasks import find_task

if TYPE_CHECKING:
    from backflip.run import Run

NEVER_ABOVE_ZERO = ("Reacher-v5", "InvertedPendulum-v5")
TEACHERS = ("oracle", "stochastic", "mistake", "skip", "equal", "myopic")


@dataclass(frozen=True)
class TeachersConfig(ArmsConfig):
    """Settings of the comparison of teachers."""

    task: str = "HalfCheetah-v5"
    """One of Gymnasium's v5 ids, as in `mujoco`."""
    labels: int = 700
    """Comparisons that each teacher is asked for."""
    steps: int = 0
    """Real steps of every run; 0: what docs/mujoco.md says for the task."""
    clip_return: float = 0.0
    """What a usual clip is worth; skip and equal go by a tenth of it. 0: a fifth of a very good one of the task, as `SETTINGS` has it. On
    HalfCheetah-v5 that is 40, a clip of 1.5 s at 1.3 m/s."""

    @property
    def usual_clip(self) -> float:
        """Return what a usual clip of the task is worth."""
        return self.clip_return or float(SETTINGS[self.task]["full_score"]) / 5

    def __post_init__(self) -> None:
        super().__post_init__()
        find_task(self.task)
        if self.task in NEVER_ABOVE_ZERO:
            raise ConfigError(
                f"no clip of {self.task} is worth more than 0, and skip and equal go by a tenth of what a usual one is worth; choose "
                "another task"
            )
        if self.labels < 1 or self.steps < 0 or not 0 <= self.clip_return < float("inf"):
            raise ConfigError(
                f"labels {self.labels}, steps {self.steps}, clip_return {self.clip_return}: expected 1 or more, and 0 or more"
            )


def arms_of(config: TeachersConfig) -> list[Arm]:
    """Return the arms: the true reward, and what is compared."""
    own = options(config.task, config.steps)
    asked = own | {"comparisons": str(config.labels), "clip_return": str(config.usual_clip)}
    arms = [Arm(TRUE, "control", own | {"reward": "true"})]
    arms += [Arm(name, "control", asked | {"teacher": name}) for name in TEACHERS]
    return arms


def plan(config: TeachersConfig) -> Plan:
    """Estimate what the comparison needs by doing a little of each arm."""
    return arms_plan(arms_of(config), config)


@experiment(config=TeachersConfig, plan=plan)
def main(config: TeachersConfig, run: Run) -> None:
    """Compare the six teachers of B-Pref on a MuJoCo task: oracle, stochastic, mistake, skip, equal, myopic."""
    report_returns(carry_out(arms_of(config), config, run), run)
