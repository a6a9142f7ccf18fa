"""The most reward that any policy can have at a KL: the exact frontier, where answers can be listed.

The best policy at a KL of k is the base tilted by exp(reward / beta), beta chosen so that the KL is k; over several openings
one beta serves them all. A method that is found above the frontier has a wrong KL. Left out: measuring a policy's
own reward and KL (`worlds.enumerable`, `measures.kl`).

Shapes: K openings, C answers to each.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

from backflip.errors import DataError


def tilted(base_logp_KC: ArrayLike, score_KC: ArrayLike, per_beta: float) -> NDArray[np.float64]:
    """Return log-probabilities of base * exp(score * per_beta) / Z, `per_beta` = 1 / beta; inf: only the best answers."""
    base_KC, score_KC = _checked(base_logp_KC, score_KC)
    lead_KC = score_KC - np.where(np.isfinite(base_KC), score_KC, -np.inf).max(1, keepdims=True)
    lead_KC = np.minimum(lead_KC, 0.0)  # answers that the base never gives stay impossible, whatever they score
    if np.isinf(per_beta):
        tilted_KC = np.where(lead_KC == 0, base_KC, -np.inf)
    else:
        tilted_KC = base_KC + lead_KC * per_beta
    return tilted_KC - logsumexp(tilted_KC, axis=1, keepdims=True)


def at_tilt(base_logp_KC: ArrayLike, score_KC: ArrayLike, per_beta: float) -> tuple[float, float]:
    """Return KL from the base (nats a sequence) and expected score of the tilted policy, means over openings."""
    base_KC, score_KC = _checked(base_logp_KC, score_KC)
    logp_KC = tilted(base_KC, score_KC, per_beta)
    p_KC = np.exp(logp_KC)
    with np.errstate(invalid="ignore"):
        ratio_KC = np.where(p_KC > 0, logp_KC - base_KC, 0.0)
    return float((p_KC * ratio_KC).sum(1).mean()), float((p_KC * score_KC).sum(1).mean())


def frontier(base_logp_KC: ArrayLike, score_KC: ArrayLike, kl_nats: float) -> float:
    """Return max E[score] over all policies with KL(policy || base) <= `kl_nats`, both means over openings.

    `base_logp_KC` are log-probabilities of every answer; or -ln N for each of N samples an opening, which gives the
    frontier of the sample: too low for the true one near ln N nats and beyond.

    Raises:
        DataError: probabilities that do not sum to 1, scores that are not finite, or a KL below 0.
    """
    return at_tilt(base_logp_KC, score_KC, tilt_at(base_logp_KC, score_KC, kl_nats))[1]


def tilt_at(base_logp_KC: ArrayLike, score_KC: ArrayLike, kl_nats: float) -> float:
    """Return 1 / beta of the tilted policy with this KL; inf where going all the way to the best answers costs no more.

    Raises:
        DataError: as `frontier` does.
    """
    base_KC, score_KC = _checked(base_logp_KC, score_KC)
    if not kl_nats >= 0:
        raise DataError(f"no policy has a KL of {kl_nats}; expected 0 nats or more")
    if kl_nats >= at_tilt(base_KC, score_KC, np.inf)[0]:
        return float("inf")
    low, high = 0.0, 1.0
    while at_tilt(base_KC, score_KC, high)[0] < kl_nats:
        low, high = high, 2 * high
        if high > 1e12:
            return float("inf")
    for _ in range(200):
        middle = 0.5 * (low + high)
        if at_tilt(base_KC, score_KC, middle)[0] < kl_nats:
            low = middle
        else:
            high = middle
    return high


def _checked(base_logp_KC: ArrayLike, score_KC: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return both as float64 (K, C), having looked that they are what they are said to be."""
    base_KC = np.atleast_2d(np.asarray(base_logp_KC, dtype=np.float64))
    score_KC = np.atleast_2d(np.asarray(score_KC, dtype=np.float64))
    if base_KC.shape != score_KC.shape or not np.isfinite(score_KC).all():
        raise DataError(
            f"log-probabilities {base_KC.shape} and scores {score_KC.shape} must have one shape, scores finite"
        )
    total_K = np.exp(base_KC).sum(1)
    if not (np.abs(total_K - 1) < 1e-4).all():
        raise DataError(f"the probabilities of opening {int(np.abs(total_K - 1).argmax())} do not sum to 1")
    return base_KC - np.log(total_K)[:, None], score_KC
