"""What the judgements in a store are worth: each person's, each two people's, everybody's together; what talking about a pair changes; and
how what is asked beside a pair goes with the choice.

The owner's page and the report of a study read the same numbers here. Leaves out the measures themselves (`judges`, `discussion`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from backflip.data import Estimate, Judgement
from backflip.measures.discussion import Talk, talk
from backflip.measures.judges import (
    ENOUGH,
    Said,
    Worth,
    agreement,
    alpha,
    between,
    noise,
    people_pairs,
    weights,
    worth,
)
from backflip.measures.people import said_of
from backflip.measures.stats import share_interval
from backflip.store import Store
from backflip.store.judged import Judged, choice_of, judged_by_people
from backflip.store.opinions import Opinions, divided

PLACES = {"1": 0, "2": 1}
"""Answers to a further question that choose a place on the screen; the other one is a tie."""


@dataclass(frozen=True)
class Beside:
    """A question that is answered beside the choice: by a choice of its own, or in words."""

    question: str
    in_words: bool
    answered: int
    """Choices beside which it was answered; words of people who were erased are gone."""
    of: int
    """Choices in all."""
    agrees: Estimate | None
    """How often its answer is that of the whole judgement, ties counted as everywhere; of words nothing can be said."""


@dataclass(frozen=True)
class Quality:
    """What all judgements of a store are worth. People go by the name that their judgements are signed with."""

    people: list[tuple[Worth, float]]
    """Worth, and weight in a fit."""
    between: list[tuple[str, str, dict[str, Estimate | None]]]
    cut: int
    """Pairs of people that are left out of `between`."""
    alpha: Estimate | None
    why_no_alpha: str
    divided: list[Opinions]
    """Pairs on which people chose against each other."""
    talk: Talk
    beside: list[Beside]
    said: list[Said]
    """Every choice of which all this was computed."""


def quality(store: Store, unsaid: Collection[str] = (), most_between: int = 45) -> Quality:
    """Compute everything anew, without the judgements of these ids; nothing is drawn, so nothing flickers."""
    judged = [one for one in judged_by_people(store) if one.judgement.stored_id not in unsaid]
    chosen = [one for one in judged if one.judgement.answer is not None]
    said = [said_of(one) for one in chosen]
    weigh = weights(noise(said))
    people = [
        (worth(judge, said), weigh.get(judge, 1.0))  # no weight: nothing but ties
        for judge in sorted({one.judge for one in said})
    ]
    pairs = people_pairs(said)
    disputed = [one for each in divided(store) if (one := each.without(unsaid)).divided]
    agree, why = alpha(said)
    return Quality(
        people,
        [(a, b, between(a, b, said)) for a, b in pairs[:most_between]],
        max(0, len(pairs) - most_between),
        agree,
        why,
        disputed,
        _talk(disputed),
        beside(chosen),
        said,
    )


def beside(judged: Sequence[Judged]) -> list[Beside]:
    """Return how further questions and sub-questions were answered beside the choices of people, in the order in which they first were.

    The unit of an interval is the pair: answers to one pair go together, whoever gives them. Repetitions are left out.
    """
    usual = [one for one in judged if one.judgement.answer is not None and not one.again]
    agreed: dict[str, list[tuple[float, str]]] = defaultdict(list)
    words: dict[str, int] = {}
    for one in usual:
        assert one.judgement.answer is not None
        whole = one.choice(one.judgement.answer)
        for question, answer in (one.judgement.details.get("axes") or {}).items():
            agreed[question].append((agreement(_axis_choice(one, answer), whole), one.pair))
        for question, answer in (one.judgement.details.get("sub") or {}).items():
            words[question] = words.get(question, 0) + bool(answer)
    found = [Beside(question, True, count, len(usual), None) for question, count in words.items()]
    for question, each in agreed.items():
        shares, pairs = zip(*each, strict=True)
        enough = len(set(pairs)) >= ENOUGH
        found.append(Beside(question, False, len(each), len(usual), share_interval(shares, pairs) if enough else None))
    return found


def _axis_choice(one: Judged, answer: str) -> int:
    """Return the choice of a further question in the order of `Said.choice`: it was given by places on the screen."""
    if answer not in PLACES:
        return 0
    return 1 if one.shown[PLACES[answer]] == one.first else -1


def _chosen(told: Judgement, pair: str) -> Said:
    """Return a choice on a pair of a talk; all that is measured there is whether people agree."""
    assert told.answer is not None
    return Said(told.judge, pair, choice_of(told.answer), left_is_first=True)


def _talk(disputed: Sequence[Opinions]) -> Talk:
    """Compare what people said of pairs by themselves with what they said after the talk."""
    before = [_chosen(one, each.query.id) for each in disputed for one in (*each.alone, *each.blind) if one.answer]
    after = [_chosen(one, each.query.id) for each in disputed for one in each.discussed if one.answer]
    return talk(before, after)
