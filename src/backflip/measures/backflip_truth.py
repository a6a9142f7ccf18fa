"""What the synthetic overseer of the backflip wants: how far and how high a Hopper turned backwards. Only it asks.

Left out: how complete somersaults are counted at the end (`somersaults`), which shares nothing with this.

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
LANDED = 6.0
"""Radians that a completed turn is worth besides. It is one only where the clip shows half of it at least (leaning back and forth
through the upright is no turn), and where the torso stayed above `LOWEST` all that time: over its head on the ground is none either."""
UPRIGHT_HEIGHT = 1.0
HELD_UP = 0.0027
"""Radians that a step at 1 m is worth by height alone: of two clips without a turn the one that stands is a little better."""


def backflip_truth(item: Item) -> NDArray[np.float64]:
    """Return for every step the backward radians weighted by height, a little for height, and a bonus where a turn is completed high up."""
    scene = unpack(item.payload["scene"])
    angle, height = scene[:, ANGLE], scene[1:, HEIGHT]
    backward_T = -np.diff(angle)
    weight_T = ON_THE_GROUND + np.clip((height - LOWEST) / REACH, 0.0, 1.0)
    turns = np.floor(-angle / (2 * math.pi))
    completed_T = np.clip(np.diff(np.maximum.accumulate(turns)), 0, None) * (height > UPRIGHT_HEIGHT)
    for step in np.flatnonzero(completed_T):
        began = int(np.argmax(angle[: step + 2] - angle[step + 1] < 2 * math.pi))
        half = angle[began] - angle[step + 1] > math.pi
        completed_T[step] *= half and scene[began : step + 2, HEIGHT].min() > LOWEST
    return backward_T * weight_T + HELD_UP * height + LANDED * completed_T
