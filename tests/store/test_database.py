"""Opening, migrating, closing and breaking the database behind a store."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, inspect, text

from backflip.data import Item, Judgement, Query
from backflip.errors import ConfigError, MissingExtra, StoreError
from backflip.store import Store, database, schema
from backflip.store.database import address

Ask = Callable[..., Query]
NEXT = '''"""A migration that a later version might ship."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("items", sa.Column("colour", sa.Text))
    {extra}
'''


def fill(where: str | Path, ask: Ask) -> None:
    with Store.open(where) as store:
        store.add_queries([ask(1), ask(2)])
        store.add_judgements([Judgement(ask(1).id, "me", (1.0, 0.0))])


def set_revision(where: str | Path, revision: str) -> None:
    engine = create_engine(address(where))
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :new"), {"new": revision})
    engine.dispose()


def plan_migration(folder: Path, monkeypatch: pytest.MonkeyPatch, extra: str = "") -> None:
    """Make this version know schema 0003."""
    folder.mkdir()
    for file in database.MIGRATIONS.glob("*.py"):
        (folder / file.name).write_text(file.read_text())
    (folder / "0003_next.py").write_text(NEXT.format(extra=extra))
    monkeypatch.setattr(database, "MIGRATIONS", folder)
    monkeypatch.setattr(schema, "REVISIONS", ("0001", "0002", "0003"))


def test_migrations_make_the_tables_that_the_code_uses(where: str | Path) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    Store.open(where).close()
    engine = create_engine(address(where))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, schema.metadata) == []
        found = inspect(connection)
        for table in schema.metadata.sorted_tables:
            checks = {check["name"] for check in found.get_check_constraints(table.name)}
            assert checks == {str(c.name) for c in table.constraints if type(c).__name__ == "CheckConstraint"}
    engine.dispose()


def test_the_known_schemas_are_the_migrations_shipped() -> None:
    from alembic.script import ScriptDirectory

    script = ScriptDirectory(str(database.MIGRATIONS), version_locations=[str(database.MIGRATIONS)])
    assert script.get_heads() == [schema.REVISIONS[-1]]
    assert [step.revision for step in script.walk_revisions()][::-1] == list(schema.REVISIONS)


@pytest.mark.parametrize("mode", ["write", "read"])
def test_a_newer_schema_is_refused_and_nothing_is_changed(where: str | Path, ask: Ask, mode: Any) -> None:
    fill(where, ask)
    set_revision(where, "0099")
    before = where.read_bytes() if isinstance(where, Path) else b""
    with pytest.raises(StoreError, match=r"has schema 0099, newer than 0002.*install a newer backflip") as caught:
        Store.open(where, mode)
    assert "\n" not in str(caught.value)
    if isinstance(where, Path):
        assert where.read_bytes() == before and os.listdir(where.parent) == [where.name]
    set_revision(where, "0002")
    with Store.open(where) as store:
        assert store.counts()["queries"] == 2


def test_only_a_writer_migrates_and_only_after_a_backup(
    where: str | Path, ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(where, ask)
    plan_migration(tmp_path / "migrations", monkeypatch)
    with pytest.raises(StoreError, match="has schema 0002, older than 0003; a reader changes nothing"):
        Store.open(where, "read")
    with Store.open(where) as store:
        assert store.queries()[0] == [ask(1), ask(2)] and store.counts()["judgements"] == 1
    engine = create_engine(address(where))
    with engine.connect() as connection:
        assert "colour" in [column["name"] for column in inspect(connection).get_columns("items")]
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == "0003"
        if not isinstance(where, Path):
            saved = connection.execute(text("SELECT count(*) FROM backflip_backup_0002.judgements")).scalar()
            assert saved == 1
    engine.dispose()
    if isinstance(where, Path):
        monkeypatch.undo()
        with Store.open(where.with_name("store.sqlite.backup-0002"), "read") as old:
            assert old.queries()[0] == [ask(1), ask(2)]
    else:
        with Store.open(where) as store:
            assert store.counts()["items"] == 4


def test_a_migration_that_fails_changes_nothing(
    where: str | Path, ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(where, ask)
    with monkeypatch.context() as patch:
        plan_migration(tmp_path / "migrations", patch, 'op.execute("SELECT no_such_column FROM items")')
        with pytest.raises(StoreError, match="no_such_column"):
            Store.open(where)
    with Store.open(where) as store:
        assert store.queries()[0] == [ask(1), ask(2)]
        store.add_items([Item("p", "a", {})])


def test_another_programs_tables_are_left_alone(where: str | Path) -> None:
    engine = create_engine(address(where))
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE items (mine TEXT)"))
    engine.dispose()
    with pytest.raises(StoreError, match="holds other tables under our names"):
        Store.open(where)


def test_a_reader_needs_something_to_read_and_writes_nothing(where: str | Path, ask: Ask) -> None:
    with pytest.raises(StoreError, match="no store at" if isinstance(where, Path) else "no tables of backflip"):
        Store.open(where, "read")
    fill(where, ask)
    with Store.open(where, "read") as reader:
        assert reader.counts()["queries"] == 2
        for act in (
            lambda: reader.add_items([]),
            lambda: reader.add_queries([ask(3)]),
            lambda: reader.add_judgements([]),
            lambda: reader.expire([]),
            lambda: reader.add_truth("t", {}),
            lambda: reader.add_metrics("r", []),
            lambda: reader.keep_metrics("r", 0),
            lambda: reader.import_all([]),
        ):
            with pytest.raises(StoreError, match="open for reading only"):
                act()


def test_a_closed_store_is_one_plain_file_and_reading_leaves_it_so(tmp_path: Path, ask: Ask) -> None:
    where = tmp_path / "in" / "store.sqlite"
    first = Store.open(where)
    second = Store.open(where)
    first.add_queries([ask(1)])
    first.close()
    second.add_queries([ask(2)])
    assert second.counts()["queries"] == 2, "a store that another closes goes on working"
    second.close()
    content, when = where.read_bytes(), where.stat().st_mtime_ns
    assert os.listdir(where.parent) == ["store.sqlite"]
    with Store.open(where, "read") as reader:
        assert len(reader.queries()[0]) == 2
    assert os.listdir(where.parent) == ["store.sqlite"]
    assert (where.read_bytes(), where.stat().st_mtime_ns) == (content, when)


def test_a_reader_sees_what_a_killed_writer_had_committed(tmp_path: Path) -> None:
    where = tmp_path / "store.sqlite"
    script = """
import os, signal, sys
from backflip.data import Item, Judgement, Query
from backflip.store import Store
store = Store.open(sys.argv[1])
query = Query((Item("p", "a", {}), Item("p", "b", {})), "?")
store.add_queries([query])
store.add_judgements([Judgement(query.id, "me", (1.0, 0.0))])
with store._database.transaction("write") as connection:
    from backflip.store import schema
    connection.execute(schema.judgements.delete())
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", script, str(where)], capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    content = where.read_bytes()
    with Store.open(where, "read") as reader:
        assert reader.counts()["judgements"] == 1 and reader.counts()["items"] == 2
    assert where.read_bytes() == content
    with Store.open(where) as writer:
        assert len(writer.queries("answered")[0]) == 1


def test_connections_that_the_server_closed_are_replaced_unnoticed(postgres_url: str, ask: Ask) -> None:
    import psycopg

    end = "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    with Store.open(postgres_url) as store, psycopg.connect(postgres_url, autocommit=True) as other:
        for n in range(3):
            with store.database.transaction("read"), store.database.transaction("read"):
                pass  # two connections, both given back
            ended = other.execute(end).fetchone()
            assert ended is not None and ended[0] == 2
            store.add_queries([ask(n)])
            assert store.counts()["queries"] == n + 1


def limited(size: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_on_a_full_disk_the_transaction_is_undone(tmp_path: Path, ask: Ask) -> None:
    where = tmp_path / "store.sqlite"
    fill(where, ask)
    script = """
import sys
from backflip.data import Item
from backflip.errors import StoreError
from backflip.store import Store
store = Store.open(sys.argv[1])
try:
    store.add_items([Item("p", str(n) + "x" * 5000, {}) for n in range(500)])
except StoreError as error:
    print(error)
store.add_items([Item("p", "small", {})])
store.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(where)], capture_output=True, text=True, preexec_fn=limited(400_000)
    )
    assert "make room" in done.stdout and done.stdout.count("\n") == 1, done.stderr
    with Store.open(where) as store:
        assert store.counts()["items"] == 5 and store.queries()[0] == [ask(1), ask(2)]


def test_what_is_no_store_is_named(tmp_path: Path) -> None:
    other = tmp_path / "letter.txt"
    other.write_text("Dear editor, " * 1000)
    for mode in ("write", "read"):
        with pytest.raises(StoreError, match=r"letter.txt failed: file is not a database; the file is something else"):
            Store.open(other, mode)
    assert other.read_text() == "Dear editor, " * 1000
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot make the folder"):
        Store.open(tmp_path / "file" / "store.sqlite")


def test_a_cut_off_store_is_an_error_in_one_line(tmp_path: Path, ask: Ask) -> None:
    where = tmp_path / "store.sqlite"
    fill(where, ask)
    where.write_bytes(where.read_bytes()[:20_000])
    with pytest.raises(StoreError, match="restore it from a copy") as caught, Store.open(where, "read") as store:
        store.queries()
    assert "\n" not in str(caught.value)


def test_a_lock_held_too_long_is_an_error_that_says_so(
    tmp_path: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = tmp_path / "store.sqlite"
    fill(where, ask)
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.2)
    with Store.open(where) as store:
        other = sqlite3.connect(where, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="locked; another process holds it"):
            store.add_items([Item("p", "a", {})])
        assert store.counts()["queries"] == 2, "readers do not wait for writers"
        other.execute("ROLLBACK")
        other.close()
        assert store.add_items([Item("p", "a", {})]) == 1


def test_a_writer_waits_for_another(tmp_path: Path, ask: Ask) -> None:
    import threading

    where = tmp_path / "store.sqlite"
    fill(where, ask)
    with Store.open(where) as store:
        other = sqlite3.connect(where, isolation_level=None, check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        timer = threading.Timer(0.3, lambda: other.execute("ROLLBACK"))
        begun = time.monotonic()
        timer.start()
        assert store.add_items([Item("p", "a", {})]) == 1 and time.monotonic() - begun > 0.2
        timer.join()
        other.close()


@pytest.mark.parametrize("where", [":memory:", "", "sqlite://"])
def test_a_store_must_survive_a_crash(where: str) -> None:
    with pytest.raises(ConfigError, match="must survive a crash"):
        Store.open(where)


def test_addresses() -> None:
    assert str(address("postgresql://me@host/db")) == "postgresql+psycopg://me@host/db"
    assert address("sqlite:////tmp/x.sqlite").database == "/tmp/x.sqlite"
    with pytest.raises(ConfigError, match="cannot live in mysql"):
        address("mysql://host/db")
    with pytest.raises(ConfigError, match="cannot read the store's address"):
        address("postgresql://host:port/db")


def test_a_missing_driver_is_one_line_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtra, match=r"pip install 'backflip\[postgres\]'"):
        Store.open("postgresql://me@nowhere/db")


def test_a_server_that_does_not_answer_is_one_line_without_the_password() -> None:
    with pytest.raises(StoreError, match="check that the database server runs") as caught:
        Store.open("postgresql://me:secret@127.0.0.1:1/db")
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)
