"""What a method had reached when its policy was a given number of nats away: gold read off a path of looks, at equal KL.

Methods end at different KLs, so their ends cannot be compared; their paths can, where both pass the same KL. Between two looks the path
is taken for straight. Left out: how the looks were made, and any claim beyond the last of them.

Shapes: P looks, in the order of training.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from backflip.errors import DataError


def value_at_kl(kl_P: ArrayLike, value_P: ArrayLike, nats: float) -> float | None:
    """Return the value where the path first passes `nats`, in the units of the values; None where no two looks lie on either side of it.

    A path may turn back: what counts is the first time. A look that lies exactly there is read as it is.

    Raises:
        DataError: the two differ in length, a number is not finite, or a KL is below 0 by more than rounding.
    """
    kl_P, value_P = np.asarray(kl_P, dtype=np.float64), np.asarray(value_P, dtype=np.float64)
    if kl_P.shape != value_P.shape or kl_P.ndim != 1 or not np.isfinite([kl_P, value_P]).all():
        raise DataError(f"KLs {kl_P.shape} and values {value_P.shape} must be as many, and finite")
    if len(kl_P) and kl_P.min() < -1e-6:
        raise DataError(f"a KL of {kl_P.min():g} nats; expected 0 or more")
    for place, kl in enumerate(kl_P):
        if kl == nats:
            return float(value_P[place])
        if place and min(kl_P[place - 1], kl) < nats < max(kl_P[place - 1], kl):
            share = (nats - kl_P[place - 1]) / (kl - kl_P[place - 1])
            return float(value_P[place - 1] + share * (value_P[place] - value_P[place - 1]))
    return None
