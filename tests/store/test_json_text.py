"""Whatever somebody writes into a column of JSON, no statement fails for it: not then, and not where an earlier version wrote it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import insert, select, text

from backflip.data import Item, Judgement, Query
from backflip.errors import DataError
from backflip.store import Store, schema
from backflip.store.desk import STUDY, Desk, Told, standing
from backflip.store.json_text import MARK, read_from_postgres, readable, written_for_postgres
from backflip.store.judged import study_answers, study_counts
from backflip.store.people import CONSENT, People
from backflip.store.records import UNDONE

from .test_desk import Ask, join

ODD = ["a\x00b", f"{MARK}0{MARK}1{MARK}", "\\u0000", "\\\x00\\\\u0000\\", "\U0001f600 \\ud83d"]
EARLIER = r'{"comment": "a\u0000b \\u0000 \\\u0000 \ud83d\ude00 \ud83d", "event": "%s", "version": 0}'
"""Details as a version before this one wrote them, with a NUL and half a character."""


@given(
    st.recursive(st.text(f"a\\u0\x00{MARK}1"), lambda inner: st.lists(inner) | st.dictionaries(st.text("\x00a"), inner))
)
def test_postgres_never_holds_a_nul_and_nothing_is_lost(value: Any) -> None:
    said = written_for_postgres(value)
    assert "\\u0000" not in said.replace("\\\\", "")
    assert read_from_postgres(said) == read_from_postgres(said.encode()) == value


@pytest.mark.parametrize("word", ODD)
def test_every_json_column_keeps_every_word_and_can_be_looked_into(store: Store, ask: Ask, word: str) -> None:
    said = {"event": "e", "comment": word, word: [word, {word: word}]}
    people, ann, pair = People(store), join(store, "ann"), tuple(Item("p", f"a{k}", dict(said)) for k in (0, 1))
    query = Query(pair, "Which is better?")
    store.add_queries([query])
    store.add_judgements([Judgement(query.id, ann.judge, (1.0, 0.0), details=said)])
    people.note_act(ann.id, "talk note", said, 1.0)
    store.add_metrics("run", [{"step": 0, "phase": "p", "seconds": 0.0, word: 1.0}])
    assert store.items([pair[0].id])[0].payload == said
    assert store.judgements(0)[0][0].details == said
    assert people.acts(ann.id, "talk note") == [{"created": 1.0, **said}]
    assert store.metrics("run", 0)[0][0][word] == 1.0
    columns = [(t, c) for t in schema.metadata.sorted_tables for c in t.columns if str(c.type) == "JSON"]
    assert len(columns) == 9
    with store.database.transaction("read") as connection:
        for table, column in columns:  # without the care for what an earlier version wrote
            connection.execute(select(column["event"].as_string()).select_from(table)).all()
    assert study_counts(store)["judgements"] == 1


def test_half_a_character_is_refused_in_one_line_and_nothing_is_written(store: Store, ask: Ask) -> None:
    ann = join(store, "ann")
    for word in ("\ud800", "a\udfffb"):
        for said in ({"comment": word}, {word: 1}):
            with pytest.raises(DataError, match="no valid Unicode"):
                People(store).note_act(ann.id, "talk note", said, 1.0)
            with pytest.raises(DataError, match="no valid Unicode"):
                store.add_metrics("run", [{"step": 0, "phase": "p", "seconds": 0.0, word: 1.0}])
            with pytest.raises(DataError, match="no valid Unicode"):
                store.add_items([Item("p", "a", said)])
    assert not People(store).acts(ann.id, "talk note") and not store.metrics("run", 0)[0]


def test_a_store_that_holds_a_nul_already_is_read_and_worked_on(store: Store, ask: Ask) -> None:
    """What `backflip` wrote before it minded: statements that look into such a row failed for everybody."""
    desk, people, ann, first, second = Desk(store), People(store), join(store, "ann"), ask(0), ask(1)
    store.add_queries([first, second])
    desk.deal(ann, first.id, STUDY, 0.0, 100.0)
    desk.answer(ann, Told(first.id, (1.0, 0.0), "1" * 16), 1.0)
    for kind in (CONSENT, UNDONE, "talk note"):
        people.note_act(ann.id, kind, {}, 1.0)
    with store.database.transaction("durable") as connection:
        for table in ("judgements", "acts"):
            connection.execute(text(f"UPDATE {table} SET details = '{EARLIER % ('5' * 16)}'".replace(":", r"\:")))
        row = {"id": "undo", "query_id": first.id, "judge": ann.judge, "note": UNDONE, "strength": 1.0, "created": 1.0}
        connection.execute(insert(schema.judgements), {**row, "details": {}})
        undo = '{"undoes": "x", "comment": "\\u0000"}'.replace(":", r"\:")
        connection.execute(text(f"UPDATE judgements SET details = '{undo}' WHERE id = 'undo'"))
    assert study_counts(store)["judgements"] == study_answers(store, 0.0, 2.0) == 1
    assert standing(store.judgements(0)[0])[0].details["comment"].startswith("a\x00b \\u0000 \\\x00 \U0001f600")
    session = people.session(people.sign_in(ann, 1.0, 1.0), 2.0)
    assert session is not None and session.agreed
    desk.deal(ann, second.id, STUDY, 0.0, 100.0)
    assert not desk.answer(ann, Told(second.id, (1.0, 0.0), "5" * 16), 3.0), "taken back before it came"
    assert desk.answer(ann, Told(second.id, (1.0, 0.0), "6" * 16), 3.0)
    assert desk.take_back(ann, "7" * 16, 4.0, 30.0, 60.0) is not None
    assert study_counts(store)["judgements"] == 1
    with store.database.transaction("read") as connection:
        column = schema.judgements.c.details
        found = connection.execute(select(readable(column)["comment"].as_string()).where(column.is_not(None))).all()
    assert any((one[0] or "").startswith("a") for one in found)
    people.erase(ann.id)
    assert "a\x00b" not in str(store.judgements(0)[0])
