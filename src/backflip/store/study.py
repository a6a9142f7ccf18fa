"""How a study is run: its settings, and the versions of what people are told. Both only ever grow: the last one counts.

Leaves out who takes part (`people`) and who holds which question (`desk`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from typing import Any, Literal

from sqlalchemy import Connection, exists, func, insert, or_, select, update

from backflip.data import Query, digest
from backflip.errors import ConfigError, DataError
from backflip.store import schema
from backflip.store.desk import ADJUDICATE, DISCUSSED, KNOWN, OWN, PRACTICE, STUDY, TRIAL
from backflip.store.people import Person
from backflip.store.store import PAGE, Store, insert_new, insert_queries

Document = Literal["instructions", "consent", "settings"]
Use = Literal["check", "practice"]
USES: tuple[Use, ...] = ("check", "practice")
LONGEST_TEXT = 100_000
"""Letters of an item that are sent to a page; a longer one is cut, and the page says so."""
BOUNDS: dict[str, tuple[float, float]] = {
    "overlap": (1, 100),
    "an_hour": (0, 10_000),
    "trial_seconds": (0.001, 3600),
    "hold_minutes": (0.001, 7 * 24 * 60),
    "undo_seconds": (0.001, 3600),
}
"""From where to where a setting may go."""
MOST_ASKED = 20
"""Axes, and sub-questions, of one pair."""
LONGEST_ASKED = 500
"""Letters of one of them."""
INSTRUCTIONS = """You will see two answers, or two short clips, side by side. Choose the one that you like better by the question above them.

If both are equally good, say so. If you cannot tell, because you do not understand them or something is missing, say that: it is not the same.

Judge what you see. There is no hidden right answer, but some pairs come twice, and on some we know what most people say."""
CONSENT = """Your choices, how long they take, and what you write are kept and used to train and to study computer programs. They are kept under a number.

Who sees your name: the owners of this study, and whoever runs its server. They can see which judgements are yours. Others who judge do not see your name; when people disagree on a pair, those who judged it may see what you chose and wrote.

You can stop at any time, and you can ask an owner for your name and your words to be erased. Your choices then stay, under the number alone. Programs that learned from them, and files that were copied before, are not changed by that; the owners are shown which programs those are."""


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
    adjudicators: Literal["owner", "everybody"] = "owner"
    """Who judges blind what others disagree on: owners alone, or everybody who was let in; never somebody who judged the pair."""

    def __post_init__(self) -> None:
        for name in ("sub_share", "trial_accuracy", "gold_share", "repeat_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected a share from 0 to 1")
        if self.gold_share + self.repeat_share > 0.5:
            raise ConfigError("gold_share and repeat_share come to more than half of all questions; lower one")
        for name, (least, most) in BOUNDS.items():
            if not least <= getattr(self, name) <= most:
                raise ConfigError(f"{name} is {str(getattr(self, name))[:40]}, expected {least:g} to {most:,}")
        for name in ("axes", "sub_questions"):
            asked = getattr(self, name)
            if len(asked) > MOST_ASKED:
                raise ConfigError(f"{name} has {len(asked)} lines, expected {MOST_ASKED} at most")
            if any(not 0 < len(one) <= LONGEST_ASKED for one in asked):
                raise ConfigError(f"a line of {name} is empty or too long, expected 1 to {LONGEST_ASKED} letters")
        if self.scale not in ("choice", "seven"):
            raise ConfigError(f'scale is "{self.scale}", expected choice or seven')
        if self.adjudicators not in ("owner", "everybody"):
            raise ConfigError(f'adjudicators is "{self.adjudicators}", expected owner or everybody')


@lru_cache(maxsize=8)
def _study(text: str) -> Study:
    """Read settings; what a later version of this package added, or an earlier one allowed and this one does not, is left out."""
    if not text:
        return Study()
    known = {spec.name for spec in fields(Study)}
    found: dict[str, Any] = {
        key: tuple(v) if isinstance(v, list) else v for key, v in json.loads(text).items() if key in known
    }
    try:
        return Study(**found)
    except ConfigError:
        study = Study(gold_share=0.0, repeat_share=0.0)
    for key, value in {"gold_share": Study.gold_share, "repeat_share": Study.repeat_share, **found}.items():
        with suppress(ConfigError):
            study = replace(study, **{key: value})
    return study


_LAST = select(func.max(schema.documents.c.seq)).group_by(schema.documents.c.kind)
_NEWEST = select(schema.documents).where(schema.documents.c.seq.in_(_LAST))


@dataclass(frozen=True)
class Known:
    """A question whose answer is known."""

    query: Query
    answer: tuple[float, ...]
    explanation: str
    difficulty: str = "usual"
    use: Use = "check"
    """check: a trial's pair or a silent check; practice: an exercise and nothing else, so that no check is given away."""


