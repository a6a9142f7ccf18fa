"""The standard MuJoCo v5 tasks of Gymnasium: what is simulated, what is observed, and how an episode begins.

A `scene` is everything that a row can be shown, observed and judged from: joint positions, joint velocities, and what a task reads
of the simulation besides. Observations are functions of scenes, so a whole batch is observed at once. Equality with
Gymnasium, to the bit, is a test. Left out: stepping (`mujoco_batch`), rewards (`measures/control_truth`).

Shapes: E environments, S numbers of a scene (qpos, qvel, extra), F of an observation.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from backflip.errors import ConfigError, MissingExtra

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Task:
    """One task. `nq` and `nv` count joint positions and velocities; what follows them in a scene is `extra`."""

    id: str
    xml: str
    frame_skip: int
    nq: int
    nv: int
    hidden: int
    """Leading positions that are not observed: where in the world the body is."""
    clip_velocity: bool
    noise: float
    """Size of the noise on the first state."""
    velocity_noise: Literal["uniform", "normal"]
    seconds_a_step: float
    """How long a decision lasts: `frame_skip` times the simulation's own step."""
    horizon: int = 1000
    """Steps of an episode, always: an end that comes early would tell the learner what nobody said."""
    turning: int | None = None
    """Position that is an angle which may grow without end; `features` gives its sine and cosine."""
    extra: Callable[[Any], Array] | None = None
    """Reads what else the task needs from a simulation."""

    def qpos(self, scene: Array) -> Array:
        """Return the joint positions of scenes."""
        return scene[..., : self.nq]

    def qvel(self, scene: Array) -> Array:
        """Return the joint velocities of scenes."""
        return scene[..., self.nq : self.nq + self.nv]

    def rest(self, scene: Array) -> Array:
        """Return what follows positions and velocities."""
        return scene[..., self.nq + self.nv :]

    def observe(self, scene: Array) -> Array:
        """Return Gymnasium's observation of scenes, (..., F)."""
        if self.id in _OBSERVED:
            return _OBSERVED[self.id](self, scene)
        velocity = self.qvel(scene)
        velocity = velocity.clip(-10, 10) if self.clip_velocity else velocity
        return np.concatenate([self.qpos(scene)[..., self.hidden :], velocity], axis=-1)

    def features(self, scene: Array) -> NDArray[np.float32]:
        """Return what policies and reward models read: the observation, an angle without end as its sine and cosine.

        Joint velocities are not cut at 10 as Gymnasium cuts them: a Hopper that turns back slowly and snaps forwards quickly would
        else seem to turn back all the time, and a policy that is paid for what seems finds that out.
        """
        seen = self.observe(scene)
        if self.clip_velocity:
            seen = np.concatenate([seen[..., : -self.nv], self.qvel(scene)], axis=-1)
        if self.turning is not None:
            at = self.turning - self.hidden
            angle = seen[..., at : at + 1]
            seen = np.concatenate([seen[..., :at], np.sin(angle), np.cos(angle), seen[..., at + 1 :]], axis=-1)
        return seen.astype(np.float32)

    def first_state(self, model: Any, rng: np.random.Generator) -> tuple[Array, Array]:
        """Draw positions and velocities with which an episode begins, from Gymnasium's distribution."""
        qpos = model.qpos0 + rng.uniform(-self.noise, self.noise, self.nq)
        if self.id == "Reacher-v5":
            while np.linalg.norm(goal := rng.uniform(-0.2, 0.2, 2)) >= 0.2:
                pass
            qpos[-2:] = goal
            return qpos, np.concatenate([rng.uniform(-0.005, 0.005, self.nv - 2), np.zeros(2)])
        if self.velocity_noise == "normal":
            return qpos, self.noise * rng.standard_normal(self.nv)
        return qpos, rng.uniform(-self.noise, self.noise, self.nv)


def _reacher_extra(data: Any) -> Array:
    return data.body("fingertip").xpos - data.body("target").xpos


def _ant_extra(data: Any) -> Array:
    return np.concatenate([data.body(1).xpos[:2], data.cfrc_ext.ravel()])


