"""Read a run folder without changing it, whether its run is finished, going on, stopped, failed or killed.

Whatever can be read is returned; everything that cannot is named in `faults`. Leaves out writing (`run.py`).
"""

from __future__ import annotations

import fcntl
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from backflip.errors import ConfigError, DataError

CONFIG, COMMAND, SEEDS, SUMMARY, LOCK, LOG = (
    "config.json",
    "command.json",
    "seeds.json",
    "summary.json",
    "lock",
    "log.txt",
)
METRICS, SAMPLES, NOTES = "metrics.jsonl", "samples.jsonl", "notes.jsonl"
APPENDED = (METRICS, SAMPLES, NOTES)
"""Files that grow by lines, and that a resumed run takes back to where its resume point was saved."""
CHECKPOINTS, RESULTS, STORE = "checkpoints", "results", "store.sqlite"
AGAIN = "again.json"
"""In a run that is trained again on an earlier one's judgements (`run_again`)."""
MADE_AT_ONCE = (AGAIN, CONFIG, COMMAND, SEEDS, SUMMARY, LOCK, LOG, *APPENDED, CHECKPOINTS, RESULTS, STORE)
"""What is in every run folder from the beginning; the store has further files of its name beside it."""


@dataclass(frozen=True)
class RunRecord:
    """What a run folder holds."""

    path: Path
    experiment: str
    status: str
    """done, running, stopped, failed; or killed: it says that it is running, but no process holds it."""
    config: Mapping[str, Any]
    command: Mapping[str, Any]
    seed: int | None
    summary: Mapping[str, Any]
    metrics: list[dict[str, Any]]
    samples: list[dict[str, Any]]
    notes: list[str]
    results: Mapping[str, Any]
    """Content of results/NAME.json by name."""
    faults: list[str]
    """What could not be read, one line each."""


def read_run(path: str | Path) -> RunRecord:
    """Read a run folder. Raises DataError where the folder is no run."""
    path = require_run(path)
    faults: list[str] = []
    config = read_object(path / CONFIG, faults)
    summary = read_object(path / SUMMARY, faults)
    status = str(summary.get("status", "unknown"))
    results = sorted((path / RESULTS).glob("*.json"))
    return RunRecord(
        path=path,
        experiment=str(config.pop("experiment", summary.get("experiment", "unknown"))),
        status="killed" if status == "running" and not is_held(path) else status,
        config=config,
        command=read_object(path / COMMAND, faults),
        seed=read_object(path / SEEDS, faults).get("seed"),
        summary=summary,
        metrics=read_lines(path / METRICS, faults),
        samples=read_lines(path / SAMPLES, faults),
        notes=[str(row.get("text", "")) for row in read_lines(path / NOTES, faults)],
        results={file.stem: value for file in results if (value := _json(file, faults)) is not None},
        faults=faults,
    )


def require_run(path: str | Path) -> Path:
    """Return the run folder that `path` (also a link such as runs/latest) means. Raises DataError where it is none."""
    path = Path(path)
    if not (path / CONFIG).is_file():
        what = (
            f"it has no {CONFIG}" if path.is_dir() else "it is a file" if path.exists() else "there is no such folder"
        )
        raise DataError(f"{path} is no run folder: {what}; give a folder that `backflip run` made, e.g. runs/latest")
    return path.resolve()


def names_of(paths: Sequence[Path]) -> list[str]:
    """Name runs by their folders, with as many of the folders above as it takes to tell them apart."""
    found = [path.name for path in paths]
    for depth in range(2, max((len(path.parts) for path in paths), default=0) + 1):
        found = [
            "/".join(path.parts[-depth:]) if found.count(name) > 1 else name
            for name, path in zip(found, paths, strict=True)
        ]
    return found


def check_unchanged(path: Path) -> None:
    """Raise ConfigError where the settings of a run are not those that it began with."""
    noted = read_object(path / SEEDS, []).get("config_crc32")
    if noted is not None and zlib.crc32((path / CONFIG).read_bytes()) != noted:
        raise ConfigError(
            f"{path / CONFIG} was changed since the run began, and a run goes on with the settings it began with; put them "
            "back, or start a new run"
        )


def is_held(path: Path) -> bool:
    """Return True while a process has this run open."""
    try:
        with open(path / LOCK, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def read_lines(path: Path, faults: list[str]) -> list[dict[str, Any]]:
    """Return the objects of a JSONL file. Broken lines go to `faults` by number; a last line being written does not."""
    rows: list[dict[str, Any]] = []
    if not path.is_file():
        return rows
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break
            try:
                value = json.loads(line)
            except ValueError as error:
                faults.append(f"{path.name} line {number} is no JSON ({error}); it is left out")
                continue
            if isinstance(value, dict):
                rows.append(cast(dict[str, Any], value))
            else:
                faults.append(f"{path.name} line {number} holds no object; it is left out")
    return rows


def read_object(path: Path, faults: list[str]) -> dict[str, Any]:
    """Return the object in a JSON file, or an empty one and a line in `faults`."""
    value = _json(path, faults)
    if isinstance(value, dict):
        return cast(dict[str, Any], value)
    if value is not None:
        faults.append(f"{path.name} holds no object")
    return {}


def _json(path: Path, faults: list[str]) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        faults.append(f"{path.name} is missing")
    except ValueError as error:
        faults.append(f"{path.name} is no JSON ({error})")
    return None
