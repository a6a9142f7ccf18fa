"""What judgements are worth: each person's, each pair of people's, everybody's together; and what talking about a pair changes.

Leaves out the measures themselves (`backflip.measures.judges`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Lock

import numpy as np
from fastapi import APIRouter, Request, Response

from backflip.data import Estimate, Judgement
from backflip.measures.discussion import Talk, talk
from backflip.measures.judges import ENOUGH, Said, Worth, alpha, between, noise, people_pairs, weights, worth
from backflip.measures.people import said_of
from backflip.store.judged import choice_of, judged_by_people
from backflip.store.opinions import Opinions, divided
from backflip.web.adjudicating import still_open
from backflip.web.guard import Here, Owner, Place
from backflip.web.pages import show

router = APIRouter()
MOST_PAIRS_OF_PEOPLE = 45


@dataclass(frozen=True)
class Quality:
    """All that the page says."""

    people: list[tuple[str, Worth, float]]
    """Name, worth, weight in a fit."""
    between: list[tuple[str, str, dict[str, Estimate | None]]]
    alpha: Estimate | None
    why_no_alpha: str
    divided: int
    """Pairs on which people chose against each other."""
    talk: Talk
    cut: int = 0
    """Pairs of people that are not shown."""


@dataclass
class _Kept:
    """The last answer: it is computed again only when somebody judged, or when it must leave out something else."""

    at: tuple[int, frozenset[str]] = (-1, frozenset())
    found: Quality | None = None
    lock: Lock = field(default_factory=Lock)


@router.get("/quality")
def quality_page(request: Request, here: Here, session: Owner) -> Response:
    """Show what judgements are worth; whoever may still change their own does not learn whether it differs from others'."""
    kept: _Kept = request.app.state.__dict__.setdefault("kept_quality", _Kept())
    unsaid = frozenset(one.stored_id for one in still_open(here, session.person))
    at = (here.store.last_judgement(), unsaid)
    with kept.lock:
        if kept.found is None or kept.at != at:
            kept.at, kept.found = at, quality(here, unsaid)
        found = kept.found
    return show(request, "quality.html", session, found=found, enough=ENOUGH, said=said_of_estimate)


def quality(here: Place, unsaid: frozenset[str] = frozenset()) -> Quality:
    """Compute everything anew, without the judgements of these ids; the bootstraps draw from a fixed seed, so the page does not
    flicker."""
    judged = [one for one in judged_by_people(here.store) if one.judgement.stored_id not in unsaid]
    said = [said_of(one) for one in judged if one.judgement.answer is not None]
    rng = np.random.default_rng(0)
    names = {one.judge: one.name for one in here.people.everybody()}
    right = noise(said)
    weigh = weights(right)
    people = [
        (names.get(judge, judge), worth(judge, said, rng), weigh.get(judge, 1.0))
        for judge in sorted({one.judge for one in said}, key=lambda judge: names.get(judge, judge))
    ]
    pairs = people_pairs(said)
    disputed = [one for each in divided(here.store) if (one := each.without(unsaid)).divided]
    agree, why = alpha(said, rng)
    return Quality(
        people,
        [(names.get(a, a), names.get(b, b), between(a, b, said, rng)) for a, b in pairs[:MOST_PAIRS_OF_PEOPLE]],
        agree,
        why,
        len(disputed),
        _talk(disputed, rng),
        max(0, len(pairs) - MOST_PAIRS_OF_PEOPLE),
    )


def said_of_estimate(found: Estimate | None, kind: str = "share") -> str:
    """Return a number with its interval in words, or that there are too few."""
    if found is None:
        return "too few to say"
    scale, unit = (100, " %") if kind == "share" else (1, " s" if kind == "seconds" else "")
    digits = 0 if kind == "share" else 1 if kind == "seconds" else 2
    value, low, high = (f"{part * scale:.{digits}f}" for part in (found.value, found.low, found.high))
    return f"{value}{unit} ({low} to {high}), n = {found.n}"


def _chosen(told: Judgement, pair: str) -> Said:
    """Return a choice on a pair of a talk; all that is measured there is whether people agree."""
    assert told.answer is not None
    return Said(told.judge, pair, choice_of(told.answer), left_is_first=True)


def _talk(disputed: list[Opinions], rng: np.random.Generator) -> Talk:
    """Compare what people said of pairs by themselves with what they said after the talk."""
    before = [_chosen(one, each.query.id) for each in disputed for one in (*each.alone, *each.blind) if one.answer]
    after = [_chosen(one, each.query.id) for each in disputed for one in each.discussed if one.answer]
    return talk(before, after, rng)
