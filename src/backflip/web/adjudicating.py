"""Pairs on which people chose against each other: judged blind by somebody else first, then shown with everybody's answers, talked over,
and judged once more by whoever wants to.

Nobody sees another's answer to a pair before giving their own: `may_see` decides, on every page of this module. Leaves out what the
answers are worth (`quality`) and how a pair's answer is made known (`knowing`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from fastapi import APIRouter, Form, HTTPException, Request, Response
from fastapi.responses import RedirectResponse

from backflip.data import Judgement, Query
from backflip.errors import DataError
from backflip.store.desk import ADJUDICATE, DISCUSSED, MAY_UNDO
from backflip.store.judged import choice_of, purpose_of
from backflip.store.opinions import Opinions, divided, opinions_of
from backflip.store.people import Person, Session
from backflip.store.study import asked_again
from backflip.web.dealing import SEEN, seen
from backflip.web.guard import Here, Place, Somebody
from backflip.web.judging import Desktop, desktop, may_judge, shown
from backflip.web.pages import show
from backflip.web.words import Words

router = APIRouter()
NOTE = "talk note"
LONGEST_NOTE = 2000
WORDS = {1: "the first", -1: "the second", 0: "equal"}


@dataclass(frozen=True)
class Said:
    """One person's line on the page of a talk."""

    who: str
    role: str
    """How they came to it: asked for the study, or as adjudicator."""
    alone: str
    """What they chose before they saw anybody's answer."""
    discussed: str
    comments: tuple[str, ...]


@router.get("/adjudicate")
def list_page(request: Request, here: Here, session: Somebody) -> Response:
    """List the pairs on which people disagree, by what this person may do with each; nothing in it says who chose what."""
    person = session.person
    found = divided(here.store) if person.state == "passed" else []
    known = set(here.book.known_ids())
    open_ = [one for one in found if one.known_id not in known]
    return show(
        request,
        "adjudicate.html",
        session,
        blind=_to_adjudicate(here, person, open_),
        talks=[one for one in found if may_see(here, person, one)],
        known=known,
        waiting=sum(_final(here, person, one) and not one.blind for one in open_),
        adjudicators=here.book.settings().adjudicators,
    )


@router.get("/adjudicate/{query_id}")
def pair_page(request: Request, here: Here, session: Somebody, query_id: str) -> Response:
    """Show everybody's answers to who has given their own, and to others the page for judging, blind."""
    person, found = _found(here, session, query_id)
    if may_see(here, person, found):
        return _talk(request, here, session, found)
    _check_blind(person, found)
    note = (
        "People disagree about this pair. Judge it by yourself first; then you see what they said. This answer stays."
    )
    return desktop(request, here, session, _desk_for(query_id, "", "Adjudicate", note))


@router.get("/adjudicate/{query_id}/next")
def next_blind(here: Here, session: Somebody, query_id: str) -> dict[str, Any]:
    """Return the pair for an adjudicator, without a word of what others said."""
    person, found = _found(here, session, query_id)
    _check_blind(person, found)
    here.desk.withdraw(query_id)
    return _before(here, person, found, ADJUDICATE)


@router.get("/adjudicate/{query_id}/again")
def again_page(request: Request, here: Here, session: Somebody, query_id: str) -> Response:
    """Show the page for judging a pair once more, after the talk."""
    person, found = _found(here, session, query_id)
    _check_seen(here, person, found)
    if _said_by(person, found.discussed):
        return RedirectResponse(f"/adjudicate/{query_id}", 303)
    note = "You have seen what others said. Your first answer stays as it is; this one stands beside it."
    return desktop(request, here, session, _desk_for(query_id, "/again", "Judge again", note))


@router.get("/adjudicate/{query_id}/again/next")
def next_again(here: Here, session: Somebody, query_id: str) -> dict[str, Any]:
    """Return the pair for somebody who saw what others said."""
    person, found = _found(here, session, query_id)
    _check_seen(here, person, found)
    return _before(here, person, found, DISCUSSED)


