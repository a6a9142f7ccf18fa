"""Who may come in, and who may not: every route as nobody, as a labeler, as the owner; and every way to force a door."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from starlette.routing import Mount

from backflip.store import Store
from backflip.store.people import People
from backflip.web import passwords, sign_in
from backflip.web.app import create_app
from backflip.web.guard import HEADERS, ROLES, cookie_of
from backflip.web.limits import Limit, Tries

from .conftest import HASHER, ON_BOTH, URL, Site
from .visitors import PASSWORD

OPEN = {"/", "/sign-in", "/join/{token}", "/reset/{token}"}
FOR_OWNERS = ("/study", "/people", "/quality", "/live", "/lineage")


def routes(site: Site) -> list[tuple[str, str]]:
    """Every method and path of the application but the static files."""
    found = [(method, route.path) for route in walk(site.app.routes) for method in sorted(route.methods or ())]
    assert len(found) > 20
    return found


def walk(routes: Iterable[Any]) -> Iterator[APIRoute]:
    """Every route of ours, through routers that were included; a route of an unknown kind is a failure."""
    for route in routes:
        if isinstance(route, APIRoute):
            yield route
        elif hasattr(route, "original_router"):
            yield from walk(route.original_router.routes)
        else:
            assert isinstance(route, Mount) and route.path == "/static", f"nobody guards {route}"


def filled(path: str) -> str:
    return (
        path.replace("{token}", "x")
        .replace("{model_id}", "x")
        .replace("{judgement_id}", "x")
        .replace("{item_id}", "0" * 32)
        .replace("{person_id}", "nobody")
        .replace("{query_id}", "0" * 32)
    )


def guards_of(route: APIRoute) -> set[str]:
    """The names of our guards among everything a route depends on."""
    names: set[str] = set()
    waiting = [route.dependant]
    while waiting:
        one = waiting.pop()
        names |= {name for name, guard in ROLES.items() if one.call is guard}
        waiting += one.dependencies
    return names


def test_every_route_names_who_may_come(site: Site) -> None:
    for route in walk(site.app.routes):
        assert guards_of(route), f"{route.path} lets everybody in without saying so"
        assert ("nobody" in guards_of(route)) == (route.path in OPEN), route.path


def test_nobody_gets_past_the_doors(site: Site) -> None:
    browser = TestClient(site.app, base_url=URL, follow_redirects=False)
    for method, path in routes(site):
        if path in OPEN or path == "/live/events":
            continue
        found = browser.request(method, filled(path))
        assert (found.status_code, found.headers.get("location")) == (303, "/sign-in"), (method, path)
    assert browser.get("/live/events").status_code == 303


def test_a_labeler_sees_nothing_of_the_owner(site: Site) -> None:
    ann = site.come("Ann")
    for method, path in routes(site):
        if path.startswith(FOR_OWNERS):
            found = ann.browser.request(method, filled(path), headers={"X-CSRF-Token": ann.csrf})
            assert found.status_code == 403 and "owner" in found.json()["error"], (method, path)


@ON_BOTH
def test_the_owner_sees_every_page(site: Site) -> None:
    olga = site.come("Olga", "owner")
    for path in (
        "/study",
        "/study/known",
        "/people",
        "/quality",
        "/live",
        "/lineage",
        "/judge",
        "/practice",
        "/adjudicate",
    ):
        found = olga.browser.get(path)
        assert found.status_code == 200 and "Olga" in found.text, path


def test_nothing_changes_without_the_token_of_the_session(site: Site) -> None:
    olga = site.come("Olga", "owner")
    for method, path in routes(site):
        if method == "POST" and path not in OPEN:
            for headers in ({}, {"X-CSRF-Token": "guessed"}):
                found = olga.browser.post(filled(path), headers=headers)
                assert found.status_code == 403, (path, headers)


def test_another_site_cannot_post_even_a_sign_in(site: Site) -> None:
    browser = TestClient(site.app, base_url=URL, follow_redirects=False)
    found = browser.post("/sign-in", data={"name": "a", "password": "b"}, headers={"Origin": "https://evil.example"})
    assert found.status_code == 403


def test_answers_carry_strict_headers_and_pages_no_inline_script(site: Site) -> None:
    olga = site.come("Olga", "owner")
    for path in ("/sign-in", "/study", "/study/known", "/people", "/judge", "/practice", "/adjudicate", "/nowhere"):
        found = olga.browser.get(path)
        assert {name: found.headers[name] for name in HEADERS} == HEADERS
        assert found.headers["cache-control"] == "no-store"
        assert " onclick" not in found.text and "<script>" not in found.text and "style=" not in found.text
    assert "unsafe" not in HEADERS["Content-Security-Policy"]


def test_the_cookie_is_for_the_server_alone_and_for_tls_where_there_is_tls(site: Site) -> None:
    app = create_app(site.store, "https://judge.example", site.clock)
    browser = TestClient(app, base_url="https://judge.example", follow_redirects=False)
    token = site.people.invite("labeler", "", site.clock(), 1.0)
    found = browser.post(f"/join/{token}", data={"name": "Ann", "password": PASSWORD})
    cookie = found.headers["set-cookie"].lower()
    assert all(part in cookie for part in ("httponly", "secure", "samesite=lax"))
    assert found.headers["strict-transport-security"].startswith("max-age=")


def test_no_answer_leads_to_a_host_that_the_request_names(site: Site) -> None:
    olga = site.come("Olga", "owner")
    for path in ("/study/", "/judge/", "/sign-in/", "/static", "/people//", "/lineage/model/x/"):
        found = olga.browser.get(path, headers={"Host": "evil.example"})
        assert found.status_code == 404 and "location" not in found.headers, path


def test_an_invitation_works_once_and_not_for_ever(site: Site) -> None:
    browser = TestClient(site.app, base_url=URL, follow_redirects=False)
    token = site.people.invite("labeler", "", site.clock(), 1.0)
    assert browser.get(f"/join/{token}").status_code == 200
    assert browser.post(f"/join/{token}", data={"name": "Ann", "password": "short"}).status_code == 409
    assert browser.post(f"/join/{token}", data={"name": "Ann", "password": PASSWORD}).status_code == 303
    again = browser.get(f"/join/{token}")
    assert again.status_code == 409 and "used already" in again.text
    late = site.people.invite("labeler", "", site.clock(), 1.0)
    site.clock.now += 3601
    found = browser.get(f"/join/{late}")
    assert found.status_code == 409 and "expired" in found.text
    assert "not known" in browser.get("/join/guess").text


def test_names_are_taken_whatever_their_case(site: Site) -> None:
    site.come("Ann")
    browser = TestClient(site.app, base_url=URL, follow_redirects=False)
    token = site.people.invite("labeler", "", site.clock(), 1.0)
    found = browser.post(f"/join/{token}", data={"name": "  aNN ", "password": PASSWORD})
    assert found.status_code == 409 and "already" in found.text


@pytest.mark.parametrize("name", ["Ann", "ann ", "nobody"])
def test_a_wrong_password_says_nothing_of_whether_there_is_such_a_person(site: Site, name: str) -> None:
    site.come("Ann")
    browser = TestClient(site.app, base_url=URL, follow_redirects=False)
    found = browser.post("/sign-in", data={"name": name, "password": "wrong wrong wrong"})
    assert found.status_code == 401 and "do not fit" in found.text


def test_signing_in_and_out(site: Site) -> None:
    ann = site.come("Ann")
    assert ann.post("/sign-out").status_code == 303
    assert ann.browser.get("/judge").headers["location"] == "/sign-in"
    assert ann.browser.post("/sign-in", data={"name": "ANN", "password": PASSWORD}).status_code == 303
    assert ann.browser.get("/judge").status_code == 200
    site.clock.now += 3600 * 24 * 15
    assert ann.browser.get("/judge").headers["location"] == "/sign-in"


def test_two_studies_on_one_machine_do_not_sign_each_others_people_out(site: Site, tmp_path: Path) -> None:
    """Browsers send a cookie to every port of a machine: one browser, two studies, and then a copy of the first at another place."""
    ann = site.come("Ann")
    with (
        closing(sqlite3.connect(site.store.where)) as whole,
        closing(sqlite3.connect(tmp_path / "copy.sqlite")) as copy,
    ):
        whole.backup(copy)
    for other in ("other.sqlite", "copy.sqlite"):
        with Store.open(tmp_path / other) as store:
            browser = TestClient(create_app(store, "http://testserver:8001", site.clock), base_url=f"{URL}:8001")
            browser.cookies = ann.browser.cookies
            browser.post(
                f"/join/{People(store).invite('labeler', '', site.clock(), 1.0)}",
                data={"name": "Anna", "password": PASSWORD},
            )
            assert "Anna" in browser.get("/judge").text
            ann.browser.cookies.update(browser.cookies)
            browser.cookies = ann.browser.cookies
            assert ann.browser.get("/judge").status_code == 200, "still signed in here"
            assert "Anna" in browser.get("/judge").text
    assert len([one for one in ann.browser.cookies.jar if one.name.startswith("backflip_")]) == 3
    with Store.open(site.store.where) as again:
        link = tmp_path / "latest"
        link.symlink_to(Path(site.store.where).parent)
        with Store.open(link / Path(site.store.where).name) as by_link:
            assert cookie_of(again, b"k") == cookie_of(by_link, b"k") != cookie_of(again, b"l")


def test_passwords_are_hashed_as_the_library_advises() -> None:
    kind, _, cost = HASHER.hash("a password").split("$")[1:4]
    assert kind == "argon2id" and cost == "m=65536,t=3,p=4"


def test_passwords_cannot_be_tried_without_end(site: Site) -> None:
    browser = TestClient(site.app, base_url=URL, follow_redirects=False)
    codes = [browser.post("/sign-in", data={"name": f"n{k}", "password": "x" * 12}).status_code for k in range(14)]
    assert codes[:5] == [401] * 5 and codes[-1] == 429


def test_a_crowd_before_the_door_keeps_nobody_from_judging(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """While many passwords are checked, everybody else is served; whoever would wait too long is told to come again, uncounted."""
    ann, door = site.come("Ann"), threading.Event()
    monkeypatch.setattr(sign_in, "fits", lambda *_: door.wait(60) and False)
    site.app.state.place.sign_ins = tries = Tries(burst=100, per_minute=1.0)
    crowd = passwords.MOST + 10  # more than the threads that serve everybody

    async def come() -> list[Any]:
        transport = httpx.ASGITransport(site.app)
        async with httpx.AsyncClient(transport=transport, base_url=URL, cookies=dict(ann.browser.cookies)) as browser:
            form = {"name": "ann", "password": PASSWORD}
            tasks = [asyncio.create_task(browser.post("/sign-in", data=form)) for _ in range(crowd)]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            judging = await asyncio.wait_for(browser.get("/judge/next"), 30)
            door.set()
            return [judging, *await asyncio.gather(*tasks)]

    try:
        judging, *codes = asyncio.run(come())
    finally:
        door.set()
    assert judging.status_code == 200 and judging.json()["pairs"]
    turned = [one for one in codes if one.status_code == 503]
    assert len(turned) == 10 and {one.status_code for one in codes} == {401, 503}
    assert all(one.headers["retry-after"] == "5" and "try again" in one.text for one in turned)
    assert sum(tries.begin("127.0.0.1", f"n{k}", 0.0) for k in range(100)) == 100 - passwords.MOST


def test_requests_are_limited_for_each_person(site: Site) -> None:
    site.app.state.place.requests = Limit(burst=5, per_minute=1.0)
    ann, bob = site.come("Ann"), site.come("Bob")
    codes = [ann.browser.get("/judge/next").status_code for _ in range(6)]
    assert codes[-1] == 429
    assert bob.browser.get("/judge/next").status_code == 200


def test_secrets_are_not_in_the_store(site: Site) -> None:
    ann = site.come("Ann")
    token = ann.browser.cookies[site.app.state.place.cookie]
    link = site.people.invite("labeler", "", site.clock(), 1.0)
    site.store.close()
    content = Path(site.store.where).read_bytes()
    assert b"Ann" in content
    for secret in (PASSWORD, token, link):
        assert secret.encode() not in content


def test_what_is_too_large_is_refused_whatever_length_it_states(site: Site) -> None:
    ann = site.come("Ann")
    headers = {"X-CSRF-Token": ann.csrf, "Content-Type": "application/json"}
    found = ann.browser.post("/judge/answer", content=b"x" * 300_000, headers=headers)
    assert found.status_code == 413

    def pieces() -> Any:
        for _ in range(300):
            yield b"x" * 1000

    assert ann.browser.post("/judge/answer", content=pieces(), headers=headers).status_code == 413


@ON_BOTH
def test_an_erased_person_is_gone_and_counts_stay_true(site: Site) -> None:
    olga, ann = site.come("Olga", "owner"), site.come("Ann")
    for one in ann.next(3):
        assert ann.send(one["id"], comment="my own words about aunt Berta").status_code == 200
    before = site.store.counts()
    ids = [key for _, key, _ in site.store.judgement_events()]
    assert olga.post(f"/people/{ann.person.id}/erase").status_code == 409, "not without being sure"
    assert olga.post(f"/people/{ann.person.id}/erase", sure="yes").status_code == 303
    assert ann.browser.get("/judge").headers["location"] == "/sign-in"
    assert site.store.counts() == before
    events = site.store.judgement_events()
    assert [key for _, key, _ in events] == ids, "each keeps the hash of what it once said"
    assert all(one.answer is not None and one.details["comment"] == "" for _, _, one in events)
    everything = "".join(str(one) for one in (*site.people.everybody(), *events))
    assert "Ann" not in everything and "Berta" not in everything
    found = olga.browser.post("/sign-in", data={"name": "Ann", "password": PASSWORD})
    assert found.status_code == 401
