"""Which question lies before whom: people hold questions for a while, answer them, give them back, take an answer back.

A question is given to no more people than the study asks for, whoever asks at the same time; what a person holds comes back when its
time is over. An answer is an event like any judgement and is never changed: taking it back is a second event. Leaves out who people
are (`people`) and what is shown (`backflip.web`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from sqlalchemy import Connection, Double, and_, bindparam, exists, func, insert, or_, select, update

from backflip.data import Judgement, Query
from backflip.errors import DataError
from backflip.store import records, schema, waiting
from backflip.store.json_text import readable
from backflip.store.people import Person
from backflip.store.read_ahead import ReadAhead
from backflip.store.records import UNDONE
from backflip.store.store import PAGE, Store, insert_new, insert_queries
from backflip.store.waiting import Taken

STUDY, GOLD, REPEAT, TRIAL = waiting.STUDY, "gold", "repeat", "trial"
"""What a question is before somebody for: to learn from; a silent check against a known answer; a check against themselves; to learn
judging, counted."""
PRACTICE, ADJUDICATE, DISCUSSED = "practice", "adjudicate", "discussed"
"""The same: to learn judging, not counted; to judge blind what others disagree on; to judge once more after everybody's answers were
shown."""
QUEUE = (STUDY, GOLD, REPEAT, TRIAL)
"""Purposes of what comes by itself, one question after the other; the others are for who asks for them."""
TOLD = (TRIAL, PRACTICE, ADJUDICATE, DISCUSSED)
"""Purposes of questions after whose answer one is shown what is right, or what others said: that answer is not taken back."""
MAY_UNDO = tuple(one for one in QUEUE if one not in TOLD)
PURPOSES = (STUDY, GOLD, REPEAT, TRIAL, PRACTICE, ADJUDICATE, DISCUSSED)
KNOWN, OWN = "known", "own"
"""Purposes of questions that are given to nobody unless dealt: those with known answers, those made for one person or for one talk. So
are those with the purpose PRACTICE (a known answer that is for practice alone) and ADJUDICATE (asked of nobody new)."""


@dataclass(frozen=True)
class Held:
    """A question before somebody, and what for."""

    query: Query
    purpose: str
    since: float = 0.0
    """Since when, where that is known: see `waiting.since_of`."""


@dataclass(frozen=True)
class Told:
    """What a person said of one question."""

    query_id: str
    answer: tuple[float, ...] | None
    """Shares of the items as stored; None: can't tell."""
    event: str
    """Drawn by the page: the same answer sent twice is one event."""
    note: str = ""
    seconds: float | None = None
    strength: float = 1.0
    details: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Tally:
    """How many questions a person has answered, and how many are before them, by purpose."""

    done: Mapping[str, int]
    held: Mapping[str, int]

    @property
    def came(self) -> int:
        """How many they answered of those that come by themselves."""
        return sum(self.done.get(purpose, 0) for purpose in QUEUE)

    @property
    def before(self) -> int:
        """How many of those that come by themselves are before them."""
        return sum(self.held.get(purpose, 0) for purpose in QUEUE)


