"""A forgotten password: who may make a link to a new one, what it does, and that it does it once."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from backflip.cli import main
from backflip.store.people import People
from backflip.store.resets import Resets

from .conftest import ON_BOTH, URL, Site, Somebody
from .visitors import PASSWORD

NEW = "another long password"


def link_of(page: str) -> str:
    """Return the link that a page or a line of the command line shows."""
    return "/reset/" + page.split("/reset/", 1)[1].split("<", 1)[0].split()[0]


def made(owner: Somebody, person: Somebody) -> str:
    found = owner.post(f"/people/{person.person.id}/reset")
    assert found.status_code == 200 and f"<bdi>{person.person.name}</bdi> alone" in found.text
    return link_of(found.text.split('id="link">', 1)[1])


def browser_of(site: Site) -> TestClient:
    return TestClient(site.app, base_url=URL, follow_redirects=False)


def signs_in(site: Site, name: str, password: str) -> bool:
    return browser_of(site).post("/sign-in", data={"name": name, "password": password}).status_code == 303


@ON_BOTH
def test_a_link_of_the_owner_gives_a_new_password_once_and_ends_old_sessions(site: Site) -> None:
    olga, ann = site.come("Olga", "owner"), site.come("Ann")
    link = made(olga, ann)
    assert ann.browser.get("/judge").status_code == 200 and signs_in(site, "Ann", PASSWORD), "nothing changed yet"
    elsewhere = browser_of(site)
    assert "Ann" in elsewhere.get(link).text
    assert elsewhere.post(link, data={"password": "short"}).status_code == 409, "a mistake does not use it up"
    found = elsewhere.post(link, data={"password": NEW})
    assert found.status_code == 303 and elsewhere.get("/judge").status_code == 200, "signed in at once"
    assert ann.browser.get("/judge").headers["location"] == "/sign-in", "signed out everywhere else"
    assert (signs_in(site, "Ann", PASSWORD), signs_in(site, "Ann", NEW)) == (False, True)
    for again in (elsewhere.get(link), elsewhere.post(link, data={"password": NEW})):
        assert again.status_code == 409 and "used already" in again.text
    assert "chose a new password by a link from Olga" in olga.browser.get("/people").text


def test_a_link_ends_with_its_day_with_a_newer_one_and_with_its_person(site: Site) -> None:
    olga, ann = site.come("Olga", "owner"), site.come("Ann")
    first, second = made(olga, ann), made(olga, ann)
    nobody = browser_of(site)
    assert (nobody.get(first).status_code, nobody.get(second).status_code) == (409, 200)
    site.clock.now += 24 * 3600 + 1
    assert nobody.post(second, data={"password": NEW}).status_code == 409
    third = made(olga, ann)
    assert olga.post(f"/people/{ann.person.id}/erase", sure="yes").status_code == 303
    assert nobody.post(third, data={"password": NEW}).status_code == 409
    assert olga.post(f"/people/{ann.person.id}/reset").status_code == 409, "nobody is made to come back"
    assert signs_in(site, "Ann", PASSWORD) is False


def test_only_an_owner_makes_links_and_no_link_is_guessed(site: Site) -> None:
    olga, ann = site.come("Olga", "owner"), site.come("Ann")
    where = f"/people/{olga.person.id}/reset"
    assert ann.post(where).status_code == 403
    assert browser_of(site).post(where).headers["location"] == "/sign-in"
    assert olga.browser.post(where).status_code == 403, "not without the token of the session"
    assert olga.post("/people/nobody/reset").status_code == 404
    good, nobody = made(olga, ann), browser_of(site)
    codes = [nobody.get(f"/reset/{ann.person.id}{k}").status_code for k in range(12)]
    assert codes[0] == 409 and codes[-1] == 429
    assert nobody.get(good).status_code == 200, "guesses shut out nobody who was sent a good one"
    tries = [nobody.post(good, data={"password": "short"}).status_code for _ in range(12)]
    assert tries[0] == 409 and tries[-1] == 429
    other_site = nobody.post(good, data={"password": NEW}, headers={"Origin": "https://evil.example"})
    assert other_site.status_code == 403


def test_the_token_is_not_in_the_store(site: Site) -> None:
    ann = site.come("Ann")
    token = Resets(site.store).make(ann.person.id, "x", site.clock(), 1.0)
    site.store.close()
    assert token.encode() not in Path(site.store.where).read_bytes()


def test_the_last_owner_comes_back_by_the_command_line(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    olga = site.come("Olga", "owner")
    site.clock.now = time.time()
    command = ["serve", str(site.store.where), "--public-url", "https://judge.example"]
    assert main([*command, "--reset-password", "olga "]) == 0
    said = capsys.readouterr().out
    assert "for Olga" in said and "https://judge.example/reset/" in said
    assert browser_of(site).post(link_of(said), data={"password": NEW}).status_code == 303
    assert olga.browser.get("/study").headers["location"] == "/sign-in" and signs_in(site, "Olga", NEW)
    assert main([*command, "--reset-password", "Otto"]) == 2
    said = capsys.readouterr().err
    assert "nobody in" in said and 'called "Otto"; its owners are: Olga' in said and said.count("\n") == 1


def test_two_at_once_use_one_link_once(site: Site) -> None:
    ann, resets = site.come("Ann"), Resets(site.store)
    token = resets.make(ann.person.id, "x", site.clock(), 1.0)
    told: list[Any] = []

    def choose(k: int) -> None:
        try:
            told.append(resets.use(token, f"hash {k}", site.clock()).name)
        except Exception as error:
            told.append(type(error).__name__)

    threads = [threading.Thread(target=choose, args=(k,)) for k in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert sorted(told) == ["Ann", "DataError", "DataError", "DataError"]
    assert len(People(site.store).acts(ann.person.id, "new password")) == 1
