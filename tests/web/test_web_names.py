"""Names in any script, and attempts: whoever fails to come in keeps nobody else out."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest
from fastapi.testclient import TestClient

from .conftest import ON_BOTH, URL, Site
from .visitors import PASSWORD


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


def test_signing_in_well_is_not_counted(site: Site) -> None:
    site.come("Ann")
    assert [sign_in(browser_at(site), "Ann") for _ in range(14)] == [303] * 14
