"""Rewards that need no learning: a plain Python function, and a weighted sum whose parts are reported apart.

Shapes: B rows, T decisions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from backflip.data import Episodes
from backflip.errors import ConfigError, DataError, FunctionFailed
from backflip.protocols import RewardModel, World
from backflip.rewards.model import on_last_decision


class FunctionReward:
    """A function `(prompt, answer) -> score` as a reward model; the score stands on the last decision."""

    def __init__(self, function: Callable[[str, str], float | None], world: World, name: str | None = None) -> None:
        """Score what `world` shows of each row by `function`, as it is: nothing is normalised. Errors call it `name`."""
        self._function, self._world = function, world
        self._name = name or getattr(function, "__name__", type(function).__name__)

    def __call__(self, episodes: Episodes) -> Tensor:
        """Return reward_BT.

        Raises:
            FunctionFailed: the function raised, returned None (it could not score) or no finite number; the row is named.
        """
        scores: list[float] = []
        for row, item in enumerate(self._world.show(episodes)):
            try:
                score = self._function(item.prompt, item.content)
            except (Exception, SystemExit) as error:
                raise FunctionFailed(
                    f"the reward {self._name} failed on row {row}, {item.content[:80]!r} ({type(error).__name__}: {error})"
                ) from error
            if not isinstance(score, Real) or not math.isfinite(score):
                raise FunctionFailed(
                    f"the reward {self._name} gave {score!r} for row {row}, {item.content[:80]!r}; expected a finite number, since an "
                    "optimiser cannot leave a row out: decide in the function what such an answer is worth"
                )
            scores.append(float(score))
        return on_last_decision(torch.tensor(scores, device=episodes.mask_BT.device), episodes)


@runtime_checkable
class _Explained(Protocol):
    """A reward with statistics of its own."""

    def scored(self, episodes: Episodes) -> tuple[Tensor, dict[str, float]]: ...


class WeightedRewards:
    """A weighted sum of named rewards."""

    def __init__(self, parts: Mapping[str, tuple[float, RewardModel]]) -> None:
        """Add up `parts`, each a weight and a reward.

        Raises:
            ConfigError: there are none, or a weight is not finite.
        """
        if not parts or not all(math.isfinite(weight) for weight, _ in parts.values()):
            raise ConfigError(f"rewards {dict.fromkeys(parts)} need at least one part, and finite weights")
        self._parts = dict(parts)

    def __call__(self, episodes: Episodes) -> Tensor:
        """Return the weighted sum of the parts' reward_BT."""
        return self.scored(episodes)[0]

    def scored(self, episodes: Episodes) -> tuple[Tensor, dict[str, float]]:
        """Return the weighted sum, and each part's unweighted mean and standard deviation over rows.

        Statistics are named `reward_NAME_mean` and `reward_NAME_std`, and those that a part has of its own `reward_NAME_...`.
        """
        total_BT = torch.zeros(episodes.mask_BT.shape, device=episodes.mask_BT.device)
        stats: dict[str, float] = {}
        for name, (weight, reward) in self._parts.items():
            reward_BT, extra = reward.scored(episodes) if isinstance(reward, _Explained) else (reward(episodes), {})
            reward_BT = reward_BT.to(total_BT.device)
            if reward_BT.shape != total_BT.shape:
                raise DataError(
                    f"reward {name} has shape {tuple(reward_BT.shape)}, expected {tuple(total_BT.shape)} as the episodes"
                )
            total_BT = total_BT + weight * reward_BT
            score_B = reward_BT.sum(1)
            stats[f"reward_{name}_mean"] = float(score_B.mean())
            stats[f"reward_{name}_std"] = float(score_B.std(correction=0))
            stats |= {f"reward_{name}_{what}": value for what, value in extra.items()}
        return total_BT, stats
