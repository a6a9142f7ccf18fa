"""Questions whose answers are known, from a file: JSON lines or Parquet, one a line, all of them or none.

The two answers are named as everywhere: `chosen` and `rejected` where one is right, or `first` and `second` with an `answer` that says
which, that both are equal, or with which shares. Leaves out what known answers are for (`study`) and files (`pair_files`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from backflip.data import Query
from backflip.errors import DataError
from backflip.store.interchange import MOST_FAULTS, refuse
from backflip.store.pair_files import check_ending, read_rows
from backflip.store.pair_lines import QUESTION, object_of, pair_of, text_of
from backflip.store.store import Store
from backflip.store.study import LONGEST_TEXT, USES, Known, StudyBook, Use

DECIDED = ("chosen", "rejected")
SHARED = ("first", "second")
FIELDS = ("prompt", *DECIDED, *SHARED, "answer", "explanation", "difficulty", "question", "use")
RIGHT = {"first": (1.0, 0.0), "second": (0.0, 1.0), "equal": (0.5, 0.5)}
DIFFICULTIES = ("easy", "usual", "hard")
LONGEST_EXPLANATION = 5_000


@dataclass(frozen=True)
class Added:
    """How many known answers a file held, and how many were new."""

    read: int
    new: int

    def __str__(self) -> str:
        return f"{self.read:,} known answer{'' if self.read == 1 else 's'}, {self.new:,} new"


def import_known(store: Store, path: str | Path) -> Added:
    """Add the known answers of a file: all of them or, if one line is bad, none.

    Raises:
        ConfigError: the file's ending names no format.
        DataError: there is no such file, it holds nothing, or lines are bad, which are named by number.
    """
    path = Path(path)
    return add_rows(store, read_rows(path), path.name, check_ending(path))


def add_rows(store: Store, rows: Iterable[tuple[int, Any]], name: str, place: str = "line") -> Added:
    """Add the known answers of numbered rows, as `import_known`; `name` is what the file is called in errors.

    Raises:
        DataError: there are none, or rows are bad.
    """
    book, faults = StudyBook(store), list[str]()
    question = book.question() or QUESTION
    there = {one.query.id: (one, "as it is in the store") for one in book.known()}
    found: list[Known] = []
    for number, row in rows:
        try:
            if isinstance(row, DataError):
                raise row
            one = known_of_row(row, question)
            before, where = there.setdefault(one.query.id, (one, f"as in {place} {number}"))
            if (before.answer, before.use) != (one.answer, one.use):
                raise DataError(f"the same pair, {where}, has another answer or another use; remove one of the two")
            found.append(one)
        except DataError as error:
            faults.append(f"{name} {place} {number}: {error}")
            if len(faults) == MOST_FAULTS:
                break
    refuse(name, faults)
    if not found:
        raise DataError(
            f"{name} is empty; expected one known answer a {place}, {{prompt, chosen, rejected, explanation}}"
        )
    return Added(len(found), book.add_known(list({one.query.id: one for one in found}.values())))


def known_of_row(row: Any, question: str) -> Known:
    """Return what a row says is known; `question` is asked where the row has none.

    Raises:
        DataError: something is wrong with the row.
    """
    row = {key: value for key, value in object_of(row).items() if value is not None}
    unknown = [key for key in row if key not in FIELDS]
    if unknown:
        raise DataError(f"has {unknown[0][:40]!r}, which says nothing here; expected {', '.join(FIELDS)}")
    names = SHARED if "first" in row or "second" in row else DECIDED
    if names == DECIDED and "answer" in row:
        raise DataError("has chosen and an answer; use first and second to say the answer otherwise")
    if names == SHARED and any(name in row for name in DECIDED):
        raise DataError("has chosen or rejected beside first or second; use two of them")
    pair, place = pair_of(row, names)
    for item in pair:
        if (letters := max(len(item.content), len(item.prompt))) > LONGEST_TEXT:
            raise DataError(f"has a text of {letters:,} letters, and a page shows {LONGEST_TEXT:,}; shorten it")
    shares = (1.0, 0.0) if names == DECIDED else _shares(row.get("answer"))
    explanation = text_of(row, "explanation", "")
    if len(explanation) > LONGEST_EXPLANATION:
        raise DataError(f"its explanation has {len(explanation):,} letters; expected {LONGEST_EXPLANATION:,} at most")
    difficulty, use = _one_of(row, "difficulty", DIFFICULTIES, "usual"), _one_of(row, "use", USES, "check")
    asked = text_of(row, "question", question)
    return Known(
        Query(pair, asked, reason="known"),
        shares if place == 0 else shares[::-1],
        explanation,
        difficulty,
        cast(Use, use),
    )


def _shares(answer: Any) -> tuple[float, float]:
    """Return the shares of first and second."""
    if isinstance(answer, str) and answer in RIGHT:
        return RIGHT[answer]
    if isinstance(answer, list):
        parts: list[Any] = cast(list[Any], answer)
        numbers = [float(one) for one in parts if isinstance(one, int | float) and not isinstance(one, bool)]
        right = len(numbers) == len(parts) == 2 and all(0 <= one <= 1 for one in numbers)
        if right and math.isclose(sum(numbers), 1, abs_tol=1e-6):
            return numbers[0], numbers[1]
    raise DataError(
        f"its answer is {str(answer)[:40]!r}, expected first, second, equal, or two shares that sum to 1 such as [0.8, 0.2]"
    )


def _one_of(row: dict[str, Any], name: str, allowed: tuple[str, ...], default: str) -> str:
    value = text_of(row, name, default)
    if value not in allowed:
        raise DataError(f"its {name} is {value[:40]!r}, expected {', '.join(allowed)}")
    return value
