"""Null baselines that a reward model must beat, fitted on the same comparisons: length, majority, bag of words.

For texts. Each returns score differences on held-out comparisons; `measures/agreement` turns these into accuracies.

Shapes: N comparisons, F features.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import minimize
from scipy.special import expit

from backflip.data import Item
from backflip.errors import DataError
from backflip.rewards.comparisons import Comparison

WORD = re.compile(r"\w+(?:'\w+)?|[^\w\s]")


@dataclass(frozen=True)
class BagOfWords:
    """A linear score of which words and neighbouring pairs an answer holds."""

    weight: dict[str, float]

    def score(self, items: Sequence[Item]) -> NDArray[np.float64]:
        """Return one score an item: the sum of the weights of its distinct features."""
        return np.array([sum(self.weight.get(name, 0.0) for name in features_of(item)) for item in items])

    def delta(self, pairs: Sequence[Comparison]) -> NDArray[np.float64]:
        """Return score(first) - score(second) of every comparison."""
        return self.score([pair.first for pair in pairs]) - self.score([pair.second for pair in pairs])


def features_of(item: Item) -> list[str]:
    """List the distinct words and pairs of neighbouring words of an answer, lower case."""
    words = WORD.findall(item.content.lower())
    return list(dict.fromkeys([*words, *(f"{a} {b}" for a, b in pairwise(words))]))


def fit_bag_of_words(pairs: Sequence[Comparison], l2: float = 1.0, least: int = 2) -> BagOfWords:
    """Fit Bradley-Terry weights of words and pairs by L-BFGS.

    `l2` / 2 times the squared weights stand against the summed loss; a feature needs `least` answers that hold it.

    Raises:
        DataError: there are no comparisons.
    """
    if not pairs:
        raise DataError("no comparisons to fit a bag of words on; ask an overseer first")
    held = [(Counter(features_of(pair.first)), Counter(features_of(pair.second))) for pair in pairs]
    seen: Counter[str] = Counter()
    for item in {item.id: item for pair in pairs for item in (pair.first, pair.second)}.values():
        seen.update(features_of(item))
    column = {name: i for i, name in enumerate(sorted(name for name, count in seen.items() if count >= least))}
    data: list[float] = []
    index: list[int] = []
    start = [0]
    for first, second in held:
        for name in (first - second) + (second - first):
            if name in column:
                index.append(column[name])
                data.append(float(first[name] - second[name]))
        start.append(len(index))
    X_NF: Any = sparse.csr_matrix((data, index, start), shape=(len(pairs), len(column)))
    share_N = np.array([pair.share for pair in pairs])
    weight_N = np.array([pair.weight for pair in pairs])

    def loss(point: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        delta_N = X_NF @ point
        nats = weight_N @ (np.logaddexp(0, delta_N) - share_N * delta_N)
        return float(nats + 0.5 * l2 * point @ point), X_NF.T @ (weight_N * (expit(delta_N) - share_N)) + l2 * point

    found = minimize(loss, np.zeros(len(column)), jac=True, method="L-BFGS-B", options={"maxiter": 300})
    return BagOfWords(dict(zip(column, found.x.tolist(), strict=True)))


def length_delta(pairs: Sequence[Comparison], held: Sequence[Comparison]) -> NDArray[np.float64]:
    """Return length differences of `held` answers in words, with the sign that agrees better with `pairs`."""
    sign = 1.0 if float(_length_gap(pairs) @ _lean(pairs)) >= 0 else -1.0
    return sign * _length_gap(held)


def majority_delta(pairs: Sequence[Comparison], held: Sequence[Comparison]) -> NDArray[np.float64]:
    """Return the same answer for all of `held`: the place (first or second) that won more often in `pairs`."""
    return np.full(len(held), 1.0 if float(_lean(pairs).sum()) >= 0 else -1.0)


def baseline_deltas(pairs: Sequence[Comparison], held: Sequence[Comparison]) -> dict[str, NDArray[np.float64]]:
    """Fit all null baselines on `pairs`; return their score differences on `held`: length, majority, bag_of_words."""
    return {
        "length": length_delta(pairs, held),
        "majority": majority_delta(pairs, held),
        "bag_of_words": fit_bag_of_words(pairs).delta(held),
    }


def _lean(pairs: Sequence[Comparison]) -> NDArray[np.float64]:
    return np.array([pair.weight * np.sign(pair.share - 0.5) for pair in pairs])


def _length_gap(pairs: Sequence[Comparison]) -> NDArray[np.float64]:
    words = [[len(WORD.findall(item.content)) for item in (pair.first, pair.second)] for pair in pairs]
    gap_N2 = np.array(words, dtype=np.float64).reshape(-1, 2)
    return gap_N2[:, 0] - gap_N2[:, 1]
