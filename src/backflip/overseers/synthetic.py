"""Synthetic teachers: they consult the ground truth, and err as the teachers of B-Pref do (Lee et al. 2021, sec. 4).

The one overseer that may read `backflip.truth`. Its answer to a query is a function of (seed, query id) alone, so a
resumed run asks and hears the same. It compares two items, or scores one. Left out: other kinds of judgement.

Shapes: T decisions of one item, N queries.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from backflip.data import Item, Judgement, Query, digest
from backflip.errors import ConfigError, DataError
from backflip.overseers.shown import SEVEN_POINTS, require_pair
from backflip.store import Store
from backflip.truth import StoredTruth

Truth = Callable[[Item], ArrayLike]
"""`backflip.truth.Truth`, or a function that returns one number."""


@dataclass(frozen=True)
class TeacherConfig:
    """How a teacher errs; the default never does."""

    beta: float = math.inf
    """Rationality: the first of two items wins with probability sigmoid(beta * difference of truth). inf: always the
    better one; 0: a coin."""
    myopic_gamma: float = 1.0
    """Discount of decisions by how long before the end they are; 1 sees the whole, 0.9 is B-Pref's Myopic."""
    mistake: float = 0.0
    """Probability that an answer is turned round. A tie is never turned round."""
    skip: float = 0.0
    """The teacher cannot judge two items whose undiscounted truths are both at most this; off unless above 0."""
    equal: float = 0.0
    """Items whose undiscounted truths differ by less than this are a tie; off unless above 0."""
    full_score: float = 0.0
    """The undiscounted truth that scores 1; its negative scores 0, between them the score is linear. 0: the teacher gives no scores."""
    grades: int = 0
    """Scores are given in this many steps, 7 being grades from 1 to 7; 0: as they are."""
    levels: tuple[float, ...] = ()
    """A graded answer: the probability that the first wins, rounded to the nearest of these. None: the answer is drawn, first or second."""
    sign: Literal[1, -1] = 1
    """-1 wants the opposite of the truth."""
    seed: int = 0
    """Together with the query's id it decides every draw."""

    def __post_init__(self) -> None:
        if (
            not self.beta >= 0
            or not 0 <= self.mistake <= 1
            or not 0 <= self.myopic_gamma <= 1
            or not self.full_score >= 0
            or not all(0 <= level <= 1 for level in self.levels)
            or self.grades == 1
            or self.grades < 0
            or self.sign not in (1, -1)
        ):
            raise ConfigError(
                "a teacher needs beta and full_score >= 0, mistake, myopic_gamma and levels in [0, 1], no grades or 2 and more, and sign 1 or -1; "
                "mend the one that is not"
            )


def teacher(name: str, *, beta: float = 1.0, mean_return: float = 0.0, seed: int = 0) -> TeacherConfig:
    """Return a teacher by name: B-Pref's oracle, stochastic, mistake, skip, equal, myopic; or graded, flipped, coin.

    graded says on a scale of seven how much better one is. `beta` is the rationality of stochastic, graded and flipped. `mean_return` is the average truth of recent items, over the
    length that is compared: skip and equal use a tenth of it, and are off where it is not above 0 (Lee et al. 2021, sec. 4).

    Raises:
        ConfigError: no teacher has that name.
    """
    exact = TeacherConfig(seed=seed)
    known: Mapping[str, TeacherConfig] = {
        "oracle": exact,
        "stochastic": replace(exact, beta=beta),
        "mistake": replace(exact, mistake=0.1),
        "skip": replace(exact, skip=max(0.0, 0.1 * mean_return)),
        "equal": replace(exact, equal=max(0.0, 0.1 * mean_return)),
        "myopic": replace(exact, myopic_gamma=0.9),
        "graded": replace(exact, beta=beta, levels=SEVEN_POINTS),
        "flipped": replace(exact, beta=beta, sign=-1),
        "coin": replace(exact, beta=0.0),
    }
    if name not in known:
        raise ConfigError(f'no teacher is named "{name}"; expected one of {", ".join(known)}')
    return known[name]


