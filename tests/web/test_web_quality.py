"""What the owner reads of people's work: every number with its interval, or that there are too few to say; and under which guideline."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from playwright.sync_api import expect

from backflip.measures import judges
from backflip.store.interchange import export_pairs

from .conftest import Site, Somebody, pair
from .visitors import QUIET, Served, Visitor, wait_for

INTERVAL = re.compile(r"^-?[\d.]+( %| s)? \(-?[\d.]+ to -?[\d.]+\), n = \d+$")


def judge(who: Somebody, count: int) -> None:
    for _ in range(count):
        (one,) = who.next()
        longer = max((0, 1), key=lambda place: len(one["sides"][place]["text"]))
        assert who.send(one["id"], "12"[longer]).status_code == 200


def row_of(page: str, name: str, *, words: bool = False) -> list[str]:
    """The cells of a person's row, after the name and how many they judged; with `words`, all cells of a question's row."""
    start = f'<th scope="row" class="text">{name}</th>' if words else f'<th scope="row">{name}</th>'
    row = next(row for row in page.split("<tr>") if start in row)
    return [re.sub("<.*?>", "", cell) for cell in re.findall("<td.*?</td>", row)][0 if words else 1 :]


def test_every_number_has_its_interval_or_there_are_too_few(site: Site) -> None:
    site.book.change(replace(QUIET, overlap=2), "owner", site.clock())
    site.store.add_queries([pair(n) for n in range(10, 30)])
    olga, ann, bob = site.come("Olga", "owner"), site.come("Ann"), site.come("Bob")
    for who in (ann, bob):
        judge(who, judges.ENOUGH - 1)
    page = olga.browser.get("/quality").text
    assert "a tie against a choice is a whole disagreement" in page.split("<h2>")[0], (
        "said where the half of ties is said"
    )
    cells = row_of(page, "Ann")
    assert cells[:-1] == ["too few to say"] * 8, "known, easy, others, themselves, left, longer, time, drift"
    for who in (ann, bob):
        judge(who, 30 - (judges.ENOUGH - 1))
    _, _, others, _, left, longer, seconds, drift, weight = row_of(olga.browser.get("/quality").text, "Ann")
    for cell in (others, left, longer, seconds, drift):
        assert INTERVAL.match(cell), cell
    assert longer.startswith("100 %") and longer.endswith("n = 30"), "what was planted: the longer one, always"
    assert re.fullmatch(r"\d\.\d\d", weight)


def test_what_is_asked_beside_the_choice_is_measured_shown_and_exported(site: Site, tmp_path: Path) -> None:
    """Ten pairs: the further question is answered as the whole on eight, the other way on one, with a tie on one."""
    site.book.change(replace(QUIET, axes=("kinder",), sub_questions=("What is claimed?",)), "owner", site.clock())
    olga, ann = site.come("Olga", "owner"), site.come("Ann")
    assert "beside the choice" not in olga.browser.get("/quality").text
    for n in range(10):
        (one,) = ann.next()
        axis = {8: "2", 9: "="}.get(n, "1")
        sub = {"What is claimed?": f"claim <{n}>"}
        assert ann.send(one["id"], "1", axes={"kinder": axis}, sub=sub).status_code == 200
    page = olga.browser.get("/quality").text
    assert "10 of 10" in row_of(page, "<bdi>What is claimed?</bdi>", words=True)[0]
    answered, agrees = row_of(page, "<bdi>kinder</bdi>", words=True)
    assert answered == "10 of 10" and agrees.startswith("85 % (") and agrees.endswith("n = 10")
    key = site.store.judgement_events()[0][1]
    shown = olga.browser.get(f"/lineage/judgement/{key}").text
    assert "<bdi>What is claimed?</bdi>" in shown and "claim &lt;0&gt;" in shown and "<bdi>kinder</bdi>" in shown
    export_pairs(site.store, tmp_path / "pairs.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    kept = [json.loads(row["record"])["details"]["sub"] for row in rows]
    assert kept == [{"What is claimed?": f"claim <{n}>"} for n in range(10)]


def test_an_answer_stands_under_the_guideline_that_was_read(served: Served, come: Callable[..., Visitor]) -> None:
    served.store.add_queries([pair(n) for n in range(4)])
    ann = come("Ann")
    served.book.write("instructions", "Choose the kinder one.", "owner", 0.0)
    version = served.book.document("instructions")[0]
    ann.press("1")
    expect(ann.page.locator("#newer")).to_contain_text("guideline has changed")
    ann.page.locator("#newer a").focus()
    ann.page.keyboard.press("Enter")
    expect(ann.page.locator("#guideline")).to_contain_text("Choose the kinder one.")
    ann.press("1")
    wait_for(lambda: served.store.counts()["judgements"] == 2)
    assert [one.details["instructions"] for one in served.store.judgements(0)[0]] == [0, version]
    expect(ann.page.locator("#newer")).to_be_hidden()
    assert ann.complaints == []
