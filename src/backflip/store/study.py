"""How a study is run: its settings, and the versions of what people are told. Both only ever grow: the last one counts.

Leaves out who takes part (`people`) and who holds which question (`desk`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any, Literal

from sqlalchemy import func, insert, select

from backflip.data import Query
from backflip.errors import ConfigError, DataError
from backflip.store import schema
from backflip.store.desk import KNOWN
from backflip.store.store import Store, insert_new

Document = Literal["instructions", "consent", "settings"]
INSTRUCTIONS = """You will see two answers, or two short clips, side by side. Choose the one that you like better by the question above them.

If both are equally good, say so. If you cannot tell, because you do not understand them or something is missing, say that: it is not the same.

Judge what you see. There is no hidden right answer, but some pairs come twice, and on some we know what most people say."""
CONSENT = """Your choices, and how long they take, are kept and used to train and to study computer programs. Your name is not kept with them.
You can stop at any time, and you can ask for your name and your words to be erased."""


@dataclass(frozen=True)
class Study:
    """Settings of a study."""

    scale: Literal["choice", "seven"] = "choice"
    """Which of two is better, or by how much on a scale of seven."""
    axes: tuple[str, ...] = ()
    """Further questions, each answered with 1, = or 2 before the main one: such as "more truthful"."""
    sub_questions: tuple[str, ...] = ()
    """Questions that are answered in words before the pair is judged: a hard judgement split up."""
    sub_share: float = 1.0
    """Share of pairs on which the sub-questions must be answered; on the others they may be."""
    overlap: int = 1
    """People who judge each pair."""
    trial: bool = False
    """Whether new people first judge pairs with known answers, and the owner checks them."""
    trial_accuracy: float = 0.75
    """Share of the trial's pairs that must agree with the known answer; checked at its lower bound only by the owner's eye."""
    trial_seconds: float = 60.0
    """Mean seconds a pair that a trial may take."""
    gold_share: float = 0.05
    """Share of questions that are silent checks against known answers, while there are some."""
    repeat_share: float = 0.05
    """Share of questions that one has answered before, sides swapped."""
    hold_minutes: float = 30.0
    """How long somebody may hold a question before others are asked."""
    undo_seconds: float = 30.0
    """How long the last answer may be taken back; training hears of it after that, or after the next answer."""
    an_hour: int = 0
    """Judgements of a person in an hour at most; 0: no limit. Hurry makes bad judgements."""

    def __post_init__(self) -> None:
        for name in ("sub_share", "trial_accuracy", "gold_share", "repeat_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected a share from 0 to 1")
        if self.gold_share + self.repeat_share > 0.5:
            raise ConfigError("gold_share and repeat_share come to more than half of all questions; lower one")
        for name in ("trial_seconds", "hold_minutes", "undo_seconds"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} is {getattr(self, name)}, expected a number above 0")
        if self.overlap < 1 or self.an_hour < 0:
            raise ConfigError(f"overlap {self.overlap}, an_hour {self.an_hour}: expected 1 or more, and 0 or more")
        if self.scale not in ("choice", "seven"):
            raise ConfigError(f'scale is "{self.scale}", expected choice or seven')


@lru_cache(maxsize=8)
def _study(text: str) -> Study:
    """Read settings; what a later version of this package added is left out."""
    if not text:
        return Study()
    known = {spec.name for spec in fields(Study)}
    found: dict[str, Any] = {
        key: tuple(v) if isinstance(v, list) else v for key, v in json.loads(text).items() if key in known
    }
    return Study(**found)


_LAST = select(func.max(schema.documents.c.seq)).group_by(schema.documents.c.kind)
_NEWEST = select(schema.documents).where(schema.documents.c.seq.in_(_LAST))


@dataclass(frozen=True)
class Known:
    """A question whose answer is known."""

    query: Query
    answer: tuple[float, ...]
    explanation: str
    difficulty: str = "usual"


class StudyBook:
    """Settings, documents and known answers of one store."""

    def __init__(self, store: Store) -> None:
        """Read and write those of `store`."""
        self._store, self._database = store, store.database

    def settings(self) -> Study:
        """Return the settings in force."""
        return _study(self.document("settings")[1])

    def in_force(self) -> tuple[Study, int]:
        """Return the settings in force and the version of the instructions, in one look."""
        with self._database.transaction("read") as connection:
            found = {row.kind: row for row in connection.execute(_NEWEST)}
        study = _study(found["settings"].text if "settings" in found else "")
        return study, found["instructions"].seq if "instructions" in found else 0

    def change(self, study: Study, person_id: str, now: float) -> None:
        """Put settings in force from now on."""
        self.write("settings", json.dumps(asdict(study)), person_id, now)

    def document(self, kind: Document) -> tuple[int, str]:
        """Return the newest version of a text and its number; what this package ships is version 0."""
        table = schema.documents
        wanted = select(table).where(table.c.kind == kind).order_by(table.c.seq.desc()).limit(1)
        with self._database.transaction("read") as connection:
            row = connection.execute(wanted).mappings().first()
        shipped = {"instructions": INSTRUCTIONS, "consent": CONSENT, "settings": ""}
        return (0, shipped[kind]) if row is None else (row["seq"], row["text"])

    def write(self, kind: Document, text: str, person_id: str, now: float) -> None:
        """Add a version of a text; the earlier ones stay."""
        row = {"kind": kind, "text": text, "created": now, "person_id": person_id}
        with self._database.transaction("durable") as connection:
            connection.execute(insert(schema.documents), row)

    def add_known(self, known: Sequence[Known]) -> int:
        """Add questions whose answers are known; return how many were new. They are given to nobody but as checks and exercises."""
        for one in known:
            if len(one.answer) != len(one.query.items):
                raise DataError(f"a known answer of {len(one.answer)} shares for {len(one.query.items)} items")
        self._store.add_queries([one.query for one in known])
        rows = [
            {
                "query_id": one.query.id,
                "answer": list(one.answer),
                "explanation": one.explanation,
                "difficulty": one.difficulty,
            }
            for one in known
        ]
        table = schema.queries
        with self._database.transaction("durable") as connection:
            for row in rows:
                mine = table.update().where(table.c.id == row["query_id"], table.c.given == 0)
                connection.execute(mine.values(purpose=KNOWN))
            return insert_new(connection, schema.known, rows)

    def known_ids(self) -> list[str]:
        """Return the ids of all questions with known answers."""
        with self._database.transaction("read") as connection:
            return list(connection.execute(select(schema.known.c.query_id)).scalars())

    def known(self) -> list[Known]:
        """Return all questions with known answers."""
        with self._database.transaction("read") as connection:
            rows = connection.execute(select(schema.known)).mappings().all()
        found = self._store.queries_by_id([row["query_id"] for row in rows])
        return [
            Known(found[row["query_id"]], tuple(row["answer"]), row["explanation"], row["difficulty"]) for row in rows
        ]
