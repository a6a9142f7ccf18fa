"""`backflip run backflip --overseer people`, whole and small: it films clips, asks by way of the store, and learns from what was said there."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mujoco")
pytest.importorskip("imageio.v2")
from backflip.cli import main
from backflip.data import Judgement
from backflip.experiments import backflip
from backflip.overseers import people as overseer
from backflip.run import read_run
from backflip.store import Store
from backflip.store.lineage import Lineage, judgement_id
from backflip.store.people import People
from backflip.store.study import StudyBook
from backflip.web.app import create_app
from backflip.web.limits import Limit

from .conftest import URL, Clock, Site
from .visitors import QUIET

COMPARISONS = 6
SMALL = [
    "--quiet", "--overseer", "people", "--wait_seconds", "120", "--steps", "2000", "--environments", "2", "--row_steps", "100",
    "--comparisons", str(COMPARISONS), "--first_share", "0.5", "--ask_at_once", "2", "--clip_seconds", "0.2", "--episodes", "2",
    "--fit.first_steps", "10", "--fit.steps", "5", "--fit.held_out", "0.25", "--ppo.epochs", "1", "--ppo.minibatches", "2", "--policy.hidden", "8",
]  # fmt: skip


class Now(Clock):
    """The machine's own clock: the run, which hears an answer once it stands, goes by it too."""

    def __call__(self) -> float:
        return time.time()


class Labeler(threading.Thread):
    """Somebody at a browser without a screen, who begins when there is a store and goes when all was judged; the run has the main thread."""

    def __init__(self, where: Path) -> None:
        super().__init__(daemon=True)
        self.where = where
        self.chose: dict[str, str] = {}
        self.films: list[bytes] = []
        self.judge = ""
        self.trouble: BaseException | None = None
        self.over = False

    def run(self) -> None:
        try:
            while not self.where.is_file() and not self.over:
                time.sleep(0.01)
            with Store.open(self.where) as store:
                self.work(store)
        except BaseException as error:
            self.trouble = error

    def work(self, store: Store) -> None:
        app = create_app(store, URL, Now())
        app.state.place.requests = Limit(burst=100_000, per_minute=1.0)
        site = Site(app, store, Now(), People(store), StudyBook(store))
        site.book.change(replace(QUIET, undo_seconds=0.001), "owner", time.time())
        ann = site.come("Ann")
        self.judge = ann.person.judge
        while len(self.chose) < COMPARISONS and not self.over:
            for one in ann.next():
                films = [ann.browser.get(side["clip"]) for side in one["sides"] if not side["missing"]]
                assert [film.status_code for film in films] == [200, 200]
                assert {film.headers["content-type"] for film in films} == {"video/mp4"}
                self.films += [film.content for film in films]
                choice = "12="[len(self.chose) % 3]
                assert ann.send(one["id"], choice).status_code == 200
                self.chose[one["id"]] = choice
            time.sleep(0.02)


def shares(choice: str, told: Judgement) -> tuple[float, ...]:
    """What was chosen by places on the screen, by the items as stored."""
    shown = told.details["shown"]
    return (0.5, 0.5) if choice == "=" else tuple(float(shown["12".index(choice)] == item) for item in (0, 1))


def test_a_backflip_learns_from_what_was_said_in_the_browser_and_from_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overseer, "GRACE_SECONDS", 0.0)
    monkeypatch.setattr(overseer, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(backflip, "SHOWN", 0)
    folder = tmp_path / "run"
    ann = Labeler(folder / "store.sqlite")
    ann.start()
    try:
        assert main(["run", "backflip", "--folder", str(folder), *SMALL]) == 0
    finally:
        ann.over = True
        ann.join(10.0)
    assert ann.trouble is None and not ann.is_alive()
    assert len(ann.films) == 2 * COMPARISONS and all(b"ftyp" in film[:16] for film in ann.films)
    result: dict[str, Any] = json.loads((folder / "results" / "asked.json").read_text())
    assert set(result["asked"]) == set(ann.chose), (
        "every question was asked in the browser, and no other was learned from"
    )
    with Store.open(folder / "store.sqlite", mode="read") as store:
        told, lineage = store.judgements(0)[0], Lineage(store)
        assert {one.judge for one in told} == {ann.judge} and len(told) == COMPARISONS
        assert all(one.answer == shares(ann.chose[one.query_id], one) for one in told)
        policy = next(one for one in lineage.models() if one.kind == "policy")
        taught = {judgement_id(one) for one in told if one.query_id not in result["held"]}
        assert set(lineage.teachers_of(policy.id)) == taught and 0 < len(result["held"]) < COMPARISONS
        assert store.counts()["open"] == 0
    cost = read_run(folder).results["cost"]
    assert cost["judge"] == "people in the browser" and cost["comparisons"] == COMPARISONS
    assert cost["ties"] == sum(choice == "=" for choice in ann.chose.values())
    assert main(["report", str(folder), "--study"]) == 0
    page = (folder / "store.report.html").read_text(encoding="utf-8")
    assert f"1 person gave {COMPARISONS} judgements to {COMPARISONS} askings" in page and ">Ann<" not in page
