"""Films come in parts where a browser asks for parts, as Safari does for every film, and whole where it does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fastapi import Response
from hypothesis import given
from hypothesis import strategies as st
from playwright.sync_api import expect

from backflip.data import Item, Query
from backflip.web.ranges import in_parts

from .conftest import ON_BOTH, Site
from .visitors import Served, Visitor, film

TEN = b"0123456789"
KEPT = {"Cache-Control": "private"}


def parts(asked: str | None, if_range: str | None = None, content: bytes = TEN) -> Response:
    return in_parts(content, "video/mp4", KEPT, asked, if_range)


@pytest.mark.parametrize(
    ("asked", "status", "body", "span"),
    [
        (None, 200, TEN, None),
        ("bytes=0-1", 206, b"01", "bytes 0-1/10"),  # with this Safari begins
        ("bytes=0-", 206, TEN, "bytes 0-9/10"),
        ("bytes=4-4", 206, b"4", "bytes 4-4/10"),
        ("bytes=7-100", 206, b"789", "bytes 7-9/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=-100", 206, TEN, "bytes 0-9/10"),
        ("Bytes= 2-3 ", 206, b"23", "bytes 2-3/10"),
        ("bytes=10-", 416, b"", "bytes */10"),
        ("bytes=99-100", 416, b"", "bytes */10"),
        ("bytes=-0", 416, b"", "bytes */10"),
        ("bytes=3-2", 200, TEN, None),
        ("bytes=99-98", 200, TEN, None),
        ("bytes=-", 200, TEN, None),
        ("bytes=0-1,4-5", 200, TEN, None),
        ("bytes=a-b", 200, TEN, None),
        ("bytes=\u0661-\u0662", 200, TEN, None),
        ("bytes=0-1\n", 200, TEN, None),
        (f"bytes={'9' * 5000}-", 200, TEN, None),
        ("items=0-1", 200, TEN, None),
        ("", 200, TEN, None),
    ],
)
def test_what_is_asked_for_comes(asked: str | None, status: int, body: bytes, span: str | None) -> None:
    found = parts(asked)
    assert (found.status_code, found.body, found.headers.get("content-range")) == (status, body, span)
    if status != 416:
        assert found.headers["accept-ranges"] == "bytes" and found.headers["content-length"] == str(len(body))
        assert found.headers["cache-control"] == "private" and found.headers["content-type"] == "video/mp4"
    else:
        assert found.headers["cache-control"] == "no-store", "that there is no such part is not kept for a day"


def test_an_empty_film_has_no_parts() -> None:
    assert parts("bytes=0-", content=b"").status_code == parts("bytes=-1", content=b"").status_code == 416
    assert parts(None, content=b"").status_code == 200


def test_a_part_of_another_film_does_not_come() -> None:
    mark = parts(None).headers["etag"]
    assert parts("bytes=0-1", mark).status_code == 206
    assert parts("bytes=0-1", '"other"').status_code == parts("bytes=0-1", f"W/{mark}").status_code == 200
    assert parts(None, content=b"another").headers["etag"] != mark


@given(content=st.binary(max_size=50), first=st.integers(0, 60), length=st.integers(1, 60))
def test_parts_are_what_the_header_says(content: bytes, first: int, length: int) -> None:
    found = parts(f"bytes={first}-{first + length - 1}", content=content)
    expected = content[first : first + length]
    assert found.status_code == (206 if expected else 416) and bytes(found.body) == expected


@ON_BOTH
def test_a_clip_of_the_store_comes_in_parts(site: Site) -> None:
    ann = site.come("Ann")
    site.store.add_media("clip", "video/mp4", TEN)
    whole = ann.browser.get("/media/clip")
    assert whole.status_code == 200 and whole.headers["accept-ranges"] == "bytes"
    part = ann.browser.get("/media/clip", headers={"Range": "bytes=2-4"})
    assert (part.status_code, part.content, part.headers["content-range"]) == (206, b"234", "bytes 2-4/10")
    assert "immutable" in part.headers["cache-control"] and part.headers["x-content-type-options"] == "nosniff"
    assert ann.browser.get("/media/clip", headers={"Range": "bytes=20-"}).status_code == 416


def test_a_browser_can_go_to_a_place_in_a_film(served: Served, come: Callable[..., Visitor]) -> None:
    """Safari is not here; Chromium takes the parts as well, and must get on with them."""
    media: Any = "clip"
    items = tuple(Item("dot", f"clip {k}", {"k": k}, media=media) for k in (0, 1))
    for item in items:
        served.store.add_media(item.id, "video/mp4", film())
    served.store.add_queries([Query(items, "Which is better?")])
    ann = come("Ann")
    video = ann.page.locator("#side1 video")
    expect(video).to_be_visible()
    ann.page.wait_for_function("document.querySelector('#side1 video').readyState >= 3")
    went = video.evaluate(
        "box => new Promise((done) => { box.pause(); box.onseeked = () => done(box.currentTime); box.currentTime = 0.3; })"
    )
    assert abs(went - 0.3) < 0.05
