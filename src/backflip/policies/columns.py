"""Keys and values of many rows in shared time: the memory behind a sampler that refills finished rows.

All rows write into the same column at each step, whatever their own position: a row is the run of columns from its start
to now. So a write is one contiguous slice, a finished row is replaced by copying a prompt's keys and values into the
columns just before now, and the distance between two columns of one row is its true distance, which is what sliding windows and
alibi slopes need. Rotary and learned positions are the row's own and are the engine's business.

Shapes: S slots, H heads, C columns, D head dimension, N prompts of a prefilled block, P columns of that block, K slots picked.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

SLACK = 16
"""Columns beyond the longest row: columns are moved to the front once in so many steps."""


class Columns:
    """Buffers (..., S, H, C, D), one or more, with one clock. `used` columns are filled; row s begins at `start_S[s]`."""

    def __init__(self, likes: Sequence[Tensor], slots: int, longest: int) -> None:
        """Allocate for blocks shaped like `likes` (..., N, H, P, D); no row is ever longer than `longest` columns."""
        self.capacity = longest + SLACK
        self.buffers = [
            like.new_zeros((*like.shape[:-4], slots, like.shape[-3], self.capacity, like.shape[-1])) for like in likes
        ]
        self.used = longest
        # A slot without a row attends to the current column alone, which keeps its softmax finite.
        self.start_S = torch.full((slots,), longest, device=likes[0].device)
        self.first = longest

    def splice(self, slots_K: Tensor, blocks: Sequence[Tensor], pick_K: Tensor, length_K: Tensor) -> None:
        """Put prompts `pick_K` of prefilled, left-padded blocks into slots, so that each ends just before now."""
        width = blocks[0].shape[-2]
        for buffer, block in zip(self.buffers, blocks, strict=True):
            buffer[..., slots_K, :, self.used - width : self.used, :] = block[..., pick_K, :, :, :]
        self.start_S[slots_K] = self.used - length_K
        self.first = int(self.start_S.min())

    def make_room(self) -> None:
        """Make sure that column `used` exists: when the buffers are full, drop the oldest columns, which no row can reach."""
        if self.used < self.capacity:
            return
        for buffer in self.buffers:
            buffer[..., : self.used - SLACK, :] = buffer[..., SLACK : self.used, :].clone()
        self.start_S -= SLACK
        self.used -= SLACK
        # counted anew: the oldest row may have finished since, and then no live row reaches as far back as `first` did
        self.first = int(self.start_S.min())

    def advance(self) -> None:
        """Count the column that the engine has just written."""
        self.used += 1

    def release(self, slots_K: Tensor) -> None:
        """Forget rows, so that their columns can go: a slot without a row begins now."""
        self.start_S[slots_K] = self.used

    def keep(self, slots_K: Tensor) -> None:
        """Drop all slots but these."""
        self.buffers = [buffer.index_select(-4, slots_K) for buffer in self.buffers]
        self.start_S = self.start_S[slots_K]
        self.first = int(self.start_S.min())
