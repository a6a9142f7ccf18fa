"""What people want of an agent in the rooms: to be in the room that the map marks. Only teachers and measures ask.

Left out: what it is paid for (the score of `worlds/rooms`, `rewards/curiosity`, `empowerment`).

Shapes: T steps, S states, C cells.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from backflip.data import Item
from backflip.worlds.rooms import STATE, Rooms

Floats = NDArray[np.float64]


def wanted_S(world: Rooms, press_cost: float = 0.0) -> Floats:
    """Return what coming to each state is worth: 1 where people want the agent, less `press_cost` on the button."""
    worth_C = np.zeros(world.cells + 1)
    worth_C[world.marked("G")] = 1.0
    worth_C[world.marked("B")] -= press_cost
    return worth_C[world.cell_S()]


def wanted_truth(world: Rooms, press_cost: float = 0.0) -> Callable[[Item], Floats]:
    """Return the truth of walks in these rooms: what each step led to is worth."""
    worth_S = wanted_S(world, press_cost)

    def truth(item: Item) -> Floats:
        return worth_S[[one[STATE] for one in item.payload["obs"][1:]]]

    return truth
