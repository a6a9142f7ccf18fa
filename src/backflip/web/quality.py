"""The owner's page of what judgements are worth: by the names of people.

Leaves out the numbers (`backflip.measures.quality`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Lock

from fastapi import APIRouter, Request, Response

from backflip.data import Estimate
from backflip.measures.chance import NOMINAL
from backflip.measures.judges import ENOUGH
from backflip.measures.quality import Quality, quality
from backflip.web.adjudicating import still_open
from backflip.web.guard import Here, Owner
from backflip.web.pages import show

router = APIRouter()


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
            kept.at, kept.found = at, quality(here.store, unsaid)
        found = kept.found
    known = {one.judge: one.name for one in here.people.everybody()}
    names = {one.judge: known.get(one.judge, one.judge) for one, _ in found.people}
    return show(
        request,
        "quality.html",
        session,
        found=found,
        names=names,
        enough=ENOUGH,
        nominal=NOMINAL,
        said=said_of_estimate,
    )


def said_of_estimate(found: Estimate | None, kind: str = "share") -> str:
    """Return a number with its interval in words, or that there are too few."""
    if found is None:
        return "too few to say"
    scale, unit = (100, " %") if kind == "share" else (1, " s" if kind == "seconds" else "")
    digits = 0 if kind == "share" else 1 if kind == "seconds" else 2
    value, low, high = (f"{part * scale:.{digits}f}" for part in (found.value, found.low, found.high))
    return f"{value}{unit} ({low} to {high}), n = {found.n}"
