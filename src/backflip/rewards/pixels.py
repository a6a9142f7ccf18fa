"""Reward networks that look at pictures: the ensemble for Atari games (Christiano et al. 2017, A.2).

A step's reward is a function of the last four pictures, the last of them what came of the step's action, and of nothing else. While fitting,
units are dropped and a batch is normalised by its own statistics; scoring drops nothing and uses statistics measured once, on the fitted clips
without dropout (`settle`): dropped units change a layer's variance, so averages from the fit would not fit what is scored.
All members go through one pass: they share the pictures, and their filters are groups of one convolution. Left out: the fit (`clips.ClipFit`).

Shapes: M members, B rows, T steps, N stacks of pictures, C filters of all members, D hidden, H and W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from backflip.data import Episodes
from backflip.errors import ConfigError, DataError
from backflip.rewards.clips import ClipFitConfig
from backflip.rewards.members import MemberRewards

STACK = 4
"""Pictures that a reward is a function of; before a row's first one the first is repeated."""
KERNELS, STRIDES = (7, 5, 3, 3), (3, 2, 1, 1)
PIXELS = 84
AT_ONCE = 400
"""Stacks that are scored at a time, which bounds the memory."""
SAMPLE = 64
"""Clips, spread over the fitted ones, on which brightness and the layers' statistics are measured."""
EPSILON = 1e-5
FIRST_SIZE = 0.1
"""Of fresh rewards: a clip is a sum of many, and a fit that begins far from 1/2 has to unlearn that first."""


