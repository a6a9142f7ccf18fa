"""An ensemble of reward networks: what members share, whatever they look at.

Every member is normalised on its own before the mean is taken (Christiano et al. 2017, sec. 2.2.1), and scoring never moves the
normaliser. Left out: the networks (`clips`, `pixels`), and the fit (`clips.ClipFit`).

Shapes: M members, B rows, T steps, N comparisons or steps.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from backflip.data import Episodes
from backflip.errors import DataError


class MemberRewards(nn.Module):
    """M networks; as a reward model their mean, each normalised on its own."""

    mean_M: Tensor
    std_M: Tensor
    normal_std = 1.0
    """Standard deviation of a normalised member over the rows of `measure_normaliser`."""

    def __init__(self, members: int) -> None:
        """Begin without a normaliser."""
        super().__init__()
        self.register_buffer("mean_M", torch.zeros(members))
        self.register_buffer("std_M", torch.zeros(members))

    # -- what the networks say -----------------------------------------------------------------------------------------

    def raw_MBT(self, episodes: Episodes) -> Tensor:
        """Return every member's reward of every step before normalising; 0 where masked. Moves nothing."""
        raise NotImplementedError

    def fitting_MBT(self, episodes: Episodes, rng: np.random.Generator) -> Tensor:
        """Return the same as it is fitted, with gradients: whatever is noisy then draws from `rng`."""
        return self.raw_MBT(episodes)

    def scale_inputs(self, episodes: Episodes) -> None:
        """Learn from the rows to be fitted how large the inputs are."""
        raise NotImplementedError

    def settle(self, episodes: Episodes) -> None:
        """Measure on the fitted rows what scoring depends on besides the weights; nothing, unless a network says otherwise."""

    def penalised(self) -> list[Tensor]:
        """Return the weights that the L2 penalty is on."""
        raise NotImplementedError

    # -- as a reward model ---------------------------------------------------------------------------------------------

    @torch.no_grad()
    def members(self, episodes: Episodes) -> Tensor:
        """Return each member's normalised reward, (M, B, T). Scoring never moves the normaliser.

        Raises:
            DataError: no normaliser was measured.
        """
        if not bool((self.std_M > 0).all()):
            raise DataError("this reward has no normaliser; call measure_normaliser on rows of the policy first")
        raw_MBT = self.raw_MBT(episodes)
        normal_MBT = (raw_MBT - self.mean_M[:, None, None]) / self.std_M[:, None, None] * self.normal_std
        return torch.where(episodes.mask_BT, normal_MBT, torch.zeros(()))

    def __call__(self, episodes: Episodes) -> Tensor:
        """Return the mean over members of their normalised reward_BT, no gradient."""
        return self.members(episodes).mean(0)

    @torch.no_grad()
    def measure_normaliser(self, episodes: Episodes) -> None:
        """Give every member mean 0 and standard deviation `normal_std` over the steps of these rows.

        Raises:
            DataError: a member gives every step the same reward.
        """
        value_MN = self.raw_MBT(episodes)[:, episodes.mask_BT]
        std_M = value_MN.std(1, correction=0)
        if not bool((std_M > 1e-8).all()):
            raise DataError(
                "a reward network is constant on these rows, so it has no scale; collect others, or fit again"
            )
        self.mean_M.copy_(value_MN.mean(1))
        self.std_M.copy_(std_M)

    @torch.no_grad()
    def preference_MN(self, first: Episodes, second: Episodes) -> Tensor:
        """Return each member's probability that the first clip of each pair is preferred."""
        return torch.sigmoid(self.raw_MBT(first).sum(-1) - self.raw_MBT(second).sum(-1))
