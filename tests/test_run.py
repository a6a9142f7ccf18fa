"""A run folder stands alone, belongs to one process, and survives being killed at any moment."""

from __future__ import annotations

import json
import math
import os
import resource
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backflip.data import Estimate
from backflip.errors import ConfigError, DataError, StoreError
from backflip.run import KeepRule, Run, read_run
from backflip.run_checkpoints import Kept, keep_after

ACCURACY = Estimate(0.7, 0.6, 0.8, 50)


@dataclass(frozen=True)
class Inner:
    clip: float = 0.2


@dataclass(frozen=True)
class Config:
    rounds: int = 3
    inner: Inner = field(default_factory=Inner)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with Run.create("toy", Config(), root=tmp_path / "runs", seed=7) as made:
        yield made


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def float_like(value: Any) -> float:
    """Pass a scalar of numpy off as a float, as statistics often are."""
    return value


def timeless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def test_the_folder_says_where_its_numbers_come_from(run: Run) -> None:
    config = json.loads((run.path / "config.json").read_text())
    command = json.loads((run.path / "command.json").read_text())
    assert config["experiment"] == "toy" and config["rounds"] == 3 and config["inner"]["clip"] == 0.2
    assert command["argv"] == sys.argv and command["versions"]["torch"] and command["device"] in ("cpu", "cuda", "mps")
    assert {"revision", "dirty", "python", "platform", "cpus", "threads"} <= command.keys()
    seeds = json.loads((run.path / "seeds.json").read_text())
    assert seeds["seed"] == 7 and seeds["config_crc32"] == zlib.crc32((run.path / "config.json").read_bytes())
    assert run.config_as(Config) == Config()
    assert (run.path.parent / "latest").resolve() == run.path


def test_summary_has_the_promised_form_at_every_moment(run: Run) -> None:
    keys = ["experiment", "status", "seconds", "peak_rss_mb", "estimates"]
    summary = json.loads((run.path / "summary.json").read_text())
    assert list(summary) == keys and summary["status"] == "running"
    run.estimate("accuracy", ACCURACY)
    run.finish()
    summary = json.loads((run.path / "summary.json").read_text())
    assert list(summary) == keys and summary["status"] == "done"
    assert summary["estimates"] == {"accuracy": {"value": 0.7, "low": 0.6, "high": 0.8, "n": 50}}
    assert 20 < summary["peak_rss_mb"] < 1e5


@pytest.mark.parametrize(
    ("error", "status"), [(None, "done"), (KeyboardInterrupt(), "stopped"), (ValueError("planted"), "failed")]
)
def test_how_a_run_ended_is_recorded(tmp_path: Path, error: BaseException | None, status: str) -> None:
    path = tmp_path / "run"
    try:
        with Run.create("toy", Config(), root=tmp_path, seed=0, folder=path):
            if error is not None:
                raise error
    except (KeyboardInterrupt, ValueError):
        pass
    assert read_run(path).status == status
    assert ("planted" in (path / "log.txt").read_text()) == (status == "failed")


def test_what_is_logged_is_in_the_file_and_in_the_store(run: Run) -> None:
    run.log(1, "ppo", loss=float_like(np.float32(0.5)), reward=2)
    run.log(2, "check", loss=float_like(np.array(0.25)))
    rows = lines(run.path / "metrics.jsonl")
    assert timeless(rows) == [
        {"step": 1, "phase": "ppo", "loss": 0.5, "reward": 2.0},
        {"step": 2, "phase": "check", "loss": 0.25},
    ]
    assert read_run(run.path).metrics == rows
    assert run.store.metrics(json.loads((run.path / "command.json").read_text())["id"])[0] == rows


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, "high", None, [1.0, 2.0]])
def test_a_metric_that_is_no_finite_number_is_refused_by_name_and_nothing_is_written(run: Run, bad: Any) -> None:
    with pytest.raises(DataError, match=r"'loss'.*expected a finite number"):
        run.log(1, "ppo", fine=1.0, loss=bad)
    with pytest.raises(DataError, match="estimate 'win'"):
        run.estimate("win", Estimate(0.5, 0.4, bad, 3))
    assert (run.path / "metrics.jsonl").read_text() == "" and run.store.counts()["metrics"] == 0


def test_seconds_is_not_a_metric(run: Run) -> None:
    with pytest.raises(DataError, match="seconds_WHAT"):
        run.log(1, "ppo", seconds=3.0)


