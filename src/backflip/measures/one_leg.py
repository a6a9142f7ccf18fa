"""A HalfCheetah that runs on its front leg alone: how far its feet are from the ground, and what a teacher of it wants.

From joint positions and the lengths in half_cheetah.xml. A foot's upper end is taken to be its ankle, so that one which is turned up is put up
to 14 mm off where MuJoCo has it, and others exactly; a test compares. Only teachers and measures ask.

Shapes: L states, T steps.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from backflip.data import Item
from backflip.worlds.control import unpack
from backflip.worlds.mujoco_tasks import find_task

TASK = "HalfCheetah-v5"
STANDS_AT = 0.7
RADIUS = 0.046
Leg = Literal["back", "front"]
LEGS = {
    "back": ((-0.5, 0.0), (0.16, -0.25), (-0.28, -0.14), (0.0551, -0.1876)),
    "front": ((0.5, 0.0), (-0.14, -0.24), (0.13, -0.18), (0.0845, -0.1278)),
}
"""Metres: hip from the torso's middle, knee from the hip, ankle from the knee, toe from the ankle; along the body and up."""
JOINTS = {"back": (3, 4, 5), "front": (6, 7, 8)}
HIGH_ENOUGH = 0.1
"""Metres of clearance of the back foot from which a teacher counts a step whole."""
TOUCHING = 1.0
"""Metres a second that a step on the back foot costs in the teacher's eyes."""


def clearance(qpos: NDArray[np.float64], leg: Leg) -> NDArray[np.float64]:
    """Return the height of the lowest point of a foot above the ground in every state, (L,) metres; `qpos` is (L, 9)."""
    hip, *parts = LEGS[leg]
    height_L = STANDS_AT + qpos[:, 1] + _up(hip, qpos[:, 2])
    angle_L = qpos[:, 2].copy()
    ends = list[NDArray[np.float64]]()
    for part, joint in zip(parts, JOINTS[leg], strict=True):
        angle_L += qpos[:, joint]
        height_L = height_L + _up(part, angle_L)
        ends.append(height_L)
    return np.minimum(ends[1], ends[2]) - RADIUS


def one_leg_truth(item: Item) -> NDArray[np.float64]:
    """Return for every step the forward speed where the back foot is up and the body the right way up, and a loss where it is not."""
    task = find_task(TASK)
    qpos = task.qpos(unpack(item.payload["scene"]))
    speed_T = np.diff(qpos[:, 0]) / task.seconds_a_step
    up_T = np.clip(clearance(qpos, "back")[1:] / HIGH_ENOUGH, 0, 1) * (np.cos(qpos[1:, 2]) > 0)
    return up_T * speed_T - TOUCHING * (1 - up_T)


def gait(qpos: NDArray[np.float64]) -> dict[str, float]:
    """Return what one episode looked like: speed, and shares of its states with the back foot up and with the front foot down."""
    seconds = (len(qpos) - 1) * find_task(TASK).seconds_a_step
    upright_L = np.cos(qpos[:, 2]) > 0
    return {
        "metres_a_second": float((qpos[-1, 0] - qpos[0, 0]) / seconds),
        "back_foot_up": float((upright_L & (clearance(qpos, "back") > 0.02)).mean()),
        "front_foot_down": float((upright_L & (clearance(qpos, "front") <= 0.02)).mean()),
    }


def _up(offset: tuple[float, float], angle_L: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how much higher the end of an offset is; the hinges turn a body forwards and down."""
    along, up = offset
    return up * np.cos(angle_L) - along * np.sin(angle_L)
