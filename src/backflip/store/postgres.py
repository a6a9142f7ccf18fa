"""Connections to PostgreSQL that cost one round trip a statement, and none to begin to read or to learn that they still live.

A read is not wrapped into a transaction: each of its statements sees what is committed when it begins, as they did inside one
(READ COMMITTED). A write begins, says whether it waits for the disk, and takes its turn in one message. Leaves out SQLite, and
what a transaction is for: see `database.py`.
"""

from __future__ import annotations

import select
import time
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import InvalidatePoolError

from backflip.store.json_text import read_from_postgres, written_for_postgres

KEPT, MORE = 16, 32
"""Connections that stay open once they were needed, and how many more may be for a moment: a server answers in 40 threads. To open
one costs more than a hundred statements."""
TRUSTED_SECONDS = 30.0
"""For how long a connection that nobody used is thought to live, as long as nothing came over it."""
_APPEND, _DEAL = 0x6261636B, 0x6465616C
"""The advisory locks under which writers append ("back") and give questions to people ("deal")."""

# As on SQLite, only a durable write waits for the disk; a later durable one takes the others there too.
_BEGIN = {
    kind: f"BEGIN; SELECT set_config('synchronous_commit', '{waits}', true), pg_advisory_xact_lock({lock})"
    for kind, waits, lock in (("durable", "on", _APPEND), ("write", "off", _APPEND), ("deal", "off", _DEAL))
}


def engine(url: URL) -> Engine:
    """Return an engine. Raises ModuleNotFoundError where psycopg is not installed."""
    made = create_engine(
        url,
        pool_size=KEPT,
        max_overflow=MORE,
        json_serializer=written_for_postgres,
        json_deserializer=read_from_postgres,
    )
    event.listen(made, "connect", _on_connect)
    event.listen(made, "checkin", _on_checkin)
    event.listen(made, "checkout", _on_checkout)
    event.listen(made, "begin", _on_begin)
    return made


def _on_connect(connection: Any, _: object) -> None:
    """Leave it to us where a transaction begins: the driver would begin one for every statement, in a message of its own."""
    connection.autocommit = True


def _on_begin(connection: Connection) -> None:
    begin = _BEGIN.get(connection.get_execution_options().get("backflip", "read"))
    if begin is not None:
        connection.exec_driver_sql(begin)


def _on_checkin(_: object, record: Any) -> None:
    record.info["back"] = time.monotonic()


def _on_checkout(connection: Any, record: Any, _: object) -> None:
    """Make sure that a connection lives, asking the server only where there is a doubt.

    What the server closed shows it: there is something to read, its farewell or the end, though nothing was asked.
    """
    back = record.info.get("back")
    if back is None:
        return  # it is new
    from psycopg import Error

    try:
        watch = select.poll()
        watch.register(connection.fileno(), select.POLLIN)
        if time.monotonic() - back > TRUSTED_SECONDS or watch.poll(0):
            connection.execute("SELECT 1")
    except Error as error:
        raise InvalidatePoolError from error
