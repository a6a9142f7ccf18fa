"""The live loop: a training process asks, somebody judges by keys in a browser, and what is learned is their taste, not its mirror image."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

pytest.importorskip("gymnasium")
from backflip.data import Item, Judgement, Query
from backflip.store.lineage import Lineage, judgement_id
from backflip.web.live import Watch
from backflip.worlds.packed import unpack

from .visitors import PASSWORD, QUIET, Served, Visitor, film, wait_for

COMPARISONS = 40
DOT = [
    "--env", "backflip.worlds.moving_dot:MovingDot-v0", "--overseer", "people", "--wait_seconds", "300", "--steps", "1600",
    "--environments", "4", "--row_steps", "50", "--comparisons", str(COMPARISONS), "--first_share", "0.5", "--ask_at_once", "10", "--clip_seconds", "0.3",
    "--episodes", "4", "--fit.first_steps", "300", "--fit.steps", "100", "--fit.every", "1", "--check_every", "2",
]  # fmt: skip


@pytest.fixture
def training(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A run that learns from whoever judges, in a process of its own."""
    command = [sys.executable, "-m", "backflip", "run", "control", "--folder", str(tmp_path / "run"), "--quiet", *DOT]
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    yield process
    process.kill()
    process.wait()


def nearer(item: Item) -> float:
    """How much nearer to the centre a clip of the dot ends than it begins."""
    scene = unpack(item.payload["scene"])
    far = [float((one[:2] ** 2).sum() ** 0.5) for one in (scene[0], scene[-1])]
    return far[0] - far[1]


def text_or_clip(visitor: Visitor, served: Served) -> list[Item]:
    """The items on the screen, first and second, as their films say."""
    films = [visitor.page.locator(f"#side{place} video").get_attribute("src") for place in (1, 2)]
    return served.store.items([str(film).rpartition("/")[2] for film in films])


@pytest.mark.parametrize("taste", [1, -1])
def test_a_planted_taste_by_keys_alone_moves_the_reward_its_way(
    chromium: Browser, training: subprocess.Popen[bytes], tmp_path: Path, taste: int
) -> None:
    wait_for(lambda: (tmp_path / "run" / "store.sqlite").is_file())
    served = Served(tmp_path / "run" / "store.sqlite")
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    try:
        served.study(replace(QUIET, undo_seconds=0.5))
        ann = Visitor(context, served, "Ann", ready=False)
        for _ in range(COMPARISONS):
            ann.ready(60_000)
            first, second = (taste * nearer(item) for item in text_or_clip(ann, served))
            ann.press("=" if first == second else "1" if first > second else "2")
        expect(ann.page.locator("#question")).to_contain_text("Nothing to judge", timeout=30_000)
        assert training.wait(timeout=120) == 0, (tmp_path / "log").read_text()
        rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
        follows = [row["correlation_with_truth"] for row in rows if row["phase"] == "check"]
        fits = [row for row in rows if row["phase"] == "reward"]
        print(f"taste {taste}: correlation of the learned reward with the dot's own {np.mean(follows):.2f}")
        print(f"held-out accuracy {fits[-1]['held_out_accuracy']:.2f} of {fits[-1]['held_out_n']:.0f}")
        assert len(follows) == 4 and taste * np.mean(follows) > 0.2
        check_lineage(served)
        assert ann.complaints == []
    finally:
        context.close()
        served.stop()


def check_lineage(served: Served) -> None:
    """Every judgement that was learned from leads to the policy, and the policy to it; those that were only measured do not."""
    lineage, told = Lineage(served.store), served.store.judgements(0)[0]
    policy = next(one for one in lineage.models() if one.kind == "policy")
    taught = lineage.teachers_of(policy.id)
    assert COMPARISONS * 0.7 <= len(taught) < COMPARISONS
    assert set(taught) < {judgement_id(one) for one in told}
    assert policy in lineage.taught_by(taught[:1])
    assert policy in lineage.of_person(told[0].judge)[1]