@router.post("/adjudicate/{query_id}/note")
def write_note(
    here: Here, session: Somebody, query_id: str, text: Annotated[Words, Form(max_length=LONGEST_NOTE)] = ""
) -> Response:
    """Add a note to the talk about a pair."""
    person, found = _found(here, session, query_id)
    _check_seen(here, person, found)
    if not text.strip():
        raise DataError("an empty note says nothing; write some words")
    here.people.note_act(person.id, NOTE, {"query": query_id, "text": text.strip()}, here.clock())
    return RedirectResponse(f"/adjudicate/{query_id}", 303)


def may_see(here: Place, person: Person, found: Opinions) -> bool:
    """Return whether somebody may see what others said: they gave their own answer and can no longer take it back, and an adjudicator
    gave theirs."""
    return person.state == "passed" and bool(found.blind) and _final(here, person, found)


def still_open(here: Place, person: Person) -> list[Judgement]:
    """Return what somebody said so lately that they may still take it back."""
    fresh = here.clock() - here.book.settings().undo_seconds
    return [one for one in here.desk.said(person) if one.created >= fresh and purpose_of(one) in MAY_UNDO]


def hidden_from(here: Place, person: Person, queries: Sequence[Query]) -> set[str]:
    """Return the ids of those questions whose answers somebody must not see yet: they may still be asked what they think, or may still
    change what they said."""
    first = {
        one.id: replace(one, repeat=0).id for one in queries
    }  # another's repetition answers the same as their first asking
    coming = here.desk.yet_to_come(person, list({*first, *first.values()}), here.book.settings().overlap)
    known = set(here.book.known_ids())
    unsaid = [one.query for one in divided(here.store) if one.known_id not in known and not one.own(person)]
    unsaid += here.store.queries_by_id([one.query_id for one in still_open(here, person)]).values()
    pairs = {_pair(one) for one in unsaid}
    return {one.id for one in queries if {one.id, first[one.id]} & coming or _pair(one) in pairs}


def _pair(query: Query) -> tuple[frozenset[str], str]:
    """Return which items, under which question: the same however often it is asked."""
    return frozenset(item.id for item in query.items), query.question


def _desk_for(query_id: str, part: str, title: str, note: str) -> Desktop:
    """Return what the page for judging one pair works on: asked for below this `part` of the pair's own page, it leads back to that."""
    page = f"/adjudicate/{query_id}"
    return Desktop(title, f"{page}{part}/next", page, note, empty="You have judged this pair.")


def _found(here: Place, session: Session, query_id: str) -> tuple[Person, Opinions]:
    """Return who asks and what people said of a pair about which they disagree.

    To whoever may not know that they do, it is as if they did not: who may still change their answer would learn the other's.
    """
    person = may_judge(session)
    found = opinions_of(here.store, query_id) if person.state == "passed" else None
    if found is None or not found.divided or not _may_know(here, person, found):
        raise HTTPException(404, "people do not disagree about this pair")
    return person, found


def _final(here: Place, person: Person, found: Opinions) -> bool:
    """Return whether somebody gave their own answer and can no longer take it back."""
    fresh = here.clock() - here.book.settings().undo_seconds
    return found.own(person) and not any(one.judge == person.judge and one.created >= fresh for one in found.alone)


def _may_know(here: Place, person: Person, found: Opinions) -> bool:
    """Return whether somebody may know that people disagree about a pair: their own answer is final, or they may judge it blind."""
    if found.own(person):
        return _final(here, person, found)
    return found.known_id not in here.book.known_ids() and bool(_to_adjudicate(here, person, [found]))


def _check_blind(person: Person, found: Opinions) -> None:
    """Refuse whoever has judged a pair already; `_found` has refused all others who may not judge it blind."""
    if found.own(person):
        wait = "once an adjudicator has judged it too and your answer can no longer be taken back"
        raise HTTPException(403, f"you judged this pair; you see what others said {wait}")


