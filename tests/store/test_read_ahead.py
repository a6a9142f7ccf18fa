"""What is kept in memory of questions: everything in them counts, and all of them together have a bound."""

from __future__ import annotations

import pytest

from backflip.data import Aid, Item, Query
from backflip.store import Store, read_ahead
from backflip.store.read_ahead import ReadAhead


def long(n: int, letters: int, part: str) -> Query:
    """A question with much text in one of its parts."""
    text = "x" * letters
    prompt, payload = (f"{text if part == 'prompt' else ''}{n}", {"sources": text} if part == "payload" else {})
    aids = (Aid("ann", text),) if part == "aid" else ()
    return Query(tuple(Item(prompt, f"answer {k}", payload) for k in (0, 1)), "Which is better?", aids=aids)


@pytest.mark.parametrize("part", ["prompt", "payload", "aid"])
def test_what_is_kept_is_bounded_in_all(store: Store, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    monkeypatch.setattr(read_ahead, "ALL_LETTERS", 40_000)
    queries = [long(n, 4000, part) for n in range(20)]
    store.add_queries(queries)
    kept = ReadAhead(store)
    for _ in range(2):
        for query in queries:
            assert kept.by_id([query.id]) == {query.id: query}
        assert 3 <= len(kept._kept) <= 10 and 0 < kept._letters <= 40_000


def test_a_long_one_is_read_and_not_kept(store: Store) -> None:
    query = long(0, read_ahead.KEPT_LETTERS, "prompt")
    store.add_queries([query])
    kept = ReadAhead(store)
    assert kept.by_id([query.id, "f" * 32]) == {query.id: query} and not kept._kept and kept._letters == 0
