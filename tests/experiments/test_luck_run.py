"""`backflip run luck`: what it learns against what is exact, what it writes, resuming, and settings that it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from backflip.cli import main as command_line
from backflip.errors import ConfigError
from backflip.experiments.luck import ARMS, LuckConfig, exact_rounds, gamble, learn, main
from backflip.report.curves import read_lines
from backflip.run import Run, RunRecord, read_run

SMALL = LuckConfig(seeds=2, chances=(0.25, 0.6, 1.0), episodes=300, rounds=2, steps=60)


@pytest.mark.parametrize("p", [0.25, 0.6, 0.9])
def test_what_is_learned_is_what_is_exact_round_by_round(p: float) -> None:
    config = replace(SMALL, rounds=3)
    for told in ARMS:
        learned = [one["value"] for one in learn(gamble(p, config), told, 0, config)]
        assert learned == pytest.approx(exact_rounds(gamble(p, config), told, config), abs=0.01)


def test_luck_falls_short_and_means_do_not(tmp_path: Path) -> None:
    with Run.create("luck", SMALL, root=tmp_path, folder=tmp_path / "run", seed=0) as run:
        main(SMALL, run)
    record = read_run(tmp_path / "run")
    estimates = record.summary["estimates"]
    assert estimates["asked_for_best_return_shortfall"]["value"] == pytest.approx(0.125, abs=0.01)
    assert estimates["asked_for_best_mean_shortfall"]["value"] == pytest.approx(0, abs=0.01)
    assert estimates["control_without_luck_shortfall"]["value"] == pytest.approx(0, abs=0.01)
    assert "the prediction held" in record.notes[-1] and record.notes[0].startswith("stated before")
    faults: list[str] = []
    figures = read_lines(record.results["lines"], faults)
    assert not faults and [one.id for one in figures] == ["lines-odds", "lines-asked"]
    assert record.results["asked"]["exact"] == pytest.approx([0.25, 0.275, 0.475, 0.6, 0.475])
    learned = [one["value"] for one in record.results["asked"]["delivered"]]
    assert learned == pytest.approx(record.results["asked"]["exact"], abs=0.02)


def test_a_world_without_bad_odds_refutes_it(tmp_path: Path) -> None:
    config = replace(SMALL, chances=(0.6, 1.0), odds=0.6, rounds=1, steps=40)
    with Run.create("luck", config, root=tmp_path, folder=tmp_path / "run", seed=0) as run:
        main(config, run)
    assert "refuted" in read_run(tmp_path / "run").notes[-1]


def test_a_run_that_was_cut_off_ends_as_one_that_was_not(
    whole_and_cut: Callable[..., tuple[RunRecord, RunRecord]],
) -> None:
    config = replace(SMALL, chances=(0.25,), steps=5)
    whole, cut = whole_and_cut(main, config)
    assert cut.results["points"] == whole.results["points"] and cut.notes == whole.notes


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seeds": 1}, "seeds 1"),
        ({"chances": ()}, "chances"),
        ({"chances": (0.25, 1.5)}, "odds"),
        ({"chances": (0.25, 0.25)}, "twice"),
        ({"odds": 0.3}, "among them"),
        ({"sure": 0.2}, "consolation"),
        ({"slip": 0.0}, "slip"),
        ({"lr": float("inf")}, "lr inf"),
        ({"episodes": 2}, "episodes 2"),
    ],
)
def test_settings_that_cannot_be_are_refused(change: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        replace(LuckConfig(), **change)  # pyright: ignore[reportArgumentType] by name


def test_the_command_line_refuses_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line(["run", "luck", "--folder", str(tmp_path / "run"), "--odds", "2"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
