"""`backflip run labels`: curves in little, resumed after a kill; what it says of whole runs; and settings that cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from backflip.data import Estimate
from backflip.errors import ConfigError
from backflip.experiments import labels, labels_curves
from backflip.experiments.arms_plan import config_of
from backflip.experiments.labels import LabelsConfig, arms_of
from backflip.experiments.labels_curves import QUERIES, Point
from backflip.experiments.labels_results import Asked, needed, rising, second_verdict, tell_apart, write_curves
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
    assert notes[0].startswith("stated before: P1") and "refuted if" in notes[0]
    assert notes[-1].startswith("P1") and "P2" in notes[-1] and "no whole runs were made" in notes[-1]
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
    """Five seeds that differ by little, and by a little less in what one way to choose is worth beside another."""
    return [
        Point(seed, how, 100 * 2**place, value + 0.001 * (seed % 3) + 1e-4 * (seed * len(how) % 4), 0.5)  # pyright: ignore[reportArgumentType]
        for how, values in accuracy.items()
        for seed in range(5)
        for place, value in enumerate(values)
    ]


def test_a_planted_difference_is_found_and_refutes_the_prediction(tmp_path: Path) -> None:
    better = points_of({"random": (0.6, 0.65, 0.7), "disagreement": (0.6, 0.7, 0.78), "mixed": (0.6, 0.651, 0.701)})
    said, notes = written(tmp_path, better)
    assert said.endswith("refuted by disagreement with 200 labels, disagreement with 400 labels")
    assert any(note.startswith("accuracy with 400 labels: disagreement less random +8.0 points") for note in notes)
    half = needed(better, "disagreement", (100, 200, 400))
    assert half is not None and half.value == pytest.approx(100 * 2**0.5, rel=0.02) and half.n == 5
    assert needed(points_of({"random": (0.6, 0.65, 0.7), "mixed": (0.5, 0.6, 0.62)}), "mixed", (100, 200, 400)) is None


def written(tmp_path: Path, points: list[Point]) -> tuple[str, list[str]]:
    """Return what `write_curves` says of P1, and the notes it writes."""
    with Run.create("labels", LITTLE, root=tmp_path, seed=0, folder=tmp_path / "run") as run:
        run.progress = Progress(quiet=True)
        said = write_curves(points, len({one.seed for one in points}), run)
    return said, list(read_run(tmp_path / "run").notes)


def test_what_seeds_cannot_tell_is_said(tmp_path: Path) -> None:
    noisy = [
        Point(seed, how, count, 0.6 + 0.05 * ((seed * 7 + count + len(how)) % 5), 0.5)
        for how in QUERIES
        for seed in range(5)
        for count in (100, 200)
    ]
    said, notes = written(tmp_path, noisy)
    assert any("5 seeds cannot tell" in note for note in notes) and "not decided" in said
    alike = points_of(dict.fromkeys(QUERIES, (0.6, 0.65, 0.7)))
    assert written(tmp_path / "alike", alike)[0].endswith("not refuted, every interval lies within")


def test_of_many_comparisons_none_is_told_by_luck() -> None:
    """All ways to choose alike, 16 comparisons as at the defaults: without a correction some were told in half of the runs."""
    rng, some = np.random.default_rng(0), 0
    for _ in range(100):
        arms = [{how: dict(enumerate(0.6 + 0.03 * rng.normal(size=5))) for how in QUERIES} for _ in range(8)]
        asked = [Asked("accuracy", values, QUERIES[0], how) for values in arms for how in QUERIES[1:]]
        some += any(one.told for one in tell_apart(asked, cast(Run, Mute())))
    assert some <= 12


class Mute:
    """Stands for a run whose words nobody reads."""

    def estimate(self, name: str, value: Estimate) -> None: ...
    def note(self, text: str) -> None: ...


def test_a_difference_of_shares_has_no_interval_beyond_100_points() -> None:
    values = {"random": {0: 0.1, 1: 0.9}, "mixed": {0: 0.9, 1: 0.2}}
    (found,) = tell_apart([Asked("gold", values, "random", "mixed")], cast(Run, Mute()))
    assert (found.difference.low, found.difference.high) == (-1.0, 1.0) and not found.told


def test_lucky_points_do_not_make_labels_fewer() -> None:
    """Equal curves and noise: what is needed is the number that is asked of. A running maximum read off too few."""
    assert rising(np.array([1.0, 3.0, 2.0, 4.0, 0.0])).tolist() == [1.0, 2.25, 2.25, 2.25, 2.25]
    rng, counts, found = np.random.default_rng(0), (50, 100, 200, 400, 800), list[float]()
    held = 0
    for _ in range(120):
        points = [
            Point(seed, how, labels, 0.6 + 0.025 * place + 0.03 * float(rng.normal()), 0.5)
            for how in ("random", "mixed")
            for seed in range(8)
            for place, labels in enumerate(counts)
        ]
        one = needed(points, "mixed", counts)  # pyright: ignore[reportArgumentType]
        if one is not None:
            found.append(float(np.log(one.value / 400)))
            held += one.low <= 400 <= one.high
    assert len(found) > 60 and abs(float(np.mean(found))) < 0.15 and held / len(found) > 0.85


@pytest.mark.parametrize(("shift", "said"), [(-0.1, "refuted"), (0.1, "not refuted"), (0.0, "not decided")])
def test_frozen_against_refreshed_is_decided_by_its_interval(shift: float, said: str) -> None:
    frozen = {seed: 0.7 + 0.01 * seed for seed in range(5)}
    values = {"frozen": frozen, "refreshed": {seed: 0.7 + shift + 0.009 * seed for seed in frozen}}
    if said == "not decided":
        values["refreshed"] = {seed: 0.72 + 0.02 * (-1) ** seed for seed in frozen}
    found = tell_apart([Asked("final gold with 200 labels", values, "frozen", "refreshed")], cast(Run, Mute()))
    assert f": {said}" in second_verdict(found)


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
