"""An empty store on each kind of database, and questions to put into it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backflip.data import Aid, Item, Query
from backflip.store import Store


@pytest.fixture(params=["sqlite", "postgres"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str | Path:
    """Where an empty store may be made."""
    return tmp_path / "store.sqlite" if request.param == "sqlite" else request.getfixturevalue("postgres_url")


@pytest.fixture
def store(where: str | Path) -> Iterator[Store]:
    """An empty store."""
    with Store.open(where) as opened:
        yield opened


@pytest.fixture
def ask() -> Callable[..., Query]:
    """Make the n-th question."""

    def make(n: int, aids: tuple[Aid, ...] = ()) -> Query:
        pair = tuple(Item(f"prompt {n}", f"answer {n} {k}", {"tokens": [n, k]}) for k in (0, 1))
        return Query(pair, "Which is better?", aids=aids, order=(1, 0), reason="test")

    return make
