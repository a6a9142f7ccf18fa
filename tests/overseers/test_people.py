"""People in the browser as a run hears them: what may still change is kept back, and nobody is waited for who will not come."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from backflip.data import Item, Judgement, Query
from backflip.errors import ConfigError, DataError
from backflip.loops.answers import awaited
from backflip.overseers import people
from backflip.overseers.people import GRACE_SECONDS, PeopleOverseer
from backflip.run import Run
from backflip.store import Store
from backflip.store.desk import Desk
from backflip.store.study import StudyBook


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store.sqlite") as opened:
        yield opened


def asking(n: object) -> Query:
    return Query((Item("", f"a{n}", {}), Item("", f"b{n}", {})), "Which?")


def asked(store: Store, n: int = 0) -> Query:
    query = asking(n)
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


def about_clips(*numbers: int) -> Query:
    """Ask about clips, two of them sharing some with other questions."""
    return Query(tuple(Item("dot", f"clip {n}", {"n": n}, media="clip") for n in numbers), "Which?", order=(1, 0))


CLIPS = [about_clips(0, 1), about_clips(2, 3), about_clips(3, 0), asking("texts"), about_clips(4, 5)]


def filming(folder: Path, look: Callable[[Item], object]) -> Callable[[Item], Path]:
    """Make films of one byte, after a look at the clip."""

    def film(item: Item) -> Path:
        look(item)
        path = folder / f"{item.id}.mp4"
        path.write_bytes(b"x")
        return path

    return film


def open_now(store: Store) -> list[str]:
    return [query.id for query in store.queries("open")[0]]


def test_a_pair_can_be_judged_while_the_films_of_the_next_are_made(store: Store, tmp_path: Path) -> None:
    seen: list[tuple[str, int]] = []
    film = filming(tmp_path, lambda item: seen.append((item.content, len(open_now(store)))))
    PeopleOverseer(store, film).ask(CLIPS)
    # the third has its films already, the fourth needs none: both are there once the first film of the fifth is being made
    assert seen == [("clip 0", 0), ("clip 1", 0), ("clip 2", 1), ("clip 3", 1), ("clip 4", 4), ("clip 5", 4)]
    assert store.queries("open")[0] == CLIPS
    assert all(store.has_media(item.id) for query in CLIPS for item in query.items if item.media == "clip")


@pytest.mark.parametrize("killed_at", range(6))
def test_killed_in_the_middle_of_filming_and_asked_again_each_pair_is_there_once_and_in_order(
    store: Store, tmp_path: Path, killed_at: int
) -> None:
    films: list[str] = []

    def look(item: Item) -> None:
        if len(films) == killed_at:
            raise KeyboardInterrupt
        films.append(item.id)

    with pytest.raises(KeyboardInterrupt):
        PeopleOverseer(store, filming(tmp_path, look)).ask(CLIPS)
    before = open_now(store)
    assert before == [query.id for query in CLIPS][: (0, 0, 1, 1, 4, 4)[killed_at]]
    if before:
        store.add_judgements([Judgement(before[0], "person:x", (1.0, 0.0))])
    PeopleOverseer(store, filming(tmp_path, lambda item: films.append(item.id))).ask(CLIPS)
    assert len(films) == len(set(films)) == 6, "nothing is filmed twice"
    assert store.queries()[0] == CLIPS
    assert open_now(store) == [query.id for query in CLIPS][bool(before) :], "what was answered stays answered"


def test_nothing_is_asked_where_something_of_it_cannot_be(store: Store, tmp_path: Path) -> None:
    one = Query(CLIPS[0].items[:1], "How good?", kind="rate")
    films: list[Item] = []
    for overseer, queries, fault in (
        (PeopleOverseer(store), CLIPS[3:], ConfigError),
        (PeopleOverseer(store, filming(tmp_path, films.append)), [*CLIPS, one], DataError),
    ):
        with pytest.raises(fault):
            overseer.ask(queries)
        assert open_now(store) == [] and films == []


def test_the_log_says_how_far_the_filming_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Run.create("toy", {}, root=tmp_path, seed=0, folder=tmp_path / "run") as run:
        monkeypatch.setattr(run.progress, "clock", lambda: 20.0 * made[0])
        made = [0]

        def look(item: Item) -> None:
            made[0] += 1

        overseer = PeopleOverseer(run.store, filming(tmp_path, look), run)
        overseer.ask(CLIPS)
        overseer.ask(CLIPS)
    assert people.LOG_SECONDS == 30
    said = [line[20:] for line in (tmp_path / "run" / "log.txt").read_text().splitlines()][1:-1]
    assert said == [
        "films 6 clips; each pair can be judged as soon as its two are there",
        "filmed 2 of 6 clips in 40.0 s",
        "filmed 4 of 6 clips in 1 min 20 s",
        "filmed 6 of 6 clips in 2 min 00 s",
    ]
