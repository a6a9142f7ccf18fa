"""The pages on which people judge: consent and trial first, then pair after pair.

What is shown comes as JSON that the page's script puts on the screen as text and nothing else. Leaves out which pair comes next
(`dealing`) and what it is worth (`owning`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Form, HTTPException, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse
from pydantic import BaseModel, ConfigDict, Field, model_validator

from backflip import __version__
from backflip.data import Item
from backflip.errors import DataError
from backflip.measures.judges import agreement
from backflip.overseers.shown import SEVEN_POINTS, as_stored
from backflip.store.desk import GOLD, MAY_UNDO, PRACTICE, REPEAT, TRIAL, Held, Told
from backflip.store.judged import choice_of
from backflip.store.people import CONSENT, Person, Session
from backflip.store.records import UNDONE
from backflip.store.study import LONGEST_TEXT, Study
from backflip.web import dealing
from backflip.web.guard import Here, Place, Somebody
from backflip.web.pages import show
from backflip.web.ranges import in_parts
from backflip.web.tickets import LETTERS
from backflip.web.words import Words

router = APIRouter()
AHEAD = 3
"""Pairs that a page holds: the one on the screen, and those that come next at once."""
MOST = 8
"""Pairs before one person at most, with those whose answers are on their way."""
SAID = {1: "1 is better", 0: "both are about equal", -1: "2 is better"}
"""What is known of a pair, in words, by the choice that is right of the two places."""
CHOICES = {"1": (1.0, 0.0), "=": (0.5, 0.5), "2": (0.0, 1.0)}
SKIPPED = "can't tell"
EVENT = "^[0-9a-f-]{16,36}$"
"""What a page draws for an answer, or for taking one back."""
KEPT_MEDIA_SECONDS = 24 * 3600
LONGEST_WORDS = 2000
"""Letters of an answer in words."""
SLACK_SECONDS = 1.0
"""By how much the parts of a page's time may exceed the whole: each is rounded."""
JUDGES = ("trial", "passed")
"""How far whoever judges has come."""


@dataclass(frozen=True)
class Desktop:
    """What the page for judging works on."""

    title: str = "Judge"
    ask: str = "/judge/next"
    """Where the page asks for pairs."""
    after: str = ""
    """What comes after an answer: the next pair at once; "explain": what is known of this one; or the page to go to."""
    note: str = ""
    """What is said above the pair."""
    empty: str = "Nothing to judge now. This page looks again by itself."


TRIAL_DESK = Desktop(after="explain", note="This is the trial: after each pair you see what most people say, and why.")


Count = Annotated[int, Field(ge=0, le=1_000_000)]
Claim = Annotated[str, Field(pattern=r"^[12]\.[1-9][0-9]{0,2}$")]
"""Place on the screen, and which of the answer's claims."""


class Timing(BaseModel):
    """What the page measured of one judgement."""

    model_config = ConfigDict(extra="forbid")
    visible: float = Field(ge=0, le=1e6, allow_inf_nan=False)
    """Seconds for which the page was seen and somebody was there."""
    whole: float = Field(ge=0, le=1e7, allow_inf_nan=False)
    """Seconds by the page's steady clock from showing to answering."""
    idle: float = Field(ge=0, le=1e7, allow_inf_nan=False)
    """Of these, seconds cut off because nothing moved."""
    replays: tuple[Count, Count] = (0, 0)
    """How often each clip began again."""
    looked: str = Field(default="", max_length=40, pattern="^[12]*$")
    """The order in which the sides were looked into."""

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        """Refuse parts that are longer than the whole: one clock measures all three."""
        if not self.visible + self.idle <= self.whole + SLACK_SECONDS:
            raise ValueError("seconds seen and idle come to more than all seconds")
        return self


