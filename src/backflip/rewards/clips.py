"""Rewards of single steps, learned from comparisons of clips: an ensemble of small networks in one batched pass.

Members are stacked along a leading axis, so nothing loops over members or pairs. Left out: what answers say of a reward
(`clip_answers`), which clips are asked about (`queries`), and pixels.

Shapes: M members, B rows, T steps, F features, A numbers of an action, D hidden, I inputs
(F + A), N comparisons or steps, R distinct clips.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from backflip.data import Episodes
from backflip.errors import ConfigError, DataError
from backflip.protocols import World
from backflip.rewards.clip_answers import Answer, Loaded, load
from backflip.rewards.members import MemberRewards


@dataclass(frozen=True)
class ClipFitConfig:
    """How the ensemble is fitted, each time that answers have come."""

    members: int = 3
    """Networks in the ensemble."""
    reads: Literal["state_and_action", "what_came_of_it"] = "state_and_action"
    """What a step's reward is a function of: the observation and the action taken there (Christiano et al. 2017), or the observation
    that came of it. A judge who watches sees bodies, not motors; a reward that reads actions can be had by acting, with nothing done."""
    hidden: int = 64
    """Width of each of two leaky-ReLU layers (Christiano et al. 2017, A.1)."""
    steps: int = 60
    """Gradient steps after every batch of answers; the first fit takes `first_steps`."""
    first_steps: int = 200
    """Gradient steps of the first fit."""
    batch: int = 64
    """Comparisons a step."""
    every: int = 1
    """While fitting, the sum over a clip is estimated from every so-manieth step, from a place that is drawn anew each time, and so costs as many
    times less; scoring reads every step."""
    lr: float = 1e-3
    """Adam's learning rate."""
    noise: float = 0.1
    """Share of answers taken to be uniformly random (Christiano et al. 2017, sec. 2.2.3)."""
    held_out: float = 0.1
    """Share of each batch of answers that is only measured."""
    bootstrap: Literal["kept", "anew", "none"] = "anew"
    """What each member sees of the answers. kept: a draw with replacement of its own, the same at every fit; anew: another draw at every
    fit, so that in the end each has seen every answer; none: all of them. Members differ by their first weights in any case. Kept draws are
    Poisson with mean 1, which is a draw with replacement from very many, and belong to answers by their place: answers are only added."""
    l2: float = 1e-4
    """Weight of the squared weights at first; steered so that the held-out loss stays between 1.1 and 1.5 times the fitted one
    (Christiano et al. 2017, sec. 2.2.3), both as means over comparisons. 0 is off."""

    def __post_init__(self) -> None:
        if min(self.members, self.hidden, self.steps, self.first_steps, self.batch, self.every) < 1:
            raise ConfigError(
                "fit.members, fit.hidden, fit.steps, fit.first_steps, fit.batch and fit.every must be 1 or more"
            )
        if (
            not (0 <= self.held_out < 1 and 0 <= self.noise < 1)
            or not 0 <= self.l2 < math.inf
            or not 0 < self.lr < math.inf
        ):
            raise ConfigError(
                f"fit.held_out {self.held_out}, fit.noise {self.noise}, fit.l2 {self.l2}, fit.lr {self.lr}: expected shares below 1, a "
                "number of 0 or more, one above 0"
            )


class ClipRewards(MemberRewards):
    """M networks from (observation, action) to a reward; as a reward model their mean, each normalised on its own."""

    input_mean: Tensor
    input_scale: Tensor

    def __init__(self, features: int, actions: int, config: ClipFitConfig, rng: np.random.Generator) -> None:
        """Draw the weights from `rng` (He et al. 2015; the last layer at scale 1 / sqrt(D + 1))."""
        super().__init__(config.members)
        self.every = config.every
        self.reads_actions = config.reads == "state_and_action"
        inputs = features + (actions if self.reads_actions else 0)
        sizes = [inputs, config.hidden, config.hidden, 1]
        self.weights = nn.ParameterList()
        for inside, outside in pairwise(sizes):
            gain = math.sqrt(2 / inside) if outside > 1 else 1 / math.sqrt(inside + 1)
            drawn = rng.standard_normal((config.members, inside, outside)) * gain
            self.weights.append(nn.Parameter(torch.tensor(drawn, dtype=torch.float32)))
            self.weights.append(nn.Parameter(torch.zeros(config.members, 1, outside)))
        self.register_buffer("input_mean", torch.zeros(inputs))
        self.register_buffer("input_scale", torch.ones(inputs))

    def raw_MBT(self, episodes: Episodes) -> Tensor:
        """Return every member's reward of every step before normalising, with gradients; 0 where masked."""
        return self._rewards(self._seen(episodes), episodes.mask_BT)

    def fitting_MBT(self, episodes: Episodes, rng: np.random.Generator) -> Tensor:
        """Return the rewards of every `every`-th step, each as large as the steps it stands for together; (M, B, fewer T)."""
        if self.every == 1:
            return self.raw_MBT(episodes)
        start = int(rng.integers(min(self.every, episodes.mask_BT.shape[1])))
        mask_BT = episodes.mask_BT[:, start :: self.every]
        stands_for_B = episodes.mask_BT.sum(1) / mask_BT.sum(1).clamp_min(1)
        return self._rewards(self._seen(episodes)[:, start :: self.every], mask_BT) * stands_for_B[:, None]

    def _rewards(self, seen_BTI: Tensor, mask_BT: Tensor) -> Tensor:
        rows, steps = mask_BT.shape
        scaled_BTI = ((seen_BTI - self.input_mean) * self.input_scale).clip(-10, 10)
        x: Tensor = scaled_BTI.reshape(1, rows * steps, -1)
        weights = list(self.weights)
        for place in range(0, len(weights), 2):
            x = torch.matmul(x, weights[place]) + weights[place + 1]
            x = leaky_relu(x, 0.01) if place + 2 < len(weights) else x
        return torch.where(mask_BT, x.view(-1, rows, steps), torch.zeros(()))

    @torch.no_grad()
    def scale_inputs(self, episodes: Episodes) -> None:
        """Scale the inputs to mean 0 and deviation 1 over these rows."""
        seen_NI = self._seen(episodes)[episodes.mask_BT]
        self.input_mean.copy_(seen_NI.mean(0))
        self.input_scale.copy_(1 / (seen_NI.std(0, correction=0) + 1e-3))

    def _seen(self, episodes: Episodes) -> Tensor:
        """Return what a step's reward is a function of, (B, T, I)."""
        if not self.reads_actions:
            return episodes.obs[:, 1:]
        return torch.cat([episodes.obs[:, :-1], episodes.action.clip(-1, 1)], dim=-1)

    def penalised(self) -> list[Tensor]:
        """Return the weights without the offsets."""
        return list(self.weights)[::2]


