"""What goes into the store comes out again, asked once, told once, in order, on SQLite and on PostgreSQL."""

from __future__ import annotations

import itertools
import json
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backflip.data import Aid, Item, Judgement, Query
from backflip.errors import ConfigError, DataError, StoreError
from backflip.store import Store
from backflip.store import store as store_module

Ask = Callable[..., Query]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["\x00", "\\0", "\\\x00\\\\", "'; --"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda part: st.lists(part, max_size=3) | st.dictionaries(TEXT, part, max_size=3),
    max_leaves=6,
)
ITEMS = st.builds(Item, TEXT, TEXT, st.dictionaries(TEXT, JSON, max_size=3), TEXT, st.sampled_from(["text", "clip"]))
AIDS = st.builds(Aid, TEXT, TEXT, st.none() | st.just("0" * 32))
QUERIES = st.builds(
    Query,
    st.lists(ITEMS, max_size=3).map(tuple),
    TEXT,
    st.sampled_from(["compare", "rate", "rank", "write"]),
    st.lists(AIDS, max_size=2).map(tuple),
    TEXT,
    st.integers(0, 100),
    st.permutations([0, 1]).map(tuple),
    TEXT,
)
NUMBERS = itertools.count()
ANSWERS = st.none() | st.sampled_from([(1.0, 0.0), (0.5, 0.5), (0.1, 0.9), (0.3,), (1 / 3, 1 / 3, 1 / 3)])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    query=QUERIES, answer=ANSWERS, text=TEXT, number=st.floats(0, 1e12), details=st.dictionaries(TEXT, JSON, max_size=2)
)
def test_any_query_and_judgement_come_back_equal(
    store: Store, query: Query, answer: Any, text: str, number: float, details: dict[str, Any]
) -> None:
    _, cursor = store.judgements()
    # what is no part of the id (order, reason) stays as first stored, so every example asks a question of its own
    query = replace(query, question=f"{next(NUMBERS)} {query.question}")
    store.add_queries([query])
    back = store.query(query.id)
    assert back == query and back.id == query.id
    assert store.items([item.id for item in query.items]) == list(query.items)
    told = Judgement(query.id, text, answer, text, number, number, None if number > 1e9 else number, details)
    store.add_judgements([told])
    new, _ = store.judgements(cursor)
    assert new == [told]


def test_equal_items_are_stored_once(store: Store, ask: Ask) -> None:
    items = [*ask(1).items, *ask(1).items, *ask(2).items]
    assert store.add_items(items) == 4 and store.add_items(items) == 0
    assert store.items([items[3].id, items[0].id, items[3].id]) == [items[3], items[0], items[3]]
    with pytest.raises(StoreError, match=f"1 items are not in the store, e.g. {'f' * 32}"):
        store.items([items[0].id, "f" * 32])


def test_asking_is_idempotent(store: Store, ask: Ask) -> None:
    queries = [ask(n, (Aid("critic", "look"),)) for n in range(5)]
    assert store.add_queries([*queries, queries[0]]) == 5
    before = store.queries()
    assert store.add_queries(reversed(queries)) == 0
    assert store.queries() == before and before[0] == queries


def test_the_place_in_which_items_are_shown_does_not_make_another_query(store: Store, ask: Ask) -> None:
    query = ask(1)
    assert store.add_queries([query]) == 1 and store.add_queries([replace(query, order=(0, 1))]) == 0
    assert store.query(query.id).order == (1, 0), "the order first drawn stays"


def test_a_query_goes_through_its_states(store: Store, ask: Ask) -> None:
    waiting, asked, late = ask(1), ask(2), ask(3)
    store.add_queries([waiting], state="waiting for aid")
    store.add_queries([asked, late])
    assert store.states([waiting.id, asked.id, "0" * 32]) == {waiting.id: "waiting for aid", asked.id: "open"}
    assert store.queries("open")[0] == [asked, late]
    store.add_queries([waiting])
    assert store.states([waiting.id])[waiting.id] == "open"
    store.add_judgements([Judgement(asked.id, "me", None, "skipped")])
    assert store.states([asked.id])[asked.id] == "answered", "could not judge is an answer, not an open question"
    store.add_queries([asked])
    assert store.states([asked.id])[asked.id] == "answered", "what was answered is not asked again"
    assert store.expire([waiting.id, asked.id, late.id]) == 2
    store.add_queries([waiting])
    assert store.states([waiting.id])[waiting.id] == "open"
    store.add_judgements([Judgement(late.id, "me", (1.0, 0.0))])
    assert store.states([late.id])[late.id] == "answered", "a late answer counts"
    found = store.counts()
    assert (found["open"], found["answered"], found["expired"], found["waiting for aid"]) == (1, 2, 0, 0)
    assert (found["queries"], found["items"], found["judgements"], found["could_not_judge"]) == (3, 6, 2, 1)
    with pytest.raises(ConfigError, match="no query is ever 'closed'"):
        store.queries("closed")  # type: ignore[arg-type]


