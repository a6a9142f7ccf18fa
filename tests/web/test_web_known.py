"""The owner's known answers in the browser's terms: a file comes whole or not at all, and what everybody agreed on may become known."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from backflip.store.study import Study
from backflip.web.knowing import UPLOAD
from backflip.web.uploads import UPLOAD_BYTES

from .conftest import Site, Somebody, pair

QUIET = Study(gold_share=0.0, repeat_share=0.0)
LINE = {"prompt": "p", "chosen": "good", "rejected": "bad", "explanation": "It is <b>good</b>."}


def upload(who: Somebody, content: bytes, name: str = "gold.jsonl") -> Any:
    return who.browser.post(UPLOAD, data={"csrf": who.csrf}, files={"file": (name, content)})


def lines(*rows: Any) -> bytes:
    return b"\n".join(row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows)


def test_a_file_comes_in_and_its_pairs_are_checks(site: Site) -> None:
    olga = site.come("Olga", "owner")
    assert 'enctype="multipart/form-data"' in olga.browser.get("/study").text
    found = upload(olga, lines(LINE, {**LINE, "prompt": "q", "use": "practice"}))
    assert found.status_code == 303
    page = olga.browser.get(found.headers["location"]).text
    assert "held 2 known answers; 2 are new" in page and "1 for practice" in page
    assert "It is &lt;b&gt;good" in page, "words from a file are text"
    assert len(site.book.known_ids("check")) == len(site.book.known_ids("practice")) == 1
    site.book.change(replace(QUIET, gold_share=0.5), "owner", site.clock())
    ann = site.come("Ann")
    shown = [one for _ in range(11) for one in ann.next() if ann.send(one["id"]).status_code == 200]
    gold = [one for one in shown if one["id"] in site.book.known_ids()]
    assert len(gold) == 1 and {one["question"] for one in shown} == {"Which is better?"}


def test_a_broken_line_leaves_everything_as_it_was(site: Site) -> None:
    olga = site.come("Olga", "owner")
    found = upload(olga, lines(LINE, b'{"prompt": ', {**LINE, "prompt": "q"}, {**LINE, "prompt": "r", "chosen": None}))
    assert found.status_code == 409
    for part in ("gold.jsonl has 2 bad lines, nothing was imported", "gold.jsonl line 2: not JSON", "line 4: has no"):
        assert part in found.text
    assert site.book.known() == []


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "is empty; expected"), (b"PAR1\x00\xff\x00", "line 1: byte 6 is not UTF-8"), (b"[1]", "expected an object")],
)
def test_a_file_that_is_none_is_said_to_be(site: Site, content: bytes, said: str) -> None:
    olga = site.come("Olga", "owner")
    found = upload(olga, content)
    assert found.status_code == 409 and said in found.text
    assert "<script>" not in upload(olga, b"x", "<script>alert(1)</script>.jsonl").text
    assert "choose a file" in olga.post(UPLOAD).text


def test_a_file_that_is_too_large_is_refused(site: Site) -> None:
    olga = site.come("Olga", "owner")
    found = upload(olga, b" " * (UPLOAD_BYTES + 1))
    assert found.status_code == 413 and f"larger than the {UPLOAD_BYTES:,} bytes" in found.text
    fits = [{**LINE, "prompt": f"p{n}", "explanation": "x" * 4000} for n in range(300)]
    assert upload(olga, lines(*fits)).status_code == 303 and len(site.book.known()) == 300
    assert len(olga.browser.get(UPLOAD).text) < 100_000, "a page of them, not all"


def test_only_the_owner_and_only_from_our_page(site: Site) -> None:
    olga, ann = site.come("Olga", "owner"), site.come("Ann")
    assert upload(ann, lines(LINE)).status_code == 403
    assert olga.browser.post(UPLOAD, data={"csrf": ann.csrf}, files={"file": ("a", lines(LINE))}).status_code == 403
    assert olga.browser.post(UPLOAD, files={"file": ("a", lines(LINE))}).status_code == 403
    assert site.book.known() == []


def test_what_everybody_agreed_on_becomes_a_check_for_others(site: Site) -> None:
    site.book.change(replace(QUIET, overlap=3), "owner", site.clock())
    olga, three = site.come("Olga", "owner"), [site.come(name) for name in ("Ann", "Bob", "Cy")]
    for n, one in enumerate(three):
        for shown in one.next(2):
            longer = "1" if len(shown["sides"][0]["text"]) > len(shown["sides"][1]["text"]) else "2"
            first = shown["id"] == pair(0).id
            one.send(shown["id"], longer if first or n else {"1": "2", "2": "1"}[longer])
    page = olga.browser.get(UPLOAD).text
    assert "chosen by all 3" in page and page.count("Make known, for checks") == 1
    bad = olga.post(f"{UPLOAD}/make", query=pair(5).id)
    assert bad.status_code == 409 and "everybody agreed" in bad.text
    assert olga.post(f"{UPLOAD}/make", query=pair(0).id, use="check").status_code == 303
    (known,) = site.book.known()
    right = known.query.items[0 if known.answer[0] > 0.5 else 1]
    assert len(right.content) == max(len(item.content) for item in known.query.items)
    assert known.explanation == "All 3 people who judged it said so."
    assert olga.post(f"{UPLOAD}/make", query=pair(0).id).status_code == 409, "it is known already"
    assert all(site.app.state.place.desk.unseen_known(one.person, 9) == [] for one in three)


def test_the_owner_sees_no_agreement_on_what_may_still_come_to_them(site: Site) -> None:
    site.book.change(replace(QUIET, overlap=4), "owner", site.clock())
    olga = site.come("Olga", "owner")
    for name in ("Ann", "Bob", "Cy"):
        one = site.come(name)
        for shown in one.next():
            one.send(shown["id"], "1" if len(shown["sides"][0]["text"]) > len(shown["sides"][1]["text"]) else "2")
    assert "chosen by all" not in olga.browser.get(UPLOAD).text
    site.book.change(replace(QUIET, overlap=3), "owner", site.clock())
    assert "chosen by all 3" in olga.browser.get(UPLOAD).text
