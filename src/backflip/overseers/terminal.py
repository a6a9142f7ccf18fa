"""A person at the terminal: two texts, or the paths of two clips, and one key.

One question at a time, in the order asked. What a model wrote is untrusted: control characters never reach the
terminal. Left out: playing clips, and judgements of any kind but comparisons of two.
"""

from __future__ import annotations

import io
import os
import select
import sys
import time
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from backflip.data import Item, Judgement, Query
from backflip.errors import ConfigError
from backflip.overseers.shown import SEVEN_POINTS, as_stored, require_pair, shown
from backflip.store import Store

Shares = Mapping[str, tuple[float, float]]
"""What each key says: shares for the places shown."""
CHOICE: Shares = {"1": (1.0, 0.0), "2": (0.0, 1.0), "=": (0.5, 0.5)}
CHOICE_LEGEND = "1 or 2: the better one   =: equally good   s: skip   q: stop for now"
SEVEN: Shares = {str(place + 1): (share, 1 - share) for place, share in enumerate(reversed(SEVEN_POINTS))}
SEVEN_LEGEND = (
    "1: the first is much better   2: better   3: slightly   4: about equal   5 6 7: the second   s: skip   q: stop"
)
LONGEST_WAIT_SECONDS = 10_000.0
"""No wait for one key is longer; `select` takes no infinity."""
END_KEYS = ("", "q", "\x04")
ESCAPE = "\x1b"
ONE_KEY_SECONDS = 0.05
"""The signs of one key come without a longer pause."""


class TerminalOverseer:
    """Show each open query to the person at the terminal and record the answer at once."""

    def __init__(
        self,
        store: Store,
        console: Console | None = None,
        keys: Keys | None = None,
        judge: str = "person",
        film: Callable[[Item], Path] | None = None,
        *,
        seven: bool = False,
    ) -> None:
        """Ask at `console` (standard output if None), hearing `keys` (standard input if None), under the name `judge`.

        `film` makes the video of a clip; its path is printed for the person to open. Without it clips are refused. `seven`: the
        person says on a scale of seven how much better one is, not which.
        """
        self._store, self._judge, self._film = store, judge, film
        self._console = console or Console()
        self._keys = keys or Keys(sys.stdin)
        self._shares, self._legend = (SEVEN, SEVEN_LEGEND) if seven else (CHOICE, CHOICE_LEGEND)
        self._asked: dict[str, Query] = {}
        self._on_screen = ""
        self._since = 0.0
        self.stopped = False
        """True once the person pressed q or input ended: what is open stays open in the store, nothing more is shown."""

    def ask(self, queries: Sequence[Query]) -> None:
        """Put the queries into the store; they are shown when somebody waits for answers.

        Raises:
            DataError: a query is no comparison of two.
            ConfigError: an item is a clip.
        """
        for query in queries:
            require_pair(query, "a person at the terminal")
            if self._film is None and any(item.media != "text" for item in query.items):
                raise ConfigError(
                    "a terminal cannot show clips unless it is told how to film them; use another overseer"
                )
        self._store.add_queries(queries)
        self._asked.update({query.id: query for query in queries})

    def answers(self, since: int, wait: float = 0.0) -> tuple[list[Judgement], int]:
        """Return judgements after cursor `since`; if there are none and `wait` > 0, show the next open query first.

        Returns nothing new when `wait` seconds passed without an answer, nothing is open, or the person stopped.
        """
        found, cursor = self._store.judgements(since)
        if found or wait <= 0 or self.stopped:
            return found, cursor
        states = self._store.states(self._asked)
        waiting = [query for query in self._asked.values() if states[query.id] == "open"]
        if waiting:
            if waiting[0].id != self._on_screen:
                self._show(waiting[0], len(self._asked) - len(waiting) + 1)
            self._listen(waiting[0], wait)
        return self._store.judgements(since)

    def _show(self, query: Query, number: int) -> None:
        first, second = shown(query)
        self._console.rule(f"{number} of {len(self._asked)}")
        self._console.print(Text(visible(query.question)))
        self._console.print(Text.assemble("after: ", (visible(first.prompt), "bold")))
        for key, item in (
            (("first", first), ("second", second)) if self._shares is SEVEN else (("1", first), ("2", second))
        ):
            said = item.content.strip() if item.media == "text" or self._film is None else str(self._film(item))
            self._console.print(Panel(Text(visible(said)), title=key, title_align="left"))
        for aid in query.aids:
            self._console.print(Panel(Text(visible(aid.text)), title=Text(visible(aid.author)), title_align="left"))
        self._console.print(Text(self._legend, "dim"))
        self._keys.discard()
        self._on_screen, self._since = query.id, time.monotonic()

    def _listen(self, query: Query, wait: float) -> None:
        end = time.monotonic() + wait
        while (left := end - time.monotonic()) > 0:
            key = self._keys.read(left)
            if key is None:
                return
            if key in END_KEYS:
                self.stopped = True
                return
            if key in self._shares or key == "s":
                self._record(query, key)
                return
            self._console.print(Text(f"{visible(key)!r} means nothing here.  {self._legend}", "yellow"))

    def _record(self, query: Query, key: str) -> None:
        answer = as_stored(query, self._shares[key]) if key in self._shares else None
        note = "" if key in self._shares else "skipped by the judge"
        seconds = time.monotonic() - self._since
        self._store.add_judgements(
            [Judgement(query.id, self._judge, answer, note, created=time.time(), seconds=seconds)]
        )


