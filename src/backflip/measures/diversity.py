"""How varied a policy's answers are: distinct n-grams, repetition, entropy, length.

A policy that repeats "a wonderful wonderful" may win every comparison; these numbers say so. Words are runs of letters
and digits, lower case. Left out: whether the answers are any good.

Shapes: B rows, T decisions.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import special

from backflip.data import Episodes, Estimate
from backflip.errors import DataError
from backflip.measures.stats import mean_interval
from backflip.protocols import Policy

WORD = re.compile(r"\w+")
ROWS_A_PASS = 128


def ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    """List the n-grams of words within one text, lower case."""
    words = WORD.findall(text.lower())
    return list(zip(*(words[i:] for i in range(n)), strict=False))


def distinct_n(texts: Sequence[str], n: int = 2, limit: int | None = None) -> Estimate:
    """Return the share of distinct n-grams among all n-grams of all texts (Li et al. 2016), with a jackknife interval.

    The share falls as more text is looked at: compare equal amounts, by taking the first `limit` n-grams of each.

    Raises:
        DataError: no text holds an n-gram.
    """
    rows = _first(texts, n, limit)
    found = _jackknife(_share(rows), _left_out(rows))
    return Estimate(found.value, max(0.0, found.low), min(1.0, found.high), found.n)


def distinct_ratio(ours: Sequence[str], theirs: Sequence[str], n: int = 2) -> Estimate:
    """Return distinct_n of `ours` over that of `theirs`, on equally many n-grams, with a jackknife interval over rows.

    Raises:
        DataError: either holds no n-gram.
    """
    limit = min(sum(len(ngrams(text, n)) for text in texts) for texts in (ours, theirs))
    one, two = _first(ours, n, limit), _first(theirs, n, limit)
    ratio = _share(one) / _share(two)
    first = _jackknife(ratio, _left_out(one) / _share(two))
    second = _jackknife(ratio, _share(one) / _left_out(two))
    reach = math.hypot(first.high - ratio, second.high - ratio)
    return Estimate(ratio, ratio - reach, ratio + reach, min(first.n, second.n))


def repetition(texts: Sequence[str], n: int = 1, groups: ArrayLike | None = None) -> Estimate:
    """Return the share of a text's n-grams that occurred before in the same text, averaged over texts.

    A text with no n-gram repeats nothing.
    """
    shares = [1 - len(set(grams)) / len(grams) if grams else 0.0 for grams in (ngrams(text, n) for text in texts)]
    return mean_interval(shares, groups)


def length_tokens(episodes: Episodes) -> Estimate:
    """Return the mean number of decisions a row, its interval clustered by group."""
    return mean_interval(episodes.mask_BT.sum(1).cpu().numpy(), episodes.group_B.cpu().numpy())


def entropy_nats(policy: Policy, episodes: Episodes) -> Estimate:
    """Return the policy's mean entropy a decision, nats, on its own answers; the interval is clustered by group."""
    values: list[NDArray[np.float64]] = []
    groups: list[NDArray[np.int64]] = []
    with torch.no_grad():
        for start in range(0, len(episodes), ROWS_A_PASS):
            part = episodes.select(range(start, min(start + ROWS_A_PASS, len(episodes))))
            mask_BT = part.mask_BT.cpu()
            values.append(policy.evaluate(part).entropy_BT.cpu()[mask_BT].double().numpy())
            groups.append(part.group_B.cpu()[:, None].expand(mask_BT.shape)[mask_BT].numpy())
    return mean_interval(np.concatenate(values), np.concatenate(groups))


def _first(texts: Sequence[str], n: int, limit: int | None) -> list[list[tuple[str, ...]]]:
    rows: list[list[tuple[str, ...]]] = []
    left = math.inf if limit is None else limit
    for text in texts:
        grams = ngrams(text, n)
        rows.append(grams if len(grams) <= left else grams[: int(left)])
        left -= len(rows[-1])
    rows = [row for row in rows if row]
    if not rows:
        raise DataError(f"no {n}-gram in {len(texts)} texts; expected texts of at least {n} words")
    return rows


def _share(rows: list[list[tuple[str, ...]]]) -> float:
    return len({gram for row in rows for gram in row}) / sum(len(row) for row in rows)


def _left_out(rows: list[list[tuple[str, ...]]]) -> NDArray[np.float64]:
    """Return the distinct share without each row in turn."""
    holders = Counter(gram for row in rows for gram in set(row))
    total, distinct = sum(len(row) for row in rows), len(holders)
    own = [sum(holders[gram] == 1 for gram in set(row)) for row in rows]
    rest = [max(1, total - len(row)) for row in rows]
    return (distinct - np.array(own, dtype=np.float64)) / np.array(rest, dtype=np.float64)


def _jackknife(value: float, left_out: NDArray[np.float64]) -> Estimate:
    rows = len(left_out)
    if rows == 1:
        return Estimate(value, -math.inf, math.inf, 1)
    error = math.sqrt((rows - 1) / rows * float(((left_out - left_out.mean()) ** 2).sum()))
    reach = float(special.stdtrit(rows - 1, 0.975)) * error
    return Estimate(value, value - reach, value + reach, rows)
