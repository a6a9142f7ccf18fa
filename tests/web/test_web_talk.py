"""Known answers, practice and a quarrel in a real browser: a file chosen, exercises and a blind answer by keys, a talk."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, expect

from backflip.store.desk import ADJUDICATE, DISCUSSED, STUDY

from .conftest import pair
from .visitors import PASSWORD, QUIET, Served, Visitor, wait_for

Come = Callable[..., Visitor]


@pytest.fixture
def owner(chromium: Browser, served: Served) -> Iterator[BrowserContext]:
    """Somebody who owns the study, signed in."""
    context = chromium.new_context(viewport={"width": 390, "height": 800}, color_scheme="dark")
    page = context.new_page()
    page.goto(f"{served.url}/join/{served.people.invite('owner', '', time.time(), 1.0)}")
    expect(page.locator("input[name=name]")).to_be_focused()
    page.keyboard.type("Olga")
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_url("**/study")
    yield context
    context.close()


def fits(page: Any) -> bool:
    return page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]


def test_a_file_is_uploaded_and_a_broken_one_is_named_line_by_line(
    served: Served, owner: BrowserContext, tmp_path: Path
) -> None:
    page = owner.pages[0]
    good, bad, large = (tmp_path / f"{name}.jsonl" for name in ("good", "bad", "large"))
    line = {"prompt": "p", "chosen": "good", "rejected": "bad", "explanation": "It is good.", "use": "practice"}
    good.write_text(json.dumps(line))
    bad.write_text(json.dumps(line) + "\n{\n")
    large.write_bytes(b" " * 10_500_000)
    for file, said in ((large, "larger than"), (bad, "bad.jsonl line 2: not JSON"), (good, "1 are new")):
        page.goto(f"{served.url}/study")
        page.set_input_files("#known-file", file)
        page.locator("form:has(#known-file) button").focus()
        page.keyboard.press("Enter")
        expect(page.locator("body")).to_contain_text(said)
    assert fits(page) and len(served.book.known()) == 1
    page.goto(f"{served.url}/study")
    assert fits(page)


def test_practice_by_keys(served: Served, come: Come) -> None:
    aside = [replace(one, use="practice") for one in served_known(served, 2)]
    served.book.add_known(aside)
    served.store.add_queries([pair(0)])
    ann = come("Ann")
    ann.page.goto(f"{served.url}/practice")
    for number in range(3):
        ann.ready()
        first, second = ann.texts()
        expect(ann.page.locator("#undo")).to_be_hidden()
        ann.page.keyboard.press("1" if len(first) > len(second) else "2")
        expect(ann.page.locator("#known")).to_contain_text("Most people agree")
        expect(ann.page.locator("#known")).to_contain_text("It says more.")
        expect(ann.page.locator("#known button")).to_be_focused()
        ann.page.keyboard.press("u")
        ann.page.keyboard.press("Enter")
        wait_for(lambda number=number: served.store.counts()["judgements"] > number)
    ann.page.goto(f"{served.url}/judge")
    ann.press("1")
    wait_for(lambda: served.store.counts()["judgements"] == 4)
    assert [one.details["purpose"] for one in served.store.judgements(0)[0]] == ["practice"] * 3 + ["study"]
    assert ann.complaints == []


def served_known(served: Served, count: int) -> list[Any]:
    from backflip.store.study import Known

    found: list[Known] = []
    for n in range(100, 100 + count):
        query = pair(n)
        longer = len(query.items[0].content) > len(query.items[1].content)
        found.append(Known(query, (1.0, 0.0) if longer else (0.0, 1.0), "It says more."))
    return found


def test_a_quarrel_by_keys_blind_then_talked_over(served: Served, come: Come, owner: BrowserContext) -> None:
    served.study(replace(QUIET, overlap=2, undo_seconds=0.5))
    served.store.add_queries([pair(1)])
    ann, bob = come("Ann"), come("Bob")
    for who, longer in ((ann, True), (bob, False)):
        who.page.reload()
        who.ready()
        first, second = who.texts()
        who.press("1" if (len(first) > len(second)) == longer else "2")
        wait_for(lambda who=who: any(one.judge == who.judge for one in served.store.judgements(0)[0]))
    page = owner.pages[0]
    complaints: list[str] = []
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    time.sleep(0.6)
    page.goto(f"{served.url}/adjudicate")
    assert fits(page) and "Ann" not in page.locator("main").inner_text()
    page.get_by_role("link", name="Judge this pair").focus()
    page.keyboard.press("Enter")
    expect(page.locator("[data-choice='1']")).to_be_enabled()
    assert fits(page)
    longer = len(page.locator("#side1 .text").inner_text()) > len(page.locator("#side2 .text").inner_text())
    page.keyboard.press("1" if longer else "2")
    expect(page.get_by_role("heading", name="What everybody said")).to_be_visible()
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(3)
    assert fits(page) and set(page.locator("tbody th").all_inner_texts()) == {"Ann", "Bob", "you"}
    bob.page.goto(f"{served.url}/adjudicate")
    bob.page.get_by_role("link", name="See what everybody said").press("Enter")
    bob.page.locator("#note").fill("Ann is right")
    bob.page.get_by_role("button", name="Add the note").press("Enter")
    expect(bob.page.locator("main")).to_contain_text("you: Ann is right")
    bob.page.get_by_role("link", name="Judge it again").press("Enter")
    bob.ready()
    first, second = bob.texts()
    bob.page.keyboard.press("1" if len(first) > len(second) else "2")
    expect(bob.page.locator("main")).to_contain_text("both answers stand")
    purposes = [one.details["purpose"] for one in served.store.judgements(0)[0]]
    assert purposes == [STUDY, STUDY, ADJUDICATE, DISCUSSED]
    page.reload()
    expect(page.locator("main")).to_contain_text("Bob: Ann is right")
    page.locator("input[name=right]").first.check()
    page.get_by_role("button", name="for practice").press("Enter")
    expect(page.locator("main")).to_contain_text("The answer is known")
    assert [one.use for one in served.book.known()] == ["practice"]
    assert complaints == [] and bob.complaints == [] and ann.complaints == []
