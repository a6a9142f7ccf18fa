"""Tables of a page: estimates with their intervals, and nested settings laid flat.

Leaves out what the tables are about.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backflip.data import Estimate
from backflip.report.wording import show, show_interval, wording


@dataclass(frozen=True)
class Cell:
    """A value, and what stands small beneath it."""

    text: str
    small: str = ""
    link: str = ""
    """Where a click on the text leads: an address beside the page."""


@dataclass(frozen=True)
class Table:
    """A table whose first column names the row."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""
    wide: bool = False
    """Columns are runs, with long cells: each keeps its width, and the table scrolls sideways on a phone."""
    folded: str = ""
    """What to open to see the table; empty: it stands open."""


def cell(measured: Estimate | None, name: str, *, with_n: bool = True) -> Cell:
    """Write an estimate as a table cell: value, with its interval and n beneath."""
    if measured is None:
        return Cell("-")
    unit = wording(name).unit
    value = show(measured.value, unit, bare=True)
    if measured.n == 0:
        return Cell(value, "no interval")
    small = [] if measured.low == measured.high else [show_interval(measured, unit)]
    small += [f"n = {measured.n:,}"] if with_n else []
    return Cell(value, "\n".join(small))


def unit_words(name: str) -> str:
    """Return the unit of a recorded quantity in words, empty where the number carries it."""
    return {"nats": "nats", "tokens": "tokens", "seconds": "seconds", "mb": "MB"}.get(wording(name).unit, "")


def flat(value: Any, prefix: str = "") -> dict[str, str]:
    """Flatten nested settings to dotted names and printable values."""
    if isinstance(value, Mapping) and value:
        found: dict[str, str] = {}
        for key, entry in value.items():
            found.update(flat(entry, f"{prefix}.{key}" if prefix else str(key)))
        return found
    return {prefix: value if isinstance(value, str) else repr(value)}


def flat_table(value: Mapping[str, Any], heading: str, leave_out: tuple[str, ...] = (), folded: str = "") -> Table:
    """Return nested settings as a two-column table."""
    rows = {key: text for key, text in flat(dict(value)).items() if key and key not in leave_out}
    return Table((heading, "value"), tuple((Cell(key), Cell(text)) for key, text in rows.items()), folded=folded)
