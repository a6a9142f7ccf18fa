"""What was asked and answered in an earlier run: to train on the same judgements again, or without some of them.

Its questions take the place of new ones, and nobody is asked. Left out: making the folder of such a run (`backflip.run_again`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from backflip.data import Judgement, Query
from backflip.errors import DataError
from backflip.run_again import read_again
from backflip.store import Store
from backflip.store.desk import standing


class RecordedOverseer:
    """Says what is in the store, and nothing more."""

    def __init__(
        self, store: Store, questions: Sequence[Query], held: Collection[str] = (), without: Collection[str] = ()
    ) -> None:
        """Answer `questions`, in the order in which they were asked, from `store`; those whose ids are in `held` were only measured.

        Judges in `without` are not heard, though a store that is shared with other runs has their judgements.
        """
        self._store = store
        self.questions, self.held, self.without = list(questions), frozenset(held), frozenset(without)

    def ask(self, queries: Sequence[Query]) -> None:
        """Do nothing: what can be answered is answered."""

    def answers(self, since: int, wait: float = 0.0) -> tuple[list[Judgement], int]:
        """Return the judgements after cursor `since` that stand, and the new cursor; there is never anything to wait for."""
        found, cursor = self._store.judgements(since)
        return [one for one in standing(found) if one.judge not in self.without], cursor


def recorded(folder: Path, store: Store) -> RecordedOverseer | None:
    """Return the overseer of a run that was made by `backflip run --again`, None for any other.

    Raises:
        DataError: the copy of what the earlier run asked and heard was interrupted.
    """
    again = read_again(folder)
    if again is None:
        return None
    questions = store.queries_by_id(again.asked)
    told = sum(one.query_id in questions for one in standing(store.judgements(0)[0]))
    if len(questions) < len(set(again.asked)) or told < again.judgements:
        raise DataError(
            f"{folder} holds {len(questions):,} of {len(set(again.asked)):,} questions and {told:,} of {again.judgements:,} judgements: it "
            f"was stopped while they were copied; start it anew with --again {again.path}"
        )
    return RecordedOverseer(store, [questions[one] for one in again.asked], again.held, again.without)
