"""What the synthetic overseer of the backflip wants: how far and how high a Hopper turned backwards. Only it asks.

Beside it a reward written by hand, for comparison (`hand_written`). Left out: how complete somersaults are counted at the end (`somersaults`), which shares nothing with this.

Shapes: T steps of a clip.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from backflip.data import Item
from backflip.worlds.control import unpack

HEIGHT, ANGLE = 1, 2
LOWEST, REACH, ON_THE_GROUND = 0.4, 1.0, 0.15
"""Turning counts 0.15 at a height of 0.4 m or less, and 1.15 from 1.4 m on: rolling on the ground is not a backflip."""
LANDED, CRASHED = 12.0, 1.0
"""Radians that a completed turn is worth besides, or costs. Landed: the torso stayed above `LOWEST` while it turned and for `AFTER` steps more.
It says nothing of a turn of which the clip shows less than half (leaning back and forth through the upright is no turn), nor of one
whose landing it shows for less than `SEEN` steps."""
AFTER, SEEN = 40, 20
UPRIGHT_HEIGHT = 1.0
STEP_SECONDS = 0.008
HELD_UP = 0.0027
"""Radians that a step at 1 m is worth by height alone: of two clips without a turn the one that stands is a little better."""


def backflip_truth(item: Item) -> NDArray[np.float64]:
    """Return for every step the backward radians weighted by height, a little for height, and a bonus or a cost where a completed turn has landed."""
    scene = unpack(item.payload["scene"])
    angle, height = scene[:, ANGLE], scene[1:, HEIGHT]
    backward_T = -np.diff(angle)
    weight_T = ON_THE_GROUND + np.clip((height - LOWEST) / REACH, 0.0, 1.0)
    turns = np.floor(-angle / (2 * math.pi))
    completed_T = (np.diff(np.maximum.accumulate(turns)) > 0) & (height > UPRIGHT_HEIGHT)
    bonus_T = np.zeros(len(height))
    for step in np.flatnonzero(completed_T):
        began = int(np.argmax(angle[: step + 2] - angle[step + 1] < 2 * math.pi))
        end = min(int(step) + AFTER, len(height) - 1)
        if angle[began] - angle[step + 1] > math.pi and end - step >= SEEN:
            landed = scene[began : end + 2, HEIGHT].min() > LOWEST
            bonus_T[end] += LANDED if landed else -CRASHED
    return backward_T * weight_T + HELD_UP * height + bonus_T


def hand_written(item: Item) -> NDArray[np.float64]:
    """Return for every step a reward that an engineer wrote after some tries: backward speed weighted by height, and a little for height.

    Nobody is taught by it but the policy it is given to; it is the yardstick for what comparisons bring.
    """
    scene = unpack(item.payload["scene"])
    height = scene[1:, HEIGHT]
    speed_T = -np.diff(scene[:, ANGLE]) / STEP_SECONDS
    return 0.3 * speed_T * (0.3 + np.clip((height - 0.4) / 0.6, 0.0, 1.0)) + 0.1 * height
