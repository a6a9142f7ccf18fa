"""Files that are something else altogether: refused soon, in one sentence, whatever their size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backflip.errors import DataError
from backflip.store import Store
from backflip.store import interchange as files
from backflip.store.asked_lines import ask_rows
from backflip.store.interchange import MOST_FAULTS, import_pairs
from backflip.store.known_lines import add_rows


@pytest.mark.parametrize("add", [add_rows, ask_rows])
def test_a_file_of_bad_lines_is_read_no_further_than_that_is_sure(store: Store, add: Callable[..., Any]) -> None:
    came = 0

    def rows() -> Iterator[tuple[int, Any]]:
        nonlocal came
        for came in range(1, 4 * MOST_FAULTS):
            yield came, [1]

    with pytest.raises(DataError, match=r"big.jsonl has 5,000 bad lines or more, and was read no further.*4,990 more$"):
        add(store, rows(), "big.jsonl")
    assert came == MOST_FAULTS


def test_a_file_to_import_is_read_no_further_either(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    came = 0
    path = tmp_path / "big.jsonl"
    path.write_text("1\n" * (4 * MOST_FAULTS))
    read = files.read_rows

    def counted(path: Path) -> Iterator[tuple[int, Any]]:
        nonlocal came
        for number, row in read(path):
            came = number
            yield number, row

    monkeypatch.setattr(files, "read_rows", counted)
    with pytest.raises(DataError, match="5,000 bad lines or more"):
        import_pairs(store, path)
    assert came == MOST_FAULTS


@pytest.mark.parametrize("add", [add_rows, ask_rows])
def test_a_bad_line_of_any_length_is_told_in_a_sentence(store: Store, add: Callable[..., Any]) -> None:
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "question": [1] * 100_000}
    if add is ask_rows:
        row = {"prompt": "p", "first": "a", "second": "b", "question": [1] * 100_000}
    with pytest.raises(DataError, match=r"line 1: its question is .* [.][.][.]$") as found:
        add(store, [(1, row)], "long.jsonl")
    assert len(str(found.value)) < 500
