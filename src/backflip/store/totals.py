"""How much a study has: people, questions, judgements by what they were for, and how many people judged each question.

Leaves out what the judgements are worth (`backflip.measures.quality`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import select

from backflip.data import Judgement
from backflip.store import schema
from backflip.store.desk import STUDY, standing
from backflip.store.judged import OWN_QUESTIONS, purpose_of
from backflip.store.people import PERSON
from backflip.store.records import UNDONE
from backflip.store.store import Store


@dataclass(frozen=True)
class Totals:
    """Counts of one store; only what people said, whoever else judged in it."""

    standing: tuple[Judgement, ...]
    """Every judgement of a person that was not taken back, in order."""
    taken_back: int
    overlap: Mapping[int, int]
    """How many of the study's own questions were answered by so many people; "can't tell" is an answer here."""

    @property
    def by_purpose(self) -> Counter[str]:
        """Judgements that stand, by what the question was before whoever judged it."""
        return Counter(purpose_of(one) for one in self.standing)

    @property
    def cannot_tell(self) -> Counter[str]:
        """Those of them that say that one cannot tell."""
        return Counter(purpose_of(one) for one in self.standing if one.answer is None)

    @property
    def late(self) -> int:
        """Those that came after their time was over."""
        return sum(bool(one.details.get("late")) for one in self.standing)


def totals(store: Store) -> Totals:
    """Count what people said in a store."""
    told = [one for one in store.judgements(0)[0] if one.judge.startswith(PERSON)]
    stands = standing(told)
    with store.database.transaction("read") as connection:
        own = select(schema.queries.c.id).where(schema.queries.c.purpose.in_(OWN_QUESTIONS))
        asked = set(connection.execute(own).scalars())
    judges: defaultdict[str, set[str]] = defaultdict(set)
    for one in stands:
        if purpose_of(one) == STUDY and one.query_id in asked:
            judges[one.query_id].add(one.judge)
    overlap = Counter(len(each) for each in judges.values())
    if len(judges) < len(asked):
        overlap[0] = len(asked) - len(judges)
    taken_back = sum(one.note == UNDONE for one in told)
    return Totals(tuple(stands), taken_back, dict(sorted(overlap.items())))
