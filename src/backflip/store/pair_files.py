"""Read and write rows as JSON lines or Parquet, named by the file's ending. Leaves out what a row means.

Parquet has a fixed set of columns, given by the caller; JSON lines take each row as it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from backflip.errors import ConfigError, DataError

JSON_LINES = (".jsonl", ".ndjson")
PARQUET = (".parquet",)
BATCH = 1000

Write = Callable[[Mapping[str, Any]], None]


def check_ending(path: Path) -> str:
    """Return `line` or `row`, by which places in the file are named. Raises ConfigError for an unknown ending."""
    if path.suffix.lower() in JSON_LINES:
        return "line"
    if path.suffix.lower() in PARQUET:
        return "row"
    raise ConfigError(
        f"cannot tell the format of {path} by its ending; expected {' or '.join((*JSON_LINES, *PARQUET))}"
    )


def check_file(path: Path) -> None:
    """Raise DataError where there is no such file."""
    if not path.is_file():
        raise DataError(f"no file {path}; give the path of a .jsonl or .parquet file of preference pairs")


def read_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield each row with its number from 1; where a line is no JSON, a `DataError` in place of the row.

    Blank lines are passed over. Raises DataError where the file as a whole cannot be read.
    """
    place = check_ending(path)
    check_file(path)
    return _read_file(path) if place == "line" else _read_parquet(path)


@contextmanager
def writing_rows(path: Path, columns: Sequence[str], ending: str) -> Generator[Write, None, None]:
    """Yield a function that writes one row to `path`, in the format that `ending` names."""
    if ending.lower() in PARQUET:
        with _writing_parquet(path, columns) as write:
            yield write
        return
    with open(path, "w", encoding="utf-8", newline="\n") as file:

        def write_line(row: Mapping[str, Any]) -> None:
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")

        yield write_line


def read_lines(file: Iterable[bytes]) -> Iterator[tuple[int, Any]]:
    """Yield what each line of JSON lines says, with its number from 1; where it is no JSON, a `DataError` in its place."""
    for number, line in enumerate(file, 1):
        raw = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if not raw.strip():
            continue
        try:
            yield number, json.loads(raw.decode("utf-8"))
        except UnicodeDecodeError as error:
            yield number, DataError(f"byte {error.start + 1} is not UTF-8")
        except ValueError as error:
            yield number, DataError(f"not JSON ({error})")
        except RecursionError:
            yield number, DataError("not JSON that can be read: brackets within brackets without end")


def _read_file(path: Path) -> Iterator[tuple[int, Any]]:
    with open(path, "rb") as file:
        yield from read_lines(file)


def _read_parquet(path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"cannot read {path} as Parquet after row {number}: {error}; write the file again") from error


@contextmanager
def _writing_parquet(path: Path, columns: Sequence[str]) -> Generator[Write, None, None]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {
        "answer": pa.list_(pa.float64()),
        "strength": pa.float64(),
        "created": pa.float64(),
        "seconds": pa.float64(),
    }
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in columns])
    waiting: list[Mapping[str, Any]] = []
    with pq.ParquetWriter(path, schema) as file:

        def flush() -> None:
            file.write_table(pa.Table.from_pylist(waiting, schema=schema))
            waiting.clear()

        def write(row: Mapping[str, Any]) -> None:
            waiting.append(row)
            if len(waiting) >= BATCH:
                flush()

        yield write
        flush()
