"""People in the browser as a run hears them: what may still change is kept back, and nobody is waited for who will not come."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from backflip.data import Item, Judgement, Query
from backflip.loops.answers import awaited
from backflip.overseers.people import GRACE_SECONDS, PeopleOverseer
from backflip.store import Store
from backflip.store.desk import Desk
from backflip.store.study import StudyBook


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store.sqlite") as opened:
        yield opened


def asked(store: Store, n: int = 0) -> Query:
    query = Query((Item("", f"a{n}", {}), Item("", f"b{n}", {})), "Which?")
    store.add_queries([query])
    return query


def test_an_answer_of_a_machine_whose_clock_is_ahead_is_kept_back_too(store: Store) -> None:
    made = Judgement(asked(store).id, "person:x", (1.0, 0.0), created=1000.0)
    store.add_judgements([made])
    limit = StudyBook(store).settings().undo_seconds + GRACE_SECONDS
    for now, heard in ((999.0, []), (1000.0 + limit, [made]), (1000.0 - 10 * limit, [made])):
        assert PeopleOverseer(store, clock=lambda now=now: now).answers(0)[0] == heard, now


def test_as_many_are_waited_for_as_the_study_wants_by_now_and_nobody_for_a_pair_that_is_talked_about(
    store: Store,
) -> None:
    book, overseer = StudyBook(store), PeopleOverseer(store)
    book.change(replace(book.settings(), overlap=2), "owner", 1.0)
    ids = [asked(store, n).id for n in range(3)]
    found = {one: [Judgement(one, "person:x", (1.0, 0.0))] for one in ids[:2]}
    assert awaited(overseer, ids, found) == set(ids)
    Desk(store).withdraw(ids[0])
    assert awaited(overseer, ids, found) == {ids[1], ids[2]}
    book.change(replace(book.settings(), overlap=1), "owner", 2.0)
    assert awaited(overseer, ids, found) == {ids[2]}
