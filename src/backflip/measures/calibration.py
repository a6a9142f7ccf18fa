"""Whether a reward model's probabilities mean what they say: of answers it gives 80 %, do 80 % come true?

Shapes: N comparisons.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from backflip.data import Estimate
from backflip.errors import DataError
from backflip.measures.stats import finite, groups_of

DRAWS = 500


@dataclass(frozen=True)
class Calibration:
    """The expected calibration error, what chance alone makes of it, and the bins of a reliability plot."""

    error: Estimate
    """Mean |predicted - observed| over bins, weighted by their number; the interval is a basic bootstrap's (Davison & Hinkley 1997, sec. 5.2)."""
    chance: float
    """The same error of a perfectly calibrated model on as many answers: an error near it is no evidence against one."""
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
    value = _error(sure_N, came_N, bin_N, bins)
    # A resample adds its own noise to every bin, so the quantiles lie above the value; they are mirrored at it.
    high, low = (max(0.0, 2 * value - float(q)) for q in np.quantile(drawn, [0.025, 0.975]))
    rows = [
        {
            "predicted": float(sure_N[bin_N == b].mean()),
            "observed": float(came_N[bin_N == b].mean()),
            "n": float((bin_N == b).sum()),
        }
        for b in range(bins)
        if (bin_N == b).any()
    ]
    return Calibration(
        Estimate(value, min(low, value), max(high, value), len(rows_of)), float(np.mean(perfect)), tuple(rows)
    )


def _error(sure_N: NDArray[np.float64], came_N: NDArray[np.float64], bin_N: NDArray[np.int64], bins: int) -> float:
    gap = np.bincount(bin_N, weights=sure_N - came_N, minlength=bins)
    return float(np.abs(gap).sum() / len(sure_N))
