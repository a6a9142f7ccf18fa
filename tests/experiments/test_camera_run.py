"""`backflip run camera`: what is asked, what is written, resuming, and settings that it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from backflip.cli import main as command_line
from backflip.errors import ConfigError
from backflip.experiments.camera import CameraConfig, main, questions
from backflip.policies.tabular import TablePolicy
from backflip.report.curves import read_lines
from backflip.rewards.clips import ClipFitConfig
from backflip.run import Run, RunRecord, read_run
from backflip.worlds.camera import ACTIONS, CameraWorld, GridConfig, table_code

SMALL = CameraConfig(
    seeds=2,
    second_camera=(0.0, 1.0),
    rounds=2,
    comparisons=200,
    updates=3,
    last_updates=20,
    episodes=128,
    grid=GridConfig(width=1, height=2, depth=2, horizon=4, depth_cost=0.4),
    fit=ClipFitConfig(hidden=16, steps=60, first_steps=60, batch=128, noise=0.0, held_out=0.0, l2=3e-4),
)


def carry_out(folder: Path) -> None:
    with Run.create("camera", SMALL, root=folder.parent, folder=folder, seed=0) as run:
        main(SMALL, run)


def test_one_camera_is_fooled_two_are_not_and_the_page_gets_its_curves(tmp_path: Path) -> None:
    carry_out(tmp_path / "run")
    record = read_run(tmp_path / "run")
    estimates = record.summary["estimates"]
    assert estimates["one_camera_apparent"]["value"] > 0.7 and estimates["one_camera_true"]["value"] < 0.65
    assert estimates["two_cameras_gap"]["value"] == pytest.approx(0, abs=1e-9)
    faults: list[str] = []
    figures = read_lines(record.results["lines"], faults)
    assert not faults and [one.id for one in figures] == ["lines-success", "lines-fooling", "lines-gap"]
    assert record.results["thresholds"]["exact"] == pytest.approx([0.0, 0.4 / 1.5])
    assert [row["second_camera"] for row in record.results["points"]] == [0.0, 1.0]
    shares = [row[name] for row in record.results["points"] for name in ("apparent", "true", "fooling")]
    assert all(0 <= one["low"] <= one["high"] <= 1 for one in shares)
    assert record.results["cost"]["comparisons"] == 4 * 200
    assert record.samples[0]["one camera"] == record.samples[1]["one camera"]
    assert record.samples[0]["two cameras"] != record.samples[1]["two cameras"]


def test_a_run_that_was_cut_off_ends_as_one_that_was_not(
    whole_and_cut: Callable[..., tuple[RunRecord, RunRecord]],
) -> None:
    config = replace(SMALL, comparisons=40, last_updates=2, updates=1)
    whole, cut = whole_and_cut(main, config, states=2)
    assert cut.results["points"] == whole.results["points"]


@pytest.mark.parametrize("p", [0.0, 0.4, 1.0])
def test_each_question_shows_both_its_items_to_the_same_cameras(p: float) -> None:
    config = CameraConfig(comparisons=2000, rounds=2)
    policy = TablePolicy(*table_code(config.grid), len(ACTIONS))
    asked = questions(policy, CameraWorld(config.grid), p, "somebody", config, np.random.default_rng(0))
    cameras = [{len(item.content.split("\n\n")) for item in query.items} for query in asked]
    assert all(len(one) == 1 for one in cameras)
    assert np.mean([one == {2} for one in cameras]) == pytest.approx(p, abs=0.05)
    assert len({query.id for query in asked}) == len(asked) == 1000
    assert 400 < sum(query.order == (1, 0) for query in asked) < 600


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seeds": 1}, "seeds is 1"),
        ({"second_camera": (0.5, 1.5)}, "probabilities"),
        ({"second_camera": (0.5, 0.5)}, "twice"),
        ({"second_camera": ()}, "probabilities"),
        ({"beta": 0.0}, "beta"),
        ({"penalty": -1.0}, "penalty"),
        ({"comparisons": 4}, "a comparison in every round"),
        ({"last_updates": 0}, "one or more"),
    ],
)
def test_settings_that_cannot_be_are_refused(change: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        replace(CameraConfig(), **change)  # pyright: ignore[reportArgumentType] by name


def test_the_command_line_refuses_a_horizon_that_is_too_short(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command_line(["run", "camera", "--folder", str(tmp_path / "run"), "--grid.horizon", "3"]) == 2
    said = capsys.readouterr().err
    assert "longest way" in said and len(said.strip().splitlines()) == 1
