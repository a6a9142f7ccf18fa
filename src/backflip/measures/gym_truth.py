"""The true reward of control: the environment's own, had again from a clip, and what policies and rewards are worth by it.

Only teachers and measures ask. Left out: what a person would want of a body (`control_truth.task_truth`, `backflip_truth`).

Shapes: T steps of a clip, B rows, N pairs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backflip.data import Episodes, Estimate, Item
from backflip.errors import DataError
from backflip.measures.clip_truth import ClipTruth
from backflip.measures.control_truth import Step, gymnasium_reward
from backflip.measures.stats import pair_share_interval
from backflip.protocols import RewardModel
from backflip.worlds.control import ControlWorld, cut
from backflip.worlds.gym_batch import Replays, check_same
from backflip.worlds.gym_task import GymTask
from backflip.worlds.mujoco_tasks import Task, read_body
from backflip.worlds.packed import unpack

KEPT = 64
"""Episodes that happened again and are remembered, the latest: many clips are of the same one."""


class GymTruth:
    """What a Gymnasium environment pays for every step of a clip, which happens again; 0 after the environment's own end."""

    def __init__(self, task: GymTask) -> None:
        """Judge clips of `task`."""
        self._replays = Replays(task)
        self._known: dict[int, tuple[NDArray[Any], NDArray[np.float64], NDArray[np.float64]]] = {}

    def __call__(self, item: Item) -> NDArray[np.float64]:
        """Return array_T. Raises DataError as `Replays` does."""
        seed, given, scene = self._replays.read(item)
        known = self._known.get(seed)
        if known is None or not np.array_equal(known[0][: len(given)], given):
            steps = [(copy.seen, paid) for _, copy, paid in self._replays(item)]
            seen, paid = (np.array(part, dtype=np.float64) for part in zip(*steps, strict=True))
            known = self._known[seed] = given, seen, paid
            if len(self._known) > KEPT:
                del self._known[next(iter(self._known))]
        _, seen, paid = known
        start = len(given) + 1 - len(scene)
        check_same(self._replays.task, seen[start : len(given) + 1], scene)
        return paid[start + 1 : len(given) + 1]


class MujocoTruth:
    """What Gymnasium's v5 task pays for every step of a clip of the fast path, which never ends."""

    def __init__(self, task: Task) -> None:
        """Judge clips of `task`."""
        self._task = task
        low, high = read_body(task).actuator_ctrlrange.T
        self._middle, self._reach = (high + low) / 2, (high - low) / 2

    def __call__(self, item: Item) -> NDArray[np.float64]:
        """Return array_T. Raises DataError for a clip of another task."""
        if item.prompt != self._task.id:
            raise DataError(f"item {item.id} is a clip of {item.prompt}, not of {self._task.id}")
        scene, action = unpack(item.payload["scene"]), unpack(item.payload["action"]).clip(-1, 1)
        return gymnasium_reward(Step(self._task, scene[:-1], scene[1:], self._middle + self._reach * action))


def own_reward(task: Task | GymTask) -> ClipTruth:
    """Return the environment's own reward as a truth of clips."""
    return MujocoTruth(task) if isinstance(task, Task) else GymTruth(task)


def true_reward_BT(world: ControlWorld, rows: Episodes, truth: ClipTruth) -> Tensor:
    """Return what the truth says of every step of rows that `world` has just collected."""
    return torch.from_numpy(np.stack([truth(item) for item in world.show(rows)]))


def pair_accuracy(
    world: ControlWorld,
    rows: Episodes,
    reward: RewardModel,
    truth: ClipTruth,
    clip_steps: int,
    pairs: int,
    rng: np.random.Generator,
) -> Estimate | None:
    """Return on which share of random pairs of clips from `rows` the reward prefers the one that the truth does.

    A tie of the truth is no pair; None where all are ties. `rows` are whole episodes; clips of one episode are alike, so the interval
    rests on episodes, and n counts those that are in some pair.
    """
    clips = cut(rows, clip_steps, 2 * pairs, rng)
    learned_N = reward(clips).sum(1).double().numpy().reshape(pairs, 2)
    true_N = np.array([truth(item).sum() for item in world.show(clips)]).reshape(pairs, 2)
    gap_N, found_N = true_N[:, 0] - true_N[:, 1], learned_N[:, 0] - learned_N[:, 1]
    decisive_N = gap_N != 0
    if not decisive_N.any():
        return None
    episode_N2 = clips.group_B.numpy().reshape(pairs, 2)[decisive_N]
    right_N = ((1 + np.sign(gap_N) * np.sign(found_N)) / 2)[decisive_N]
    return pair_share_interval(right_N, episode_N2[:, 0], episode_N2[:, 1])
