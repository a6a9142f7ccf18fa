"""Preferences that no score can express: what a score must lose, who wins the game, and how far a policy can be beaten.

A preference over A answers is a table prob_AA, the probability that the row's answer is preferred to the column's. Left out:
learning from it (`optimise.nash_md`).

Shapes: A answers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize
from scipy.sparse.csgraph import connected_components
from scipy.special import expit, logsumexp

from backflip.errors import DataError


def checked(prob_AA: ArrayLike) -> NDArray[np.float64]:
    """Return the table as float64. Raises DataError unless it is square, in [0, 1], and P(a, b) + P(b, a) = 1."""
    table_AA = np.asarray(prob_AA, dtype=np.float64)
    square = table_AA.ndim == 2 and table_AA.shape[0] == table_AA.shape[1]
    if not square or not ((table_AA >= 0) & (table_AA <= 1)).all() or np.abs(table_AA + table_AA.T - 1).max() > 1e-9:
        raise DataError(
            f"a preference table of shape {table_AA.shape}: expected a square one with P(a, b) in [0, 1] and P(a, b) + P(b, a) = 1"
        )
    return table_AA


def bradley_terry(prob_AA: ArrayLike, count_AA: ArrayLike | None = None) -> NDArray[np.float64]:
    """Return the maximum-likelihood Bradley-Terry scores, mean 0, of a table met `count_AA` times a pair (default once).

    Raises:
        DataError: no finite scores exist: somebody always wins or always loses.
    """
    table_AA, weight_AA = checked(prob_AA), _counts(prob_AA, count_AA)
    answers = len(table_AA)
    parts, _ = connected_components(weight_AA * table_AA > 0, directed=True, connection="strong")
    if parts > 1:
        raise DataError("no finite Bradley-Terry scores: some answers win or lose every comparison with the others")

    def loss(score_A: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        lead_AA = score_A[:, None] - score_A[None, :]
        nats = float((weight_AA * table_AA * np.logaddexp(0, -lead_AA)).sum())
        pull_AA = weight_AA * table_AA * -expit(-lead_AA)
        return nats, pull_AA.sum(1) - pull_AA.sum(0)

    found: Any = optimize.minimize(loss, np.zeros(answers), jac=True, method="BFGS", options={"gtol": 1e-10})
    return np.asarray(found.x) - np.mean(found.x)


def irreducible_nats(prob_AA: ArrayLike, count_AA: ArrayLike | None = None) -> float:
    """Return what the best Bradley-Terry score loses to the table itself, nats a comparison: 0 where a score can express it."""
    table_AA, weight_AA = checked(prob_AA), _counts(prob_AA, count_AA)
    score_A = bradley_terry(table_AA, weight_AA)
    with np.errstate(divide="ignore", invalid="ignore"):
        true_AA = np.where(table_AA > 0, table_AA * np.log(table_AA), 0.0)
    fitted_AA = table_AA * -np.logaddexp(0, score_A[None, :] - score_A[:, None])
    return float((weight_AA * (true_AA - fitted_AA)).sum() / (weight_AA.sum() / 2))


def nash(prob_AA: ArrayLike) -> NDArray[np.float64]:
    """Return a mixture that no answer beats more often than half the time (the von Neumann winner), by linear programming."""
    table_AA = checked(prob_AA)
    answers = len(table_AA)
    found: Any = optimize.linprog(
        np.r_[np.zeros(answers), -1.0],
        A_ub=np.c_[-table_AA.T, np.ones(answers)],
        b_ub=np.zeros(answers),
        A_eq=[np.r_[np.ones(answers), 0.0]],
        b_eq=[1.0],
        bounds=[(0, None)] * answers + [(None, None)],
    )
    return np.asarray(found.x[:-1]) / np.sum(found.x[:-1])


def regularised_nash(prob_AA: ArrayLike, base_A: ArrayLike, tau: float) -> NDArray[np.float64]:
    """Return the equilibrium under a KL of weight `tau` to the base: pi = base * exp(P pi / tau) / Z (Munos et al. 2024, section 4).

    Found as the root of that equation, so it is a check on methods that iterate towards it. Raises DataError where none is found.
    """
    table_AA, base_logp_A = checked(prob_AA), np.log(np.asarray(base_A, dtype=np.float64))

    def best_reply(logp_A: NDArray[np.float64]) -> NDArray[np.float64]:
        total: Any = logsumexp(logp_A)
        tilted_A = base_logp_A + table_AA @ np.exp(logp_A - total) / tau
        total = logsumexp(tilted_A)
        return tilted_A - total

    found: Any = optimize.root(lambda logp_A: best_reply(logp_A) - logp_A, base_logp_A, tol=1e-13)
    logp_A = best_reply(np.asarray(found.x))
    if np.abs(best_reply(logp_A) - logp_A).max() > 1e-8:
        raise DataError(f"found no equilibrium at tau = {tau}; a larger tau makes the game easier")
    return np.exp(logp_A)


def exploitability(prob_AA: ArrayLike, policy_A: ArrayLike) -> float:
    """Return how much more often than half the time the best single answer is preferred to this policy; 0 for a winner."""
    return float((checked(prob_AA) @ np.asarray(policy_A, dtype=np.float64)).max() - 0.5)


def _counts(prob_AA: ArrayLike, count_AA: ArrayLike | None) -> NDArray[np.float64]:
    """Return symmetric weights of pairs without the diagonal."""
    answers = len(np.asarray(prob_AA))
    weight_AA = np.ones((answers, answers)) if count_AA is None else np.asarray(count_AA, dtype=np.float64)
    if weight_AA.shape != (answers, answers) or (weight_AA < 0).any() or np.abs(weight_AA - weight_AA.T).max() > 0:
        raise DataError("counts of comparisons must be a symmetric table like the preferences, none below 0")
    return weight_AA * (1 - np.eye(answers))