@pytest.fixture
def owner(chromium: Browser, served: Served) -> Iterator[Page]:
    """A page on which the study's owner is signed in."""
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.goto(f"{served.url}/join/{served.people.invite('owner', '', time.time(), 1.0)}")
    page.fill("input[name=name]", "Owner")
    page.fill("input[name=password]", PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_url("**/study")
    yield page
    context.close()


def test_the_owner_sees_queue_curves_cost_and_what_is_asked_as_it_happens(served: Served, owner: Page) -> None:
    nasty = "<script>window.caught = 1</script><img src=x onerror='window.caught = 1'>"
    pair = Query((Item("It was", nasty, {}), Item("It was", "fine", {})), "Which is better?", reason="disagreement")
    clips = tuple(Item("dot", f"clip {k}", {"k": k}, media="clip") for k in (0, 1))
    served.store.add_media(clips[0].id, "video/mp4", film())
    served.store.add_queries([pair, Query(clips, "Which clip?")])
    lines = [
        {"step": n, "phase": "ppo", "seconds": 60.0 * n, "kl_nats_per_sequence": 0.5 * n, "proxy_mean": n**0.5}
        for n in (1, 2, 3)
    ]
    served.store.add_metrics("run", lines)
    owner.goto(f"{served.url}/live")
    page = owner
    expect(page.locator("#cost")).to_contain_text("3 min of training")
    assert page.locator("#curves figcaption").last.inner_text() == "proxy reward against KL: 1.732 at 1.5 nats"
    expect(page.locator("#latest")).to_contain_text(nasty)
    expect(page.locator("#latest")).to_contain_text("asked because: disagreement")
    expect(page.locator("#latest video")).to_have_count(1)
    expect(page.locator("#latest")).to_contain_text("not filmed")
    assert page.evaluate("window.caught") is None
    # a run that was killed and resumed logs its last line again; the page takes the newer one
    served.store.keep_metrics("run", 2)
    served.store.add_metrics("run", [{**lines[2], "proxy_mean": 2.5}, {**lines[2], "step": 4, "proxy_mean": 3.0}])
    expect(page.locator("#curves figcaption").last).to_have_text("proxy reward against KL: 3 at 1.5 nats")
    served.store.add_judgements([Judgement(pair.id, "person:x", (1.0, 0.0), seconds=75.0)])
    expect(page.locator("#cost")).to_contain_text("1 min")
    expect(page.locator("#counts")).to_contain_text("answered")


def test_a_page_reads_each_line_once_and_a_resumed_run_replaces_its_own(served: Served) -> None:
    place: Any = SimpleNamespace(store=served.store, clock=time.time)
    watch = Watch(place)
    served.store.add_metrics("run", [{"step": n, "phase": "reward", "seconds": 1.0, "loss": float(n)} for n in (1, 2)])
    assert watch.picture()["curves"] == [{"name": "loss", "phase": "reward", "points": [(1, 1.0), (2, 2.0)]}]
    read = watch.cursors["run"]
    served.store.keep_metrics("run", 1)
    served.store.add_metrics("run", [{"step": 2, "phase": "reward", "seconds": 3.0, "loss": 9.0}])
    found = watch.picture()
    assert found["curves"][0]["points"] == [(1, 1.0), (2, 9.0)] and watch.cursors["run"] > read
    assert found["cost"] == {"judgements": 0, "people_seconds": 0, "training_seconds": 3} and found["against"] == []


def test_films_play_and_begin_again(served: Served, come: Callable[..., Visitor]) -> None:
    """A clip without a film leaves only the key that says so; with one the film runs, and how often it began again is kept."""
    items = tuple(Item("dot", f"clip {k}", {"k": k}, media="clip") for k in (0, 1))
    served.store.add_media(items[0].id, "video/mp4", film())
    served.store.add_media(items[1].id, "video/mp4", film())
    served.store.add_queries([Query(items, "Which is better?")])
    ann: Any = come("Ann")
    ann.page.wait_for_function("() => [...document.querySelectorAll('video')].every(film => film.currentTime > 0)")
    ann.page.wait_for_timeout(2500)
    ann.press("2")
    wait_for(lambda: served.store.counts()["judgements"] == 1)
    assert min(served.store.judgements(0)[0][0].details["timing"]["replays"]) >= 1
    missing = tuple(Item("dot", f"clip {k}", {"k": k}, media="clip") for k in (2, 3))
    served.store.add_queries([Query(missing, "Which is better?")])
    expect(ann.page.locator("#side1")).to_contain_text("missing", timeout=15_000)
    assert ann.page.locator("[data-choice='1']").is_disabled()
    ann.page.keyboard.press("1")
    ann.page.keyboard.press("s")
    wait_for(lambda: served.store.counts()["could_not_judge"] == 1)