@dataclass(frozen=True)
class PixelFitConfig(ClipFitConfig):
    """How the ensemble on pictures is made and fitted."""

    filters: int = 16
    """Filters of each of four convolutions."""
    dropout: float = 0.5
    """Share of the units dropped after every convolution while fitting, the same at all steps of a clip; 0 is off."""

    every: int = 1
    """While fitting, one in this many steps of a clip is looked at, from a random one on, and stands for the others: so much faster."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.every < 1:
            raise ConfigError(f"fit.every is {self.every}, expected 1 or more")
        if self.filters < 1 or not 0 <= self.dropout < 1:
            raise ConfigError("fit.filters must be 1 or more, and fit.dropout a share below 1")


class PixelRewards(MemberRewards):
    """M convolutional networks from four pictures to a reward."""

    normal_std = 0.05  # Christiano et al. 2017, A.2
    input_mean: Tensor
    input_scale: Tensor

    def __init__(self, config: PixelFitConfig, rng: np.random.Generator) -> None:
        """Draw the weights from `rng` (He et al. 2015; the last layer at scale 0.1 / sqrt(D + 1))."""
        super().__init__(config.members)
        self.config = config
        many, filters = config.members, config.filters
        self.kernels, self.gains, self.offsets = nn.ParameterList(), nn.ParameterList(), nn.ParameterList()
        inside, size = STACK, PIXELS
        for layer, (kernel, stride) in enumerate(zip(KERNELS, STRIDES, strict=True)):
            drawn = rng.standard_normal((many * filters, inside, kernel, kernel)) * math.sqrt(2 / (inside * kernel**2))
            self.kernels.append(nn.Parameter(torch.tensor(drawn, dtype=torch.float32)))
            self.gains.append(nn.Parameter(torch.ones(many * filters)))
            self.offsets.append(nn.Parameter(torch.zeros(many * filters)))
            self.register_buffer(f"mean_{layer}", torch.zeros(many * filters))
            self.register_buffer(f"variance_{layer}", torch.ones(many * filters))
            inside, size = filters, (size - kernel) // stride + 1
        wide, hidden = filters * size * size, config.hidden
        self.weights = nn.ParameterList()
        for shape, gain in (
            ((many, wide, hidden), math.sqrt(2 / wide)),
            ((many, hidden, 1), FIRST_SIZE / math.sqrt(hidden + 1)),
        ):
            self.weights.append(nn.Parameter(torch.tensor(rng.standard_normal(shape) * gain, dtype=torch.float32)))
            self.weights.append(nn.Parameter(torch.zeros(many, 1, shape[2])))
        self.register_buffer("input_mean", torch.zeros(PIXELS, PIXELS))
        self.register_buffer("input_scale", torch.ones(()))

    @torch.no_grad()
    def raw_MBT(self, episodes: Episodes) -> Tensor:
        """Return every member's reward of every step before normalising; 0 where masked. Nothing is dropped, nothing moves."""
        rows = max(1, AT_ONCE // episodes.mask_BT.shape[1])
        parts = [
            self._rewards(part, part.mask_BT, self._as_measured)
            for start in range(0, len(episodes), rows)
            for part in [episodes.select(torch.arange(start, min(start + rows, len(episodes))))]
        ]
        return torch.cat(parts, dim=1)

    def fitting_MBT(self, episodes: Episodes, rng: np.random.Generator) -> Tensor:
        """Return the same with gradients, units dropped, and every layer normalised by the batch."""
        generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
        mask_BT, every = episodes.mask_BT, self.config.every
        looked_BT = torch.zeros_like(mask_BT)
        looked_BT[:, int(rng.integers(every)) :: every] = True
        looked_BT &= mask_BT
        row_N = torch.arange(len(episodes))[:, None].expand(mask_BT.shape)[looked_BT]

        def normalise(x: Tensor, layer: int) -> Tensor:
            return functional.batch_norm(
                x, None, None, self.gains[layer], self.offsets[layer], training=True, eps=EPSILON
            )

        def drop(x: Tensor) -> Tensor:
            if self.config.dropout == 0:
                return x
            keep = 1 - self.config.dropout
            kept = torch.empty(len(episodes), *x.shape[1:]).bernoulli_(keep, generator=generator) / keep
            return x * kept[row_N]

        stands_for_B = mask_BT.sum(1) / looked_BT.sum(1).clamp_min(1)
        return self._rewards(episodes, looked_BT, normalise, drop) * stands_for_B[:, None]

    @torch.no_grad()
    def settle(self, episodes: Episodes) -> None:
        """Measure every layer's statistics on a sample of these rows, with nothing dropped."""

        def measured(x: Tensor, layer: int) -> Tensor:
            variance_C, mean_C = torch.var_mean(x, dim=(0, 2, 3), correction=0)
            self.get_buffer(f"mean_{layer}").copy_(mean_C)
            self.get_buffer(f"variance_{layer}").copy_(variance_C)
            return self._as_measured(x, layer)

        sample = _sample(episodes)
        self._rewards(sample, sample.mask_BT, measured)

    @torch.no_grad()
    def scale_inputs(self, episodes: Episodes) -> None:
        """Subtract the mean picture of a sample of these rows and divide by the deviation from it.

        Raises:
            DataError: the pictures are no bytes of 84 by 84, or all the same.
        """
        if episodes.obs.dtype != torch.uint8 or episodes.obs.shape[2:] != (PIXELS, PIXELS):
            raise DataError(
                f"observations of {tuple(episodes.obs.shape[2:])} {episodes.obs.dtype}; expected bytes, {PIXELS} by {PIXELS}"
            )
        seen = _sample(episodes).obs.float()
        mean = seen.mean((0, 1))
        deviation = (seen - mean).square().mean().sqrt()
        if float(deviation) == 0:
            raise DataError("all pictures are the same, so there is nothing to learn from; collect other clips")
        self.input_mean.copy_(mean)
        self.input_scale.copy_(1 / deviation)

    def penalised(self) -> list[Tensor]:
        """Return the weights without offsets and gains."""
        return [*self.kernels, *list(self.weights)[::2]]

    def _as_measured(self, x: Tensor, layer: int) -> Tensor:
        mean_C, variance_C = self.get_buffer(f"mean_{layer}"), self.get_buffer(f"variance_{layer}")
        return functional.batch_norm(x, mean_C, variance_C, self.gains[layer], self.offsets[layer], eps=EPSILON)

    def _rewards(
        self,
        episodes: Episodes,
        mask_BT: Tensor,
        normalise: Callable[[Tensor, int], Tensor],
        drop: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> Tensor:
        many = self.config.members
        x = (stacks(episodes)[mask_BT].float() - self.input_mean) * self.input_scale
        x = x.contiguous(memory_format=torch.channels_last)  # twice as fast on a processor
        for layer, (kernel, stride) in enumerate(zip(self.kernels, STRIDES, strict=True)):
            x = functional.conv2d(x, kernel, stride=stride, groups=many if layer else 1)
            x = drop(functional.leaky_relu(normalise(x, layer), 0.01))
        count = len(x)
        x_MND = x.reshape(count, many, -1).transpose(0, 1)
        first, first_offset, last, last_offset = self.weights
        x_MND = functional.leaky_relu(torch.baddbmm(first_offset, x_MND, first), 0.01)
        value_MN = torch.baddbmm(last_offset, x_MND, last)[..., 0]
        reward_MBT = value_MN.new_zeros(many, *mask_BT.shape)
        reward_MBT[:, mask_BT] = value_MN
        return reward_MBT


def stacks(episodes: Episodes) -> Tensor:
    """Return the four pictures that each step's reward is a function of, (B, T, 4, H, W): the last is what the step led to."""
    steps = episodes.mask_BT.shape[1]
    at = (torch.arange(1, steps + 1)[:, None] + torch.arange(1 - STACK, 1)).clamp_min(0)
    return episodes.obs[:, at]


def _sample(episodes: Episodes) -> Episodes:
    count = min(SAMPLE, len(episodes))
    return episodes.select(torch.arange(count) * len(episodes) // count)
