"""Where people agree and where they choose against each other, what adjudicators say, and what everybody says after a talk.

Every answer is a judgement and stays one: an adjudicator's and a discussed one are answers to askings of their own, so that training,
which hears answers to the questions that it asked, never hears them. Leaves out who may see what (`backflip.web.adjudicating`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from sqlalchemy import ColumnElement, func, select

from backflip.data import Judgement, Query
from backflip.store import records, schema
from backflip.store.desk import ADJUDICATE, DISCUSSED, KNOWN, STUDY, standing
from backflip.store.judged import choice_of, purpose_of
from backflip.store.people import PERSON, People, Person
from backflip.store.store import PAGE, Store
from backflip.store.study import asked_again

SETTLED = "settled"
"""Act of an owner who made the answer to a question of the study known."""
AGREED_BY = 3
"""People who all chose the same, below which nothing is said of everybody."""


@dataclass(frozen=True)
class Opinions:
    """What people said of one question, each the last of their judgements that stands."""

    query: Query
    alone: tuple[Judgement, ...]
    """Of those who were asked for the study."""
    blind: tuple[Judgement, ...] = ()
    """Of adjudicators, who saw nobody's answer."""
    discussed: tuple[Judgement, ...] = ()
    """Of any of these, after they saw everybody's."""

    @property
    def choices(self) -> set[int]:
        """The different choices of those who were asked for the study: 1, -1, 0 for a tie; can't tell is none."""
        return {choice_of(one.answer) for one in self.alone if one.answer is not None}

    @property
    def divided(self) -> bool:
        """Whether people chose against each other."""
        return {1, -1} <= self.choices

    @property
    def agreed(self) -> bool:
        """Whether enough people chose, and all the same."""
        chose = [one for one in self.alone if one.answer is not None]
        return len(chose) == len(self.alone) >= AGREED_BY and len(self.choices) == 1 and 0 not in self.choices

    @property
    def known_id(self) -> str:
        """The id under which its answer is known, once it is."""
        return asked_again(self.query, KNOWN).id

    def own(self, person: Person) -> bool:
        """Return whether this person has said what they think, without having seen what others do."""
        return any(one.judge == person.judge for one in (*self.alone, *self.blind))

    def without(self, judgement_ids: Collection[str]) -> Opinions:
        """Return the same as if those of these judgements that were asked for the study had not been made."""
        return replace(self, alone=tuple(one for one in self.alone if one.stored_id not in judgement_ids))


def divided(store: Store) -> list[Opinions]:
    """Return the questions of the study on which people chose against each other, in the order asked."""
    left, right = _lowest() < 0.5, _highest() > 0.5
    return [one for one in _opinions(store, [left, right]) if one.divided]


def agreed(store: Store) -> list[Opinions]:
    """Return the questions of the study on which at least `AGREED_BY` people all chose the same, and whose answer is not known yet."""
    same = (_lowest() > 0.5) | (_highest() < 0.5)
    many = func.count(schema.judgements.c.judge.distinct()) >= AGREED_BY
    return [one for one in _opinions(store, [same, many], schema.queries.c.purpose == STUDY) if one.agreed]


def opinions_of(store: Store, query_id: str) -> Opinions | None:
    """Return what people said of one comparison of the study; None where nobody chose anything."""
    found = _opinions(store, [], schema.judgements.c.query_id == query_id)
    return found[0] if found else None


def resting_on(store: Store, judges: Collection[str]) -> set[str]:
    """Return the ids of the known answers that are known because of these judges: that one of them settled, that came of a quarrel in which
    one of them had a say, or on which too few would have agreed without them."""
    settled = People(store).everybodys_acts(SETTLED)
    found: set[str] = {one["query"] for who, one in settled if PERSON + who in judges}
    for one in _opinions(store, [], schema.queries.c.purpose == ADJUDICATE):
        gone = {each.stored_id for each in one.alone if each.judge in judges}
        said = any(each.judge in judges for each in (*one.alone, *one.blind, *one.discussed))
        if said and not (one.agreed and one.without(gone).agreed):
            found.add(one.known_id)
    return found


def _opinions(
    store: Store, having: list[ColumnElement[bool]], where: ColumnElement[bool] | None = None
) -> list[Opinions]:
    """Return what people said of each question that fits, as far as the database can tell what fits."""
    table, queries = schema.judgements, schema.queries
    wanted = select(table.c.query_id).join(queries, queries.c.id == table.c.query_id)
    wanted = wanted.where(table.c.judge.like("person:%"), table.c.answer.is_not(None))
    wanted = wanted if where is None else wanted.where(where)
    wanted = wanted.group_by(table.c.query_id, queries.c.seq).having(*having).order_by(queries.c.seq)
    with store.database.transaction("read") as connection:
        ids = list(connection.execute(wanted).scalars())
    asked = store.queries_by_id(ids)
    pairs = {one: query for one, query in asked.items() if query.kind == "compare" and len(query.items) == 2}
    again = {
        (one, purpose): asked_again(pairs[one], purpose).id for one in pairs for purpose in (ADJUDICATE, DISCUSSED)
    }
    told = _told(store, [*pairs, *again.values()])
    return [
        Opinions(
            pairs[one],
            tuple(each for each in told.get(one, ()) if purpose_of(each) == STUDY),
            tuple(told.get(again[one, ADJUDICATE], ())),
            tuple(told.get(again[one, DISCUSSED], ())),
        )
        for one in ids
        if one in pairs
    ]


def _told(store: Store, query_ids: Iterable[str]) -> dict[str, list[Judgement]]:
    """Return what people said of each of these askings and did not take back."""
    ids, table = list(query_ids), schema.judgements
    events: list[Judgement] = []
    with store.database.transaction("read") as connection:
        for start in range(0, len(ids), PAGE):
            wanted = select(table).where(
                table.c.query_id.in_(ids[start : start + PAGE]), table.c.judge.like("person:%")
            )
            events += [records.judgement(row) for row in connection.execute(wanted.order_by(table.c.seq)).mappings()]
    found: dict[str, list[Judgement]] = {}
    for one in standing(events):
        found.setdefault(one.query_id, []).append(one)
    return found


def _lowest() -> ColumnElement[float]:
    return func.min(schema.judgements.c.answer[0].as_float())


def _highest() -> ColumnElement[float]:
    return func.max(schema.judgements.c.answer[0].as_float())
