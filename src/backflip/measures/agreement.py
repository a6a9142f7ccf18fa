"""How often a reward model (or a baseline) agrees with held-out answers, and how often anything could.

Accuracy without its ceiling says little: a judge who answers at random one time in four caps everybody.

Shapes: N comparisons.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from backflip.data import Estimate
from backflip.errors import DataError
from backflip.measures.stats import finite, mean_interval, share_interval, wilson


def accuracy(delta_N: ArrayLike, share_N: ArrayLike, groups: ArrayLike | None = None) -> Estimate:
    """Return the share of decisive answers that the sign of `delta_N` gives; equal scores count one half.

    `share_N` is each answer's probability that the first is better; ties (1/2) are left out, n says how many remain.
    With `groups` (comparisons that share a prompt) the interval is clustered.

    Raises:
        DataError: the lengths differ, or no answer is decisive.
    """
    delta, share = finite(delta_N, "score differences"), finite(share_N, "answers")
    if len(delta) != len(share):
        raise DataError(f"{len(delta)} score differences for {len(share)} answers; expected one each")
    decisive = share != 0.5
    if not decisive.any():
        raise DataError(f"none of {len(share)} held-out answers is decisive; ask for more comparisons")
    right = (np.sign(delta) * np.sign(share - 0.5) + 1)[decisive] / 2
    if groups is None:
        return wilson(float(right.sum()), len(right))
    return share_interval(right, np.asarray(groups).ravel()[decisive])


def set_aside(fits: Sequence[Mapping[str, float]]) -> Estimate | None:
    """Return how often reward models order the comparisons that they set aside from their own fit as those were answered.

    `fits` are the statistics of each member's fit. Members set different comparisons aside, which may overlap: the mean of their
    accuracies, the n of one. Comparisons of one prompt are not independent: no more than its prompts count. None where nothing decisive
    was set aside.
    """
    held = [fit for fit in fits if "held_out_accuracy" in fit]
    if not held:
        return None
    right = sum(fit["held_out_accuracy"] for fit in held) / len(held)
    number = int(min(held[0]["held_out_n"], held[0]["held_out_prompts"]))
    return wilson(right * number, number)


def ceiling(probability_N: ArrayLike, groups: ArrayLike | None = None) -> Estimate:
    """Return the accuracy that knowing each answer's probability gives: the mean of max(p, 1 - p).

    For a synthetic teacher, whose probabilities are known (`SyntheticTeacher.chance`).

    Raises:
        DataError: a number is no probability.
    """
    probability = finite(probability_N, "probabilities")
    if ((probability < 0) | (probability > 1)).any():
        raise DataError("a ceiling needs probabilities in [0, 1]; pass the teacher's chances, not scores")
    return mean_interval(np.maximum(probability, 1 - probability), groups)


def ceiling_from_repeats(agreement: Estimate) -> Estimate:
    """Return the ceiling for a judge who agrees with his own repeated answers at the rate `agreement`.

    If every answer is wrong independently with probability e, then two agree with 1 - 2 e (1 - e); the ceiling is
    1 - e = (1 + sqrt(2 a - 1)) / 2. An agreement at or below 1/2 gives 1/2: no better than guessing. Where pairs differ in
    how hard they are, this is an upper bound.
    """

    def top(a: float) -> float:
        return (1 + math.sqrt(max(0.0, 2 * min(a, 1.0) - 1))) / 2

    return Estimate(top(agreement.value), top(agreement.low), top(agreement.high), agreement.n)
