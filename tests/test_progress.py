"""Phases are shown live on a terminal and as plain lines elsewhere, and end well however the work ends."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from backflip import progress as progress_module
from backflip.progress import Progress, duration


class Clock:
    """A clock that a test moves by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def shown(terminal: bool, quiet: bool = False) -> tuple[Progress, io.StringIO, Clock]:
    out = io.StringIO()
    made = Progress(quiet=quiet, console=Console(file=out, force_terminal=terminal, width=100))
    made.clock = Clock()
    return made, out, made.clock


def test_plain_lines_tell_count_rate_and_time_left_now_and_then() -> None:
    progress, out, clock = shown(terminal=False)
    with progress.phase("sample answers", total=100) as bar:
        for _ in range(50):
            clock.now += 1.0
            bar.advance(2, loss=0.123456, device="cpu")
    assert out.getvalue().splitlines() == [
        "sample answers: 20/100  2/s  40.0 s left  loss 0.123  device cpu",
        "sample answers: 40/100  2/s  30.0 s left  loss 0.123  device cpu",
        "sample answers: 60/100  2/s  20.0 s left  loss 0.123  device cpu",
        "sample answers: 80/100  2/s  10.0 s left  loss 0.123  device cpu",
        "sample answers: 100/100  2/s  loss 0.123  device cpu  done in 50.0 s",
    ]
    assert progress.seconds_by_phase == {"sample answers": 50.0}


def test_lines_are_not_wrapped_and_text_is_no_markup() -> None:
    progress, out, _ = shown(terminal=False)
    with progress.phase("[bold]x[/bold] " + "y" * 200):
        pass
    assert out.getvalue().startswith("[bold]x[/bold] yyy") and out.getvalue().count("\n") == 1


def test_a_phase_without_total_and_a_phase_entered_twice() -> None:
    progress, out, clock = shown(terminal=False)
    for _ in range(2):
        with progress.phase("fit") as bar:
            clock.now += 3.0
            bar.advance(6)
    assert out.getvalue().splitlines() == ["fit: 6  2/s  done in 3.0 s"] * 2
    assert progress.seconds_by_phase == {"fit": 6.0}


@pytest.mark.parametrize("terminal", [True, False])
def test_an_interrupt_passes_through_and_says_how_far_it_came(terminal: bool) -> None:
    progress, out, clock = shown(terminal)
    with pytest.raises(KeyboardInterrupt), progress.phase("round", total=2), progress.phase("fit", total=9) as bar:
        clock.now += 1
        bar.advance(4)
        raise KeyboardInterrupt
    said = out.getvalue()
    assert "fit: 4/9" in said and "stopped after 1.0 s" in said and "round: 0/2" in said
    if terminal:
        assert said.rindex("\x1b[?25h") > said.index("\x1b[?25l"), "the cursor is shown again"
    with progress.phase("again"):
        pass
    assert "again: 0  done" in out.getvalue()


def test_a_terminal_sees_bars_and_then_one_line_a_phase() -> None:
    progress, out, clock = shown(terminal=True)
    with progress.phase("outer", total=1) as outer:
        with progress.phase("inner", total=4) as bar:
            clock.now += 2
            bar.advance(4, loss=1.5)
        outer.advance()
    assert "inner: 4/4  2/s  loss 1.5  done in 2.0 s" in out.getvalue()
    assert "outer: 1/1" in out.getvalue() and "━" in out.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_quiet_shows_nothing_but_still_counts(terminal: bool) -> None:
    progress, out, clock = shown(terminal, quiet=True)
    with progress.phase("fit", total=2) as bar:
        clock.now += 100
        bar.advance(2)
        progress.say("hello")
    assert out.getvalue() == "" and bar.done == 2 and progress.seconds_by_phase == {"fit": 100.0}


def test_durations_are_for_people() -> None:
    assert [duration(s) for s in (0.04, 59.94, 61, 3599.4, 7800)] == [
        "0.0 s",
        "59.9 s",
        "1 min 01 s",
        "59 min 59 s",
        "2 h 10 min",
    ]


def test_nothing_is_shown_more_often_than_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "LINE_SECONDS", 1e9)
    progress, out, clock = shown(terminal=False)
    with progress.phase("fit", total=1000) as bar:
        for _ in range(1000):
            clock.now += 1
            bar.advance()
    assert out.getvalue().count("\n") == 1
