"""A run that asks people, killed by -9 in the middle of filming: it goes on to the same questions, in the same order, each once."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gymnasium")
pytest.importorskip("imageio.v2")
from backflip.cli import main
from backflip.data import Judgement, Query
from backflip.store import Store

ASKED = 8
DOT = [
    "--env", "backflip.worlds.moving_dot:MovingDot-v0", "--overseer", "people", "--steps", "400", "--environments", "4", "--comparisons", str(ASKED),
    "--first_share", "0.75", "--ask_at_once", "1", "--clip_seconds", "0.3", "--episodes", "2", "--pairs", "4", "--policy.hidden", "8",
]  # fmt: skip


def questions(folder: Path) -> list[Query]:
    with Store.open(folder / "store.sqlite", "read") as store:
        return store.queries()[0]


def result(folder: Path) -> Any:
    return json.loads((folder / "results" / "asked.json").read_text())


def killed_while_it_films(folder: Path) -> str:
    """Begin a run, say of its first pair that one cannot tell as soon as it is there, and kill the run; return that pair's id."""
    slow = (
        "import sys, time\n"
        "from backflip.cli import main\n"
        "from backflip.worlds import clips\n"
        "whole = clips.write_frames\n"
        "clips.write_frames = lambda *all: (time.sleep(0.3), whole(*all))[1]\n"
        "main(sys.argv[1:])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", slow, "run", "control", "--quiet", "--folder", str(folder), *DOT])
    try:
        end = time.monotonic() + 60
        while not (folder / "asked.jsonl").is_file() or not questions(folder):
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.05)
        first = questions(folder)[0].id
        with Store.open(folder / "store.sqlite") as store:
            store.add_judgements([Judgement(first, "person:x", None, note="could not judge", created=1.0)])
    finally:
        process.kill()
        process.wait()
    return first


def test_a_run_killed_while_it_films_goes_on_to_the_same_questions(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(["run", "control", "--quiet", "--folder", str(whole), *DOT]) == 0
    answered = killed_while_it_films(killed)
    put = [json.loads(line)["id"] for line in (killed / "asked.jsonl").read_text().splitlines()]
    there = [query.id for query in questions(killed)]
    assert 1 <= len(there) < len(put), "it was killed after some pairs of the batch and before others"
    assert main(["run", "--quiet", "--resume", str(killed)]) == 0
    assert len(questions(whole)) == ASKED
    assert questions(killed) == questions(whole), "ids, order and sides"
    assert result(killed) == result(whole), "what --again will go by"
    with Store.open(killed / "store.sqlite", "read") as store:
        assert store.states([answered]) == {answered: "answered"} and store.counts()["judgements"] == 1
    log = (killed / "log.txt").read_text()
    assert log.count(" films ") == 4 and "filmed " in log