class StudyBook:
    """Settings, documents and known answers of one store."""

    def __init__(self, store: Store) -> None:
        """Read and write those of `store`."""
        self._store, self._database = store, store.database
        self._kept: tuple[int, Study, int] | None = None

    def settings(self) -> Study:
        """Return the settings in force."""
        return _study(self.document("settings")[1])

    def in_force(self, edition: int) -> tuple[Study, int]:
        """Return the settings in force and the version of the instructions, as they were at `edition` or later.

        They are read once an edition. It comes with the session that every request looks up, so a change made anywhere counts at the
        next request, whichever process serves it.
        """
        kept = self._kept
        if kept is None or kept[0] != edition:
            with self._database.transaction("read") as connection:
                found = {row.kind: row for row in connection.execute(_NEWEST)}
            study = _study(found["settings"].text if "settings" in found else "")
            kept = self._kept = (edition, study, found["instructions"].seq if "instructions" in found else 0)
        return kept[1:]

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

    def versions(self, kind: Document) -> list[tuple[int, float, str]]:
        """Return every version of a text that was written here, the oldest first: its number, when, and the text."""
        table = schema.documents
        wanted = select(table).where(table.c.kind == kind).order_by(table.c.seq)
        with self._database.transaction("read") as connection:
            return [(row.seq, row.created, row.text) for row in connection.execute(wanted)]

    def write(self, kind: Document, text: str, person_id: str, now: float) -> None:
        """Add a version of a text; the earlier ones stay."""
        row = {"kind": kind, "text": text, "created": now, "person_id": person_id}
        with self._database.transaction("durable") as connection:
            connection.execute(insert(schema.documents), row)

    def add_known(self, known: Sequence[Known]) -> int:
        """Add questions whose answers are known, all or none; return how many were new. They are given to nobody but as checks and
        exercises.

        Raises:
            DataError: an answer has more or fewer shares than there are items, or is known already as another one.
        """
        for one in known:
            if len(one.answer) != len(one.query.items):
                raise DataError(f"a known answer of {len(one.answer)} shares for {len(one.query.items)} items")
        with self._database.transaction("durable") as connection:
            there = {row.query_id: row for row in _known_rows(connection, [one.query.id for one in known])}
            for one in known:
                if (row := there.get(one.query.id)) is not None and (tuple(row.answer), _use(row)) != (
                    one.answer,
                    one.use,
                ):
                    where = f"the pair after {one.query.items[0].prompt[:80]!r}"
                    raise DataError(
                        f"{where} is known already, with another answer or for another use; nothing was added"
                    )
            fresh = [one for one in known if one.query.id not in there]
            insert_queries(connection, [one.query for one in fresh], "open")
            table = schema.queries
            for use in USES:
                ids = [one.query.id for one in fresh if one.use == use]
                for start in range(0, len(ids), PAGE):
                    mine = update(table).where(table.c.id.in_(ids[start : start + PAGE]), table.c.given == 0)
                    connection.execute(mine.values(purpose=_purpose(use)))
            return insert_new(connection, schema.known, [_known_row(one) for one in fresh])

    def make_known(self, known: Known) -> None:
        """Let the answer to a question that people were asked count as known from now on, under an asking of its own: answers to the
        question itself teach, and a check's do not. Nobody new is asked it for the study; whoever had it is not checked by it.

        Raises:
            DataError: it is known already.
        """
        mine = replace(known, query=asked_again(known.query, KNOWN))
        had = [known.query.id, *(asked_again(known.query, purpose).id for purpose in (ADJUDICATE, DISCUSSED))]
        table, claims = schema.queries, schema.claims
        with self._database.transaction("durable") as connection:
            insert_queries(connection, [mine.query], "open")
            if not insert_new(connection, schema.known, [_known_row(mine)]):
                raise DataError("the answer to this pair is known already")
            connection.execute(update(table).where(table.c.id == mine.query.id).values(purpose=_purpose(known.use)))
            asked = update(table).where(table.c.id == known.query.id, table.c.purpose == STUDY)
            connection.execute(asked.values(purpose=ADJUDICATE))
            whom = connection.execute(select(claims.c.person_id).where(claims.c.query_id.in_(had)).distinct()).scalars()
            past = {"query_id": mine.query.id, "purpose": OWN, "state": "done", "since": 0.0, "until": 0.0}
            insert_new(connection, claims, [{**past, "person_id": one} for one in whom])

    def question(self) -> str | None:
        """Return what the study asked last, None where it asked nothing: a check that asks something else would stand out."""
        table = schema.queries
        wanted = select(table.c.question).where(table.c.purpose == STUDY).order_by(table.c.seq.desc()).limit(1)
        with self._database.transaction("read") as connection:
            return connection.execute(wanted).scalar()

    def reasons(self, most: int) -> list[str]:
        """Return why the study asked its latest questions."""
        table = schema.queries
        wanted = select(table.c.reason).where(table.c.purpose == STUDY).order_by(table.c.seq.desc()).limit(most)
        with self._database.transaction("read") as connection:
            return list(connection.execute(wanted).scalars())

    def known_ids(self, use: Use | None = None) -> list[str]:
        """Return the ids of all questions with known answers, or of those for one use."""
        with self._database.transaction("read") as connection:
            rows = _known_rows(connection)
        return [row.query_id for row in rows if use in (None, _use(row))]

    def known(self) -> list[Known]:
        """Return all questions with known answers, in the order asked."""
        with self._database.transaction("read") as connection:
            rows = _known_rows(connection)
        return list(self._known(rows).values())

    def known_of(self, query: Query) -> Known | None:
        """Return what is known of a question, or of the same two items under the same question; None where nothing is."""
        place = schema.query_items
        wanted = select(place.c.query_id).join(schema.known, schema.known.c.query_id == place.c.query_id)
        wanted = wanted.where(place.c.place == 0, place.c.item_id == query.items[0].id)
        with self._database.transaction("read") as connection:
            rows = _known_rows(connection, list(connection.execute(wanted).scalars()))
        found = self._known(rows)
        if query.id in found:
            return found[query.id]
        same = (one for one in found.values() if _asks(one.query) == _asks(query))
        return next(same, None)

    def exercises(self, person: Person) -> list[str]:
        """Return the ids of questions with known answers that this person may practise: those for practice, and those of their trial."""
        claims, key = schema.claims, schema.known.c.query_id
        mine = (claims.c.query_id == key, claims.c.person_id == person.id)
        tried = exists().where(*mine, claims.c.purpose == TRIAL, claims.c.state == "done")
        wanted = select(key).select_from(_KNOWN_QUERIES).where(or_(schema.queries.c.purpose == PRACTICE, tried))
        with self._database.transaction("read") as connection:
            return list(connection.execute(wanted.order_by(key)).scalars())

    def _known(self, rows: Sequence[Any]) -> dict[str, Known]:
        """Return known answers by the ids of their questions."""
        asked = self._store.queries_by_id([row.query_id for row in rows])
        return {
            row.query_id: Known(asked[row.query_id], tuple(row.answer), row.explanation, row.difficulty, _use(row))
            for row in rows
        }


