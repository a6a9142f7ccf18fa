"""The main job, killed at random moments and resumed, ends as if nobody had disturbed it (the bench does it twenty times)."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

BENCH = Path(__file__).parents[2] / "bench"


FEW_OPENINGS = """
from backflip.worlds import reviews
whole = reviews.read_openings
reviews.read_openings = lambda part: whole(part)[:60]
"""


@pytest.fixture
def resume(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`bench/resume.py`, which kills and compares; with few openings, so that measuring is quick."""
    monkeypatch.syspath_prepend(str(BENCH))
    module = importlib.import_module("resume")
    monkeypatch.setattr(module, "PROGRAM", FEW_OPENINGS + module.PROGRAM)
    return module


def test_kills_at_random_moments_change_nothing(tmp_path: Path, resume: Any) -> None:
    rng = np.random.default_rng()
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    seconds = resume.finish(whole)
    where: list[str] = []
    moments = [resume.in_a_save(rng), resume.at_random(rng, 0.4 * seconds, 0.8 * seconds)]
    for moment in rng.permutation(np.array(moments, dtype=object)):
        where.append(resume.kill_when(killed, moment))
        if where[-1] == "done":
            break
    else:
        resume.finish(killed)
    assert where[0] != "done", "nothing was killed"
    assert resume.differences(whole, killed) == [], where
    # the comparison can fail: a bit in the policy, a digit in the metrics, an answer of the teacher
    assert faults_seen(resume, whole, tmp_path / "spoilt", spoil_policy) == ["checkpoints"]
    assert faults_seen(resume, whole, tmp_path / "spoilt", spoil_metrics) == ["metrics"]
    assert faults_seen(resume, whole, tmp_path / "spoilt", spoil_summary) == ["estimates"]


def faults_seen(resume: Any, whole: Path, copy: Path, spoil: Any) -> list[str]:
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(whole, copy)
    spoil(copy)
    return resume.differences(whole, copy)


def spoil_policy(folder: Path) -> None:
    file = folder / "checkpoints" / "policy-4" / "model.safetensors"
    tensors = load_file(file)
    name = next(iter(tensors))
    tensors[name].flat[0] = np.nextafter(tensors[name].flat[0], np.inf, dtype=tensors[name].dtype)
    save_file(tensors, file)


def spoil_metrics(folder: Path) -> None:
    file = folder / "metrics.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[-1]["step"] += 1
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def spoil_summary(folder: Path) -> None:
    file = folder / "summary.json"
    summary = json.loads(file.read_text())
    summary["estimates"]["ppo_gold_win_rate"]["value"] += 1e-12
    file.write_text(json.dumps(summary))
