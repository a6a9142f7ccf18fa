"""A run folder: everything one run was asked, did and found, complete enough to reproduce, resume and report it.

A run killed at any moment goes on from its last resume point, and its metrics then equal those of a run that was
never interrupted (times aside). Leaves out reading a folder for a report (`run_record.py`, re-exported here) and
what is logged: functions return statistics, loops log them. Importing this module does not import torch.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
import traceback
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self, TypeVar, cast

import numpy as np

from backflip import run_record as files
from backflip.checkpoint import atomic_folder, load_tensors, save_tensors, saving, settle, sweep, write_atomic
from backflip.data import Estimate
from backflip.errors import ConfigError, DataError, MissingExtra
from backflip.progress import Progress
from backflip.run_checkpoints import KeepRule, Kept, keep_after
from backflip.run_config import TYPE, config_from_json, config_to_json
from backflip.run_facts import command_facts, peak_rss_mb
from backflip.run_folder import (
    append_lines,
    append_text,
    check_empty,
    cut_to,
    finite,
    given_folder,
    hold,
    new_folder,
    plain_name,
    point,
    public_address,
    to_json,
)
from backflip.run_record import RunRecord, read_run, require_run
from backflip.store import Store

__all__ = ["KeepRule", "Run", "RunRecord", "read_run"]

Config = TypeVar("Config")
Status = Literal["running", "done", "stopped", "failed"]
RESUME = "resume"


class Run:
    """One run and its folder. Made by `Run.create` or `Run.resume`; use it in a `with` block, or call `finish`."""

    def __init__(self, path: Path, lock: IO[bytes], store: str | None = None) -> None:
        """Open the folder at `path`, whose lock is held; callers use `create` or `resume`."""
        self.path = path
        self._lock = lock
        faults: list[str] = []
        config, command, seeds = (
            files.read_object(path / name, faults) for name in (files.CONFIG, files.COMMAND, files.SEEDS)
        )
        if faults:
            raise DataError(
                f"cannot open the run {path}: {faults[0]}; restore the file from a copy, or start a new run"
            )
        self.experiment: str = config["experiment"]
        self.config: Mapping[str, Any] = {name: value for name, value in config.items() if name != "experiment"}
        self.seed: int = seeds["seed"]
        self.state_name: str | None = None
        """Name of the resume point this run was resumed from; None in a new run."""
        self._tree: Any = None
        self.id: str = command["id"]
        """Names the run in its store, which may be shared with others."""
        self._estimates: dict[str, Estimate] = {}
        self._kept: list[Kept] = []
        self._rows = 0
        self._seconds_before = self._peak_before_mb = 0.0
        self._clock = time.monotonic()
        self._finished = False
        self._trackers: Any = None
        if names := command["trackers"]:
            from backflip.trackers import Trackers

            self._trackers = Trackers(names, path, self.config)
        self.progress = Progress()
        """What the run shows of itself while it works; replace it by `Progress(quiet=True)` for silence."""
        elsewhere = store or command["store"]
        self._store_elsewhere = bool(elsewhere)
        self._latest_before: str | None = None
        self.store = Store.open(elsewhere or path / files.STORE)

    @classmethod
    def create(
        cls,
        experiment: str,
        config: object,
        *,
        root: Path,
        seed: int,
        trackers: str | None = None,
        folder: Path | None = None,
        store: str | None = None,
    ) -> Run:
        """Make a run folder: a new one under `root`, to which `root/latest` then points, or `folder` if given.

        `store` is a `postgresql://` URL; without it the run has a store of its own. Raises ConfigError where `folder`
        is in use or not empty, or where a tracker is unknown; StoreError where the disk is full.
        """
        if trackers is not None:
            from backflip.trackers import check_trackers

            check_trackers(trackers)
        saved = to_json({"experiment": experiment, **_fields(config)}, "the config")
        path = new_folder(Path(root), experiment) if folder is None else given_folder(Path(folder))
        lock = hold(path)
        try:
            check_empty(path)  # again, now that nobody else can fill it
            with saving(path):
                for name in (files.CHECKPOINTS, files.RESULTS):
                    (path / name).mkdir()
                for name in files.APPENDED:
                    (path / name).touch()
            command = command_facts() | {
                "id": secrets.token_hex(16),
                "trackers": trackers,
                "store": public_address(store),
            }
            write_atomic(path / files.COMMAND, to_json(command, "the command"), sync=False)
            write_atomic(
                path / files.SEEDS,
                to_json({"seed": seed, "config_crc32": zlib.crc32(saved.encode())}, "the seed"),
                sync=False,
            )
            write_atomic(path / files.CONFIG, saved)
            run = cls(path, lock, store)
            run._write_summary("running")
            run.say(f"started {experiment} with seed {seed}")
        except BaseException:
            shutil.rmtree(path, ignore_errors=True)  # it was empty: a run that never began leaves nothing behind
            lock.close()
            raise
        latest = path.parent / "latest"
        if path.parent == Path(root).resolve():
            run._latest_before = str(latest.readlink()) if latest.is_symlink() else None
            point(latest, path.name)
        return run

    @classmethod
    def resume(cls, path: str | Path, *, store: str | None = None) -> Run:
        """Open a run that was killed, stopped or failed, and take it back to its last resume point (or its beginning).

        `store` gives the store's URL again where it needs a password. Raises DataError where the folder is no run,
        ConfigError where it is in use or already done.
        """
        path = require_run(path)
        lock = hold(path)
        try:
            record = read_run(path)
            if record.status == "done":
                raise ConfigError(
                    f"the run {path} is done: nothing is left to resume; start a new one, or read its report"
                )
            for folder in (record.path, record.path / files.CHECKPOINTS, record.path / files.RESULTS):
                if folder.is_dir():
                    sweep(folder)
            own = record.path / files.STORE
            if not own.exists() and not (store or record.command.get("store")) and _began(record):
                raise DataError(
                    f"{own} is gone, and with it what was asked and answered; restore it from a copy, or start a "
                    "new run"
                )
            run = cls(record.path, lock, store)
            files.check_unchanged(record.path)
            run._take_back(record)
        except BaseException:
            lock.close()
            raise
        run._write_summary("running")
        run.say(f"resumed from {run.state_name or 'the beginning'}")
        return run

    def config_as(self, kind: type[Config]) -> Config:
        """Return the config this run was created with. Raises ConfigError where it does not fit `kind`."""
        return config_from_json(kind, self.config)

    def rng(self, name: str) -> np.random.Generator:
        """Return the generator of the stream `name`: a function of seed and name, independent of every other name."""
        return np.random.default_rng(np.random.SeedSequence([self.seed, *name.encode()]))

    @property
    def seconds(self) -> float:
        """Time spent so far, over all resumes."""
        return self._seconds_before + time.monotonic() - self._clock

    def log(self, step: int, phase: str, **metrics: float) -> None:
        """Append one line to metrics.jsonl, to the store's metrics and to the trackers.

        Raises DataError naming a metric that is not a finite number; then nothing is written.
        """
        values = {
            name: finite(value, f"metric {name!r} at step {step} of phase {phase!r}") for name, value in metrics.items()
        }
        if "seconds" in values:
            raise DataError(
                "'seconds' is the time since the run began, logged with every line; call the metric seconds_WHAT"
            )
        row = {"step": int(step), "phase": phase, "seconds": round(self.seconds, 3), **values}
        self._append(files.METRICS, [row])
        self.store.add_metrics(self.id, [row])
        if self._trackers is not None:
            self._trackers.log(self._rows, step, phase, values)
        self._rows += 1

    def estimate(self, name: str, estimate: Estimate) -> None:
        """Put a measured number into summary.json. Raises DataError where it is not finite."""
        for part in ("value", "low", "high"):
            finite(getattr(estimate, part), f"the {part} of estimate {name!r}")
        self._estimates[name] = estimate
        self._write_summary("running")

    def note(self, text: str) -> None:
        """Keep a sentence that a reader of the results must know."""
        self._append(files.NOTES, [{"text": text}])
        self.say(text)

    def say(self, text: str) -> None:
        """Write a line with the time into log.txt, which is there for whoever watches no terminal."""
        append_text(self.path / files.LOG, f"{datetime.now():%Y-%m-%d %H:%M:%S} {text}\n")

    def samples(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows to samples.jsonl."""
        self._append(files.SAMPLES, rows)

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows to results/NAME.json."""
        self.result(name, [dict(row) for row in rows])

    def result(self, name: str, value: Any) -> None:
        """Write JSON to results/NAME.json; estimates inside are written as in summary.json."""
        write_atomic(self.path / files.RESULTS / f"{plain_name(name)}.json", to_json(value, f"result {name!r}"))

    def save_state(self, name: str, tree: Any) -> None:
        """Make this moment the resume point: `tree`, and how far every file of the run had grown, atomically."""
        sizes: dict[str, int] = {}
        for file in files.APPENDED:
            with open(self.path / file, "rb+") as handle:
                os.fsync(handle.fileno())
                sizes[file] = os.fstat(handle.fileno()).st_size
        state = {
            "name": name,
            "tree": tree,
            "sizes": sizes,
            "rows": self._rows,
            "seconds": self.seconds,
            "estimates": {key: value.as_json() for key, value in self._estimates.items()},
            "results": [file.name for file in (self.path / files.RESULTS).glob("*.json")],
            "kept": [asdict(kept) for kept in self._kept],
        }
        save_tensors(self.path / files.CHECKPOINTS / RESUME, state)

    def load_state(self) -> Any:
        """Return the tree of the resume point this run was resumed from; None in a new run, or where none was saved."""
        return self._tree

    def checkpoint(
        self,
        series: str,
        step: int,
        save: Callable[[Path], object],
        *,
        score: float | None = None,
        keep: KeepRule | None = None,
    ) -> Path:
        """Let `save(folder)` fill checkpoints/SERIES-STEP, put it in place whole, then remove what `keep` lets go."""
        known = None if score is None else finite(score, f"the score of checkpoint {series!r}")
        new = Kept(plain_name(series), step, known)
        folder = self.path / files.CHECKPOINTS / new.name
        with atomic_folder(folder) as unfinished:
            save(unfinished)
        self._kept, gone = keep_after(self._kept, new, keep or KeepRule())
        for old in gone:
            shutil.rmtree(self.path / files.CHECKPOINTS / old.name, ignore_errors=True)
        return folder

    def checkpoints(self, series: str) -> list[Path]:
        """Return the checkpoints of a series that are kept, oldest first."""
        return [self.path / files.CHECKPOINTS / kept.name for kept in self._kept if kept.series == series]

    def disk_bytes(self) -> int:
        """Return how much the folder holds."""
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file() and not file.is_symlink())

    def finish(self, status: Literal["done", "stopped", "failed"] = "done") -> None:
        """Write the last summary, close the store and the trackers, and let go of the folder."""
        if self._finished:
            return
        self._finished = True
        try:
            self._write_summary(status)
            self.say(status)
            if self._trackers is not None:
                self._trackers.close()
            self.store.close()
        finally:
            self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.finish("done")
        elif isinstance(error, KeyboardInterrupt):
            self.finish("stopped")
        else:
            began = self._has_begun()
            try:
                self.say("".join(traceback.format_exception(error)))
            finally:
                self.finish("failed")
            if not began and isinstance(error, ConfigError | DataError | MissingExtra):
                self._vanish()

    def _has_begun(self) -> bool:
        """Return whether anything is there that starting anew would not bring: a question, a line, a state, an arm's runs, films."""
        saved = (self.path / files.CHECKPOINTS / RESUME).exists()
        made = [path for path in self.path.iterdir() if not path.name.startswith(files.MADE_AT_ONCE)]
        return bool(self._rows or made) or saved or self._store_elsewhere or any(self.store.counts().values())

    def _vanish(self) -> None:
        """Remove a folder whose settings were refused before anything happened: it could only be resumed into the same error."""
        shutil.rmtree(self.path, ignore_errors=True)
        latest = self.path.parent / "latest"
        if latest.is_symlink() and not latest.exists():
            if self._latest_before is None:
                latest.unlink()
            else:
                point(latest, self._latest_before)

    def _take_back(self, record: RunRecord) -> None:
        """Undo all that happened after the resume point, so that doing it again gives the same folder."""
        place = self.path / files.CHECKPOINTS / RESUME
        settle(place)
        state = load_tensors(place) if place.exists() else None
        last_seconds = record.metrics[-1]["seconds"] if record.metrics else 0.0
        self._seconds_before = max(last_seconds, record.summary.get("seconds", 0.0), state["seconds"] if state else 0.0)
        self._peak_before_mb = record.summary.get("peak_rss_mb", 0.0)
        for name in files.APPENDED:
            cut_to(self.path / name, state["sizes"][name] if state else 0)
        if state:
            self._rows, self.state_name, self._tree = state["rows"], state["name"], state["tree"]
            self._estimates = {name: Estimate(**value) for name, value in state["estimates"].items()}
            self._kept = [Kept(**kept) for kept in state["kept"]]
        self.store.keep_metrics(self.id, self._rows)
        names = {RESUME, *(kept.name for kept in self._kept)}
        for folder in (self.path / files.CHECKPOINTS).iterdir():
            if folder.name not in names:
                shutil.rmtree(folder)
        for file in (self.path / files.RESULTS).iterdir():
            if file.name not in (state["results"] if state else ()):
                file.unlink()
        # what was pruned after the resume point would be pruned again when that stretch is redone
        self._kept = [kept for kept in self._kept if (self.path / files.CHECKPOINTS / kept.name).is_dir()]

    def _append(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        append_lines(self.path / name, rows)

    def _write_summary(self, status: Status) -> None:
        summary = {
            "experiment": self.experiment,
            "status": status,
            "seconds": round(self.seconds, 3),
            "peak_rss_mb": round(max(self._peak_before_mb, peak_rss_mb()), 1),
            "estimates": self._estimates,
        }
        write_atomic(self.path / files.SUMMARY, to_json(summary, "the summary"), sync=status != "running")


def _began(record: RunRecord) -> bool:
    """Return whether a run got as far as having a store."""
    log = record.path / files.LOG
    return log.is_file() and log.stat().st_size > 0


def _fields(config: object) -> dict[str, Any]:
    """Return a config's fields as JSON. Raises ConfigError unless it is a dataclass or a mapping."""
    fields = config_to_json(config)
    if not isinstance(fields, dict) or "experiment" in fields:
        raise ConfigError(
            f"a run's config must be a dataclass without a field 'experiment', got {type(config).__name__}"
        )
    return {name: value for name, value in cast(dict[str, Any], fields).items() if name != TYPE}
