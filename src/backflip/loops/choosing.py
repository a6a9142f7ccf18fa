"""Which pairs of answers are worth a question: random ones, those on which the reward models so far disagree, or half and half.

The reason stands in the query, so that its worth can be measured. Left out: asking (`asking`), and pairs of clips (`rewards.queries`).

Shapes: B rows, two to a pair; N pairs, M members.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from backflip.data import Episodes
from backflip.errors import ConfigError
from backflip.rewards.model import SequenceRewardModel
from backflip.rewards.queries import Choice


@dataclass(frozen=True)
class Asking:
    """How a round's pairs are chosen."""

    how: Choice
    candidates: int
    """Pairs drawn for each that is asked about."""
    models: Sequence[SequenceRewardModel]
    """Who disagrees: the reward models of the round before."""


def disagreement_N(models: Sequence[SequenceRewardModel], rows: Episodes) -> Tensor:
    """Return, for rows 2k and 2k + 1, the variance over the models of the probability that the first is preferred, (N,)."""
    raw_MB = torch.stack([model.score_B(rows) for model in models])
    return torch.sigmoid(raw_MB[:, 0::2] - raw_MB[:, 1::2]).var(0, correction=0).cpu()


def choose(asking: Asking, rows: Episodes, count: int) -> list[tuple[int, str]]:
    """Return which `count` of the pairs of rows to ask about, each with its reason: first the random ones, which are the first.

    disagreement: the most disputed of all; mixed: half of them random, and the most disputed of the others (Christiano et al. 2017, section 2.2.4).
    """
    disputed = {"random": 0, "disagreement": count, "mixed": count // 2}[asking.how]
    kept = count - disputed
    picked = [(place, "random") for place in range(kept)]
    if disputed:
        spread_N = disagreement_N(asking.models, rows.select(range(2 * kept, len(rows))))
        order = torch.argsort(spread_N, descending=True, stable=True)[:disputed]
        picked += [(kept + place, "disagreement") for place in order.tolist()]
    return picked


def check_queries(queries: Choice, candidates: int, rounds: int, members: int) -> None:
    """Refuse to choose by a disagreement that cannot be known.

    Raises:
        ConfigError: there is one round or one member; or fewer candidates than 1.
    """
    if candidates < 1:
        raise ConfigError(f"candidates is {candidates}, expected 1 or more")
    if queries != "random" and (rounds < 2 or members < 2):
        raise ConfigError(
            f"queries is {queries} with {rounds} rounds and {members} members; expected 2 or more of both: the models of the round before "
            "disagree, and those of the first have none before them"
        )
