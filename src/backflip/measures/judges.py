"""What the judgements of people are worth: with each other, against known answers, and against themselves.

A choice is 1 (the first item of the pair, in an order of its own that nobody saw), -1 (the second) or 0 (a tie); "can't tell" is no
choice and is counted apart. **Convention for ties**: two choices agree by 1 where they are equal, ties included, by 1/2 where exactly
one of them is a tie, else by 0. Every number comes with its interval, and is None where there are too few to say (`ENOUGH`).

Leaves out where judgements come from, and every page.

Shapes: N judgements, J people, P pairs, C choices.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from backflip.data import Estimate
from backflip.measures import chance
from backflip.measures.stats import median_interval, score_interval, share_difference

ENOUGH = 10
"""Judgements below which nothing is said of them."""
CHOICES = (-1, 0, 1)
ROUNDS = 100
"""Steps of the estimate of everybody's noise; it has settled long before."""
PRIOR = (4.0, 1.0)
"""Beta prior on how often somebody is right: as if four right and one wrong answers had been seen of everybody."""


@dataclass(frozen=True)
class Said:
    """One choice of one person."""

    judge: str
    pair: str
    """Which two items, whatever their order, under which question."""
    choice: int
    """1: the pair's own first item, -1: its second, 0: a tie."""
    left_is_first: bool
    """Whether the pair's own first item stood left (or above)."""
    seconds: float | None = None
    at: float = 0.0
    """When, seconds since 1970."""
    known: int | None = None
    """The choice that is known to be right, where one is."""
    easy: bool = False
    """Whether whoever looks knows it: a check of attention."""
    again: bool = False
    """Whether the person judged this pair before, and was asked again with sides swapped."""
    longer: int = 0
    """1 where the first item is longer, -1 where the second is, 0 where they are as long or are no texts."""


@dataclass(frozen=True)
class Worth:
    """What one person's judgements are worth. None: too few to say."""

    judge: str
    judgements: int
    known_right: Estimate | None
    """Agreement with known answers."""
    attention: Estimate | None
    """The same on those that whoever looks knows."""
    with_others: Estimate | None
    """Agreement with other people on the same pairs."""
    with_themselves: Estimate | None
    """Agreement with their own earlier choice on repeated pairs."""
    left: Estimate | None
    """Share of decided choices that went to the left; 1/2 is no bias."""
    longer: Estimate | None
    """Share of decided choices between texts of unlike length that went to the longer; 1/2 is no bias."""
    seconds: Estimate | None
    """Median seconds a judgement."""
    drift: Estimate | None
    """Agreement with others and known answers in the later half, less that in the earlier one."""


def agreement(a: int, b: int) -> float:
    """Return how far two choices agree: 1, 1/2 where exactly one is a tie, 0."""
    return 1.0 if a == b else 0.5 if 0 in (a, b) else 0.0


def worth(judge: str, said: Sequence[Said]) -> Worth:
    """Return what one person's judgements are worth, beside everybody's."""
    mine = sorted((one for one in said if one.judge == judge), key=lambda one: one.at)
    usual = [one for one in mine if not one.again]
    others = _by_pair([one for one in said if one.judge != judge and not one.again and one.known is None])
    earlier: dict[str, int] = {}
    repeated: list[float] = []
    for one in mine:
        if one.again and one.pair in earlier:
            repeated.append(agreement(one.choice, earlier[one.pair]))
        earlier.setdefault(one.pair, one.choice)
    once = _once(usual)
    scored = [score for one in once if (score := _checked(one, others.get(one.pair, ()))) is not None]
    known = [agreement(one.choice, one.known) for one in once if one.known is not None]
    matched = [
        float(np.mean([agreement(one.choice, other.choice) for other in others[one.pair]]))
        for one in _once([one for one in usual if one.known is None])
        if one.pair in others
    ]
    decided = [one for one in usual if one.choice]
    left = [(one.choice == 1) == one.left_is_first for one in decided]
    longer = [one.choice == one.longer for one in decided if one.longer]
    times = [one.seconds for one in mine if one.seconds is not None]
    return Worth(
        judge,
        len(usual),
        _share(known),
        _share([agreement(one.choice, one.known) for one in once if one.known is not None and one.easy]),
        _share(matched),
        _share(repeated),
        _share([float(one) for one in left]),
        _share([float(one) for one in longer]),
        median_interval(times) if len(times) >= ENOUGH else None,
        _drift(scored),
    )


def between(first: str, second: str, said: Sequence[Said]) -> dict[str, Estimate | None]:
    """Return how two people agree on the pairs that both judged: `agreement`, and Cohen's `kappa` over the three choices.

    The intervals are those of `stats.score_interval` and `chance`.
    """
    usual = _once([one for one in said if not one.again and one.known is None])
    one, two = ({s.pair: s.choice for s in usual if s.judge == who} for who in (first, second))
    both = sorted(set(one) & set(two))
    a_P, b_P = (np.array([each[pair] for pair in both], dtype=np.int64) for each in (one, two))
    agree = [agreement(one[pair], two[pair]) for pair in both]
    return {"agreement": _share(agree), "kappa": chance.kappa(a_P, b_P) if len(both) >= ENOUGH else None}


