"""Open the database behind a store: addresses, transactions, schema, and errors in one line.

A transaction is a *read*, a *write*, a *durable* write, or a *deal*, which says who holds which question and appends no events: on SQLite a write takes the one writer's place when it
begins, so that nobody fails half-way for a lock, and a durable one is on the disk before it returns; on PostgreSQL
writers queue up behind an advisory lock, so that events become visible in the order of their numbers and a reader's
cursor misses none (`postgres.py`); deals queue up behind another one, so that nobody waits for the disk to be given a question. Leaves out what is stored: see `store.py`.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from threading import Lock
from typing import Any, Literal

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, StatementError

from backflip.errors import ConfigError, DataError, MissingExtra, StoreError
from backflip.store import postgres, schema
from backflip.store.json_text import written

MIGRATIONS = Path(__file__).parent / "migrations"
Kind = Literal["read", "write", "durable", "deal"]
BUSY_SECONDS = 30.0
"""How long a write waits for another process's write."""


class Database:
    """An engine with our transactions, for many threads; after a fork the child gets connections of its own."""

    def __init__(self, where: str | Path, mode: Literal["write", "read"]) -> None:
        """Connect; a writer creates what is missing and migrates what is old (after a backup), a reader does neither.

        Raises StoreError where there is nothing to read, or where the schema is newer than this version knows.
        """
        self.url = address(where)
        self.mode = mode
        self.sqlite = self.url.get_backend_name() == "sqlite"
        self.path = Path(str(self.url.database)) if self.sqlite else None
        self.name = str(self.path or self.url.render_as_string(hide_password=True))
        if self.path and mode == "read" and not self.path.is_file():
            raise StoreError(f"no store at {self.name}; expected a file written by a run or by `backflip import`")
        if self.path and mode == "write":
            _make_folder(self.path.parent)
        self._engine = _engine(self.url, self.path, mode)
        self._pid = os.getpid()
        self._writing, self._dealing = Lock(), Lock()
        try:
            self._check_schema()
            if self.path and mode == "write":
                with self._clear():
                    _use_write_ahead_log(self._engine)
        except BaseException:
            self._engine.dispose()
            raise

    @contextmanager
    def transaction(self, kind: Kind) -> Generator[Connection, None, None]:
        """Yield a connection in one transaction, committed when the block ends well, undone when it raises."""
        if kind != "read" and self.mode == "read":
            raise StoreError(f"the store {self.name} is open for reading only; open it with mode='write'")
        if self._pid != os.getpid():
            self._engine.dispose(close=False)
            self._pid = os.getpid()
            self._writing, self._dealing = Lock(), Lock()
        # One writes at a time in any case. SQLite's writers poll for each other with growing pauses, PostgreSQL's hold a connection each:
        # threads of one process queue here without.
        lock = self._dealing if kind == "deal" and not self.sqlite else self._writing
        alone = lock if kind != "read" else nullcontext()
        with (
            alone,
            self._clear(),
            self._engine.connect().execution_options(backflip=kind) as connection,
            connection.begin(),
        ):
            yield connection

    def close(self) -> None:
        """Give back every connection; the last writer leaves a SQLite store as one plain file, no log beside it."""
        self._engine.dispose()
        if self.path and self.mode == "write" and self.path.is_file():
            connection = sqlite3.connect(self.path, timeout=0.0, isolation_level=None)
            try:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                connection.execute("PRAGMA journal_mode=DELETE").fetchall()
            except sqlite3.OperationalError:
                pass  # somebody else still has it open, and will do this when they close
            finally:
                connection.close()

    @contextmanager
    def _clear(self) -> Generator[None, None, None]:
        """Turn the database's errors into ours."""
        try:
            yield
        except DBAPIError as error:
            raise _explain(error, self.name) from error
        except UnicodeEncodeError as error:
            raise _half(error) from error
        except StatementError as error:  # what our own writing of JSON raised, wrapped
            if isinstance(error.orig, UnicodeEncodeError):
                raise _half(error.orig) from error
            raise

    def _check_schema(self) -> None:
        with self.transaction("read") as connection:
            found = self._revision(connection)
        if found == schema.REVISIONS[-1]:
            return
        if self.mode == "read":
            if not found:
                made = "expected a store that a run or `backflip import` made"
                raise StoreError(f"{self.name} has no tables of backflip; {made}")
            what = f"schema {found}, older than {schema.REVISIONS[-1]}"
            remedy = (
                "a reader changes nothing: open it once for writing, e.g. by `backflip serve` or by resuming its run"
            )
            raise StoreError(f"{self.name} has {what}; {remedy}")
        with self.transaction("durable") as connection:
            found = self._revision(connection)  # again, now that nobody else writes: another process may have migrated
            if found and found != schema.REVISIONS[-1]:
                if self.path:
                    _back_up(self.path, self.path.with_name(f"{self.path.name}.backup-{found}"))
                else:
                    _back_up_tables(connection, f"backflip_backup_{found}")
            _migrate(connection, found)

    def _revision(self, connection: Connection) -> str | None:
        """Return the schema's number, None in an empty database; refuse what this version does not know."""
        tables = set(inspect(connection).get_table_names())
        if "alembic_version" not in tables:
            if tables & set(schema.metadata.tables):
                raise StoreError(
                    f"{self.name} holds other tables under our names; give the store a database of its own"
                )
            return None
        found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
        if found is not None and found not in schema.REVISIONS:
            raise StoreError(
                f"{self.name} has schema {found}, newer than {schema.REVISIONS[-1]}, the newest this version "
                "of backflip knows; install a newer backflip (nothing was changed)"
            )
        return found


