"""Differences between two that were measured on unlike units: a test of the means, how often one is above the other, how many units it takes.

The two may differ in spread and in number as they like: a permutation test of raw means is none then (20 values of deviation 1 against 5 of
deviation 3, without a difference, are told apart in 27 % of draws). Left out: differences on the same units (`paired`).

Shapes: N and M values of the two, D draws.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from backflip.data import Estimate
from backflip.errors import DataError
from backflip.measures.paired import LEVEL, POWER
from backflip.measures.stats import finite, wilson
from backflip.measures.win_rate import wins

DRAWS = 4000
BLOCK = 500
DOUBT = 0.5
"""Share of one whole value's doubt that is added to DeLong's error, so that values which do not overlap leave some."""


@dataclass(frozen=True)
class Welch:
    """The difference of two means by Welch (1947)."""

    difference: Estimate
    """first - second; n is of the one with fewer."""
    p: float
    """Two-sided: of Welch's test, or of his t when values are exchanged, whichever is larger."""
    needed: int | None
    """Values of each that would tell a difference of this size with 80 % power at the level asked for; None: none was seen."""


def welch(
    first: ArrayLike, second: ArrayLike, rng: np.random.Generator, level: float = LEVEL, draws: int = DRAWS
) -> Welch:
    """Return first - second with Welch's interval and a test that keeps its level though spreads and numbers differ.

    Welch's test takes the values for normal and says too much of two or three, or of rare ones. Exchanging values and looking at his t (Janssen
    1997) is exact where nothing differs and right for many values where spreads do, but says too much of few wide against many narrow
    ones. Where one of them errs the other does not, so the larger of the two p is taken.

    Raises:
        DataError: there are fewer than two values of one.
    """
    ours_N, theirs_M = finite(first, "values"), finite(second, "values")
    n, m = len(ours_N), len(theirs_M)
    if min(n, m) < 2:
        raise DataError(f"{n} values against {m}; expected two or more of each")
    gap = float(ours_N.mean() - theirs_M.mean())
    ours, theirs = float(ours_N.var(ddof=1)), float(theirs_M.var(ddof=1))
    freedom, error = _freedom(ours / n, theirs / m, n, m), math.sqrt(ours / n + theirs / m)
    reach = float(special.stdtrit(freedom, 0.975)) * error
    by_formula = 2 * float(special.stdtr(freedom, -abs(gap) / error)) if error > 0 else float(gap == 0)
    p = max(by_formula, _exchanged(ours_N, theirs_M, rng, draws)) if gap else 1.0
    return Welch(Estimate(gap, gap - reach, gap + reach, min(n, m)), p, _needed(gap, ours, theirs, level))


def share_above(first: ArrayLike, second: ArrayLike) -> Estimate:
    """Return how often a value of the first is above one of the second, a tie one half (Mann and Whitney 1947); n is of the one with fewer.

    The interval is Wilson's for as many trials as would leave the doubt that DeLong (1988) finds: never beyond 0 and 1, nor without
    width. Two that do not overlap are as many trials as the fewer have values, and no two are more than if nothing differed.

    Raises:
        DataError: there are fewer than two values of one.
    """
    won_NM = wins(finite(first, "values")[:, None], finite(second, "values")[None, :])
    n, m = won_NM.shape
    if min(n, m) < 2:
        raise DataError(f"{n} values against {m}; expected two or more of each")
    share, fewer = float(won_NM.mean()), min(n, m)
    error = float(won_NM.mean(1).var(ddof=1)) / n + float(won_NM.mean(0).var(ddof=1)) / m
    trials = (share * (1 - share) + DOUBT / fewer) / (error + DOUBT / fewer**2)
    trials = min(trials, 3 * n * m / (n + m + 1))
    found = wilson(share * trials, trials)
    return Estimate(share, found.low, found.high, fewer)


def _freedom(ours: float, theirs: float, n: int, m: int) -> float:
    """Return Satterthwaite's degrees of freedom of two squared errors."""
    if ours + theirs == 0:
        return float(n + m - 2)
    return (ours + theirs) ** 2 / (ours**2 / (n - 1) + theirs**2 / (m - 1))


def _exchanged(
    ours_N: NDArray[np.float64], theirs_M: NDArray[np.float64], rng: np.random.Generator, draws: int
) -> float:
    """Return the two-sided p of Welch's t when values are exchanged; exact where there are at most `draws` ways."""
    pool = np.concatenate([ours_N, theirs_M])
    pool = pool - pool.mean()
    n, total = len(ours_N), len(pool)
    seen = float(_squared_t(pool, np.arange(total)[None, :] < n)[0])
    exact = math.comb(total, n) <= draws
    hits = tried = 0
    for chosen in _all_ways(total, n) if exact else _drawn_ways(total, n, rng, draws):
        hits += int((_squared_t(pool, chosen) >= seen * (1 - 1e-9)).sum())
        tried += len(chosen)
    return hits / tried if exact else (hits + 1) / (tried + 1)


def _all_ways(total: int, n: int) -> Iterator[NDArray[np.bool_]]:
    places = np.array(list(combinations(range(total), n)))
    chosen = np.zeros((len(places), total), dtype=bool)
    np.put_along_axis(chosen, places, values=True, axis=1)
    yield chosen


def _drawn_ways(total: int, n: int, rng: np.random.Generator, draws: int) -> Iterator[NDArray[np.bool_]]:
    for start in range(0, draws, BLOCK):
        yield rng.permuted(np.tile(np.arange(total) < n, (min(BLOCK, draws - start), 1)), axis=1)


def _squared_t(pool: NDArray[np.float64], chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return Welch's t, squared, of the `chosen` (D, N + M) against the others, (D,); infinite where neither side has any spread."""
    n, m = int(chosen[0].sum()), int((~chosen[0]).sum())
    inside_D, squares_D = chosen @ pool, chosen @ pool**2
    outside_D, others_D = pool.sum() - inside_D, float(pool @ pool) - squares_D
    spread_D = (squares_D - inside_D**2 / n) / (n - 1) / n + (others_D - outside_D**2 / m) / (m - 1) / m
    gap_D = (inside_D / n - outside_D / m) ** 2
    none_D = spread_D <= 1e-12 * float(pool @ pool) / len(pool)
    return np.where(none_D, np.where(gap_D > 0, np.inf, 0.0), gap_D / np.where(none_D, 1.0, spread_D))


def _needed(gap: float, ours: float, theirs: float, level: float) -> int | None:
    if gap == 0:
        return None
    n = 2
    while 2 / math.comb(2 * n, n) > level:  # exchanging fewer cannot come down to the level
        n += 1

    def wanted(n: int) -> float:
        freedom = _freedom(ours, theirs, n, n)
        reach = float(special.stdtrit(freedom, 1 - level / 2)) + float(special.stdtrit(freedom, POWER))
        return reach**2 * (ours + theirs) / gap**2

    z = float(special.ndtri(1 - level / 2)) + float(special.ndtri(POWER))
    n = max(n, math.ceil(z**2 * (ours + theirs) / gap**2))
    while n < wanted(n):
        n += 1
    return n
