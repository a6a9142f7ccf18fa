"""People in a real browser, by keys alone: sign in, trial, judge, undo, lose the connection; two at once; and what a model learns of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from backflip.data import Item, Query
from backflip.store.desk import standing
from backflip.store.study import Known

from .conftest import ON_BOTH, pair
from .visitors import QUIET, Served, Visitor, wait_for


@ON_BOTH
def test_twenty_pairs_by_keys_with_ties_skips_and_an_undo(served: Served, come: Callable[..., Visitor]) -> None:
    served.store.add_queries([pair(n) for n in range(20)])
    ann = come("Ann")
    keys = ["1", "2", "=", "s", "ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"] * 3
    for key in keys[:19]:
        ann.press(key)
    ann.press("1")
    expect(ann.page.locator("#question")).to_contain_text("Nothing to judge")
    wait_for(lambda: served.store.counts()["judgements"] == 20)
    ann.page.keyboard.press("u")
    expect(ann.page.locator("#pair")).to_be_visible()
    ann.press("2")
    wait_for(lambda: len(standing(served.store.judgements(0)[0])) == 20)
    said = standing(served.store.judgements(0)[0])
    ties = [one for one in said if one.answer == (0.5, 0.5)]
    skips = [one for one in said if one.answer is None]
    assert (len(ties), len(skips)) == (5, 4)
    assert all(one.seconds is not None and 0 < one.seconds < 60 for one in said)
    assert ann.complaints == []


def test_a_lost_connection_loses_no_answer(served: Served, come: Callable[..., Visitor]) -> None:
    served.store.add_queries([pair(n) for n in range(6)])
    ann = come("Ann")
    expect(ann.page.locator("#progress")).to_contain_text("0")
    ann.page.wait_for_timeout(300)
    ann.context.set_offline(True)
    ann.press("1")
    ann.press("2")
    expect(ann.page.locator("#trouble")).to_contain_text("kept here")
    assert served.store.counts()["judgements"] == 0
    ann.context.set_offline(False)
    wait_for(lambda: served.store.counts()["judgements"] == 2)
    expect(ann.page.locator("#trouble")).to_be_hidden(timeout=15_000)


def test_an_answer_survives_the_window(served: Served, come: Callable[..., Visitor]) -> None:
    served.store.add_queries([pair(n) for n in range(3)])
    ann = come("Ann")
    ann.page.wait_for_timeout(300)
    ann.page.route("**/judge/answer", lambda route: route.abort())
    ann.press("1")
    expect(ann.page.locator("#trouble")).to_contain_text("kept here")
    ann.page.unroute("**/judge/answer")
    ann.page.reload()
    wait_for(lambda: served.store.counts()["judgements"] == 1)


@ON_BOTH
def test_two_people_at_once_never_get_one_pair(served: Served, come: Callable[..., Visitor]) -> None:
    served.store.add_queries([pair(n) for n in range(12)])
    ann, bob = come("Ann"), come("Bob")
    for _ in range(12):
        for one, key in ((ann, "1"), (bob, "2")):
            if one.page.locator("[data-choice='1']").is_enabled():
                one.press(key)
    wait_for(lambda: served.store.counts()["judgements"] == 12)
    said = served.store.judgements(0)[0]
    assert len({one.query_id for one in said}) == 12
    assert {ann.judge, bob.judge} == {one.judge for one in said}


def test_a_trial_by_keys(served: Served, come: Callable[..., Visitor]) -> None:
    known: list[Known] = []
    for n in range(3):
        query = pair(n)
        longer = len(query.items[0].content) > len(query.items[1].content)
        known.append(Known(query, (1.0, 0.0) if longer else (0.0, 1.0), "It says more."))
    served.book.add_known(known)
    served.study(replace(QUIET, trial=True))
    ann = come("Ann")
    for _ in range(3):
        ann.ready()
        first, second = ann.texts()
        ann.page.keyboard.press("1" if len(first) > len(second) else "2")
        expect(ann.page.locator("#known")).to_be_visible()
        expect(ann.page.locator("#known")).to_contain_text("It says more.")
        expect(ann.page.locator("#known button")).to_be_focused()
        ann.page.keyboard.press("Enter")
    expect(ann.page.locator("h1")).to_contain_text("The trial is over")
    expect(ann.page.locator("main")).to_contain_text("3 pairs; 3")


def test_what_a_model_wrote_does_nothing(served: Served, come: Callable[..., Visitor]) -> None:
    evil = "</script><script>window.stolen=1</script><img src=x onerror='window.stolen=1'>[a](javascript:alert(1))"
    served.store.add_queries([Query((Item(evil, evil, {}), Item(evil, evil + "!", {})), evil)])
    ann = come("Ann")
    assert "<img src=x" in ann.texts()[0]
    ann.page.keyboard.press("d")
    ann.page.keyboard.press("w")
    assert ann.page.evaluate("window.stolen") is None
    assert ann.page.locator("main img, main script").count() == 0
    assert ann.complaints == []


def test_guideline_differences_and_why(served: Served, come: Callable[..., Visitor]) -> None:
    served.store.add_queries([pair(1)])
    ann = come("Ann")
    ann.page.keyboard.press("?")
    expect(ann.page.locator("#guideline")).to_be_visible()
    ann.page.keyboard.press("1")
    ann.page.keyboard.press("Escape")
    expect(ann.page.locator("#guideline")).to_be_hidden()
    assert served.store.counts()["judgements"] == 0, "no key judges while the guideline is open"
    ann.page.keyboard.press("d")
    assert ann.page.locator("mark").count() == 1
    ann.page.keyboard.press("w")
    expect(ann.page.locator("#reason")).to_contain_text("drawn at random")
    ann.press("1")
    wait_for(lambda: served.store.counts()["judgements"] == 1)
    assert served.store.judgements(0)[0][0].details["help"] == {"guideline": 1, "differences": 1, "why": 1}


def test_time_without_anybody_does_not_count(served: Served, come: Callable[..., Visitor]) -> None:
    served.store.add_queries([pair(1)])
    ann = come("Ann")
    ann.page.clock.install()
    ann.page.reload()
    expect(ann.page.locator("[data-choice='1']")).to_be_enabled()
    ann.page.clock.run_for(300_000)
    ann.press("1")
    wait_for(lambda: served.store.counts()["judgements"] == 1)
    timing = served.store.judgements(0)[0][0].details["timing"]
    assert 29 <= timing["visible"] <= 32 and timing["idle"] >= 265


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_runs_over_the_edge(
    served: Served, come: Callable[..., Visitor], width: int, scheme: Any, tmp_path: Path
) -> None:
    served.store.add_queries([pair(n) for n in range(3)])
    ann = come("Ann", color_scheme=scheme)
    ann.page.set_viewport_size({"width": width, "height": 800})
    assert ann.page.evaluate("document.documentElement.scrollWidth") <= width
    buttons = ann.page.locator("[data-choice]")
    assert buttons.count() == 4 and all(buttons.nth(k).is_visible() for k in range(4))