class Answer(BaseModel):
    """One judgement as the page sends it; places are those on the screen."""

    model_config = ConfigDict(extra="forbid")
    query: str = Field(pattern="^[0-9a-f]{32}$")
    event: str = Field(pattern=EVENT)
    choice: Literal["1", "2", "=", "s"] | None = None
    scale: int | None = Field(default=None, ge=1, le=7)
    axes: dict[Words, Literal["1", "2", "="]] = Field(default_factory=dict, max_length=20)
    sub: dict[Words, Annotated[Words, Field(max_length=LONGEST_WORDS)]] = Field(default_factory=dict, max_length=20)
    claims: dict[Claim, Literal["strong", "weak", "none"]] = Field(default_factory=dict, max_length=200)
    comment: Words = Field(default="", max_length=LONGEST_WORDS)
    ticket: str = Field(default="", max_length=LETTERS, pattern="^[0-9a-f]*$")
    """What came with the question: see `tickets`."""
    instructions: int | None = Field(default=None, ge=0)
    """Version of the guideline on the page from which this comes."""
    timing: Timing
    help: dict[Literal["guideline", "differences", "why"], Count] = Field(default_factory=dict)
    """How often the guideline, the differences and so on were opened."""


@router.get("/judge")
def judge_page(request: Request, here: Here, session: Somebody) -> Response:
    """Show the page for judging, or what must come before it."""
    person = session.person
    if person.state == "new" or (person.state in JUDGES and not session.agreed):
        version, text = here.book.document(CONSENT)
        return show(request, "consent.html", session, text=text, version=version)
    if person.state in ("waiting", "failed"):
        return show(request, "after_trial.html", session, state=person.state, found=_trial_result(here, person))
    return desktop(request, here, session, TRIAL_DESK if person.state == "trial" else Desktop())


def desktop(request: Request, here: Place, session: Session, desk: Desktop) -> Response:
    """Show the page for judging."""
    version, text = here.book.document("instructions")
    study = here.book.settings()
    return show(request, "judge.html", session, study=study, instructions=text, version=version, desk=desk)


@router.post("/consent")
def consent(
    here: Here, session: Somebody, agree: Annotated[str, Form()] = "", version: Annotated[int, Form(ge=-1)] = -1
) -> Response:
    """Note that somebody agreed to the version that they were shown, and let them begin or go on."""
    person = session.person
    again = RedirectResponse("/judge", 303)
    if person.state != "new" and session.agreed:
        return again
    if agree != "yes":
        raise HTTPException(409, "you can only take part if you agree; if not, just close this page")
    if version != here.book.document(CONSENT)[0]:
        return again  # changed while they read it: the page shows it as it is now
    here.people.note_act(person.id, CONSENT, {"version": version}, here.clock())
    trial = here.book.settings().trial and dealing.trial_length(here) > 0
    here.people.move(person.id, "trial" if trial else "passed", among=("new",))
    return again


@router.get("/judge/next", response_model=None)
def next_pairs(here: Here, session: Somebody, count: int = AHEAD) -> Response:
    """Return the pairs now before somebody, the first one first."""
    person = may_judge(session)
    study, _ = here.book.in_force(session.edition)
    with here.desk.turn(person):
        # A trial counts what lies before somebody though its time is over: those pairs, and no others, come back to them.
        tally = here.desk.tally(person, 0.0 if person.state == "trial" else here.clock())
        held = dealing.next_for(here, person, study, tally, max(1, min(count, MOST)))
    # Made into JSON here: what is of plain types alone needs no look at each of them by the framework.
    return JSONResponse(
        {
            "pairs": [shown(here, person, one) for one in held],
            "done": tally.came,
            "of": dealing.trial_length(here) if person.state == "trial" else None,
            "wait": dealing.wait_seconds(here, person, study) if not held else 0,
        }
    )


@router.post("/judge/answer", response_model=None)
def answer(here: Here, session: Somebody, given: Answer) -> Response:
    """Record one judgement; it is on the disk when this returns."""
    person = may_judge(session)
    study, instructions = here.book.in_force(session.edition)
    held = _before(here, person, given)
    try:
        shares, note = _shares(given, study)
    except (
        HTTPException
    ):  # asked otherwise meanwhile; one that was recorded before that stands, though its reply was lost
        if held.purpose in MAY_UNDO and given.event in [one.details.get("event") for one in here.desk.said(person)]:
            return JSONResponse({"recorded": False})
        raise
    order = dealing.order_for(person, held)
    stored = None if shares is None else as_stored(replace(held.query, order=order), shares)
    new = here.desk.answer(person, _told(given, stored, note, order, instructions), here.clock())
    found: dict[str, Any] = {"recorded": new}
    if given.instructions is not None and given.instructions < instructions:
        found["newer"] = instructions
    if held.purpose in (TRIAL, PRACTICE):
        found |= _explained(here, person, held, stored, order)
    return JSONResponse(found)


