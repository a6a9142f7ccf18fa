"""What a request costs the database, and that nothing which is spared makes an answer older than it was."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event
from sqlalchemy.engine import Engine

from backflip.store import Store
from backflip.store.study import Study
from backflip.web.app import create_app

from .conftest import ON_BOTH, URL, Site

QUIET = Study(overlap=2, gold_share=0.0, repeat_share=0.0)


@contextmanager
def statements() -> Generator[list[str]]:
    """Collect what is sent to any database meanwhile."""
    sent: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        sent.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(Engine, "before_cursor_execute", note)


@pytest.mark.parametrize("where", ["postgres"], indirect=True)
def test_a_pair_and_an_answer_take_few_statements(site: Site) -> None:
    site.book.change(QUIET, "owner", site.clock())
    ann, bob = site.come("Ann"), site.come("Bob")
    for one in ann.next(3):
        assert ann.send(one["id"]).status_code == 200
    with statements() as sent:
        pairs = bob.next(3)
    # Session, tally; begin, look, hold, count: the pairs were read for Ann, and were answered by her.
    assert len(pairs) == 3 and len(sent) == 6, sent
    with statements() as sent:
        assert bob.send(pairs[0]["id"]).json() == {"recorded": True}
    # Session, claim; begin, claim again, event, claim done.
    assert len(sent) == 6, sent
    with statements() as sent:
        assert len(bob.next(3)) == 3
    # The same as at first, those held are held for longer, and the new one is read, which takes four.
    assert len(sent) <= 11, sent


@ON_BOTH
def test_a_setting_that_is_changed_elsewhere_counts_at_the_next_request(site: Site, where: str | Path) -> None:
    ann = site.come("Ann")
    site.book.change(QUIET, "owner", site.clock())
    (one,) = ann.next()
    with Store.open(where) as again:
        other = create_app(again, URL, site.clock)
        elsewhere = TestClient(other, base_url=URL, cookies=dict(ann.browser.cookies))
        assert elsewhere.get("/judge/next?count=1").json()["pairs"][0]["id"] == one["id"]
        site.book.change(replace(QUIET, scale="seven"), "owner", site.clock())
        body = {"query": one["id"], "event": "e" * 16, "choice": "1", "timing": {"visible": 1, "whole": 1, "idle": 0}}
        refused = elsewhere.post("/judge/answer", json=body, headers={"X-CSRF-Token": ann.csrf})
        assert refused.status_code == 422 and "from 1 to 7" in refused.json()["error"]
        told = elsewhere.post("/judge/answer", json=body | {"scale": 2}, headers={"X-CSRF-Token": ann.csrf})
        assert told.json() == {"recorded": True}
        site.people.erase(ann.person.id)
        assert elsewhere.get("/judge/next", headers={"accept": "application/json"}).status_code == 401
