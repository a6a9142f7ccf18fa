"""A database that crashed may have forgotten what it gave to whom; the answers to that are taken all the same, and no others."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import delete, update

from backflip.store import schema
from backflip.store.desk import GOLD, PURPOSES, Desk, standing
from backflip.store.keys import ticket_key
from backflip.web.app import create_app
from backflip.web.tickets import Tickets

from .conftest import ON_BOTH, URL, Site
from .test_web_judging import set_study
from .visitors import QUIET


def forget(site: Site) -> None:
    """Lose what a crash may lose: who holds which question."""
    with site.store.database.transaction("write") as connection:
        connection.execute(delete(schema.claims).where(schema.claims.c.state == "held"))
        connection.execute(update(schema.queries).values(given=0))


@ON_BOTH
def test_an_answer_to_a_question_that_the_database_forgot_to_have_given_is_recorded_once(site: Site) -> None:
    set_study(site, QUIET)
    ann, bob = site.come("Ann"), site.come("Bob")
    mine = ann.next()[0]
    forget(site)
    assert bob.next()[0]["id"] == mine["id"], "nobody knows that it lies before Ann"
    for wrong in ("", "0" * 32, bob.next()[0]["ticket"], ann.next(2)[1]["ticket"]):
        refused = ann.send(mine["id"], ticket=wrong)
        assert refused.status_code == 409 and "not given to you" in refused.json()["error"], wrong
    event = ann.event()
    for new in (True, False):
        assert ann.send(mine["id"], event=event, ticket=mine["ticket"]).json() == {"recorded": new}
    assert ann.send(mine["id"], "2", ticket=mine["ticket"]).status_code == 409, "they answered it already"
    found = site.store.judgements(0)[0]
    assert [one.judge for one in found] == [ann.person.judge]
    assert found[0].details["purpose"] == "study" and found[0].details["late"]
    assert bob.send(mine["id"]).json() == {"recorded": True}, "nobody's work is thrown away"
    undone = ann.browser.post(
        "/judge/undo", data={"event": ann.event(), "of": event}, headers={"X-CSRF-Token": ann.csrf}
    )
    assert undone.json()["pair"]["id"] == mine["id"]
    assert len(standing(site.store.judgements(0)[0])) == 1


def test_a_silent_check_that_was_forgotten_is_still_one(site: Site, known: Any) -> None:
    set_study(site, QUIET)
    site.book.add_known(known(1))
    ann = site.come("Ann")
    (check,) = site.book.known_ids()
    assert Desk(site.store).deal(ann.person, check, GOLD, site.clock(), 60.0)
    checks = [one for one in ann.next(3) if one["id"] == check]
    forget(site)
    assert ann.send(checks[0]["id"], ticket=checks[0]["ticket"]).json() == {"recorded": True}
    assert site.store.judgements(0)[0][0].details["purpose"] == GOLD


def test_a_ticket_for_a_question_that_is_gone_is_refused(site: Site) -> None:
    ann = site.come("Ann")
    gone = "ab" * 16
    ticket = Tickets(ticket_key(site.store, 0.0)).of(ann.person.id, gone, "study")
    refused = ann.send(gone, ticket=ticket)
    assert refused.status_code == 409 and "not given to you" in refused.json()["error"]


def test_tickets_outlive_the_server_and_tell_nothing(site: Site) -> None:
    set_study(site, QUIET)
    ann = site.come("Ann")
    mine = ann.next()[0]
    forget(site)
    cookies = ann.browser.cookies
    ann.browser = TestClient(create_app(site.store, URL, site.clock), base_url=URL, follow_redirects=False)
    ann.browser.cookies = cookies
    assert ann.send(mine["id"], ticket=mine["ticket"]).json() == {"recorded": True}
    key = ticket_key(site.store, 0.0)
    assert len(key) == 32 and key == ticket_key(site.store, 1.0)
    tickets = Tickets(key)
    made = {tickets.of("ann", mine["id"], purpose) for purpose in PURPOSES}
    assert len(made) == len(PURPOSES) and {len(one) for one in made} == {32}
    assert [tickets.purpose("ann", mine["id"], tickets.of("ann", mine["id"], one)) for one in PURPOSES] == [*PURPOSES]


@pytest.mark.parametrize("ticket", ["x" * 32, "0" * 33, "é", 5, None])
def test_what_is_no_ticket_cannot_be_read(site: Site, ticket: Any) -> None:
    ann = site.come("Ann")
    assert ann.send(ann.next()[0]["id"], ticket=ticket).status_code == 422
