"""Which questions the control loop puts, and when: its schedule, what is held out, and what of before is asked about again.

Everything is a function of the seed, the place in the recipe, and what was answered by then. A run that was killed is taken back some
updates, and where people answer late it may go another way from there: so every question is written down as it is put, and those that
do not come up again are taken over with their answers. Left out: how pairs are chosen (`rewards/queries`), and the answers.

Shapes: B rows.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from backflip.data import Episodes, Query
from backflip.loops.parts import stream
from backflip.overseers.recorded import RecordedOverseer
from backflip.rewards.queries import Asking, choose, choose_single, labels_due
from backflip.run_folder import append_lines, cut_to
from backflip.run_record import read_lines

if TYPE_CHECKING:
    from backflip.loops.control import ControlLoopConfig, ControlParts, Position
    from backflip.run import Run

ASKED = "asked.jsonl"
"""File of a run folder with every question as it was put; it only ever grows."""
OLDER = 40
"""Earlier questions whose clips may be asked about again, drawn anew each time."""


@dataclass(frozen=True)
class Put:
    """A question that was put before the run was killed."""

    id: str
    update: int
    held: bool
    """Whether it is only measured."""


def put_before(run: Run) -> list[Put]:
    """Return what this run asked before it was killed, in that order, without what was written down and had not reached the store."""
    path, faults = run.path / ASKED, list[str]()
    if path.is_file():  # a line that a power cut left half written would spoil the next one
        cut_to(path, path.read_bytes().rfind(b"\n") + 1)
    found = {str(row["id"]): row for row in read_lines(path, faults)}
    for fault in faults:
        run.note(f"{fault}; answers to its question are not learned from")
    stored = run.store.states(found)
    return [Put(key, int(row["update"]), bool(row["held"])) for key, row in found.items() if key in stored]


def adopt(earlier: list[Put], at: Position) -> None:
    """Take over questions of before the kill that have not come up again by the update after theirs."""
    known = set(at.asked)
    missed = [one for one in earlier if one.update < at.update and one.id not in known]
    at.asked = [*at.asked, *(one.id for one in missed)]
    at.asked_at = [*at.asked_at, *(one.update for one in missed)]
    at.held = [*at.held, *(one.id for one in missed if one.held)]


def ask(
    parts: ControlParts,
    config: ControlLoopConfig,
    at: Position,
    rows: Episodes,
    run: Run,
    earlier: list[Put],
    *,
    fitted: bool,
) -> None:
    """Put the questions that are due; the overseer may take its time. `earlier`: what was put before a kill."""
    per_update = config.environments * config.row_steps
    first = max(1, round(config.first_share * config.comparisons))
    due = labels_due(at.update * per_update, config.steps, config.comparisons, first, config.schedule_steps)
    last = at.update + 1 >= config.updates
    if isinstance(parts.overseer, RecordedOverseer):
        if last or parts.overseer.places == config.updates:  # at last all: what was answered late teaches too
            everything, then = parts.overseer.questions, parts.overseer.come_up(at.update, config.updates)
            _take_recorded(at, parts.overseer.held, everything if last else then)
            return
    else:
        adopt(earlier, at)
        withdraw(config, at, run)
    open_or_told = len(at.asked) - len(at.expired)
    count = (config.comparisons if last else due) - open_or_told
    if count < (1 if last or not at.asked else min(config.ask_at_once, config.comparisons - open_or_told)) or count < 1:
        return
    if isinstance(parts.overseer, RecordedOverseer):  # it had another number of updates: as many as are due now
        _take_recorded(at, parts.overseer.held, parts.overseer.questions[: len(at.asked) + count])
        return
    reward = parts.reward if fitted else None
    held_so_far = len(set(at.held) - set(at.expired))
    kept_apart = max(0, min(count, round(config.fit.held_out * (open_or_told + count)) - held_so_far))
    learned_B, measured_B = _split(config, at, len(rows), some=kept_apart > 0)
    held = set(at.held)
    learned = [query for query in at.asked if query not in held]
    for rows_B, number, before, what in (
        (learned_B, count - kept_apart, learned, "ask"),
        (measured_B, kept_apart, at.held, "hold out"),
    ):
        if not number:
            continue
        rng = stream(config.seed, what, at.update)
        asking = Asking(parts.clip_steps, config.queries, parts.question, config.older_share)
        if config.asks == "scores":
            queries = choose_single(rows.select(rows_B), parts.world, reward, number, asking, rng)
        else:
            known = before if config.older_share else []
            older = _older(parts, known, run, stream(config.seed, f"older, {what}", at.update))
            queries = choose(rows.select(rows_B), parts.world, reward, number, asking, rng, older)
        queries = [query for query in queries if query.id not in at.asked]
        put = [{"id": query.id, "update": at.update, "held": what == "hold out"} for query in queries]
        append_lines(run.path / ASKED, put)  # first: what is asked and not written down could not be found again
        parts.overseer.ask(queries)
        at.asked = [*at.asked, *(query.id for query in queries)]
        at.asked_at = [*at.asked_at, *(at.update for _ in queries)]
        at.held = [*at.held, *(query.id for query in queries)] if what == "hold out" else at.held


def _take_recorded(at: Position, held: Collection[str], told: Sequence[Query]) -> None:
    """Let these questions of an earlier run be those that were asked so far."""
    when = dict(zip(at.asked, at.asked_at, strict=True))
    at.asked = [query.id for query in told]
    at.asked_at = [when.get(query, at.update) for query in at.asked]
    at.held = [query for query in at.asked if query in held]


def withdraw(config: ControlLoopConfig, at: Position, run: Run) -> None:
    """Withdraw what nobody has answered for `stale_updates` updates: the policy is another one by now, and newer pairs say more of it.

    Who has such a pair before them may still answer, and is heard.
    """
    if not config.stale_updates:
        return
    gone = set(at.expired)
    old = [
        query
        for query, when in zip(at.asked, at.asked_at, strict=True)
        if at.update - when >= config.stale_updates and query not in gone
    ]
    states = run.store.states(old)
    stale = [query for query in old if states.get(query) in ("open", "expired")]  # expired: withdrawn before a kill
    if stale:
        run.store.expire(stale)
        at.expired = [*at.expired, *stale]


def _split(config: ControlLoopConfig, at: Position, rows: int, *, some: bool) -> tuple[list[int], list[int]]:
    """Return the rows that questions to learn from are about, and those for the questions that are only measured.

    No clip is in both, nor half a clip: an answer about a clip that was fitted says little of the rest. A single row serves both.
    """
    if not some or rows == 1:
        return list(range(rows)), list(range(rows))
    order = stream(config.seed, "apart", at.update).permutation(rows).tolist()
    count = min(rows - 1, math.ceil(config.fit.held_out * rows))
    return sorted(order[count:]), sorted(order[:count])


def _older(parts: ControlParts, asked: list[str], run: Run, rng: np.random.Generator) -> Episodes | None:
    """Return the clips of some of these questions, all being as likely; None if there are none."""
    if not asked:
        return None
    some = rng.choice(len(asked), min(OLDER, len(asked)), replace=False)
    ids = [asked[place] for place in sorted(some.tolist())]
    questions = run.store.queries_by_id(ids)
    return parts.world.load([item for one in ids for item in questions[one].items])
