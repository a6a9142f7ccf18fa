"""Players of Atari games that follow a rule: what clips are drawn from where no policy has learned yet.

A player looks at the last two pictures and, at each decision with a stated probability, slips: does something at random. So its log-probabilities
are exact, and mixtures of players spread the score: nobody who plays Enduro at random ever passes a car.
Left out: learning.

Shapes: B rows, T decisions, N pictures, A actions, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backflip.data import Act, Episodes, Evaluation
from backflip.errors import ConfigError

Rule = Callable[[NDArray[np.uint8]], NDArray[np.int64]]
"""From pairs of pictures that follow each other, (N, 2, 84, 84), to the action that the rule wants, (N,)."""
Array = NDArray[np.float64]


class ScriptedPlayer:
    """Does what a rule wants, and something at random with probability `slips`."""

    def __init__(self, rule: Rule, actions: int, slips: float) -> None:
        """Play with `actions` actions. Raises ConfigError where `slips` is no probability, or 0, which has no log-probabilities."""
        if not 0 < slips <= 1:
            raise ConfigError(f"a player that slips with probability {slips}; expected above 0 and at most 1")
        self.rule, self.actions, self.slips = rule, actions, slips

    def act(self, obs: Tensor, rng: np.random.Generator) -> Act:
        """Decide once for every row of obs, (B, some, H, W) uint8."""
        wanted_B = self.rule(obs[:, [max(0, obs.shape[1] - 2), -1]].numpy())
        rows = len(wanted_B)
        slipped_B, drawn_B = rng.random(rows) < self.slips, rng.integers(0, self.actions, rows)
        action_B = np.where(slipped_B, drawn_B, wanted_B)
        logp_B = np.log(self._probability(action_B == wanted_B))
        return Act(
            action=torch.from_numpy(action_B[:, None]),
            mask_BT=torch.ones(rows, 1, dtype=torch.bool),
            logp_BT=torch.from_numpy(logp_B[:, None].astype(np.float32)),
            ended_B=torch.zeros(rows, dtype=torch.bool),
        )

    def evaluate(self, episodes: Episodes) -> Evaluation:
        """Return log-probability and entropy of every decision; there are no parameters, so no gradients, and no value."""
        wanted_BT = self._wanted(episodes)
        logp_BT = np.log(self._probability(episodes.action.numpy() == wanted_BT))
        wish, other = self._probability(np.array([True, False]))
        entropy = -wish * np.log(wish) - (self.actions - 1) * other * np.log(other)
        zero = torch.zeros(())
        mask_BT = episodes.mask_BT
        return Evaluation(
            torch.where(mask_BT, torch.from_numpy(logp_BT.astype(np.float32)), zero),
            torch.where(mask_BT, torch.full(mask_BT.shape, float(entropy)), zero),
        )

    def kl_BT(self, reference: Any, episodes: Episodes) -> Tensor:
        """Return the KL to another player of the same game at every decision, nats."""
        mine_BTA, theirs_BTA = (player.probability_BTA(episodes) for player in (self, reference))
        kl_BT = (mine_BTA * (np.log(mine_BTA) - np.log(theirs_BTA))).sum(-1)
        return torch.where(episodes.mask_BT, torch.from_numpy(kl_BT.astype(np.float32)), torch.zeros(()))

    def probability_BTA(self, episodes: Episodes) -> Array:
        """Return the probability of every action at every decision."""
        return self._probability(np.arange(self.actions) == self._wanted(episodes)[..., None])

    def _probability(self, wished: NDArray[np.bool_]) -> Array:
        return self.slips / self.actions + (1 - self.slips) * wished.astype(np.float64)

    def _wanted(self, episodes: Episodes) -> NDArray[np.int64]:
        rows, steps = episodes.mask_BT.shape
        now = np.arange(steps)
        pairs = episodes.obs.numpy()[:, np.stack([np.maximum(now - 1, 0), now], axis=1)]
        return self.rule(pairs.reshape(rows * steps, *pairs.shape[2:])).reshape(rows, steps)


def do(action: int) -> Rule:
    """Return the rule that always wants the same."""
    return lambda frames: np.full(len(frames), action)


# -- Pong: the ball is the brightest thing between the paddles, ours is the right one -----------------------------------

PONG_UP, PONG_DOWN = 2, 3
FIELD, BETWEEN, OURS = slice(14, 77), slice(12, 73), slice(73, 76)
"""Lines of the field; columns between the paddles, and of ours."""
LINES, WIDE = 61.0, 61.0
"""How far the ball flies between the walls, and between the paddles."""
SLACK = 1.5
MOMENTUM = 0.5
"""The paddle goes on for half of what it moved."""


def meet_the_ball(aim: float) -> Rule:
    """Return the rule that brings the paddle `aim` lines above where the ball will arrive; without a ball it waits."""

    def rule(frames: NDArray[np.uint8]) -> NDArray[np.int64]:
        (y_0, x_0), (y, x) = (_centre(frames[:, k, FIELD, BETWEEN]) for k in (0, 1))
        (paddle_0, _), (paddle, _) = (_centre(frames[:, k, FIELD, OURS]) for k in (0, 1))
        speed = x - x_0
        comes = speed > 0.3
        arrives = y + (y - y_0) * (WIDE - x) / np.where(comes, speed, 1.0)
        folded = np.mod(arrives, 2 * LINES)  # the walls reflect it
        arrives = np.minimum(folded, 2 * LINES - folded)
        target = np.where(comes, arrives, np.where(np.isnan(y), np.nan, LINES / 2))
        gap = target - aim - paddle - MOMENTUM * (paddle - paddle_0)  # lines count downwards
        return np.where(gap > SLACK, PONG_DOWN, np.where(gap < -SLACK, PONG_UP, 0))

    return rule


def _centre(strip: NDArray[np.uint8]) -> tuple[Array, Array]:
    """Return the mean line and column of what is brighter than the ground; nan where nothing is."""
    bright = np.maximum(strip - np.median(strip, axis=(1, 2), keepdims=True) - 20.0, 0.0)
    total = bright.sum((1, 2))
    total[total == 0] = np.nan
    return bright.sum(2) @ np.arange(bright.shape[1]) / total, bright.sum(1) @ np.arange(bright.shape[2]) / total


# -- Enduro: our car is the biggest thing on the lowest lines of the road -----------------------------------------------

ENDURO_GO, ENDURO_RIGHT, ENDURO_LEFT = 1, 7, 8
LOWEST, CAR = slice(57, 62), 8
FIRST_COLUMN = 10
"""Columns before it are a frame round the picture."""


def drive(leeway: float) -> Rule:
    """Return the rule that goes as fast as it can and steers to within `leeway` columns of the road's middle; it sees no other car."""

    def rule(frames: NDArray[np.uint8]) -> NDArray[np.int64]:
        band = frames[:, 1, LOWEST, FIRST_COLUMN:].astype(np.float64)
        off_ground = np.abs(band - np.median(band, axis=(1, 2), keepdims=True))
        seen = off_ground.max(1) > 15
        columns = seen.shape[1]
        edges = np.where(seen.any(1), seen.argmax(1) + columns - 1 - seen[:, ::-1].argmax(1), columns)
        sums = np.cumsum(np.pad(off_ground.sum(1), ((0, 0), (1, 0))), axis=1)
        car = (sums[:, CAR:] - sums[:, :-CAR]).argmax(1) + (CAR - 1) / 2
        gap = car - edges / 2
        return np.where(gap > leeway, ENDURO_LEFT, np.where(gap < -leeway, ENDURO_RIGHT, ENDURO_GO))

    return rule


def players(rom: str, actions: int) -> dict[str, ScriptedPlayer]:
    """Return the players from whom clips of a game are drawn, by what they do.

    Raises:
        ConfigError: nobody has written down how that game is played.
    """
    if rom not in _PLAYED:
        raise ConfigError(f"no players of {rom} are written down; expected one of {', '.join(_PLAYED)}")
    return {name: ScriptedPlayer(rule, actions, slips) for name, (rule, slips) in _PLAYED[rom].items()}


_PLAYED: Mapping[str, Mapping[str, tuple[Rule, float]]] = {
    "pong": {
        "random": (do(0), 1.0),
        "meets the ball with its lower end": (meet_the_ball(2.0), 0.3),
        "meets the ball with its upper end": (meet_the_ball(-2.5), 0.2),
        "meets the ball": (meet_the_ball(0.0), 0.02),
    },
    "enduro": {
        "random": (do(0), 1.0),
        "half the time full speed": (do(ENDURO_GO), 0.5),
        "full speed": (do(ENDURO_GO), 0.1),
        "full speed on the road": (drive(4.0), 0.05),
    },
}
"""Rule, and how often it slips."""
