"""Whether a reward model's probabilities mean what they say: of answers it gives 80 %, do 80 % come true?

Chance opens gaps in every bin, all of which count, so the error that is seen lies above the true one, most of all where that is 0. It is
undone here: the true gaps are taken to be those seen, times one factor, with which as many answers would show as much on average.

Shapes: N comparisons, B bins, F factors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from backflip.data import Estimate
from backflip.errors import DataError
from backflip.measures.stats import finite, groups_of

DRAWS = 500
FACTORS = 601


@dataclass(frozen=True)
class Calibration:
    """The expected calibration error, what chance alone makes of it, and the bins of a reliability plot."""

    error: Estimate
    """The expected calibration error less what chance adds to it: 0 for a model whose gaps chance alone explains."""
    seen: float
    """Mean |predicted - observed| over bins, weighted by their number, as it is: too large by what chance adds."""
    chance: float
    """What is seen of a perfectly calibrated model, on average, on as many answers."""
    bins: tuple[dict[str, float], ...]
    """`predicted` and `observed` probability of the likelier answer, and `n`, for every bin that holds any."""


def calibration(
    probability_N: ArrayLike,
    share_N: ArrayLike,
    rng: np.random.Generator,
    groups: ArrayLike | None = None,
    bins: int = 10,
) -> Calibration:
    """Measure the expected calibration error (Naeini et al. 2015) of `probability_N` that the first is better.

    Which item is first means nothing, so each comparison is turned to its likelier side: predictions lie in [1/2, 1], in
    `bins` bins of equal width. `share_N` are the answers; ties count one half. `groups`: comparisons that share a prompt.
    The interval is where the error seen lies within a bootstrap's spread, less what chance adds; docs/measures.md says how often it covers.

    Raises:
        DataError: a number is no probability, or the lengths differ.
    """
    probability, share = finite(probability_N, "probabilities"), finite(share_N, "answers")
    if len(probability) != len(share) or ((probability < 0) | (probability > 1)).any():
        raise DataError(
            f"{len(probability)} predictions for {len(share)} answers; expected one probability in [0, 1] for each"
        )
    sure_N = np.maximum(probability, 1 - probability)
    came_N = np.where(probability >= 0.5, share, 1 - share)
    bin_N = np.minimum(((sure_N - 0.5) * 2 * bins).astype(int), bins - 1)
    unit_N = groups_of(groups, len(sure_N))
    rows_of = np.split(np.argsort(unit_N, kind="stable"), np.cumsum(np.bincount(unit_N))[:-1])
    drawn: list[float] = []
    for _ in range(DRAWS):
        rows = np.concatenate([rows_of[i] for i in rng.integers(0, len(rows_of), len(rows_of))])
        drawn.append(_error(sure_N[rows], came_N[rows], bin_N[rows], bins))
    perfect = [_error(sure_N, (rng.random(len(sure_N)) < sure_N).astype(float), bin_N, bins) for _ in range(DRAWS)]
    seen, middle = _error(sure_N, came_N, bin_N, bins), float(np.mean(drawn))
    # A resample adds its own noise to every bin and so lies above what was seen: only its spread about its own mean is used, mirrored.
    high, low = (max(0.0, seen + middle - float(q)) for q in np.quantile(drawn, [0.025, 0.975]))
    low, value, high = _without_chance(seen, (low, seen, high), sure_N, came_N, bin_N, bins)
    rows = [
        {
            "predicted": float(sure_N[bin_N == b].mean()),
            "observed": float(came_N[bin_N == b].mean()),
            "n": float((bin_N == b).sum()),
        }
        for b in range(bins)
        if (bin_N == b).any()
    ]
    error = Estimate(value, min(low, value), max(high, value), len(rows_of))
    return Calibration(error, seen, float(np.mean(perfect)), tuple(rows))


def _without_chance(
    seen: float,
    wanted: tuple[float, ...],
    sure_N: NDArray[np.float64],
    came_N: NDArray[np.float64],
    bin_N: NDArray[np.int64],
    bins: int,
) -> list[float]:
    """Return for each error in `wanted` the true one of which as much is seen on average, were the gaps those seen but for one factor.

    A gap that is seen is normal about the true one, with the spread of a calibrated model's: its mean size is that of a folded normal.
    """
    gap_B = np.abs(np.bincount(bin_N, weights=sure_N - came_N, minlength=bins)) / len(sure_N)
    spread_B = np.sqrt(np.bincount(bin_N, weights=sure_N * (1 - sure_N), minlength=bins)) / len(sure_N)
    if seen == 0:
        gap_B = spread_B
    whole = float(gap_B.sum())
    if whole == 0:  # certain of all, and right
        return list(wanted)
    factor_F = np.linspace(0, max(1.0, max(wanted) / whole), FACTORS)
    mean_FB = factor_F[:, None] * gap_B
    sharp_FB = mean_FB / np.where(spread_B > 0, spread_B, 1)
    folded_FB = np.sqrt(2 / np.pi) * spread_B * np.exp(-(sharp_FB**2) / 2) + mean_FB * (1 - 2 * ndtr(-sharp_FB))
    shown_F = np.where(spread_B > 0, folded_FB, mean_FB).sum(1)
    return [float(whole * np.interp(each, shown_F, factor_F)) for each in wanted]


def _error(sure_N: NDArray[np.float64], came_N: NDArray[np.float64], bin_N: NDArray[np.int64], bins: int) -> float:
    gap = np.bincount(bin_N, weights=sure_N - came_N, minlength=bins)
    return float(np.abs(gap).sum() / len(sure_N))
