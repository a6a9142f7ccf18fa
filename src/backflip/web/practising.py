"""Practice: pairs whose answers are known, with what is right and why after each. Nothing of it counts.

Leaves out which pairs those are (`dealing.practice`), and how an answer is recorded and explained (`judging`).
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from backflip.store.desk import PRACTICE
from backflip.web import dealing
from backflip.web.guard import Here, Somebody
from backflip.web.judging import AHEAD, JUDGES, MOST, Desktop, desktop, may_judge, shown
from backflip.web.pages import show

router = APIRouter()
PRACTICE_DESK = Desktop(
    title="Practice",
    ask="/practice/next",
    after="explain",
    note="This is practice: after each pair you see what is right, and why. It counts nowhere, and nothing learns from it.",
)


@router.get("/practice")
def practice_page(request: Request, here: Here, session: Somebody) -> Response:
    """Show the page for practice, or that there is nothing to practise on."""
    if session.person.state not in JUDGES or not session.agreed:
        return RedirectResponse("/judge", 303)
    if not here.book.exercises(session.person):
        return show(request, "no_practice.html", session)
    return desktop(request, here, session, PRACTICE_DESK)


@router.get("/practice/next")
def next_exercises(here: Here, session: Somebody, count: int = AHEAD) -> dict[str, Any]:
    """Return the exercises now before somebody, the first one first."""
    person = may_judge(session)
    held = dealing.practice(here, person, max(1, min(count, MOST)))
    done = here.desk.tally(person).done.get(PRACTICE, 0)
    return {"pairs": [shown(here, person, one) for one in held], "done": done, "of": None, "wait": 0}
