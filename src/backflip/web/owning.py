"""The owner's pages: how the study stands, what is asked, who takes part and what their judgements are worth.

Leaves out what the training process does just now (`live`) and where judgements went (`lineage`).
"""

from __future__ import annotations

from dataclasses import asdict, fields
from functools import cache
from typing import Annotated, Any

from fastapi import APIRouter, Form, HTTPException, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse

from backflip.errors import ConfigError, DataError
from backflip.store.asked_lines import ask_rows
from backflip.store.desk import STUDY
from backflip.store.judged import study_counts
from backflip.store.lineage import Lineage
from backflip.store.pair_files import read_lines
from backflip.store.people import Role, Session, Standing
from backflip.store.resets import CHOSEN, Resets
from backflip.store.study import Study
from backflip.web.guard import Here, Owner, Place
from backflip.web.pages import show
from backflip.web.uploads import uploaded
from backflip.web.words import Words, plain

router = APIRouter()
INVITATION_HOURS = 24 * 7
RESET_HOURS = 24
ASK = "/study/ask"
PAGE = 50
LONGEST_DOCUMENT = 20_000
MOST = 2**31 - 1
"""As far as PostgreSQL counts."""


@router.get("/study")
def study_page(
    request: Request,
    here: Here,
    session: Owner,
    after: Annotated[int, Query(ge=0, le=MOST)] = 0,
    state: str = "open",
    read: int = -1,
    new: int = 0,
) -> Response:
    """Show the queue, the settings and what people are told; `read` and `new` are what a file of pairs just brought."""
    if state not in ("open", "answered", "expired", "waiting for aid"):
        raise HTTPException(404, "a queue is open, answered, expired or waiting for aid")
    queries, last = here.store.queries(state, after, PAGE, STUDY)  # type: ignore[arg-type]
    return show(
        request,
        "study.html",
        session,
        counts=study_counts(here.store),
        queries=queries,
        state=state,
        last=last if len(queries) == PAGE else None,
        settings=_settings_as_text(here.book.settings()),
        helps=[(spec.name, _help_of(spec.name)) for spec in fields(Study)],
        instructions=here.book.document("instructions"),
        consent=here.book.document("consent"),
        known=len(here.book.known_ids()),
        read=read,
        new=new,
    )


@router.post(ASK)
async def ask(request: Request, here: Here, session: Owner) -> Response:
    """Ask people about the pairs of an uploaded file of JSON lines: all of them, or none."""
    file, name = await uploaded(request)
    asked = await run_in_threadpool(ask_rows, here.store, read_lines(file), name)
    return RedirectResponse(f"/study?read={asked.read}&new={asked.new}", 303)


@router.post("/study/settings")
async def change_settings(request: Request, here: Here, session: Owner) -> Response:
    """Put settings in force."""
    form = await request.form()
    given: dict[str, Any] = {}
    for spec in fields(Study):
        text = plain(str(form.get(spec.name, ""))).strip()
        given[spec.name] = _read(spec.name, text, getattr(Study(), spec.name))
    here.book.change(Study(**given), session.person.id, here.clock())
    return RedirectResponse("/study", 303)


@router.post("/study/document")
def write_document(
    here: Here, session: Owner, kind: Annotated[str, Form()], text: Annotated[Words, Form(max_length=LONGEST_DOCUMENT)]
) -> Response:
    """Put a new version of the instructions or of the consent in force; answers say under which version they were given."""
    if kind not in ("instructions", "consent"):
        raise HTTPException(404, "a document is instructions or consent")
    if not text.strip():
        raise DataError("an empty text tells nobody anything; write some words")
    here.book.write(kind, text, session.person.id, here.clock())
    return RedirectResponse("/study", 303)


@router.get("/people")
def people_page(request: Request, here: Here, session: Owner, erased: str = "") -> Response:
    """Show who takes part, how far they are, and how much they have judged; of `erased`, which models they taught."""
    return _people(request, here, session, erased=erased)


@router.post("/people/invite")
def invite(
    request: Request,
    here: Here,
    session: Owner,
    role: Annotated[str, Form()],
    note: Annotated[Words, Form(max_length=200)] = "",
) -> Response:
    """Make an invitation and show its link, once."""
    if role not in ("owner", "labeler"):
        raise HTTPException(404, "one is invited as owner or as labeler")
    chosen: Role = "owner" if role == "owner" else "labeler"
    token = here.people.invite(chosen, note, here.clock(), INVITATION_HOURS)
    link = f"{here.public_url.rstrip('/')}/join/{token}"
    return _people(request, here, session, link=link)


