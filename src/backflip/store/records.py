"""Turn items, queries and judgements into table rows and back. Leaves out every statement to the database."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import RowMapping

from backflip.data import Aid, Item, Judgement, Query, digest
from backflip.errors import DataError


def item_row(item: Item) -> dict[str, Any]:
    """Return the row of one item. Raises DataError where its payload is no JSON."""
    payload = dict(item.payload)
    check_json(payload, "the payload of an item")
    return {
        "id": item.id,
        "media": item.media,
        "prompt": item.prompt,
        "content": item.content,
        "author": item.author,
        "payload": payload,
    }


def item(row: RowMapping) -> Item:
    """Return the item of one row."""
    return Item(row["prompt"], row["content"], row["payload"], row["author"], row["media"])


def query_rows(query: Query, state: str) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the row of one query, one for each of its items and one for each of its aids, in order."""
    key = query.id
    row = {
        "id": key,
        "kind": query.kind,
        "question": query.question,
        "instruction": query.instruction,
        "repeat": query.repeat,
        "shown_order": list(query.order),
        "reason": query.reason,
        "state": state,
    }
    items = [{"query_id": key, "place": place, "item_id": item.id} for place, item in enumerate(query.items)]
    aids = [
        {"query_id": key, "place": place, "author": aid.author, "text": aid.text, "item_id": aid.item_id}
        for place, aid in enumerate(query.aids)
    ]
    return row, items, aids


def query(row: RowMapping, items: Sequence[Item], aids: Iterable[RowMapping]) -> Query:
    """Return the query of one row with its items and aids, both in order."""
    return Query(
        items=tuple(items),
        question=row["question"],
        kind=row["kind"],
        aids=tuple(Aid(aid["author"], aid["text"], aid["item_id"]) for aid in aids),
        instruction=row["instruction"],
        repeat=row["repeat"],
        order=tuple(row["shown_order"]),
        reason=row["reason"],
    )


def judgement_row(judgement: Judgement) -> dict[str, Any]:
    """Return the row of one judgement; its id hashes all it says, so that telling it twice records it once.

    Raises DataError where a number is not finite or the details are no JSON.
    """
    row = {
        "query_id": judgement.query_id,
        "judge": judgement.judge,
        "answer": None if judgement.answer is None else [float(share) for share in judgement.answer],
        "note": judgement.note,
        "strength": float(judgement.strength),
        "created": float(judgement.created),
        "seconds": None if judgement.seconds is None else float(judgement.seconds),
        "details": dict(judgement.details),
    }
    check_json(row, f"a judgement by {judgement.judge}")
    return {"id": digest(row), **row}


def judgement(row: RowMapping) -> Judgement:
    """Return the judgement of one row."""
    return Judgement(
        query_id=row["query_id"],
        judge=row["judge"],
        answer=None if row["answer"] is None else tuple(row["answer"]),
        note=row["note"],
        strength=row["strength"],
        created=row["created"],
        seconds=row["seconds"],
        details=row["details"],
        stored_id=row["id"],
    )


def judgement_id(judgement: Judgement) -> str:
    """Return the id under which a judgement is stored, or would be."""
    return judgement.stored_id or judgement_row(judgement)["id"]


def metric_row(run: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of one logged line {"step", "phase", "seconds", name: number, ...}."""
    data = {name: value for name, value in row.items() if name not in ("step", "phase", "seconds")}
    bad = [name for name, value in data.items() if not isinstance(value, int | float) or not math.isfinite(value)]
    if bad:
        raise DataError(f"metric {bad[0]!r} of phase {row['phase']!r} is {data[bad[0]]!r}; expected a finite number")
    return {"run": run, "step": row["step"], "phase": row["phase"], "seconds": row["seconds"], "data": data}


def metric(row: RowMapping) -> dict[str, Any]:
    """Return the logged line of one row."""
    return {"step": row["step"], "phase": row["phase"], "seconds": row["seconds"], **row["data"]}


def check_json(value: object, what: str) -> None:
    """Raise DataError unless `value` survives JSON: plain types and finite numbers only."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(f"cannot store {what}: {error}; expected plain JSON with finite numbers") from error


UNDONE = "taken back"
"""Note of the event by which a person takes their last answer back."""
MARKS = ("event", "undoes", "purpose", "shown", "mark", "version", "page")
"""Details whose texts are marks that this package makes itself; any other text may be somebody's own words."""
CHOSEN = ("axes", "claims")
"""Details whose texts are choices among a few, under questions that the study asked."""


def without_words(details: Any, key: str = "") -> Any:
    """Return details with every text in them blanked that a person may have written; numbers, choices and our own marks stay."""
    if isinstance(details, Mapping):
        return {name: value if name in CHOSEN else without_words(value, name) for name, value in details.items()}
    if isinstance(details, list):
        return [without_words(value, key) for value in details]
    return "" if isinstance(details, str) and key not in MARKS else details
