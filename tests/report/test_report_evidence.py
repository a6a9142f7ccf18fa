"""Reading run folders: finished, still going, killed half-way through a line, broken, or no run at all."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from backflip.errors import DataError
from backflip.report.evidence import MAX_ROWS_A_PHASE, estimate, gather
from backflip.report.headline import status_sentence
from backflip.run import Run


def test_a_finished_run_has_no_faults(fabricate: Callable[..., Path]) -> None:
    evidence = gather(fabricate())
    assert evidence.faults == () and not evidence.partial and evidence.has_gold
    assert list(evidence.table) == ["base", "best_of_n", "ppo"]
    assert evidence.measures[:2] == ["gold_win_rate", "kl_nats_per_sequence"]
    assert len(evidence.samples) == evidence.samples_total == 40
    assert [evidence.label(policy) for policy in evidence.table] == ["Base", "Best of 16", "PPO"]
    assert evidence.kl_is_bound and "proxy" in evidence.metrics["check"][0]
    assert [row["n"] for row in evidence.best_of_n] == [2, 4, 8, 16, 64]


def test_a_folder_that_is_no_run_is_a_data_error(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(DataError, match="no run folder"):
            gather(folder)


@contextmanager
def going(folder: Path) -> Generator[Run]:
    run = Run.create("reviews", {"seed": 1}, root=folder.parent, folder=folder, seed=1)
    try:
        yield run
    finally:
        run.finish("stopped")


def test_a_run_still_going_is_read_and_said_to_be_going(tmp_path: Path) -> None:
    with going(tmp_path / "run") as run:
        run.log(1, "ppo", proxy_mean=0.5)
        with open(tmp_path / "run" / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write('{"step": 2, "phase": "ppo", "proxy_me')
        evidence = gather(tmp_path / "run")
        assert evidence.record.status == "running" and evidence.partial
        assert "still going" in (status_sentence(evidence) or "")
        assert [row["step"] for row in evidence.metrics["ppo"]] == [1]
        assert evidence.reward_model is None and evidence.table == {} and evidence.samples == ()


def test_a_killed_run_is_told_from_a_running_one(fabricate: Callable[..., Path]) -> None:
    folder = fabricate()
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps({**summary, "status": "running"}))
    assert "--resume" in (status_sentence(gather(folder)) or "")


@pytest.mark.parametrize(
    ("file", "content", "fault"),
    [
        ("results/table.json", '[{"policy": "base", ', "table.json"),
        ("results/table.json", '{"policy": "base"}', "results/table.json holds dict, expected a list"),
        ("results/table.json", '[1, {"policy": "base"}]', "1 of 2 rows are no objects"),
        ("results/table.json", '[{"policy": "base", "distinct2": {"value": 1}}]', "estimate 'distinct2' is no finite"),
        ("results/cost.json", "[3]", "results/cost.json holds list, expected an object"),
        ("results/reward_model.json", '{"bins": 3}', "bins holds int, expected a list"),
        ("results/curve.json", '{"rerun": 3}', "rerun holds int"),
        ("summary.json", '{"status": "done", "estimates": {"a": "b"}}', "estimate 'a' is no finite"),
        ("samples.jsonl", '{"prompt": 3}\n', "1 of 1 rows hold no prompt"),
        ("metrics.jsonl", "nonsense\n", "metrics.jsonl line 1"),
    ],
)
def test_what_is_broken_is_named_and_the_rest_is_read(
    fabricate: Callable[..., Path], file: str, content: str, fault: str
) -> None:
    folder = fabricate()
    (folder / file).write_text(content)
    evidence = gather(folder)
    assert any(fault in said for said in evidence.faults), evidence.faults
    assert evidence.record.config


@pytest.mark.parametrize(
    "value", [None, "x", [1], {"value": 1}, {"value": float("nan"), "low": 0, "high": 1, "n": 3}, float("inf"), True]
)
def test_what_is_no_estimate_is_never_made_one(value: Any) -> None:
    assert estimate(value) is None


def test_a_plain_number_is_an_estimate_without_interval() -> None:
    plain = estimate(3)
    assert plain is not None and plain.n == 0


def test_long_logs_are_thinned_but_keep_ends_and_extremes(tmp_path: Path, fabricate: Callable[..., Path]) -> None:
    folder = fabricate()
    count = 10 * MAX_ROWS_A_PHASE + 7
    rows = [
        {"step": s, "phase": "ppo", "proxy_mean": 99.0 if s == 1234 else -99.0 if s == 4321 else s % 7}
        for s in range(count)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    evidence = gather(folder)
    kept = evidence.metrics["ppo"]
    assert len(kept) <= MAX_ROWS_A_PHASE + 10
    assert evidence.thinned == {"ppo": count}
    assert {0, 1234, 4321, count - 1} <= {row["step"] for row in kept}
    assert [row["step"] for row in kept] == sorted(row["step"] for row in kept)


def test_the_command_names_the_program_as_it_is_called(
    fabricate: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["/somewhere/bin/backflip", "run", "reviews", "--note", "two words"])
    assert gather(fabricate()).command_line == "backflip run reviews --note 'two words'"
    monkeypatch.setattr("sys.argv", ["/somewhere/backflip/__main__.py", "run", "reviews"])
    assert gather(fabricate("other")).command_line == "python -m backflip run reviews"