class Desk:
    """The questions of one store, as they are dealt out. Times are seconds since 1970, given by the caller."""

    def __init__(self, store: Store) -> None:
        """Deal out the questions of `store`."""
        self._store, self._database = store, store.database
        self._read = ReadAhead(store)
        self._turns: dict[str, Lock] = {}

    def take(
        self,
        person: Person,
        count: int,
        overlap: int,
        now: float,
        hold_seconds: float,
        purposes: Sequence[str] = QUEUE,
        places: Sequence[int] | None = None,
    ) -> list[Held]:
        """Return up to `count` questions that this person holds now: those of these purposes held already first, then new ones.

        `places`: which of this person's questions new ones are, one each, and no more are given; None: as many as are missing.
        Each question is held by, or was answered by, at most `overlap` people; those that others have answered come first.
        """
        with self._database.transaction("deal") as connection:
            span = (now, now + hold_seconds)
            held = waiting.take(connection, person.id, count, overlap, span, purposes, places)
        found = self._read.by_id(held, ahead=any(of.purpose == STUDY for of in held.values()))
        return [Held(found[one], of.purpose, of.since) for one, of in held.items()]

    def turn(self, person: Person) -> Lock:
        """Return what whoever looks at a person's place and then deals to it holds: two windows of theirs ask one after the other."""
        return self._turns.setdefault(person.id, Lock())

    def deal(self, person: Person, query_id: str, purpose: str, since: float, hold_seconds: float) -> bool:
        """Put one question before this person, for a check or an exercise; False where they hold it or answered it."""
        with self._database.transaction("deal") as connection:
            return _deal(connection, person, query_id, Taken(purpose, since), since + hold_seconds)

    def remember(self, person: Person, query_id: str, purpose: str, now: float) -> bool:
        """Note that this question was given to this person and that its time is over; False where nobody knows the question.

        For whoever can show that it was given though the database does not know it any more: see `backflip.web.tickets`.
        """
        with self._database.transaction("deal") as connection:
            if connection.execute(select(schema.queries.c.id).where(schema.queries.c.id == query_id)).first() is None:
                return False
            row = {"query_id": query_id, "person_id": person.id, "purpose": purpose, "since": now, "until": now}
            insert_new(connection, schema.claims, [row | {"state": "returned"}])
        return True

    def deal_own(self, person: Person, query: Query, purpose: str, since: float, hold_seconds: float) -> bool:
        """Ask this person alone a question that is given to nobody unless dealt, on the disk when this returns; False as `deal`."""
        with self._database.transaction("durable") as connection:
            _own(connection, query)
            return _deal(connection, person, query.id, Taken(purpose, since), since + hold_seconds)

    def withdraw(self, query_id: str) -> None:
        """Ask nobody new this question of the study: it is about to be talked over."""
        table = schema.queries
        with self._database.transaction("write") as connection:
            mine = update(table).where(table.c.id == query_id, table.c.purpose == STUDY)
            connection.execute(mine.values(purpose=ADJUDICATE))

    def unseen_known(self, person: Person, limit: int) -> list[str]:
        """Return ids of questions with known answers, those for practice apart, that this person does not hold and never answered."""
        table, claims = schema.known.join(schema.queries, schema.known.c.query_id == schema.queries.c.id), schema.claims
        key = schema.known.c.query_id
        had = exists().where(claims.c.query_id == key, claims.c.person_id == person.id, claims.c.state != "returned")
        wanted = select(key).select_from(table).where(~had, schema.queries.c.purpose != PRACTICE)
        with self._database.transaction("read") as connection:
            return list(connection.execute(wanted.order_by(key).limit(limit)).scalars())

    def yet_to_come(self, person: Person, query_ids: Sequence[str], overlap: int) -> set[str]:
        """Return which of these questions this person has not answered and may yet be given, or holds."""
        queries, claims = schema.queries, schema.claims
        mine = and_(claims.c.query_id == queries.c.id, claims.c.person_id == person.id)
        waits = and_(queries.c.purpose == STUDY, queries.c.given < overlap, ~exists().where(mine))
        held = exists().where(mine, claims.c.state != "done")
        found: set[str] = set()
        with self._database.transaction("read") as connection:
            for start in range(0, len(query_ids), PAGE):
                part = queries.c.id.in_(list(query_ids[start : start + PAGE]))
                found |= set(connection.execute(select(queries.c.id).where(part, or_(waits, held))).scalars())
        return found

    def holding(self, person: Person, query_id: str) -> Held:
        """Return a question that is or was before this person, and what for.

        Raises:
            DataError: it never was.
        """
        with self._database.transaction("read") as connection:
            claim = _claim(connection, person, query_id)
        if claim is None:
            raise DataError("this question was not given to you; load the page again")
        return Held(self.question(query_id), claim["purpose"])

    def question(self, query_id: str) -> Query:
        """Return a question that was asked here."""
        return self._read.by_id([query_id])[query_id]

    def said(self, person: Person) -> list[Judgement]:
        """Return what this person said and did not take back, in order."""
        table = schema.judgements
        wanted = select(table).where(table.c.judge == person.judge).order_by(table.c.seq)
        with self._database.transaction("read") as connection:
            rows = connection.execute(wanted).mappings().all()
        return standing([records.judgement(row) for row in rows])

    def answered_by(self, person: Person, purpose: str, limit: int) -> list[str]:
        """Return ids of questions that this person answered last, the newest first."""
        table = schema.claims
        wanted = select(table.c.query_id).where(
            table.c.person_id == person.id, table.c.state == "done", table.c.purpose == purpose
        )
        with self._database.transaction("read") as connection:
            return list(connection.execute(wanted.order_by(table.c.since.desc()).limit(limit)).scalars())

    def answer(self, person: Person, told: Told, now: float) -> bool:
        """Record what a person said, on the disk when this returns; False where this very event was recorded before, or taken back.

        An answer to a question that was returned meanwhile is recorded too: nobody's work is thrown away.

        Raises:
            DataError: the question was never given to this person, or they answered it already (in another window).
        """
        with self._database.transaction("durable") as connection:
            claim = (
                connection.execute(_STANDS, {"query": told.query_id, "person": person.id, "event": told.event})
                .mappings()
                .first()
            )
            if claim is None:
                raise DataError("this question was not given to you; load the page again")
            if claim["standing"] == "erased":
                raise DataError("you were erased from this study; nothing more is recorded")
            if claim["gone"]:
                return False
            if claim["state"] == "done":
                if _event_of(connection, claim["judgement_id"]) == told.event:
                    return False
                raise DataError("you have answered this question already, perhaps in another window")
            details = {**told.details, "event": told.event, "purpose": claim["purpose"]} | (
                {"late": True} if claim["state"] == "returned" else {}
            )
            judgement = Judgement(
                told.query_id, person.judge, told.answer, told.note, told.strength, now, told.seconds, details
            )
            row = _append(connection, judgement)
            done = {"query": told.query_id, "person": person.id, "now": now, "judgement": row}
            connection.execute(_DONE, done)
            table = schema.queries
            if claim["state"] == "returned":  # it is this person's again: one more was given it
                more = update(table).where(table.c.id == told.query_id).values(given=table.c.given + 1)
                connection.execute(more)
            if claim["asked"] != "answered":
                connection.execute(_ANSWERED, {"query": told.query_id})
        return True

    def take_back(
        self, person: Person, event: str, now: float, within_seconds: float, hold_seconds: float
    ) -> Query | None:
        """Take this person's last answer back, if it is not too long ago, and put its question before them again, for `hold_seconds`.

        Returns the question, or None where there is nothing to take back: an answer after which one did anything else, was shown what is
        right, or what others said, stays. The answer stays as it was; a second event says that it no longer stands.
        """
        table = schema.claims
        made = schema.judgements  # by the order of the events: a clock may have been set back between two answers
        last = select(table, made.c.seq).join(made, made.c.id == table.c.judgement_id)
        last = last.where(
            table.c.person_id == person.id,
            table.c.state == "done",
            table.c.purpose.in_(MAY_UNDO),
            made.c.judge == person.judge,
        )
        last = last.order_by(made.c.seq.desc()).limit(1)
        with self._database.transaction("durable") as connection:
            claim = connection.execute(last).mappings().first()
            if claim is None or now - claim["since"] > within_seconds:
                return None
            # Whoever learns from answers hears of one as soon as its person did something after it.
            if (
                connection.execute(select(func.max(made.c.seq)).where(made.c.judge == person.judge)).scalar()
                != claim["seq"]
            ):
                return None
            details = {"undoes": claim["judgement_id"], "event": event}
            _append(connection, Judgement(claim["query_id"], person.judge, None, UNDONE, 1.0, now, None, details))
            until = now + hold_seconds
            _set_claim(connection, person, claim["query_id"], state="held", since=0.0, until=until, judgement_id=None)
            others = exists().where(table.c.query_id == claim["query_id"], table.c.state == "done")
            queries = schema.queries
            alone = and_(queries.c.id == claim["query_id"], queries.c.state == "answered", ~others)
            connection.execute(update(queries).where(alone).values(state="open"))
        return self._store.query(claim["query_id"])

    def tally(self, person: Person, now: float = 0.0) -> Tally:
        """Return how many questions this person has answered and holds; given the time, without those whose time is over."""
        with self._database.transaction("read") as connection:
            rows = connection.execute(_TALLY, {"person": person.id, "now": now}).all()
        return Tally(*({row.purpose: row.n for row in rows if row.state == state} for state in ("done", "held")))

    def answered_between(self, person: Person, start: float, end: float) -> int:
        """Return how many questions that came by themselves this person has answered after `start`, up to `end`."""
        table = schema.claims
        mine = and_(table.c.person_id == person.id, table.c.state == "done", table.c.purpose.in_(QUEUE))
        wanted = select(func.count()).where(mine, table.c.since > start, table.c.since <= end)
        with self._database.transaction("read") as connection:
            return connection.execute(wanted).scalar_one()


