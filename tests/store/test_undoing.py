"""What is taken back stays taken back: for training, for export, for counts, after an erasure, and for who comes next."""

from __future__ import annotations

from pathlib import Path

import pytest

from backflip.data import Judgement
from backflip.errors import DataError
from backflip.overseers.people import GRACE_SECONDS, PeopleOverseer
from backflip.store import Store
from backflip.store.desk import STUDY, Desk, Told, standing
from backflip.store.interchange import export_pairs
from backflip.store.lineage import Lineage, judgement_id
from backflip.store.people import People
from backflip.store.study import StudyBook

from .test_desk import Ask, join

FIRST, SECOND = (1.0, 0.0), (0.0, 1.0)


def corrected(store: Store, ask: Ask) -> tuple[Desk, People, str]:
    """Ann answers, takes it back, and answers the other way."""
    desk, ann, query = Desk(store), join(store, "ann"), ask(0)
    store.add_queries([query])
    desk.deal(ann, query.id, STUDY, 0.0, 100.0)
    desk.answer(ann, Told(query.id, FIRST, "1" * 16, details={"comment": "her words"}), 1.0)
    assert desk.take_back(ann, "2" * 16, 2.0, 30.0, 60.0) is not None
    desk.answer(ann, Told(query.id, SECOND, "3" * 16, details={"comment": "more words"}), 3.0)
    return desk, People(store), ann.id


def test_an_erased_person_s_answers_stand_as_before_and_keep_their_ids(store: Store, ask: Ask) -> None:
    _, people, ann = corrected(store, ask)
    before = [key for _, key, _ in store.judgement_events()]
    model = Lineage(store).add_reward("run", "reward", standing(store.judgements(0)[0]), 4.0)
    people.erase(ann)
    assert [one.answer for one in standing(store.judgements(0)[0])] == [SECOND]
    heard = PeopleOverseer(store, clock=lambda: 1e6).answers(0)[0]
    assert [one.answer for one in heard] == [SECOND] and "words" not in str(store.judgements(0)[0])
    assert [judgement_id(one) for one in store.judgements(0)[0]] == before
    assert Lineage(store).teachers_of(model) == [judgement_id(one) for one in heard]


def test_export_and_counts_leave_out_what_was_taken_back(store: Store, ask: Ask, tmp_path: Path) -> None:
    corrected(store, ask)
    done = export_pairs(store, tmp_path / "pairs.jsonl")
    assert (done.pairs, done.could_not_judge) == (1, 0) and len(
        (tmp_path / "pairs.jsonl").read_text().splitlines()
    ) == 1
    assert store.counts()["could_not_judge"] == 0


def test_who_takes_back_and_leaves_leaves_the_pair_to_others(store: Store, ask: Ask) -> None:
    desk, ann, bob, query = Desk(store), join(store, "ann"), join(store, "bob"), ask(0)
    store.add_queries([query])
    desk.deal(ann, query.id, STUDY, 0.0, 100.0)
    desk.answer(ann, Told(query.id, FIRST, "1" * 16), 1.0)
    desk.take_back(ann, "2" * 16, 90.0, 100.0, 60.0)
    assert store.states([query.id]) == {query.id: "open"}
    assert desk.take(bob, 1, 1, 149.0, 100.0) == [], "held anew from when it was taken back"
    assert [held.query.id for held in desk.take(bob, 1, 1, 10_000.0, 100.0)] == [query.id]


def test_training_hears_nothing_that_can_still_be_taken_back(store: Store, ask: Ask) -> None:
    desk, ann = Desk(store), join(store, "ann")
    queries = [ask(n) for n in range(2)]
    store.add_queries(queries)
    for n, query in enumerate(queries):
        desk.deal(ann, query.id, STUDY, 0.0, 100.0)
        desk.answer(ann, Told(query.id, FIRST, f"{n}" * 16), 1.0 + n)
    overseer = PeopleOverseer(store, clock=lambda: 3.0)
    heard, cursor = overseer.answers(0)
    assert [one.query_id for one in heard] == [queries[0].id]
    assert desk.take_back(ann, "a" * 16, 3.0, 30.0, 60.0) is not None
    assert desk.take_back(ann, "b" * 16, 3.0, 30.0, 60.0) is None, "the one before was heard: it stands"
    late = PeopleOverseer(store, clock=lambda: 1e6)
    assert [one.query_id for one in late.answers(0)[0]] == [queries[0].id] and late.answers(cursor)[0] == []


def test_the_last_answer_is_kept_back_a_little_longer_than_it_can_be_undone(store: Store, ask: Ask) -> None:
    desk, ann, query = Desk(store), join(store, "ann"), ask(0)
    store.add_queries([query])
    desk.deal(ann, query.id, STUDY, 0.0, 100.0)
    desk.answer(ann, Told(query.id, FIRST, "1" * 16), 10.0)
    limit = 10.0 + StudyBook(store).settings().undo_seconds
    for now, heard in ((limit + GRACE_SECONDS / 2, 0), (limit + GRACE_SECONDS, 1)):
        assert len(PeopleOverseer(store, clock=lambda now=now: now).answers(0)[0]) == heard


def test_whoever_was_erased_meanwhile_records_nothing(store: Store, ask: Ask) -> None:
    desk, ann, query = Desk(store), join(store, "ann"), ask(0)
    store.add_queries([query])
    desk.deal(ann, query.id, STUDY, 0.0, 100.0)
    People(store).erase(ann.id)
    with pytest.raises(DataError, match="erased"):
        desk.answer(ann, Told(query.id, FIRST, "1" * 16, details={"comment": "my words"}), 1.0)
    assert store.counts()["judgements"] == 0


def test_a_judgement_made_anew_has_the_hash_of_what_it_says() -> None:
    one = Judgement("q" * 32, "person:x", FIRST)
    assert one.stored_id == "" and len(judgement_id(one)) == 32
