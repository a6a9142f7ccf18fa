"""Show what a run is doing: phases with count, rate and time left; plain lines where nobody watches a terminal.

Leaves out what is logged for later (`run.py`). Nothing here imports torch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

LINE_SECONDS = 10.0
"""A plain line at most this often within a phase."""


class Bar:
    """The progress of one phase. Made by `Progress.phase`."""

    def __init__(self, title: str, total: int | None, owner: Progress) -> None:
        """Begin at nothing done, now."""
        self.title = title
        self.total = total
        self.done = 0
        self.shown: dict[str, float | int | str] = {}
        self._owner = owner
        self._begun = owner.clock()

    @property
    def seconds(self) -> float:
        """Time since the phase began."""
        return self._owner.clock() - self._begun

    @property
    def rate(self) -> float | None:
        """Units done a second; None until there is something to tell."""
        return self.done / self.seconds if self.done and self.seconds > 0 else None

    @property
    def seconds_left(self) -> float | None:
        """Time left at the mean rate so far; None where the total or the rate is unknown."""
        if self.total is None or self.rate is None:
            return None
        return max(0, self.total - self.done) / self.rate

    def advance(self, count: int = 1, **shown: float | int | str) -> None:
        """Count `count` more units done, and show these numbers beside the bar until the next ones."""
        self.done += count
        self.shown.update(shown)
        self._owner.update(self)

    def facts(self) -> str:
        """Return the numbers shown, in words."""
        return "  ".join(f"{name} {_short(value)}" for name, value in self.shown.items())

    def line(self) -> str:
        """Return where the phase stands as one plain line."""
        count = f"{self.done}/{self.total}" if self.total is not None else str(self.done)
        parts = [f"{self.title}: {count}"]
        if self.rate is not None:
            parts.append(f"{_short(self.rate)}/s")
        if self.seconds_left is not None and self.done < (self.total or 0):
            parts.append(f"{duration(self.seconds_left)} left")
        return "  ".join(part for part in (*parts, self.facts()) if part)


class Progress:
    """Phases of a run, shown live on a terminal and as plain lines elsewhere; `quiet` shows nothing."""

    def __init__(self, quiet: bool = False, console: Console | None = None) -> None:
        """Show on `console`, by default standard error, so that what a command prints can be piped."""
        from rich.console import Console

        self._console = console or Console(stderr=True)
        self._quiet = quiet
        self._live: Any = None
        self._tasks: dict[Bar, Any] = {}
        self._last_line = -math.inf
        self.clock = time.monotonic
        self.seconds_by_phase: dict[str, float] = {}
        """Time spent in each phase so far, by title; a phase entered again adds up."""

    @contextmanager
    def phase(self, title: str, total: int | None = None) -> Generator[Bar, None, None]:
        """Show `title` with the bar that is yielded, until the block ends; phases may be nested.

        When the block raises (Ctrl-C included), the terminal is put right, the line says how far it came, and the
        exception goes on.
        """
        bar = Bar(title, total, self)
        self._open(bar)
        ending = "stopped"
        try:
            yield bar
            ending = "done"
        finally:
            self.seconds_by_phase[title] = self.seconds_by_phase.get(title, 0.0) + bar.seconds
            self._close(bar, ending)

    def say(self, text: str) -> None:
        """Print a line, above the bars where there are any."""
        if not self._quiet:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def update(self, bar: Bar) -> None:
        """Show a bar's new numbers; called by `Bar.advance`."""
        if self._live is not None:
            self._live.update(self._tasks[bar], completed=bar.done, facts=bar.facts())
        elif bar.done != bar.total and self.clock() - self._last_line >= LINE_SECONDS:
            self._last_line = self.clock()
            self.say(bar.line())

    def _open(self, bar: Bar) -> None:
        if self._quiet or not self._console.is_terminal:
            self._last_line = self.clock()
            return
        if self._live is None:
            self._live = _live(self._console)
            self._live.start()
        self._tasks[bar] = self._live.add_task(bar.title, total=bar.total, facts="")

    def _close(self, bar: Bar, ending: str) -> None:
        if bar in self._tasks:
            self._live.remove_task(self._tasks.pop(bar))
            if not self._tasks:
                self._live.stop()
                self._live = None
        how = f"{ending} in" if ending == "done" else f"{ending} after"
        self.say(f"{bar.line()}  {how} {duration(bar.seconds)}")


def duration(seconds: float) -> str:
    """Return a time span for people: 4.2 s, 3 min 05 s, 2 h 10 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _short(value: float | int | str) -> str:
    return (
        f"{value:.3g}"
        if isinstance(value, float) and abs(value) < 1000
        else f"{value:.0f}"
        if isinstance(value, float)
        else str(value)
    )


def _live(console: Console) -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Live

    class Rate(TextColumn):
        """Units a second."""

        def render(self, task: Any) -> Any:
            """Show the speed, or nothing while it is unknown."""
            from rich.text import Text

            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{_short(float(speed))}/s")

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        Rate(""),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[facts]}", markup=False),
    )
    return Live(*columns, console=console, transient=True)
