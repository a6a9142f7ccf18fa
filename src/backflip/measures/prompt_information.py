"""Whether answers depend on what was asked: the mutual information between prompt and answer, nats.

    I(prompt; answer) = mean over prompts k of  sum over answers c of  p(c | k) * ln(p(c | k) / p(c)),   p(c) = mean over k of p(c | k)

Prompts are taken for equally likely. 0 for a policy that answers every prompt alike, ln K for one whose answer betrays which of the K prompts it
was given. A policy may be varied and yet deaf: entropy does not see that. Left out: whether the dependence is a good one.

Shapes: K prompts, C answers, B sampled answers.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logsumexp

from backflip.data import Estimate
from backflip.errors import DataError
from backflip.measures.stats import mean_interval


def exact_prompt_information(logp_KC: ArrayLike) -> float:
    """Return I(prompt; answer), nats, where every answer's log-probability under every prompt is known.

    Raises:
        DataError: the probabilities of a prompt do not sum to 1.
    """
    logp_KC = np.atleast_2d(np.asarray(logp_KC, dtype=np.float64))
    total_K = np.exp(np.asarray(logsumexp(logp_KC, axis=1)))
    if not (np.abs(total_K - 1) < 1e-4).all():
        raise DataError(f"the probabilities of prompt {int(np.abs(total_K - 1).argmax())} do not sum to 1")
    p_KC = np.exp(logp_KC)
    with np.errstate(invalid="ignore"):
        mixed_C = np.asarray(logsumexp(logp_KC, axis=0)) - math.log(len(logp_KC))
        lead_KC = np.where(p_KC > 0, logp_KC - mixed_C, 0.0)
    return max(0.0, float((p_KC * lead_KC).sum(1).mean()))


def prompt_information(logp_BK: ArrayLike, asked_B: ArrayLike) -> Estimate:
    """Estimate I(prompt; answer), nats, from sampled answers whose log-probability under every prompt is known.

    `logp_BK`: of answer b under prompt k; `asked_B`: the prompt under which it was sampled, each prompt equally often. Unbiased over the
    answers for these K prompts, and at most ln K. The interval is over prompts.

    Raises:
        DataError: a prompt was asked more often than another, or an answer is impossible under its own prompt.
    """
    logp_BK, asked_B = np.asarray(logp_BK, dtype=np.float64), np.asarray(asked_B, dtype=np.int64)
    if logp_BK.ndim != 2 or len(asked_B) != len(logp_BK) or not len(asked_B):
        raise DataError(f"log-probabilities {logp_BK.shape} of {len(asked_B)} answers; expected answers by prompts")
    prompts = logp_BK.shape[1]
    if asked_B.min() < 0 or asked_B.max() >= prompts or np.ptp(np.bincount(asked_B, minlength=prompts)):
        raise DataError(
            f"answers to {prompts} prompts must be equally many of each; got {np.bincount(asked_B).tolist()}"
        )
    own_B = logp_BK[np.arange(len(asked_B)), asked_B]
    if not np.isfinite(own_B).all():
        raise DataError("an answer is impossible under the prompt that it was sampled for; expected its own policy's")
    return mean_interval(own_B - np.asarray(logsumexp(logp_BK, axis=1)) + math.log(prompts), asked_B)