def test_results_samples_and_notes_are_read_back(run: Run) -> None:
    run.samples([{"prompt": "a", "base": "</script>"}, {"prompt": "é\u2028"}])
    run.note("nobody was asked")
    run.table("table", [{"policy": "ppo", "win": ACCURACY}])
    run.result("cost", {"comparisons": np.int64(3)})
    record = read_run(run.path)
    assert record.samples == [{"prompt": "a", "base": "</script>"}, {"prompt": "é\u2028"}]
    assert record.notes == ["nobody was asked"] and record.faults == [] and record.seed == 7
    assert record.results == {"cost": {"comparisons": 3}, "table": [{"policy": "ppo", "win": ACCURACY.as_json()}]}
    with pytest.raises(DataError, match="result 'bad'"):
        run.result("bad", {"x": math.nan})
    with pytest.raises(ConfigError, match="cannot name a file"):
        run.result("../outside", 1)


def test_streams_of_random_numbers_are_functions_of_seed_and_name(tmp_path: Path) -> None:
    draws: dict[tuple[int, str], float] = {}
    for seed in (0, 1):
        with Run.create("toy", {}, root=tmp_path, seed=seed) as run:
            for name in ("sample", "fit", "ab", "a"):
                draws[seed, name] = float(run.rng(name).random())
                assert float(run.rng(name).random()) == draws[seed, name]
    assert len(set(draws.values())) == len(draws)


# -- one folder, one run -----------------------------------------------------------------------------------------------


def test_two_processes_cannot_have_one_folder(run: Run) -> None:
    script = (
        "import sys; from backflip.run import Run; from backflip.errors import ConfigError\n"
        "try: Run.resume(sys.argv[1])\n"
        "except ConfigError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(run.path)], capture_output=True, text=True, check=True)
    assert f"is in use by process {os.getpid()}" in done.stdout and done.stdout.count("\n") == 1
    with pytest.raises(ConfigError, match="in use"):
        Run.resume(run.path)
    run.log(1, "ppo", loss=1.0)


def test_a_folder_with_something_in_it_is_refused_and_left_alone(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"already holds a run \(status: running\)"):
        Run.create("toy", {}, root=tmp_path, seed=0, folder=run.path)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="not empty"):
        Run.create("toy", {}, root=tmp_path, seed=0, folder=other)
    with pytest.raises(ConfigError, match="is a file"):
        Run.create("toy", {}, root=tmp_path, seed=0, folder=other / "thesis.tex")
    assert [file.name for file in other.iterdir()] == ["thesis.tex"]


def test_many_runs_of_one_second_get_folders_of_their_own(tmp_path: Path) -> None:
    paths: set[Path] = set()
    for _ in range(4):
        with Run.create("toy", {}, root=tmp_path, seed=0) as run:
            paths.add(run.path)
            assert (tmp_path / "latest").resolve() == run.path
    assert len(paths) == 4


def test_a_run_that_cannot_begin_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no tracker 'nonsense'; expected all, or some of"):
        Run.create("toy", {}, root=tmp_path, seed=0, trackers="nonsense")
    with pytest.raises(ConfigError, match="cannot hold a object"):
        Run.create("toy", {"x": object()}, root=tmp_path, seed=0)
    with pytest.raises(ConfigError, match="cannot live in"):
        Run.create("toy", {}, root=tmp_path, seed=0, store="mysql://somewhere/x")
    assert list(tmp_path.iterdir()) == []


def test_a_password_of_the_store_is_not_written_down() -> None:
    from backflip.run_folder import public_address

    assert public_address("postgresql://me:secret@host/db") == "postgresql://me@host/db"
    assert public_address(None) is None


# -- checkpoints --------------------------------------------------------------------------------------------------------


def test_the_newest_and_the_best_checkpoints_stay(run: Run) -> None:
    for step, score in enumerate([0.1, 0.9, 0.3, 0.2, 0.4]):
        path = run.checkpoint("policy", step, lambda path: (path / "w").write_text("x" * 1000), score=score)
        assert path.is_dir()
    run.checkpoint("critic", 0, lambda path: (path / "w").touch())
    assert [path.name for path in run.checkpoints("policy")] == ["policy-1", "policy-3", "policy-4"]
    there = sorted(path.name for path in (run.path / "checkpoints").iterdir())
    assert there == ["critic-0", "policy-1", "policy-3", "policy-4"]
    assert run.disk_bytes() >= 3000


def test_a_checkpoint_that_fails_removes_nothing(run: Run) -> None:
    run.checkpoint("policy", 1, lambda path: (path / "w").touch(), keep=KeepRule(last=1, best=0))

    def fail(path: Path) -> None:
        raise RuntimeError("planted")

    with pytest.raises(RuntimeError):
        run.checkpoint("policy", 2, fail, keep=KeepRule(last=1, best=0))
    assert [path.name for path in (run.path / "checkpoints").iterdir()] == ["policy-1"]


