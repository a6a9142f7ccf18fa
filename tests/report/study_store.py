"""A labeling study whose people, noise and words are planted, made without a server: for the tests of its report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from backflip.data import Item, Query
from backflip.store import Store
from backflip.store.desk import ADJUDICATE, DISCUSSED, GOLD, REPEAT, STUDY, Desk, Told
from backflip.store.opinions import SETTLED, divided
from backflip.store.people import CONSENT, People, Person
from backflip.store.study import Known, Study, StudyBook, asked_again

SECRET = "Zebulon Quagmire <script>window.caught=1</script>"
"""In every name and every word that people wrote: none of it may be on the page."""
RIGHT = {"careful": 0.95, "usual": 0.8, "coin": 0.5}
AXIS, SPLIT = "more truthful", "What is claimed?"
GOOD, BAD = ("warm", "funny", "moving", "bright"), ("dull", "tedious", "clumsy", "flat")
ASK = Study(axes=(AXIS,), sub_questions=(SPLIT,), overlap=3, gold_share=0.2, repeat_share=0.2)


def question(n: int, kind: str = "study") -> Query:
    """Return the n-th question: the first item, good or bad in turn, has other words than the second."""
    words = (GOOD, BAD) if n % 2 else (BAD, GOOD)
    items = [Item(f"{kind} opening {n}", f"It is {part[n % 4]} and {part[(n // 4) % 4]}.", {"n": n}) for part in words]
    return Query(tuple(items), "Which review is kinder?")


def kinder(query: Query) -> int:
    """The place of the better item."""
    return 0 if query.items[0].content.split()[2] in GOOD else 1


class Planted:
    """A store that people judge in without a browser."""

    def __init__(self, where: str | Path, pairs: int) -> None:
        self.store = Store.open(where)
        self.people, self.book, self.desk = People(self.store), StudyBook(self.store), Desk(self.store)
        self.rng, self.now = np.random.default_rng(0), 1_790_000_000.0
        self.store.add_queries([question(n) for n in range(pairs)])
        self.book.change(ASK, "owner", self.now)
        self.somebody: dict[str, Person] = {"olga": self.join("olga", "owner")}

    def join(self, name: str, role: Any = "labeler") -> Person:
        token = self.people.invite(role, SECRET, self.now, 1.0)
        person = self.people.join(token, f"{name} Zebulon Quagmire", "no password", self.now)
        self.people.note_act(person.id, CONSENT, {"version": 0}, self.now)
        self.now += 1
        return person

    @property
    def versions(self) -> list[int]:
        with Store.open(self.store.where, mode="read") as store:
            return [number for number, _, _ in StudyBook(store).versions("instructions")]

    def say(self, who: str, query: Query, choice: int | None, purpose: str = STUDY) -> None:
        """Let somebody choose a place of the pair as stored, sides drawn; None: can't tell."""
        person = self.somebody[who]
        self.now += 10
        shown = [int(place) for place in self.rng.permutation(2)]
        if purpose in (ADJUDICATE, DISCUSSED, REPEAT):
            assert self.desk.deal_own(person, query, purpose, self.now, 1000.0)
        else:
            assert self.desk.deal(person, query.id, purpose, self.now, 1000.0)
        on_screen = None if choice is None else shown.index(choice) + 1
        details: dict[str, Any] = {"shown": shown, "instructions": self.book.document("instructions")[0]}
        details |= {"axes": {AXIS: str(on_screen)}, "sub": {SPLIT: SECRET}} if choice is not None else {}
        details |= {"comment": SECRET, "claims": {"1.1": "weak"}}
        answer = None if choice is None else (1.0 - choice, float(choice))
        told = Told(
            query.id, answer, f"{person.id} {query.id} {purpose}", SECRET, 4.0 + self.rng.random(), 1.0, details
        )
        assert self.desk.answer(person, told, self.now)

    def judge(self, who: str, query: Query, purpose: str = STUDY) -> None:
        best = kinder(query)
        self.say(who, query, best if self.rng.random() < RIGHT[who] else 1 - best, purpose)

    def again(self, who: str, n: int) -> Query:
        """Return the n-th question as it is asked of somebody once more, under an id of its own."""
        return replace(question(n), repeat=1000 + list(self.somebody).index(who))


def planted(where: str | Path, pairs: int = 60) -> Planted:
    """Fill a store: three people of planted noise, checks, repetitions, two guidelines, a talk, somebody erased, an answer taken back."""
    study = Planted(where, pairs)
    study.somebody |= {name: study.join(name) for name in RIGHT}
    study.somebody["gone"] = study.join("gone")
    known = [Known(question(n, "known"), ((0.0, 1.0), (1.0, 0.0))[n % 2], SECRET) for n in range(12)]
    study.book.add_known(known)
    for n in range(pairs):
        if n == pairs // 2:
            study.book.write("instructions", SECRET, study.somebody["olga"].id, study.now)
        for who in RIGHT:
            study.judge(who, question(n))
    for who in RIGHT:
        for one in known:
            study.judge(who, one.query, GOLD)
        for n in range(12):
            study.judge(who, study.again(who, n), REPEAT)
    quarrel = divided(study.store)[0].query
    talk, over = (asked_again(quarrel, purpose) for purpose in (ADJUDICATE, DISCUSSED))
    study.say("olga", talk, kinder(quarrel), ADJUDICATE)
    study.say("usual", over, kinder(quarrel), DISCUSSED)
    study.people.note_act(study.somebody["olga"].id, SETTLED, {"query": talk.id}, study.now)
    study.say("gone", question(0), 1)
    study.say("gone", question(2), None)
    study.say("gone", question(1), 0)
    assert study.desk.take_back(study.somebody["gone"], "undo", study.now + 1, 30.0, 60.0) is not None
    study.people.erase(study.somebody["gone"].id)
    study.store.close()
    return study
