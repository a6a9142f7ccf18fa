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
