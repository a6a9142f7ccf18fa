"""Curiosity as a reward model: pay for what is new, by counting, by the error of a forward model, or by disagreement of several.

Each scores episodes as it stands (`reward(rows)`) and learns from them afterwards (`reward.learn(rows, rng)`), so a bonus fades where
one has been. Left out: any reward from outside.

Shapes: M members, B rows, T steps, N transitions, F features of an observation, A actions, D numbers of a learned feature,
I inputs and O outputs of a layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot, relu

from backflip.data import Episodes
from backflip.errors import ConfigError, DataError
from backflip.worlds.rooms import STATE, Rooms

Features = Callable[[Tensor], Tensor]
"""Observations (..., 3) -> what a network sees of them (..., F)."""


class Curiosity(Protocol):
    """A reward model that learns from what it has scored."""

    def __call__(self, episodes: Episodes) -> Tensor:
        """Return reward_BT, no gradient."""
        ...

    def learn(self, episodes: Episodes, rng: np.random.Generator) -> dict[str, float]:
        """Take these rows in; return statistics."""
        ...


@dataclass(frozen=True)
class CuriosityConfig:
    """Networks of curiosity and how they learn, of each batch once, before the next."""

    hidden: int = 64
    """Width of the hidden layer of every network."""
    features: int = 16
    """Learned features of an observation (ICM)."""
    members: int = 5
    """Forward models that may disagree (Pathak et al. 2019)."""
    steps: int = 16
    """Gradient steps on each batch."""
    batch: int = 256
    """Transitions a step."""
    lr: float = 3e-3
    """Adam's learning rate."""
    forward_weight: float = 0.2
    """Share of the forward loss beside the inverse one (ICM, as published)."""
    loss_scale: float = 10.0
    """Factor of both losses together (ICM, as published)."""
    bonus: float = 0.01
    """Weight of the forward error as a reward (ICM, as published)."""

    def __post_init__(self) -> None:
        if min(self.hidden, self.features, self.members, self.steps, self.batch) < 1 or not self.lr > 0:
            raise ConfigError(
                "hidden, features, members, steps and batch of curiosity must be 1 or more, and lr above 0"
            )
        if not 0 <= self.forward_weight <= 1 or not self.loss_scale > 0 or not self.bonus > 0:
            raise ConfigError("forward_weight of curiosity is a share, loss_scale and bonus are above 0")


class CountBonus:
    """Pay 1 / sqrt(times that a step led here before, and this one) (Strehl and Littman 2008)."""

    def __init__(self, world: Rooms, what: Literal["cells", "observations"] = "cells") -> None:
        """Count the states that steps lead to, or with `observations` what is seen there, pictures and all."""
        self.what = what
        self.count: Tensor = torch.zeros(
            world.states, 1 + (2**world.config.picture_bits if what == "observations" else 0)
        )

    def __call__(self, episodes: Episodes) -> Tensor:
        """Return reward_BT, by the counts so far."""
        return torch.where(episodes.mask_BT, (self.count[self._seen(episodes)] + 1).rsqrt(), 0.0)

    def learn(self, episodes: Episodes, rng: np.random.Generator) -> dict[str, float]:
        """Add what these rows came to; return how many states were ever come to."""
        state_BT, picture_BT = self._seen(episodes)
        mask_BT = episodes.mask_BT
        self.count.index_put_((state_BT[mask_BT], picture_BT[mask_BT]), torch.ones(int(mask_BT.sum())), accumulate=True)
        return {"states_seen": float((self.count.sum(1) > 0).sum())}

    def _seen(self, episodes: Episodes) -> tuple[Tensor, Tensor]:
        came = episodes.obs[:, 1:]
        picture_BT = came[..., 1] if self.what == "observations" else torch.zeros_like(came[..., STATE])
        return came[..., STATE], picture_BT


