"""Arms of a comparison: whole runs of one experiment under different settings, each over the same seeds, side by side.

Every one is a run folder of its own, `RUN/arms/ARM/seed_K`, made by `backflip run` in a process of its own: each number can be followed
to its samples and judgements, a killed one is gone on with, a finished one is not repeated. No experiment. Left out: what the arms mean.

Shapes: K seeds.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from backflip.data import Estimate
from backflip.errors import ConfigError, DataError
from backflip.measures.stats import mean_interval
from backflip.run_record import CHECKPOINTS, is_held, read_run

if TYPE_CHECKING:
    from backflip.run import Run

LOOK_EVERY_SECONDS = 0.2


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
                "spread; for a single run take `backflip run control`), 0 or more"
            )


@dataclass(frozen=True)
class Arm:
    """One arm: an experiment and the options that its runs get besides `--seed`."""

    name: str
    experiment: str
    options: Mapping[str, str]


@dataclass
class _Going:
    """A run that is going on."""

    process: subprocess.Popen[bytes]
    folder: Path
    cores: frozenset[int]


def carry_out(arms: Sequence[Arm], config: ArmsConfig, run: Run) -> dict[str, list[Mapping[str, Any]]]:
    """Do what is left of all runs; return the estimates of each arm's runs, in the order of seeds.

    Raises:
        DataError: runs failed; the others were finished first, and a resumed run tries the failed ones again.
    """
    shares = processors(config.workers)
    planned = [
        (arm, seed, folder_of(run, arm.name, seed))
        for seed in range(config.seed, config.seed + config.seeds)
        for arm in arms
    ]
    waiting = [one for one in planned if not _done(one[2])]
    live: list[_Going] = []
    with run.progress.phase(f"{len(planned)} runs of {len(arms)} arms", len(planned)) as bar:
        bar.advance(len(planned) - len(waiting))
        try:
            while waiting or live:
                free = [share for share in shares if share not in [one.cores for one in live]]
                # A run of a sweep that was killed may still be going on by itself; it is waited for.
                ready = [one for one in waiting if not is_held(one[2])]
                for one in ready[: len(free)]:
                    waiting.remove(one)
                    if _done(one[2]):
                        bar.advance(1, last=f"{one[2].parent.name}/{one[2].name}")
                    else:
                        live.append(_start(*one, free.pop(0)))
                time.sleep(LOOK_EVERY_SECONDS)
                for one in [one for one in live if one.process.poll() is not None]:
                    live.remove(one)
                    bar.advance(1, last=f"{one.folder.parent.name}/{one.folder.name}")
        finally:
            for one in live:
                one.process.terminate()  # each stops as cleanly as by Ctrl-C, and can be gone on with
            for one in live:
                one.process.wait()
    failed = [folder for _, _, folder in planned if not _done(folder)]
    if failed:
        raise DataError(
            f"{len(failed)} of {len(planned)} runs failed, the first {failed[0]}: {_last_words(failed[0])}; mend the cause and go on "
            f"with: backflip run --resume {run.path}"
        )
    found: dict[str, list[Mapping[str, Any]]] = {arm.name: [] for arm in arms}
    for arm, _, folder in planned:
        found[arm.name].append(dict(read_run(folder).summary))
    return found


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


def _start(arm: Arm, seed: int, folder: Path, cores: frozenset[int]) -> _Going:
    command = [sys.executable, "-m", "backflip", "run"]
    if (folder / "config.json").is_file():
        command += ["--resume", str(folder), "--quiet"]
    else:
        folder.parent.mkdir(parents=True, exist_ok=True)
        command += [arm.experiment, "--folder", str(folder), "--quiet", "--seed", str(seed)]
        for name, value in arm.options.items():
            command += [f"--{name}", *value.split()]
    with open(_log(folder), "ab") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": str(len(cores))},
        )
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(process.pid, cores)
    return _Going(process, folder, cores)


def processors(workers: int) -> list[frozenset[int]]:
    """Return the processors of each worker; 0 workers are one a processor."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    workers = min(workers or len(cores), len(cores))
    return [frozenset(cores[place::workers]) for place in range(workers)]


def _done(folder: Path) -> bool:
    return (folder / "config.json").is_file() and read_run(folder).status == "done"


def _log(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.log")


def _last_words(folder: Path) -> str:
    words = (
        _log(folder).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        if _log(folder).is_file()
        else []
    )
    return words[-1] if words else "it said nothing"
