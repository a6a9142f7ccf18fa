"""Join what people said to what they were shown: one row a judgement, for measures and pages.

Leaves out what the rows are worth (`backflip.measures.judges`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import func, select

from backflip.data import Judgement, Query, digest
from backflip.store import schema
from backflip.store.desk import ADJUDICATE, GOLD, QUEUE, REPEAT, STUDY, TRIAL, standing
from backflip.store.json_text import readable
from backflip.store.people import PERSON
from backflip.store.records import UNDONE
from backflip.store.store import PAGE, Store
from backflip.store.study import Known, StudyBook

OWN_QUESTIONS = (STUDY, ADJUDICATE)
"""Purposes of what the study itself asked: the second one has what is asked of nobody new, since people were divided or agreed."""
_OWN_ANSWERS = schema.judgements.join(schema.queries, schema.queries.c.id == schema.judgements.c.query_id)
_TAKEN_BACK = schema.judgements.alias("taken_back")
_UNDOES = readable(_TAKEN_BACK.c.details)["undoes"].as_string()
_STANDS = (
    schema.judgements.c.note != UNDONE,
    schema.judgements.c.id.not_in(select(_UNDOES).where(_TAKEN_BACK.c.note == UNDONE, _UNDOES.is_not(None))),
)


@dataclass(frozen=True)
class Judged:
    """A judgement of a pair that stands, with its question."""

    query: Query
    judgement: Judgement
    known: tuple[float, ...] | None
    """Shares of the items as stored that are known to be right."""
    easy: bool = False
    """Whether that is so easy that whoever looks is right: a check of attention."""

    @property
    def pair(self) -> str:
        """Name the two items, whatever their order, and the question."""
        return digest([sorted(item.id for item in self.query.items), self.query.question])

    @property
    def first(self) -> int:
        """The place, as stored, of the pair's own first item: the one whose id comes first."""
        return 0 if self.query.items[0].id <= self.query.items[1].id else 1

    @property
    def again(self) -> bool:
        """Whether the person was asked about this pair for the second time."""
        return self.judgement.details.get("purpose") == REPEAT

    def choice(self, shares: tuple[float, ...]) -> int:
        """Return 1 where shares prefer the pair's own first item, -1 where the second, 0 where neither."""
        return choice_of((shares[self.first], shares[1 - self.first]))

    @property
    def shown(self) -> tuple[int, ...]:
        """The places as they were on the screen; as the query says where the judgement does not."""
        order = self.judgement.details.get("shown")
        return tuple(order) if order else self.query.order or tuple(range(len(self.query.items)))


def choice_of(shares: Sequence[float]) -> int:
    """Return 1 where the first of two shares is larger, -1 where the second is, 0 where they are equal."""
    gap = shares[0] - shares[1]
    return 0 if abs(gap) < 1e-9 else 1 if gap > 0 else -1


def purpose_of(judgement: Judgement) -> str:
    """Return what a question was before whoever judged it; that of the study where nothing is said."""
    return judgement.details.get("purpose", STUDY)


def judged_by_people(store: Store) -> list[Judged]:
    """Return every standing judgement that a person made of two items and that came by itself.

    Exercises are not counted, nor what was said because others disagreed. A known answer is held against those who were asked to be
    checked alone: whoever's agreement made it known would always be right.
    """
    found: list[Judged] = []
    known: Mapping[str, Known] = {one.query.id: one for one in StudyBook(store).known()}
    events = standing([one for one in store.judgements(0)[0] if one.judge.startswith(PERSON)])
    events = [one for one in events if purpose_of(one) in QUEUE]
    for start in range(0, len(events), PAGE):
        part = events[start : start + PAGE]
        queries = store.queries_by_id([one.query_id for one in part])
        for one in part:
            right = known.get(one.query_id) if purpose_of(one) in (GOLD, TRIAL) else None
            answer = None if right is None else right.answer
            found.append(Judged(queries[one.query_id], one, answer, right is not None and right.difficulty == "easy"))
    return [one for one in found if one.query.kind == "compare" and len(one.query.items) == 2]


def study_counts(store: Store) -> dict[str, int]:
    """Return how many of the study's own questions are in each state, and how many of their answers stand: `judgements`, and among them
    `could_not_judge`. Checks, exercises, repetitions and talks are askings of their own and count nowhere here."""
    queries, table = schema.queries, schema.judgements
    own = queries.c.purpose.in_(OWN_QUESTIONS)
    states = select(queries.c.state, func.count().label("n")).where(own).group_by(queries.c.state)
    answers = select(func.count().label("n"), func.count().filter(table.c.answer.is_(None)).label("blank"))
    with store.database.transaction("read") as connection:
        found = dict.fromkeys(schema.STATES, 0) | {row.state: row.n for row in connection.execute(states)}
        row = connection.execute(answers.select_from(_OWN_ANSWERS).where(own, *_STANDS)).one()
    return found | {"judgements": row.n, "could_not_judge": row.blank}


def study_answers(store: Store, start: float, end: float) -> int:
    """Return how many answers to the study's own questions that stand were given in a span of time, seconds since 1970."""
    made = schema.judgements.c.created
    wanted = select(func.count()).select_from(_OWN_ANSWERS)
    wanted = wanted.where(schema.queries.c.purpose.in_(OWN_QUESTIONS), made >= start, made <= end, *_STANDS)
    with store.database.transaction("read") as connection:
        return connection.execute(wanted).scalar_one()


def people_seconds(store: Store) -> float:
    """Return how many seconds people spent on whatever they judged, as far as that was measured."""
    table = schema.judgements
    wanted = select(func.coalesce(func.sum(table.c.seconds), 0.0)).where(table.c.judge.startswith(PERSON))
    with store.database.transaction("read") as connection:
        return float(connection.execute(wanted).scalar_one())


def latest_questions(store: Store, count: int) -> list[Query]:
    """Return the questions that were asked last, the newest first."""
    table = schema.queries
    wanted = select(table.c.id).where(table.c.purpose == STUDY).order_by(table.c.seq.desc()).limit(count)
    with store.database.transaction("read") as connection:
        ids = list(connection.execute(wanted).scalars())
    found = store.queries_by_id(ids)
    return [found[one] for one in ids]
