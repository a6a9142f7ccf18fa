"""Which of the judged pairs the next update learns from: shuffled passes, each pair once a pass.

Left out: what is learned from them.

Shapes: N pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

import numpy as np

from backflip.loops.parts import stream


class Weighted(Protocol):
    """A judged pair, or whatever else is dealt."""

    @property
    def weight(self) -> float:
        """How much it counts beside the others."""
        ...


Judged = TypeVar("Judged", bound=Weighted)


def deal(pairs: Sequence[Judged], count: int, turn: int, seed: int, round_number: int) -> list[Judged]:
    """Return the `count` pairs of update `turn` of a round, a function of these numbers alone, so that a resumed run deals the same.

    Where pairs weigh differently they are drawn with replacement by their weights: one that weighs twice comes twice as often.
    """
    weight_N = np.array([pair.weight for pair in pairs])
    if np.ptp(weight_N) > 0:
        rng = stream(seed, "deal", round_number, turn)
        return [pairs[int(k)] for k in rng.choice(len(pairs), count, p=weight_N / weight_N.sum())]
    places = np.arange(turn * count, (turn + 1) * count)
    order = {
        number: stream(seed, "deal", round_number, number).permutation(len(pairs))
        for number in {int(place) // len(pairs) for place in places}
    }
    return [pairs[int(order[int(place) // len(pairs)][int(place) % len(pairs)])] for place in places]
