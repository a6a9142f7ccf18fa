"""An overseer that is a plain Python function of a prompt and two answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

from backflip.data import Item, Judgement, Query
from backflip.errors import FunctionFailed
from backflip.overseers.shown import as_stored, require_pair, shown
from backflip.store import Store

Judge = Callable[..., float | None]
"""`(prompt, a, b)` returns the probability that a is better; where single answers are graded, `(prompt, a)` returns a score in [0, 1]."""

BEGINNING = 60
"""Characters of a prompt or an answer by which an error names it."""


class FunctionOverseer:
    """Ask a function `(prompt, a, b) -> probability that a is better`, or None where it cannot judge."""

    def __init__(self, store: Store, judge: Judge, name: str | None = None, kind: str = "judge") -> None:
        """Answer queries of `store` by `judge`; `name` (its own, if None) stands in its judgements, and errors call it the `kind` NAME.

        The function sees the answers in the order that the query says, so a bias for one place is not one for an item.
        """
        self._store, self._judge, self._kind = store, judge, kind
        self.name = name or getattr(judge, "__name__", type(judge).__name__)

    def ask(self, queries: Sequence[Query]) -> None:
        """Store the queries and answer those that nobody has answered yet.

        What was answered before an error stays answered.

        Raises:
            FunctionFailed: the function raised, or returned something that is neither a probability or score nor None.
            DataError: a query is neither a comparison of two nor a rating of one.
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
            raise FunctionFailed(
                f'the {self._kind} "{self.name}" failed on query {query.id}, {_words(items)} ({type(error).__name__}: {error})'
            ) from error
        seconds = time.perf_counter() - start
        if share is None:
            return Judgement(query.id, self.name, None, note="the function could not judge", seconds=seconds)
        if not isinstance(share, Real) or not 0 <= float(share) <= 1:
            wanted = "score" if len(items) == 1 else "probability"
            raise FunctionFailed(
                f'the {self._kind} "{self.name}" said {share!r} to query {query.id}, {_words(items)}; expected a {wanted} in [0, 1], or None'
            )
        if len(items) == 1:
            return Judgement(query.id, self.name, (float(share),), seconds=seconds)
        return Judgement(query.id, self.name, as_stored(query, (float(share), 1 - float(share))), seconds=seconds)


def _words(items: Sequence[Item]) -> str:
    """Return the beginnings of the prompt and of the answers, in the order shown."""
    begins = [
        text if len(text) <= BEGINNING else text[:BEGINNING] + "..." for text in (str(one.content) for one in items)
    ]
    return f"{' and '.join(map(repr, begins))} to {items[0].prompt[:BEGINNING]!r}"
