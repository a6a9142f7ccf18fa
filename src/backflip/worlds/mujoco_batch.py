"""Many copies of one simulation, stepped by threads: `mj_step` lets other threads run while it computes.

Each copy has its own state and nothing is shared but the model, so the result does not depend on the number of
threads: a test compares it, to the bit, with Gymnasium's environments. Left out: what a step means (`control`).

Shapes: E environments, S numbers of a scene, A of an action.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backflip.errors import ConfigError, DataError
from backflip.worlds.mujoco_tasks import Array, Task, read_body, simulator


class MujocoBatch:
    """E simulations of one task."""

    discrete = False

    def __init__(self, task: Task, count: int, threads: int | None = None) -> None:
        """Make `count` simulations, stepped by `threads` threads (None: as many as there are processors)."""
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
        self.threads = min(count, threads or _processors())
        parts = np.array_split(np.arange(count), self.threads)
        self._parts = [part.tolist() for part in parts]
        self._views = [(one, one.ctrl, one.qpos, one.qvel) for one in self.data]
        self._pool = ThreadPoolExecutor(self.threads - 1) if self.threads > 1 else None

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

    def step(self, action_EA: NDArray[np.floating[Any]]) -> Array:
        """Take one decision in every environment and return the scenes, (E, S): a view that the next step overwrites."""
        if self._pool is None:
            self._advance(self._parts[0], action_EA)
            return self.scene_ES
        waiting = [self._pool.submit(self._advance, part, action_EA) for part in self._parts[1:]]
        self._advance(self._parts[0], action_EA)
        for one in waiting:
            one.result()
        return self.scene_ES

    def _advance(self, part: list[int], action_EA: NDArray[np.floating[Any]]) -> None:
        model, skip, step = self.model, self.task.frame_skip, self._step
        for place in part:
            data, ctrl, _, _ = self._views[place]
            ctrl[:] = action_EA[place]
            step(model, data, skip)
            if self._forces is not None:
                self._forces(model, data)
            self._look(place)

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

    def restore(self, state: Array) -> None:
        """Go on where `state` was taken.

        Raises:
            DataError: it is of another number of simulations, or of another task.
        """
        if state.shape != (self.count, self._size + self.scene_ES.shape[1]):
            raise DataError(
                f"the saved simulations are {state.shape}, this world has {(self.count, self._size + self.scene_ES.shape[1])}; "
                "resume with the task and the number of environments of the run"
            )
        for one, row in zip(self.data, state, strict=True):
            self._set(self.model, one, np.ascontiguousarray(row[: self._size]), self._kind)
            self._forward_keeping(one, row[: self._size])
        self.scene_ES[:] = state[:, self._size :]

    def origin(self, scene: Array) -> dict[str, Any]:
        """Return nothing: a scene is all that a clip is drawn and judged from."""
        return {}

    def remember(self, payload: Any) -> None:
        """Do nothing, for the same reason."""

    def _forward_keeping(self, data: Any, row: Array) -> None:
        """Compute what follows from the state, then set the state again: the solver's warm start is part of it."""
        self._forward(self.model, data)
        self._set(self.model, data, np.ascontiguousarray(row), self._kind)


def _processors() -> int:
    """Return how many processors this process may use, where the system says so."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