def standing(judgements: Sequence[Judgement]) -> list[Judgement]:
    """Return the judgements that were not taken back, without the events that took others back."""
    gone = {one.details.get("undoes") for one in judgements if one.note == UNDONE}
    if not gone:
        return list(judgements)
    return [one for one in judgements if one.note != UNDONE and records.judgement_id(one) not in gone]


_CLAIM = select(schema.claims).where(
    schema.claims.c.query_id == bindparam("query"), schema.claims.c.person_id == bindparam("person")
)

_DONE = (
    update(schema.claims)
    .where(schema.claims.c.query_id == bindparam("query"), schema.claims.c.person_id == bindparam("person"))
    .values(state="done", since=bindparam("now"), judgement_id=bindparam("judgement"))
)
_GONE = select(schema.acts.c.seq).where(
    schema.acts.c.person_id == bindparam("person"),
    schema.acts.c.kind == UNDONE,
    readable(schema.acts.c.details)["event"].as_string() == bindparam("event"),
)
_STANDS = (
    select(
        schema.claims,
        schema.people.c.state.label("standing"),
        schema.queries.c.state.label("asked"),
        _GONE.exists().label("gone"),
    )
    .join(schema.people, schema.people.c.id == schema.claims.c.person_id)
    .join(schema.queries, schema.queries.c.id == schema.claims.c.query_id)
    .where(schema.claims.c.query_id == bindparam("query"), schema.claims.c.person_id == bindparam("person"))
    .with_for_update(of=schema.claims)  # whoever deals meanwhile does not give it back
)
_TALLY = (
    select(schema.claims.c.purpose, schema.claims.c.state, func.count().label("n"))
    .where(schema.claims.c.person_id == bindparam("person"))
    .where(
        or_(
            schema.claims.c.state == "done",
            and_(schema.claims.c.state == "held", schema.claims.c.until >= bindparam("now", type_=Double)),
        )
    )
    .group_by(schema.claims.c.purpose, schema.claims.c.state)
)
_RECORD = insert(schema.judgements).inline()
_ANSWERED = update(schema.queries).where(schema.queries.c.id == bindparam("query")).values(state="answered")


