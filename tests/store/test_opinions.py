"""Where people agree and disagree, on both kinds of database; and what the new answers must not reach."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from backflip.data import Query
from backflip.errors import DataError
from backflip.overseers.people import PeopleOverseer
from backflip.run_again import Again, begin
from backflip.store import Store
from backflip.store.desk import ADJUDICATE, DISCUSSED, GOLD, KNOWN, OWN, PRACTICE, REPEAT, STUDY, TRIAL, Desk, Told
from backflip.store.interchange import export_pairs
from backflip.store.judged import judged_by_people, study_answers, study_counts
from backflip.store.opinions import SETTLED, agreed, divided, opinions_of, resting_on
from backflip.store.people import People, Person
from backflip.store.schema import STATES
from backflip.store.study import Known, StudyBook, asked_again

from .test_desk import join

Ask = Callable[..., Query]
FIRST, SECOND, TIE = (1.0, 0.0), (0.0, 1.0), (0.5, 0.5)


def say(store: Store, person: Person, query: Query, answer: tuple[float, ...] | None, purpose: str = STUDY) -> None:
    desk = Desk(store)
    if purpose in (ADJUDICATE, DISCUSSED, REPEAT, PRACTICE):
        assert desk.deal_own(person, query, purpose, 0.0, 1000.0)
    else:
        assert desk.deal(person, query.id, purpose, 0.0, 1000.0)
    assert desk.answer(person, Told(query.id, answer, f"{person.id} {query.id} {purpose}"), 1.0)


@pytest.fixture
def people(store: Store, ask: Ask) -> Mapping[str, Person]:
    """Three people who judged four pairs: at odds about the first, of one mind on the second, with a tie on the third and a
    "can't tell" on the fourth."""
    store.add_queries([ask(n) for n in range(4)])
    found = {name: join(store, name) for name in ("ann", "bob", "cy")}
    rows = [(FIRST, SECOND, (0.3, 0.7)), (SECOND, (0.1, 0.9), SECOND), (FIRST, FIRST, TIE), (FIRST, FIRST, None)]
    for n, answers in enumerate(rows):
        for person, answer in zip(found.values(), answers, strict=True):
            say(store, person, ask(n), answer)
    return found


def test_who_disagrees_and_who_agrees(store: Store, ask: Ask, people: Mapping[str, Person]) -> None:
    assert [one.query for one in divided(store)] == [ask(0)]
    assert [one.query for one in agreed(store)] == [ask(1)]
    (found,) = divided(store)
    assert [one.answer for one in found.alone] == [FIRST, SECOND, (0.3, 0.7)] and not found.blind + found.discussed
    assert found.own(people["ann"]) and not found.own(join(store, "dee"))
    assert opinions_of(store, "0" * 32) is None


def test_an_answer_taken_back_does_not_disagree(store: Store, ask: Ask) -> None:
    store.add_queries([ask(0)])
    ann, bob, desk = join(store, "ann"), join(store, "bob"), Desk(store)
    say(store, ann, ask(0), FIRST)
    say(store, bob, ask(0), SECOND)
    assert len(divided(store)) == 1
    assert desk.take_back(bob, "undo", 2.0, 10.0, 60.0) == ask(0)
    assert divided(store) == []


def test_checks_and_exercises_are_no_opinions(store: Store, ask: Ask) -> None:
    StudyBook(store).add_known([Known(ask(0), FIRST, "why")])
    for name, answer, purpose in (("ann", FIRST, GOLD), ("bob", SECOND, TRIAL), ("cy", SECOND, PRACTICE)):
        say(store, join(store, name), ask(0), answer, purpose)
    assert divided(store) == agreed(store) == []


def test_blind_and_discussed_answers_stand_beside_the_others(
    store: Store, ask: Ask, people: Mapping[str, Person]
) -> None:
    desk, dee = Desk(store), join(store, "dee")
    for purpose, who in ((ADJUDICATE, [dee]), (DISCUSSED, [people["ann"], dee])):
        query = asked_again(ask(0), purpose)
        for person in who:
            say(store, person, query, SECOND, purpose)
    assert desk.take(join(store, "eve"), 9, 9, 0.0, 10.0, [STUDY])[0].query.id in {ask(n).id for n in range(4)}
    (found,) = divided(store)
    assert [one.judge for one in found.blind] == [dee.judge] and len(found.discussed) == 2 and len(found.alone) == 3
    assert found.own(dee)
    assert desk.take_back(dee, "undo", 2.0, 10.0, 60.0) is None, "they have seen what others said"
    assert len(judged_by_people(store)) == 12, "what was said of a quarrel is not counted in anybody's quality"


def test_training_never_hears_checks_exercises_or_talks_by_the_questions_it_asked(
    store: Store, ask: Ask, people: Mapping[str, Person]
) -> None:
    """All answers pass through one door; a run takes those to the questions that it asked."""
    overseer, desk, book = PeopleOverseer(store, clock=lambda: 1e9), Desk(store), StudyBook(store)
    asked = {ask(n).id for n in range(4)}
    before = overseer.answers(0)[0]
    assert {one.query_id for one in before} == asked and {one.details["purpose"] for one in before} == {STUDY}
    book.make_known(Known(ask(1), SECOND, "all three"))
    (check,) = desk.unseen_known(join(store, "dee"), 9)
    assert desk.deal(join(store, "eve"), check, GOLD, 0.0, 10.0)
    book.add_known([Known(ask(9), FIRST, "why"), Known(ask(8), FIRST, "why", use="practice")])
    say(store, join(store, "fay"), store.query(check), SECOND, GOLD)
    say(store, people["ann"], ask(9), SECOND, GOLD)
    say(store, people["bob"], ask(9), SECOND, TRIAL)
    for purpose in (ADJUDICATE, DISCUSSED):
        query = asked_again(ask(0), purpose)
        say(store, join(store, purpose), query, SECOND, purpose)
    heard = overseer.answers(0)[0]
    assert len(heard) == 17, "they are there, and would be heard if they answered what was asked"
    assert [one for one in heard if one.query_id in asked] == before


def test_export_leaves_out_what_did_not_come_by_itself(store: Store, ask: Ask, tmp_path: Path) -> None:
    store.add_queries([ask(n) for n in range(7)])
    ann = join(store, "ann")
    for n, purpose in enumerate((STUDY, GOLD, REPEAT, TRIAL, PRACTICE, ADJUDICATE, DISCUSSED)):
        say(store, ann, ask(n), FIRST, purpose)
    done = export_pairs(store, tmp_path / "pairs.jsonl")
    assert (done.pairs, done.left_out) == (3, 4)


def test_only_the_studys_own_questions_and_answers_that_stand_are_counted(
    store: Store, ask: Ask, people: Mapping[str, Person]
) -> None:
    desk, dee = Desk(store), join(store, "dee")
    before = study_counts(store), study_answers(store, 0.0, 5.0)
    assert before == ({**dict.fromkeys(STATES, 0), "answered": 4, "judgements": 12, "could_not_judge": 1}, 12)
    for purpose in (ADJUDICATE, DISCUSSED, REPEAT, PRACTICE):
        query = asked_again(ask(0), purpose)
        say(store, dee, query, None, purpose)
    desk.withdraw(ask(0).id)
    StudyBook(store).add_known([Known(ask(9), FIRST, "why")])
    say(store, dee, ask(9), FIRST, GOLD)
    assert (study_counts(store), study_answers(store, 0.0, 5.0)) == before
    store.add_queries([ask(5)])
    say(store, dee, ask(5), None)
    assert study_counts(store)["could_not_judge"] == 2
    assert desk.take_back(dee, "undo", 2.0, 10.0, 60.0) is not None
    open_ = {**before[0], "open": 1}
    assert (study_counts(store), study_answers(store, 0.0, 5.0)) == (open_, 12), "what was taken back is open again"


def test_an_answer_made_known_is_held_against_others_alone(
    store: Store, ask: Ask, people: Mapping[str, Person]
) -> None:
    book, desk, dee = StudyBook(store), Desk(store), join(store, "dee")
    book.make_known(Known(ask(1), SECOND, "all three"))
    with pytest.raises(DataError, match="known already"):
        book.make_known(Known(ask(1), FIRST, "or not"))
    (known,) = book.known()
    assert known.query.items == ask(1).items and known.query.id != ask(1).id and known.answer == SECOND
    assert agreed(store) == [] and desk.unseen_known(dee, 9) == [known.query.id]
    assert desk.unseen_known(people["ann"], 9) == [] and desk.tally(people["ann"]).done == {STUDY: 4, OWN: 1}
    assert ask(1).id not in {one.query.id for one in desk.take(dee, 9, 9, 0.0, 10.0)}
    say(store, dee, known.query, FIRST, GOLD)
    checked = [one.judgement.judge for one in judged_by_people(store) if one.known is not None]
    assert checked == [dee.judge], "whoever's agreement made it known would always be right"


def test_what_is_known_because_of_somebody(store: Store, ask: Ask, people: Mapping[str, Person]) -> None:
    book, dee = StudyBook(store), join(store, "dee")
    book.add_known([Known(ask(9), FIRST, "from a file")])
    for n in (0, 1):
        book.make_known(Known(ask(n), SECOND, "a quarrel, and what three agreed on"))
    quarrel, three = (asked_again(ask(n), KNOWN).id for n in (0, 1))
    assert resting_on(store, [people["ann"].judge]) == {quarrel, three}
    assert resting_on(store, [dee.judge]) == resting_on(store, []) == set()
    say(store, dee, ask(1), SECOND)
    assert resting_on(store, [people["ann"].judge]) == {quarrel}, "three others still agree"
    assert resting_on(store, [people["ann"].judge, people["bob"].judge]) == {quarrel, three}
    People(store).note_act(dee.id, SETTLED, {"query": three}, 2.0)
    assert resting_on(store, [dee.judge]) == {three}


def test_trained_again_without_somebody_what_rested_on_them_is_not_known(
    store: Store, ask: Ask, people: Mapping[str, Person], tmp_path: Path
) -> None:
    book, notes = StudyBook(store), list[str]()
    book.add_known([Known(ask(9), FIRST, "from a file")])
    book.make_known(Known(ask(1), SECOND, "all three"))
    asked = tuple(ask(n).id for n in range(4))
    for without in ((), (people["ann"].judge,)):
        folder = tmp_path / str(len(without))
        folder.mkdir()
        again = Again("id", "run", asked, (0,) * 4, 1, (), without, 12, 0, 0, {})
        with Store.open(folder / "store.sqlite") as copy:
            run: Any = SimpleNamespace(path=folder, store=copy, note=notes.append)
            record: Any = SimpleNamespace(path=folder, command={"store": store.database.url.render_as_string(False)})
            begin(run, record, again)
            assert len(StudyBook(copy).known()) == (1 if without else 2)
    assert "known" not in notes[0] and notes[1].endswith("are not known here: 1")


def test_who_may_still_be_asked(store: Store, ask: Ask, people: Mapping[str, Person]) -> None:
    desk, dee = Desk(store), join(store, "dee")
    ids = [ask(n).id for n in range(4)]
    assert desk.yet_to_come(dee, ids, 3) == set()
    assert desk.yet_to_come(dee, ids, 4) == set(ids) and desk.yet_to_come(people["ann"], ids, 4) == set()
    desk.withdraw(ids[0])
    assert desk.yet_to_come(dee, ids, 4) == set(ids[1:])
    desk.deal(dee, ids[1], STUDY, 0.0, 10.0)
    assert desk.yet_to_come(dee, ids, 3) == {ids[1]}, "they hold it"


def test_a_pair_left_lying_comes_back_to_whom_it_was_dealt(store: Store, ask: Ask) -> None:
    """A trial of as many pairs as are known can be finished by somebody who went away in the middle."""
    StudyBook(store).add_known([Known(ask(0), FIRST, "why")])
    ann, desk = join(store, "ann"), Desk(store)
    assert desk.deal(ann, ask(0).id, TRIAL, 0.0, 10.0) and not desk.deal(ann, ask(0).id, TRIAL, 0.0, 10.0)
    assert desk.take(ann, 1, 0, 11.0, 10.0) == [] and desk.unseen_known(ann, 9) == [ask(0).id]
    assert desk.deal(ann, ask(0).id, TRIAL, 11.0, 10.0)
    assert [one.purpose for one in desk.take(ann, 1, 0, 12.0, 10.0)] == [TRIAL]
