"""Kill the main job at random moments, resume it, and compare what comes out with a run that nobody disturbed.

    python bench/resume.py                 20 kills: half at a random time, half in the middle of a save
    python bench/resume.py --kills 3 --seed 7

Every killed process gets SIGKILL. A run is killed a few times, then left to end; new runs begin until all kills are
spent. `ours` is the number of kills after which a run ended bit-equal: policy, reward model and optimiser state,
metrics, samples, results and estimates, times and disk use aside. Small settings, the shipped base, one thread.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import numpy as np

from backflip.checkpoint import TENSORS
from backflip.run_record import CHECKPOINTS, CONFIG, RunRecord, read_run
from backflip.store import Store

SETTINGS = (
    "--comparisons 24 --members 1 --normalise-on 16 --updates 4 --episodes 8 --save-every 1 --check-every 2 --best-of 2 "
    "--sampling.max-new-tokens 8"
).split()
PROGRAM = "from backflip.cli import main; raise SystemExit(main())"
KILLS_A_RUN = 4
POLL_SECONDS = 0.0005
RESUME_POINT = "resume"
"""The folder of the resume point among the checkpoints; it also holds times, so only its tensors are compared."""


def begin(folder: Path) -> subprocess.Popen[bytes]:
    """Start the main job in `folder`, or go on with the run that is there; a folder that is no run yet is removed."""
    if (folder / CONFIG).is_file():
        argv = ["--resume", str(folder)]
    else:
        shutil.rmtree(folder, ignore_errors=True)
        argv = ["reviews", *SETTINGS, "--folder", str(folder)]
    with open(folder.with_suffix(".log"), "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "run", *argv, "--quiet"],
            env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            stdout=log,
            stderr=log,
        )


def finish(folder: Path) -> float:
    """Run to the end and return the seconds it took. Raises RuntimeError where it does not end well."""
    began = time.monotonic()
    process = begin(folder)
    if code := process.wait():
        raise RuntimeError(f"the run {folder} ended with code {code}: {folder.with_suffix('.log').read_text()[-2000:]}")
    return time.monotonic() - began


Moment = Callable[[set[str], float], bool]
"""Whether to kill now a process that is writing these checkpoints, after so many seconds."""


def kill_when(folder: Path, due: Moment) -> str:
    """Run until the moment comes, kill, and return where that was: "in a save", "elsewhere", or "done" if the run ended first."""
    left_over = being_saved(folder)
    process, began = begin(folder), time.monotonic()
    while process.poll() is None:
        if due(being_saved(folder) - left_over, time.monotonic() - began):
            process.send_signal(signal.SIGKILL)
            process.wait()
            if (folder / CONFIG).is_file() and read_run(folder).status == "done":
                return "done"  # only the process was still there
            return "in a save" if being_saved(folder) - left_over else "elsewhere"
        time.sleep(POLL_SECONDS)
    if process.returncode:
        raise RuntimeError(f"the run {folder} failed by itself: {folder.with_suffix('.log').read_text()[-2000:]}")
    return "done"


def being_saved(folder: Path) -> set[str]:
    """Return the names of checkpoints that are being written, or were when their writer was killed; each save has its own."""
    places = folder / CHECKPOINTS
    return {path.name for path in places.glob(".*.new")} if places.is_dir() else set()


def at_random(rng: np.random.Generator, low: float, high: float) -> Moment:
    """Return a time between `low` and `high` seconds."""
    at = float(rng.uniform(low, high))
    return lambda saving, passed: passed >= at


def in_a_save(rng: np.random.Generator) -> Moment:
    """Return a moment some milliseconds into one of the first saves of a process."""
    number, after = int(rng.integers(1, 4)), float(rng.uniform(0, 0.02))
    seen, since = set[str](), list[float]()

    def due(saving: set[str], passed: float) -> bool:
        seen.update(saving)
        if len(seen) >= number and not since:
            since.append(passed)
        return bool(since) and passed - since[0] >= after

    return due


def differences(one: Path, other: Path) -> list[str]:
    """Compare two finished runs of equal settings and return what differs, times and disk use aside."""
    first, second = read_run(one), read_run(other)
    found = [f"{record.path} is {record.status}" for record in (first, second) if record.status != "done"]
    parts: dict[str, Callable[[RunRecord], Any]] = {
        "metrics": lambda record: without_times(record.metrics),
        "samples": lambda record: record.samples,
        "notes": lambda record: record.notes,
        "results": lambda record: without_times(record.results),
        "estimates": lambda record: record.summary.get("estimates"),
        "checkpoints": lambda record: weights(record.path / CHECKPOINTS),
        "questions and answers": lambda record: asked(record.path),
    }
    return found + [name for name, part in parts.items() if part(first) != part(second)]


def without_times(value: Any) -> Any:
    """Return JSON without seconds and bytes."""
    if isinstance(value, dict):
        return {
            key: without_times(part)
            for key, part in value.items()
            if not key.startswith("seconds") and key != "disk_bytes"
        }
    return [without_times(part) for part in value] if isinstance(value, list) else value


def weights(folder: Path) -> dict[str, bytes]:
    """Return the content of every file of every checkpoint; of the resume point its tensors, since the rest holds times."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    kept = [file for file in files if file.relative_to(folder).parts[0] != RESUME_POINT or file.name == TENSORS]
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in kept}


def asked(folder: Path) -> list[Any]:
    """Return every question, and every answer."""
    with Store.open(folder / "store.sqlite", "read") as store:
        return [[query.id for query in store.queries()[0]], [(j.query_id, j.answer) for j in store.judgements()[0]]]


def main() -> None:
    """Kill, resume and compare until all kills are spent."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    where, survived = {"in a save": 0, "elsewhere": 0}, 0
    differing: list[str] = []
    with tempfile.TemporaryDirectory() as place:
        whole = Path(place) / "whole"
        seconds = finish(whole)
        runs = 0
        while sum(where.values()) < args.kills:
            folder, runs, kills = Path(place) / f"killed-{runs}", runs + 1, 0
            while kills < KILLS_A_RUN and sum(where.values()) < args.kills:
                moment = at_random(rng, 0.0, seconds) if sum(where.values()) % 2 else in_a_save(rng)
                if (how := kill_when(folder, moment)) == "done":
                    break
                where[how] += 1
                kills += 1
                print(f"kill {sum(where.values())}: {how}", file=sys.stderr)
                if (folder / CONFIG).is_file() and read_run(folder).status == "done":
                    break  # the kill met a process on its way out: nothing is left to resume
            else:
                finish(folder)
            faults = differences(whole, folder)
            differing += [f"run {runs} after {kills} kills: {fault}" for fault in faults]
            survived += 0 if faults else kills
            shutil.rmtree(folder)
    detail = {
        "kills": args.kills,
        "runs": runs,
        "where": where,
        "differences": differing,
        "seconds_undisturbed": seconds,
    }
    unit = "kill -9 after which the run ended bit-equal to one that nobody disturbed"
    common.record("resume", survived, None, unit, detail, on=common.machine(threads=1))
    if differing:
        raise SystemExit("\n".join(differing))


if __name__ == "__main__":
    main()