def _check_seen(here: Place, person: Person, found: Opinions) -> None:
    """Refuse whoever has not seen what others said."""
    if not may_see(here, person, found) or found.query.id not in seen(here, person):
        raise HTTPException(403, "first give your own answer, and look at what others said")


def _to_adjudicate(here: Place, person: Person, among: Sequence[Opinions]) -> list[Opinions]:
    """Return what somebody may judge blind of all this: they did not judge it, and will not be asked it in their own queue."""
    study = here.book.settings()
    if person.role != "owner" and study.adjudicators != "everybody":
        return []
    coming = here.desk.yet_to_come(person, [one.query.id for one in among], study.overlap)
    return [one for one in among if not one.own(person) and one.query.id not in coming]


def _said_by(person: Person, told: Sequence[Judgement]) -> bool:
    return any(one.judge == person.judge for one in told)


def _before(here: Place, person: Person, found: Opinions, purpose: str) -> dict[str, Any]:
    """Put a pair before somebody and return what their page needs; no pair where they have answered."""
    query = asked_again(found.query, purpose)
    done = _said_by(person, found.blind if purpose == ADJUDICATE else found.discussed)
    if not done:
        here.desk.deal_own(person, query, purpose, here.clock(), 60 * here.book.settings().hold_minutes)
    held = [] if done else [here.desk.holding(person, query.id)]
    return {"pairs": [shown(here, person, one) for one in held], "done": int(done), "of": 1, "wait": 0}


def _talk(request: Request, here: Place, session: Any, found: Opinions) -> Response:
    """Show what everybody said of a pair; that somebody was shown it is noted, since what they say after it is no longer their own."""
    person, key = session.person, found.query.id
    if key not in seen(here, person):
        here.people.note_act(person.id, SEEN, {"query": key}, here.clock())
    names = _names(here, person, found)
    notes = [
        (names.get(f"person:{who}", "somebody"), one["text"])
        for who, one in here.people.everybodys_acts(NOTE)
        if one["query"] == key
    ]
    known = here.book.known_of(found.query) if found.known_id in here.book.known_ids() else None
    return show(
        request,
        "talk.html",
        session,
        found=found,
        said=_lines(found, names),
        notes=notes,
        again=_said_by(person, found.discussed),
        known=known,
        known_word="" if known is None else WORDS[choice_of(known.answer)],
        longest=LONGEST_NOTE,
    )


def _names(here: Place, person: Person, found: Opinions) -> dict[str, str]:
    """Return what everybody who said something is called: by name for owners, by a number for others, and oneself."""
    judges = [one.judge for one in (*found.alone, *found.blind)]
    names = {one.judge: one.name for one in here.people.everybody()}
    if person.role != "owner":
        others = [judge for judge in judges if judge != person.judge]
        names = {judge: f"somebody else ({number})" for number, judge in enumerate(others, 1)}
    return names | {person.judge: "you"}


def _lines(found: Opinions, names: dict[str, str]) -> list[Said]:
    later = {one.judge: one for one in found.discussed}
    lines: list[Said] = []
    for role, told in (("asked", found.alone), ("adjudicator", found.blind)):
        for one in told:
            after = later.get(one.judge)
            comments = tuple(words for each in (one, after) if each is not None for words in _words(each))
            discussed = "" if after is None else _word(after)
            lines.append(Said(names.get(one.judge, "somebody"), role, _word(one), discussed, comments))
    return lines


def _words(told: Judgement) -> list[str]:
    """Return what somebody wrote beside a choice: answers to the sub-questions, and a comment."""
    parts: Mapping[str, Any] = told.details.get("sub") or {}
    comment = str(told.details.get("comment", ""))
    return [f"{asked} {words}" for asked, words in parts.items() if words] + ([comment] if comment else [])


def _word(told: Judgement) -> str:
    """Return a choice in words, of the pair as stored: the same for everybody, whatever stood left on their screen."""
    if told.answer is None:
        return "can't tell"
    share = max(told.answer)
    sure = "" if share in (0.5, 1.0) else f" ({share:.2f})"
    return f"{WORDS[choice_of(told.answer)]}{sure}"
