"""Values as JSON columns hold them, so that whatever is written can be read again, and asked for by every statement.

PostgreSQL keeps a NUL in JSON and then fails on every statement that looks into it, so there the character is written in another way;
half a character (a lone surrogate) is refused everywhere, as in columns of text. Leaves out columns of text (`schema.AnyText`).
"""

from __future__ import annotations

import json
import re
from typing import Any

from sqlalchemy import JSON
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

MARK = "\ufdd0"
"""Stands before what stands for another character. Unicode sets it aside for such a use; no text has it."""
_WAYS_OUT = {"\x00": f"{MARK}0", MARK: f"{MARK}1"}
_WAYS_BACK = {written: meant for meant, written in _WAYS_OUT.items()}
_OUT, _BACK = re.compile(f"[\x00{MARK}]"), re.compile(f"{MARK}[01]")


def written(value: Any) -> str:
    """Return a value as JSON.

    Raises:
        UnicodeEncodeError: a text in it has half a character.
    """
    text = json.dumps(value)
    if "\\ud" in text:  # halves of one character, or half of none
        json.dumps(value, ensure_ascii=False).encode()
    return text


def written_for_postgres(value: Any) -> str:
    """Return a value as JSON that PostgreSQL can look into; `read_from_postgres` returns the value.

    Raises:
        UnicodeEncodeError: as `written`.
    """
    text = written(value)
    if "\\u0000" in text or "\\ufdd0" in text:
        text = written(_changed(value, _OUT, _WAYS_OUT))
    return text


def read_from_postgres(text: str | bytes) -> Any:
    """Return the value of what `written_for_postgres` wrote, or of any other JSON."""
    value = json.loads(text)
    marked = b"\\ufdd0" in text if isinstance(text, bytes) else "\\ufdd0" in text
    return _changed(value, _BACK, _WAYS_BACK) if marked else value


def _changed(value: Any, what: re.Pattern[str], into: dict[str, str]) -> Any:
    """Return a value with some characters of its texts and names changed."""
    if isinstance(value, str):
        return what.sub(lambda found: into[found[0]], value)
    if isinstance(value, dict):
        return {_changed(name, what, into): _changed(one, what, into) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_changed(one, what, into) for one in value]
    return value


class readable(FunctionElement[Any]):
    """A JSON column as statements may look into it: `readable(column)["name"].as_string()`.

    On PostgreSQL a row of an earlier version may hold a NUL, or half a character; both are looked at as U+FFFD.
    """

    inherit_cache = True
    type = JSON()


@compiles(readable)
def _as_it_is(element: readable, compiler: Any, **options: Any) -> str:
    return compiler.process(element.clauses, **options)


@compiles(readable, "postgresql")
def _without_what_fails(element: readable, compiler: Any, **options: Any) -> str:
    # What stands in place of an escape is one too: then a backslash before it, escaped itself, goes on meaning what it meant.
    column = compiler.process(element.clauses, **options)
    bad = r"\\u(0000|[dD][89a-fA-F][0-9a-fA-F]{2})"
    return rf"CAST(regexp_replace(CAST({column} AS TEXT), '{bad}', '\\ufffd', 'g') AS JSON)"