def test_what_is_kept_does_not_depend_on_where_a_run_was_cut() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        rule = KeepRule(last=int(rng.integers(1, 4)), best=int(rng.integers(0, 3)))
        series = [Kept("p", step, float(rng.integers(0, 5))) for step in range(12)]
        kept: list[Kept] = []
        for new in series:
            kept, gone = keep_after(kept, new, rule)
            assert new in kept and not set(kept) & set(gone)
        newest, best = series[-rule.last :], sorted(series, key=lambda one: (-(one.score or 0), one.step))[: rule.best]
        assert set(kept) == {*newest, *best}


# -- a full disk --------------------------------------------------------------------------------------------------------


def limited(size: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


FULL = """
import sys
from backflip.run import Run
from backflip.errors import StoreError
run = Run.resume(sys.argv[1])
tries = {
    "state": lambda: run.save_state("big", {"x": list(range(200_000))}),
    "samples": lambda: run.samples([{"prompt": "x" * 300_000}]),
    "result": lambda: run.result("big", list(range(200_000))),
}
for name, act in tries.items():
    try:
        act()
    except StoreError as error:
        assert "make room" in str(error) and "\\n" not in str(error)
        print(name, end=" ")
run.log(3, "ppo", loss=3.0)
run.finish("stopped")
"""


def test_on_a_full_disk_nothing_is_lost_or_half_written(run: Run) -> None:
    run.log(1, "ppo", loss=1.0)
    run.samples([{"prompt": "first"}])
    run.save_state("small", {"step": 1})
    run.finish("stopped")
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(run.path)], capture_output=True, text=True, preexec_fn=limited(200_000)
    )
    assert done.stdout.split() == ["state", "samples", "result"], done.stderr
    record = read_run(run.path)
    assert record.faults == [] and record.samples == [{"prompt": "first"}] and record.results == {}
    assert [row["step"] for row in record.metrics] == [1, 3]
    with Run.resume(run.path) as again:
        assert again.load_state() == {"step": 1}


def test_a_half_written_line_is_taken_back(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from backflip import run_folder

    script = (
        "import sys, json; from pathlib import Path; from backflip.run_folder import append_text\n"
        "try: append_text(Path(sys.argv[1]), 'y' * 5000)\n"
        "except Exception as error: print(type(error).__name__)"
    )
    file = run.path / "samples.jsonl"
    run_folder.append_text(file, "{}\n")
    done = subprocess.run(
        [sys.executable, "-c", script, str(file)], capture_output=True, text=True, preexec_fn=limited(4000), check=True
    )
    assert done.stdout.strip() == StoreError.__name__ and file.read_text() == "{}\n"


# -- reading ------------------------------------------------------------------------------------------------------------


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"it has no config\.json"):
        read_run(tmp_path)
    with pytest.raises(DataError, match="there is no such folder"):
        Run.resume(tmp_path / "nothing")
    assert list(tmp_path.iterdir()) == []


def test_a_killed_run_is_told_from_a_running_one(run: Run) -> None:
    assert read_run(run.path).status == "running"
    summary = (run.path / "summary.json").read_text()
    run.finish("stopped")
    (run.path / "summary.json").write_text(summary)
    assert read_run(run.path).status == "killed"


def test_whatever_can_be_read_is_read_and_the_rest_is_named(run: Run) -> None:
    run.log(1, "ppo", loss=1.0)
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write('{"step": 2, "pha\n[3]\n{"step": 4, "phase": "ppo"}\n{"step": 5')
    (run.path / "summary.json").unlink()
    (run.path / "results" / "table.json").write_text("[1, 2")
    record = read_run(run.path)
    assert [row["step"] for row in record.metrics] == [1, 4]
    assert [fault.split(" (")[0] for fault in record.faults] == [
        "summary.json is missing",
        "metrics.jsonl line 2 is no JSON",
        "metrics.jsonl line 3 holds no object; it is left out",
        "table.json is no JSON",
    ]
    assert record.experiment == "toy" and record.status == "unknown"


def test_reading_changes_nothing(run: Run) -> None:
    def state() -> dict[str, tuple[int, bytes]]:
        files = [file for file in run.path.rglob("*") if file.is_file()]
        return {str(file): (file.stat().st_mtime_ns, file.read_bytes()) for file in files}

    run.log(1, "ppo", loss=1.0)
    before = state()
    read_run(run.path)
    assert state() == before


def test_importing_does_not_import_torch() -> None:
    script = (
        "import sys; import backflip.run, backflip.store, backflip.store.interchange, backflip.progress, backflip.checkpoint\n"
        "import backflip.trackers; assert not {'torch', 'alembic', 'pyarrow', 'accelerate'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