class ClipFit:
    """The fit as it goes on while answers come in: weights, Adam and the weight of the L2 penalty are its state."""

    def __init__(self, reward: MemberRewards, config: ClipFitConfig) -> None:
        """Prepare to fit `reward` in place."""
        self.reward, self.config = reward, config
        self.optimizer = torch.optim.Adam(reward.parameters(), lr=config.lr)
        self.l2 = config.l2
        self.fits = 0
        self.salt = -1
        """From which the draws that are kept come; drawn at the first fit."""

    def __call__(
        self, world: World, inside: Sequence[Answer], held: Sequence[Answer], rng: np.random.Generator
    ) -> dict[str, float]:
        """Take this fit's steps on the answers `inside` and measure on `held`; return statistics.

        `loss` (of an answer, mean over the last half of the steps: nats for comparisons), `accuracy`, `l2`, `grad_norm`; where any are
        held out `held_out_loss`, `held_out_accuracy`, `held_out_n` of decisive pairs.

        Raises:
            DataError: there are no answers, or of both kinds, or the loss is no longer finite.
        """
        if not inside:
            raise DataError("no comparisons to fit a reward on; ask an overseer first")
        rows = load(world, inside)
        self.reward.scale_inputs(rows.episodes)
        count_MN = self._counts(len(inside), rng)
        steps = self.config.steps if self.fits else self.config.first_steps
        losses, norms = list[float](), list[float]()
        for _ in range(steps):
            at_B = torch.from_numpy(rng.integers(0, len(inside), min(self.config.batch, len(inside))))
            loss, norm = self._step(rows, at_B, count_MN[:, at_B], rng)
            losses.append(loss)
            norms.append(norm)
        self.fits += 1
        self.reward.settle(rows.episodes)
        fitted = rows.measure(self.reward, self.config.noise)
        stats = {
            "loss": float(np.mean(losses[len(losses) // 2 :])),
            "accuracy": fitted["accuracy"],
            "grad_norm": float(np.mean(norms)),
            "comparisons": float(len(inside)),
        }
        if held:
            apart = load(world, held).measure(self.reward, self.config.noise)
            stats |= {f"held_out_{name}": value for name, value in apart.items()}
            self._steer(fitted["loss"], apart["loss"])
        return stats | {"l2": self.l2}

    def state_dict(self) -> dict[str, Any]:
        """Return what the next fit depends on."""
        return {"optimizer": self.optimizer.state_dict(), "l2": self.l2, "fits": self.fits, "salt": self.salt}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.l2, self.fits, self.salt = float(state["l2"]), int(state["fits"]), int(state["salt"])

    def _counts(self, count: int, rng: np.random.Generator) -> Tensor:
        """Return how often each member sees each answer."""
        members = self.config.members
        if self.config.bootstrap == "none" or members == 1:
            return torch.ones(members, count)
        if self.config.bootstrap == "anew":
            drawn = [np.bincount(rng.integers(0, count, count), minlength=count) for _ in range(members)]
            return torch.from_numpy(np.stack(drawn)).float()
        if self.salt < 0:
            self.salt = int(rng.integers(2**31))
        # Row by row from one generator: who comes later does not change the draws of those before.
        drawn_NM = np.random.default_rng(self.salt).poisson(1.0, (count, members))
        return torch.from_numpy(drawn_NM.T.copy()).float()

    def _step(self, rows: Loaded, at_B: Tensor, weight_MB: Tensor, rng: np.random.Generator) -> tuple[float, float]:
        loss = rows.loss(self.reward, at_B, weight_MB, self.config.noise, rng)
        squares = sum((weight**2).sum() for weight in self.reward.penalised())
        self.optimizer.zero_grad(set_to_none=True)
        (loss * self.config.members + self.l2 * squares).backward()
        norm = nn.utils.clip_grad_norm_(self.reward.parameters(), 10.0)
        if not torch.isfinite(norm):
            raise DataError(
                "the gradient of the reward fit is not finite; lower fit.lr (nothing was changed by this step)"
            )
        self.optimizer.step()
        return float(loss.detach()), float(norm)

    def _steer(self, fitted: float, held: float) -> None:
        if self.l2 == 0:
            return
        ratio = held / max(fitted, 1e-9)
        self.l2 = float(np.clip(self.l2 * (1.5 if ratio > 1.5 else 1 / 1.5 if ratio < 1.1 else 1.0), 1e-7, 1e-2))
