"""Evidence: a file of pairs with claims and sources, uploaded, marked by keys alone, and found again beside the judgement."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Browser, Page, expect

from backflip.store.asked_lines import import_asked

from .conftest import Site
from .visitors import PASSWORD, Served, Visitor, wait_for

CLAIM = "It opened in 1932."
SOURCE = {"title": "Bridges", "text": "Opened in the year 1932. <script>window.caught = 1</script>"}
LINE = {
    "prompt": "When?",
    "first": {"text": f"I think so. {CLAIM}", "claims": [CLAIM], "sources": [SOURCE]},
    "second": "No idea.",
}


def uploaded(site: Site, content: bytes) -> int:
    olga = site.come("Olga", "owner")
    sent = olga.browser.post("/study/ask", data={"csrf": olga.csrf}, files={"file": ("pairs.jsonl", content)})
    if sent.status_code == 303:
        assert "The file held 1 pair to judge; 1 is new." in olga.browser.get(sent.headers["location"]).text
    else:
        assert "pairs.jsonl line 2: not JSON" in sent.text
    return sent.status_code


def test_a_file_of_pairs_is_asked_about_whole_or_not_at_all(site: Site) -> None:
    before = site.store.counts()["open"]
    assert uploaded(site, json.dumps(LINE).encode() + b"\n{\n") == 409
    assert site.store.counts()["open"] == before


def test_a_file_of_one_good_pair(site: Site) -> None:
    before = site.store.counts()["open"]
    assert uploaded(site, json.dumps(LINE).encode()) == 303
    assert site.store.counts()["open"] == before + 1


def test_a_claim_is_marked_by_keys_beside_its_source_and_found_again(
    chromium: Browser, served: Served, come: Callable[..., Visitor], tmp_path: Path
) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps(LINE))
    import_asked(served.store, file)
    ann = come("Ann")
    page = ann.page
    place = 1 if CLAIM in page.locator("#side1").inner_text() else 2
    side = page.locator(f"#side{place}")
    side.locator("summary").focus()
    page.keyboard.press("Enter")
    expect(side.locator("details")).to_contain_text("<script>")
    side.locator("[data-claim] input").first.focus()
    page.keyboard.press("Space")
    page.keyboard.press("ArrowRight")
    expect(side.get_by_label("weakly supported")).to_be_checked()
    ann.press(str(place))
    wait_for(lambda: served.store.counts()["judgements"] == 1)
    ((_, key, told),) = served.store.judgement_events()
    assert told.details["claims"] == {f"{place}.1": "weak"} and told.answer is not None
    assert page.evaluate("window.caught") is None
    context = chromium.new_context()
    try:
        check_page(context.new_page(), served, key)
    finally:
        context.close()


def check_page(page: Page, served: Served, key: str) -> None:
    """The owner sees the mark beside the claim, which is named by the item as it is stored."""
    page.goto(f"{served.url}/join/{served.people.invite('owner', '', time.time(), 1.0)}")
    page.fill("input[name=name]", "Olga")
    page.fill("input[name=password]", PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_url("**/study")
    page.goto(f"{served.url}/lineage/judgement/{key}")
    first = served.store.query(served.store.judgement_events()[0][2].query_id).items[0].content
    expect(page.locator("dt")).to_have_text(f"{'first' if CLAIM in first else 'second'}: {CLAIM}")
    expect(page.locator("dd")).to_have_text("weakly supported")
