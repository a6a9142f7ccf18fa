"""How many of several known good things a policy still says: modes covered, and what that many modes are worth.

Modes are answers, or kinds of answers, that are to be told apart and not ranked: 20 answers with one reward, the first words that the base
begins with. A mode counts as covered where the policy gives it at least FLOOR of the share among all modes that the base gives it. Left out:
what the modes are (the caller's), and variety within them (`diversity`).

Shapes: M modes, C answers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from backflip.errors import DataError

FLOOR = 0.1
"""Of the base's share of a mode; what is below it has as good as left."""


def modes_covered(share_M: ArrayLike, base_M: ArrayLike, floor: float = FLOOR) -> int:
    """Return how many modes m have q(m) >= floor * b(m), q and b the policy's and the base's shares among the modes.

    `share_M`, `base_M`: probabilities or counts of the modes, not all 0; what lies outside the modes is for the caller to report. All modes of
    which the base gives anything are covered by the base itself, and by every optimum under a KL penalty that scores them alike, whose ratios
    are the base's (SYSTEMS 2.15); a policy that says one of M equally likely things covers 1.

    Raises:
        DataError: the two differ in length, a share is negative or not finite, or all are 0.
    """
    share_M, base_M = _shares(share_M), _shares(base_M)
    if len(share_M) != len(base_M):
        raise DataError(f"{len(share_M)} modes of the policy and {len(base_M)} of the base; expected the same modes")
    held_M = base_M > 0
    return int((share_M[held_M] >= floor * base_M[held_M] * (1 - 1e-9)).sum())


def effective_modes(share_M: ArrayLike) -> float:
    """Return exp(entropy) of the shares among the modes: as many equally likely modes would be as undecided. 1 to M.

    Raises:
        DataError: as `modes_covered`.
    """
    share_M = _shares(share_M)
    held_M = share_M[share_M > 0]
    return math.exp(-float((held_M * np.log(held_M)).sum()))


def entropy_bits(counts: ArrayLike) -> float:
    """Return the entropy of observed shares, bits: at most log2 of how many were observed, so compare equally many.

    Raises:
        DataError: as `modes_covered`.
    """
    return math.log2(effective_modes(counts))


def expected_distinct_share(p_C: ArrayLike, n: int) -> float:
    """Return the expected number of different answers among n independent ones, over n: sum of 1 - (1 - p)^n, divided by n.

    Raises:
        DataError: the probabilities do not sum to 1, or n is below 1.
    """
    p_C = np.asarray(p_C, dtype=np.float64)
    if n < 1 or (p_C < -1e-9).any() or abs(float(p_C.sum()) - 1) > 1e-6:
        raise DataError(f"probabilities that sum to {float(p_C.sum()):g} and n = {n}; expected a distribution, n >= 1")
    return float((-np.expm1(n * np.log1p(-np.clip(p_C, 0, 1 - 1e-15)))).sum()) / n


def commonest(kinds: Sequence[Hashable], count: int) -> list[Hashable]:
    """Return the `count` kinds seen most often, the earlier first where two are as common; fewer where there are not so many.

    Raises:
        DataError: nothing was seen.
    """
    if not kinds:
        raise DataError("no kinds to choose modes from; expected at least one answer")
    return [kind for kind, _ in Counter(kinds).most_common(count)]


def _shares(values: ArrayLike) -> NDArray[np.float64]:
    value_M = np.asarray(values, dtype=np.float64).ravel()
    if not len(value_M) or not np.isfinite(value_M).all() or (value_M < 0).any() or not value_M.any():
        raise DataError(f"shares of {len(value_M)} modes; expected finite ones of 0 or more, not all of them 0")
    return value_M / value_M.sum()