def asked_again(query: Query, purpose: str) -> Query:
    """Return the asking of a question for something else, such as a talk: the same question, under an id of its own."""
    number = 1 + int(digest([query.id, purpose])[:7], 16)
    return replace(query, repeat=query.repeat + number, order=())


_KNOWN_QUERIES = schema.known.join(schema.queries, schema.known.c.query_id == schema.queries.c.id)


def _known_rows(connection: Connection, ids: Sequence[str] | None = None) -> list[Any]:
    """Return what is stored of known answers and the purpose of their questions, in the order asked: of these, or of all."""
    wanted = select(schema.known, schema.queries.c.purpose, schema.queries.c.seq).select_from(_KNOWN_QUERIES)
    if ids is None:
        return list(connection.execute(wanted.order_by(schema.queries.c.seq)).all())
    rows: list[Any] = []
    for start in range(0, len(ids), PAGE):
        part = wanted.where(schema.known.c.query_id.in_(list(ids[start : start + PAGE])))
        rows += connection.execute(part).all()
    return sorted(rows, key=lambda row: row.seq)


def _use(row: Any) -> Use:
    return "practice" if row.purpose == PRACTICE else "check"


def _purpose(use: Use) -> str:
    return PRACTICE if use == "practice" else KNOWN


def _known_row(known: Known) -> dict[str, Any]:
    return {
        "query_id": known.query.id,
        "answer": list(known.answer),
        "explanation": known.explanation,
        "difficulty": known.difficulty,
    }


def _asks(query: Query) -> tuple[Any, ...]:
    """Return what two askings of one question have in common."""
    return tuple(item.id for item in query.items), query.question, query.kind, query.aids
