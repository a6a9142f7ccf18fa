"""A person answers with single keys, on a real pseudo-terminal and through a pipe; untrusted text stays text."""

import io
import math
import os
import pty
import threading
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from backflip.data import Aid, Item, Query
from backflip.errors import ConfigError
from backflip.overseers.terminal import Keys, TerminalOverseer, visible
from backflip.protocols import Overseer
from backflip.store import Store


class Script(Keys):
    """Keys that are known beforehand, and then nothing."""

    def __init__(self, keys: str) -> None:
        self.rest = list(keys)
        self.discarded = 0

    def read(self, seconds: float) -> str | None:
        return self.rest.pop(0) if self.rest else None

    def discard(self) -> None:
        self.discarded += 1


def at(store: Store, keys: str) -> tuple[TerminalOverseer, io.StringIO]:
    out = io.StringIO()
    return TerminalOverseer(store, Console(file=out, width=60), Script(keys)), out


def collect(judge: TerminalOverseer) -> list[Any]:
    found: list[Any] = []
    cursor = 0
    while True:
        new, cursor = judge.answers(cursor, wait=math.inf)
        if not new:
            return found
        found += new


def test_every_key_says_what_it_says(store: Store, query: Any):
    judge, out = at(store, "12=s")
    assert isinstance(judge, Overseer)
    judge.ask([query(f"left {i}", f"right {i}") for i in range(4)])
    assert judge.answers(0) == ([], 0) and not out.getvalue(), "without waiting nothing is shown"
    found = collect(judge)
    assert [j.answer for j in found] == [(1.0, 0.0), (0.0, 1.0), (0.5, 0.5), None]
    assert found[3].note and all(j.seconds >= 0 and j.created > 0 and j.judge == "person" for j in found)
    assert "4 of 4" in out.getvalue() and "left 2" in out.getvalue() and "the film" in out.getvalue()


def test_keys_mean_places_not_items(store: Store, query: Any):
    judge, out = at(store, "1")
    judge.ask([replace(query("stored first", "stored second"), order=(1, 0))])
    assert collect(judge)[0].answer == (0.0, 1.0)
    assert out.getvalue().index("stored second") < out.getvalue().index("stored first")


def test_other_keys_are_explained_and_change_nothing(store: Store, query: Any):
    judge, out = at(store, "x2")
    judge.ask([query("a", "b")])
    assert collect(judge)[0].answer == (0.0, 1.0)
    assert "means nothing here" in out.getvalue()


@pytest.mark.parametrize("last", ["q", "\x04"])
def test_q_stops_and_leaves_the_rest_open(store: Store, query: Any, last: str):
    judge, _ = at(store, "1" + last + "2")
    judge.ask([query(str(i), "b") for i in range(3)])
    assert len(collect(judge)) == 1 and judge.stopped
    assert store.counts()["open"] == 2
    assert judge.answers(1, wait=1) == ([], 1)


def test_what_was_answered_elsewhere_is_not_shown(store: Store, query: Any):
    first, _ = at(store, "1")
    first.ask([query("a", "b"), query("c", "d")])
    first.answers(0, wait=1)
    second, out = at(store, "2")
    second.ask([query("a", "b"), query("c", "d")])
    _, cursor = second.answers(0)
    assert second.answers(cursor, wait=1)[0][0].answer == (0.0, 1.0)
    assert "2 of 2" in out.getvalue() and "1 of 2" not in out.getvalue()


def test_model_text_cannot_steer_the_terminal(store: Store, query: Any):
    judge, out = at(store, "1")
    evil = "\x1b[2J\x1b]0;title\x07[bold]x[/bold] \u202eabc\r"
    judge.ask([replace(query(evil, "b"), question=f"q{evil}", aids=(Aid(evil, evil),))])
    collect(judge)
    assert not {"\x1b", "\x07", "\r", "\u202e"} & set(out.getvalue())
    assert "[bold]x[/bold]" in out.getvalue(), "markup is shown, not obeyed"
    assert visible("a\nb") == "a\nb"


def test_clips_are_refused(store: Store):
    clip = Item("walk", "clip-1", {}, media="clip")
    with pytest.raises(ConfigError, match="clips"):
        at(store, "")[0].ask([Query((clip, replace(clip, content="clip-2")), "which?")])


def test_a_question_is_shown_once_and_time_counts_from_there(store: Store, query: Any):
    out, script = io.StringIO(), Script("")
    judge = TerminalOverseer(store, Console(file=out, width=60), script)
    judge.ask([query("left", "right")])
    for _ in range(3):
        assert judge.answers(0, wait=0.02) == ([], 0)
    assert out.getvalue().count("left") == 1 and script.discarded == 1
    script.rest = ["1"]
    assert (judge.answers(0, wait=0.02)[0][0].seconds or 0) > 0


def test_raw_keys_on_a_pseudo_terminal():
    import termios

    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    with os.fdopen(slave, "r") as stream:
        keys = Keys(stream)
        assert keys.read(0.01) is None
        os.write(master, b"21")
        assert (keys.read(5), keys.read(5)) == ("2", "1"), (
            "no Enter needed, and a key pressed between two looks is not lost"
        )
        timer = threading.Timer(0.1, os.write, (master, b"="))
        timer.start()
        assert keys.read(30) == "="
        timer.join()
        os.write(master, b"1")
        keys.discard()
        assert keys.read(0.05) is None, "pressed before the question was shown"
        assert termios.tcgetattr(stream.fileno()) == before, "the terminal is as it was"
    os.close(master)


def test_a_key_that_sends_digits_among_its_signs_is_no_answer():
    master, slave = pty.openpty()
    with os.fdopen(slave, "r") as stream:
        keys = Keys(stream)
        delete, f5, up, f1, alt_3 = b"\x1b[3~", b"\x1b[15~", b"\x1b[A", b"\x1bOP", b"\x1b3"
        os.write(master, delete + f5 + up + f1 + alt_3 + b"2" + b"\x1b")
        assert [keys.read(5) for _ in range(7)] == ["\x1b"] * 5 + ["2", "\x1b"]
        assert keys.read(0.01) is None
    os.close(master)


def test_a_standard_input_that_was_closed_has_ended(store: Store, query: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.stdin", None)
    judge = TerminalOverseer(store, Console(file=io.StringIO()))
    judge.ask([query("left", "right")])
    assert judge.answers(0, wait=math.inf) == ([], 0) and judge.stopped, "it can be gone on with"


def test_lines_where_there_is_no_terminal():
    keys = Keys(io.StringIO("2\n  = \n\n"))
    assert [keys.read(1) for _ in range(4)] == ["2", "=", "\n", ""]


def test_a_scale_of_seven_says_how_much_better_whichever_was_shown_first(store: Store, query: Any):
    out = io.StringIO()
    judge = TerminalOverseer(store, Console(file=out, width=130), Script("1489s7"), seven=True)
    asked = [query(f"left {i}", f"right {i}") for i in range(4)]
    asked[3] = replace(asked[3], order=(1, 0))
    judge.ask(asked)
    answers = [one.answer for one in collect(judge)]
    assert answers[:2] == [(0.98, pytest.approx(0.02)), (0.5, 0.5)]
    assert answers[2:] == [None, (0.98, pytest.approx(0.02))], "7 is for what was shown second, the item stored first"
    assert "much better" in out.getvalue() and "means nothing here" in out.getvalue() and "first" in out.getvalue()
