"""A store, and queries of two short texts whose truth is a number they hold."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backflip.data import Item, Query
from backflip.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store.sqlite") as opened:
        yield opened


@pytest.fixture
def item() -> Any:
    return lambda text, prompt="the film": Item(prompt, text, {"answer_text": text})


@pytest.fixture
def worth() -> Any:
    """The truth of an item made from numbers: one number a decision."""
    return lambda item: np.array([float(part) for part in item.content.split()])


@pytest.fixture
def query(item: Any) -> Any:
    return lambda first, second, **more: Query((item(first), item(second)), "which is better?", **more)
