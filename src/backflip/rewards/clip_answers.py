"""What answers about clips say of an ensemble of rewards: comparisons of two by Bradley-Terry, scores of one by least squares.

Both are sums over a clip's steps, undiscounted (Christiano et al. 2017, sec. 2.2.1 and the regression of fig. 5). Left out: the steps
that are taken on them (`clips.ClipFit`).

Shapes: M members, B answers of a batch, R distinct clips.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import torch
from torch import Tensor

from backflip.data import Episodes, Item, Judgement, Query
from backflip.errors import DataError
from backflip.protocols import World
from backflip.rewards.comparisons import Comparison
from backflip.rewards.fit import Rows, bradley_terry_loss
from backflip.rewards.members import MemberRewards


@dataclass(frozen=True)
class Score:
    """A clip and the score in [0, 1] that an overseer gave it."""

    item: Item
    value: float
    weight: float = 1.0


Answer = Comparison | Score


def scores(queries: Iterable[Query], judgements: Iterable[Judgement]) -> tuple[list[Score], dict[str, int]]:
    """Join judgements to their queries of kind "rate", in the order of the judgements; the counts are those of `comparisons`.

    Raises:
        DataError: a judgement's query is not among `queries`, or is no rating of one item.
    """
    by_id: Mapping[str, Query] = {query.id: query for query in queries}
    found: list[Score] = []
    counts = {"judgements": 0, "unanswered": 0, "ties": 0}
    for one in judgements:
        query = by_id.get(one.query_id)
        if query is None or query.kind != "rate" or len(query.items) != 1:
            raise DataError(
                f"a judgement answers query {one.query_id}; expected a rating of one item among those given"
            )
        counts["judgements"] += 1
        if one.answer is None:
            counts["unanswered"] += 1
            continue
        found.append(Score(query.items[0], one.answer[0], one.strength))
    return found, counts


class Loaded(Protocol):
    """Answers with their clips as rows."""

    @property
    def episodes(self) -> Episodes:
        """Every distinct clip once."""
        ...

    def loss(
        self, reward: MemberRewards, at_B: Tensor, weight_MB: Tensor, noise: float, rng: np.random.Generator
    ) -> Tensor:
        """Return the weighted mean loss of the answers at `at_B`, over members too, with gradients."""
        ...

    def measure(self, reward: MemberRewards, noise: float) -> dict[str, float]:
        """Return `loss` (mean over members), `accuracy` of the mean of the members, and on how many pairs, `n`."""
        ...


@dataclass(frozen=True)
class Compared:
    """Comparisons of two clips."""

    rows: Rows

    @classmethod
    def of(cls, world: World, pairs: Sequence[Comparison]) -> Self:
        """Load them."""
        return cls(Rows.of(world, pairs))

    @property
    def episodes(self) -> Episodes:
        """Every distinct clip once."""
        return self.rows.episodes

    def loss(
        self, reward: MemberRewards, at_B: Tensor, weight_MB: Tensor, noise: float, rng: np.random.Generator
    ) -> Tensor:
        """Return the Bradley-Terry loss in nats."""
        rows = self.rows
        used_R, inverse = torch.unique(torch.cat([rows.first_B[at_B], rows.second_B[at_B]]), return_inverse=True)
        score_MR = reward.fitting_MBT(rows.episodes.select(used_R), rng).sum(-1)
        first, second = inverse.chunk(2)
        delta_MB = score_MR[:, first] - score_MR[:, second]
        share_MB = rows.share_B[at_B].expand_as(delta_MB)
        return bradley_terry_loss(delta_MB, share_MB, (weight_MB * rows.weight_B[at_B]).clamp_min(1e-9), noise)

    @torch.no_grad()
    def measure(self, reward: MemberRewards, noise: float) -> dict[str, float]:
        """Return the loss, and the accuracy on those that are no ties."""
        rows = self.rows
        score_MR = reward.raw_MBT(rows.episodes).sum(-1)
        delta_MB = score_MR[:, rows.first_B] - score_MR[:, rows.second_B]
        share_MB = rows.share_B.expand_as(delta_MB)
        loss = bradley_terry_loss(delta_MB, share_MB, rows.weight_B.expand_as(delta_MB), noise)
        decisive_B = rows.share_B != 0.5
        right_B = (1 + torch.sign(delta_MB.mean(0)) * torch.sign(rows.share_B - 0.5))[decisive_B] / 2
        return {
            "loss": float(loss),
            "accuracy": float(right_B.mean()) if len(right_B) else 0.5,
            "n": float(len(right_B)),
        }


@dataclass(frozen=True)
class Scored:
    """Scores of single clips. Their level and scale are free as a reward's are, so 1 of them is worth `UNITS` of a clip's sum."""

    episodes: Episodes
    score_B: Tensor
    weight_B: Tensor
    UNITS = 10.0

    @classmethod
    def of(cls, world: World, given: Sequence[Score]) -> Self:
        """Load them."""
        value = torch.tensor([one.value for one in given])
        weight = torch.tensor([one.weight for one in given])
        return cls(world.load([one.item for one in given]), cls.UNITS * (value - 0.5), weight)

    def loss(
        self, reward: MemberRewards, at_B: Tensor, weight_MB: Tensor, noise: float, rng: np.random.Generator
    ) -> Tensor:
        """Return the mean squared error; it knows no noise."""
        sum_MB = reward.fitting_MBT(self.episodes.select(at_B), rng).sum(-1)
        weight_MB = (weight_MB * self.weight_B[at_B]).clamp_min(1e-9)
        return (weight_MB * (sum_MB - self.score_B[at_B]) ** 2).sum() / weight_MB.sum()

    @torch.no_grad()
    def measure(self, reward: MemberRewards, noise: float) -> dict[str, float]:
        """Return the error, and the share of disjoint pairs (each clip in one) with unlike scores that are ranked rightly."""
        sum_MB = reward.raw_MBT(self.episodes).sum(-1)
        error = (self.weight_B * (sum_MB - self.score_B) ** 2).sum(1) / self.weight_B.sum()
        half = len(self.score_B) // 2
        first, second = torch.arange(half), torch.arange(half, 2 * half)
        gap = torch.sign(self.score_B[first] - self.score_B[second])
        right = (1 + torch.sign(sum_MB.mean(0)[first] - sum_MB.mean(0)[second]) * gap)[gap != 0] / 2
        return {
            "loss": float(error.mean()),
            "accuracy": float(right.mean()) if len(right) else 0.5,
            "n": float(len(right)),
        }


def load(world: World, answers: Sequence[Answer]) -> Loaded:
    """Return answers of one kind, loaded.

    Raises:
        DataError: there are both kinds.
    """
    pairs = [one for one in answers if isinstance(one, Comparison)]
    single = [one for one in answers if isinstance(one, Score)]
    if pairs and single:
        raise DataError(f"{len(pairs)} comparisons and {len(single)} scores in one fit; expected one kind")
    return Compared.of(world, pairs) if pairs else Scored.of(world, single)