def address(where: str | Path) -> URL:
    """Return the database's URL: a path means SQLite, `postgresql://user@host/name` PostgreSQL.

    Raises ConfigError for any other kind of URL, MissingExtra where the PostgreSQL driver is not installed.
    """
    if isinstance(where, Path) or "://" not in where:
        if str(where) in ("", ":memory:"):
            raise ConfigError(
                "a store must survive a crash, so it lives in a file or a server; give a path or postgresql://..."
            )
        return URL.create("sqlite", database=str(Path(where).absolute()))
    try:
        url = make_url(where)
    except (ArgumentError, ValueError) as error:
        raise ConfigError(
            f"cannot read the store's address {where!r}: {error}; expected a path or postgresql://..."
        ) from error
    if url.drivername in ("postgresql", "postgres"):
        url = url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() != "sqlite" and url.drivername != "postgresql+psycopg":
        raise ConfigError(f"a store cannot live in {url.drivername}; expected a path (SQLite) or postgresql://...")
    if url.get_backend_name() == "sqlite":
        return address(Path(url.database or ":memory:"))
    return url


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"cannot make the folder {folder} for the store: {error.strerror}; give another path"
        ) from error


def _engine(url: URL, path: Path | None, mode: str) -> Engine:
    if path is None:
        try:
            return postgres.engine(url)
        except (ModuleNotFoundError, NoSuchModuleError) as error:
            what = f"{url.drivername} needs a driver that is not installed"
            raise MissingExtra(f"{what}; run: pip install 'backflip[postgres]'") from error
    arguments: dict[str, Any] = {"timeout": BUSY_SECONDS, "check_same_thread": False, "isolation_level": None}
    if mode == "read":
        arguments["uri"] = True
        engine = create_engine(f"sqlite:///{path.as_uri()}?mode=ro&uri=true", connect_args=arguments)
    else:
        engine = create_engine(url, connect_args=arguments, json_serializer=written)
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", _on_begin)
    return engine


def _on_connect(connection: sqlite3.Connection, _: object) -> None:
    connection.execute("PRAGMA foreign_keys=ON")


def _on_begin(connection: Connection) -> None:
    """Begin as the kind of transaction needs: Python's own SQLite driver would begin too late, and only to read."""
    kind = connection.get_execution_options().get("backflip", "read")
    if kind == "read":
        connection.exec_driver_sql("BEGIN")
        return
    connection.exec_driver_sql(f"PRAGMA synchronous={'FULL' if kind == 'durable' else 'NORMAL'}")
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _use_write_ahead_log(engine: Engine) -> None:
    """Let readers and one writer work side by side. Turning it on needs the file alone for a moment."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        raw = engine.raw_connection()
        try:
            raw.cursor().execute("PRAGMA journal_mode=WAL").fetchall()
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise DBAPIError("PRAGMA journal_mode=WAL", None, error) from error
            time.sleep(0.05)
        except sqlite3.DatabaseError as error:
            raise DBAPIError("PRAGMA journal_mode=WAL", None, error) from error
        finally:
            raw.close()


def _migrate(connection: Connection, found: str | None) -> None:
    """Run the migrations after `found`, all in the caller's transaction."""
    from alembic.migration import MigrationContext
    from alembic.operations import Operations
    from alembic.script import ScriptDirectory

    script = ScriptDirectory(str(MIGRATIONS), version_locations=[str(MIGRATIONS)])
    context = MigrationContext.configure(connection)
    steps = (
        [] if found == schema.REVISIONS[-1] else list(script.iterate_revisions(schema.REVISIONS[-1], found or "base"))
    )
    for step in reversed(steps):
        with Operations.context(context):
            step.module.upgrade()
        context.stamp(script, step.revision)


def _back_up(path: Path, backup: Path) -> None:
    """Copy a SQLite store as it is now, committed log included, to one file that is whole or absent."""
    new = backup.with_name(f".{backup.name}.new")
    new.unlink(missing_ok=True)
    source, target = sqlite3.connect(path, timeout=BUSY_SECONDS), sqlite3.connect(new)
    try:
        source.backup(target)
    except sqlite3.Error as error:
        raise DBAPIError(f"copy to {backup}", None, error) from error
    finally:
        target.close()
        source.close()
    os.replace(new, backup)


def _back_up_tables(connection: Connection, name: str) -> None:
    """Copy the tables of a PostgreSQL store into a schema of their own, in the migration's transaction."""
    connection.execute(text(f"CREATE SCHEMA {name}"))
    for table in inspect(connection).get_table_names():
        connection.execute(text(f"CREATE TABLE {name}.{table} AS TABLE {table}"))


def _half(error: UnicodeEncodeError) -> DataError:
    return DataError(f"cannot store text that is no valid Unicode ({error}); replace its lone surrogates")


def _explain(error: DBAPIError, name: str) -> StoreError:
    """Say in one line what the database could not do, and what to do about it."""
    what = " ".join(str(error.orig).split())
    remedies = {
        "locked": "another process holds it: wait for it or stop it",
        "full": "make room on the disk, then go on; nothing was half-written",
        "disk i/o error": "the disk is full or failing: make room, then go on; nothing was half-written",
        "readonly": "give this user write permission on the file and its folder",
        "unable to open": "check that its folder exists and that this user may write there",
        "not a database": "the file is something else, or damaged: give another path, or restore it from a copy",
        "malformed": "the file is damaged: restore it from a copy (a .backup-... may lie beside it)",
        "connection": "check that the database server runs and that the address and password are right",
    }
    remedy = next((text for sign, text in remedies.items() if sign in what.lower()), "the transaction was undone")
    return StoreError(f"the store {name} failed: {what}; {remedy}")
