"""Strengths of players from who won against whom (Bradley and Terry 1952), with intervals clustered by what they met on.

P(i beats j) = sigmoid(rating_i - rating_j); ratings are log-odds, and only their differences mean anything, so their mean is 0. A tie is
half a win to each. Comparisons on one prompt share its answers and are not independent, so the errors are those of a sandwich over
prompts (White 1982), which holds also where shares are fractions or no set of ratings fits. A sandwich of residuals that are all 0 (every
comparison a tie) would be no error at all: the likelihood's own stands in. What no ratings can say, a cycle, is named.

Shapes: N comparisons, A players, G groups (prompts).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, permutations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special
from scipy.sparse.csgraph import connected_components
from scipy.special import expit

from backflip.data import Estimate
from backflip.errors import DataError
from backflip.measures.stats import finite, groups_of

STEPS = 100
CLOSE = 1e-10
"""Newton ends where no rating moves further than this."""
NOTHING = 1e-6
"""A sandwich's variance below this part of the likelihood's own is that of residuals that are 0 but for rounding."""


@dataclass(frozen=True)
class Ratings:
    """Ratings with mean 0, and how they vary together."""

    rating_A: NDArray[np.float64]
    covariance_AA: NDArray[np.float64]
    groups: int
    """Independent units they rest on."""
    likelihood_AA: NDArray[np.float64]
    """The inverse information, as if all that a player met on one prompt were one comparison; used where no residual tells of a spread."""

    def of(self, player: int) -> Estimate:
        """Return one player's rating against the mean of all, log-odds."""
        return self._estimate(np.eye(len(self.rating_A))[player])

    def between(self, first: int, second: int) -> Estimate:
        """Return rating_first - rating_second: the log-odds that first beats second."""
        eye = np.eye(len(self.rating_A))
        return self._estimate(eye[first] - eye[second])

    def chance(self, first: int, second: int) -> float:
        """Return the probability that first beats second."""
        return float(expit(self.rating_A[first] - self.rating_A[second]))

    def _estimate(self, weight_A: NDArray[np.float64]) -> Estimate:
        value = float(weight_A @ self.rating_A)
        if self.groups == 1:
            return Estimate(value, -math.inf, math.inf, 1)
        variance, least = (float(weight_A @ each @ weight_A) for each in (self.covariance_AA, self.likelihood_AA))
        reach = float(special.stdtrit(self.groups - 1, 0.975)) * math.sqrt(
            least if variance < NOTHING * least else variance
        )
        return Estimate(value, value - reach, value + reach, self.groups)


def bradley_terry(
    first: Sequence[int],
    second: Sequence[int],
    share: ArrayLike,
    players: Sequence[str],
    groups: ArrayLike | None = None,
) -> Ratings:
    """Return the ratings of greatest likelihood for comparisons of player `first[n]` with `second[n]`.

    `share[n]` in [0, 1] is what first won (1, 0, a tie 1/2, or a mean of several judgements); `groups[n]` is the prompt, None: all differ.

    Raises:
        DataError: players never met, directly or through others; some won everything against the rest, so that no finite rating is
            likeliest; a share is outside [0, 1]; a player meets itself.
    """
    share_N = finite(share, "comparisons")
    first_N, second_N = np.asarray(first, dtype=np.int64), np.asarray(second, dtype=np.int64)
    if not len(first_N) == len(second_N) == len(share_N):
        raise DataError(
            f"{len(first_N)} first and {len(second_N)} second players of {len(share_N)} comparisons; expected as many"
        )
    if share_N.min() < 0 or share_N.max() > 1 or bool((first_N == second_N).any()):
        raise DataError("a share lies outside [0, 1], or a player meets itself; expected shares won against another")
    wins_AA = np.zeros((len(players), len(players)))
    np.add.at(wins_AA, (first_N, second_N), share_N)
    np.add.at(wins_AA, (second_N, first_N), 1 - share_N)
    _require_ratings(wins_AA, players)
    rating_A = _likeliest(wins_AA)
    inverse_AA = _inverse(_information(wins_AA, rating_A))
    group_N = groups_of(groups, len(share_N))
    count = int(group_N.max()) + 1
    surprise_N = share_N - expit(rating_A[first_N] - rating_A[second_N])
    score_GA = np.zeros((count, len(players)))
    np.add.at(score_GA, (group_N, first_N), surprise_N)
    np.add.at(score_GA, (group_N, second_N), -surprise_N)
    correction = count / (count - 1) if count > 1 else 1.0
    covariance_AA = inverse_AA @ (score_GA.T @ score_GA) @ inverse_AA * correction
    met_GA = np.zeros_like(score_GA)
    for each_N in (first_N, second_N):
        np.add.at(met_GA, (group_N, each_N), 1.0)
    together = float(((met_GA**2).sum(0) / met_GA.sum(0)).max())  # Kish's design effect were those of a prompt all one
    return Ratings(rating_A, covariance_AA, count, inverse_AA * together)


