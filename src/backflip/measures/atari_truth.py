"""The points of Atari clips: what the synthetic teacher compares, and what learned rewards are measured against.

An item holds no score. Games are played again from their seeds and actions, each once however many clips are from it.
Left out: the penalty at a game's end that the teacher of Christiano et al. (2017, A.2) gives; an end has no points here.

Shapes: T decisions of a clip, N clips.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from backflip.data import Estimate, Item
from backflip.errors import DataError
from backflip.measures.clip_truth import ClipTruth
from backflip.measures.stats import Z_95, finite
from backflip.worlds.atari import games_of
from backflip.worlds.atari_games import Console, Game
from backflip.worlds.control import unpack


class AtariTruth:
    """Points gained at every decision of a clip."""

    def __init__(self, game: Game) -> None:
        """Keep the score of one game."""
        self._game = game
        self._replays: dict[tuple[int, float], _Replay] = {}

    def __call__(self, item: Item) -> NDArray[np.float64]:
        """Return the points of every decision."""
        scene, sticky = unpack(item.payload["scene"]), float(item.payload["sticky"])
        points: dict[int, list[float]] = {}
        for seed, _ in games_of(scene):
            actions = unpack(item.payload["played"][str(seed)]).tolist()
            replay = self._replays.get((seed, sticky))
            if replay is None or not replay.leads_to(actions):
                replay = self._replays[seed, sticky] = _Replay(self._game, seed, sticky)
            points[seed] = replay.go_on(actions)
        return np.array([points[seed][made] for seed, made in scene[:-1].tolist()], dtype=np.float64)


class _Replay:
    """A game that is played again as far as anybody has asked."""

    def __init__(self, game: Game, seed: int, sticky: float) -> None:
        self._console = Console(game, 1, sticky=sticky, threads=1)
        self._console.begin(np.ones(1, dtype=bool), np.array([seed]))
        self._actions: list[int] = []
        self._points: list[float] = []

    def leads_to(self, actions: list[int]) -> bool:
        """Return whether nothing else was done so far."""
        shared = min(len(actions), len(self._actions))
        return actions[:shared] == self._actions[:shared]

    def go_on(self, actions: list[int]) -> list[float]:
        """Play what is new, and return the points of every action so far."""
        for action in actions[len(self._actions) :]:
            self._actions.append(action)
            self._points.append(float(self._console.step(np.array([action]))[1][0]))
        return self._points


def points_of(truth: ClipTruth, items: Sequence[Item]) -> NDArray[np.float64]:
    """Return the points gained in each clip."""
    return np.array([truth(item).sum() for item in items], dtype=np.float64)


def clip_correlation(predicted_N: ArrayLike, true_N: ArrayLike) -> Estimate:
    """Return Pearson's correlation over clips with Fisher's interval, as if clips were independent.

    Raises:
        DataError: the lengths differ, there are fewer than four, or one side is constant.
    """
    predicted, true = finite(predicted_N, "predicted scores"), finite(true_N, "true scores")
    if len(predicted) != len(true) or len(true) < 4:
        raise DataError(f"{len(predicted)} predicted scores for {len(true)} true ones; expected as many, at least four")
    if predicted.std() == 0 or true.std() == 0:
        raise DataError("all clips have the same score, so nothing can go with it; collect clips that differ")
    value = float(np.corrcoef(predicted, true)[0, 1])
    centre, reach = math.atanh(min(max(value, -1 + 1e-12), 1 - 1e-12)), Z_95 / math.sqrt(len(true) - 3)
    return Estimate(value, math.tanh(centre - reach), math.tanh(centre + reach), len(true))
