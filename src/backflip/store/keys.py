"""The key by which a server knows again what it gave out: drawn once a store, so that it outlives the server.

Leaves out what is signed with it (`backflip.web.tickets`).
"""

from __future__ import annotations

import secrets

from sqlalchemy import insert, select

from backflip.store import schema
from backflip.store.store import Store

KEY = "key"
NOBODY = ""


def ticket_key(store: Store, now: float) -> bytes:
    """Return the store's key; draw it, on the disk when this returns, where there is none yet."""
    table = schema.acts
    wanted = select(table.c.details).where(table.c.person_id == NOBODY, table.c.kind == KEY).order_by(table.c.seq)
    with store.database.transaction("read") as connection:
        found = connection.execute(wanted).scalar()
    if found is None:
        with store.database.transaction("durable") as connection:
            found = connection.execute(wanted).scalar()  # again, now that no other server writes
            if found is None:
                found = {"key": secrets.token_hex(32)}
                row = {"person_id": NOBODY, "kind": KEY, "created": now, "details": found}
                connection.execute(insert(table), row)
    return bytes.fromhex(found["key"])
