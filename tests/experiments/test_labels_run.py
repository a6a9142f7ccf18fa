"""`backflip run labels`: curves in little, resumed after a kill; what it says of whole runs; and settings that cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backflip.errors import ConfigError
from backflip.experiments import labels, labels_curves
from backflip.experiments.arms_plan import config_of
from backflip.experiments.labels import LabelsConfig, arms_of
from backflip.experiments.labels_curves import QUERIES, Point
from backflip.experiments.labels_results import needed, write_curves
from backflip.experiments.reviews import ReviewsConfig
from backflip.plan import Plan
from backflip.progress import Progress
from backflip.run import Run, read_run
from backflip.worlds import reviews

LITTLE = LabelsConfig(seeds=2, labels=(4, 8), openings=4, best_of=2, members=2, candidates=2, run_labels=(), rounds=2)


@pytest.fixture
def few_openings(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the teacher's rationality is set on few answers."""
    whole = reviews.read_openings
    monkeypatch.setattr(reviews, "read_openings", lambda part: whole(part)[:30])


class Crash(Exception):
    """Stands for a kill."""


def carried_out(folder: Path, config: LabelsConfig) -> Run:
    """Carry the experiment out in a new run folder, or go on with it."""
    made = folder / "config.json"
    run = (
        Run.resume(folder)
        if made.is_file()
        else Run.create("labels", config, root=folder.parent, seed=0, folder=folder)
    )
    with run:
        run.progress = Progress(quiet=True)
        labels.main(config, run)
    return run


def measured(folder: Path) -> Any:
    record = read_run(folder)
    return record.summary["estimates"], record.results["points"], record.results["lines"], record.notes


@pytest.mark.usefixtures("few_openings")
def test_curves_are_the_same_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    carried_out(tmp_path / "whole", LITTLE)
    estimates, points, lines, notes = measured(tmp_path / "whole")
    assert len(points) == 2 * len(QUERIES) * 2 and set(lines) == {"accuracy", "gold"}
    first = {(one["seed"], one["queries"]): one["accuracy"] for one in points if one["labels"] == 4}
    assert all(first[seed, how] == first[seed, "random"] for seed, how in first), "the first are random for all"
    assert {"random_8_accuracy", "mixed_8_best_of_n_gold_win_rate"} <= set(estimates)
    assert any(note.startswith("P1") and "too few" in note for note in notes)
    true, entered = labels_curves.curve, 0

    def curve(*args: Any) -> list[Point]:
        nonlocal entered
        entered += 1
        if entered == 5:
            raise Crash
        return true(*args)

    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(labels_curves, "curve", curve)
        carried_out(tmp_path / "killed", LITTLE)
    carried_out(tmp_path / "killed", LITTLE)
    assert measured(tmp_path / "killed")[:3] == (estimates, points, lines)


def test_arms_are_settings_of_reviews_with_equal_labels() -> None:
    config = LabelsConfig(run_labels=(40,), updates=8)
    arms = arms_of(config)
    assert [arm.name for arm in arms] == ["frozen_40", *(f"refreshed_{how}_40" for how in QUERIES)]
    told = [config_of(labels._in_python(arm), ReviewsConfig) for arm in arms]
    assert {(one.comparisons, one.updates, one.agreement) for one in told} == {(40, 8, 0.75)}
    assert [(one.rounds, one.queries) for one in told] == [(1, "random"), *((4, how) for how in QUERIES)]


def points_of(accuracy: dict[str, tuple[float, ...]]) -> list[Point]:
    """Five seeds that differ by little."""
    return [
        Point(seed, how, 100 * 2**place, value + 0.001 * (seed % 3), 0.5)  # pyright: ignore[reportArgumentType]
        for how, values in accuracy.items()
        for seed in range(5)
        for place, value in enumerate(values)
    ]


def test_a_planted_difference_is_found_and_refutes_the_prediction(tmp_path: Path) -> None:
    better = points_of({"random": (0.6, 0.65, 0.7), "disagreement": (0.6, 0.7, 0.78), "mixed": (0.6, 0.651, 0.701)})
    with Run.create("labels", LITTLE, root=tmp_path, seed=0, folder=tmp_path / "run") as run:
        run.progress = Progress(quiet=True)
        write_curves(better, 5, run)
    notes = read_run(tmp_path / "run").notes
    assert any("refuted by disagreement with 200 labels, disagreement with 400 labels" in note for note in notes)
    assert any(note.startswith("accuracy with 400 labels: disagreement less random +8.0 points") for note in notes)
    half = needed(better, "disagreement", (100, 200, 400))
    assert half is not None and half.value == pytest.approx(100 * 2**0.5, rel=0.02) and half.n == 5
    assert needed(points_of({"random": (0.6, 0.65, 0.7), "mixed": (0.5, 0.6, 0.62)}), "mixed", (100, 200, 400)) is None


def test_what_seeds_cannot_tell_is_said(tmp_path: Path) -> None:
    noisy = [
        Point(seed, how, count, 0.6 + 0.05 * ((seed * 7 + count + len(how)) % 5), 0.5)
        for how in QUERIES
        for seed in range(5)
        for count in (100, 200)
    ]
    with Run.create("labels", LITTLE, root=tmp_path, seed=0, folder=tmp_path / "run") as run:
        run.progress = Progress(quiet=True)
        write_curves(noisy, 5, run)
    notes = read_run(tmp_path / "run").notes
    assert any("5 seeds cannot tell" in note for note in notes) and any("not refuted" in note for note in notes)


def test_the_cost_is_stated_before(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def plan(config: Any) -> Plan:
        asked.append(config.comparisons)
        return Plan({"policy": 10.0}, {"sample": 1.0, "update, apart": 5.0}, config.comparisons, 0.0)

    monkeypatch.setattr(labels, "reviews_plan", plan)
    found = labels.plan(LabelsConfig(run_labels=(40,)))
    assert found.comparisons == 5 * 3 * 800 + 5 * 4 * 40 and asked == [3 * 1550, 40, 40, 40, 40]
    assert found.seconds["curves, 5 seeds"] == 5 and len(found.seconds) == 5


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"labels": (800, 50)}, "rising"),
        ({"labels": (50,)}, "two numbers or more"),
        ({"members": 1}, "members 1"),
        ({"agreement": 0.4}, "a coin"),
        ({"run_labels": (2,)}, "at least as many"),
        ({"seeds": 1}, "says nothing of the spread"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        LabelsConfig(**wrong)
