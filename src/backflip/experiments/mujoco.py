"""The standard MuJoCo tasks from comparisons alone, beside the same optimiser on the true reward (Christiano et al. 2017, fig. 2).

Both take the same real steps over the same seeds. One run is one task; what is finished is kept, so a sweep can be gone on with.
"""

from __future__ import annotations

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
        if len(set(self.labels)) < len(self.labels):
            raise ConfigError(f"labels {self.labels} names a number twice; give each once")
        if not self.labels or min(self.labels) < 1 or self.steps < 0:
            raise ConfigError(
                f"labels {self.labels}, steps {self.steps}: expected one number or more, each 1 or more, and 0 or more"
            )


def arms_of(config: MujocoConfig) -> list[Arm]:
    """Return the arms: the true reward, and what is compared."""
    own = options(config.task, config.steps)
    arms = [Arm(TRUE, "control", own | {"reward": "true"})]
    arms += [Arm(f"labels_{count}", "control", own | {"comparisons": str(count)}) for count in config.labels]
    return arms


def plan(config: MujocoConfig) -> Plan:
    """Estimate what the comparison needs by doing a little of each arm."""
    return arms_plan(arms_of(config), config)


@experiment(config=MujocoConfig, plan=plan)
def main(config: MujocoConfig, run: Run) -> None:
    """Learn a MuJoCo task from comparisons alone, and measure it beside the same optimiser on the true reward."""
    found = carry_out(arms_of(config), config, run)
    report_returns(found, run)
