"""Names in any script, and attempts: whoever fails to come in keeps nobody else out."""

from __future__ import annotations

import sqlite3
import time
import unicodedata
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from backflip.store import Store
from backflip.store.people import People
from backflip.web.limits import caller_of

from .conftest import ON_BOTH, URL, Site, pair
from .visitors import PASSWORD, Served


def browser_at(site: Site, address: str = "192.0.2.1") -> TestClient:
    """A browser that is signed in nowhere, at an address of its own."""
    return TestClient(site.app, base_url=URL, follow_redirects=False, client=(address, 50_000))


def sign_in(browser: TestClient, name: str, password: str = PASSWORD) -> int:
    return browser.post("/sign-in", data={"name": name, "password": password}).status_code


def join(site: Site, name: str) -> Any:
    token = site.people.invite("labeler", "", site.clock(), 1.0)
    return browser_at(site).post(f"/join/{token}", data={"name": name, "password": PASSWORD})


@ON_BOTH
@pytest.mark.parametrize(
    ("name", "other"), [("Änne", "ÄNNE"), ("Олег", "олег"), ("Zoë", unicodedata.normalize("NFD", "zoë"))]
)
def test_a_name_in_any_script_signs_in_and_is_taken_whatever_its_case(site: Site, name: str, other: str) -> None:
    site.come(name)
    for spelling in (name, other, f"  {other} "):
        assert sign_in(browser_at(site), spelling) == 303, spelling
        again = join(site, spelling)
        assert again.status_code == 409 and "already" in again.text, spelling
    assert sign_in(browser_at(site), "Anne") == 401


@pytest.mark.parametrize(
    "name", ["\u0645\u06cc\u200c\u0646\u0627", "ක්\u200dරිෂාන්", "രാജന്\u200d", "葛\U000e0100城", "Ann ❤\ufe0f"]
)
def test_a_name_may_hold_what_shapes_its_letters(site: Site, name: str) -> None:
    site.come(name)
    for spelling in (name, name.replace("\u200c", "").replace("\u200d", "").replace("\ufe0f", "")):
        assert sign_in(browser_at(site), spelling) == 303
        again = join(site, spelling)
        assert again.status_code == 409 and "already" in again.text


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("\u200c\u200d", "in this one U+200C cannot"),
        ("\u200cAnn", "in this one U+200C cannot"),
        ("Ann\u200d", "in this one U+200D cannot"),
        ("A\u200bnn", "in this one U+200B cannot"),
        ("\u202eAnn", "in this one U+202E cannot"),
        ("\u3164", "in this one U+3164 cannot"),
        ("Ann \u2800", "in this one U+2800 cannot"),
        ("\u0301", "nothing that can be seen by itself"),
        (" ", "1 to 60 letters"),
        ("n" * 61, "1 to 60 letters"),
    ],
)
def test_a_name_of_which_not_all_is_seen_is_refused_by_what_is_not(site: Site, name: str, said: str) -> None:
    found = join(site, name)
    assert found.status_code == 409 and said in found.text.replace("&#43;", "+")
    assert site.people.everybody() == []


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("Ann", "A\u200dnn"),
        ("Ann", "\u0410nn"),
        ("Ann", "\uff21\uff4e\uff4e"),
        ("Cara", "\u0421\u0430\u0433\u0430"),
        ("\u041d\u041e\u0420\u0410", "HOPA"),
        ("\u039dora", "Nora"),
    ],
)
def test_a_name_that_looks_like_another_is_refused(site: Site, name: str, other: str) -> None:
    site.come(name)
    found = join(site, other)
    alike = name != "Cara"  # in Cyrillic the third letter looks like none of the Latin ones
    assert (found.status_code == 409 and ("already" in found.text)) == alike
    assert sign_in(browser_at(site), "Anna") == 401


def test_invitations_do_not_use_up_each_others_attempts(site: Site) -> None:
    """A lecture hall joins from one address, while somebody in it guesses at links."""
    guesser = browser_at(site)
    codes = [guesser.get("/join/guess").status_code for _ in range(14)]
    assert codes[0] == 409 and codes[-1] == 429
    for n in range(14):
        token = site.people.invite("labeler", "", site.clock(), 1.0)
        assert browser_at(site).get(f"/join/{token}").status_code == 200
        assert join(site, f"somebody {n}").status_code == 303
    assert guesser.get("/join/guess").status_code == 429