def test_pages_hold_every_query_once(store: Store, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "PAGE", 3)
    queries = [ask(n, (Aid("critic", str(n)),) * (n % 3)) for n in range(10)]
    store.add_queries(queries)
    found, cursor = [], 0
    while (page := store.queries(after=cursor, limit=4))[0]:
        assert len(page[0]) <= 4
        found, cursor = found + page[0], page[1]
    assert found == queries and store.queries(after=cursor) == ([], cursor)
    assert store.queries_by_id([query.id for query in queries] + ["0" * 32]) == {query.id: query for query in queries}
    with pytest.raises(StoreError, match="never asked"):
        store.query("0" * 32)


def test_judgements_are_events_behind_a_cursor(store: Store, ask: Ask) -> None:
    queries = [ask(n) for n in range(4)]
    store.add_queries(queries)
    told = [Judgement(query.id, "me", (1.0, 0.0), created=float(n)) for n, query in enumerate(queries)]
    cursor = store.add_judgements(told[:2])
    assert store.judgements() == (told[:2], cursor)
    assert store.add_judgements(told[:2]) == cursor, "the same event told twice is one event"
    assert store.judgements(cursor) == ([], cursor)
    store.add_judgements([told[2], replace(told[0], answer=(0.0, 1.0), created=9.0)])
    later, end = store.judgements(cursor)
    assert [one.query_id for one in later] == [queries[2].id, queries[0].id], "a changed mind is a new event"
    first, middle = store.judgements(0, limit=1)
    rest, last = store.judgements(middle)
    assert first + rest == told[:2] + later and last == end


def test_judgements_are_all_recorded_or_none(store: Store, ask: Ask) -> None:
    query = ask(1)
    store.add_queries([query])
    with pytest.raises(StoreError, match="never asked here, e.g. " + ask(2).id):
        store.add_judgements([Judgement(query.id, "me", (1.0, 0.0)), Judgement(ask(2).id, "me", (1.0, 0.0))])
    with pytest.raises(DataError, match="judgement by me"):
        store.add_judgements(
            [Judgement(query.id, "me", (1.0, 0.0)), Judgement(query.id, "me", None, seconds=float("nan"))]
        )
    assert store.judgements() == ([], 0) and store.states([query.id])[query.id] == "open"


def test_events_become_visible_in_the_order_of_their_numbers(store: Store, ask: Ask) -> None:
    """Else a reader's cursor would pass an event whose writer is slow to commit."""
    queries = [ask(1), ask(2)]
    store.add_queries(queries)
    slow, fast = (Judgement(query.id, "me", (1.0, 0.0)) for query in queries)
    other = threading.Thread(target=lambda: store.add_judgements([fast]))
    with store._database.transaction("durable") as connection:
        store_module._add_judgements(connection, [slow])
        other.start()
        time.sleep(0.3)
        assert store.judgements() == ([], 0), "the later event must wait for the earlier one"
    other.join()
    assert store.judgements()[0] == [slow, fast]


def test_waiting_ends_with_the_first_judgement(store: Store, ask: Ask) -> None:
    query = ask(1)
    store.add_queries([query])
    assert store.judgements(0, wait=0.05) == ([], 0)
    told = Judgement(query.id, "me", (1.0, 0.0))
    later = threading.Timer(0.2, lambda: store.add_judgements([told]))
    later.start()
    assert store.judgements(0, wait=60)[0] == [told]
    later.join()


@pytest.mark.parametrize("bad", [{"x": float("nan")}, {"x": object()}, {"x": {1, 2}}])
def test_what_is_no_json_is_refused(store: Store, bad: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="payload of an item"):
        store.add_items(
            [Item("p", "a", bad)] if "object" not in repr(bad) and "{1" not in repr(bad) else [_Loose("p", "a", bad)]
        )
    with pytest.raises(DataError, match="Unicode"):
        store.add_items([Item("p", "\ud800", {})])
    assert store.counts()["items"] == 0


class _Loose(Item):
    """An item whose id does not look at its payload, which is no JSON."""

    @property
    def id(self) -> str:
        return "0" * 32


def test_truth_is_kept_by_name(store: Store) -> None:
    store.add_truth("gold", {"a" * 32: [0.1, 1 / 3], "b" * 32: [-2.0]})
    store.add_truth("gold", {"a" * 32: [9.0]})
    store.add_truth("other", {"a" * 32: [5.0]})
    assert store.truth(["b" * 32, "a" * 32, "c" * 32], "gold") == {"a" * 32: [0.1, 1 / 3], "b" * 32: [-2.0]}
    assert store.truth(["a" * 32], "other") == {"a" * 32: [5.0]} and store.truth([], "gold") == {}
    with pytest.raises(DataError, match="truth 'gold'"):
        store.add_truth("gold", {"d" * 32: [float("inf")]})


