"""Preference pairs between a store and files that other tools read and write: JSON lines and Parquet.

`{prompt, chosen, rejected}` is what others expect, and a tie or an answer that could not be judged is none: those go
to a second file beside it (`pairs.jsonl`, `pairs.undecided.jsonl`), so that nobody trains on a preference that nobody
stated, and nothing is lost. Leaves out anything but pairs of texts: to move a whole store, copy it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from backflip.checkpoint import atomic_file
from backflip.data import Judgement, Query
from backflip.errors import DataError
from backflip.store.desk import TOLD
from backflip.store.pair_files import check_ending, read_rows, writing_rows
from backflip.store.pair_lines import DECIDED, UNDECIDED, from_row, is_decided, is_pair, to_row
from backflip.store.records import UNDONE, judgement_id
from backflip.store.store import PAGE, Store

SHOWN = 10
"""Bad lines whose fault is told; the rest are counted."""
LONGEST_FAULT = 400
"""Letters that are told of one."""
MOST_FAULTS = 5_000
"""Bad lines after which a file is read no further: it is another kind of file."""


@dataclass(frozen=True)
class Exchanged:
    """How many judgements were written or read, by kind; printed as one line."""

    pairs: int
    """One answer was called better."""
    ties: int
    """Both were called equally good."""
    could_not_judge: int
    """Somebody was asked and could not say."""
    left_out: int = 0
    """Written nowhere: no comparison of two texts that answer one prompt, or an exercise, or an answer for or after a talk."""
    new: int = 0
    """Of those read, judgements that the store did not have yet."""

    def __str__(self) -> str:
        parts = [f"{self.pairs:,} pairs", f"{self.ties:,} ties", f"{self.could_not_judge:,} that could not be judged"]
        return ", ".join(parts) + (f" ({self.left_out:,} judgements of other kinds left out)" if self.left_out else "")


def undecided_file(path: Path) -> Path:
    """Return the name of the second file: pairs.jsonl has its ties in pairs.undecided.jsonl."""
    return path.with_name(f"{path.stem}.undecided{path.suffix}")


def export_pairs(store: Store, path: str | Path) -> Exchanged:
    """Write every judged pair of texts, one row a judgement; ties and what could not be judged go to the second file.

    Exercises, and answers to what people disagree on, are no preferences that came by themselves: they are left out and counted.
    Both files are written whole or not at all. In JSON lines, prompts that are messages stay messages.
    Raises ConfigError for an unknown ending, StoreError where the disk is full.
    """
    path = Path(path)
    chat = check_ending(path) == "line"
    other = undecided_file(path)
    pairs = ties = blank = left_out = 0
    with ExitStack() as stack:
        new = stack.enter_context(atomic_file(path))
        write = stack.enter_context(writing_rows(new, DECIDED, path.suffix))
        new_other = stack.enter_context(atomic_file(other))
        write_other = stack.enter_context(writing_rows(new_other, UNDECIDED, path.suffix))
        for query, judgement in _judged(store):
            if not is_pair(query) or judgement.details.get("purpose") in TOLD:
                left_out += 1
                continue
            decided = is_decided(judgement)
            pairs += decided
            blank += judgement.answer is None
            ties += judgement.answer is not None and not decided
            (write if decided else write_other)(to_row(query, judgement, chat))
    if not ties + blank:
        other.unlink()
    return Exchanged(pairs, ties, blank, left_out)


def import_pairs(store: Store, path: str | Path) -> Exchanged:
    """Add the pairs of a file, and of its second file where there is one: all of them or, if one line is bad, none.

    Reads our own rows back exactly (importing twice changes nothing), and `prompt`, `chosen`, `rejected` of other tools
    as text, as lists of messages, or as whole dialogues without a prompt. Items get the payload {"prompt_text" or
    "prompt_messages", "answer_text"}, which a world of texts tokenises. Raises DataError naming bad lines by number.
    """
    path = Path(path)
    other = undecided_file(path)
    files = [path, other] if other.is_file() else [path]
    faults = list(islice((fault for file in files for fault in _faults(file)), MOST_FAULTS))
    refuse(str(path), faults)
    counts = {"pairs": 0, "ties": 0, "could_not_judge": 0}

    def batches() -> Iterator[tuple[list[Query], list[Judgement]]]:
        for file in files:
            batch: list[tuple[Query, Judgement]] = []
            for _, found in _parsed(file):
                if isinstance(found, DataError):
                    raise DataError(f"{file} changed while it was read; nothing was imported, import it again")
                judgement = found[1]
                decided = is_decided(judgement)
                counts["pairs" if decided else "could_not_judge" if judgement.answer is None else "ties"] += 1
                batch.append(found)
                if len(batch) == PAGE:
                    yield [query for query, _ in batch], [judgement for _, judgement in batch]
                    batch = []
            yield [query for query, _ in batch], [judgement for _, judgement in batch]

    _, new = store.import_all(batches())
    if not sum(counts.values()):
        raise DataError(f"{path} holds no pairs; expected one a line, {{prompt, chosen, rejected}}")
    return Exchanged(**counts, new=new)


def refuse(name: str, faults: Sequence[str]) -> None:
    """Refuse a file with faults, each told by the number of its line as far as they fit into a sentence.

    Raises:
        DataError: there are faults.
    """
    if faults:
        more = f"; and {len(faults) - SHOWN:,} more" if len(faults) > SHOWN else ""
        lines = "1 bad line" if len(faults) == 1 else f"{len(faults):,} bad lines"
        if len(faults) >= MOST_FAULTS:
            lines = f"{lines} or more, and was read no further"
        raise DataError(f"{name} has {lines}, nothing was imported: {'; '.join(map(_short, faults[:SHOWN]))}{more}")


def _short(fault: str) -> str:
    """Return a fault without most of what it quotes, where that is long."""
    return fault if len(fault) <= LONGEST_FAULT else f"{fault[:LONGEST_FAULT]} ..."


def _judged(store: Store) -> Iterator[tuple[Query, Judgement]]:
    """Yield every judgement with its query, page by page, in the order told."""
    cursor, gone = 0, {one.details.get("undoes") for _, _, one in store.judgement_events() if one.note == UNDONE}
    while True:
        told, cursor = store.judgements(cursor, PAGE)
        if not told:
            return
        told = [one for one in told if one.note != UNDONE and judgement_id(one) not in gone]
        asked = store.queries_by_id({judgement.query_id for judgement in told})
        yield from ((asked[judgement.query_id], judgement) for judgement in told)


def _parsed(path: Path) -> Iterator[tuple[int, tuple[Query, Judgement] | DataError]]:
    seen: dict[str, int] = {}
    for number, row in read_rows(path):
        try:
            if isinstance(row, DataError):
                raise row
            found = from_row(row, f"imported from {path.name}", seen)
        except DataError as error:
            yield number, error
        else:
            yield number, found


def _faults(path: Path) -> Iterator[str]:
    place = check_ending(path)
    for number, found in _parsed(path):
        if isinstance(found, DataError):
            yield f"{path.name} {place} {number}: {found}"
