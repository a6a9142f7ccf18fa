"""Count complete backward somersaults of a Hopper from the positions of its joints, whatever it was taught by.

A somersault is complete where the torso's accumulated backward turn, `-qpos[2]`, passes another 2 pi, if the torso is above
1.0 m at that moment or the foot touches the ground within 40 steps, and if it did not fall (below 0.4 m) since the one before nor falls
within 40 steps after: a leap that ends on the head is none, although at 2 pi it is high up. Left out: style, and what the end of an episode
cuts off.

Shapes: L states of an episode, one more than its steps.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from backflip.errors import DataError

TORSO_HEIGHT, TORSO_ANGLE = 1, 2
TURN = 2 * np.pi
HIGH, FALLEN = 1.0, 0.4
SOON = 40
FOOT_ON_GROUND = 0.07
"""Height of the lower end of the foot's axis: its capsule has a radius of 0.06 m."""


def complete_somersaults(qpos: NDArray[np.float64], *, and_after: bool = True) -> list[int]:
    """Return the steps at which a backward somersault of one episode was completed; `qpos` is (L, 6), in order of time.

    Without `and_after` a fall in the 40 steps after is not held against a turn, but against the one that follows.

    Raises:
        DataError: it is of another shape, or not finite.
    """
    foot, height = foot_height(qpos), qpos[:, TORSO_HEIGHT]
    found: list[int] = []
    since = 0
    for step in _crossings(qpos):
        began, since = since, step
        if step + SOON >= len(qpos):
            break
        upright = height[step] > HIGH or foot[step : step + SOON + 1].min() <= FOOT_ON_GROUND
        fell = height[began : step + (SOON if and_after else 0) + 1].min() < FALLEN
        if upright and not fell:
            found.append(step)
    return found


def turns_in_the_air(qpos: NDArray[np.float64]) -> list[int]:
    """Return the steps at which another 2 pi was passed above 1.0 m, or with the foot on the ground within 40 steps and no fall in these.

    The weaker count: what came before, and where a high turn came down, is not asked. Raises as `complete_somersaults`.
    """
    foot, height = foot_height(qpos), qpos[:, TORSO_HEIGHT]
    return [
        step
        for step in _crossings(qpos)
        if height[step] > HIGH
        or (foot[step : step + SOON + 1].min() <= FOOT_ON_GROUND and height[step : step + SOON + 1].min() >= FALLEN)
    ]


def _crossings(qpos: NDArray[np.float64]) -> list[int]:
    """Return the steps at which the accumulated backward turn passes another 2 pi for the first time."""
    turns = np.floor(-(qpos[:, TORSO_ANGLE] - qpos[0, TORSO_ANGLE]) / TURN)
    reached = np.maximum.accumulate(np.maximum(turns, 0))
    return [int(step) + 1 for step in np.flatnonzero(np.diff(reached) > 0)]


def foot_height(qpos: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the height of the lower end of the foot's axis in every state, from the joints and the lengths in hopper.xml.

    Raises:
        DataError: `qpos` is not (L, 6), or not finite.
    """
    if qpos.ndim != 2 or qpos.shape[1] != 6 or not np.isfinite(qpos).all():
        raise DataError(f"positions of shape {qpos.shape}; expected finite (steps + 1, 6), the joints of a Hopper")
    torso, thigh, leg, foot = (qpos[:, place] for place in (2, 3, 4, 5))
    thigh_angle = torso - thigh  # the hinges of the limbs turn the other way round than the torso's
    leg_angle = thigh_angle - leg
    foot_angle = leg_angle - foot
    ankle = qpos[:, TORSO_HEIGHT] - 0.2 * np.cos(torso) - 0.45 * np.cos(thigh_angle) - 0.5 * np.cos(leg_angle)
    return ankle + np.minimum(0.13 * np.sin(foot_angle), -0.26 * np.sin(foot_angle))


def backward_turns(qpos: NDArray[np.float64]) -> float:
    """Return the net backward turns of one episode, whatever they looked like."""
    return float(-(qpos[-1, TORSO_ANGLE] - qpos[0, TORSO_ANGLE]) / TURN)
