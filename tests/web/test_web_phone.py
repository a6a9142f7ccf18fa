"""Judging on a phone, upright and on its side: nobody can answer without having seen both clips, nor miss what comes before the choice."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from backflip.data import Item, Query
from backflip.store.study import Study

from .conftest import pair
from .visitors import QUIET, Served, Visitor, film, wait_for

SIZES = [(390, 664), (390, 844), (844, 390), (320, 568)]
ASKS = replace(
    QUIET, axes=("more like a backflip", "lands better"), sub_questions=("What does the first do?", "And the second?")
)
STUDIES = {"plain": QUIET, "seven": replace(QUIET, scale="seven"), "asks": ASKS, "all": replace(ASKS, scale="seven")}
LEAST = 88
"""A clip is never smaller than so many pixels, at 320 by 568 with everything switched on."""
PLACES = """() => {
  const box = (what) => { const one = document.querySelector(what).getBoundingClientRect(); return [one.left, one.top, one.right, one.bottom]; };
  return {clips: [box("#side1 video"), box("#side2 video")], keys: box(".bottom"), wide: document.documentElement.scrollWidth};
}"""
COVERED = """() => [...document.querySelectorAll("#pair video")].flatMap((one, place) => {
  const box = one.getBoundingClientRect(), corners = [[box.left + 2, box.top + 2], [box.right - 2, box.bottom - 2], [box.left + 2, box.bottom - 2]];
  return corners.filter(([x, y]) => document.elementFromPoint(x, y) !== one).map(([x, y]) => `clip ${place + 1} at ${x}, ${y}`);
})"""
"""Corners of clips at which something else is seen, or nothing."""


def clips(served: Served, many: int, shape: tuple[int, ...] = (64, 64)) -> None:
    """Ask about so many pairs of clips, as the backflip run asks."""
    for n in range(many):
        items = tuple(Item("dot", f"clip {n} {k}", {"n": [n, k]}, media="clip") for k in (0, 1))
        for item, high in zip(items, shape, strict=True):
            served.store.add_media(item.id, "video/mp4", film(high))
        served.store.add_queries([Query(items, "Which is nearer to a backflip that lands on its feet?")])


def picture(page: Page, name: str) -> None:
    if folder := os.environ.get("BACKFLIP_SCREENSHOTS"):
        width, height = page.evaluate("[innerWidth, innerHeight]")
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            page.screenshot(path=Path(folder) / f"phone-{name}-{scheme}-{width}x{height}.png")


def playing(page: Page) -> None:
    page.wait_for_function(
        "() => { const all = [...document.querySelectorAll('#pair video')]; return all.length === 2 && all.every(one => one.videoHeight); }"
    )
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


@pytest.mark.parametrize("study", STUDIES)
@pytest.mark.parametrize("shape", [(64, 64), (192, 48)], ids=["square", "high and wide"])
def test_both_clips_are_seen_whole_above_the_keys_without_scrolling(
    served: Served, come: Callable[..., Visitor], study: str, shape: tuple[int, int]
) -> None:
    clips(served, 1, shape)
    served.study(STUDIES[study])
    page = come("Ann").page
    for width, height in SIZES:
        page.set_viewport_size({"width": width, "height": height})
        playing(page)
        found, where = page.evaluate(PLACES), f"{study} at {width} x {height}"
        assert page.evaluate("scrollY") == 0 and found["wide"] <= width, where
        for left, top, right, bottom in found["clips"]:
            assert top >= 0 and left >= 0 and right <= width, where
            assert bottom <= found["keys"][1], f"{where}: a clip lies under the keys"
            assert right - left >= LEAST, where
        if shape == (64, 64):
            sides = [min(right - left, bottom - top) for left, top, right, bottom in found["clips"]]
            assert sides[0] == sides[1] >= (LEAST if study == "all" else 120), where
        assert page.evaluate(COVERED) == [], where
        if shape == (64, 64):
            picture(page, study)


def test_the_clips_stay_in_sight_when_something_is_said_above_them_and_when_the_phone_is_turned(
    served: Served, come: Callable[..., Visitor]
) -> None:
    clips(served, 1)
    page = come("Ann").page
    playing(page)
    page.set_viewport_size({"width": 320, "height": 568})
    page.keyboard.press("w")
    expect(page.locator("#reason")).to_be_visible()
    playing(page)
    assert page.evaluate(COVERED) == []
    # an owner's menu
    page.evaluate(
        "['Study', 'People', 'Quality', 'Live', 'Lineage'].forEach(name => { const one = document.createElement('a'); one.href = '#'; one.textContent = name; document.querySelector('.menu nav').append(one); })"
    )
    for width, height in [(844, 390), (390, 664), (390, 844)]:
        page.set_viewport_size({"width": width, "height": height})
        playing(page)
        assert page.evaluate(COVERED) == [], (width, height)


@pytest.mark.parametrize("study", ["plain", "all"])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_texts_can_be_read_whole(
    served: Served, come: Callable[..., Visitor], study: str, width: int, height: int
) -> None:
    text = "\n".join(f"Line {n} of what it says." for n in range(30))
    served.store.add_queries([Query((Item("Why?", text, {"k": 0}), Item("Why?", text, {"k": 1})), "Which is better?")])
    served.study(STUDIES[study])
    ann: Any = come("Ann")
    page = ann.page
    page.set_viewport_size({"width": width, "height": height})
    picture(page, f"text-{study}")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for side in ("#side1", "#side2"):
        found = page.evaluate(
            """side => {
              const box = document.querySelector(side), keys = document.querySelector(".bottom").getBoundingClientRect();
              box.scrollIntoView({ block: "start" });
              box.scrollTop = 1e6;
              const place = box.getBoundingClientRect(), text = box.querySelector(".text").getBoundingClientRect();
              const result = { shown: Math.min(place.bottom, document.querySelector(".bottom").getBoundingClientRect().top) - Math.max(0, place.top),
                end: text.bottom, keys: keys.top, font: parseFloat(getComputedStyle(box.querySelector(".text")).fontSize), wide: text.width };
              scrollTo(0, 0);
              return result;
            }""",
            side,
        )
        assert found["shown"] >= 100 and found["end"] <= found["keys"], f"{side}: {found}"
        assert found["font"] >= 16 and found["wide"] >= 250, f"{side}: {found}"


def test_what_comes_before_the_choice_is_said_above_the_pair_and_is_one_step_away(
    served: Served, come: Callable[..., Visitor]
) -> None:
    clips(served, 3)
    served.study(ASKS)
    ann = come("Ann")
    page = ann.page
    page.set_viewport_size({"width": 320, "height": 568})
    page.reload()
    ann.ready()
    hint = page.locator(".before")
    box, keys = hint.bounding_box(), page.locator(".bottom").bounding_box()
    assert box and keys and box["y"] + box["height"] <= keys["y"], "it is seen without scrolling"
    expect(hint).to_have_text("First: the questions below the pair.")
    order = page.evaluate(
        "[...document.querySelectorAll('.before a, #pair, [data-sub], [data-axis], [data-choice]')].map(one => one.hash || one.id || Object.keys(one.dataset)[0])"
    )
    assert order == ["#sub", "pair", "sub", "sub", "axis", "axis", *["choice"] * 4], (
        "Tab comes by them before the choice"
    )
    hint.locator("a").click()
    page.keyboard.press("Tab")
    expect(page.locator("[data-sub]").first).to_be_focused()
    page.keyboard.type("It turns.")
    page.locator("[data-sub]").last.fill("It falls.")
    for axis in page.locator("[data-axis]").all():
        axis.locator("input").first.check()
    assert page.evaluate("scrollY") > 0
    before = page.locator("#side1 video").get_attribute("src")
    page.locator("[data-choice='1']").click()
    wait_for(lambda: served.store.counts()["judgements"] == 1)
    expect(page.locator("#side1 video")).not_to_have_attribute("src", str(before))
    playing(page)
    assert page.evaluate("scrollY") == 0 and page.evaluate(COVERED) == [], "the next pair is seen, not its questions"


def test_sub_questions_of_which_only_a_share_must_be_answered_say_so(
    served: Served, come: Callable[..., Visitor]
) -> None:
    served.store.add_queries([pair(n) for n in range(12)])
    served.study(Study(gold_share=0.0, repeat_share=0.0, sub_questions=("Why?",), sub_share=0.5))
    ann = come("Ann")
    said: set[str] = set()
    for _ in range(12):
        ann.ready()
        must = ann.page.locator("#when").inner_text() == "First"
        said.add(ann.page.locator("#when").inner_text())
        before = ann.texts()
        ann.page.keyboard.press("1")
        if must:
            expect(ann.page.locator("#trouble")).to_contain_text("Answer the first questions")
            ann.page.locator("[data-sub]").fill("Because.")
            ann.page.locator("#question").focus()
            ann.page.keyboard.press("1")
        ann.page.wait_for_function(
            "before => document.querySelector('#pair').hidden || document.querySelector('#side1 .text').innerText !== before",
            arg=before[0],
        )
    wait_for(lambda: served.store.counts()["judgements"] == 12)
    assert said == {"First", "First, if you like"}
