"""Intervals that a page works out itself from what a run recorded: of logged checks, and of differences.

Leaves out the intervals that experiments measure; those come with their estimates (`backflip.measures`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from backflip.data import Estimate
from backflip.measures.stats import wilson


def interval_of(row: Mapping[str, float], measure: str) -> tuple[float, float] | None:
    """Return a logged interval: `MEASURE_low` and `_high`, or Wilson's from `MEASURE_n` or `n` for a win rate.

    None where the row holds too little to say.
    """
    if f"{measure}_low" in row and f"{measure}_high" in row:
        return row[f"{measure}_low"], row[f"{measure}_high"]
    n = int(row.get(f"{measure}_n", row.get("n", 0)))
    if measure.endswith("win_rate") and n > 0 and 0 <= row[measure] <= 1:
        measured = wilson(row[measure] * n, n)
        return measured.low, measured.high
    return None


def difference(first: Estimate, second: Estimate) -> Estimate:
    """Return second - first, its 95 % interval put together from theirs (Zou and Donner 2008, MOVER).

    For independent estimates; where both were measured on the same units, which usually go together, it is too wide.
    """
    gap = second.value - first.value
    low = gap - math.hypot(second.value - second.low, first.high - first.value)
    high = gap + math.hypot(second.high - second.value, first.value - first.low)
    return Estimate(gap, low, high, min(first.n, second.n))
