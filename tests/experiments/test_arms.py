"""Arms of a comparison: whole runs in folders of their own, gone on with where they were cut off, failures named."""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backflip.errors import ConfigError, DataError
from backflip.experiments import arms
from backflip.experiments.arms import (
    Arm,
    ArmsConfig,
    Planned,
    carry_out,
    checkpoint_of,
    folder_of,
    normalised_return,
    values,
)
from backflip.run import Run
from backflip.run_folder import hold
from backflip.run_record import read_run

SMALL = {
    "env": "Reacher-v5",
    "judged_by": "watched",
    "steps": "400",
    "environments": "2",
    "row_steps": "50",
    "piece_steps": "25",
    "clip_seconds": "0.2",
    "ppo.minibatches": "2",
    "fit.steps": "2",
    "fit.first_steps": "4",
    "episodes": "2",
    "pairs": "4",
}
LEARNED = Arm("learned", "control", SMALL | {"comparisons": "6"})
TRUE = Arm("true", "control", SMALL | {"reward": "true"})
WRONG = Arm("wrong", "control", SMALL | {"judged_by": "one_leg"})
CONFIG = ArmsConfig(seeds=2, workers=2)


def start(folder: Path) -> Run:
    return Run.create("mujoco", CONFIG, root=folder.parent, seed=0, folder=folder)


@dataclass(frozen=True)
class Sweep:
    """A sweep of two arms, of which one failed and one is done; its runs are processes, so it is made once."""

    folder: Path
    said: str


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    folder = tmp_path_factory.mktemp("arms") / "run"
    with pytest.raises(DataError) as caught, start(folder) as run:
        carry_out([WRONG, TRUE], CONFIG, run)
    return Sweep(folder, str(caught.value))


@pytest.fixture
def again(failed: Sweep, tmp_path: Path) -> Iterator[Run]:
    """The sweep that failed, resumed, for one test alone."""
    shutil.copytree(failed.folder, tmp_path / "run")
    with Run.resume(tmp_path / "run") as run:
        yield run


def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list to which the name of each run is added that is started from now on."""
    names: list[str] = []
    plain = arms._start  # pyright: ignore[reportPrivateUsage]

    def start_and_say(one: Planned, cores: frozenset[int]) -> Any:
        names.append(one.name)
        return plain(one, cores)

    monkeypatch.setattr(arms, "_start", start_and_say)
    return names


def test_a_failed_arm_is_named_and_the_others_are_kept(failed: Sweep) -> None:
    """A sweep that failed once took itself for a run in which nothing had happened, and removed its folder with all that was finished."""
    first = r"2 of 4 runs failed, the first .*wrong/seed_0: ConfigError: judged_by one_leg on Reacher"
    assert re.search(first + ".*go on with: backflip run --resume", failed.said)
    assert read_run(failed.folder).status == "failed"
    assert [read_run(failed.folder / "arms" / "true" / f"seed_{seed}").status for seed in (0, 1)] == ["done", "done"]


def test_a_sweep_that_failed_is_gone_on_with_and_nothing_is_done_twice(
    again: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = started(monkeypatch)
    before = {seed: (folder_of(again, "true", seed) / "summary.json").stat().st_mtime_ns for seed in (0, 1)}
    found = carry_out([TRUE, LEARNED], CONFIG, again)
    assert sorted(begun) == ["learned/seed_0", "learned/seed_1"]
    assert before == {seed: (folder_of(again, "true", seed) / "summary.json").stat().st_mtime_ns for seed in (0, 1)}
    assert values(found["learned"], "true_return").shape == (2,) and values(found["true"], "untrained_return")[0] < 0
    folder = folder_of(again, "learned", 0)
    record = read_run(folder)
    assert record.status == "done" and record.config["comparisons"] == 6 and record.config["seed"] == 0
    assert (checkpoint_of(folder, "policy") / "policy.safetensors").is_file()
    with pytest.raises(DataError, match='no estimate "speed"'):
        values(found["learned"], "speed")
    with pytest.raises(DataError, match='no checkpoint "reward"'):
        checkpoint_of(folder, "reward")
    assert carry_out([TRUE, LEARNED], CONFIG, again) == found and len(begun) == 2


def test_a_killed_arm_is_gone_on_with(again: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = started(monkeypatch)
    folder = folder_of(again, "true", 0)
    whole: Any = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(whole | {"status": "running", "estimates": {}}))
    assert read_run(folder).status == "killed"
    assert carry_out([TRUE], CONFIG, again)["true"][0]["estimates"] == whole["estimates"]
    assert begun == ["true/seed_0"]


def test_a_run_that_outlived_its_sweep_is_waited_for(again: Run) -> None:
    """A sweep killed by -9 leaves the runs of its arms going on; resuming it at once must not fail on them."""
    folder = folder_of(again, "true", 0)
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(summary | {"status": "running"}))
    lock = hold(folder)

    def ends() -> None:
        (folder / "summary.json").write_text(json.dumps(summary))
        lock.close()

    later = threading.Timer(1.0, ends)
    later.start()
    began = time.monotonic()
    assert carry_out([TRUE], CONFIG, again)["true"][0]["estimates"] == summary["estimates"]
    assert time.monotonic() - began >= 0.9, "it did not wait"
    later.join()


def test_normalised_returns_are_void_where_the_true_reward_teaches_nothing() -> None:
    random, true = np.array([0.0, 1.0, -1.0]), np.array([10.0, 11.0, 9.0])
    half = normalised_return(np.array([5.0, 5.0, 5.0]), true, random)
    assert half is not None and half.value == pytest.approx(0.5) and half.n == 3
    assert normalised_return(true, random, true) is None
    assert normalised_return(true, np.array([10.0, -20.0, 12.0]), random) is None  # not told from nothing


def test_the_spread_of_the_true_reward_is_in_the_interval() -> None:
    true, none = np.array([100.0, 20, 90, 30, 60]), np.zeros(5)
    found = normalised_return(np.full(5, 60.0), true, none)
    assert found is not None and found.value == pytest.approx(1.0) and found.low < 0.4 and found.high > 1.6
    alike = normalised_return(0.5 * true, true, none)
    assert alike is not None and (alike.low, alike.high) == (pytest.approx(0.5), pytest.approx(0.5))


def test_bad_settings_are_one_line() -> None:
    for wrong in ({"seeds": 1}, {"workers": -1}, {"seed": -1}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            ArmsConfig(**wrong)