def _double_extra(data: Any) -> Array:
    return np.concatenate([data.site_xpos[0], data.qfrc_constraint[:1]])


def _see_reacher(task: Task, scene: Array) -> Array:
    theta = task.qpos(scene)[..., :2]
    parts = (np.cos(theta), np.sin(theta), task.qpos(scene)[..., 2:], task.qvel(scene)[..., :2])
    return np.concatenate([*parts, task.rest(scene)[..., :2]], axis=-1)


def _see_ant(task: Task, scene: Array) -> Array:
    forces = task.rest(scene)[..., 2 + 6 :].clip(-1, 1)  # the world's own body is left out
    return np.concatenate([task.qpos(scene)[..., 2:], task.qvel(scene), forces], axis=-1)


def _see_double(task: Task, scene: Array) -> Array:
    angle = task.qpos(scene)[..., 1:]
    parts = (task.qpos(scene)[..., :1], np.sin(angle), np.cos(angle), task.qvel(scene).clip(-10, 10))
    return np.concatenate([*parts, task.rest(scene)[..., 3:].clip(-10, 10)], axis=-1)


_OBSERVED: Mapping[str, Callable[[Task, Array], Array]] = {
    "Reacher-v5": _see_reacher,
    "Ant-v5": _see_ant,
    "InvertedDoublePendulum-v5": _see_double,
}
TASKS: Mapping[str, Task] = {
    task.id: task
    for task in (
        Task("Hopper-v5", "hopper.xml", 4, 6, 6, 1, True, 5e-3, "uniform", 0.008, turning=2),
        Task("Walker2d-v5", "walker2d_v5.xml", 4, 9, 9, 1, True, 5e-3, "uniform", 0.008, turning=2),
        Task("HalfCheetah-v5", "half_cheetah.xml", 5, 9, 9, 1, False, 0.1, "normal", 0.05, turning=2),
        Task("Swimmer-v5", "swimmer.xml", 4, 5, 5, 2, False, 0.1, "uniform", 0.04, turning=2),
        Task("Ant-v5", "ant.xml", 5, 15, 14, 2, False, 0.1, "normal", 0.05, extra=_ant_extra),
        Task("Reacher-v5", "reacher.xml", 2, 4, 4, 0, False, 0.1, "uniform", 0.02, horizon=50, extra=_reacher_extra),
        Task("InvertedPendulum-v5", "inverted_pendulum.xml", 2, 2, 2, 0, False, 0.01, "uniform", 0.04, horizon=50),
        Task(
            "InvertedDoublePendulum-v5", "inverted_double_pendulum.xml", 5, 3, 3, 0, False, 0.1, "normal", 0.05, horizon=50,
            extra=_double_extra,
        ),
    )
}  # fmt: skip


def find_task(name: str) -> Task:
    """Return a task by its Gymnasium id.

    Raises:
        ConfigError: no task has that id.
    """
    if name not in TASKS:
        near = difflib.get_close_matches(name, TASKS, n=1)
        hint = f'did you mean "{near[0]}"?' if near else f"expected one of {', '.join(TASKS)}"
        raise ConfigError(f'no task is called "{name}"; {hint}')
    return TASKS[name]


def read_body(task: Task) -> Any:
    """Read the model of a task's body. Raises MissingExtra as `simulator` does."""
    mujoco, folder = simulator(task)
    mujoco.set_mju_user_warning(lambda _: None)  # old words in Gymnasium's files, which nobody here can mend
    try:
        return mujoco.MjModel.from_xml_path(str(folder / task.xml))
    finally:
        mujoco.set_mju_user_warning(None)


def simulator(task: Task) -> tuple[Any, Path]:
    """Return the module `mujoco`, and the folder in which Gymnasium keeps the bodies.

    Raises:
        MissingExtra: it, or gymnasium, is not installed.
    """
    try:
        import gymnasium
        import mujoco
    except ImportError as error:
        raise MissingExtra(
            f"the task {task.id} needs gymnasium and mujoco ({error}); run: pip install 'backflip[control]'"
        ) from error
    return mujoco, Path(str(gymnasium.__file__)).parent / "envs" / "mujoco" / "assets"
