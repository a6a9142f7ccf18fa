"""Time to judge: whoever reads by a wheel or a finger is there, and nobody is there who does nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import CDPSession, expect

from backflip.data import Item, Query

from .visitors import Served, Visitor, wait_for

TURNS, BETWEEN_SECONDS = 8, 25
"""Somebody who reads on so often, never with as long a pause as makes them idle (30 s)."""


def reader(served: Served, come: Callable[..., Visitor]) -> tuple[Visitor, CDPSession]:
    """Somebody with two long texts before them, and a clock of ours; the debugger moves a wheel or a finger, and nothing else."""
    text = "\n".join(f"line {n}" for n in range(400))
    served.store.add_queries([Query((Item("", text, {"k": 0}), Item("", text, {"k": 1})), "Which is better?")])
    ann = come("Ann", has_touch=True)
    ann.page.clock.install()
    ann.page.reload()
    expect(ann.page.locator("[data-choice='1']")).to_be_enabled()
    return ann, ann.context.new_cdp_session(ann.page)


def told(ann: Visitor, served: Served) -> dict[str, Any]:
    ann.press("1")
    wait_for(lambda: served.store.counts()["judgements"] == 1)
    return served.store.judgements(0)[0][0].details["timing"]


@pytest.mark.parametrize("how", ["wheel", "finger"])
def test_who_scrolls_within_a_side_is_there_and_idles_once_the_page_is_left_alone(
    served: Served, come: Callable[..., Visitor], how: str
) -> None:
    ann, hand = reader(served, come)
    box = ann.page.locator("#side2").bounding_box()
    assert box
    place = {"x": box["x"] + 50, "y": box["y"] + box["height"] - 50}
    if how == "wheel":
        ann.page.mouse.move(place["x"], place["y"])
    else:
        hand.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [place]})
    top, page = 0.0, ann.page
    for turn in range(TURNS):
        page.clock.run_for(BETWEEN_SECONDS * 1000)
        if how == "wheel":
            hand.send("Input.dispatchMouseEvent", {"type": "mouseWheel", **place, "deltaX": 0, "deltaY": 30})
        else:
            there = {"x": place["x"], "y": place["y"] - 30 * (turn + 1)}
            hand.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [there]})
        page.wait_for_function("before => document.querySelector('#side2').scrollTop > before", arg=top)
        top = page.evaluate("document.querySelector('#side2').scrollTop")
    assert page.evaluate("scrollY") == 0, "the side moved, not the page"
    page.clock.run_for(300_000)
    timing = told(ann, served)
    # Without what is said within a side, 55 s were seen. The browser may tell of the last turn late, while the clock of ours already goes on.
    # That clock is put on by us and goes on by itself besides: what a busy machine took is in all of it.
    there, late = TURNS * BETWEEN_SECONDS + 30, 30
    by_itself = timing["whole"] - (TURNS * BETWEEN_SECONDS + 300)
    assert there - 1 <= timing["visible"] <= there + late + by_itself, timing
    assert 265 - late <= timing["idle"] <= 272, timing
