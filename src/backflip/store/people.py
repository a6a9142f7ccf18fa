"""Who may judge and who owns the study: people, the invitations by which they come, and their sessions.

Secrets are stored as hashes: of a token only its SHA-256, of a password what the caller's library made of it. Leaves out which
pairs a person is given (`desk`), and everything about HTTP.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import bindparam, delete, func, insert, or_, select, update

from backflip.errors import DataError, StoreError
from backflip.store import schema
from backflip.store.json_text import readable
from backflip.store.names import folded, looks, name_of
from backflip.store.store import Store

Role = Literal["owner", "labeler"]
Standing = Literal["new", "trial", "waiting", "passed", "failed", "erased"]
ALIVE: tuple[Standing, ...] = ("new", "trial", "waiting", "passed", "failed")
PERSON = "person:"
"""With this begins the name under which a person's judgements stand."""


@dataclass(frozen=True)
class Person:
    """Somebody with an account. `judge` is what their judgements are signed with: it holds no name."""

    id: str
    name: str
    role: Role
    state: Standing
    """new: invited and joined; trial: judging known pairs; waiting: for the owner's check; passed or failed; erased."""
    created: float

    @property
    def judge(self) -> str:
        """The name under which this person's judgements stand."""
        return PERSON + self.id


@dataclass(frozen=True)
class Session:
    """A signed-in browser."""

    person: Person
    csrf: str
    """Must come back with everything that changes something."""
    edition: int
    """Number of the last change of the study's settings and texts, as it was when the session was looked up."""
    agreed: bool
    """Whether they agreed to the consent text as it is now; an owner, who writes it, need not."""


CONSENT = "consent"
"""Kind of the text that people agree to, and of the act by which they do."""
_AGREED = (
    select(readable(schema.acts.c.details)["version"].as_integer())
    .where(schema.acts.c.person_id == schema.people.c.id, schema.acts.c.kind == CONSENT)
    .order_by(schema.acts.c.seq.desc())
    .limit(1)
    .scalar_subquery()
)
_NEWEST = select(func.coalesce(func.max(schema.documents.c.seq), 0)).where(schema.documents.c.kind == CONSENT)
_SESSION = (
    select(
        schema.people,
        schema.sessions.c.csrf,
        select(func.coalesce(func.max(schema.documents.c.seq), 0)).scalar_subquery().label("edition"),
        or_(schema.people.c.role == "owner", func.coalesce(_AGREED, -1) == _NEWEST.scalar_subquery()).label("agreed"),
    )
    .select_from(schema.sessions.join(schema.people))
    .where(schema.sessions.c.token == bindparam("token"), schema.sessions.c.expires > bindparam("now"))
)


def digest_of(token: str) -> str:
    """Return what is stored of a secret token."""
    return hashlib.sha256(token.encode("utf-8", errors="replace")).hexdigest()


