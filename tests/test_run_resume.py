"""Laws of resuming: a run killed anywhere and resumed equals one that was never killed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from backflip.data import Estimate, Item, Query
from backflip.errors import ConfigError, DataError
from backflip.run import Run, read_run

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


# -- resuming -----------------------------------------------------------------------------------------------------------

LOOP = '''
import sys
import numpy as np
import torch
from pathlib import Path
from backflip.data import Estimate, Item, Judgement, Query
from backflip.run import KeepRule, Run

def work(run):
    """A loop as real ones are: state, questions to a judge, checkpoints, samples, results."""
    saved = run.load_state()
    step, weights, heard = (saved["step"], saved["weights"], saved["heard"]) if saved else (0, torch.zeros(4), 0)
    if not saved:
        run.note("began")
    while step < 12:
        step += 1
        rng = np.random.default_rng([run.seed, step])
        pair = tuple(Item("p", f"{step} {k}", {"tokens": [step, k]}) for k in (0, 1))
        query = Query(pair, "which?")
        run.store.add_queries([query])
        run.store.add_judgements([Judgement(query.id, "teacher", (1.0, 0.0) if rng.random() < 0.5 else (0.0, 1.0))])
        told, heard = run.store.judgements(heard, limit=1)  # after a resume later answers are there already
        assert [one.query_id for one in told] == [query.id]
        weights = weights + told[0].answer[0] * torch.from_numpy(rng.normal(size=4))
        run.log(step, "ppo", norm=float(weights.norm()), answer=told[0].answer[0])
        run.samples([{"prompt": str(step), "score": float(weights[0])}])
        if step % 3 == 0:
            run.checkpoint("policy", step, lambda path: (path / "w.txt").write_text(str(weights.tolist())), score=float(weights[1]))
            run.estimate(f"at_{step}", Estimate(float(weights[0]), -9.0, 9.0, step))
            run.result(f"table_{step}", {"norm": float(weights.norm())})
        if step % 2 == 0:
            run.save_state(f"step {step}", {"step": step, "weights": weights, "heard": heard})
    run.note("ended")
    run.finish("done")
'''
KILLED = (
    LOOP
    + """
# children that do the work and are killed at their k-th look at the outside world, then resumed, and killed again
import os, shutil, signal
from multiprocessing import RawValue

looks = RawValue("l", 0)

def once(folder, moment):
    looks.value = 0
    child = os.fork()
    if child == 0:
        def hook(event, arguments):
            if event.split(".")[0] in ("open", "os", "shutil", "sqlite3", "fcntl"):
                looks.value += 1
                if looks.value == moment:
                    os.kill(os.getpid(), signal.SIGKILL)
        started = (folder / "summary.json").exists()
        if not started:
            shutil.rmtree(folder, ignore_errors=True)  # killed before the run began: begin it anew
        sys.addaudithook(hook)
        work(Run.resume(folder) if started else Run.create("toy", {}, root=folder.parent, seed=3, folder=folder))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or status == 0, (moment, status)
    return os.WIFSIGNALED(status)

place = Path(sys.argv[1])
assert not once(place / "uninterrupted", 0)
total, rng = looks.value, np.random.default_rng(0)
print(total)
for number in range(8):
    kills = 0
    while kills < 3 and once(place / f"killed-{number}", int(rng.integers(1, 0.6 * total))):
        kills += 1
    if kills == 3:
        assert not once(place / f"killed-{number}", 0)
    print(kills)
"""
)


def fingerprint(path: Path) -> dict[str, Any]:
    """Return everything in a run folder that a repetition must give again; times and the run's own id left out."""
    record = read_run(path)
    assert record.faults == [] and record.status == "done"
    from backflip.store import Store

    with Store.open(path / "store.sqlite", "read") as store:
        stored = {
            "metrics": timeless(store.metrics(record.command["id"])[0]),
            "judgements": store.judgements()[0],
            "queries": [query.id for query in store.queries()[0]],
        }
    checkpoints = sorted(path.glob("checkpoints/*/*"))
    return {
        **stored,
        "lines": timeless(record.metrics),
        "samples": record.samples,
        "notes": record.notes,
        "results": record.results,
        "estimates": record.summary["estimates"],
        "checkpoints": {
            str(file.relative_to(path)): file.read_bytes()
            for file in checkpoints
            if file.suffix in (".txt", ".safetensors")
        },
        "files": sorted(str(file.relative_to(path)) for file in path.rglob("*")),
    }


