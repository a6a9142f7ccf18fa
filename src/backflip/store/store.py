"""Everything asked, answered and measured: the queue between a run and its judges, and the record of both.

Items are addressed by content; queries move from `waiting for aid` to `open` to `answered` (or `expired`);
judgements are events that are only ever added, read through a cursor that the reader keeps. Several threads and
processes may use one store at once. Leaves out how a database is opened and migrated (`database.py`), and exchange
with other tools (`interchange.py`).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from sqlalchemy import Connection, Table, and_, delete, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from backflip.data import Item, Judgement, Query
from backflip.errors import ConfigError, StoreError
from backflip.store import records, schema
from backflip.store.database import Database

Row = TypeVar("Row")
State = Literal["waiting for aid", "open", "answered", "expired"]
PAGE = 1000
"""Rows fetched, and ids put into one statement, at a time."""
POLL_SECONDS = 0.1
"""How often a waiting reader looks again."""


class Store:
    """One store. Open it with `Store.open`, and close it or use it in a `with` block."""

    def __init__(self, database: Database) -> None:
        """Wrap an open database; callers use `Store.open`."""
        self._database = database

    @classmethod
    def open(cls, where: str | Path, mode: Literal["write", "read"] = "write") -> Store:
        """Open the store at a path (SQLite) or a `postgresql://` URL.

        A writer creates what is missing and migrates an older schema after a backup; a reader never changes
        anything. Raises StoreError: nothing there to read, a newer schema, no permission.
        """
        return cls(Database(where, mode))

    @property
    def where(self) -> str:
        """The path, or the URL with its password hidden."""
        return self._database.name

    @property
    def database(self) -> Database:
        """The open database, for what else keeps its rows there: people and their desk."""
        return self._database

    def close(self) -> None:
        """Close every connection; the last writer leaves a SQLite store as one plain file."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add_items(self, items: Iterable[Item]) -> int:
        """Store items that are not there yet; return how many were new."""
        with self._database.transaction("write") as connection:
            return _add_items(connection, items)

    def items(self, ids: Sequence[str]) -> list[Item]:
        """Return the items with these ids, in that order. Raises StoreError naming an id that is not stored."""
        with self._database.transaction("read") as connection:
            return _items(connection, ids)

    def add_queries(self, queries: Iterable[Query], state: Literal["open", "waiting for aid"] = "open") -> int:
        """Ask; return how many queries were new. Asking again changes nothing, except that what had expired or waited
        for aid becomes open when it is asked as open."""
        with self._database.transaction("write") as connection:
            return insert_queries(connection, queries, state)

    def queries(
        self, state: State | None = None, after: int = 0, limit: int = PAGE, purpose: str | None = None
    ) -> tuple[list[Query], int]:
        """Return up to `limit` queries in the order asked, and the cursor to pass as `after` for the next page."""
        if state is not None and state not in schema.STATES:
            raise ConfigError(f"no query is ever {state!r}; expected one of {', '.join(schema.STATES)}")
        table = schema.queries
        wanted = select(table).where(table.c.seq > after).order_by(table.c.seq).limit(limit)
        if state is not None:
            wanted = wanted.where(table.c.state == state)
        if purpose is not None:
            wanted = wanted.where(table.c.purpose == purpose)
        with self._database.transaction("read") as connection:
            rows = connection.execute(wanted).mappings().all()
            return _queries(connection, rows), rows[-1]["seq"] if rows else after

    def query(self, query_id: str) -> Query:
        """Return one query. Raises StoreError where it was never asked."""
        found = self.queries_by_id([query_id])
        if not found:
            raise StoreError(f"no query {query_id} in {self.where}; it was never asked here")
        return found[query_id]

    def queries_by_id(self, query_ids: Iterable[str]) -> dict[str, Query]:
        """Return these queries by id; what was never asked is absent."""
        table, found = schema.queries, dict[str, Query]()
        with self._database.transaction("read") as connection:
            for part in _pages(query_ids):
                rows = connection.execute(select(table).where(table.c.id.in_(part))).mappings().all()
                found.update({row["id"]: query for row, query in zip(rows, _queries(connection, rows), strict=True)})
        return found

    def states(self, query_ids: Iterable[str]) -> dict[str, State]:
        """Return the state of each of these queries; what was never asked is absent."""
        table, found = schema.queries, dict[str, State]()
        with self._database.transaction("read") as connection:
            for part in _pages(query_ids):
                rows = connection.execute(select(table.c.id, table.c.state).where(table.c.id.in_(part)))
                found.update({row.id: row.state for row in rows})
        return found

    def expire(self, query_ids: Iterable[str]) -> int:
        """Withdraw queries that still wait for an answer; return how many. A late answer is recorded all the same."""
        table, changed = schema.queries, 0
        with self._database.transaction("write") as connection:
            for part in _pages(query_ids):
                waiting = and_(table.c.id.in_(part), table.c.state.in_(("open", "waiting for aid")))
                changed += connection.execute(update(table).where(waiting).values(state="expired")).rowcount
        return changed

    def add_judgements(self, judgements: Iterable[Judgement]) -> int:
        """Record answers and return the cursor behind them; an identical judgement is the same event, recorded once.

        All or none are recorded, and on the disk when this returns. Raises StoreError where a query was never asked.
        """
        with self._database.transaction("durable") as connection:
            _add_judgements(connection, judgements)
            return _last(connection, schema.judgements)

    def judgements(self, since: int = 0, limit: int | None = None, wait: float = 0.0) -> tuple[list[Judgement], int]:
        """Return the judgements recorded after cursor `since`, in order, and the new cursor.

        `wait` is the number of seconds to wait for the first one; 0 returns at once.
        """
        table, deadline = schema.judgements, time.monotonic() + wait
        while True:
            with self._database.transaction("read") as connection:
                wanted = select(table).where(table.c.seq > since).order_by(table.c.seq).limit(limit)
                rows = connection.execute(wanted).mappings().all()
            if rows or (left := deadline - time.monotonic()) <= 0:
                return [records.judgement(row) for row in rows], rows[-1]["seq"] if rows else since
            time.sleep(min(POLL_SECONDS, left))

    def judgements_by_id(self, ids: Iterable[str]) -> dict[str, Judgement]:
        """Return these judgements by id; what was never recorded is absent."""
        table, found = schema.judgements, dict[str, Judgement]()
        with self._database.transaction("read") as connection:
            for part in _pages(ids):
                rows = connection.execute(select(table).where(table.c.id.in_(part))).mappings()
                found.update({row["id"]: records.judgement(row) for row in rows})
        return found

    def judgement_events(self, since: int = 0) -> list[tuple[int, str, Judgement]]:
        """Return the judgements after cursor `since` with their cursors and ids, in order."""
        table = schema.judgements
        with self._database.transaction("read") as connection:
            rows = connection.execute(select(table).where(table.c.seq > since).order_by(table.c.seq)).mappings().all()
        return [(row["seq"], row["id"], records.judgement(row)) for row in rows]

    def import_all(self, batches: Iterable[tuple[Sequence[Query], Sequence[Judgement]]]) -> tuple[int, int]:
        """Add batches of queries and judgements in one transaction: all of them or, on any error, nothing.

        Returns how many queries and judgements were new.
        """
        asked = told = 0
        with self._database.transaction("durable") as connection:
            for queries, judgements in batches:
                asked += insert_queries(connection, queries, "open")
                told += _add_judgements(connection, judgements)
        return asked, told

    def add_media(self, item_id: str, kind: str, content: bytes) -> None:
        """Keep what shows an item, such as the film of a clip; what is there already stays."""
        with self._database.transaction("write") as connection:
            insert_new(connection, schema.media, [{"item_id": item_id, "kind": kind, "content": content}])

    def media(self, item_id: str) -> tuple[str, bytes] | None:
        """Return the kind and the content of what shows an item; None where nothing was kept."""
        table = schema.media
        with self._database.transaction("read") as connection:
            row = connection.execute(select(table.c.kind, table.c.content).where(table.c.item_id == item_id)).first()
        return None if row is None else (row.kind, row.content)

    def has_media(self, item_id: str) -> bool:
        """Return whether something shows an item."""
        table = schema.media
        with self._database.transaction("read") as connection:
            return connection.execute(select(table.c.item_id).where(table.c.item_id == item_id)).first() is not None

    def add_truth(self, name: str, values: Mapping[str, Sequence[float]]) -> None:
        """Keep ground truth `{item id: numbers}` under `name`; a value that is there already stays."""
        rows = [{"name": name, "item_id": key, "value": [float(x) for x in value]} for key, value in values.items()]
        records.check_json([row["value"] for row in rows], f"truth {name!r}")
        with self._database.transaction("write") as connection:
            insert_new(connection, schema.truths, rows)

    def truth(self, item_ids: Iterable[str], name: str) -> dict[str, list[float]]:
        """Return the values kept under `name` for these items; an item without one is absent."""
        table, found = schema.truths, dict[str, list[float]]()
        with self._database.transaction("read") as connection:
            for part in _pages(item_ids):
                wanted = select(table.c.item_id, table.c.value).where(table.c.name == name, table.c.item_id.in_(part))
                found.update({row.item_id: row.value for row in connection.execute(wanted)})
        return found

    def add_metrics(self, run: str, rows: Iterable[Mapping[str, Any]]) -> int:
        """Keep logged lines {"step", "phase", "seconds", name: number, ...} of a run; return the cursor behind them."""
        with self._database.transaction("write") as connection:
            insert_new(connection, schema.metrics, [records.metric_row(run, row) for row in rows])
            return _last(connection, schema.metrics)

    def metrics(self, run: str, since: int = 0, limit: int | None = None) -> tuple[list[dict[str, Any]], int]:
        """Return the lines a run logged after cursor `since`, in order, and the new cursor."""
        table = schema.metrics
        wanted = select(table).where(table.c.run == run, table.c.seq > since).order_by(table.c.seq).limit(limit)
        with self._database.transaction("read") as connection:
            rows = connection.execute(wanted).mappings().all()
        return [records.metric(row) for row in rows], rows[-1]["seq"] if rows else since

    def runs_with_metrics(self) -> list[str]:
        """Return the runs that logged anything here."""
        with self._database.transaction("read") as connection:
            return list(
                connection.execute(select(schema.metrics.c.run).distinct().order_by(schema.metrics.c.run)).scalars()
            )

    def last_judgement(self) -> int:
        """Return the cursor behind all judgements."""
        with self._database.transaction("read") as connection:
            return _last(connection, schema.judgements)

    def keep_metrics(self, run: str, rows: int) -> None:
        """Keep the first `rows` logged lines of a run and forget the rest: a resumed run logs those again."""
        table = schema.metrics
        with self._database.transaction("write") as connection:
            kept = select(table.c.seq).where(table.c.run == run).order_by(table.c.seq).limit(rows)
            connection.execute(delete(table).where(table.c.run == run, table.c.seq.not_in(kept)))

    def counts(self) -> dict[str, int]:
        """Return how much of everything there is: each table, each query state, and `could_not_judge`."""
        with self._database.transaction("read") as connection:
            tables = (schema.items, schema.queries, schema.judgements, schema.truths, schema.metrics)
            found = {
                table.name: connection.execute(select(func.count()).select_from(table)).scalar_one() for table in tables
            }
            states = select(schema.queries.c.state, func.count().label("n")).group_by(schema.queries.c.state)
            found |= dict.fromkeys(schema.STATES, 0)
            found |= {row.state: row.n for row in connection.execute(states)}
            made = schema.judgements.c
            empty = select(func.count()).where(made.answer.is_(None), made.note != records.UNDONE)
            found["could_not_judge"] = connection.execute(empty).scalar_one()
        return found


