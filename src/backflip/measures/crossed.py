"""Intervals of what was measured on the same openings under every seed: both are drawn, and both spreads count.

Averaging over seeds first and asking how much openings differ leaves out that other reward models would have come of other answers; the
other way round leaves out that other openings might have been asked. Left out: what is measured.

Shapes: S seeds, K openings.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from backflip.data import Estimate
from backflip.errors import DataError
from backflip.measures.stats import mean_interval


def crossed_interval(value_SK: ArrayLike) -> Estimate:
    """Average a table of seeds by openings; the 95 % interval is that of other seeds and other openings at once.

    The two-way random-effects analysis of variance (Searle, Casella and McCulloch 1992, section 4.3): the variance of the mean is
    (MS of seeds + MS of openings - MS of the rest) / SK, never taken to be less than the larger of the first two alone, and its degrees of
    freedom are Satterthwaite's (1946). With one seed the interval is over openings alone, and the other way round; n counts openings.

    Raises:
        DataError: the table is empty or holds a number that is not finite.
    """
    table_SK = np.atleast_2d(np.asarray(value_SK, dtype=np.float64))
    if table_SK.ndim != 2 or not table_SK.size or not np.isfinite(table_SK).all():
        raise DataError(
            f"a table of shape {table_SK.shape}; expected seeds by openings, all finite, at least one of each"
        )
    seeds, openings = table_SK.shape
    if seeds == 1 or openings == 1:
        found = mean_interval(table_SK.ravel())
        return Estimate(found.value, found.low, found.high, openings)
    mean = float(table_SK.mean())
    seed_S, opening_K = table_SK.mean(1) - mean, table_SK.mean(0) - mean
    rest_SK = table_SK - mean - seed_S[:, None] - opening_K
    free_S, free_K = seeds - 1, openings - 1
    by_seed = openings * float(seed_S @ seed_S) / free_S
    by_opening = seeds * float(opening_K @ opening_K) / free_K
    rest = float((rest_SK**2).sum()) / (free_S * free_K)
    total = max(by_seed + by_opening - rest, by_seed, by_opening)
    if total <= 0:
        return Estimate(mean, mean, mean, openings)
    # What is subtracted is left out of the degrees of freedom: it would add more than it knows.
    free = total**2 / (by_seed**2 / free_S + by_opening**2 / free_K)
    free = min(max(free, float(min(free_S, free_K))), float(seeds * openings - 1))
    reach = float(special.stdtrit(free, 0.975)) * math.sqrt(total / (seeds * openings))
    return Estimate(mean, mean - reach, mean + reach, openings)