class ForwardError(nn.Module):
    """Pay for the error of a forward model in features learned by an inverse one: ICM (Pathak et al. 2017)."""

    def __init__(
        self, see: Features, sizes: tuple[int, int], config: CuriosityConfig, rng: np.random.Generator
    ) -> None:
        """Draw three small networks; `sizes` are the features of an observation and the actions."""
        super().__init__()
        self.see, self.actions, self.config = see, sizes[1], config
        wide = config.features
        self.encoder = _net([sizes[0], config.hidden, wide], rng)
        self.inverse = _net([2 * wide, config.hidden, sizes[1]], rng)
        self.forward_model = _net([wide + sizes[1], config.hidden, wide], rng)
        self.optimizer = torch.optim.Adam(self.parameters(), lr=config.lr)

    def losses_N(self, before_NF: Tensor, after_NF: Tensor, action_N: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inverse loss, nats, and the forward error of every transition, with gradients.

        Forward: half the squared distance between the features that were predicted and those that came (eq. 6). The published code
        takes half the mean square times the number of features, which is the same.
        """
        first_ND, second_ND = _pass(self.encoder, before_NF), _pass(self.encoder, after_NF)
        logits_NA = _pass(self.inverse, torch.cat([first_ND, second_ND], -1))
        known_N = one_hot(action_N, self.actions).float()
        guess_ND = _pass(self.forward_model, torch.cat([first_ND, known_N], -1))
        return cross_entropy(logits_NA, action_N, reduction="none"), forward_error(guess_ND, second_ND)

    @torch.no_grad()
    def __call__(self, episodes: Episodes) -> Tensor:
        """Return reward_BT: the forward error times its weight."""
        before, after, action = _transitions(episodes, self.see)
        _, error_N = self.losses_N(before, after, action)
        return _back(error_N * self.config.bonus, episodes)

    def learn(self, episodes: Episodes, rng: np.random.Generator) -> dict[str, float]:
        """Take gradient steps on these rows; return mean `inverse_nats` and `forward_error` over them.

        Raises:
            DataError: the loss is not finite.
        """
        seen = _transitions(episodes, self.see)
        parts: list[tuple[float, float]] = []
        for at in _batches(len(seen[2]), self.config, rng):
            inverse_N, error_N = self.losses_N(*(one[at] for one in seen))
            prediction_loss = joint_loss(inverse_N.mean(), error_N.mean(), self.config)
            _step(self.optimizer, prediction_loss)
            parts.append((float(inverse_N.detach().mean()), float(error_N.detach().mean())))
        inverse, error = np.mean(parts, axis=0)
        return {"inverse_nats": float(inverse), "forward_error": float(error)}


class Disagreement(nn.Module):
    """Pay for how much several forward models of observations disagree (Pathak et al. 2019): noise cannot be learned, but all learn its mean."""

    def __init__(
        self, see: Features, sizes: tuple[int, int], config: CuriosityConfig, rng: np.random.Generator
    ) -> None:
        """Draw the members; `sizes` are the features of an observation and the actions."""
        super().__init__()
        self.see, self.actions, self.config = see, sizes[1], config
        self.stack = _net([sizes[0] + sizes[1], config.hidden, sizes[0]], rng, config.members)
        self.optimizer = torch.optim.Adam(self.parameters(), lr=config.lr)

    def guesses(self, before_NF: Tensor, action_N: Tensor) -> Tensor:
        """Return every member's mean of what comes next, (M, N, F)."""
        known = one_hot(action_N, self.actions).float()
        return _pass(self.stack, torch.cat([before_NF, known], -1))

    @torch.no_grad()
    def __call__(self, episodes: Episodes) -> Tensor:
        """Return reward_BT: the variance over the members, summed over features."""
        before, _, action = _transitions(episodes, self.see)
        return _back(self.guesses(before, action).var(0, correction=0).sum(-1), episodes)

    def learn(self, episodes: Episodes, rng: np.random.Generator) -> dict[str, float]:
        """Take gradient steps on these rows, every member on draws of its own; return the mean `forward_error`.

        Raises:
            DataError: the loss is not finite.
        """
        before, after, action = _transitions(episodes, self.see)
        errors: list[float] = []
        for _ in range(self.config.steps):
            at = torch.from_numpy(rng.integers(0, len(action), (self.config.members, self.config.batch)))
            known = one_hot(action[at], self.actions).float()
            guess = _pass(self.stack, torch.cat([before[at], known], -1))
            error = forward_error(guess, after[at]).mean(1)
            _step(self.optimizer, error.sum())
            errors.append(float(error.detach().mean()))
        return {"forward_error": float(np.mean(errors))}


def forward_error(guess_ND: Tensor, came_ND: Tensor) -> Tensor:
    """Return half the squared distance of each guess from what came."""
    return 0.5 * ((guess_ND - came_ND) ** 2).sum(-1)


def joint_loss(inverse: Tensor, forward: Tensor, config: CuriosityConfig) -> Tensor:
    """Return (0.8 inverse + 0.2 forward) * 10 with the published settings."""
    return ((1 - config.forward_weight) * inverse + config.forward_weight * forward) * config.loss_scale


def _transitions(episodes: Episodes, see: Features) -> tuple[Tensor, Tensor, Tensor]:
    seen = see(episodes.obs)
    mask_BT = episodes.mask_BT
    return seen[:, :-1][mask_BT], seen[:, 1:][mask_BT], episodes.action[mask_BT]


def _back(value_N: Tensor, episodes: Episodes) -> Tensor:
    reward_BT = torch.zeros(episodes.mask_BT.shape)
    reward_BT[episodes.mask_BT] = value_N
    return reward_BT


def _batches(count: int, config: CuriosityConfig, rng: np.random.Generator) -> list[Tensor]:
    return [torch.from_numpy(rng.integers(0, count, min(config.batch, count))) for _ in range(config.steps)]


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    if not bool(torch.isfinite(loss)):
        raise DataError("the loss of curiosity is not finite; lower its lr (nothing was changed by this step)")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def _net(sizes: Sequence[int], rng: np.random.Generator, members: int = 0) -> nn.ParameterList:
    """Return weights (I, O) and biases in turn, scaled by 1 / sqrt(I); with `members` each has its own along a first axis."""
    found = nn.ParameterList()
    lead = (members,) if members else ()
    for inside, outside in pairwise(sizes):
        weight = rng.standard_normal((*lead, inside, outside)) / math.sqrt(inside)
        found.append(nn.Parameter(torch.tensor(weight, dtype=torch.float32)))
        found.append(nn.Parameter(torch.zeros(*lead, *([1] if members else []), outside)))
    return found


def _pass(layers: nn.ParameterList, x: Tensor) -> Tensor:
    weights = list(layers)
    for place in range(0, len(weights), 2):
        x = x @ weights[place] + weights[place + 1]
        x = relu(x) if place + 2 < len(weights) else x
    return x
