"""Differences between two that were measured on the same units (prompts, seeds, beginnings): a test, and how many units it takes.

The test exchanges the two within a unit, which is all that "no difference" promises. Intervals are `stats.mean_interval`'s. Left out:
differences between unlike units (`unpaired`).

Shapes: N units, D draws, M tests.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from backflip.measures.stats import finite

LEVEL = 0.05
"""Two are told apart where the p-value, raised for how many are looked at together, is at most this."""
POWER = 0.8
"""Chance with which the stated number of units tells a difference of the size seen."""
FEWEST_SEEDS = 5
"""Seeds from which on a difference between methods may be called told."""
EXACT_UNITS = 14
"""Up to so many units that differ, all ways to exchange are tried."""
BLOCK = 500
EQUAL = 1e-12
"""Differences that spread by no more than this, as a part of their mean, are equal but for rounding."""


def sign_flip_test(difference: ArrayLike, rng: np.random.Generator, draws: int = 20_000) -> float:
    """Return the two-sided p-value of a mean difference when any unit's two may be exchanged (Fisher 1935, section 21).

    Exact for up to EXACT_UNITS units that differ at all, drawn (the observed one counted in, so never 0) beyond. Five units
    cannot go below 0.0625, six reach 0.031.
    """
    moved_N = finite(difference, "differences")
    moved_N = moved_N[moved_N != 0]
    observed = abs(float(moved_N.sum()))
    slack = 1e-12 * max(1.0, float(np.abs(moved_N).sum()))
    if len(moved_N) <= EXACT_UNITS:
        bits_DN = np.arange(2 ** len(moved_N))[:, None] >> np.arange(len(moved_N)) & 1
        return float(np.mean(np.abs((1 - 2 * bits_DN) @ moved_N) >= observed - slack))
    hits = 0
    for start in range(0, draws, BLOCK):
        sign_DN = rng.integers(0, 2, (min(BLOCK, draws - start), len(moved_N)), dtype=np.int8) * 2 - 1
        hits += int((np.abs(sign_DN @ moved_N) >= observed - slack).sum())
    return (hits + 1) / (draws + 1)


def student_test(difference: ArrayLike) -> float:
    """Return the two-sided p-value of a mean difference by Student's paired test, which agrees with the interval of `stats.mean_interval`.

    For a handful of seeds, where sign flips cannot go low enough to say anything; it takes the differences for normal. Where all are
    equal and none is 0, t is infinite and says nothing of chance: the p-value is then that of sign flips, 0.0625 for five.
    """
    value_N = finite(difference, "differences")
    if len(value_N) < 2 or not value_N.any():
        return 1.0
    error, mean = float(value_N.std(ddof=1)) / math.sqrt(len(value_N)), abs(float(value_N.mean()))
    if error <= EQUAL * mean:
        return 2.0 ** (1 - len(value_N))
    return 2 * float(special.stdtr(len(value_N) - 1, -mean / error))


def units_to_tell(difference: ArrayLike, fewest: int | None = None, level: float = LEVEL) -> int | None:
    """Return how many units would tell a mean difference as large as the one seen, two-sided at `level`, with 80 % power.

    The smallest n of at least `fewest` with n >= ((t_(1 - level / 2) + t_.80) * spread / mean)^2 at n - 1 degrees of freedom; without `fewest`
    it is what sign flips need to come down to `level` at all, six for 0.05. None where the mean is 0: no number would. It is a guess from
    what was seen: a true difference half as large takes four times as many.
    """
    value_N = finite(difference, "differences")
    mean, spread = float(value_N.mean()), float(value_N.std(ddof=1)) if len(value_N) > 1 else math.inf
    if mean == 0 or not math.isfinite(spread):
        return None
    ratio = spread / abs(mean)

    def wanted(n: int) -> float:
        reach = float(special.stdtrit(n - 1, 1 - level / 2)) + float(special.stdtrit(n - 1, POWER))
        return (reach * ratio) ** 2

    fewest = math.ceil(1 - math.log2(level)) if fewest is None else fewest
    n = max(fewest, math.ceil(((float(special.ndtri(1 - level / 2)) + float(special.ndtri(POWER))) * ratio) ** 2))
    while n < wanted(n):
        n += 1
    return n


def holm(p: Sequence[float]) -> list[float]:
    """Return p-values that hold for all of several tests together (Holm 1979), in the order given."""
    p_M: NDArray[np.float64] = np.asarray(p, dtype=np.float64)
    order = np.argsort(p_M, kind="stable")
    raised = np.maximum.accumulate(p_M[order] * np.arange(len(p_M), 0, -1))
    found = np.empty(len(p_M))
    found[order] = np.minimum(1.0, raised)
    return found.tolist()