class People:
    """The people of one store. Times are seconds since 1970, given by the caller."""

    def __init__(self, store: Store) -> None:
        """Work on the people of `store`."""
        self._database = store.database

    # -- coming in ---------------------------------------------------------------------------------------------------

    def invite(self, role: Role, note: str, now: float, hours: float) -> str:
        """Make an invitation that one person may use once, and return its token, which is not stored."""
        token = secrets.token_urlsafe(24)
        row = {"token": digest_of(token), "role": role, "note": note, "created": now, "expires": now + 3600 * hours}
        with self._database.transaction("write") as connection:
            connection.execute(insert(schema.invitations), row)
        return token

    def invited_as(self, token: str, now: float) -> Role:
        """Return the role an invitation gives.

        Raises:
            DataError: nobody was invited so, it was used, or it has expired.
        """
        with self._database.transaction("read") as connection:
            return _invitation(connection, token, now)

    def join(self, token: str, name: str, password: str, now: float) -> Person:
        """Make an account by an invitation, which is then used up; `password` is hashed already.

        Raises:
            DataError: as `invited_as`; nobody can be called so (`name_of`); or the name is taken, or looks like one that is.
        """
        name = name_of(name)
        with self._database.transaction("durable") as connection:
            role = _invitation(connection, token, now)
            taken = connection.execute(select(schema.people.c.name)).scalars().all()
            if folded(name) in {folded(one) for one in taken}:
                raise DataError(f"somebody is called {name} already; please choose another name")
            if looks(name) in {looks(one) for one in taken}:
                raise DataError("this name looks like that of somebody who is here already; please choose another")
            state = "passed" if role == "owner" else "new"
            person = Person(secrets.token_hex(8), name, role, state, now)
            row = {"id": person.id, "name": name, "role": role, "password": password, "created": now, "state": state}
            connection.execute(insert(schema.people), row)
            used = update(schema.invitations).where(schema.invitations.c.token == digest_of(token))
            connection.execute(used.values(person_id=person.id))
        return person

    def secret_of(self, name: str) -> tuple[Person, str] | None:
        """Return the person of this name, whatever its case, and their hashed password; None where there is nobody."""
        table, asked = schema.people, folded(name)
        with self._database.transaction("read") as connection:
            rows = connection.execute(select(table).where(table.c.state != "erased")).mappings().all()
        found = [row for row in rows if row["password"] is not None and folded(row["name"]) == asked]
        # An older store may hold two who differ in case alone: each comes in by their own spelling.
        found.sort(key=lambda row: row["name"] != name)
        return (_person(found[0]), found[0]["password"]) if found else None

    # -- sessions ----------------------------------------------------------------------------------------------------

    def sign_in(self, person: Person, now: float, hours: float) -> str:
        """Begin a session and return its token, which is not stored."""
        token = secrets.token_urlsafe(32)
        row = {
            "token": digest_of(token),
            "person_id": person.id,
            "csrf": secrets.token_urlsafe(24),
            "expires": now + 3600 * hours,
        }
        with self._database.transaction("write") as connection:
            connection.execute(delete(schema.sessions).where(schema.sessions.c.expires < now))
            connection.execute(insert(schema.sessions), row)
        return token

    def session(self, token: str, now: float) -> Session | None:
        """Return the session of a token; None where there is none or it is over."""
        with self._database.transaction("read") as connection:
            row = connection.execute(_SESSION, {"token": digest_of(token), "now": now}).mappings().first()
        if row is None or row["state"] == "erased":
            return None
        return Session(_person(row), row["csrf"], row["edition"], bool(row["agreed"]))

    def sign_out(self, token: str) -> None:
        """End a session."""
        with self._database.transaction("write") as connection:
            connection.execute(delete(schema.sessions).where(schema.sessions.c.token == digest_of(token)))

    # -- who they are and what they did -------------------------------------------------------------------------------

    def everybody(self) -> list[Person]:
        """Return all people, in the order in which they came."""
        with self._database.transaction("read") as connection:
            rows = connection.execute(select(schema.people).order_by(schema.people.c.created)).mappings().all()
        return [_person(row) for row in rows]

    def person(self, person_id: str) -> Person:
        """Return one person. Raises StoreError where there is none."""
        with self._database.transaction("read") as connection:
            row = connection.execute(select(schema.people).where(schema.people.c.id == person_id)).mappings().first()
        if row is None:
            raise StoreError(f"nobody here has the id {person_id}")
        return _person(row)

    def move(self, person_id: str, state: Standing, among: Sequence[Standing] = ALIVE) -> bool:
        """Set how far a person has come, who stands at one of `among`; return whether they did. Nobody comes back from being erased."""
        table = schema.people
        moved = update(table).where(table.c.id == person_id, table.c.state.in_(among), table.c.state != "erased")
        with self._database.transaction("durable") as connection:
            return connection.execute(moved.values(state=state)).rowcount == 1

    def note_act(self, person_id: str, kind: str, details: Mapping[str, Any], now: float) -> None:
        """Keep that a person did something other than judge: consented, finished the trial, opened the guideline."""
        row = {"person_id": person_id, "kind": kind, "created": now, "details": dict(details)}
        with self._database.transaction("durable") as connection:
            connection.execute(insert(schema.acts), row)

    def acts(self, person_id: str, kind: str) -> list[dict[str, Any]]:
        """Return what a person did of one kind, in order: {"created", ...details}."""
        table = schema.acts
        wanted = select(table).where(table.c.person_id == person_id, table.c.kind == kind).order_by(table.c.seq)
        with self._database.transaction("read") as connection:
            rows = connection.execute(wanted).mappings().all()
        return [{"created": row["created"], **row["details"]} for row in rows]

    def everybodys_acts(self, kind: str) -> list[tuple[str, dict[str, Any]]]:
        """Return what people did of one kind, in order: the person's id, {"created", ...details}."""
        table = schema.acts
        wanted = select(table).where(table.c.kind == kind).order_by(table.c.seq)
        with self._database.transaction("read") as connection:
            rows = connection.execute(wanted).mappings().all()
        return [(row["person_id"], {"created": row["created"], **row["details"]}) for row in rows]

    def erase(self, person_id: str) -> int:
        """Forget who a person was and every word they wrote; return how many judgements stay, signed by nobody's id.

        Choices stay, so that counts stay true and models can be traced; each keeps its id, the hash of what it once said. Free text
        goes: notes, and every text among the details.
        """
        from backflip.store.records import UNDONE, without_words

        person, table = self.person(person_id), schema.judgements
        with self._database.transaction("durable") as connection:
            rows = connection.execute(select(table).where(table.c.judge == person.judge)).mappings().all()
            for row in rows:
                note = "" if row["answer"] is not None else UNDONE if row["note"] == UNDONE else "could not judge"
                blank = {"note": note, "details": without_words(row["details"])}
                connection.execute(update(table).where(table.c.seq == row["seq"]).values(**blank))
            connection.execute(delete(schema.sessions).where(schema.sessions.c.person_id == person_id))
            connection.execute(delete(schema.acts).where(schema.acts.c.person_id == person_id))
            # Drawn by lot: whatever follows from the name lets a guess at it be checked.
            gone = {"name": f"erased {secrets.token_hex(6)}", "password": None, "state": "erased"}
            connection.execute(update(schema.people).where(schema.people.c.id == person_id).values(**gone))
            blank = update(schema.invitations).where(schema.invitations.c.person_id == person_id).values(note="")
            connection.execute(blank)
        return len(rows)


def _invitation(connection: Any, token: str, now: float) -> Role:
    table = schema.invitations
    row = connection.execute(select(table).where(table.c.token == digest_of(token))).mappings().first()
    if row is None:
        raise DataError("this invitation is not known here; ask whoever sent it for a new one")
    if row["person_id"] is not None:
        raise DataError("this invitation was used already; sign in with the name and password chosen then")
    if row["expires"] <= now:
        raise DataError("this invitation has expired; ask whoever sent it for a new one")
    return row["role"]


def _person(row: Any) -> Person:
    return Person(row["id"], row["name"], row["role"], row["state"], row["created"])
