"""The world of control: one environment in many copies at once, rows of equal length, episodes of one fixed horizon.

Episodes never end early and every row goes on in the critic's value: an end would tell the learner what nobody said
(Christiano et al. 2017, A.1). Nothing here computes a reward. A row's `scene` is what clips are drawn and judged from.
Left out: what is simulated (`mujoco_tasks`, `gym_task`), stepping it (`mujoco_batch`, `gym_batch`), pictures (`clips`).

Shapes: E environments, B rows, T steps, F features, A numbers of an action, S numbers of a scene, C clips,
K pieces of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from backflip.data import Episodes, Item, concat
from backflip.errors import ConfigError, DataError
from backflip.protocols import Policy
from backflip.worlds.crews import Crews, concat_rows, controls
from backflip.worlds.gym_batch import GymBatch
from backflip.worlds.gym_task import GymTask
from backflip.worlds.mujoco_batch import MujocoBatch
from backflip.worlds.mujoco_tasks import Task, find_task
from backflip.worlds.packed import pack, unpack
from backflip.worlds.simulated import Simulations, Subject

__all__ = ["ControlWorld", "cut", "pack", "pieces", "unpack"]


class ControlWorld:
    """A task, MuJoCo's or Gymnasium's; `collect` goes on where the last one stopped."""

    def __init__(
        self,
        task: str | Task | GymTask,
        *,
        environments: int,
        steps: int,
        seed: int = 0,
        horizons: Sequence[int] = (),
        processes: int | None = None,
    ) -> None:
        """Start `environments` simulations of a task, or of the fast one with that id; a row has `steps` decisions, and rows fill the horizon without a rest.

        `horizons` are given to the environments in turn; none: the task's own. Every one is fixed, so an end says nothing. `processes`
        simulate, this one among them; None: one for every processor. What comes out does not depend on their number. Raises
        ConfigError for an unknown task, or steps that do not divide a horizon.
        """
        self.task: Subject = find_task(task) if isinstance(task, str) else task
        for horizon in horizons or (self.task.horizon,):
            if steps < 1 or horizon < 1 or horizon % steps:
                raise ConfigError(
                    f"rows of {steps} steps would cross the end of an episode of {horizon}; expected a divisor of it"
                )
        self.steps = steps
        self.batch = _simulate(self.task, environments)
        self.crews = Crews(self.task, self.batch, processes)
        self.discrete = self.batch.discrete
        self.control_of = controls(self.batch)
        self.features = len(self.task.features(self.batch.scene_ES)[0])
        self.actions = len(self.batch.low_A)
        self.starts = np.random.default_rng([seed, 0])
        self.rows = 0
        self.at = np.zeros(environments, dtype=np.int64)
        # Environments begin at unlike times of an episode, so that no batch holds beginnings alone.
        self.horizon_E = np.resize(np.array(horizons or [self.task.horizon], dtype=np.int64), environments)

    # -- the World protocol ------------------------------------------------------------------------------------------

    def collect(self, policy: Policy, n: int, rng: np.random.Generator) -> Episodes:
        """Return a row of `steps` decisions from every environment; n must be a multiple of their number.

        Raises:
            ConfigError: n is no multiple of the environments.
            DataError: an observation is not finite.
        """
        count = self.batch.count
        if n < 1 or n % count:
            raise ConfigError(f"{n} rows from {count} environments; expected a multiple")
        parts = [self._rows(policy, rng) for _ in range(n // count)]
        return concat(parts)

    def show(self, episodes: Episodes) -> list[Item]:
        """Return one clip a row, from which `load` makes the row again.

        Raises:
            DataError: the rows carry no scene.
        """
        if episodes.scene is None:
            raise DataError("these rows carry no scene, so nobody can be shown what happened; collect them in a world")
        words = f"{episodes.mask_BT.shape[1]} steps of {self.task.id}"
        return [
            Item(
                self.task.id,
                words,
                {"action": pack(action), "scene": pack(scene), **self.batch.origin(scene)},
                media="clip",
            )
            for action, scene in zip(episodes.action.numpy(), episodes.scene.numpy(), strict=True)
        ]

    def load(self, items: Sequence[Item]) -> Episodes:
        """Rebuild rows of equal length from clips, without log-probabilities.

        Raises:
            DataError: there are none, one is no clip of this task, or their lengths differ.
        """
        if not items:
            raise DataError("no items to load; expected at least one")
        actions, scenes = zip(*(self._arrays(item) for item in items), strict=True)
        if len({one.shape for one in actions}) > 1:
            raise DataError(f"clips of {sorted({len(one) for one in actions})} steps in one load; expected one length")
        scene, action = np.stack(scenes), np.stack(actions)
        return Episodes(
            obs=torch.from_numpy(self.task.features(scene)),
            action=torch.from_numpy(action),
            mask_BT=torch.ones(action.shape[:2], dtype=torch.bool),
            logp_BT=None,
            bootstrap_B=torch.zeros(len(items)),
            group_B=torch.arange(len(items)),
            scene=torch.from_numpy(scene),
            item_B=tuple(item.id for item in items),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return all that `collect` depends on."""
        return {
            "task": self.task.id,
            "steps": self.steps,
            "horizons": self.horizon_E.tolist(),
            "rows": self.rows,
            "at": self.at.tolist(),
            "starts": self.starts.bit_generator.state,
            "simulations": pack(self.batch.state()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken. Raises DataError when it was taken in another world."""
        saved = (state["task"], state["steps"])
        if saved != (self.task.id, self.steps):
            raise DataError(
                f"the saved world is {saved[0]} in rows of {saved[1]}, this one {self.task.id} in rows of {self.steps}"
            )
        self.horizon_E = np.array(state["horizons"], dtype=np.int64)
        self.rows, self.at = int(state["rows"]), np.array(state["at"], dtype=np.int64)
        self.starts.bit_generator.state = state["starts"]
        self.batch.restore(unpack(state["simulations"]))

    # -- rows --------------------------------------------------------------------------------------------------------

    def _rows(self, policy: Policy, rng: np.random.Generator) -> Episodes:
        count, steps = self.batch.count, self.steps
        self._begin()
        found = concat_rows(self.crews.rows(policy, steps, rng))
        obs = found.obs
        if not np.isfinite(obs).all():
            row = int((~np.isfinite(obs)).any((1, 2)).argmax())
            raise DataError(
                f"environment {row} of {self.task.id} gave an observation that is not finite; lower the actions' size"
            )
        self.at += steps
        self.rows += count
        last = policy.act(torch.from_numpy(obs[:, -1:]), np.random.default_rng(0)).value_BT
        return Episodes(
            obs=torch.from_numpy(obs),
            action=torch.from_numpy(found.action),
            mask_BT=torch.ones(count, steps, dtype=torch.bool),
            logp_BT=torch.from_numpy(found.logp),
            bootstrap_B=torch.zeros(count) if last is None else last[:, 0].clone(),
            group_B=torch.arange(self.rows - count, self.rows),
            value_BT=None if last is None else torch.from_numpy(found.value),
            scene=torch.from_numpy(found.scene),
        )

    def _begin(self) -> None:
        """Begin an episode where one is over; the very first ones as if some had begun earlier."""
        over = np.flatnonzero((self.at >= self.horizon_E) | (self.rows == 0))
        if len(over):
            self.batch.reset(over.tolist(), self.starts)
            self.at[over] = 0
        if self.rows == 0:
            self.at[:] = np.arange(self.batch.count) % (self.horizon_E // self.steps) * self.steps

    def _arrays(self, item: Item) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        if item.media != "clip" or item.prompt != self.task.id or not {"action", "scene"} <= set(item.payload):
            raise DataError(f"item {item.id} is no clip of {self.task.id}; expected one that `show` made")
        self.batch.remember(item.payload)
        return unpack(item.payload["action"]).astype(np.float32), unpack(item.payload["scene"])


def _simulate(task: Subject, count: int) -> Simulations:
    if isinstance(task, Task):
        return MujocoBatch(task, count)
    if isinstance(task, GymTask):
        return GymBatch(task, count)
    raise ConfigError(f"a world of {type(task).__name__}; expected a Task of mujoco_tasks, or what gym_task returns")


def cut(episodes: Episodes, steps: int, count: int, rng: np.random.Generator) -> Episodes:
    """Return `count` clips of `steps` decisions from rows, every place where one can begin being as likely; nothing is padded.

    A clip has its row's group.

    Raises:
        DataError: no row is that long.
    """
    rows, length = episodes.mask_BT.shape
    if length < steps:
        raise DataError(f"a clip of {steps} steps from rows of {length}; take shorter clips or longer rows")
    row_C = rng.integers(0, rows, count)
    start_C = rng.integers(0, length - steps + 1, count)
    at_CT = torch.from_numpy(start_C)[:, None] + torch.arange(steps)
    with_last = torch.from_numpy(start_C)[:, None] + torch.arange(steps + 1)
    row_C1 = torch.from_numpy(row_C)[:, None]
    scene = episodes.scene
    return Episodes(
        obs=episodes.obs[row_C1, with_last],
        action=episodes.action[row_C1, at_CT],
        mask_BT=episodes.mask_BT[row_C1, at_CT],
        logp_BT=None,
        bootstrap_B=torch.zeros(count),
        group_B=episodes.group_B[torch.from_numpy(row_C)],
        scene=None if scene is None else scene[row_C1, with_last],
    )


def pieces(episodes: Episodes, steps: int) -> Episodes:
    """Return rows as more rows of `steps` decisions each, so that minibatches mix; a piece goes on in the value of what follows.

    Raises:
        ConfigError: `steps` does not divide the rows.
        DataError: the rows carry no values.
    """
    rows, length = episodes.mask_BT.shape
    if length % steps:
        raise ConfigError(f"rows of {length} steps cannot be cut into pieces of {steps}; expected a divisor")
    if episodes.value_BT is None:
        raise DataError(
            "rows without values cannot be cut into pieces: nobody knows what a piece would have gone on to"
        )
    count = length // steps
    after_BK = torch.cat([episodes.value_BT[:, steps::steps], episodes.bootstrap_B[:, None]], dim=1)
    starts = torch.arange(count) * steps
    with_last = starts[:, None] + torch.arange(steps + 1)

    def cut_up(value: torch.Tensor | None) -> torch.Tensor | None:
        return None if value is None else value.reshape(rows * count, steps, *value.shape[2:])

    obs = episodes.obs[:, with_last]
    return Episodes(
        obs=obs.reshape(rows * count, steps + 1, *obs.shape[3:]),
        action=episodes.action.reshape(rows * count, steps, *episodes.action.shape[2:]),
        mask_BT=episodes.mask_BT.reshape(rows * count, steps),
        logp_BT=cut_up(episodes.logp_BT),
        bootstrap_B=after_BK.reshape(rows * count),
        group_B=episodes.group_B.repeat_interleave(count),
        value_BT=cut_up(episodes.value_BT),
    )