def _claim(connection: Connection, person: Person, query_id: str) -> Any:
    return connection.execute(_CLAIM, {"query": query_id, "person": person.id}).mappings().first()


def _own(connection: Connection, query: Query) -> None:
    if insert_queries(connection, [query], "open", OWN) == 0:
        table = schema.queries
        connection.execute(update(table).where(table.c.id == query.id, table.c.given == 0).values(purpose=OWN))


def _deal(connection: Connection, person: Person, query_id: str, of: Taken, until: float) -> bool:
    claim = _claim(connection, person, query_id)
    if claim is not None and claim["state"] != "returned":
        return False
    waiting.hold(connection, person.id, {query_id: of}, until)
    return True


def _set_claim(connection: Connection, person: Person, query_id: str, **values: Any) -> None:
    table = schema.claims
    one = and_(table.c.query_id == query_id, table.c.person_id == person.id)
    connection.execute(update(table).where(one).values(**values))


def _append(connection: Connection, judgement: Judgement) -> str:
    row = records.judgement_row(judgement)
    connection.execute(_RECORD, row)
    return row["id"]


def _event_of(connection: Connection, judgement_id: str | None) -> str | None:
    table = schema.judgements
    details = connection.execute(select(table.c.details).where(table.c.id == judgement_id)).scalar()
    return None if details is None else details.get("event")