def test_one_invitation_cannot_be_tried_without_end(site: Site) -> None:
    token = site.people.invite("labeler", "", site.clock(), 1.0)
    tries = [
        browser_at(site).post(f"/join/{token}", data={"name": "Ann", "password": "short"}).status_code
        for _ in range(14)
    ]
    assert tries[0] == 409 and tries[-1] == 429
    assert join(site, "Ann").status_code == 303


def test_a_right_password_passes_while_others_fail_at_the_name(site: Site) -> None:
    site.come("Ann")
    codes: list[int] = []
    for address in range(10):
        stranger = browser_at(site, f"198.51.100.{address}")
        codes = [sign_in(stranger, " aNN", f"guess {n} of many") for n in range(12)]
        assert codes[0] == 401, "a first try is always looked at"
        assert codes[-1] == 429
    assert codes.count(401) == 1, "by now the name is guarded: an address that failed once waits"
    assert [sign_in(browser_at(site), "Ann") for _ in range(3)] == [303] * 3


def test_an_address_that_is_refused_takes_nothing_from_a_name(site: Site) -> None:
    site.come("Ann")
    stranger = browser_at(site, "198.51.100.1")
    for n in range(200):
        sign_in(stranger, f"nobody {n}", "a guess of many")
    assert [sign_in(stranger, "Ann", "a guess of many") for _ in range(40)] == [429] * 40
    ann = browser_at(site)
    assert sign_in(ann, "Ann", "a slip of the hand") == 401, "and she may slip more than once"
    assert sign_in(ann, "Ann", "a slip of the hand") == 401
    assert sign_in(ann, "Ann") == 303


def test_whoever_has_many_addresses_of_ipv6_is_one_caller(site: Site) -> None:
    site.come("Ann")
    guesses = [sign_in(browser_at(site, f"2001:db8:0:1::{n:x}"), f"nobody {n}", "a guess of many") for n in range(14)]
    assert guesses[0] == 401 and guesses[-1] == 429
    assert sign_in(browser_at(site, "2001:db8:0:1:ffff::9"), "Ann") == 429
    assert sign_in(browser_at(site, "2001:db8:0:2::9"), "Ann") == 303, "another connection"
    assert sign_in(browser_at(site, "::ffff:192.0.2.7"), "Bob", "a guess of many") == 401


@pytest.mark.parametrize(
    ("address", "caller"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:0:1:2:3:4:5", "2001:db8:0:1::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("testclient", "testclient"),
    ],
)
def test_who_a_caller_is(address: str, caller: str) -> None:
    assert caller_of(address) == caller


def test_signing_in_well_is_not_counted(site: Site) -> None:
    site.come("Ann")
    assert [sign_in(browser_at(site), "Ann") for _ in range(14)] == [303] * 14


@pytest.mark.parametrize("how", ["erased", "signed out"])
def test_the_live_page_ends_for_an_owner_who_is_gone(served: Served, how: str) -> None:
    token = served.people.invite("owner", "", time.time(), 1.0)
    with httpx.Client(base_url=served.url, timeout=20, follow_redirects=True) as browser:
        browser.post(f"/join/{token}", data={"name": "Otto", "password": PASSWORD})
        with browser.stream("GET", "/live/events") as stream:
            lines = stream.iter_lines()
            assert next(lines).startswith("data: ")
            if how == "erased":
                served.people.erase(served.people.everybody()[0].id)
            else:
                served.people.sign_out(browser.cookies[served.cookie])
            served.store.add_queries([pair(7)])
            for line in lines:
                assert "answer 7" not in line, "the stream ends, and says nothing more"


def test_what_stands_for_an_erased_name_does_not_follow_from_it(site: Site, tmp_path: Path) -> None:
    """The same person, erased in two stores, leaves two different words: so nobody can check a guess at the name."""
    ann = site.come("Ann").person
    copy = tmp_path / "copy.sqlite"
    with closing(sqlite3.connect(site.store.where)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    left: set[str] = set()
    for where in (site.store.where, copy):
        with Store.open(where) as store:
            people = People(store)
            people.erase(ann.id)
            left.add(people.person(ann.id).name)
    assert len(left) == 2 and all(name.startswith("erased ") for name in left)
