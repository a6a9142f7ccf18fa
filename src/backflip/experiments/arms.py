"""Arms of a comparison: whole runs of one experiment under different settings, each over the same seeds, side by side.

Every one is a run folder of its own, `RUN/arms/ARM/seed_K`, made by `backflip run` in a process of its own: each number can be followed
to its samples and judgements, a killed one is gone on with, a finished one is not repeated. No experiment. Left out: what the arms mean.

Shapes: K seeds.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from backflip.data import Estimate
from backflip.errors import ConfigError, DataError
from backflip.measures.stats import mean_interval
from backflip.run_record import CHECKPOINTS, CONFIG, MADE_AT_ONCE, is_held, read_run

if TYPE_CHECKING:
    from backflip.run import Run

LOOK_EVERY_SECONDS = 0.2
KILLED_AT_MOST = 3
"""Times that a run which something killed is gone on with, before it counts as failed."""


@dataclass(frozen=True)
class ArmsConfig:
    """Settings of every comparison of arms."""

    seed: int = 0
    """The first seed; the others follow it."""
    seeds: int = 5
    """Seeds of each arm. Arms share them, so differences are paired."""
    workers: int = 0
    """Runs at once, each with its share of the processors; 0: one a processor."""

    def __post_init__(self) -> None:
        if self.seeds < 2 or self.workers < 0 or self.seed < 0:
            raise ConfigError(
                f"seed {self.seed}, seeds {self.seeds}, workers {self.workers}: expected 0 or more, 2 or more (one says nothing of the "
                "spread; for a single run take `backflip run`), 0 or more"
            )


@dataclass(frozen=True)
class Arm:
    """One arm: an experiment and the options that its runs get besides `--seed`."""

    name: str
    experiment: str
    options: Mapping[str, str]
    """By name; a value of several words is several values, of none a switch that is on. A name that ends in a colon chooses a type: `kl:` with `adaptive_kl`."""

    def words(self) -> list[str]:
        """Return the options as they stand on a command line."""
        return [
            word
            for name, value in self.options.items()
            for word in ([name + value] if name.endswith(":") else [f"--{name}", *value.split()])
        ]


@dataclass(frozen=True)
class Planned:
    """One run of an arm, and where it is."""

    arm: Arm
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        """What it is called while it works, and where it failed."""
        return f"{self.arm.name}/{self.folder.name}"

    def done(self) -> bool:
        """Return whether it has finished."""
        return (self.folder / CONFIG).is_file() and read_run(self.folder).status == "done"

    def last_words(self) -> str:
        """Return the last line that its process wrote."""
        log = _log(self.folder)
        words = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.is_file() else []
        return words[-1] if words else "it said nothing"


@dataclass
class _Going:
    """A run that is going on."""

    process: subprocess.Popen[bytes]
    planned: Planned
    cores: frozenset[int]


def carry_out(arms: Sequence[Arm], config: ArmsConfig, run: Run) -> dict[str, list[Mapping[str, Any]]]:
    """Do what is left of all runs; return the summary of each arm's runs, in the order of seeds.

    Raises:
        DataError: runs failed; the others were finished first, and a resumed run tries the failed ones again.
    """
    planned = planned_runs(arms, config, run)
    failed = go_through(planned, processors(config.workers), run)
    if failed:
        raise DataError(
            f"{len(failed)} of {len(planned)} runs failed, the first {failed[0].folder}: {failed[0].last_words()}; mend the cause and go "
            f"on with: backflip run --resume {run.path}"
        )
    found: dict[str, list[Mapping[str, Any]]] = {arm.name: [] for arm in arms}
    for one in planned:
        found[one.arm.name].append(dict(read_run(one.folder).summary))
    return found


def planned_runs(arms: Sequence[Arm], config: ArmsConfig, run: Run) -> list[Planned]:
    """Return all runs in the order in which they are done: every arm's first seed, then every arm's second."""
    return [
        Planned(arm, seed, folder_of(run, arm.name, seed))
        for seed in range(config.seed, config.seed + config.seeds)
        for arm in arms
    ]


def go_through(planned: Sequence[Planned], shares: Sequence[frozenset[int]], run: Run) -> list[Planned]:
    """Do what is left of these runs, as many at once as there are shares of the processors; return those that failed.

    A run that something killed goes on from its last state, up to KILLED_AT_MOST times. Whatever stops this stops them as cleanly
    as Ctrl-C does, and they can be gone on with.
    """
    waiting = [one for one in planned if not one.done()]
    killed: Counter[Path] = Counter()
    live: list[_Going] = []
    with run.progress.phase(
        f"{len(planned)} runs of {len({one.arm.name for one in planned})} arms", len(planned)
    ) as bar:
        bar.advance(len(planned) - len(waiting))
        try:
            while waiting or live:
                free = [share for share in shares if share not in [one.cores for one in live]]
                # A run of a sweep that was killed may still be going on by itself; it is waited for.
                ready = [one for one in waiting if not is_held(one.folder)]
                for one in ready[: len(free)]:
                    waiting.remove(one)
                    if one.done():
                        bar.advance(1, last=one.name)
                    else:
                        live.append(_start(one, free.pop(0)))
                time.sleep(LOOK_EVERY_SECONDS)
                for one in [one for one in live if one.process.poll() is not None]:
                    live.remove(one)
                    folder = one.planned.folder
                    if (one.process.returncode or 0) < 0 and killed[folder] < KILLED_AT_MOST:
                        killed[folder] += 1
                        waiting.insert(0, one.planned)
                    else:
                        bar.advance(1, last=one.planned.name)
        finally:
            for one in live:
                one.process.terminate()  # each stops as cleanly as by Ctrl-C, and can be gone on with
            for one in live:
                one.process.wait()
    return [one for one in planned if not one.done()]


def folder_of(run: Run, arm: str, seed: int) -> Path:
    """Return where an arm's run of one seed is."""
    return run.path / "arms" / arm / f"seed_{seed}"


