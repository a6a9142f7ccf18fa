"""What a method had reached when its policy was a given number of nats away: gold read off a path of looks, at equal KL.

Methods end at different KLs, so their ends cannot be compared; their paths can, where both pass the same KL. Near the base gold grows like
d = sqrt(KL) (Gao et al. 2023), so between two looks the path is taken for straight in d: a chord that is straight in KL lies below it, the
more the further its looks are apart. Where they are far apart nothing is read. Left out: how the looks were made, and any claim beyond the
last of them.

Shapes: P looks, in the order of training.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from backflip.errors import DataError

WIDEST = 0.75
"""How far apart two looks may be, in sqrt(nats), for a value between them to be read; the first looks of a path that begins at the base may
be at 0 and 0.56 nats."""


def value_at_kl(kl_P: ArrayLike, value_P: ArrayLike, nats: float) -> float | None:
    """Return the value where the path first passes `nats`, in the units of the values; None where it is not known.

    It is read between the two looks on either side, straight in sqrt(KL); not known where there are none, or where they are further apart
    than WIDEST. A path may turn back: what counts is the first time. A look that lies exactly there is read as it is.

    Raises:
        DataError: the two differ in length, a number is not finite, or a KL is below 0 by more than rounding.
    """
    kl_P, value_P = np.asarray(kl_P, dtype=np.float64), np.asarray(value_P, dtype=np.float64)
    if kl_P.shape != value_P.shape or kl_P.ndim != 1 or not np.isfinite([kl_P, value_P]).all():
        raise DataError(f"KLs {kl_P.shape} and values {value_P.shape} must be as many, and finite")
    if len(kl_P) and kl_P.min() < -1e-6:
        raise DataError(f"a KL of {kl_P.min():g} nats; expected 0 or more")
    far_P, there = np.sqrt(kl_P.clip(min=0)), math.sqrt(nats)
    for place, far in enumerate(far_P):
        if kl_P[place] == nats:
            return float(value_P[place])
        if place and min(far_P[place - 1], far) < there < max(far_P[place - 1], far):
            if abs(far - far_P[place - 1]) > WIDEST:
                return None
            share = (there - far_P[place - 1]) / (far - far_P[place - 1])
            return float(value_P[place - 1] + share * (value_P[place] - value_P[place - 1]))
    return None
