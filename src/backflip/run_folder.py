"""The files under a run: making and holding its folder, growing files by lines, writing JSON.

Everything here either happens whole or is undone. Leaves out what the files mean (`run.py`, `run_record.py`).
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import re
import secrets
import time
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from sqlalchemy import make_url

from backflip.checkpoint import saving
from backflip.data import Estimate
from backflip.errors import ConfigError, DataError
from backflip.run_record import CONFIG, LOCK, SUMMARY, read_object

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_PATIENCE_SECONDS = 1.0
"""A reader asks for a moment whether a run is held; that long a moment never lasts."""


def new_folder(root: Path, experiment: str) -> Path:
    """Make a folder under `root` named after the moment and the experiment."""
    stem = f"{datetime.now():%Y-%m-%d-%H%M%S}-{plain_name(experiment)}"
    with _making(root):
        root.mkdir(parents=True, exist_ok=True)
        for number in range(1, 1000):
            path = root.resolve() / (stem if number == 1 else f"{stem}-{number}")
            try:
                path.mkdir()
            except FileExistsError:
                continue
            return path
    raise ConfigError(f"{root} already holds 999 runs of this second; give another --runs folder")


def given_folder(path: Path) -> Path:
    """Make the folder the caller named, unless it has something in it. Raises ConfigError."""
    path = path.resolve()
    if path.exists() and not path.is_dir():
        raise ConfigError(f"{path} is a file; give the name of a new or empty folder for the run")
    with _making(path):
        path.mkdir(parents=True, exist_ok=True)
    check_empty(path)
    return path


@contextmanager
def _making(path: Path) -> Generator[None]:
    """Say in one line why a folder cannot be made."""
    try:
        with saving(path):
            yield
    except OSError as error:
        raise ConfigError(f"cannot make the folder {path} ({error.strerror}); give another one for the run") from error


def check_empty(path: Path) -> None:
    """Raise ConfigError where a folder has anything in it but a lock."""
    if not [entry for entry in path.iterdir() if entry.name != LOCK]:
        return
    if (path / CONFIG).exists():
        status = read_object(path / SUMMARY, []).get("status", "unknown")
        raise ConfigError(
            f"{path} already holds a run (status: {status}); go on with it by --resume, or give another folder"
        )
    raise ConfigError(f"{path} is not empty; give the name of a new or empty folder for the run")


def hold(path: Path) -> IO[bytes]:
    """Take the run folder for this process, until the returned file is closed or the process ends, however it ends.

    Raises ConfigError where another process has it.
    """
    file = open(path / LOCK, "ab+")  # noqa: SIM115  (open for as long as the run lasts)
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > deadline:
                file.seek(0)
                holder = file.read().decode(errors="replace").strip() or "unknown"
                file.close()
                raise ConfigError(
                    f"the run {path} is in use by process {holder}; wait for it, stop it, or give another folder"
                ) from None
            time.sleep(0.05)
    with saving(path):
        file.truncate(0)
        file.write(str(os.getpid()).encode())
        file.flush()
    return file


def point(link: Path, target: str) -> None:
    """Make the symbolic link `link` point to `target`, replacing the old one in one step."""
    new = link.with_name(f".{link.name}.{secrets.token_hex(4)}")
    new.symlink_to(target)
    new.replace(link)


def append_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append one line of JSON a row, all rows or none. Raises StoreError where the disk is full."""
    append_text(path, "".join(to_json(dict(row), f"a row of {path.name}", indent=None) for row in rows))


def append_text(path: Path, text: str) -> None:
    """Append text, whole or not at all. Raises StoreError where the disk is full."""
    with saving(path), open(path, "ab", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        rest = memoryview(text.encode())
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except OSError:
            file.truncate(size)
            raise


def cut_to(path: Path, size: int) -> None:
    """Take a file that grows by lines back to an earlier size. Raises DataError where it is gone or already shorter."""
    if not path.is_file():
        raise DataError(f"{path} is gone, so the run cannot go on; restore the file from a copy, or start a new run")
    with open(path, "rb+") as file:
        there = os.fstat(file.fileno()).st_size
        if there < size:
            raise DataError(
                f"{path} has {there} bytes, expected at least {size}: lines are gone since the resume point was saved; "
                "restore the file from a copy, or start a new run"
            )
        file.truncate(size)
        os.fsync(file.fileno())


def to_json(value: Any, what: str, indent: int | None = 2) -> str:
    """Return JSON and a newline; estimates become objects, numpy scalars numbers. Raises DataError naming `what`."""
    try:
        return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False, default=_plain_value) + "\n"
    except (TypeError, ValueError) as error:
        raise DataError(f"cannot write {what} as JSON: {error}; expected plain values and finite numbers") from error


def _plain_value(value: Any) -> Any:
    if isinstance(value, Estimate):
        return value.as_json()
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        return value.item()
    raise TypeError(f"a {type(value).__name__} is no JSON")


def plain_name(name: str) -> str:
    """Return `name` if it can name a file. Raises ConfigError."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot name a file; expected letters, digits, '_', '-', '.', and a letter or digit first"
        )
    return name


def finite(value: Any, what: str) -> float:
    """Return a number (also a tensor of one) as a float. Raises DataError naming `what` unless it is finite."""
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise DataError(f"{what} is {value!r}; expected a finite number") from error
    if not math.isfinite(number):
        raise DataError(f"{what} is {number}; expected a finite number: find what made it so before logging it")
    return number


def public_address(store: str | None) -> str | None:
    """Return a store's address as it may be written down: without its password."""
    if store is None or "://" not in store:
        return None if store is None else str(Path(store).absolute())
    return make_url(store)._replace(password=None).render_as_string(hide_password=False)
