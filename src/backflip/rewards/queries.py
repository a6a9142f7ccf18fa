"""Which clips and pairs of them are worth a question, and when: random, where the ensemble disagrees, or half and half.

The reason stands in the query, so that its worth can be measured later. Left out: asking.

Shapes: M members, N candidate pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from backflip.data import Episodes, Query, concat
from backflip.errors import ConfigError
from backflip.protocols import World
from backflip.rewards.members import MemberRewards
from backflip.worlds.control import cut

CANDIDATES = 10
"""Pairs drawn for each that is asked about by disagreement (Christiano et al. 2017, sec. 2.2.4)."""
TRIES = 10
"""Times that pairs are drawn anew in place of those that were drawn before."""
Choice = Literal["random", "disagreement", "mixed"]


@dataclass(frozen=True)
class Asking:
    """How pairs are chosen."""

    clip_steps: int
    how: Choice
    question: str
    older_share: float = 0.0
    """Share of pairs whose second clip is one that was asked about before."""


def choose(
    rows: Episodes,
    world: World,
    reward: MemberRewards | None,
    count: int,
    asking: Asking,
    rng: np.random.Generator,
    older: Episodes | None = None,
) -> list[Query]:
    """Cut clips from `rows` and return `count` comparisons of two, which of them is shown first drawn at random.

    disagreement: of ten times as many pairs those whose preference varies most over the members. mixed: half of each. Before
    there is a fitted `reward` (None) all are random. With `older` clips a share of the pairs compares then with now: a reward fitted on
    pairs of one moment alone is free to prefer whatever the policy does at that moment to all that came before. No two questions are
    alike and none is about one clip twice, so of very short rows there may be fewer than `count`.
    """
    return _unlike(
        count,
        lambda missing: [
            query
            for query in _drawn(rows, world, reward, missing, asking, rng, older)
            if query.items[0].id != query.items[1].id
        ],
    )


def choose_single(
    rows: Episodes,
    world: World,
    reward: MemberRewards | None,
    count: int,
    asking: Asking,
    rng: np.random.Generator,
) -> list[Query]:
    """Cut clips from `rows` and return `count` questions what one is worth; no two are alike.

    disagreement: of ten times as many those whose sum varies most over the members, each normalised. Otherwise as `choose`.
    """

    def draw(missing: int) -> list[Query]:
        chosen = _by_disagreement(reward, missing, asking)
        clips = cut(rows, asking.clip_steps, missing - chosen + CANDIDATES * chosen, rng)
        picked = [(place, "random") for place in range(missing - chosen)]
        if chosen and reward is not None:
            rest = clips.select(list(range(missing - chosen, len(clips))))
            spread = reward.members(rest).sum(-1).var(0, correction=0)
            order = torch.argsort(spread, descending=True, stable=True)[:chosen].tolist()
            picked += [(missing - chosen + place, "disagreement") for place in order]
        items = world.show(clips.select([place for place, _ in picked]))
        return [
            Query((item,), asking.question, kind="rate", reason=why)
            for item, (_, why) in zip(items, picked, strict=True)
        ]

    return _unlike(count, draw)


def _unlike(count: int, draw: Callable[[int], list[Query]]) -> list[Query]:
    """Return `count` questions of which no two are alike; what is missing is drawn anew, at most `TRIES` times."""
    found: dict[str, Query] = {}
    for _ in range(TRIES):
        if len(found) == count:
            break
        for query in draw(count - len(found)):
            found.setdefault(query.id, query)
    return list(found.values())


def _by_disagreement(reward: MemberRewards | None, count: int, asking: Asking) -> int:
    """Return how many of `count` questions are chosen by what the ensemble disagrees on; none before there is one."""
    return {"random": 0, "disagreement": count, "mixed": count // 2}["random" if reward is None else asking.how]


def _drawn(
    rows: Episodes,
    world: World,
    reward: MemberRewards | None,
    count: int,
    asking: Asking,
    rng: np.random.Generator,
    older: Episodes | None,
) -> list[Query]:
    chosen = _by_disagreement(reward, count, asking)
    drawn = 2 * (count - chosen + CANDIDATES * chosen)
    clips = cut(rows, asking.clip_steps, drawn, rng)
    pairs = np.arange(drawn).reshape(-1, 2)
    if older is not None and asking.older_share > 0:
        with_older = np.flatnonzero(rng.random(len(pairs)) < asking.older_share)
        pairs[with_older, 1] = drawn + rng.integers(0, len(older), len(with_older))
        clips = concat([clips, older])
    picked = [(pair, "random") for pair in pairs[: count - chosen]]
    if chosen and reward is not None:
        rest = pairs[count - chosen :]
        p_MN = reward.preference_MN(clips.select(rest[:, 0].tolist()), clips.select(rest[:, 1].tolist()))
        order = torch.argsort(p_MN.var(0, correction=0), descending=True, stable=True)[:chosen].tolist()
        picked += [(rest[place], "disagreement") for place in order]
    items = world.show(clips.select(np.concatenate([pair for pair, _ in picked]).tolist()))
    turned = rng.permutation(len(picked)) % 2
    orders = ((0, 1), (1, 0))
    queries = [
        Query((items[2 * k], items[2 * k + 1]), asking.question, order=orders[int(turned[k])])
        for k in range(len(picked))
    ]
    return [replace(query, reason=why) for query, (_, why) in zip(queries, picked, strict=True)]


def labels_due(steps: int, total_steps: int, labels: int, first: int, constant: float) -> int:
    """Return how many labels should have been asked for after `steps` of `total_steps`; exactly `labels` at the end.

    The rate falls as constant / (steps + constant) (Christiano et al. 2017, A.1): first + (labels - first) * ln(1 + steps /
    constant) / ln(1 + total / constant).

    Raises:
        ConfigError: more first labels than labels, or a constant that is not above 0.
    """
    if not 0 <= first <= labels or constant <= 0 or total_steps < 1:
        raise ConfigError(
            f"a schedule of {labels} labels, {first} of them at first, constant {constant}: expected 0 <= first <= labels"
        )
    share = math.log1p(min(steps, total_steps) / constant) / math.log1p(total_steps / constant)
    return min(labels, first + round((labels - first) * share))
