"""The true rewards of the MuJoCo tasks, from scenes, and where Gymnasium's episodes would end.

Only teachers and measures ask. Equality of Gymnasium's rewards, to the bit, is a test. `task_truth` is what a person who watches
would want of a task whose episodes never end early: no cost of effort, and a bonus for staying up in place of an end.

Shapes: T steps, A numbers of an action, S numbers of a scene.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backflip.data import Item
from backflip.worlds.control import unpack
from backflip.worlds.mujoco_tasks import Array, Task, find_task


@dataclass(frozen=True)
class Step:
    """Steps of one episode: scenes before and after, (T, S), and the actuators' settings, (T, A)."""

    task: Task
    before: Array
    after: Array
    control: Array

    def speed(self, place: int = 0) -> Array:
        """Return the velocity along an axis of the world."""
        return (self.after[:, place] - self.before[:, place]) / self.task.seconds_a_step

    def effort(self) -> Array:
        """Return the sum of squared controls."""
        return np.sum(np.square(self.control), axis=-1)


def gymnasium_reward(step: Step) -> Array:
    """Return the reward of Gymnasium's v5 task for every step."""
    return _GYMNASIUM[step.task.id](step)


def ended(task: Task, scene: Array) -> NDArray[np.bool_]:
    """Return where Gymnasium's v5 task would end an episode."""
    if task.id in ("Hopper-v5", "Walker2d-v5", "Ant-v5"):
        return ~_healthy(task, scene)
    if task.id == "InvertedPendulum-v5":
        return ~np.isfinite(scene).all(-1) | (np.abs(scene[..., 1]) > 0.2)
    if task.id == "InvertedDoublePendulum-v5":
        return task.rest(scene)[..., 2] <= 1
    return np.zeros(scene.shape[:-1], dtype=bool)


def _healthy(task: Task, scene: Array) -> NDArray[np.bool_]:
    if task.id == "Ant-v5":
        state = scene[..., : task.nq + task.nv]
        return np.isfinite(state).all(-1) & (state[..., 2] >= 0.2) & (state[..., 2] <= 1.0)
    z, angle = scene[..., 1], scene[..., 2]
    if task.id == "Walker2d-v5":
        return (z > 0.8) & (z < 2.0) & (angle > -1.0) & (angle < 1.0)
    inside = ((scene[..., 2:] > -100) & (scene[..., 2:] < 100)).all(-1)
    return inside & (z > 0.7) & (angle > -0.2) & (angle < 0.2)


def _running(step: Step) -> Array:
    return step.speed() + _healthy(step.task, step.after) * 1.0 - 1e-3 * step.effort()


def _ant(step: Step) -> Array:
    before, after = step.task.rest(step.before)[:, 0], step.task.rest(step.after)[:, 0]
    contact = 5e-4 * np.sum(np.square(step.task.rest(step.after)[:, 2:].clip(-1, 1)), axis=-1)
    alive = _healthy(step.task, step.after) * 1.0
    return (after - before) / step.task.seconds_a_step * 1 + alive - (0.5 * step.effort() + contact)


def _distance(step: Step) -> Array:
    return np.array([np.linalg.norm(vector) for vector in step.task.rest(step.after)], dtype=np.float64)


def _reaching(step: Step) -> Array:
    return -_distance(step) * 1 + -step.effort() * 1


def _double(step: Step) -> Array:
    site, speed = step.task.rest(step.after), step.task.qvel(step.after)
    alive = 10.0 * ~ended(step.task, step.after)
    # one number at a time: the power of an array is rounded otherwise than that of a number
    return np.array(
        [
            up - (0.01 * x**2 + (y - 2) ** 2) - (1e-3 * v1**2 + 5e-3 * v2**2)
            for up, x, y, v1, v2 in zip(alive, site[:, 0], site[:, 2], speed[:, 1], speed[:, 2], strict=True)
        ]
    )


_GYMNASIUM: Mapping[str, Callable[[Step], Array]] = {
    "Hopper-v5": _running,
    "Walker2d-v5": _running,
    "HalfCheetah-v5": lambda step: step.speed() - 0.1 * step.effort(),
    "Swimmer-v5": lambda step: step.speed() - 1e-4 * step.effort(),
    "Ant-v5": _ant,
    "Reacher-v5": _reaching,
    "InvertedPendulum-v5": lambda step: (~ended(step.task, step.after)).astype(np.float64),
    "InvertedDoublePendulum-v5": _double,
}


def task_truth(item: Item) -> Array:
    """Return for every step of a clip what a person wants who watches it (Christiano et al. 2017, A.1).

    Speed along the track; for what can fall also how high it is held, in place of an end; for Reacher how near; for the
    pendula how upright.
    """
    task = find_task(item.prompt)
    scene, action = unpack(item.payload["scene"]), unpack(item.payload["action"])
    return _WANTED[task.id](Step(task, scene[:-1], scene[1:], action))


_WANTED: Mapping[str, Callable[[Step], Array]] = {
    "Hopper-v5": lambda step: step.speed() + step.after[:, 1] - 1.0,
    "Walker2d-v5": lambda step: step.speed() + step.after[:, 1] - 2.0,
    "HalfCheetah-v5": lambda step: step.speed(),
    "Swimmer-v5": lambda step: step.speed(),
    "Ant-v5": lambda step: step.speed() + step.after[:, 2] - 1.2,
    "Reacher-v5": lambda step: -_distance(step),
    "InvertedPendulum-v5": lambda step: -np.square(step.after[:, 1]),
    "InvertedDoublePendulum-v5": lambda step: 10.0 * (step.task.rest(step.after)[:, 2] - 1.0),
}
