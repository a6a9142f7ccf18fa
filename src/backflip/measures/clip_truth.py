"""The truth of clips: kept in the store for the teacher, and what a learned reward is worth beside it.

Left out: what is true (each task's own file).

Shapes: B rows, T steps, N steps of all rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from backflip.data import Episodes, Item
from backflip.errors import DataError
from backflip.store import Store
from backflip.truth import GuardedTruth, StoredTruth
from backflip.worlds.control import pack

ClipTruth = Callable[[Item], NDArray[np.float64]]


def kept_truth(truth: ClipTruth, store: Store, name: str) -> StoredTruth:
    """Return a truth that only teachers and measures may ask, and whose values are kept in the store."""
    return StoredTruth(GuardedTruth(truth), store, name)


def correlation_with_truth(reward_BT: Tensor, episodes: Episodes, truth: ClipTruth) -> float:
    """Return Pearson's correlation of reward and truth over the rows' steps; 0 where either is constant."""
    if episodes.scene is None:
        return 0.0
    return correlation(reward_BT.numpy(), worth_of_steps(episodes, truth))


def worth_of_steps(episodes: Episodes, truth: ClipTruth) -> NDArray[np.float64]:
    """Return what every step of the rows is worth by a truth that reads scenes alone, (B, T).

    Raises:
        DataError: the rows carry no scene.
    """
    if episodes.scene is None:
        raise DataError("these rows carry no scene, so nobody can say what they are worth; collect them in a world")
    items = [Item("", "", {"scene": pack(scene)}, media="clip") for scene in episodes.scene.numpy()]
    return np.stack([truth(item) for item in items])


def correlation(learned: NDArray[np.floating[Any]], true: NDArray[np.floating[Any]]) -> float:
    """Return Pearson's correlation of two arrays of one shape; 0 where either is constant."""
    both = np.stack([learned.ravel(), true.ravel()]).astype(np.float64)
    return float(np.corrcoef(both[0], both[1])[0, 1]) if bool(np.all(both.std(1) > 0)) else 0.0
