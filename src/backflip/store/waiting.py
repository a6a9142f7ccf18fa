"""What waits for a person: questions whose time with somebody is over, those they hold, those they may be given next.

One statement looks at all of it, for a look costs far less than the way to the database; it is made once for each number of people a
question. Every function works in the caller's deal (`database.py`): nobody else deals meanwhile, but people answer. Leaves out who asks for it and why (`desk`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import (
    Connection,
    Double,
    Integer,
    String,
    and_,
    bindparam,
    exists,
    literal_column,
    null,
    or_,
    select,
    union_all,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from backflip.store import schema

STUDY = "study"
LEVELS = 4
"""Numbers of people who have a question already that one statement looks through, the highest first."""
STEP, PLACES = 1e-6, 1000
"""Seconds between the places of questions that are given at one moment, and how many places there are before they come round again."""
CLOCK_SECONDS = 3600.0
"""How far a clock may be set back before questions that people hold are thought to be over."""

_claims, _queries = schema.claims, schema.queries
_PERSON = bindparam("person", type_=String)


class Taken(NamedTuple):
    """What a question is before somebody for, and since when: in that order they come, also after the page is loaded again."""

    purpose: str
    since: float


@dataclass
class Seen:
    """What one look found: `over`, questions with the people whose time is over; `held`, ids, purposes and since when; `new`, ids."""

    over: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    held: dict[str, Taken] = field(default_factory=dict[str, "Taken"])
    new: list[str] = field(default_factory=list[str])


def take(
    connection: Connection,
    person_id: str,
    count: int,
    overlap: int,
    span: tuple[float, float],
    purposes: Sequence[str],
    places: Sequence[int] | None = None,
) -> dict[str, Taken]:
    """Return up to `count` questions that this person holds from now on: see `Desk.take`."""
    asked = {"person": person_id, "count": count, "purposes": list(purposes), "now": span[0]}
    asked["far"] = span[1] + CLOCK_SECONDS
    levels = _levels(overlap)
    seen = _look(connection, next(levels), asked)
    lost = {query_id for query_id, whose in seen.over if whose == person_id}
    held = dict([(one, taken) for one, taken in seen.held.items() if one not in lost][:count])
    # What this person is answering at this moment, in another window, is no longer theirs. Before anything is given back: whoever
    # answers goes from the claim to the question, and so must this, or each waits for the other.
    if held:
        mine = set(connection.execute(_RENEW, {"person": person_id, "ids": list(held), "til": span[1]}).scalars())
        held = {one: taken for one, taken in held.items() if one in mine}
    if seen.over:
        _give_back(connection, seen.over)
        levels = _levels(overlap)
        seen = _look(connection, next(levels), asked)
    new, wanted = seen.new, count - len(held)
    if places is not None:
        wanted = min(wanted, len(places))
    for more in levels:
        if len(new) >= wanted:
            break
        new += _look(connection, more, asked).new
    new = [one for one in new if one not in held][:wanted]
    since = [span[0]] * len(new) if places is None else [since_of(span[0], place) for place in places[: len(new)]]
    given = {one: Taken(STUDY, at) for one, at in zip(new, since, strict=True)}
    hold(connection, person_id, given, span[1])
    return held | given


def since_of(now: float, place: int) -> float:
    """Return since when the `place`-th question of a person is before them: a little later for each, so that their order stays."""
    return now + STEP * (place % PLACES)


def hold(connection: Connection, person_id: str, given: Mapping[str, Taken], until: float) -> None:
    """Put questions before a person who does not hold them and did not answer them, perhaps gave them back."""
    if not given:
        return
    person = {"person_id": person_id, "state": "held", "until": until}
    rows = [{"query_id": one, "purpose": of.purpose, "since": of.since, **person} for one, of in given.items()]
    connection.execute(_HOLD[connection.dialect.name], rows)
    connection.execute(_GIVEN, {"ids": list(given)})


def _levels(overlap: int) -> Iterator[tuple[int, ...]]:
    """Split the numbers of people who have a question already, the highest first; at least one part, perhaps empty."""
    numbers = range(overlap - 1, -1, -1)
    yield tuple(numbers[:LEVELS])
    for start in range(LEVELS, overlap, LEVELS):
        yield tuple(numbers[start : start + LEVELS])


def _look(connection: Connection, levels: tuple[int, ...], asked: dict[str, Any]) -> Seen:
    """Look for what is over, what a person holds, and `count` questions of each level that they may be given."""
    seen, held = Seen(), list[Any]()
    new: dict[int, list[Any]] = {level: [] for level in levels}
    for row in connection.execute(_statement(levels, asked["count"]), asked):
        if row.level == _OVER:
            seen.over.append((row.query_id, row.person_id))
        elif row.level == _HELD:
            held.append(row)
        else:
            new[row.level].append(row)
    held.sort(key=lambda row: (row.since, row.query_id))
    seen.held = {row.query_id: Taken(row.purpose, row.since) for row in held}
    seen.new = [row.query_id for level in levels for row in sorted(new[level], key=lambda row: row.since)]
    return seen


_OVER, _HELD = -2, -1


@lru_cache
def _statement(levels: tuple[int, ...], count: int) -> Any:
    """Return the statement that looks through these levels.

    Its order begins with `given`, bound from both sides. By `given = 0` alone a planner knows that the order is that of `seq`, takes
    the primary key for a short cut, and reads every question that was ever answered on its way to the first that was not.
    """
    claim = (_claims.c.query_id, _claims.c.person_id, _claims.c.purpose, _claims.c.since)
    now, far = bindparam("now", type_=Double), bindparam("far", type_=Double)
    late = or_(_claims.c.until < now, _claims.c.until > far)
    mine = and_(
        _claims.c.person_id == _PERSON,
        _claims.c.state == "held",
        _claims.c.purpose.in_(bindparam("purposes", expanding=True)),
    )
    parts = [
        select(literal_column(str(_OVER)).label("level"), *claim).where(_claims.c.state == "held", late),
        select(literal_column(str(_HELD)).label("level"), *claim).where(mine),
    ]
    for level in levels:
        had = exists().where(
            _claims.c.query_id == _queries.c.id, _claims.c.person_id == _PERSON, _claims.c.state != "returned"
        )
        number, many = literal_column(str(level), Integer), literal_column(str(count), Integer)
        free = select(
            number.label("level"),
            _queries.c.id.label("query_id"),
            literal_column("''").label("person_id"),
            _queries.c.purpose,
            _queries.c.seq.label("since"),
        ).where(
            _queries.c.purpose == STUDY,
            _queries.c.kind == "compare",  # the pages show two sides
            _queries.c.given >= number,
            _queries.c.given <= number,
            _queries.c.state.in_(("open", "answered") if level else ("open",)),
            ~had,
        )
        free = free.order_by(_queries.c.given, _queries.c.seq).limit(many)
        parts.append(select(free.subquery(f"level_{level}")))
    return union_all(*parts)


def _give_back(connection: Connection, over: Sequence[tuple[str, str]]) -> None:
    """Give back what people held for too long without answering, so that others are asked.

    Claims before questions, as whoever answers goes through them: so neither waits for the other for ever.
    """
    back = [
        query_id
        for query_id, person_id in sorted(over)
        if connection.execute(_BACK, {"query": query_id, "person": person_id}).rowcount
    ]
    for query_id in back:
        connection.execute(_FEWER, {"query": query_id})


def _upsert(dialect: Any) -> Any:
    made = dialect.insert(_claims)
    new = {name: made.excluded[name] for name in ("purpose", "state", "since", "until")}
    made = made.on_conflict_do_update(
        index_elements=[_claims.c.query_id, _claims.c.person_id],
        set_={**new, "judgement_id": null()},
        where=_claims.c.state == literal_column("'returned'"),
    )
    # RETURNING, and no parameters but those of the rows, since SQLAlchemy sends many rows as one statement only so.
    return made.returning(_claims.c.query_id)


_LEVEL = bindparam("level", type_=Integer)
FOLLOWING = (
    select(_queries.c.id)
    .where(_queries.c.purpose == STUDY, _queries.c.kind == "compare", _queries.c.state == "open")
    .where(_queries.c.given >= _LEVEL, _queries.c.given <= _LEVEL)  # from both sides: see `_statement`
    .order_by(_queries.c.given, _queries.c.seq)
    .limit(bindparam("most", type_=Integer))
)
"""The questions that `level` people have, in the order in which they are given."""
_HOLD = {"postgresql": _upsert(postgresql), "sqlite": _upsert(sqlite)}
_IDS = bindparam("ids", expanding=True)
_GIVEN = update(_queries).where(_queries.c.id.in_(_IDS)).values(given=_queries.c.given + 1)
_RENEW = (
    update(_claims)
    .where(_claims.c.person_id == _PERSON, _claims.c.state == "held", _claims.c.query_id.in_(_IDS))
    .values(until=bindparam("til", type_=Double))
    .returning(_claims.c.query_id)
)
_BACK = (
    update(_claims)
    .where(
        _claims.c.query_id == bindparam("query"),
        _claims.c.person_id == bindparam("person"),
        _claims.c.state == literal_column("'held'"),  # nobody answered it since it was looked at
    )
    .values(state="returned")
)
_FEWER = update(_queries).where(_queries.c.id == bindparam("query")).values(given=_queries.c.given - 1)
