"""Make the first tables: items, queries with their aids, judgements, cached truths, metrics."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create every table of schema 0001."""
    op.create_table(
        "items",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("media", sa.String(8), nullable=False),
        sa.Column("prompt", sa.Text, nullable=False),
        sa.Column("content", sa.Text, nullable=False),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("payload", sa.JSON, nullable=False),
    )
    op.create_table(
        "queries",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(32), nullable=False, unique=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("question", sa.Text, nullable=False),
        sa.Column("instruction", sa.Text, nullable=False),
        sa.Column("repeat", sa.Integer, nullable=False),
        sa.Column("shown_order", sa.JSON, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.CheckConstraint("state IN ('waiting for aid', 'open', 'answered', 'expired')", name="ck_queries_state"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_queries_state_seq", "queries", ["state", "seq"])
    op.create_table(
        "query_items",
        sa.Column("query_id", sa.String(32), sa.ForeignKey("queries.id"), primary_key=True),
        sa.Column("place", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("item_id", sa.String(32), sa.ForeignKey("items.id"), nullable=False),
    )
    op.create_table(
        "aids",
        sa.Column("query_id", sa.String(32), sa.ForeignKey("queries.id"), primary_key=True),
        sa.Column("place", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("item_id", sa.String(32)),
    )
    op.create_table(
        "judgements",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(32), nullable=False, unique=True),
        sa.Column("query_id", sa.String(32), sa.ForeignKey("queries.id"), nullable=False),
        sa.Column("judge", sa.Text, nullable=False),
        sa.Column("answer", sa.JSON),
        sa.Column("note", sa.Text, nullable=False),
        sa.Column("strength", sa.Double, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("seconds", sa.Double),
        sa.Column("details", sa.JSON, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_judgements_query_id", "judgements", ["query_id"])
    op.create_table(
        "truths",
        sa.Column("name", sa.String(200), primary_key=True),
        sa.Column("item_id", sa.String(32), primary_key=True),
        sa.Column("value", sa.JSON, nullable=False),
    )
    op.create_table(
        "metrics",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("run", sa.String(64), nullable=False),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("phase", sa.String(200), nullable=False),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("data", sa.JSON, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_metrics_run_seq", "metrics", ["run", "seq"])