class SyntheticTeacher:
    """An overseer that answers at once, from the truth and the rules of `TeacherConfig`."""

    def __init__(self, store: Store, truth: Truth, config: TeacherConfig | None = None) -> None:
        """Answer queries of `store` after `truth`, an item's hidden reward: one number a decision, or one number."""
        self._store, self._truth = store, truth
        self.config = config or TeacherConfig()
        settings = asdict(self.config) | {"beta": repr(self.config.beta)}
        if not self.config.grades:  # who gives none is called as before there were any
            del settings["grades"]
        self.name = f"synthetic-{digest(settings)[:8]}"

    def ask(self, queries: Sequence[Query]) -> None:
        """Store the queries and answer those that are not answered yet.

        Raises:
            DataError: a query is neither a comparison of two nor, for a teacher with a `full_score`, a rating of one; or the truth of
                an item is not finite.
        """
        for query in queries:
            if query.kind != "rate" or len(query.items) != 1 or not self.config.full_score:
                require_pair(query, "a synthetic teacher")
        self.read_ahead(queries)
        self._store.add_queries(queries)
        states = self._store.states(query.id for query in queries)
        self._store.add_judgements([self.judge(query) for query in queries if states[query.id] != "answered"])

    def answers(self, since: int, wait: float = 0.0) -> tuple[list[Judgement], int]:
        """Return judgements after cursor `since` and the new cursor; there is never anything to wait for."""
        return self._store.judgements(since)

    def read_ahead(self, queries: Sequence[Query]) -> None:
        """Read the truth of all their items at once, where it is kept in the store."""
        if isinstance(self._truth, StoredTruth):
            self._truth.keep([item for query in queries for item in query.items])

    def judge(self, query: Query) -> Judgement:
        """Answer one query: a comparison by B-Pref's rules, in their order (skip, tie, draw, mistake), or a rating by its score."""
        if query.kind == "rate":
            return self._rate(query)
        first_T, second_T = (self._read(item) for item in query.items)
        first, second = float(first_T.sum()), float(second_T.sum())
        config = self.config
        if config.skip > 0 and max(first, second) <= config.skip:
            return Judgement(query.id, self.name, None, note="skipped: neither item is good enough to compare")
        if config.equal > 0 and abs(first - second) < config.equal:
            return Judgement(query.id, self.name, (0.5, 0.5))
        draw, slip = uniforms(config.seed, query.id)
        p = preference(first_T, second_T, config)
        if config.levels:
            share = min(config.levels, key=lambda level: abs(level - p))
            share = 1 - share if slip < config.mistake else share
            return Judgement(query.id, self.name, (share, 1 - share))
        wins = draw < p
        if slip < config.mistake:
            wins = not wins
        return Judgement(query.id, self.name, (1.0, 0.0) if wins else (0.0, 1.0))

    def score(self, item: Item) -> float:
        """Return the score in [0, 1] of one item, in grades where the teacher gives them; it errs in nothing."""
        return self._scored(float(self._read(item).sum()))

    def _scored(self, total: float) -> float:
        share, steps = min(1.0, max(0.0, 0.5 + total / (2 * self.config.full_score))), self.config.grades - 1
        return share if steps < 1 else round(share * steps) / steps

    def _rate(self, query: Query) -> Judgement:
        """Score one item as rationally as the teacher compares: two truths with Gumbel noise of scale 1 / beta differ as `preference` says."""
        config = self.config
        total = float(self._read(query.items[0]).sum())
        if config.skip > 0 and total <= config.skip:
            return Judgement(query.id, self.name, None, note="skipped: the item is not good enough to score")
        draw, slip = uniforms(config.seed, query.id)
        if config.beta == 0:
            score = self._scored((2 * draw - 1) * config.full_score)
        else:
            noise = -math.log(-math.log(max(draw, 1e-300))) - float(np.euler_gamma)
            score = self._scored(total + noise / config.beta)
        return Judgement(query.id, self.name, (1 - score if slip < config.mistake else score,))

    def chance(self, query: Query) -> float | None:
        """Return the probability that the teacher answers "the first", mistakes included; None where it skips.

        A tie is 1/2, a graded answer its share. For measures only (`measures.agreement.ceiling`): a learner that reads it reads the truth.
        """
        answer = self.judge(query).answer
        if answer is None or answer == (0.5, 0.5) or self.config.levels:
            return None if answer is None else answer[0]
        first_T, second_T = (self._read(item) for item in query.items)
        p = preference(first_T, second_T, self.config)
        return p * (1 - self.config.mistake) + (1 - p) * self.config.mistake

    def _read(self, item: Item) -> NDArray[np.float64]:
        value_T = self.config.sign * np.atleast_1d(np.asarray(self._truth(item), dtype=np.float64))
        if not np.isfinite(value_T).all():
            raise DataError(f"the truth of item {item.id} is not finite; a teacher cannot compare it")
        return value_T


def preference(first_T: NDArray[np.float64], second_T: NDArray[np.float64], config: TeacherConfig) -> float:
    """Return the probability that the first item is chosen, before mistakes; 1/2 where discounted truths are equal."""
    gap = discounted(first_T, config.myopic_gamma) - discounted(second_T, config.myopic_gamma)
    return 0.5 if gap == 0 else float(expit(config.beta * gap))


def discounted(value_T: NDArray[np.float64], gamma: float) -> float:
    """Sum truth with weight gamma ** (decisions until the end); the last decision weighs 1."""
    return float(value_T @ gamma ** np.arange(len(value_T) - 1, -1, -1))


def uniforms(seed: int, query_id: str) -> tuple[float, float]:
    """Return two independent uniform numbers in [0, 1) that depend on nothing but the arguments."""
    bits = hashlib.sha256(f"{seed}:{query_id}".encode()).digest()
    return int.from_bytes(bits[:7], "big") / 2**56, int.from_bytes(bits[8:15], "big") / 2**56


def beta_for_agreement(truth: Truth, queries: Sequence[Query], agreement: float) -> float:
    """Return the beta at which a stochastic teacher agrees with the truth's own choice on a share `agreement` of queries.

    Raises:
        ConfigError: the share is not in (1/2, 1), or ties of the truth keep it out of reach.
    """
    gap_N = np.array([abs(float(np.sum(truth(query.items[0])) - np.sum(truth(query.items[1])))) for query in queries])
    if not len(gap_N) or not 0.5 < agreement < 0.5 + 0.5 * float(np.mean(gap_N > 0)):
        raise ConfigError(
            f"no beta gives an agreement of {agreement} on {len(gap_N)} queries; expected a share above 1/2 that ties allow"
        )
    low, high = 0.0, 1.0
    while float(np.mean(expit(high * gap_N))) < agreement:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if float(np.mean(expit(middle * gap_N))) < agreement else (low, middle)
    return (low + high) / 2