def test_killed_anywhere_and_resumed_equals_never_killed(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    total, *kills = map(int, done.stdout.split())
    assert total > 300 and len(kills) == 8 and sum(kills) >= 12, (total, kills)
    expected = fingerprint(tmp_path / "uninterrupted")
    assert len(expected["lines"]) == 12 and expected["metrics"] == expected["lines"]
    for number in range(len(kills)):
        assert fingerprint(tmp_path / f"killed-{number}") == expected, number


def test_resume_takes_everything_back_to_the_resume_point(run: Run) -> None:
    run.log(1, "ppo", loss=1.0)
    run.estimate("before", ACCURACY)
    run.result("before", 1)
    run.checkpoint("policy", 1, lambda path: (path / "w").touch())
    run.save_state("one", {"step": 1})
    run.log(2, "ppo", loss=2.0)
    run.note("after")
    run.samples([{"prompt": "after"}])
    run.estimate("after", ACCURACY)
    run.result("after", 1)
    run.checkpoint("policy", 2, lambda path: (path / "w").touch())
    run.finish("stopped")
    with Run.resume(run.path) as again:
        assert again.load_state() == {"step": 1} and again.state_name == "one" and again.seed == 7
        assert again.config_as(Config) == Config()
        record = read_run(run.path)
        assert [row["step"] for row in record.metrics] == [1] and record.notes == [] and record.samples == []
        assert list(record.summary["estimates"]) == ["before"] and list(record.results) == ["before"]
        assert [path.name for path in again.checkpoints("policy")] == ["policy-1"]
        assert again.store.counts()["metrics"] == 1
        again.log(2, "ppo", loss=2.0)
    assert [row["loss"] for row in read_run(run.path).metrics] == [1.0, 2.0]


def test_without_a_resume_point_a_run_begins_again(run: Run) -> None:
    run.log(1, "ppo", loss=1.0)
    run.result("early", 1)
    run.finish("failed")
    with Run.resume(run.path) as again:
        assert again.load_state() is None and again.state_name is None
        assert read_run(run.path).metrics == [] and read_run(run.path).results == {}
        assert again.store.counts()["metrics"] == 0


def test_questions_and_answers_are_not_taken_back(run: Run) -> None:
    run.save_state("one", {})
    run.store.add_queries([Query((Item("p", "a", {}), Item("p", "b", {})), "which?")])
    run.finish("stopped")
    with Run.resume(run.path) as again:
        assert again.store.counts()["open"] == 1


def test_time_and_memory_add_up_over_resumes(run: Run) -> None:
    summary = run.path / "summary.json"
    run.finish("stopped")
    content = json.loads(summary.read_text())
    summary.write_text(json.dumps(content | {"seconds": 5000.0, "peak_rss_mb": 1e6}))
    with Run.resume(run.path) as again:
        assert 5000 <= again.seconds < 6000
    content = json.loads(summary.read_text())
    assert 5000 <= content["seconds"] < 6000 and content["peak_rss_mb"] == 1e6


def test_a_finished_run_is_not_resumed_and_stays_as_it_is(run: Run) -> None:
    run.finish("done")
    before = (run.path / "summary.json").read_bytes()
    with pytest.raises(ConfigError, match="is done"):
        Run.resume(run.path)
    assert (run.path / "summary.json").read_bytes() == before


def test_lines_that_vanished_are_noticed(run: Run) -> None:
    run.log(1, "ppo", loss=1.0)
    run.save_state("one", {})
    run.finish("stopped")
    (run.path / "metrics.jsonl").write_text("")
    with pytest.raises(DataError, match=r"metrics.jsonl has 0 bytes, expected at least"):
        Run.resume(run.path)


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.jsonl", "store.sqlite"])
def test_a_file_that_is_gone_is_named_and_none_is_made(run: Run, name: str) -> None:
    run.log(1, "ppo", loss=1.0)
    run.save_state("one", {})
    run.finish("stopped")
    (run.path / name).unlink()
    with pytest.raises(DataError, match=f"{name} is gone.*start a new run"):
        Run.resume(run.path)
    assert not (run.path / name).exists()


@pytest.mark.parametrize("name", ["config.json", "command.json", "seeds.json"])
def test_a_broken_run_file_is_named(run: Run, name: str) -> None:
    run.finish("stopped")
    (run.path / name).write_text('{"experiment": "to')
    with pytest.raises(DataError, match=name):
        Run.resume(run.path)


def test_settings_that_were_changed_since_are_refused(run: Run) -> None:
    run.finish("stopped")
    whole = (run.path / "config.json").read_text()
    (run.path / "config.json").write_text(whole.replace("3", "4"))
    with pytest.raises(ConfigError, match=r"config\.json was changed since the run began.*put them back"):
        Run.resume(run.path)
    (run.path / "config.json").write_text(whole)
    with Run.resume(run.path) as again:
        assert again.config["rounds"] == 3


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for root, folder in ((tmp_path, tmp_path / "file" / "x"), (tmp_path / "file", None)):
        with pytest.raises(ConfigError, match=r"cannot make the folder .*file.*; give another one for the run"):
            Run.create("toy", Config(), root=root, seed=0, folder=folder)
    with pytest.raises(DataError, match="it is a file"):
        read_run(tmp_path / "file")
