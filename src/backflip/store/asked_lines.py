"""Pairs of your own that people are to judge, from a file: JSON lines or Parquet, one a line, all of them or none.

A side is a text, messages, or an object that says beside its text which claims it makes and on what sources it rests: people then
mark each claim as supported, weakly supported or not. Leaves out pairs that are judged already (`interchange`) or whose answer is known
(`known_lines`), and files (`pair_files`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from backflip.data import Aid, Item, Query
from backflip.errors import DataError
from backflip.store.interchange import MOST_FAULTS, refuse
from backflip.store.pair_files import check_ending, read_rows
from backflip.store.pair_lines import QUESTION, object_of, pair_of, text_of
from backflip.store.store import Store
from backflip.store.study import LONGEST_TEXT, StudyBook

SIDES = ("first", "second")
FIELDS = ("prompt", *SIDES, "question", "aids", "reason")
PARTS = ("text", "claims", "sources")
MOST_CLAIMS = 40
"""Of one side."""
REASON = "brought by the owner"


@dataclass(frozen=True)
class Asked:
    """How many pairs a file held, and how many were not asked before."""

    read: int
    new: int

    def __str__(self) -> str:
        return f"{self.read:,} {'pair' if self.read == 1 else 'pairs'} to judge, {self.new:,} new"


def import_asked(store: Store, path: str | Path) -> Asked:
    """Ask people about the pairs of a file: all of them or, if one line is bad, none.

    Raises:
        ConfigError: the file's ending names no format.
        DataError: there is no such file, it holds nothing, or lines are bad, which are named by number.
    """
    path = Path(path)
    return ask_rows(store, read_rows(path), path.name, check_ending(path))


def ask_rows(store: Store, rows: Iterable[tuple[int, Any]], name: str, place: str = "line") -> Asked:
    """Ask people about numbered rows, as `import_asked`; `name` is what the file is called in errors.

    Raises:
        DataError: there are none, or rows are bad.
    """
    question, faults = StudyBook(store).question() or QUESTION, list[str]()
    found: dict[str, Query] = {}
    for number, row in rows:
        try:
            if isinstance(row, DataError):
                raise row
            one = query_of_row(row, question)
            found[one.id] = one
        except DataError as error:
            faults.append(f"{name} {place} {number}: {error}")
            if len(faults) == MOST_FAULTS:
                break
    refuse(name, faults)
    if not found:
        raise DataError(f"{name} is empty; expected one pair a {place}, {{prompt, first, second}}")
    return Asked(len(found), store.add_queries(found.values()))


def query_of_row(row: Any, question: str) -> Query:
    """Return what a row asks; `question` where the row has none.

    Raises:
        DataError: something is wrong with the row.
    """
    row = {key: value for key, value in object_of(row).items() if value is not None}
    _known_fields(row, FIELDS)
    parts = [_parts(row.get(name), name) for name in SIDES]
    plain = {**row, **{name: part["text"] for name, part in zip(SIDES, parts, strict=True)}}
    items, place = pair_of(plain, SIDES)
    named = items if place == 0 else items[::-1]
    given = tuple(_with_evidence(item, part, name) for item, part, name in zip(named, parts, SIDES, strict=True))
    for item in given:
        if (letters := max(len(item.content), len(item.prompt))) > LONGEST_TEXT:
            raise DataError(f"has a text of {letters:,} letters, and a page shows {LONGEST_TEXT:,}; shorten it")
    aids = tuple(
        Aid(_text(aid, "author", "an aid"), _text(aid, "text", "an aid"))
        for aid in _objects(row.get("aids", []), "aids")
    )
    asked, reason = text_of(row, "question", question), text_of(row, "reason", REASON)
    return Query(given if place == 0 else given[::-1], asked, aids=aids, reason=reason)


def _parts(side: Any, name: str) -> dict[str, Any]:
    """Return what a side says: its text, and with it claims and sources."""
    if not isinstance(side, dict):
        return {"text": side}
    found = {key: value for key, value in cast(dict[str, Any], side).items() if value is not None}
    _known_fields(found, PARTS, f"{name} ")
    if "text" not in found:
        raise DataError(f"its {name} has no text; expected text, or an object with {', '.join(PARTS)}")
    return found


def _with_evidence(item: Item, part: Mapping[str, Any], name: str) -> Item:
    """Return the item with the claims and sources that a page shows beside it."""
    claims: Any = part.get("claims", [])
    if not isinstance(claims, list) or not all(isinstance(one, str) and one.strip() for one in cast(list[Any], claims)):
        raise DataError(f"its {name} has claims that are no list of texts")
    if len(cast(list[str], claims)) > MOST_CLAIMS:
        raise DataError(f"its {name} has {len(cast(list[str], claims))} claims, expected {MOST_CLAIMS} at most")
    sources = [
        {"title": _text(one, "title", f"a source of {name}"), "text": _text(one, "text", f"a source of {name}")}
        for one in _objects(part.get("sources", []), f"{name} sources")
    ]
    evidence = {key: value for key, value in (("claims", claims), ("sources", sources)) if value}
    return replace(item, payload={**item.payload, **evidence})


def _objects(value: Any, name: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in cast(list[Any], value)):
        raise DataError(f"its {name} are no list of objects")
    return cast(list[dict[str, Any]], value)


def _text(row: Mapping[str, Any], key: str, name: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{name} has no {key}; expected an object with {key} in words")
    if len(value) > LONGEST_TEXT:
        raise DataError(f"{name} has a {key} of {len(value):,} letters, and a page shows {LONGEST_TEXT:,}; shorten it")
    return value


def _known_fields(row: Mapping[str, Any], fields: tuple[str, ...], of: str = "") -> None:
    unknown = [key for key in row if key not in fields]
    if unknown:
        raise DataError(f"{of}has {unknown[0][:40]!r}, which says nothing here; expected {', '.join(fields)}")