@router.post("/judge/undo")
def undo(
    here: Here,
    session: Somebody,
    event: Annotated[str, Form(pattern=EVENT)],
    of: Annotated[str, Form(pattern=EVENT)] = "",
) -> dict[str, Any]:
    """Take the last answer back, by a new event, and show its pair again.

    `of` names the answer that is meant, by its event. Where it does not stand there is nothing left to do, so this may be sent twice.
    """
    person = may_judge(session)
    # Whoever answers in another window between this look and the taking back has that answer taken back: they see its pair again.
    standing = [one for one in here.desk.said(person) if one.details.get("event")] if of else []
    if of and of not in [one.details["event"] for one in standing]:
        _bury(here, person, of)
        return {"pair": None}
    if of and [one.details["event"] for one in standing if one.details.get("purpose") in MAY_UNDO][-1:] != [of]:
        raise DataError("you have given another answer since; the one before it was not taken back")
    study = here.book.settings()
    query = here.desk.take_back(person, event, here.clock(), study.undo_seconds, 60 * study.hold_minutes)
    if query is None:
        raise DataError(
            "there is nothing to take back: the last answer is too long ago, or you have seen what it is worth"
        )
    if of:
        _bury(here, person, of)
    return {"pair": shown(here, person, here.desk.holding(person, query.id))}


def _bury(here: Place, person: Person, event: str) -> None:
    """Note that an answer was taken back, so that it is never recorded should it arrive later: from another window, or by a long way."""
    if event not in [one["event"] for one in here.people.acts(person.id, UNDONE)]:
        here.people.note_act(person.id, UNDONE, {"event": event}, here.clock())


@router.get("/media/{item_id}")
def media(request: Request, here: Here, session: Somebody, item_id: str) -> Response:
    """Return a clip, or the part of it that is asked for."""
    found = here.store.media(item_id)
    if found is None:
        raise HTTPException(404, "this clip is not in the store")
    kind, content = found
    headers = {"Cache-Control": f"private, max-age={KEPT_MEDIA_SECONDS}, immutable"}
    return in_parts(content, kind, headers, request.headers.get("range"), request.headers.get("if-range"))


def may_judge(session: Session) -> Person:
    """Return a person who may judge now; refuse everybody else."""
    if session.person.state not in JUDGES:
        raise HTTPException(403, "you cannot judge yet; load the page again")
    if not session.agreed:
        raise HTTPException(
            403, "the text that you agreed to has changed; load the page Judge again, and read it first"
        )
    return session.person


def _before(here: Place, person: Person, given: Answer) -> Held:
    """Return what the answer is to; its ticket says so where the database crashed and has forgotten that the question was given."""
    try:
        return here.desk.holding(person, given.query)
    except DataError:
        purpose = here.tickets.purpose(person.id, given.query, given.ticket)
        if purpose is None or not here.desk.remember(person, given.query, purpose, here.clock()):
            raise
        return here.desk.holding(person, given.query)


def _told(
    given: Answer, stored: tuple[float, ...] | None, note: str, order: tuple[int, ...], instructions: int
) -> Told:
    details: dict[str, Any] = {
        "shown": list(order),
        "timing": given.timing.model_dump(mode="json"),
        "page": __version__,
        # What they read, not what somebody has written since; a page cannot have shown what is not written yet.
        "instructions": instructions if given.instructions is None else min(given.instructions, instructions),
    }
    details |= {
        name: value
        for name in ("scale", "axes", "sub", "claims", "comment", "help")
        if (value := getattr(given, name)) not in (None, "", {})
    }
    return Told(given.query, stored, given.event, note, seconds=given.timing.visible, details=details)


