"""Which judgements teach a reward, and what each of them weighs.

Of a person every standing first answer to a question counts, so a question that several people judged teaches several times; of any
other overseer the first answer to it counts. People's answers weigh by how often they seem to be right (`measures.judges`); nobody is
dropped, and the last reward is fitted both ways, so that a reader sees what the weights changed. Left out: the fits.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from backflip.data import Judgement, Query
from backflip.measures.people import weights_of_people
from backflip.overseers.people import PeopleOverseer
from backflip.overseers.recorded import RecordedOverseer
from backflip.protocols import Overseer
from backflip.rewards.clip_answers import Answer
from backflip.store import Store
from backflip.store.desk import STUDY, standing
from backflip.store.judged import purpose_of
from backflip.store.people import PERSON

if TYPE_CHECKING:
    from backflip.run import Run

SAID = "asked"
"""Result in which a run says what it asked: what is needed to train on the same answers again."""


class Patience(Protocol):
    """Settings that say how long answers are waited for."""

    @property
    def wait_seconds(self) -> float:
        """Seconds; inf waits until all are there."""
        ...


def gather(overseer: Overseer, questions: Sequence[Query], config: Patience, run: Run) -> list[Judgement]:
    """Ask all questions (again costs nothing), wait until each is answered or time is up; return the answers that count."""
    wanted, found = {query.id for query in questions}, dict[str, list[Judgement]]()
    heard: list[Judgement] = []
    cursor, began = 0, time.monotonic()
    with run.progress.phase("ask the overseer", total=len(wanted)) as bar:
        overseer.ask(questions)
        while True:
            left = config.wait_seconds - (time.monotonic() - began)
            judgements, cursor = overseer.answers(cursor, wait=min(1.0, max(0.0, left)))
            heard += judgements
            before = len(wanted)
            for judgement in judgements:
                take_in(found, judgement)
            wanted = awaited(overseer, wanted, found)
            bar.advance(before - len(wanted))
            if not wanted or left <= 0 or isinstance(overseer, RecordedOverseer):
                break
            if getattr(overseer, "stopped", False):  # the person went away: what is asked stays in the store
                raise KeyboardInterrupt
    return answers_to(questions, heard)


def awaited(overseer: Overseer, asked: Collection[str], found: Mapping[str, Sequence[Judgement]]) -> set[str]:
    """Return which questions have fewer of the answers `found` than are to come.

    People give as many to each as the study says by now, and no more to a pair that is asked of nobody new; any other overseer gives one.
    """
    each = int(getattr(overseer, "answers_each", 1))
    few = {one for one in asked if len(found.get(one, ())) < each}
    return few - overseer.asked_of_nobody_new() if few and isinstance(overseer, PeopleOverseer) else few


def answers_to(questions: Sequence[Query], judgements: Sequence[Judgement]) -> list[Judgement]:
    """Return the judgements of each question that count and were not taken back, in the order of the questions."""
    found: dict[str, list[Judgement]] = {}
    for one in standing(judgements):
        take_in(found, one)
    return [one for query in questions for one in found.get(query.id, ())]


def take_in(found: dict[str, list[Judgement]], one: Judgement) -> None:
    """Put a judgement with the others of its question, if it counts beside them: see the top of this file.

    What was said as an exercise, as a check or because others disagreed (`purpose_of`) never does.
    """
    if purpose_of(one) != STUDY:
        return
    others = found.setdefault(one.query_id, [])
    if not others or (is_person(one.judge) and all(other.judge != one.judge for other in others)):
        others.append(one)


def is_person(judge: str) -> bool:
    """Return whether a judge is somebody who judges by way of `backflip serve`."""
    return judge.startswith(PERSON)


def person_weights(store: Store, judges: Collection[str], overseer: Overseer | None = None) -> dict[str, float]:
    """Return what each person's answers weigh, by how often they agree with known answers and with others; empty for fewer than two.

    They are those of the page of qualities: read from everything that people said by themselves in this store, checks among it, but from
    nothing of those whom a run that repeats an earlier one leaves out.
    """
    people = sorted({judge for judge in judges if is_person(judge)})
    if len(people) < 2:
        return {}
    found = weights_of_people(store, overseer.without if isinstance(overseer, RecordedOverseer) else ())
    return {judge: found[judge] for judge in people if judge in found}


def weighed(answer: Answer, judge: str, weight: Mapping[str, float]) -> Answer:
    """Return an answer with the weight of whoever gave it; 1 where nothing is known of them."""
    factor = weight.get(judge, 1.0)
    return answer if factor == 1.0 else replace(answer, weight=answer.weight * factor)


def write_asked(run: Run, asked: Sequence[str], asked_at: Sequence[int], places: int, held: Sequence[str] = ()) -> None:
    """Write which questions the run asked, in that order, for `backflip run --again`.

    `asked_at`: at which place of the recipe, a round or an update, each came up first; `places`: how many there were. `held`: those
    that were only measured.
    """
    run.result(SAID, {"asked": list(asked), "asked_at": list(asked_at), "places": places, "held": list(held)})


def write_weighting(run: Run, weight: Mapping[str, float], judges: Sequence[str], changed: Mapping[str, Any]) -> None:
    """Write what each person's answers weighed, how many of them taught, and what that changed."""
    people = [{"judge": one, "weight": weight[one], "answers": judges.count(one)} for one in sorted(weight)]
    run.result("weighting", {"people": people, **changed})
