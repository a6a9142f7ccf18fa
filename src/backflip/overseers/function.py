"""An overseer that is a plain Python function of a prompt and two answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

from backflip.data import Judgement, Query
from backflip.errors import DataError
from backflip.overseers.shown import as_stored, require_pair, shown
from backflip.store import Store

Judge = Callable[..., float | None]
"""`(prompt, a, b)` returns the probability that a is better; where single answers are graded, `(prompt, a)` returns a score in [0, 1]."""


class FunctionOverseer:
    """Ask a function `(prompt, a, b) -> probability that a is better`, or None where it cannot judge."""

    def __init__(self, store: Store, judge: Judge, name: str | None = None) -> None:
        """Answer queries of `store` by `judge`; `name` (its own, if None) stands in its judgements.

        The function sees the answers in the order that the query says, so a bias for one place is not one for an item.
        """
        self._store, self._judge = store, judge
        self.name = name or getattr(judge, "__name__", type(judge).__name__)

    def ask(self, queries: Sequence[Query]) -> None:
        """Store the queries and answer those that nobody has answered yet.

        What was answered before an error stays answered.

        Raises:
            DataError: the function raised, or returned something that is neither a probability or score nor None; a query is
                neither a comparison of two nor a rating of one.
        """
        for query in queries:
            if query.kind != "rate" or len(query.items) != 1:
                require_pair(query, f'the function "{self.name}"')
        self._store.add_queries(queries)
        states = self._store.states(query.id for query in queries)
        told: list[Judgement] = []
        try:
            for query in queries:
                if states[query.id] != "answered":
                    told.append(self._answer(query))
        finally:
            self._store.add_judgements(told)

    def answers(self, since: int, wait: float = 0.0) -> tuple[list[Judgement], int]:
        """Return judgements after cursor `since` and the new cursor; there is never anything to wait for."""
        return self._store.judgements(since)

    def _answer(self, query: Query) -> Judgement:
        items, start = shown(query), time.perf_counter()
        try:
            share: Any = self._judge(items[0].prompt, *(item.content for item in items))
        except (Exception, SystemExit) as error:  # a judge that exits must not end the run as if it were done
            raise DataError(
                f'the judge "{self.name}" failed on query {query.id} ({type(error).__name__}: {error}); mend it and resume'
            ) from error
        seconds = time.perf_counter() - start
        if share is None:
            return Judgement(query.id, self.name, None, note="the function could not judge", seconds=seconds)
        if not isinstance(share, Real) or not 0 <= float(share) <= 1:
            raise DataError(
                f'the judge "{self.name}" said {share!r} to query {query.id}; expected a {"score" if len(items) == 1 else "probability"} in [0, 1], or None'
            )
        if len(items) == 1:
            return Judgement(query.id, self.name, (float(share),), seconds=seconds)
        return Judgement(query.id, self.name, as_stored(query, (float(share), 1 - float(share))), seconds=seconds)
