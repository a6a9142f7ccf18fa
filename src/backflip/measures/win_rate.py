"""How often one policy's answer is worth more than another's on the same opening.

Shapes: N rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from backflip.data import Estimate
from backflip.errors import DataError
from backflip.measures.stats import finite, share_interval, wilson


def win_rate(ours: ArrayLike, theirs: ArrayLike, groups: ArrayLike | None = None) -> Estimate:
    """Return the share of rows where `ours` is higher; a tie counts one half.

    With one row an opening the interval is Wilson's; with `groups` (an opening's number for each row) it is clustered by
    opening, since rows of one opening are not independent.

    Raises:
        DataError: the two differ in length, are empty or not finite.
    """
    ours_N, theirs_N = finite(ours, "worths"), finite(theirs, "worths")
    if len(ours_N) != len(theirs_N):
        raise DataError(
            f"{len(ours_N)} answers against {len(theirs_N)}; a win rate needs both policies' answers to the same openings"
        )
    wins_N = wins(ours_N, theirs_N)
    return wilson(float(wins_N.sum()), len(wins_N)) if groups is None else share_interval(wins_N, groups)


def wins(ours: ArrayLike, theirs: ArrayLike) -> np.ndarray:
    """Return 1 where `ours` is higher, 0 where it is lower, 1/2 for a tie; the arguments are broadcast."""
    gap = np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)
    return (np.sign(gap) + 1) / 2
