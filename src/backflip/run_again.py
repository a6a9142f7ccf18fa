"""Train again on what an earlier run asked and heard, or on all of it but what some people said (`backflip run --again`).

The new run's store begins with the earlier one's questions and judgements, so every number of it can be followed to them as well; where
they came from stands in the folder's `again.json`. Left out: the overseer that repeats them (`overseers.recorded`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backflip.checkpoint import write_atomic
from backflip.data import Judgement
from backflip.errors import ConfigError, DataError
from backflip.run_folder import to_json
from backflip.run_record import AGAIN, STORE, RunRecord, read_object, read_run
from backflip.store import Store
from backflip.store.desk import standing
from backflip.store.names import folded
from backflip.store.opinions import resting_on
from backflip.store.people import PERSON, People
from backflip.store.study import StudyBook

if TYPE_CHECKING:
    from backflip.run import Run

PART = 500
"""Questions that are copied at once."""


@dataclass(frozen=True)
class Again:
    """What a run that is trained again learns from."""

    run: str
    """Id of the earlier run."""
    path: str
    """Its folder."""
    asked: tuple[str, ...]
    """Ids of its questions that somebody answered, in the order in which they were asked."""
    asked_at: tuple[int, ...]
    """At which place of its recipe, a round or an update, each of them came up first."""
    places: int
    """How many such places it had."""
    held: tuple[str, ...]
    """Those of them that were only measured."""
    without: tuple[str, ...]
    """Judges whose judgements are left out."""
    judgements: int
    """How many there are to learn from."""
    left_out: int
    unanswered: int
    """Questions that only those judges had answered."""
    estimates: Mapping[str, Any]
    """What the earlier run came to."""


def prepare(path: str | Path, without: Sequence[str]) -> tuple[RunRecord, Again]:
    """Return an earlier run, and what would be learned from it without these judges or people, given by name or id.

    Raises:
        DataError: the folder is no run; it does not say what it asked; nothing would be left to learn from.
        ConfigError: one of them judged nothing there.
    """
    record = read_run(path)
    said = record.results.get("asked")
    if not isinstance(said, Mapping) or not said.get("asked"):
        raise DataError(
            f"{record.path} does not say what it asked (results/asked.json); expected a finished run of reviews, text, control or backflip"
        )
    places = int(said.get("places", 0))
    if len(said.get("asked_at", ())) != len(said["asked"]) or places < 1:
        raise DataError(
            f"{record.path} does not say when it asked what (results/asked.json); it is of an older version: run it anew"
        )
    when = {str(one): int(at) for one, at in zip(said["asked"], said["asked_at"], strict=True)}
    held = tuple(str(one) for one in said.get("held", ()))
    with Store.open(_store_of(record), mode="read") as store:
        told = _standing(store, list(when))
        heard = {one.query_id for one in told}
        asked = tuple(one for one in when if one in heard)  # what nobody answered taught nothing
        gone = tuple(dict.fromkeys(_judge(name, store, told, record) for name in without))
    kept = [one for one in told if one.judge not in gone]
    if not any(one.answer is not None for one in kept):
        raise DataError(
            f"{record.path} holds no answer but those of {' and '.join(without) or 'nobody'}: nothing is left to learn from"
        )
    unanswered = len({one.query_id for one in told} - {one.query_id for one in kept})
    estimates = record.summary.get("estimates", {})
    again = Again(
        str(record.command.get("id", "")),
        str(record.path),
        asked,
        tuple(when[one] for one in asked),
        places,
        held,
        gone,
        len(kept),
        len(told) - len(kept),
        unanswered,
        estimates,
    )
    return record, again


def begin(run: Run, record: RunRecord, again: Again) -> None:
    """Copy into a new run's store what it learns from, and write down where that came from."""
    write_atomic(run.path / AGAIN, to_json(asdict(again), "what the run learns from"))
    with Store.open(_store_of(record), mode="read") as store:
        resting = resting_on(store, again.without)
        known = [one for one in StudyBook(store).known() if one.query.id not in resting]
        ids = [*again.asked, *(one.query.id for one in known)]
        told = [one for one in _standing(store, ids) if one.judge not in again.without]
        for start in range(0, len(again.asked), PART):
            found = store.queries_by_id(again.asked[start : start + PART])
            run.store.add_queries([found[one] for one in again.asked[start : start + PART]])
    StudyBook(run.store).add_known(known)
    run.store.add_judgements(told)
    if again.without:
        run.note(
            f"trained on what {record.path.name} asked, without {', '.join(again.without)}: {again.left_out:,} of "
            f"{again.left_out + again.judgements:,} judgements are left out, and {again.unanswered:,} questions have no answer left"
            + (f"; known answers that rested on them, and are not known here: {len(resting):,}" if resting else "")
        )
    else:
        run.note(f"trained on what {record.path.name} asked, and on all {again.judgements:,} judgements of it")


def read_again(folder: Path) -> Again | None:
    """Return what a run learns from that was made by `--again`; None for any other run.

    Raises:
        DataError: the file that says so is broken.
    """
    path = folder / AGAIN
    if not path.is_file():
        return None
    faults: list[str] = []
    found = read_object(path, faults)
    try:
        for name in ("asked", "asked_at", "held", "without"):
            found[name] = tuple(found[name])
        return Again(**found)
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} is broken ({(faults or [error])[0]}); start the run anew with --again") from error


def _standing(store: Store, query_ids: Sequence[str]) -> list[Judgement]:
    wanted = set(query_ids)
    return [one for one in standing(store.judgements(0)[0]) if one.query_id in wanted]


def _judge(name: str, store: Store, told: Sequence[Judgement], record: RunRecord) -> str:
    """Return the judge that a name or an id means."""
    count = Counter(one.judge for one in told)
    names = {one.judge: one.name for one in People(store).everybody()}
    meant = [
        judge
        for judge in count
        if name in (judge, judge.removeprefix(PERSON)) or folded(names.get(judge, judge)) == folded(name)
    ]
    if len(meant) != 1:
        who = ", ".join(f"{names.get(judge, judge)} ({judge}, {n:,} judgements)" for judge, n in count.most_common())
        what = "nobody" if not meant else f"{len(meant)} people"
        raise ConfigError(f'{what} named "{name}" judged what {record.path} asked; these did: {who or "nobody"}')
    return meant[0]


def _store_of(record: RunRecord) -> str | Path:
    return str(record.command.get("store") or record.path / STORE)
