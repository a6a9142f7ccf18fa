"""The live loop: a training process asks, somebody judges by keys in a browser, and what is learned is their taste, not its mirror image."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, expect

pytest.importorskip("gymnasium")
from backflip.data import Item, Query
from backflip.store.lineage import Lineage, judgement_id
from backflip.worlds.packed import unpack

from .visitors import QUIET, Served, Visitor, film, wait_for

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
