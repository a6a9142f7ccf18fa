"""A new password for somebody who forgot theirs: a link that works once, made by an owner or at the machine that holds the store.

Of a link only its hash is kept, among the acts of the person, so erasing them takes it away. Leaves out how passwords are hashed, and
everything about HTTP.
"""

from __future__ import annotations

import secrets
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from backflip.errors import DataError
from backflip.store import schema
from backflip.store.people import People, Person, digest_of
from backflip.store.store import Store

LINK = "reset"
"""Act of a person for whom a link was made that was not used yet; there is one at most."""
CHOSEN = "new password"
"""Act of a person who chose a new password by a link: by whom it was made."""
AT_THE_MACHINE = "machine"
"""Stands for whoever made a link at the command line."""
_ID_LETTERS = 16
NO_LINK = "this link is not good: it was used already, replaced by a newer one, or has expired; ask an owner of the study for a new one"


class Resets:
    """The links of one store. Times are seconds since 1970, given by the caller."""

    def __init__(self, store: Store) -> None:
        """Work on the people of `store`."""
        self._database, self._people = store.database, People(store)

    def make(self, person_id: str, by: str, now: float, hours: float) -> str:
        """Make a link for a person and return its token, which is not stored; an earlier link of theirs is good no more.

        `by` is the id of who makes it. Until it is used nothing changes: the old password is good, and nobody is signed out.

        Raises:
            StoreError: there is no such person.
            DataError: they were erased.
        """
        person = self._people.person(person_id)
        if person.state == "erased":
            raise DataError("this person was erased; invite them anew")
        token = person.id + secrets.token_urlsafe(24)
        details = {"link": digest_of(token), "expires": now + 3600 * hours, "by": by}
        with self._database.transaction("durable") as connection:
            connection.execute(delete(schema.acts).where(*_of(person.id)))
            row = {"person_id": person.id, "kind": LINK, "created": now, "details": details}
            connection.execute(insert(schema.acts), row)
        return token

    def person_of(self, token: str, now: float) -> Person:
        """Return the person who may choose a new password by this token.

        Raises:
            DataError: nobody may.
        """
        with self._database.transaction("read") as connection:
            row = _link(connection, token, now)
        return self._people.person(row["person_id"])

    def use(self, token: str, password: str, now: float) -> Person:
        """Put a new password in force, hashed already; the link is used up, and every session of the person ends.

        Raises:
            DataError: as `person_of`.
        """
        table = schema.people
        with self._database.transaction("durable") as connection:
            row = _link(connection, token, now)
            mine = update(table).where(table.c.id == row["person_id"], table.c.state != "erased")
            once = connection.execute(delete(schema.acts).where(schema.acts.c.seq == row["seq"])).rowcount
            if not once or not connection.execute(mine.values(password=password)).rowcount:
                raise DataError(NO_LINK)
            connection.execute(delete(schema.sessions).where(schema.sessions.c.person_id == row["person_id"]))
            done = {"person_id": row["person_id"], "kind": CHOSEN, "created": now}
            connection.execute(insert(schema.acts), {**done, "details": {"by": row["details"]["by"]}})
        return self._people.person(row["person_id"])


def _of(person_id: str) -> tuple[Any, Any]:
    return schema.acts.c.person_id == person_id, schema.acts.c.kind == LINK


def _link(connection: Connection, token: str, now: float) -> Any:
    found = connection.execute(select(schema.acts).where(*_of(token[:_ID_LETTERS]))).mappings().all()
    for row in found:
        if row["details"]["link"] == digest_of(token) and row["details"]["expires"] > now:
            return row
    raise DataError(NO_LINK)