def checkpoint_of(folder: Path, series: str) -> Path:
    """Return the newest checkpoint of a series in a finished run.

    Raises:
        DataError: there is none.
    """
    found = sorted((folder / CHECKPOINTS).glob(f"{series}-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    if not found:
        raise DataError(f'{folder} holds no checkpoint "{series}"; expected a finished run')
    return found[-1]


def values(summaries: Sequence[Mapping[str, Any]], name: str) -> NDArray[np.float64]:
    """Return one estimate's value in every run of an arm, (K,).

    Raises:
        DataError: a run has no such estimate.
    """
    missing = [place for place, one in enumerate(summaries) if name not in one.get("estimates", {})]
    if missing:
        raise DataError(f'run {missing[0]} of an arm has no estimate "{name}"; look at its notes')
    return np.array([one["estimates"][name]["value"] for one in summaries], dtype=np.float64)


def normalised_return(learned_K: NDArray[Any], true_K: NDArray[Any], random_K: NDArray[Any]) -> Estimate | None:
    """Return (R - R_random) / (R_true - R_random) over paired seeds (ALGORITHMS 2.3), with Student's interval of the mean.

    A ratio of means over the seeds: a ratio a seed would be thrown about by one bad run on the true reward. The interval is that of a
    ratio estimator, linearised, so that the spread of the true reward's runs is in it too. None where R_true does not beat R_random:
    nothing can then be said.
    """
    reach = float(true_K.mean() - random_K.mean())
    apart = mean_interval(true_K - random_K)
    if reach <= 0 or (apart.n > 1 and apart.low <= 0):
        return None
    share = float((learned_K - random_K).mean()) / reach
    return mean_interval(share + ((learned_K - random_K) - share * (true_K - random_K)) / reach)


def _start(one: Planned, cores: frozenset[int]) -> _Going:
    command = [sys.executable, "-m", "backflip", "run"]
    if (one.folder / CONFIG).is_file():
        command += ["--resume", str(one.folder), "--quiet"]
    else:
        _clear(one.folder)
        command += [one.arm.experiment, "--folder", str(one.folder), "--quiet", "--seed", str(one.seed)]
        command += one.arm.words()
    with open(_log(one.folder), "ab") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": str(len(cores))},
            process_group=0,  # Ctrl-C at the terminal comes to the sweep alone, which then stops each run once
        )
    if hasattr(os, "sched_setaffinity"):
        with suppress(ProcessLookupError):  # it may be gone already, and then it is seen to have failed
            os.sched_setaffinity(process.pid, cores)
    return _Going(process, one, cores)


def _clear(folder: Path) -> None:
    """Make room for a run that was killed while its folder was being made: it has no settings yet, so it cannot be resumed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.is_dir() and all(entry.name.startswith((*MADE_AT_ONCE, ".")) for entry in folder.iterdir()):
        shutil.rmtree(folder)


def processors(workers: int) -> list[frozenset[int]]:
    """Return the processors of each worker; 0 workers are one a processor."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    workers = min(workers or len(cores), len(cores))
    return [frozenset(cores[place::workers]) for place in range(workers)]


def _log(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.log")