@router.post("/people/{person_id}/reset")
def reset(request: Request, here: Here, session: Owner, person_id: str) -> Response:
    """Make a link by which somebody who forgot their password chooses a new one, and show it, once."""
    token = Resets(here.store).make(person_id, session.person.id, here.clock(), RESET_HOURS)
    link = f"{here.public_url.rstrip('/')}/reset/{token}"
    return _people(request, here, session, link=link, forgot=here.people.person(person_id).name)


@router.post("/people/{person_id}/state")
def decide(here: Here, session: Owner, person_id: str, state: Annotated[str, Form()]) -> Response:
    """Let somebody in after their trial, or not."""
    if state not in ("passed", "failed"):  # not back into a trial: its pairs are judged, and it would never end
        raise HTTPException(404, "one is let in (passed) or not let in (failed)")
    chosen: Standing = "passed" if state == "passed" else "failed"
    if here.people.person(person_id).role == "owner":
        raise DataError("one decides about labelers; this person is an owner")
    if not here.people.move(person_id, chosen, among=("waiting", "passed", "failed")):
        standing = here.people.person(person_id).state
        raise DataError(f"one decides about those who agreed and finished their trial; this person is {standing}")
    here.people.note_act(person_id, "decided", {"version": state}, here.clock())
    return RedirectResponse("/people", 303)


@router.post("/people/{person_id}/erase")
def erase(here: Here, session: Owner, person_id: str, sure: Annotated[str, Form()] = "") -> Response:
    """Erase who somebody was and what they wrote, and lead to the models that learned from it."""
    if person_id == session.person.id:
        raise DataError("you cannot erase yourself; ask another owner")
    if sure != "yes":
        raise DataError("tick the box to say that you are sure; erasing cannot be undone")
    here.people.erase(person_id)
    return RedirectResponse(f"/people?erased={person_id}", 303)


def _people(
    request: Request, here: Place, session: Session, *, link: str = "", forgot: str = "", erased: str = ""
) -> Response:
    """Return the page about everybody; `link` is an invitation that was made just now, or a link to a new password for who `forgot`
    theirs, `erased` the id of somebody to tell more of."""
    gone = here.people.person(erased) if erased else None
    if gone is not None and gone.state != "erased":
        raise HTTPException(404, "nobody who was erased has this id")
    ids, models = Lineage(here.store).of_person(gone.judge) if gone else ([], [])
    everybody = here.people.everybody()
    names = {one.id: one.name for one in everybody}
    rows = [
        {
            "person": one,
            "counts": here.desk.tally(one).done,
            "trial": (here.people.acts(one.id, "trial") or [None])[-1],
            "renewed": [names.get(act["by"], "the command line") for act in here.people.acts(one.id, CHOSEN)],
        }
        for one in everybody
    ]
    return show(
        request,
        "people.html",
        session,
        rows=rows,
        link=link,
        forgot=forgot,
        study=here.book.settings(),
        gone=gone,
        stay=len(ids),
        models=models,
    )


def _settings_as_text(study: Study) -> dict[str, str]:
    return {name: "\n".join(value) if isinstance(value, tuple) else str(value) for name, value in asdict(study).items()}


def _read(name: str, text: str, default: Any) -> Any:
    """Read one setting from a form.

    Raises:
        ConfigError: it is no number where one is expected.
    """
    if isinstance(default, tuple):
        return tuple(line.strip() for line in text.splitlines() if line.strip())
    if isinstance(default, bool):
        return text == "True"
    if isinstance(default, int | float):
        try:
            return type(default)(text)
        except ValueError:
            raise ConfigError(f'{name} is "{text[:40]}", expected a number such as {default}') from None
    return text


@cache
def _help_of(name: str) -> str:
    """Return what a setting means: the string under its field."""
    import ast
    import inspect

    body = ast.parse(inspect.getsource(Study)).body[0]
    assert isinstance(body, ast.ClassDef)
    found = ""
    for place, node in enumerate(body.body):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == name:
            after = body.body[place + 1]
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                found = " ".join(str(after.value.value).split())
    return found
