"""What was asked and answered in an earlier run: to train on the same judgements again, or without some of them.

Its questions take the place of new ones, and nobody is asked. Left out: making the folder of such a run (`backflip.run_again`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from backflip.data import Judgement, Query
from backflip.errors import DataError
from backflip.run_again import Again, read_again
from backflip.store import Store
from backflip.store.desk import standing


class RecordedOverseer:
    """Says what is in the store, and nothing more."""

    def __init__(self, store: Store, questions: Sequence[Query], again: Again) -> None:
        """Answer `questions`, in the order in which they were asked, from `store`.

        Judges that `again` leaves out are not heard, though a store that is shared with other runs has their judgements.
        """
        self._store, self._again = store, again
        self.questions, self.held, self.without = list(questions), frozenset(again.held), frozenset(again.without)

    @property
    def places(self) -> int:
        """How many places of the recipe, rounds or updates, the earlier run had at which questions come up."""
        return self._again.places

    def come_up(self, place: int, places: int) -> list[Query]:
        """Return what had been asked by this place of `places`, it among them; shared evenly where the earlier run had another number."""
        if places != self.places:
            return self.questions[: len(self.questions) * (place + 1) // places]
        return [query for query, when in zip(self.questions, self._again.asked_at, strict=True) if when <= place]

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
    return RecordedOverseer(store, [questions[one] for one in again.asked], again)