def _batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Split anything into lists of at most PAGE, without holding more than one."""
    rest = iter(rows)
    while part := list(islice(rest, PAGE)):
        yield part


def _pages(ids: Iterable[str]) -> Iterator[list[str]]:
    """Split ids into parts that fit into one statement, each id once."""
    return _batches(dict.fromkeys(ids))


def insert_new(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> int:
    """Insert rows whose keys are new; return how many were."""
    if not rows:
        return 0
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    # RETURNING, since PostgreSQL's driver counts no rows of an insert in many parts.
    made = dialect.insert(table).on_conflict_do_nothing().returning(next(iter(table.primary_key.columns)))
    return len(connection.execute(made, list(rows)).all())


def _last(connection: Connection, table: Table) -> int:
    return connection.execute(select(func.max(table.c.seq))).scalar() or 0


def _add_items(connection: Connection, items: Iterable[Item]) -> int:
    return sum(
        insert_new(connection, schema.items, [records.item_row(item) for item in part]) for part in _batches(items)
    )


def insert_queries(connection: Connection, queries: Iterable[Query], state: str, purpose: str = "study") -> int:
    """Insert queries with their items and aids, in the caller's transaction; return how many were new.

    `purpose` is that of the new ones; one that is there already keeps its own.
    """
    new, table = 0, schema.queries
    for part in _batches(queries):
        rows = [records.query_rows(query, state) for query in part]
        _add_items(connection, (item for query in part for item in query.items))
        fresh = insert_new(connection, table, [{**row, "purpose": purpose} for row, _, _ in rows])
        new += fresh
        insert_new(connection, schema.query_items, [row for _, items, _ in rows for row in items])
        insert_new(connection, schema.aids, [row for _, _, aids in rows for row in aids])
        if state == "open" and fresh < len(rows):
            asked = [row["id"] for row, _, _ in rows]
            again = and_(table.c.id.in_(asked), table.c.state.in_(("expired", "waiting for aid")))
            connection.execute(update(table).where(again).values(state="open"))
    return new


def _add_judgements(connection: Connection, judgements: Iterable[Judgement]) -> int:
    new, table = 0, schema.queries
    for part in _batches(judgements):
        rows = [records.judgement_row(judgement) for judgement in part]
        asked = list(dict.fromkeys(row["query_id"] for row in rows))
        known = set(connection.execute(select(table.c.id).where(table.c.id.in_(asked))).scalars())
        if missing := [query_id for query_id in asked if query_id not in known]:
            raise StoreError(
                f"{len(missing)} judgements answer queries never asked here, e.g. {missing[0]}; add the query first"
            )
        connection.execute(update(table).where(table.c.id.in_(asked)).values(state="answered"))
        new += insert_new(connection, schema.judgements, rows)
    return new


def _items(connection: Connection, ids: Sequence[str]) -> list[Item]:
    found: dict[str, Item] = {}
    for part in _pages(ids):
        rows = connection.execute(select(schema.items).where(schema.items.c.id.in_(part))).mappings()
        found.update({row["id"]: records.item(row) for row in rows})
    missing = [key for key in ids if key not in found]
    if missing:
        raise StoreError(f"{len(missing)} items are not in the store, e.g. {missing[0]}; was it made by another run?")
    return [found[key] for key in ids]


def _queries(connection: Connection, rows: Sequence[Any]) -> list[Query]:
    """Put queries together from their rows, with a fixed number of statements a page."""
    places: dict[str, list[str]] = {row["id"]: [] for row in rows}
    helped: dict[str, list[Any]] = {row["id"]: [] for row in rows}
    for part in _pages(places):
        table = schema.query_items
        for row in connection.execute(
            select(table).where(table.c.query_id.in_(part)).order_by(table.c.query_id, table.c.place)
        ):
            places[row.query_id].append(row.item_id)
        table = schema.aids
        wanted = select(table).where(table.c.query_id.in_(part)).order_by(table.c.query_id, table.c.place)
        for row in connection.execute(wanted).mappings():
            helped[row["query_id"]].append(row)
    wanted_items = list(dict.fromkeys(item_id for ids in places.values() for item_id in ids))
    known = dict(zip(wanted_items, _items(connection, wanted_items), strict=True))
    return [records.query(row, [known[key] for key in places[row["id"]]], helped[row["id"]]) for row in rows]