def test_metrics_are_kept_by_run_and_cut_back(store: Store) -> None:
    rows = [{"step": n, "phase": "ppo", "seconds": n / 7, "loss": 1 / (n + 1)} for n in range(5)]
    cursor = store.add_metrics("one", rows[:3])
    store.add_metrics("two", rows[:1])
    store.add_metrics("one", rows[3:])
    assert store.metrics("one")[0] == rows and store.metrics("one", cursor)[0] == rows[3:]
    assert store.metrics("one", limit=2)[0] == rows[:2]
    store.keep_metrics("one", 2)
    assert store.metrics("one")[0] == rows[:2] and store.metrics("two")[0] == rows[:1]
    fresh = store.add_metrics("one", rows[2:3])
    assert fresh > cursor and store.metrics("one", cursor)[0] == rows[2:3], "a reader's cursor stays good after a cut"
    with pytest.raises(DataError, match="metric 'loss'"):
        store.add_metrics("one", [{"step": 1, "phase": "ppo", "seconds": 0.0, "loss": float("nan")}])


def test_threads_share_one_store(store: Store, ask: Ask) -> None:
    faults: list[BaseException] = []

    def work(k: int) -> None:
        try:
            for n in range(10):
                query = ask(100 * k + n)
                store.add_queries([query, ask(n)])
                store.add_judgements([Judgement(query.id, str(k), (1.0, 0.0))])
                store.queries(limit=5)
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults and store.counts()["judgements"] == 40 and store.counts()["queries"] == 50


WRITER = """
import sys, time
from pathlib import Path
from backflip.data import Item, Judgement, Query
from backflip.store import Store
where, me, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
ask = lambda n: Query(tuple(Item(f"p{n}", f"a{n}{k}", {}) for k in (0, 1)), "?")
with Store.open(where) as store:
    print("ready", flush=True)
    sys.stdin.readline()
    for n in range(count):
        shared, mine = ask(n), ask((me + 1) * 1000 + n)
        store.add_queries([shared, mine])
        store.add_judgements([Judgement(shared.id, str(me), (1.0, 0.0)), Judgement(mine.id, str(me), None)])
        store.add_metrics(str(me), [{"step": n, "phase": "p", "seconds": 0.0}])
"""


def test_two_processes_write_to_one_new_store_while_a_third_reads(where: str | Path) -> None:
    """Both create it at once; no event is lost or told twice, and a reader that follows the cursor misses none."""
    count = 40
    command = [sys.executable, "-c", WRITER, str(where)]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    writers: list[Any] = [subprocess.Popen([*command, str(me), str(count)], **pipes) for me in (0, 1)]
    try:
        for writer in writers:
            assert writer.stdout.readline() == "ready\n"
        for writer in writers:
            writer.stdin.write("\n")
            writer.stdin.flush()
        followed: list[Judgement] = []
        with Store.open(where, "read") as reader:
            cursor, running = 0, True
            while running:
                running = any(writer.poll() is None for writer in writers)
                told, cursor = reader.judgements(cursor)
                followed += told
            assert followed == reader.judgements()[0]
            found = reader.counts()
            assert len(reader.metrics("0")[0]) == len(reader.metrics("1")[0]) == count
        assert [writer.wait() for writer in writers] == [0, 0]
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()
    assert (found["judgements"], found["queries"], found["could_not_judge"]) == (4 * count, 3 * count, 2 * count)
    for me in "01":
        mine = [one for one in followed if one.judge == me]
        assert len({(one.query_id, one.answer) for one in mine}) == 2 * count


def test_a_forked_child_gets_connections_of_its_own(where: str | Path) -> None:
    script = """
import os, sys
from backflip.data import Item
from backflip.store import Store
with Store.open(sys.argv[1]) as store:
    store.add_items([Item("p", "parent", {})])
    child = os.fork()
    if child == 0:
        store.add_items([Item("p", "child", {})])
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    store.add_items([Item("p", "parent again", {})])
    print(store.counts()["items"])
"""
    done = subprocess.run([sys.executable, "-c", script, str(where)], capture_output=True, text=True)
    assert done.stdout == "3\n", done.stderr


def test_a_batch_is_imported_whole_or_not_at_all(store: Store, ask: Ask) -> None:
    def batches() -> Any:
        yield [ask(1)], [Judgement(ask(1).id, "me", (1.0, 0.0))]
        yield [ask(2)], [Judgement(ask(3).id, "me", (1.0, 0.0))]

    with pytest.raises(StoreError, match="never asked"):
        store.import_all(batches())
    assert set(store.counts().values()) == {0}
    assert store.import_all([([ask(1)], [Judgement(ask(1).id, "me", (1.0, 0.0))])] * 2) == (1, 1)


def test_rows_are_plain_json_in_the_database(tmp_path: Path) -> None:
    """Other programs can read the store: no pickles, no private encoding."""
    with Store.open(tmp_path / "store.sqlite") as store:
        store.add_items([Item("p", "a", {"tokens": [1, 2]})])
    connection = sqlite3.connect(tmp_path / "store.sqlite")
    payload = connection.execute("SELECT payload FROM items").fetchone()[0]
    connection.close()
    assert json.loads(payload) == {"tokens": [1, 2]}
