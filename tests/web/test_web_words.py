"""Whatever somebody types, pastes or puts into an address: nobody's page breaks for it, and no answer is lost for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page

from backflip.store.study import Study
from backflip.web.words import plain

from .conftest import ON_BOTH, Site, pair
from .test_web_doors import filled, routes
from .visitors import QUIET, Served, Visitor, wait_for

ASKED = "What is claimed?"
OWNERS_PAGES = ("/study", "/study/known", "/people", "/quality", "/lineage", "/adjudicate", "/judge")


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("a\x00b\x08\x1b[31m\x7f", "ab[31m"),
        ("one\r\ntwo\rthree\tfour\n", "one\ntwo\nthree\tfour\n"),
        ("half \ud83d of one", "half \ufffd of one"),
        ("\U0001f600 \u200d \u0628 \\u0000", "\U0001f600 \u200d \u0628 \\u0000"),
        (3, 3),
    ],
)
def test_what_cannot_be_seen_is_taken_out_and_nothing_else(typed: Any, kept: Any) -> None:
    assert plain(typed) == kept


@ON_BOTH
@pytest.mark.parametrize("odd", ["a\x00b", "a\ud800b", "\x1b[31m", "\U0001f600"])
def test_no_labeler_breaks_the_owners_pages_with_words(site: Site, odd: str) -> None:
    site.book.change(Study(sub_questions=(ASKED,), gold_share=0.0, repeat_share=0.0), "owner", 0.0)
    olga, ann = site.come("Olga", "owner"), site.come("Ann")
    sent = ann.send(ann.next(1)[0]["id"], sub={ASKED: odd}, comment=odd)
    assert sent.status_code == 200, sent.text
    told = site.store.judgements(0)[0][0]
    assert told.details["sub"] == {ASKED: plain(odd)} and told.details["comment"] == plain(odd)
    for path in OWNERS_PAGES:
        assert olga.browser.get(path).status_code == 200, path
    found = olga.browser.get(f"/lineage/judgement/{told.stored_id}")
    assert found.status_code == 200 and ASKED in found.text


@ON_BOTH
def test_no_address_and_no_form_makes_the_server_fail(site: Site) -> None:
    """Every route, with a NUL, with a very long text, with a number that no database counts to, in every place of its address and form."""
    olga = site.come("Olga", "owner")
    fields = (
        "name",
        "password",
        "kind",
        "text",
        "role",
        "note",
        "state",
        "sure",
        "query",
        "right",
        "explanation",
        "use",
        "event",
    )
    for method, path in routes(site):
        if path in ("/live/events", "/sign-out") or path.startswith("/sign-in"):
            continue
        for odd in ("%00", "a%00b", "x" * 5000, "%F0%9F", "9" * 40, "-1"):
            address = filled(path)
            if "{" in path:
                address = path[: path.index("{")] + odd + path[path.index("}") + 1 :]
            query = "&".join(f"{one}={odd}" for one in ("after", "state", "page", "read", "new", "erased", "count"))
            form = "&".join(f"{one}={odd}" for one in fields) + f"&csrf={olga.csrf}"
            kind = {"Content-Type": "application/x-www-form-urlencoded"}
            for where in (address, f"{address}?{query}"):
                found = olga.browser.request(
                    method, where, content=form if method == "POST" else None, headers=kind if method == "POST" else {}
                )
                assert found.status_code < 500, (method, where[:200], found.text)
    for address in ("/people?erased=%00", "/media/%00", "/reset/%00", "/adjudicate/%00", "/static/%00"):
        assert olga.browser.get(address).status_code == 404, address


@ON_BOTH
def test_what_owners_write_is_kept_without_what_cannot_be_seen(site: Site) -> None:
    olga, ann = site.come("Olga", "owner"), site.come("Ann")
    assert olga.post("/study/document", kind="instructions", text="Be\x00 kind.\r\nAlways.").status_code == 303
    assert site.book.document("instructions")[1] == "Be kind.\nAlways."
    form = {name: str(value) for name, value in vars(QUIET).items()} | {
        "axes": "more\x00 true\r\nkinder",
        "sub_questions": "",
    }
    assert olga.post("/study/settings", **form).status_code == 303
    assert site.book.settings().axes == ("more true", "kinder")
    assert olga.post("/people/invite", role="labeler", note="for\x00 Bob").status_code == 200
    sent = ann.send(ann.next(1)[0]["id"], axes={"more true": "1", "kinder": "1"})
    assert sent.status_code == 200, sent.text


@ON_BOTH
def test_a_pasted_text_with_signs_that_nobody_sees_is_taken(served: Served, come: Callable[..., Visitor]) -> None:
    served.study(Study(sub_questions=(ASKED,), gold_share=0.0, repeat_share=0.0))
    served.store.add_queries([pair(n) for n in range(2)])
    ann = come("Ann")
    paste(ann.page, "a\x00b \ud83d \x1b c")
    ann.press("1")
    wait_for(lambda: served.store.counts()["judgements"] == 1)
    assert ann.page.locator("#refused").is_hidden() and ann.page.locator("#trouble").is_hidden()
    assert served.store.judgements(0)[0][0].details["sub"] == {ASKED: "ab \ufffd  c"}


def paste(page: Page, text: str) -> None:
    """Put a text into the field for the first sub-question, as a paste does, and leave it."""
    codes = [ord(letter) for letter in text]
    page.locator("[data-sub]").evaluate(
        "(box, codes) => { box.value = String.fromCharCode(...codes); box.dispatchEvent(new Event('input')); }", codes
    )
    page.locator("#question").focus()
