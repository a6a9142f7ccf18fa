"""Many copies of one simulation, in crews that can go on side by side.

Each copy has its own state and nothing is shared but the model: a test compares it, to the bit, with Gymnasium's environments.
Left out: what a step means (`control`), and who takes it (`crews`).

Shapes: E environments, C of a crew, S numbers of a scene, A of an action.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backflip.errors import ConfigError, DataError
from backflip.worlds.mujoco_tasks import Array, Task, read_body, simulator
from backflip.worlds.simulated import EVERYBODY

CREW = 8
"""Environments of a crew at most; there are at least two crews, and an even number."""


class MujocoBatch:
    """E simulations of one task."""

    discrete = False

    def __init__(self, task: Task, count: int) -> None:
        """Make `count` simulations."""
        if count < 1:
            raise ConfigError(f"a batch of {count} simulations; expected 1 or more")
        mujoco, _ = simulator(task)
        self.task, self.count = task, count
        self.model: Any = read_body(task)
        self.low_A, self.high_A = self.model.actuator_ctrlrange.T.copy()
        self.data: list[Any] = [mujoco.MjData(self.model) for _ in range(count)]
        self._step, self._forward, self._reset = mujoco.mj_step, mujoco.mj_forward, mujoco.mj_resetData
        self._forces = mujoco.mj_rnePostConstraint if task.id == "Ant-v5" else None
        self._kind: int = mujoco.mjtState.mjSTATE_INTEGRATION
        self._size: int = mujoco.mj_stateSize(self.model, self._kind)
        self._get, self._set = mujoco.mj_getState, mujoco.mj_setState
        extra = 0 if task.extra is None else len(task.extra(self.data[0]))
        self.scene_ES: Array = np.zeros((count, task.nq + task.nv + extra))
        """What the last step or reset left."""
        crews = np.array_split(np.arange(count), min(count, 2 * math.ceil(count / (2 * CREW))))
        self.crews = [slice(int(crew[0]), int(crew[-1]) + 1) for crew in crews]
        self._views = [(one, one.ctrl, one.qpos, one.qvel) for one in self.data]

    def reset(self, which: list[int], rng: np.random.Generator) -> None:
        """Begin new episodes in the environments `which`."""
        for place in which:
            qpos, qvel = self.task.first_state(self.model, rng)
            self.place(place, qpos, qvel)

    def place(self, place: int, qpos: Array, qvel: Array) -> None:
        """Begin an episode in one environment with given positions and velocities."""
        data = self.data[place]
        self._reset(self.model, data)
        data.qpos[:], data.qvel[:] = qpos, qvel
        self._forward(self.model, data)
        self._look(place)

    def step(self, action_CA: NDArray[np.floating[Any]], crew: slice = EVERYBODY) -> Array:
        """Take one decision in every environment of a crew and return their scenes, (C, S): a view that the next step overwrites."""
        model, skip, step = self.model, self.task.frame_skip, self._step
        for place, action_A in zip(range(self.count)[crew], action_CA, strict=True):
            data, ctrl, _, _ = self._views[place]
            ctrl[:] = action_A
            step(model, data, skip)
            if self._forces is not None:
                self._forces(model, data)
            self._look(place)
        return self.scene_ES[crew]

    def _look(self, place: int) -> None:
        data, _, qpos, qvel = self._views[place]
        nq, end = self.task.nq, self.task.nq + self.task.nv
        self.scene_ES[place, :nq], self.scene_ES[place, nq:end] = qpos, qvel
        if self.task.extra is not None:
            self.scene_ES[place, end:] = self.task.extra(data)

    def state(self) -> Array:
        """Return all that the simulations' future depends on, and their scenes: (E, whole + S)."""
        found = np.zeros((self.count, self._size))
        for one, row in zip(self.data, found, strict=True):
            self._get(self.model, one, row, self._kind)
        return np.concatenate([found, self.scene_ES], axis=1)

    def restore(self, state: Array, crew: slice = EVERYBODY) -> None:
        """Let a crew go on where its rows of `state` were taken.

        Raises:
            DataError: it is of another number of simulations, or of another task.
        """
        data = self.data[crew]
        if state.shape != (len(data), self._size + self.scene_ES.shape[1]):
            raise DataError(
                f"the saved simulations are {state.shape}, this world has {(len(data), self._size + self.scene_ES.shape[1])}; "
                "resume with the task and the number of environments of the run"
            )
        for one, row in zip(data, state, strict=True):
            self._set(self.model, one, np.ascontiguousarray(row[: self._size]), self._kind)
            self._forward_keeping(one, row[: self._size])
        self.scene_ES[crew] = state[:, self._size :]

    def origin(self, scene: Array) -> dict[str, Any]:
        """Return nothing: a scene is all that a clip is drawn and judged from."""
        return {}

    def remember(self, payload: Any) -> None:
        """Do nothing, for the same reason."""

    def _forward_keeping(self, data: Any, row: Array) -> None:
        """Compute what follows from the state, then set the state again: the solver's warm start is part of it."""
        self._forward(self.model, data)
        self._set(self.model, data, np.ascontiguousarray(row), self._kind)