def _shares(given: Answer, study: Study) -> tuple[tuple[float, float] | None, str]:
    """Return the shares of the two places, None where somebody could not tell, and a note.

    An answer to what the study asked before it was changed is refused as one that cannot be read (422): pages keep it, where one that
    is settled (409) is done with.
    """
    unknown = {*given.axes, *given.sub} - {*study.axes, *study.sub_questions}
    if given.choice == "s" and not unknown:
        return None, SKIPPED
    if unknown:
        raise HTTPException(422, "the questions of this study have changed; load the page again")
    if any(one not in given.axes for one in study.axes) or (
        _must_split(given.query, study) and any(not given.sub.get(one, "").strip() for one in study.sub_questions)
    ):
        raise HTTPException(422, "this study asks more questions than were answered; load the page again")
    if study.scale == "seven":
        if given.scale is None:
            raise HTTPException(422, "this study asks how much better one is, from 1 to 7; load the page again")
        share = SEVEN_POINTS[-given.scale]
        return (share, 1 - share), ""
    if given.choice is None:
        raise HTTPException(422, "this study asks which one is better; load the page again")
    return CHOICES[given.choice], ""


def _must_split(query_id: str, study: Study) -> bool:
    """Return whether the sub-questions must be answered first: a share of the questions, the same for everybody. The page goes by the
    same rule (`missingPart`)."""
    return int(query_id[:8], 16) / 2**32 < study.sub_share


def shown(here: Place, person: Person, held: Held) -> dict[str, Any]:
    """Return what the page needs of one question; nothing in it says what the question is for."""
    query, order = held.query, dealing.order_for(person, held)
    reason = query.reason if held.purpose not in (TRIAL, GOLD, REPEAT) else dealing.reason_for(here, person, query)
    return {
        "id": query.id,
        "ticket": here.tickets.of(person.id, query.id, held.purpose),
        "question": query.question,
        "prompt": query.items[0].prompt if query.items[0].media == "text" else "",
        "reason": reason,
        "sides": [_side(here, query.items[index]) for index in order],
        "aids": [{"author": aid.author, "text": aid.text} for aid in query.aids],
    }


def _side(here: Place, item: Item) -> dict[str, Any]:
    if item.media == "clip":
        return {"clip": f"/media/{item.id}", "missing": not here.store.has_media(item.id)}
    cut = len(item.content) > LONGEST_TEXT
    claims = [str(one) for one in item.payload.get("claims", [])] if isinstance(item.payload, dict) else []
    sources = item.payload.get("sources", []) if isinstance(item.payload, dict) else []
    return {
        "text": item.content[:LONGEST_TEXT],
        "cut": len(item.content) if cut else 0,
        "claims": claims,
        "sources": [
            {"title": str(one.get("title", "")), "text": str(one.get("text", ""))}
            for one in sources
            if isinstance(one, dict)
        ],
    }


def _explained(
    here: Place, person: Person, held: Held, stored: tuple[float, ...] | None, order: tuple[int, ...]
) -> dict[str, Any]:
    """Return what is said after a pair of the trial or an exercise, and whether the trial is over."""
    known = here.book.known_of(held.query)
    if known is None:
        raise DataError("what is right of this pair is not known any more; load the page again")
    said = SAID[choice_of([known.answer[index] for index in order])]
    over = held.purpose == TRIAL and here.desk.tally(person).done.get(TRIAL, 0) >= dealing.trial_length(here)
    if over and person.state == "trial":  # not where the last answer comes once more after the owner decided
        here.people.move(person.id, "waiting")
        here.people.note_act(person.id, "trial", _trial_result(here, person), here.clock())
    return {"known": said, "agrees": _agrees(stored, known.answer), "explanation": known.explanation, "over": over}


def _trial_result(here: Place, person: Person) -> dict[str, Any]:
    """Return how a trial went: pairs, how many agreed, mean seconds."""
    known = {one.query.id: one.answer for one in here.book.known()}
    told = [one for one in here.desk.said(person) if one.details.get("purpose") == TRIAL and one.query_id in known]
    agreed = sum(_agrees(one.answer, known[one.query_id]) for one in told)
    seconds = [one.seconds for one in told if one.seconds is not None]
    return {"pairs": len(told), "agreed": agreed, "seconds": sum(seconds) / len(seconds) if seconds else 0.0}


def _agrees(answer: Sequence[float] | None, known: Sequence[float]) -> float:
    """Return how far an answer agrees with a known one, by the convention of all measures; can't tell does not."""
    return 0.0 if answer is None else agreement(choice_of(answer), choice_of(known))