def visible(text: str) -> str:
    """Replace every control or format character but newlines by a visible sign, so that text cannot steer a terminal."""
    return "".join(
        c if c == "\n" or unicodedata.category(c) not in ("Cc", "Cf", "Cs") else "\N{REPLACEMENT CHARACTER}"
        for c in text
    )


class Keys:
    """Single keys from a stream: raw from a terminal, the first letter of a line from anything else."""

    def __init__(self, stream: TextIO | None) -> None:
        """Read from `stream`; None, as a standard input that was closed is, has nothing to read."""
        self._stream = stream or io.StringIO()
        self._raw = self._stream.isatty() and os.name == "posix"

    def read(self, seconds: float) -> str | None:
        """Return one key, "" at the end of input, None where nothing came within `seconds`.

        Keys that send several signs, such as Delete, are one key, and no answer, although a digit is among their signs. The
        terminal's mode is restored whatever happens. Lines from a pipe are waited for, however long.
        """
        if not self._raw:
            line = self._stream.readline()
            return line.strip()[:1] or ("\n" if line else "")
        import termios
        import tty

        number = self._stream.fileno()
        before = termios.tcgetattr(number)
        try:
            tty.setcbreak(number, termios.TCSANOW)
            if not select.select([number], [], [], min(seconds, LONGEST_WAIT_SECONDS))[0]:
                return None
            key = os.read(number, 1).decode(errors="replace")
            return _whole(number) if key == ESCAPE else key
        finally:
            termios.tcsetattr(number, termios.TCSADRAIN, before)

    def discard(self) -> None:
        """Forget keys pressed so far at a terminal: they cannot be about a question not yet shown."""
        if self._raw:
            import termios

            termios.tcflush(self._stream.fileno(), termios.TCIFLUSH)


def _whole(number: int) -> str:
    """Read what a terminal sends after the escape sign of one key, and return that sign.

    ECMA-48, sec. 5.4: "[" or "O", then signs below "@", then one that is not. After a pause there is nothing more: Escape itself.
    """

    def sign() -> bytes:
        return os.read(number, 1) if select.select([number], [], [], ONE_KEY_SECONDS)[0] else b""

    begun = sign()
    if begun in (b"[", b"O"):
        while (after := sign()) and after < b"@":
            pass
    return ESCAPE
