"""What `ControlWorld` needs of whatever it simulates: a subject, and many copies of it that step together.

Two pairs have it: `Task` and `MujocoBatch` (the fast path), `GymTask` and `GymBatch` (any Gymnasium environment).

Shapes: E environments, C of a crew, S numbers of a scene, A numbers of an action, L states of a clip.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from backflip.worlds.mujoco_tasks import Array

EVERYBODY = slice(None)


class Subject(Protocol):
    """What is simulated, and what of it is seen."""

    @property
    def id(self) -> str:
        """Name; clips carry it, and a world loads only clips of its own."""
        ...

    @property
    def horizon(self) -> int:
        """Steps of an episode, always."""
        ...

    @property
    def seconds_a_step(self) -> float:
        """How long a decision lasts."""
        ...

    def features(self, scene: Array) -> NDArray[np.float32]:
        """Return what policies and reward models read of scenes."""
        ...


class Simulations(Protocol):
    """E copies of a subject."""

    count: int
    low_A: Array
    high_A: Array
    """What actions from -1 to 1 are scaled to."""
    discrete: bool
    """Whether an action is a choice: one number for each that is possible, 1 at the one taken and 0 elsewhere."""
    scene_ES: Array
    """What the last step or reset left."""
    crews: list[slice]
    """Environments that act together; crews need not wait for each other. Depends on their number alone."""

    def reset(self, which: list[int], rng: np.random.Generator) -> None:
        """Begin new episodes in the environments `which`."""
        ...

    def step(self, action_CA: NDArray[np.floating[Any]], crew: slice = EVERYBODY) -> Array:
        """Take one decision in every environment of a crew and return their scenes, (C, S): a view that the next step overwrites."""
        ...

    def state(self) -> Array:
        """Return all that the future depends on."""
        ...

    def restore(self, state: Array, crew: slice = EVERYBODY) -> None:
        """Let a crew go on where its rows of `state` were taken."""
        ...

    def origin(self, scene: Array) -> dict[str, Any]:
        """Return what the item of a clip with this scene, (L, S), must hold besides so that it can be seen again; JSON-able."""
        ...

    def remember(self, payload: Any) -> None:
        """Take from an item what `origin` put there, so that a clip which was loaded can be shown again."""
        ...
