"""Agreement beyond chance: Cohen's kappa of two people, and Krippendorff's alpha of any number who need not have judged everything.

Both are (A - C) / (1 - C), with A the agreement that was seen and C the one that chance would give. Both are nominal: whatever is not
equal disagrees wholly. **Intervals**: that of A carried over, C held at what was seen. A's is Wilson's (1927) on an effective number of
pairs (`stats.score_interval`), so it has width where all agree. The spread behind that number is the larger of two: that of A, and that
of the whole measure with C moving too, each pair's pull to first order (as for kappa: Fleiss, Cohen and Everitt 1969). Putting these
together is ours; lab/LOG.md has how often the intervals cover. The bootstrap's have no width where all agree, and cover 6 times in 10
at ten pairs.

Leaves out whose choices they are (`judges`).

Shapes: P pairs that were judged by two or more, C choices.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from backflip.data import Estimate
from backflip.measures.stats import score_interval

NOMINAL = (
    "Krippendorff's alpha and Cohen's kappa are nominal: to them a tie against a choice is a whole disagreement, not half of one, "
    "so they may be low where agreement is not."
)
"""What must be said wherever these stand beside agreement that counts ties by half."""
LEAST = -1.0
"""No agreement is further below chance than this."""
ALIKE = 1e-12
"""By how much chance must fall short of sure agreement for anything to be beyond it."""


def kappa(first_P: NDArray[np.int64], second_P: NDArray[np.int64]) -> Estimate | None:
    """Return Cohen's kappa (1960) of two people's choices on the same pairs; None where both made one and the same choice every time."""
    same_P = (first_P == second_P).astype(np.float64)
    _, both_P2 = np.unique(np.stack([first_P, second_P], 1), return_inverse=True)
    one_P, two_P = both_P2.reshape(-1, 2).T
    one_C, two_C = (np.bincount(each_P, minlength=both_P2.max() + 1) / len(same_P) for each_P in (one_P, two_P))
    chance_P = (two_C[one_P] + one_C[two_P]) / 2
    return _beyond(same_P, np.ones_like(first_P), float(chance_P.mean()), chance_P)


def alpha(count_PC: NDArray[np.int64]) -> Estimate | None:
    """Return Krippendorff's alpha (2011, section C) of how many people made each choice on each pair; None where all made one choice every time.

    A pair counts as many times as people judged it, and two people at least judged each.
    """
    judges_P, choices_C = count_PC.sum(1), count_PC.sum(0)
    total = int(judges_P.sum())
    same_P = (count_PC * (count_PC - 1)).sum(1) / (judges_P * (judges_P - 1))
    chance = float((choices_C * (choices_C - 1)).sum()) / (total * (total - 1))
    return _beyond(same_P, judges_P, chance, count_PC @ (choices_C / total) / judges_P)


def _beyond(
    same_P: NDArray[np.float64], weight_P: NDArray[np.int64], chance: float, chance_P: NDArray[np.float64]
) -> Estimate | None:
    """Return agreement beyond chance with its interval; `chance_P`: how likely each pair's choices are to be made by somebody."""
    if chance >= 1 - ALIKE:
        return None
    seen = float(np.average(same_P, weights=weight_P))
    # Chance is a product of two shares, so each pair moves it twice.
    moved_P = 2 * (chance_P - np.average(chance_P, weights=weight_P))
    found = score_interval(same_P, weight_P, -(1 - seen) / (1 - chance) * moved_P)
    value, low, high = ((part - chance) / (1 - chance) for part in (found.value, found.low, found.high))
    return Estimate(value, max(LEAST, low), high, found.n)
