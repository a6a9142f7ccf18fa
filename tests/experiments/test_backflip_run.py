"""`backflip run backflip` in small: the loop from clips to counted somersaults, and the same optimiser on a reward that is given."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mujoco")
from backflip.cli import main
from backflip.measures.somersaults import backward_turns, complete_somersaults
from backflip.overseers.shown import SEVEN_POINTS
from backflip.worlds.packed import unpack

SMALL = [
    "--quiet", "--steps", "8000", "--environments", "4", "--comparisons", "12", "--ask_at_once", "4", "--episodes", "2",
    "--fit.first_steps", "10", "--fit.steps", "5", "--ppo.epochs", "2", "--policy.hidden", "8", "--check_every", "2",
]  # fmt: skip


def run(folder: Path, *options: str) -> int:
    return main(["run", "backflip", "--folder", str(folder / "run"), *SMALL, *options])


def result(folder: Path, name: str) -> Any:
    return json.loads((folder / "run" / name).read_text())


def test_the_loop_from_clips_to_counted_somersaults(tmp_path: Path) -> None:
    pytest.importorskip("imageio.v2")
    assert run(tmp_path) == 0
    found = result(tmp_path, "summary.json")["estimates"]
    assert set(found) == {
        "backflips_per_1000_steps",
        "turns_in_the_air_per_1000_steps",
        "turns_without_a_fall_before_per_1000_steps",
        "backward_turns_per_1000_steps",
        "torso_height_m",
    }
    episodes = result(tmp_path, "results/episodes.json")
    assert found["backflips_per_1000_steps"]["value"] == sum(one["backflips"] for one in episodes) / 2
    kept = unpack(result(tmp_path, "results/unseen_qpos.json"))
    assert kept.shape == (2, 1001, 6)
    assert [len(complete_somersaults(qpos)) for qpos in kept] == [one["backflips"] for one in episodes]
    assert [backward_turns(qpos) for qpos in kept] == pytest.approx([one["turns"] for one in episodes])
    cost = result(tmp_path, "results/cost.json")
    assert cost["comparisons"] == 12 and cost["judge"] == "synthetic teacher (graded)"
    assert len(list((tmp_path / "run" / "videos").glob("*.mp4"))) == 2
    said = sqlite3.connect(tmp_path / "run" / "store.sqlite").execute("select answer from judgements").fetchall()
    shares = {round(json.loads(answer)[0], 6) for (answer,) in said}
    assert len(said) == 12 and len(shares) > 1 and shares <= {round(point, 6) for point in SEVEN_POINTS}


@pytest.mark.parametrize("reward", ["teacher", "written"])
def test_a_given_reward_asks_nobody(tmp_path: Path, reward: str) -> None:
    pytest.importorskip("imageio.v2")
    assert run(tmp_path, "--reward", reward) == 0
    cost = result(tmp_path, "results/cost.json")
    assert cost["comparisons"] == 0 and cost["judge"] == "nobody"
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any("given_mean" in line for line in lines) and not any(line["phase"] == "reward" for line in lines)


def test_a_person_is_not_asked_for_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--overseer", "terminal", "--wait_seconds", "inf", "--reward", "teacher") == 2
    assert "a person is not asked where reward is teacher" in capsys.readouterr().err
