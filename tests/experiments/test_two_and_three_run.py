"""`backflip run two_and_three`: the exact limits, the trained policies beside them, the run, and settings that it refuses."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backflip.cli import main as command_line
from backflip.errors import ConfigError
from backflip.experiments import two_and_three
from backflip.experiments.two_and_three import (
    TwoAndThreeConfig,
    base_logp,
    both,
    cells,
    limits,
    main,
    taught,
    worth,
)
from backflip.measures.frontier import at_tilt, tilt_at
from backflip.report.curves import read_lines
from backflip.run import Run, RunRecord, read_run

CONFIG = TwoAndThreeConfig()
SMALL = TwoAndThreeConfig(
    seeds=2, answers=28, shares=(0.25,), grades=(6, 7), labels=600, steps=60, updates=40, episodes=256
)


def test_the_worked_case() -> None:
    """[exact] 200 uniform atoms, the best quarter kept: ln 4 nats for both, E[r] 1.269 against 1.632."""
    found = {(cell.kind, cell.label): limits(cell, CONFIG) for cell in cells(CONFIG)}
    exact = found["exact", "best 25%"]
    assert exact["kl_nats"] == pytest.approx(math.log(4)) == pytest.approx(1.386, abs=5e-4)
    assert (round(exact["feedme"], 3), round(exact["ppo"], 3)) == (1.269, 1.632)


def test_the_limits_differ_where_ratings_go_on_above_the_bar_and_nowhere_else() -> None:
    for cell in cells(CONFIG):
        gap = limits(cell, CONFIG)["gap"]
        assert cell.goes_on == (cell.kind == "exact" or cell.label in ("grade 5 up", "grade 6 up"))
        assert gap > 0.15 if cell.goes_on else gap == pytest.approx(0, abs=1e-12)


def test_no_share_kept_makes_conditioning_better_than_the_tilt() -> None:
    """[exact] at equal KL; the tilt at that KL is found back from it."""
    base, r_C = base_logp(CONFIG), worth(200)
    for kept in (199, 150, 100, 50, 20, 5, 1):
        kl_nats = -math.log(kept / 200)
        per_beta = tilt_at(base, r_C[None], kl_nats)
        found_nats, reward = at_tilt(base, r_C[None], per_beta)
        assert found_nats == pytest.approx(kl_nats, abs=1e-9)
        assert reward >= r_C[-kept:].mean() - 1e-12


@pytest.mark.parametrize("number", range(4))
def test_trained_policies_reproduce_the_limits(number: int) -> None:
    cell = cells(SMALL)[number]
    found, exact = both(cell, 0, SMALL), limits(cell, SMALL)
    assert found["gap"] == pytest.approx(exact["gap"], abs=0.08)
    assert found["ppo_kl_nats"] == pytest.approx(found["feedme_kl_nats"], abs=0.08)
    assert all(found[name] <= found[f"{name}_frontier"] + 1e-9 for name in ("feedme", "ppo"))
    for name in ("feedme", "ppo"):  # the base is uniform, so what KL spends entropy loses
        assert found[f"{name}_entropy_nats"] + found[f"{name}_kl_nats"] == pytest.approx(math.log(28))


def test_an_answer_that_was_never_rated_is_worth_the_mean() -> None:
    assert taught(np.array([0, 0, 2]), np.array([1.0, 2.0, 6.0]), 4).tolist() == [1.5, 3.0, 6.0, 3.0]


def test_the_run_and_its_page(tmp_path: Path) -> None:
    with Run.create("two_and_three", SMALL, root=tmp_path, folder=tmp_path / "run", seed=0) as run:
        main(SMALL, run)
    record = read_run(tmp_path / "run")
    estimates = record.summary["estimates"]
    assert estimates["gap_exact_best_25"]["value"] > 0.2 and abs(estimates["gap_binary_best_25"]["value"]) < 0.08
    assert f"{estimates['text-davinci-003_mean_words']['value']:.1f}" == "56.9"
    assert record.notes[0].startswith("stated before")
    assert any("nothing of entropy" in note for note in record.notes)
    faults: list[str] = []
    figures = read_lines(record.results["lines"], faults)
    assert not faults
    assert [one.id for one in figures] == ["lines-frontier", "lines-gap", "lines-words", "lines-distinct2"]
    assert len(record.samples) == 8 and len(record.samples[0]) == 5


@pytest.mark.parametrize(
    ("change", "last"),
    [
        ({"gap": -0.2, "ppo": 0.1}, "did not hold for exact ratings, best 25%"),
        ({"ppo_frontier": 0.0}, "a KL is wrong"),
        ({}, "the prediction held"),
    ],
)
def test_the_verdict_can_go_either_way(
    change: dict[str, float], last: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def planted(cell: Any, seed: int, config: Any) -> dict[str, float]:
        row = dict.fromkeys(two_and_three.MEASURED, 1.0) | {
            "feedme_frontier": 2.0,
            "ppo_frontier": 2.0,
            "beta": 1.0,
        }
        row["gap"] = (0.3 if cell.goes_on else 0.0) + 1e-4 * seed
        return row | (change if cell.kind == "exact" else {})

    def nothing(run: Any) -> tuple[dict[str, Any], str]:
        return {}, "nothing is replayed"

    monkeypatch.setattr(two_and_three, "both", planted)
    monkeypatch.setattr(two_and_three, "replay", nothing)
    with Run.create("two_and_three", SMALL, root=tmp_path, folder=tmp_path / "run", seed=0) as run:
        main(SMALL, run)
    notes: Sequence[str] = read_run(tmp_path / "run").notes
    assert last in notes[-1]


def test_a_run_that_was_cut_off_ends_as_one_that_was_not(
    whole_and_cut: Callable[..., tuple[RunRecord, RunRecord]],
) -> None:
    config = replace(SMALL, steps=3, updates=2, grades=(6,), labels=60)
    whole, cut = whole_and_cut(main, config)
    assert cut.results["cells"] == whole.results["cells"] and cut.notes == whole.notes


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seeds": 1}, "seeds 1"),
        ({"answers": 10}, "answers is 10"),
        ({"shares": ()}, "shares"),
        ({"shares": (1.0,)}, "shares"),
        ({"grades": (1,)}, "at 1 everything passes"),
        ({"grades": (8,)}, "grades"),
        ({"episodes": 4}, "episodes 4"),
        ({"lr": 0.0}, "lr is 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(change: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        replace(TwoAndThreeConfig(), **change)  # pyright: ignore[reportArgumentType] by name


def test_the_command_line_refuses_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line(["run", "two_and_three", "--folder", str(tmp_path / "run"), "--answers", "3"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
