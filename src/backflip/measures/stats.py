"""Intervals and tests that every measure shares.

Intervals are 95 % and two-sided. The unit of independence is the caller's to say: rows that share a prompt are one
group, and a bootstrap draws groups. Left out: anything that knows what is being measured.

Shapes: N numbers or pairs, G groups.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from backflip.data import Estimate
from backflip.errors import DataError

Z_95 = float(special.ndtri(0.975))
EXACT_PERMUTATIONS = 20_000
SHRINK = 0.5
"""Unlike outcomes by which a design effect is drawn towards 1; see lab/LOG.md of 2026-11-22 for how often intervals then cover."""
ROUNDING = 1e-6
"""By how much a share that is a sum of single precision may pass 0 and 1."""


def finite(values: ArrayLike, what: str = "values") -> NDArray[np.float64]:
    """Return `values` as a flat float64 array.

    Raises:
        DataError: there are none, or one is not finite: a measure of nothing or of NaN is no number.
    """
    array_N = np.asarray(values, dtype=np.float64).ravel()
    if not len(array_N):
        raise DataError(f"no {what} to measure; expected at least one")
    broken = np.flatnonzero(~np.isfinite(array_N))
    if len(broken):
        raise DataError(
            f"{len(broken)} of {len(array_N)} {what} are not finite (first at row {broken[0]}); mend or drop them by name"
        )
    return array_N


def groups_of(groups: ArrayLike | None, rows: int) -> NDArray[np.int64]:
    """Return each row's group as a number from 0; None means that every row is its own group.

    Raises:
        DataError: a group is given for another number of rows.
    """
    if groups is None:
        return np.arange(rows)
    _, group_N = np.unique(np.asarray(groups).ravel(), return_inverse=True)
    if len(group_N) != rows:
        raise DataError(f"{len(group_N)} groups for {rows} rows; expected one a row")
    return group_N.astype(np.int64)


def mean_interval(values: ArrayLike, groups: ArrayLike | None = None) -> Estimate:
    """Average `values` with Student's t interval; with `groups`, its standard error is clustered by group.

    The clustered error is that of a ratio of group sums, so unequal groups weigh as their rows do. One unit alone
    gives an unbounded interval: nothing is known of its spread.
    """
    value_N = finite(values)
    group_N = groups_of(groups, len(value_N))
    units = int(group_N.max()) + 1
    mean = float(value_N.mean())
    if units == 1:
        return Estimate(mean, -math.inf, math.inf, 1)
    residual = np.bincount(group_N, weights=value_N - mean, minlength=units)
    error = math.sqrt(float(residual @ residual) * units / (units - 1)) / len(value_N)
    reach = float(special.stdtrit(units - 1, 0.975)) * error
    return Estimate(mean, mean - reach, mean + reach, units)


def mean_count_interval(counts: ArrayLike) -> Estimate:
    """Average counts of events as `mean_interval` does, but never below 0, nor without width.

    Where all are equal the interval is that of a Poisson rate (Garwood 1936): ten times none does not prove never.

    Raises:
        DataError: a count is below 0.
    """
    count_N = finite(counts)
    if count_N.min() < 0:
        raise DataError(f"a count of {count_N.min():g}; expected 0 or more")
    n, total = len(count_N), float(count_N.sum())
    if count_N.min() < count_N.max():
        found = mean_interval(count_N)
        return Estimate(found.value, max(0.0, found.low), found.high, found.n)
    low = float(special.gammaincinv(total, 0.025)) / n if total else 0.0
    return Estimate(total / n, low, float(special.gammaincinv(total + 1, 0.975)) / n, n)


def share_interval(values: ArrayLike, groups: ArrayLike | None = None) -> Estimate:
    """Average outcomes in [0, 1] (wins, hits) as `mean_interval` does, but never beyond 0 and 1, nor without width.

    Where all groups came to the same (all 1, all ties) the interval is Wilson's over groups: 20 right of 20 do not prove that all are.

    Raises:
        DataError: a value lies outside [0, 1] by more than rounding explains.
    """
    value_N = finite(values)
    if value_N.min() < -ROUNDING or value_N.max() > 1 + ROUNDING:
        raise DataError(f"outcomes from {value_N.min()} to {value_N.max()}; expected shares in [0, 1]")
    value_N = value_N.clip(0, 1)
    found = mean_interval(value_N, groups)
    if found.value in (0.0, 1.0) or found.high - found.low < ROUNDING:
        return wilson(found.value * found.n, found.n)
    return Estimate(found.value, max(0.0, found.low), min(1.0, found.high), found.n)


def pair_share_interval(values: ArrayLike, first: ArrayLike, second: ArrayLike) -> Estimate:
    """Average outcomes in [0, 1] of pairs, where the units that the two sides come from occur in other pairs too; n counts units.

    `first`, `second`: which unit each side of a pair is from. Pairs with a unit in common are not independent: the standard error sums
    over all such pairs of pairs (Fafchamps and Gubert 2007; Aronow, Samii and Assenova 2015), and is never less than if all were
    independent. Where all are equal the interval is Wilson's over as many pairs as could have no unit in common.

    Raises:
        DataError: a value lies outside [0, 1], or a unit is given for another number of pairs.
    """
    value_N = finite(values)
    count = len(value_N)
    found = share_interval(value_N)
    unit_N2 = groups_of(np.concatenate([np.ravel(np.asarray(each)) for each in (first, second)]), 2 * count)
    unit_N2 = np.sort(unit_N2.reshape(2, count).T, axis=1)
    units = int(unit_N2.max()) + 1
    if min(units, count) == 1 and found.value not in (0.0, 1.0):
        return Estimate(found.value, 0.0, 1.0, units)
    if float(np.ptp(value_N)) < ROUNDING:
        apart = max(1, units // 2)
        return replace(wilson(found.value * apart, apart), n=units)
    gap_N = value_N - found.value
    across_N = np.flatnonzero(unit_N2[:, 0] != unit_N2[:, 1])
    shared = np.bincount(unit_N2[:, 0], weights=gap_N, minlength=units)
    shared += np.bincount(unit_N2[across_N, 1], weights=gap_N[across_N], minlength=units)
    twice = np.bincount(unit_N2[across_N] @ np.array([units, 1]), weights=gap_N[across_N])  # both units in common
    together = float(shared @ shared - twice @ twice) * units / (units - 1)
    alone = float(gap_N @ gap_N) * count / (count - 1)
    reach = float(special.stdtrit(units - 1, 0.975)) * math.sqrt(max(together, alone)) / count
    return Estimate(found.value, max(0.0, found.value - reach), min(1.0, found.value + reach), units)


def share_difference(after: Estimate, before: Estimate, n: int) -> Estimate:
    """Return one share less another, its interval put together from theirs (Newcombe 1998, method 10), as of two that do not hang together.

    `n`: how many units the difference rests on.
    """
    gap = after.value - before.value
    low = gap - math.hypot(after.value - after.low, before.high - before.value)
    high = gap + math.hypot(after.high - after.value, before.value - before.low)
    return Estimate(gap, max(-1.0, low), min(1.0, high), n)


def score_interval(values: ArrayLike, weights: ArrayLike | None = None, moves: ArrayLike | None = None) -> Estimate:
    """Average outcomes in [0, 1] that may be parts of one (ties, shares of several) with Wilson's interval: never beyond 0 and 1, nor without width.

    The interval is Wilson's (1927) for as many outcomes of 0 or 1 as would leave the same doubt: the number of values over the design
    effect (Kish 1965, section 8.2; Korn and Graubard 1998 for shares), their spread over that of such outcomes. Few values that are
    unlike tell little of their spread, so the effect is drawn towards 1, as by `SHRINK` unlike ones more. `weights`: what each counts.
    `moves`: by how much each moves what is estimated beside this average; the larger spread counts, with these or without.

    Raises:
        DataError: a value lies outside [0, 1] by more than rounding explains.
    """
    value_N = finite(values)
    if value_N.min() < -ROUNDING or value_N.max() > 1 + ROUNDING:
        raise DataError(f"outcomes from {value_N.min()} to {value_N.max()}; expected shares in [0, 1]")
    value_N, n = value_N.clip(0, 1), len(value_N)
    weight_N = np.ones(n) if weights is None else finite(weights, "weights")
    weight_N = weight_N / weight_N.mean()
    share = min(1.0, float(weight_N @ value_N) / n)
    effect, sure = 1.0, share * (1 - share)
    if sure > ROUNDING**2:
        gap_N = value_N - share
        moved_N = gap_N if moves is None else gap_N + finite(moves, "moves")
        spread = max(float(np.mean((weight_N * each_N) ** 2)) for each_N in (gap_N, moved_N))
        unlike = n * min(share, 1 - share)
        effect = (spread / sure * unlike + SHRINK) / (unlike + SHRINK)
    found = wilson(share * n / effect, n / effect)
    return Estimate(share, found.low, found.high, n)


def median_interval(values: ArrayLike) -> Estimate:
    """Return the median with the interval between two of the values themselves, whatever their distribution (Thompson 1936).

    How many of n values lie below the median is binomial, n and 1/2: the k-th from either end are taken, k as large as leaves at least
    95 %. Below six values no two are far enough apart, and the interval is from the least to the largest.
    """
    value_N = np.sort(finite(values))
    n = len(value_N)
    k = max(1, int((special.bdtr(np.arange(n), n, 0.5) <= 0.025).sum()))
    return Estimate(float(np.median(value_N)), float(value_N[k - 1]), float(value_N[n - k]), n)


def wilson(successes: float, n: float) -> Estimate:
    """Estimate a share from `successes` of `n` independent trials with Wilson's score interval (Wilson 1927).

    Half successes (ties) are allowed: the interval is then slightly too wide, never too narrow. So is an `n` that is no whole number.

    Raises:
        DataError: n is not positive, or successes lie outside [0, n].
    """
    if n <= 0 or not 0 <= successes <= n:
        raise DataError(
            f"{successes} successes of {n} trials; expected 0 <= successes <= trials and at least one trial"
        )
    share = successes / n
    scale = 1 + Z_95**2 / n
    centre = (share + Z_95**2 / (2 * n)) / scale
    reach = Z_95 * math.sqrt(share * (1 - share) / n + Z_95**2 / (4 * n * n)) / scale
    return Estimate(share, max(0.0, min(share, centre - reach)), min(1.0, max(share, centre + reach)), int(n))


def paired_bootstrap(
    first: ArrayLike,
    second: ArrayLike,
    rng: np.random.Generator,
    groups: ArrayLike | None = None,
    draws: int = 2000,
) -> Estimate:
    """Estimate mean(second) - mean(first) over the same units; the percentile interval redraws whole groups.

    Raises:
        DataError: the two differ in length.
    """
    first_N, second_N = finite(first), finite(second)
    if len(first_N) != len(second_N):
        raise DataError(
            f"{len(first_N)} values against {len(second_N)}; a paired comparison needs the same units in both"
        )
    return bootstrap(second_N - first_N, rng, groups, draws=draws)


def bootstrap(
    values: ArrayLike,
    rng: np.random.Generator,
    groups: ArrayLike | None = None,
    draws: int = 2000,
) -> Estimate:
    """Average `values` with a percentile interval from redrawing whole groups (Efron 1979)."""
    value_N = finite(values)
    group_N = groups_of(groups, len(value_N))
    units = int(group_N.max()) + 1
    total_G = np.bincount(group_N, weights=value_N, minlength=units)
    size_G = np.bincount(group_N, minlength=units)
    means: list[float] = []
    for _ in range(draws):
        drawn = rng.integers(0, units, units)
        means.append(float(total_G[drawn].sum() / size_G[drawn].sum()))
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(float(value_N.mean()), float(low), float(high), units)


def permutation_test(
    treated: Sequence[float],
    control: Sequence[float],
    rng: np.random.Generator,
    alternative: str = "greater",
    draws: int = EXACT_PERMUTATIONS,
) -> float:
    """Return the p-value of mean(treated) - mean(control) when the labels are exchanged.

    Exact where there are at most `draws` ways to choose, sampled (with the observed one counted in, so never 0)
    otherwise. Three against three cannot go below 0.05, five against five reach 0.004.

    Raises:
        DataError: `alternative` is neither "greater" nor "two-sided".
    """
    pool_N = np.concatenate([finite(treated, "treated values"), finite(control, "control values")])
    size, total = len(treated), len(pool_N)
    if alternative not in ("greater", "two-sided"):
        raise DataError(f'alternative "{alternative}" is unknown; expected "greater" or "two-sided"')
    statistic: Callable[[float], float] = (lambda gap: gap) if alternative == "greater" else abs

    def gap(chosen: NDArray[np.int64]) -> float:
        inside = float(pool_N[chosen].sum())
        return statistic(inside / size - (float(pool_N.sum()) - inside) / (total - size))

    observed = gap(np.arange(size))
    slack = 1e-12 * max(1.0, float(np.abs(pool_N).max()))
    if math.comb(total, size) <= draws:
        gaps = [gap(np.array(chosen)) for chosen in combinations(range(total), size)]
        return float(np.mean([value >= observed - slack for value in gaps]))
    hits = sum(gap(rng.permutation(total)[:size]) >= observed - slack for _ in range(draws))
    return (hits + 1) / (draws + 1)
