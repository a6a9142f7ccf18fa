"""The owner's known answers: what there is, more of them from a file, and what people agree on or have talked over.

Leaves out how a file is read (`backflip.store.known_lines`) and what known answers are for (`dealing`).
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse

from backflip.errors import DataError
from backflip.store.judged import choice_of
from backflip.store.known_lines import RIGHT, add_rows
from backflip.store.opinions import SETTLED, agreed, opinions_of
from backflip.store.pair_files import read_lines
from backflip.store.study import Known
from backflip.web.adjudicating import hidden_from, may_see
from backflip.web.guard import Here, Owner
from backflip.web.pages import show
from backflip.web.uploads import uploaded
from backflip.web.words import Words

router = APIRouter()
UPLOAD = "/study/known"
SHOWN = 50


@router.get(UPLOAD)
def known_page(request: Request, here: Here, session: Owner, page: int = 0, read: int = -1, new: int = 0) -> Response:
    """Show known answers, and pairs on which everybody agreed; `read` and `new` are what a file just brought."""
    known = here.book.known()
    start = max(0, page) * SHOWN
    same = agreed(here.store)
    hidden = hidden_from(here, session.person, [one.query for one in same])
    same = [one for one in same if one.query.id not in hidden]
    return show(
        request,
        "known.html",
        session,
        known=known[start : start + SHOWN],
        count=len(known),
        practice=sum(one.use == "practice" for one in known),
        more=max(0, page) + 1 if len(known) > start + SHOWN else None,
        agreed=same[:SHOWN],
        agreed_count=len(same),
        read=read,
        new=new,
    )


@router.post(UPLOAD)
async def upload(request: Request, here: Here, session: Owner) -> Response:
    """Add the known answers of an uploaded file of JSON lines: all of them, or none."""
    file, name = await uploaded(request)
    added = await run_in_threadpool(add_rows, here.store, read_lines(file), name)
    return RedirectResponse(f"{UPLOAD}?read={added.read}&new={added.new}", 303)


@router.post(f"{UPLOAD}/make")
def make_known(
    here: Here,
    session: Owner,
    query: Annotated[str, Form(pattern="^[0-9a-f]{32}$")],
    right: Annotated[str, Form()] = "",
    explanation: Annotated[Words, Form(max_length=5000)] = "",
    use: Annotated[str, Form()] = "check",
) -> Response:
    """Let the answer to a pair count as known from now on: one that everybody gave, or that the owner gives after a talk."""
    found = opinions_of(here.store, query)
    person = session.person
    shown = found is not None and (
        (found.agreed and query not in hidden_from(here, person, [found.query]))
        or (found.divided and may_see(here, person, found))
    )
    if found is None or not shown:  # said alike of what there is not and of what this owner may not know yet
        raise DataError("only what everybody agreed on, or what was talked over, can be made known here")
    if use not in ("check", "practice"):
        raise HTTPException(404, "a known answer is for a check or for practice")
    if found.agreed:
        answer = found.alone[0].answer
        assert answer is not None
        shares = RIGHT["first" if choice_of(answer) > 0 else "second"]
        reason = explanation.strip() or f"All {len(found.alone)} people who judged it said so."
    elif right in RIGHT:
        shares, reason = RIGHT[right], explanation.strip()
    else:
        raise DataError("say which is right: the first, the second, or that both are equal")
    here.book.make_known(Known(found.query, shares, reason, "usual" if found.agreed else "hard", use))
    here.people.note_act(person.id, SETTLED, {"query": found.known_id}, here.clock())
    return RedirectResponse(UPLOAD if found.agreed else f"/adjudicate/{query}", 303)
