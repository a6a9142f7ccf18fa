"""Questions on people's desks, on both kinds of database: no more than asked for, whoever asks at once; nothing lost, nothing doubled."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from sqlalchemy import Connection, event, func, select

from backflip.data import Item, Query
from backflip.errors import DataError, StoreError
from backflip.store import Store, schema, waiting
from backflip.store.desk import GOLD, STUDY, Desk, Tally, Told, standing
from backflip.store.people import People, Person
from backflip.store.read_ahead import AHEAD, KEPT_LETTERS
from backflip.store.study import Known, Study, StudyBook
from backflip.store.waiting import LEVELS

Ask = Callable[..., Query]


def join(store: Store, name: str) -> Person:
    people = People(store)
    return people.join(people.invite("labeler", "", 0.0, 1.0), name, "hashed", 0.0)


@pytest.mark.parametrize("apart", [False, True], ids=["one server", "a server each"])
def test_many_at_once_get_each_question_as_often_as_asked(where: str | Path, ask: Ask, apart: bool) -> None:
    overlap, crowd = 2, 6
    with Store.open(where) as store, ExitStack() as others:
        stores = [others.enter_context(Store.open(where)) if apart else store for _ in range(crowd)]
        store.add_queries([ask(n) for n in range(60)])
        everybody = [join(store, f"p{k}") for k in range(crowd)]
        faults: list[BaseException] = []

        def judge(person: Person) -> None:
            desk, number = Desk(stores[everybody.index(person)]), 0
            try:
                while held := desk.take(person, 3, overlap, 1.0, 1000.0):
                    for one in held:
                        number += 1
                        assert desk.answer(person, Told(one.query.id, (1.0, 0.0), f"{person.id} {number}"), 1.0)
            except BaseException as fault:
                faults.append(fault)

        threads = [threading.Thread(target=judge, args=(person,)) for person in everybody]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert faults == []
        told = store.judgements(0)[0]
        assert Counter(Counter(one.query_id for one in told).values()) == {overlap: 60}
        assert len({(one.query_id, one.judge) for one in told}) == len(told)


def test_what_comes_back_while_people_answer_is_counted_right(where: str | Path, ask: Ask) -> None:
    """Whose time is over answers at the moment at which others are given the question, again and again."""
    crowd, rounds = 5, 40
    with Store.open(where) as store, ExitStack() as others:
        store.add_queries([ask(n) for n in range(20)])
        everybody = [join(store, f"p{k}") for k in range(crowd)]
        stores = [others.enter_context(Store.open(where)) for _ in everybody]
        faults: list[BaseException] = []

        def judge(me: int) -> None:
            desk, person, held = Desk(stores[me]), everybody[me], list[str]()
            try:
                for number in range(rounds):
                    held += [one.query.id for one in desk.take(person, 3, 2, float(number), 0.5)]
                    if held and number % 2:
                        one = held.pop(0)
                        with suppress(DataError):  # it came twice, since it had come back in between
                            desk.answer(person, Told(one, (1.0, 0.0), f"{person.id} {number}"), float(number))
            except BaseException as fault:
                faults.append(fault)

        threads = [threading.Thread(target=judge, args=(me,)) for me in range(crowd)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert faults == []
        table, claims = schema.queries, schema.claims
        with store.database.transaction("read") as connection:
            given = {row.id: row.given for row in connection.execute(select(table.c.id, table.c.given))}
            live = select(claims.c.query_id).where(claims.c.state != "returned")
            done = connection.execute(select(func.count()).where(claims.c.state == "done")).scalar_one()
            held = Counter(connection.execute(live).scalars())
        assert given == {one: held[one] for one in given}
        assert done == len(store.judgements(0)[0]) > 20


def test_an_answer_that_comes_while_its_question_is_given_back_is_in_time(
    postgres_url: str, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store.open(postgres_url) as store:
        store.add_queries([ask(0)])
        a, b, desk = join(store, "a"), join(store, "b"), Desk(store)
        desk.take(a, 1, 1, 0.0, 100.0)
        give_back = waiting._give_back

        def meanwhile(connection: Connection, over: Sequence[tuple[str, str]]) -> None:
            assert desk.answer(a, Told(ask(0).id, (1.0, 0.0), "e"), 200.0)
            give_back(connection, over)

        monkeypatch.setattr(waiting, "_give_back", meanwhile)
        assert desk.take(b, 1, 1, 200.0, 100.0) == []
        assert "late" not in store.judgements(0)[0][0].details
        assert desk.tally(a).done == {STUDY: 1}


def test_nobody_waits_for_the_disk_to_be_given_a_question(postgres_url: str, ask: Ask) -> None:
    with Store.open(postgres_url) as store, Store.open(postgres_url) as other:
        store.add_queries([ask(0)])
        a = join(store, "a")
        with store.database.transaction("durable"), ThreadPoolExecutor() as pool:  # somebody's answer is being written
            for desk in (Desk(store), Desk(other)):
                (held,) = pool.submit(desk.take, a, 1, 1, 0.0, 100.0).result(timeout=30)
                assert held.query.id == ask(0).id


def test_questions_are_read_ahead_of_who_is_given_them(store: Store, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    store.add_queries([ask(n) for n in range(AHEAD + 20)])
    read: list[list[str]] = []
    by_id = store.queries_by_id

    def noted(ids: Sequence[str]) -> dict[str, Query]:
        read.append(list(ids))
        return by_id(ids)

    monkeypatch.setattr(store, "queries_by_id", noted)
    desk, person = Desk(store), join(store, "a")
    for start in range(0, AHEAD, 3):
        held = desk.take(person, 3, 1, 0.0, 1000.0)
        assert [one.query for one in held] == [ask(n) for n in range(start, start + 3)]
        for one in held:
            desk.answer(person, Told(one.query.id, (1.0, 0.0), f"e{one.query.id}"), 0.0)
    assert [len(one) for one in read] == [3 + AHEAD]
    assert [one.query for one in desk.take(person, 6, 1, 0.0, 1000.0)] == [ask(n) for n in range(AHEAD, AHEAD + 6)]
    assert len(read) == 2 and len({one for part in read for one in part}) == sum(map(len, read)), "none twice"


def test_texts_too_long_to_keep_are_not_read_ahead_again_and_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def long(n: int) -> Query:
        return Query(tuple(Item(f"p{n}", f"{k} " * KEPT_LETTERS, {"n": [n, k]}) for k in (0, 1)), "Which?")

    store.add_queries([long(n) for n in range(12)])
    read: list[int] = []
    by_id = store.queries_by_id
    monkeypatch.setattr(store, "queries_by_id", lambda ids: read.append(len(ids)) or by_id(ids))
    desk = Desk(store)
    for name in "abc":
        assert len(desk.take(join(store, name), 2, 1, 0.0, 1000.0)) == 2
    assert read == [12, 2, 2]


def test_what_asks_for_more_than_a_choice_of_two_is_dealt_to_nobody(store: Store, ask: Ask) -> None:
    pair = ask(0)
    rated = Query(pair.items[:1], "How good is it?", kind="rate")
    store.add_queries([rated, pair])
    assert [held.query.id for held in Desk(store).take(join(store, "a"), 3, 1, 0.0, 100.0)] == [pair.id]


def test_what_others_began_is_finished_first(store: Store, ask: Ask) -> None:
    store.add_queries([ask(n) for n in range(5)])
    a, b = join(store, "a"), join(store, "b")
    desk = Desk(store)
    for one in desk.take(a, 2, 2, 0.0, 100.0):
        desk.answer(a, Told(one.query.id, (1.0, 0.0), f"e{one.query.id}"), 0.0)
    assert [one.query.id for one in desk.take(b, 3, 2, 0.0, 100.0)] == [ask(0).id, ask(1).id, ask(2).id]


def test_what_most_others_have_comes_first_however_many_are_asked(store: Store, ask: Ask) -> None:
    """More people a question than one look goes through."""
    store.add_queries([ask(n) for n in range(4)])
    crowd = [join(store, f"p{n}") for n in range(8)]
    desk, overlap = Desk(store), 2 * LEVELS
    for number, many in ((3, 7), (2, 5), (1, 1)):
        for person in crowd[:many]:
            assert desk.deal(person, ask(number).id, STUDY, 0.0, 100.0)
    assert [one.query.id for one in desk.take(crowd[-1], 9, overlap, 1.0, 100.0)] == [ask(n).id for n in (3, 2, 1, 0)]
    assert ask(3).id not in {one.query.id for one in desk.take(join(store, "late"), 9, overlap, 1.0, 100.0)}


def test_what_is_over_is_free_at_the_same_look_and_may_come_back_to_whom_had_it(store: Store, ask: Ask) -> None:
    store.add_queries([ask(0)])
    a, b, desk = join(store, "a"), join(store, "b"), Desk(store)
    assert len(desk.take(a, 1, 1, 0.0, 100.0)) == 1 and desk.take(b, 1, 1, 100.0, 100.0) == []
    assert len(desk.take(b, 1, 1, 101.0, 100.0)) == 1 and desk.take(a, 1, 1, 101.0, 100.0) == []
    assert len(desk.take(a, 1, 1, 202.0, 100.0)) == 1 and desk.tally(a) == Tally({}, {STUDY: 1})
    assert desk.tally(b) == Tally({}, {})


def test_known_questions_are_dealt_and_never_taken(store: Store, ask: Ask) -> None:
    book, desk, a = StudyBook(store), Desk(store), join(store, "a")
    assert book.add_known([Known(ask(n), (1.0, 0.0), "why") for n in range(3)]) == 3
    assert book.add_known([Known(ask(0), (1.0, 0.0), "why")]) == 0
    assert desk.take(a, 3, 5, 0.0, 100.0) == []
    first = desk.unseen_known(a, 1)[0]
    assert desk.deal(a, first, GOLD, 0.0, 100.0) and not desk.deal(a, first, GOLD, 0.0, 100.0)
    (held,) = desk.take(a, 3, 5, 0.0, 100.0)
    assert (held.query.id, held.purpose) == (first, GOLD)
    assert len(desk.unseen_known(a, 9)) == 2 and len(desk.unseen_known(join(store, "b"), 9)) == 3
    with pytest.raises(DataError, match="3 shares for 2 items"):
        book.add_known([Known(ask(9), (1.0, 0.0, 0.0), "")])


def test_taking_back_twice_and_what_stands(store: Store, ask: Ask) -> None:
    store.add_queries([ask(0)])
    a, desk = join(store, "a"), Desk(store)
    desk.take(a, 1, 1, 0.0, 100.0)
    for number, answer in enumerate(((1.0, 0.0), (0.0, 1.0), (0.5, 0.5))):
        assert desk.answer(a, Told(ask(0).id, answer, f"e{number}"), float(number))
        if number < 2:
            assert desk.take_back(a, f"u{number}", float(number), 10.0, 60.0) == ask(0)
    assert desk.take_back(a, "late", 100.0, 10.0, 60.0) is None
    assert len(store.judgements(0)[0]) == 5
    assert [one.answer for one in standing(store.judgements(0)[0])] == [(0.5, 0.5)]
    assert [one.answer for one in desk.said(a)] == [(0.5, 0.5)]
    assert desk.tally(a) == Tally({"study": 1}, {})


def test_settings_survive_and_unknown_ones_of_a_later_version_do_no_harm(store: Store) -> None:
    book = StudyBook(store)
    assert book.settings() == Study()
    study = Study(axes=("a", "b"), overlap=3, scale="seven")
    book.change(study, "owner", 0.0)
    assert book.settings() == study
    book.write("settings", '{"overlap": 2, "of_a_later_version": 1}', "owner", 1.0)
    assert book.settings() == Study(overlap=2)


def test_nobody_has_an_unknown_id(store: Store) -> None:
    with pytest.raises(StoreError, match="nobody here"):
        People(store).person("x")


def test_media_are_kept_once(store: Store) -> None:
    store.add_media("i", "video/mp4", b"\x00film")
    store.add_media("i", "video/mp4", b"another")
    assert store.media("i") == ("video/mp4", b"\x00film") and store.has_media("i")
    assert store.media("j") is None and not store.has_media("j")


def test_who_gives_back_never_waits_for_a_claim_with_a_question_in_hand(store: Store, ask: Ask) -> None:
    """Whoever answers goes from the claim to the question; were a deal to go the other way, each could wait for the other."""
    store.add_queries([ask(n) for n in range(3)])
    desk, ann, bob = Desk(store), join(store, "ann"), join(store, "bob")
    assert len(desk.take(bob, 1, 2, 0.0, 10.0)) == 1 and len(desk.take(ann, 1, 2, 20.0, 100.0)) == 1
    told: list[str] = []

    def note(connection: Connection, cursor: object, statement: str, *_: object) -> None:
        told.append(" ".join(statement.split()))

    event.listen(store.database._engine, "before_cursor_execute", note)
    assert len(desk.take(bob, 1, 2, 5.0, 10.0)) == 1
    told.clear()
    held = desk.take(ann, 2, 2, 40.0, 100.0)
    event.remove(store.database._engine, "before_cursor_execute", note)
    assert len(held) == 2
    order = [one.split(" SET ")[0] for one in told if one.startswith("UPDATE")]
    assert order == ["UPDATE claims", "UPDATE claims", "UPDATE queries", "UPDATE queries"], told