def together(said: Sequence[Said], first: Collection[str] = (), second: Collection[str] = ()) -> Estimate | None:
    """Return how any two people agree on a pair, on average over the pairs that two or more judged; checks and repetitions are left out.

    With `first` and `second` it is somebody of the first with somebody of the second, such as researchers with labelers. The unit of the
    interval is the pair.
    """
    pairs = _by_pair([one for one in said if not one.again and one.known is None])
    shares: list[float] = []
    for each in pairs.values():
        two = [
            agreement(a.choice, b.choice)
            for a, b in combinations(each, 2)
            if not (first or second)
            or (a.judge in first and b.judge in second)
            or (b.judge in first and a.judge in second)
        ]
        shares += [float(np.mean(two))] if two else []
    return _share(shares)


def alpha(said: Sequence[Said]) -> tuple[Estimate | None, str]:
    """Return Krippendorff's alpha over everybody (nominal, missing data allowed), and why there is none where there is none.

    The interval is that of `chance.alpha`.
    """
    pairs = {
        pair: each
        for pair, each in _by_pair([one for one in said if not one.again and one.known is None]).items()
        if len(each) > 1
    }
    if len(pairs) < ENOUGH:
        return None, f"only {len(pairs)} pairs were judged by two people or more; {ENOUGH} are needed"
    count_PC = np.array([[sum(one.choice == choice for one in each) for choice in CHOICES] for each in pairs.values()])
    found = chance.alpha(count_PC)
    return found, "" if found else "everybody made the same choice every time: agreement beyond chance is not defined"


def noise(said: Sequence[Said]) -> dict[str, float]:
    """Estimate how often each person is right, from known answers and from everybody's agreement (Dawid and Skene 1979, one rate a person).

    Ties say nothing here. People about whom little is known stay near the prior's 0.8; nobody falls below 1/2: somebody who is
    reliably wrong should be talked to, not read backwards.
    """
    # To agree with oneself is not to be right; and whoever chooses where both are known to be equal is neither right nor wrong by one choice.
    decided = [one for one in _once([one for one in said if not one.again]) if one.choice and one.known != 0]
    pairs: dict[tuple[str, bool], list[Said]] = {}
    for one in decided:  # apart from checks: those whose agreement made an answer known are not checked by it
        pairs.setdefault((one.pair, one.known is not None), []).append(one)
    right = dict.fromkeys({one.judge for one in said if one.choice}, PRIOR[0] / sum(PRIOR))
    for _ in range(ROUNDS):
        first: dict[tuple[str, bool], float] = {}
        for pair, each in pairs.items():
            if any(one.known for one in each):
                first[pair] = float(next(one.known for one in each if one.known) == 1)
                continue
            odds = sum(one.choice * np.log(right[one.judge] / (1 - right[one.judge])) for one in each)
            first[pair] = float(1 / (1 + np.exp(-odds)))
        counted = {judge: [PRIOR[0], sum(PRIOR)] for judge in right}
        for pair, each in pairs.items():
            if len(each) < 2 and not any(one.known for one in each):
                continue  # nobody to agree with: it says nothing of the person
            for one in each:
                counted[one.judge][0] += first[pair] if one.choice == 1 else 1 - first[pair]
                counted[one.judge][1] += 1
        right = {judge: min(max(hits / all_, 0.5), 0.999) for judge, (hits, all_) in counted.items()}
    return right


def weights(right: Mapping[str, float]) -> dict[str, float]:
    """Return what each person's judgements weigh in a fit: 2 p - 1, on average 1; 0.1 at least, so that nobody is dropped.

    A choice that is right with probability p moves a fit on the average by 2 p - 1 of what a sure one does.
    """
    raw = {judge: max(2 * p - 1, 0.1) for judge, p in right.items()}
    mean = float(np.mean(list(raw.values()))) if raw else 1.0
    return {judge: value / mean for judge, value in raw.items()}


def people_pairs(said: Sequence[Said]) -> list[tuple[str, str]]:
    """Return all pairs of people, each once."""
    return list(combinations(sorted({one.judge for one in said}), 2))


def _once(said: Sequence[Said]) -> list[Said]:
    """Return what each person said first of each pair, checks apart.

    A pair may be asked of somebody under two questions, its items stored in either order, and nothing marks the second as a repetition.
    """
    found: dict[tuple[str, str, bool], Said] = {}
    for one in sorted(said, key=lambda one: one.at):
        found.setdefault((one.judge, one.pair, one.known is not None), one)
    return list(found.values())


def _by_pair(said: Sequence[Said]) -> dict[str, list[Said]]:
    """Return what was said of each pair, once by each person."""
    found: dict[str, list[Said]] = {}
    for one in _once(said):
        found.setdefault(one.pair, []).append(one)
    return found


def _checked(one: Said, others: Sequence[Said]) -> float | None:
    """Return how far a choice agrees with the known one, else with others'."""
    if one.known is not None:
        return agreement(one.choice, one.known)
    return float(np.mean([agreement(one.choice, other.choice) for other in others])) if others else None


def _share(values: Sequence[float]) -> Estimate | None:
    if len(values) < ENOUGH:
        return None
    return score_interval(np.array(values))


def _drift(scored: Sequence[float]) -> Estimate | None:
    half = len(scored) // 2
    if half < ENOUGH:
        return None
    early, late = (score_interval(np.array(part)) for part in (scored[:half], scored[half:]))
    return share_difference(late, early, len(scored))
