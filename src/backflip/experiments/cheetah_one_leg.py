"""A HalfCheetah that runs on its front leg alone, from comparisons (Christiano et al. 2017, sec. 3.2): a thing nobody wrote a reward for.

Beside it the same number of comparisons by a teacher who looks at speed alone. Both are measured by where the feet were.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from backflip.errors import ConfigError
from backflip.experiments import experiment
from backflip.experiments.arms import Arm, ArmsConfig, carry_out, checkpoint_of, folder_of
from backflip.experiments.arms_plan import arms_plan
from backflip.experiments.mujoco_arms import options
from backflip.loops.control import stream
from backflip.measures.one_leg import TASK, gait
from backflip.measures.stats import mean_interval, share_interval
from backflip.plan import Plan
from backflip.policies.actor_critic import ActorCritic
from backflip.worlds.clips import write_video
from backflip.worlds.control import ControlWorld
from backflip.worlds.mujoco_tasks import find_task

if TYPE_CHECKING:
    from pathlib import Path

    from backflip.run import Run

EPISODES = 10


@dataclass(frozen=True)
class OneLegConfig(ArmsConfig):
    """Settings of the one-legged cheetah."""

    labels: int = 800
    """Comparisons in each arm; the paper's person gave 800."""
    steps: int = 600_000
    """Real steps of every run."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.labels < 1 or self.steps < 1:
            raise ConfigError(f"labels {self.labels}, steps {self.steps}: expected 1 or more")


def arms_of(config: OneLegConfig) -> list[Arm]:
    """Return the two arms."""
    own = options(TASK, config.steps) | {"comparisons": str(config.labels)}
    return [
        Arm("one_leg", "control", own | {"judged_by": "one_leg"}),
        Arm("running", "control", own | {"judged_by": "watched"}),
    ]


def plan(config: OneLegConfig) -> Plan:
    """Estimate what the comparison needs by doing a little of each arm."""
    return arms_plan(arms_of(config), config)


@experiment(config=OneLegConfig, plan=plan)
def main(config: OneLegConfig, run: Run) -> None:
    """Teach a cheetah to run on its front leg alone by comparisons, beside one that is taught to run."""
    arms = arms_of(config)
    carry_out(arms, config, run)
    for arm in arms:
        seeds = range(config.seed, config.seed + config.seeds)
        found = [gaits(folder_of(run, arm.name, seed), seed) for seed in seeds]
        for name in found[0][0]:
            means = [float(np.mean([one[name] for one in each])) for each in found]
            shares = name != "metres_a_second"
            run.estimate(f"{arm.name}_{name}", share_interval(means) if shares else mean_interval(means))
        run.table(arm.name, [{"seed": seed, **one} for seed, each in zip(seeds, found, strict=True) for one in each])
        scene = unseen(folder_of(run, arm.name, config.seed), config.seed, 1)[0]
        write_video([scene[:400]], find_task(TASK), run.path / "videos" / f"{arm.name},_real_time.mp4", speed=1.0)


def gaits(folder: Path, seed: int) -> list[dict[str, float]]:
    """Return what unseen episodes of a run's policy looked like."""
    return [gait(find_task(TASK).qpos(scene)) for scene in unseen(folder, seed, EPISODES)]


def unseen(folder: Path, seed: int, episodes: int) -> np.ndarray:
    """Return the scenes of whole episodes from seeds that nobody trained on."""
    policy = ActorCritic.load(checkpoint_of(folder, "policy"))
    world = ControlWorld(TASK, environments=episodes, steps=1000, seed=seed + 2_000_000)
    rows = world.collect(policy, episodes, stream(seed, "unseen gait"))
    assert rows.scene is not None
    return rows.scene.numpy()
