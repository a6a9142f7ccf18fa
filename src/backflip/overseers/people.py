"""People in the browser: questions go to the store, where the web application finds them, and answers come from there.

Clips are filmed before they are asked about, and their films are kept in the store: whoever shows them needs no simulator. A pair can be
judged as soon as its own films are there, while those of the next are made. An answer is
passed on once it stands: when the person has answered another question after it, or can no longer take it back. Leaves out the
application itself (`backflip.web`), with which this shares nothing but the store.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from backflip.data import Item, Judgement, Query
from backflip.errors import ConfigError
from backflip.overseers.shown import require_pair
from backflip.progress import duration
from backflip.store import Store
from backflip.store.desk import ADJUDICATE
from backflip.store.records import UNDONE
from backflip.store.study import StudyBook

if TYPE_CHECKING:
    from backflip.run import Run

LOOK_SECONDS = 0.2
GRACE_SECONDS = 2.0
"""So much longer than it can be taken back an answer is kept from training: two machines' clocks differ a little."""
KIND = "video/mp4"
LOG_SECONDS = 30.0
"""How often log.txt says how far the filming is."""


class PeopleOverseer:
    """Ask whoever judges by way of the store."""

    def __init__(
        self,
        store: Store,
        film: Callable[[Item], Path] | None = None,
        run: Run | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Ask by way of `store`; `film` makes the video of a clip, and `run` says how far that is, in its window and in log.txt.

        An answer stands after `undo_seconds` of the study's settings.
        """
        self._store, self._film, self._run, self._clock = store, film, run, clock
        self._book = StudyBook(store)

    @property
    def answers_each(self) -> int:
        """How many people judge each question."""
        return self._book.settings().overlap

    def asked_of_nobody_new(self) -> set[str]:
        """Return the ids of the questions that are talked about because people disagreed: they get no further answer of the study."""
        found, after = set[str](), 0
        while True:
            part, after = self._store.queries(after=after, purpose=ADJUDICATE)
            if not part:
                return found
            found |= {query.id for query in part}

    def ask(self, queries: Sequence[Query]) -> None:
        """Put the queries where people find them, in this order, each as soon as what must be filmed for it is filmed.

        Killed in the middle and asked the same again, it goes on with what is not there yet.

        Raises:
            DataError: a query is no comparison of two; then none is asked.
            ConfigError: an item is a clip, and nobody said how to film it; then none is asked.
        """
        for query in queries:
            require_pair(query, "a person in the browser")
        clips = {item.id for query in queries for item in query.items if item.media == "clip"}
        missing = {clip for clip in clips if not self._store.has_media(clip)}
        if not missing:
            self._store.add_queries(queries)
            return
        if self._film is None:
            raise ConfigError("people judge clips by their films; say how to film them, or take another overseer")
        ready = list[Query]()
        with self._filming(len(missing)) as filmed:
            for query in queries:
                for item in query.items:
                    if item.id not in missing:
                        continue
                    if ready:  # what can be judged does not wait for the films of the next
                        self._store.add_queries(ready)
                        ready = []
                    self._store.add_media(item.id, KIND, self._film(item).read_bytes())
                    missing.remove(item.id)
                    filmed()
                ready.append(query)
        self._store.add_queries(ready)

    @contextmanager
    def _filming(self, total: int) -> Generator[Callable[[], None]]:
        """Say how far the filming of so many clips is; yield what is called after each."""
        run = self._run
        if run is None:
            yield lambda: None
            return
        run.say(f"films {total} clips; each pair can be judged as soon as its two are there")
        with run.progress.phase("film clips to ask about", total) as bar:
            said = 0.0

            def filmed() -> None:
                nonlocal said
                bar.advance()
                if bar.done == total or bar.seconds - said >= LOG_SECONDS:
                    said = bar.seconds
                    run.say(f"filmed {bar.done} of {total} clips in {duration(said)}")

            yield filmed

    def answers(self, since: int, wait: float = 0.0) -> tuple[list[Judgement], int]:
        """Return the judgements after cursor `since` that stand, in order, and the new cursor.

        What may still be taken back is not passed on, and nothing after it either; what was taken back never is.
        """
        deadline = time.monotonic() + wait
        while True:
            found, cursor = self._standing(since)
            if found or (left := deadline - time.monotonic()) <= 0:
                return found, cursor
            time.sleep(min(LOOK_SECONDS, left))

    def _standing(self, since: int) -> tuple[list[Judgement], int]:
        events = self._store.judgement_events(since)
        if not events:
            return [], since
        now, undo_seconds = self._clock(), self._book.settings().undo_seconds + GRACE_SECONDS
        gone = {one.details.get("undoes") for _, _, one in events if one.note == UNDONE}
        last = {one.judge: seq for seq, _, one in events}
        found: list[Judgement] = []
        cursor = since
        for seq, key, one in events:
            # made a little later than it is now: the other machine's clock is ahead
            open_still = last[one.judge] == seq and abs(now - one.created) < undo_seconds and one.note != UNDONE
            if open_still:
                break
            cursor = seq
            if key not in gone and one.note != UNDONE:
                found.append(one)
        return found, cursor
