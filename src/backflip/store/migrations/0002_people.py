"""Make room for people who judge: who they are, what they were told, what they hold, known answers, and media to show."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create the tables of schema 0002, and say of every query how many people were given it."""
    op.add_column("queries", sa.Column("purpose", sa.String(16), nullable=False, server_default="study"))
    op.add_column("queries", sa.Column("given", sa.Integer, nullable=False, server_default="0"))
    op.create_index("ix_queries_desk", "queries", ["purpose", "given", "seq"])
    op.create_index("ix_judgements_created", "judgements", ["created"])
    op.create_index("ix_judgements_judge", "judgements", ["judge", "seq"])
    op.create_table(
        "people",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("password", sa.Text, nullable=True),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.CheckConstraint("role IN ('owner', 'labeler')", name="ck_people_role"),
        sa.CheckConstraint(
            "state IN ('new', 'trial', 'waiting', 'passed', 'failed', 'erased')", name="ck_people_state"
        ),
    )
    op.create_table(
        "invitations",
        sa.Column("token", sa.String(64), primary_key=True),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("note", sa.Text, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("expires", sa.Double, nullable=False),
        sa.Column("person_id", sa.String(32), nullable=True),
    )
    op.create_table(
        "sessions",
        sa.Column("token", sa.String(64), primary_key=True),
        sa.Column("person_id", sa.String(32), sa.ForeignKey("people.id"), nullable=False),
        sa.Column("csrf", sa.String(64), nullable=False),
        sa.Column("expires", sa.Double, nullable=False),
    )
    op.create_table(
        "documents",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("person_id", sa.String(32), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "acts",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("person_id", sa.String(32), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("details", sa.JSON, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_acts_person", "acts", ["person_id", "kind", "seq"])
    op.create_table(
        "claims",
        sa.Column("query_id", sa.String(32), sa.ForeignKey("queries.id"), primary_key=True),
        sa.Column("person_id", sa.String(32), sa.ForeignKey("people.id"), primary_key=True),
        sa.Column("purpose", sa.String(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("since", sa.Double, nullable=False),
        sa.Column("until", sa.Double, nullable=False),
        sa.Column("judgement_id", sa.String(32), nullable=True),
        sa.CheckConstraint("state IN ('held', 'done', 'returned')", name="ck_claims_state"),
    )
    op.create_index("ix_claims_person", "claims", ["person_id", "state", "since"])
    op.create_index("ix_claims_until", "claims", ["state", "until"])
    op.create_table(
        "known",
        sa.Column("query_id", sa.String(32), sa.ForeignKey("queries.id"), primary_key=True),
        sa.Column("answer", sa.JSON, nullable=False),
        sa.Column("explanation", sa.Text, nullable=False),
        sa.Column("difficulty", sa.String(16), nullable=False),
    )
    op.create_table(
        "media",
        sa.Column("item_id", sa.String(32), primary_key=True),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "models",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("run", sa.String(64), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("parents", sa.JSON, nullable=False),
    )
    op.create_table(
        "taught",
        sa.Column("judgement_id", sa.String(32), primary_key=True),
        sa.Column("model_id", sa.String(32), sa.ForeignKey("models.id"), primary_key=True),
    )
    op.create_index("ix_taught_model", "taught", ["model_id"])
