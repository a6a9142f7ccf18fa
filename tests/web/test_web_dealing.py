"""How often silent checks and repetitions come: as the study says, however many pairs a page asks for at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from backflip.store.desk import GOLD, REPEAT, STUDY, Held, Told
from backflip.store.people import Person
from backflip.store.study import Known, Study
from backflip.web import dealing

from .conftest import Site, pair

PLACES = 300
MIXED = Study(gold_share=0.25, repeat_share=0.2)


@pytest.fixture
def ann(site: Site, monkeypatch: pytest.MonkeyPatch) -> Person:
    """A person whose draws are the same in every run of the tests."""
    monkeypatch.setattr("backflip.store.people.secrets.token_hex", lambda _: "00000000000000a1")
    return site.come("Ann").person


def ask(site: Site, ann: Person, study: Study, count: int) -> list[Held]:
    place = site.app.state.place
    return dealing.next_for(place, ann, study, place.desk.tally(ann, site.clock()), count)


def judge(site: Site, ann: Person, held: Held) -> None:
    told = Told(held.query.id, (1.0, 0.0), f"event {site.clock.now}")
    assert site.app.state.place.desk.answer(ann, told, site.clock())
    site.clock.now += 1


@pytest.mark.parametrize(("count", "answered"), [(1, 1), (3, 2), (4, 4), (4, 3)])
def test_checks_come_as_often_as_the_study_says(
    site: Site, ann: Person, known: Callable[[int], list[Known]], count: int, answered: int
) -> None:
    site.store.add_queries([pair(n) for n in range(1000, 1000 + PLACES)])
    site.book.add_known(known(PLACES // 2))
    purposes: list[str] = []
    while len(purposes) < PLACES:
        held = ask(site, ann, MIXED, count)
        assert len(held) == count
        for one in held[:answered]:
            judge(site, ann, one)
            purposes.append(one.purpose)
    early = 4 * (dealing.AGO + 1)  # no pair can come again before some have come
    for purpose, share, places in ((GOLD, 0.25, PLACES), (REPEAT, 0.2, PLACES - early)):
        # Draws are the same every time; and were they not, they would go beyond this less than once in a million.
        reach = 5 * math.sqrt(share * (1 - share) / places)
        assert abs(purposes[PLACES - places :].count(purpose) / places - share) < reach


def test_what_was_drawn_for_a_place_does_not_hang_on_how_many_are_asked_for(
    site: Site, ann: Person, known: Callable[[int], list[Known]]
) -> None:
    """The page asks for three, for one more while answers are on their way, once more after a reload: the checks are those drawn."""
    site.store.add_queries([pair(n) for n in range(1000, 1100)])
    site.book.add_known(known(40))
    study = Study(gold_share=0.3, repeat_share=0.0)
    done: list[str] = []
    for count in (3, 4, 1, 8, 3, 2, 6, 3) * 4:
        held = ask(site, ann, study, count)
        again = ask(site, ann, study, count)
        assert again == held, "a reload draws nothing, and changes nothing that would show which pair is a check"
        judge(site, ann, held[0])
        done.append(held[0].purpose)
    tally = site.app.state.place.desk.tally(ann)
    drawn = [dealing._wanted(ann, study, number) for number in range(tally.came + tally.before)]
    assert tally.done[GOLD] + tally.held.get(GOLD, 0) == drawn.count(GOLD)
    assert len(done) == tally.came and done.count(GOLD) > 0


def test_a_place_whose_check_is_missing_goes_to_the_study(site: Site, ann: Person) -> None:
    held = ask(site, ann, Study(gold_share=0.3, repeat_share=0.2), 8)
    assert [one.purpose for one in held] == [STUDY] * 8


def test_where_the_study_has_nothing_left_no_check_comes_out_of_turn(
    site: Site, ann: Person, known: Callable[[int], list[Known]]
) -> None:
    site.book.add_known(known(60))
    study = Study(gold_share=0.4, repeat_share=0.0)
    purposes: list[str] = []
    while held := ask(site, ann, study, 4):
        judge(site, ann, held[0])
        purposes.append(held[0].purpose)
    drawn = [dealing._wanted(ann, study, number) for number in range(100)]
    tenth = [number for number, purpose in enumerate(drawn) if purpose == STUDY][10]
    assert purposes.count(STUDY) == 10 and len(purposes) == tenth, "up to the place of the eleventh, which there is not"


def test_a_pair_comes_again_once_and_then_another_one(site: Site, ann: Person) -> None:
    site.store.add_queries([pair(n) for n in range(1000, 1100)])
    study = Study(gold_share=0.0, repeat_share=0.5)
    again: list[frozenset[str]] = []
    for _ in range(60):
        held = ask(site, ann, study, 3)
        judge(site, ann, held[0])
        if held[0].purpose == REPEAT:
            again.append(frozenset(item.id for item in held[0].query.items))
    assert len(again) == len(set(again)) > 18


@pytest.mark.parametrize("count", [3, 4])
def test_an_answer_that_arrives_while_pairs_are_drawn_costs_no_check(
    site: Site, ann: Person, known: Callable[[int], list[Known]], count: int
) -> None:
    """Pages send an answer and ask for more at the same moment: what they had is looked at before the answer, and pairs are given after it."""
    site.store.add_queries([pair(n) for n in range(1000, 1150)])
    site.book.add_known(known(80))
    study, place = Study(gold_share=0.3, repeat_share=0.0), site.app.state.place
    held = ask(site, ann, study, count)
    for _ in range(100):
        tally = place.desk.tally(ann, site.clock())
        judge(site, ann, held[0])
        held = dealing.next_for(place, ann, study, tally, count)
    tally = place.desk.tally(ann)
    drawn = [dealing._wanted(ann, study, number) for number in range(tally.came + tally.before)]
    assert tally.done[GOLD] + tally.held.get(GOLD, 0) == drawn.count(GOLD) > 20


def test_pairs_that_were_left_lying_are_drawn_anew(
    site: Site, ann: Person, known: Callable[[int], list[Known]]
) -> None:
    site.store.add_queries([pair(n) for n in range(1000, 1150)])
    site.book.add_known(known(80))
    study, place = Study(gold_share=0.3, repeat_share=0.0, hold_minutes=30), site.app.state.place
    for _ in range(30):
        judge(site, ann, ask(site, ann, study, 3)[0])
        site.clock.now += 3600.0
    tally = place.desk.tally(ann, site.clock())
    drawn = [dealing._wanted(ann, study, number) for number in range(tally.came)]
    assert tally.before == 0 and tally.done[GOLD] == drawn.count(GOLD) > 3


def test_two_windows_at_the_same_moment_draw_each_place_once(site: Site, known: Callable[[int], list[Known]]) -> None:
    site.store.add_queries([pair(n) for n in range(1000, 1150)])
    site.book.add_known(known(80))
    site.book.change(Study(gold_share=0.4, repeat_share=0.0), "test", site.clock())
    bea = site.come("Bea")
    for _ in range(20):
        with ThreadPoolExecutor(2) as pool:
            first, second = pool.map(lambda _: bea.next(3), range(2))
        assert [one["id"] for one in first] == [one["id"] for one in second] and len(first) == 3
        bea.send(first[0]["id"])
    tally = site.app.state.place.desk.tally(bea.person)
    drawn = [dealing._wanted(bea.person, site.book.settings(), number) for number in range(tally.came + tally.before)]
    assert tally.done.get(GOLD, 0) + tally.held.get(GOLD, 0) == drawn.count(GOLD)
