"""How PostgreSQL goes about finding what comes next, once it knows its tables well."""

from __future__ import annotations

from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine

from backflip.store import Store
from backflip.store.desk import Desk

from .test_desk import join

MANY, ANSWERED = 20_000, 4_000
FILL = f"""INSERT INTO queries (id, kind, question, instruction, repeat, shown_order, reason, state, given)
    SELECT md5(n::text), 'compare', '?', '', 0, '[]', '', CASE WHEN n > {ANSWERED} THEN 'open' ELSE 'answered' END,
    CASE WHEN n > {ANSWERED} THEN 0 ELSE 2 END FROM generate_series(1, {MANY}) AS n"""


def test_the_next_pair_is_found_without_reading_those_that_were_answered(postgres_url: str) -> None:
    """A planner that knows how few were answered takes the primary key for a short cut, unless the order forbids it."""
    sent: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        sent.append((statement, parameters))

    with Store.open(postgres_url) as store:
        with store.database.transaction("write") as connection:
            connection.exec_driver_sql(FILL)
            connection.exec_driver_sql("ANALYZE")
        person = join(store, "a")
        event.listen(Engine, "before_cursor_execute", note)
        try:
            Desk(store).take(person, 3, 2, 0.0, 100.0)
        finally:
            event.remove(Engine, "before_cursor_execute", note)
        look, parameters = next(one for one in sent if "UNION ALL" in one[0])
        with store.database.transaction("read") as connection:
            plan = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {look}", parameters).scalar_one()
    removed: list[float] = []
    rest = [plan[0]["Plan"]]
    while rest:
        node = rest.pop()
        removed.append(node.get("Rows Removed by Filter", 0) * node["Actual Loops"])
        rest += node.get("Plans", [])
    assert len(removed) > 4 and max(removed) < 100, plan
