"""What best-of-n gains and what it costs in KL, for every n up to N, from N samples an opening.

The estimator averages over all subsets of n of the N samples, so it uses every sample and has no bias. Left out:
choosing an answer to show (`optimise/best_of_n`).

Shapes: K openings, N samples of each, L levels of a score, D values of n, U quantiles.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from backflip.data import Estimate
from backflip.errors import DataError
from backflip.measures.stats import mean_interval


def best_of_n(proxy_KN: ArrayLike, value_KN: ArrayLike, n: int, *, worst: bool = False) -> Estimate:
    """Return the expected value of the sample with the highest (or, if `worst`, lowest) proxy of n; mean over openings.

    `value_KN` is what is measured of each sample: its gold score, its win over the base, or the proxy itself.
    Tied proxies share their mean value: a tie is broken at random. (Nakano et al. 2021, app. I.)

    Raises:
        DataError: the shapes differ, a number is not finite, or n is not in 1 .. N.
    """
    return mean_interval(best_of_each(proxy_KN, value_KN, (n,), worst=worst)[:, 0])


def best_of_each(
    proxy_KN: ArrayLike, value_KN: ArrayLike, n_D: Sequence[int], *, worst: bool = False
) -> NDArray[np.float64]:
    """Return what `best_of_n` averages, opening by opening and for each n: (K, D).

    Raises:
        DataError: see `best_of_n`.
    """
    proxy_KN = np.atleast_2d(np.asarray(proxy_KN, dtype=np.float64))
    value_KN = np.atleast_2d(np.asarray(value_KN, dtype=np.float64))
    if proxy_KN.shape != value_KN.shape or not np.isfinite([proxy_KN, value_KN]).all():
        raise DataError(f"proxies {proxy_KN.shape} and values {value_KN.shape} must have one shape and be finite")
    samples = proxy_KN.shape[1]
    for n in n_D:
        if not 1 <= n <= samples:
            raise DataError(f"best of {n} from {samples} samples an opening; expected n from 1 to {samples}")
    weight_ND = np.stack([subset_weights(samples, n) for n in n_D], axis=1)
    sign = -1.0 if worst else 1.0
    return np.stack([_by_rank(sign * p, v) @ weight_ND for p, v in zip(proxy_KN, value_KN, strict=True)])


@functools.lru_cache(maxsize=64)
def subset_weights(samples: int, n: int) -> NDArray[np.float64]:
    """Return, for each rank in ascending order, the share of subsets of n in which it is the highest: C(i-1, n-1) / C(N, n)."""
    weight_N = np.array([math.comb(i, n - 1) / math.comb(samples, n) for i in range(samples)])
    weight_N.setflags(write=False)  # it is kept: whoever gets it next must get the same
    return weight_N


@functools.lru_cache(maxsize=64)
def kl_of_kept_nats(n: int, kept: int) -> float:
    """Return the KL from the sampler to a row drawn from the best `kept` of n of its samples, nats; exact without ties.

    A row at quantile u is among them with probability P(at most kept - 1 of the n - 1 others lie above), binomial; for one that is kept it
    comes to ln n - (n - 1) / n (`kl_bound_nats`), and is below -ln(kept / n), which is conditioning's, for any number.

    Raises:
        DataError: kept is not in 1 .. n.
    """
    if not 1 <= kept <= n:
        raise DataError(f"the best {kept} of {n}; expected between one and all of them")
    node_U, weight_U = np.polynomial.legendre.leggauss(400)
    ratio_U = n / kept * special.bdtr(kept - 1, n - 1, (1 - node_U) / 2)
    return float(weight_U @ special.xlogy(ratio_U, ratio_U)) / 2


def kl_bound_nats(n: int) -> float:
    """Return ln n - (n - 1) / n, the KL of best-of-n from its base: exact without ties, an upper bound with them."""
    if n < 1:
        raise DataError(f"best of {n}; expected n of at least 1")
    return math.log(n) - (n - 1) / n


def kl_exact_nats(probability_L: ArrayLike, n: int) -> float:
    """Return the KL of best-of-n from its base when scores come in levels and ties are broken blindly.

    `probability_L` holds the base's probability of each level, in ascending order of the score. The KL is the
    sum of g ln(g / f), f the level's probability, g the difference of its and the lower level's F^n.

    Raises:
        DataError: the probabilities are negative or do not sum to 1.
    """
    f_L = np.asarray(probability_L, dtype=np.float64)
    if n < 1 or (f_L < 0).any() or abs(float(f_L.sum()) - 1) > 1e-9:
        raise DataError(
            f"levels with probabilities summing to {float(f_L.sum())} and n = {n}; expected a distribution and n >= 1"
        )
    cumulative_L = np.minimum(np.cumsum(f_L), 1.0)
    g_L = np.diff(cumulative_L**n, prepend=0.0)
    held = g_L > 0
    return float(np.sum(g_L[held] * np.log(g_L[held] / f_L[held])))


def _by_rank(proxy_N: NDArray[np.float64], value_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return values in ascending order of proxy, tied ones replaced by their mean."""
    _, level_N, count_L = np.unique(proxy_N, return_inverse=True, return_counts=True)
    mean_L = np.bincount(level_N, weights=value_N) / count_L
    return np.repeat(mean_L, count_L)