def cycles(beats_AA: NDArray[np.bool_]) -> list[tuple[int, int, int]]:
    """Return every triple in which each beats the next and the last the first; a cycle is named once."""
    found: list[tuple[int, int, int]] = []
    for trio in combinations(range(len(beats_AA)), 3):
        for _, b, c in (order for order in permutations(trio) if order[0] == trio[0]):
            a = trio[0]
            if beats_AA[a, b] and beats_AA[b, c] and beats_AA[c, a]:
                found.append((a, b, c))
    return found


def _require_ratings(wins_AA: NDArray[np.float64], players: Sequence[str]) -> None:
    """Raise DataError where ratings are not determined (Ford 1957): every player must be reachable from every other by wins."""
    parts, part_A = connected_components(wins_AA + wins_AA.T > 0, directed=False)
    if parts > 1:
        apart = " | ".join(", ".join(name for name, of in zip(players, part_A, strict=True) if of == part) for part in range(parts))  # fmt: skip
        raise DataError(f"some never met, directly or through others ({apart}); ratings need comparisons that join all")
    parts, part_A = connected_components(wins_AA > 0, directed=True, connection="strong")
    for part in range(parts if parts > 1 else 0):
        inside = part_A == part
        if not wins_AA[np.ix_(~inside, inside)].any():
            best = ", ".join(name for name, of in zip(players, inside, strict=True) if of)
            raise DataError(
                f"{best} won every comparison with the others, so no finite rating is likeliest; the win rates say all there is"
            )


def _likeliest(wins_AA: NDArray[np.float64]) -> NDArray[np.float64]:
    """Maximise the concave likelihood by Newton's method, a step halved while it does not help."""
    met_AA = wins_AA + wins_AA.T

    def fits(rating_A: NDArray[np.float64]) -> float:
        return -float((wins_AA * np.logaddexp(0, rating_A[None, :] - rating_A[:, None])).sum())

    rating_A = np.zeros(len(wins_AA))
    for _ in range(STEPS):
        chance_AA = expit(rating_A[:, None] - rating_A[None, :])
        slope_A = (wins_AA - met_AA * chance_AA).sum(1)
        step_A = _inverse(_information(wins_AA, rating_A)) @ slope_A
        while float(np.abs(step_A).max()) > CLOSE and fits(rating_A + step_A) < fits(rating_A):
            step_A = step_A / 2
        rating_A = rating_A + step_A
        if float(np.abs(step_A).max()) <= CLOSE:
            break
    return rating_A - rating_A.mean()


def _information(wins_AA: NDArray[np.float64], rating_A: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return minus the second derivative of the log-likelihood."""
    chance_AA = expit(rating_A[:, None] - rating_A[None, :])
    weight_AA = (wins_AA + wins_AA.T) * chance_AA * chance_AA.T
    return np.diag(weight_AA.sum(1)) - weight_AA


def _inverse(information_AA: NDArray[np.float64]) -> NDArray[np.float64]:
    """Invert on ratings with mean 0: what all share cannot be known."""
    players = len(information_AA)
    mean_AA = np.full((players, players), 1 / players)
    return np.asarray(np.linalg.inv(information_AA + mean_AA) - mean_AA, dtype=np.float64)
