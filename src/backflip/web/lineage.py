"""Which judgements taught a model, and which models a judgement taught.

Leaves out how models are recorded (`backflip.store.lineage`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response

from backflip.data import Judgement, Query
from backflip.errors import StoreError
from backflip.store.lineage import Lineage
from backflip.web.adjudicating import hidden_from
from backflip.web.guard import Here, Owner
from backflip.web.pages import show

router = APIRouter()
PAGE = 50
ORDINAL = ("first", "second")
MARKS = {"strong": "supported", "weak": "weakly supported", "none": "not supported"}


@router.get("/lineage")
def lineage_page(request: Request, here: Here, session: Owner, page: int = 0) -> Response:
    """List the models, the newest first, each with the number of judgements that taught it."""
    lineage, first = Lineage(here.store), max(0, page) * PAGE
    models = lineage.models()
    counts = lineage.counts(models, first, PAGE)
    more = page + 1 if len(models) > first + PAGE else None
    return show(request, "lineage.html", session, rows=counts, more=more)


@router.get("/lineage/model/{model_id}")
def model_page(request: Request, here: Here, session: Owner, model_id: str, page: int = 0) -> Response:
    """Show who taught a model, and every judgement that did."""
    ids = Lineage(here.store).teachers_of(model_id)
    names = {one.judge: one.name for one in here.people.everybody()}
    told = here.store.judgements_by_id(ids)
    people = Counter(names.get(one.judge, one.judge) for one in told.values())
    part = ids[max(0, page) * PAGE : (max(0, page) + 1) * PAGE]
    asked = here.store.queries_by_id([told[key].query_id for key in part if key in told])
    hidden = hidden_from(here, session.person, list(asked.values()))
    rows = [_row(here, key, told[key], names, hidden) for key in part if key in told]
    more = page + 1 if len(ids) > (page + 1) * PAGE else None
    return show(
        request,
        "model.html",
        session,
        model_id=model_id,
        people=people.most_common(),
        rows=rows,
        more=more,
        count=len(ids),
    )


@router.get("/lineage/judgement/{judgement_id}")
def judgement_page(request: Request, here: Here, session: Owner, judgement_id: str) -> Response:
    """Show one judgement, what was judged, and every model that it taught."""
    told = here.store.judgements_by_id([judgement_id])
    if judgement_id not in told:
        raise StoreError(f"no judgement {judgement_id} in this store")
    names = {one.judge: one.name for one in here.people.everybody()}
    hidden = hidden_from(here, session.person, [here.store.query(told[judgement_id].query_id)])
    row = _row(here, judgement_id, told[judgement_id], names, hidden)
    models = Lineage(here.store).taught_by([judgement_id])
    also = [] if row["hidden"] else _also(told[judgement_id], row["query"])
    return show(request, "judgement.html", session, row=row, models=models, also=also)


def _also(told: Judgement, query: Query) -> list[tuple[str, str]]:
    """Return what somebody said beside the answer: question and words, by the items as they are stored.

    The page says places as they were on the screen; `shown` says which item stood there.
    """
    details, places = told.details, told.details.get("shown") or range(len(query.items))
    item = {str(place + 1): index for place, index in enumerate(places)}
    found = [
        (text, f"the {ORDINAL[item[said]]}" if said in item else "equal") for text, said in _pairs(details, "axes")
    ]
    for key, mark in _pairs(details, "claims"):
        place, _, number = key.partition(".")
        claims = query.items[item[place]].payload.get("claims", []) if place in item else []
        if number.isdigit() and 0 < int(number) <= len(claims):
            found.append((f"{ORDINAL[item[place]]}: {claims[int(number) - 1]}", MARKS.get(mark, mark)))
    comment = [("Comment", details["comment"])] if details.get("comment") else []
    return [*_pairs(details, "sub"), *found, *comment]


def _pairs(details: Mapping[str, Any], name: str) -> list[tuple[str, str]]:
    held = details.get(name)
    return [(str(key), str(value)) for key, value in held.items() if value] if isinstance(held, dict) else []


def _row(here: Any, key: str, told: Any, names: dict[str, str], hidden: set[str]) -> dict[str, Any]:
    return {
        "id": key,
        "told": told,
        "who": names.get(told.judge, told.judge),
        "query": here.store.query(told.query_id),
        "hidden": told.query_id in hidden,
    }
