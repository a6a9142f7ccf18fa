"""Comparisons: what overseers said of pairs, ready for a fit; held-out parts and bootstraps of them.

A comparison is a share in [0, 1] that the first of two items is better; a tie is one half. Judgements that could not be
made are left out and counted. Left out: the fit (`fit`), and choosing which pairs to ask about.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from backflip.data import Item, Judgement, Query
from backflip.errors import DataError


@dataclass(frozen=True)
class Comparison:
    """Two items and how an overseer answered."""

    first: Item
    second: Item
    share: float
    """Probability that the first is better, as answered; 0.5 is a tie."""
    weight: float = 1.0
    """The judgement's strength, times what its judge weighs."""


def comparisons(
    queries: Iterable[Query], judgements: Iterable[Judgement], weight: Mapping[str, float] | None = None
) -> tuple[list[Comparison], dict[str, int]]:
    """Join judgements to their queries, in the order of the judgements; a judge's `weight` (1 where none is given) times strength.

    Returns the comparisons and the counts `judgements`, `unanswered` (could not judge: left out) and `ties`.

    Raises:
        DataError: a judgement's query is not among `queries`, or is no comparison of two items.
    """
    by_id: Mapping[str, Query] = {query.id: query for query in queries}
    found: list[Comparison] = []
    counts = {"judgements": 0, "unanswered": 0, "ties": 0}
    for judgement in judgements:
        query = by_id.get(judgement.query_id)
        if query is None:
            raise DataError(
                f"a judgement answers query {judgement.query_id}, which was not given; pass the queries it belongs to"
            )
        if query.kind != "compare" or len(query.items) != 2:
            raise DataError(
                f"query {query.id} is {query.kind} of {len(query.items)} items; expected a comparison of two"
            )
        counts["judgements"] += 1
        if judgement.answer is None:
            counts["unanswered"] += 1
            continue
        counts["ties"] += judgement.answer[0] == judgement.answer[1]
        strength = judgement.strength * (weight or {}).get(judgement.judge, 1.0)
        found.append(Comparison(query.items[0], query.items[1], judgement.answer[0], strength))
    return found, counts


def split(
    pairs: Sequence[Comparison], held_out: float, rng: np.random.Generator
) -> tuple[list[Comparison], list[Comparison]]:
    """Divide comparisons into fitted and held-out ones so that no prompt is in both.

    At least one prompt is held out where `held_out` is above 0 and there are two; of a single prompt none can be.
    """
    prompts = list(dict.fromkeys(pair.first.prompt for pair in pairs))
    count = min(len(prompts) - 1, math.ceil(held_out * len(prompts))) if prompts else 0
    kept = {prompts[i] for i in rng.permutation(len(prompts))[:count]}
    return [p for p in pairs if p.first.prompt not in kept], [p for p in pairs if p.first.prompt in kept]


def bootstrap(pairs: Sequence[Comparison], rng: np.random.Generator) -> list[Comparison]:
    """Draw as many comparisons with replacement: one member's share of the evidence (Christiano et al. 2017, sec. 2.2.3).

    A comparison drawn k times comes once with k times its weight, so that a batch holds no copies.
    """
    drawn, times = np.unique(rng.integers(0, len(pairs), len(pairs)), return_counts=True)
    return [replace(pairs[i], weight=pairs[i].weight * int(k)) for i, k in zip(drawn, times, strict=True)]
