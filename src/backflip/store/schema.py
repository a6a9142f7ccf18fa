"""The tables of the store, as the code reads and writes them.

`migrations/` makes these tables in a database; a test holds the two equal. Leaves out everything that runs.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

REVISIONS = ("0001", "0002")
"""Every schema this version knows, oldest first; the last is the one it writes."""
STATES = ("waiting for aid", "open", "answered", "expired")
"""What a query can be; see docs/store.md."""


class AnyText(TypeDecorator[str]):
    """Text that may hold NUL characters: PostgreSQL refuses them, so there a backslash escapes them and itself."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Escape on the way in."""
        if value is None or dialect.name != "postgresql":
            return value
        return value.replace("\\", "\\\\").replace("\x00", "\\0")

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:
        """Undo it on the way out."""
        if value is None or dialect.name != "postgresql" or "\\" not in value:
            return value
        return "\\".join(part.replace("\\0", "\x00") for part in value.split("\\\\"))


metadata = MetaData()

items = Table(
    "items",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("media", String(8), nullable=False),
    Column("prompt", AnyText, nullable=False),
    Column("content", AnyText, nullable=False),
    Column("author", AnyText, nullable=False),
    Column("payload", JSON, nullable=False),
)

queries = Table(
    "queries",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("id", String(32), nullable=False, unique=True),
    Column("kind", String(16), nullable=False),
    Column("question", AnyText, nullable=False),
    Column("instruction", AnyText, nullable=False),
    Column("repeat", Integer, nullable=False),
    Column("shown_order", JSON, nullable=False),
    Column("reason", AnyText, nullable=False),
    Column("state", String(16), nullable=False),
    Column("purpose", String(16), nullable=False, server_default="study"),
    Column("given", Integer, nullable=False, server_default="0"),
    CheckConstraint("state IN ('waiting for aid', 'open', 'answered', 'expired')", name="ck_queries_state"),
    Index("ix_queries_state_seq", "state", "seq"),
    Index("ix_queries_desk", "purpose", "given", "seq"),
    sqlite_autoincrement=True,
)

query_items = Table(
    "query_items",
    metadata,
    Column("query_id", String(32), ForeignKey("queries.id"), primary_key=True),
    Column("place", Integer, primary_key=True, autoincrement=False),
    Column("item_id", String(32), ForeignKey("items.id"), nullable=False),
)

aids = Table(
    "aids",
    metadata,
    Column("query_id", String(32), ForeignKey("queries.id"), primary_key=True),
    Column("place", Integer, primary_key=True, autoincrement=False),
    Column("author", AnyText, nullable=False),
    Column("text", AnyText, nullable=False),
    Column("item_id", String(32)),
)

judgements = Table(
    "judgements",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("id", String(32), nullable=False, unique=True),
    Column("query_id", String(32), ForeignKey("queries.id"), nullable=False),
    Column("judge", AnyText, nullable=False),
    Column("answer", JSON(none_as_null=True)),
    Column("note", AnyText, nullable=False),
    Column("strength", Double, nullable=False),
    Column("created", Double, nullable=False),
    Column("seconds", Double),
    Column("details", JSON, nullable=False),
    Index("ix_judgements_query_id", "query_id"),
    Index("ix_judgements_created", "created"),
    Index("ix_judgements_judge", "judge", "seq"),
    sqlite_autoincrement=True,
)

truths = Table(
    "truths",
    metadata,
    Column("name", String(200), primary_key=True),
    Column("item_id", String(32), primary_key=True),
    Column("value", JSON, nullable=False),
)

metrics = Table(
    "metrics",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("run", String(64), nullable=False),
    Column("step", Integer, nullable=False),
    Column("phase", String(200), nullable=False),
    Column("seconds", Double, nullable=False),
    Column("data", JSON, nullable=False),
    Index("ix_metrics_run_seq", "run", "seq"),
    sqlite_autoincrement=True,
)

people = Table(
    "people",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", AnyText, nullable=False, unique=True),
    Column("role", String(16), nullable=False),
    Column("password", Text),
    Column("created", Double, nullable=False),
    Column("state", String(16), nullable=False),
    CheckConstraint("role IN ('owner', 'labeler')", name="ck_people_role"),
    CheckConstraint("state IN ('new', 'trial', 'waiting', 'passed', 'failed', 'erased')", name="ck_people_state"),
)

invitations = Table(
    "invitations",
    metadata,
    Column("token", String(64), primary_key=True),
    Column("role", String(16), nullable=False),
    Column("note", AnyText, nullable=False),
    Column("created", Double, nullable=False),
    Column("expires", Double, nullable=False),
    Column("person_id", String(32)),
)

sessions = Table(
    "sessions",
    metadata,
    Column("token", String(64), primary_key=True),
    Column("person_id", String(32), ForeignKey("people.id"), nullable=False),
    Column("csrf", String(64), nullable=False),
    Column("expires", Double, nullable=False),
)

documents = Table(
    "documents",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("kind", String(16), nullable=False),
    Column("text", AnyText, nullable=False),
    Column("created", Double, nullable=False),
    Column("person_id", String(32), nullable=False),
    sqlite_autoincrement=True,
)

acts = Table(
    "acts",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("person_id", String(32), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("created", Double, nullable=False),
    Column("details", JSON, nullable=False),
    Index("ix_acts_person", "person_id", "kind", "seq"),
    sqlite_autoincrement=True,
)

claims = Table(
    "claims",
    metadata,
    Column("query_id", String(32), ForeignKey("queries.id"), primary_key=True),
    Column("person_id", String(32), ForeignKey("people.id"), primary_key=True),
    Column("purpose", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("since", Double, nullable=False),
    Column("until", Double, nullable=False),
    Column("judgement_id", String(32)),
    CheckConstraint("state IN ('held', 'done', 'returned')", name="ck_claims_state"),
    Index("ix_claims_person", "person_id", "state", "since"),
    Index("ix_claims_until", "state", "until"),
)

known = Table(
    "known",
    metadata,
    Column("query_id", String(32), ForeignKey("queries.id"), primary_key=True),
    Column("answer", JSON, nullable=False),
    Column("explanation", AnyText, nullable=False),
    Column("difficulty", String(16), nullable=False),
)

media = Table(
    "media",
    metadata,
    Column("item_id", String(32), primary_key=True),
    Column("kind", String(32), nullable=False),
    Column("content", LargeBinary, nullable=False),
)

models = Table(
    "models",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("run", String(64), nullable=False),
    Column("name", AnyText, nullable=False),
    Column("created", Double, nullable=False),
    Column("parents", JSON, nullable=False),
)

taught = Table(
    "taught",
    metadata,
    Column("judgement_id", String(32), primary_key=True),
    Column("model_id", String(32), ForeignKey("models.id"), primary_key=True),
    Index("ix_taught_model", "model_id"),
)
