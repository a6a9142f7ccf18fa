"""`backflip run size`: who wins how often, where a larger model draws level, and what is said where none does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backflip.data import Item
from backflip.errors import ConfigError
from backflip.experiments import size
from backflip.experiments.arms_plan import config_of
from backflip.experiments.reviews import ReviewsConfig
from backflip.experiments.reviews_base import ReviewsBaseConfig
from backflip.experiments.size import SizeConfig, arms_of, bases_of, weights_of
from backflip.experiments.size_results import (
    SMALL,
    answers_by_seed,
    crossings,
    shares_of,
    write_multiplier,
    write_shares,
)
from backflip.plan import Plan
from backflip.progress import Progress
from backflip.run import Run, read_run

CONFIG = SizeConfig(seeds=5, hidden=(64, 128, 256), steps=10, comparisons=40, updates=4, sft_updates=6)


def new_run(folder: Path) -> Run:
    run = Run.create("size", CONFIG, root=folder.parent, seed=0, folder=folder)
    run.progress = Progress(quiet=True)
    return run


def test_every_size_is_made_once_and_tuned_over_all_seeds(tmp_path: Path) -> None:
    with new_run(tmp_path / "run") as run:
        bases = bases_of(CONFIG, run)
        arms = arms_of(CONFIG, bases)
    made = [config_of(python(one.arm), ReviewsBaseConfig) for one in bases]
    assert [(one.hidden, one.feed_forward, one.steps) for one in made] == [
        (64, 144, 10),
        (128, 288, 10),
        (256, 576, 10),
    ]
    assert [arm.name for arm in arms] == [SMALL, "sft_64", "sft_128", "sft_256"]
    assert arms[0].options["policy"] == arms[1].options["policy"] == str(bases[0].folder / "checkpoints/reviews/base")
    small = config_of(python(arms[0]), ReviewsConfig)
    assert (small.updates, small.comparisons, small.method) == (4, 40, "ppo")
    assert [arm.options.get("method") for arm in arms] == [None, "sft", "sft", "sft"]
    assert weights_of(CONFIG) == sorted(weights_of(CONFIG))


def python(arm: Any) -> Any:
    from dataclasses import replace

    return replace(arm, options={name.replace("-", "_"): value for name, value in arm.options.items()})


def test_level_is_drawn_between_two_sizes() -> None:
    ratio_W = np.array([1.0, 4.0, 16.0])
    share_WS = np.array([[0.3, 0.55, 0.1, 0.4], [0.4, 0.6, 0.2, 0.5], [0.6, 0.7, 0.3, 0.6]])
    assert crossings(share_WS, ratio_W) == [pytest.approx(8.0), None, None, pytest.approx(4.0)]


def told(tmp_path: Path, share_WS: np.ndarray[Any, Any]) -> Any:
    share_WSK = np.repeat(share_WS[:, :, None], 6, 2)
    ratio_W = np.array([1.0, 4.0, 16.0])
    with new_run(tmp_path / "run") as run:
        write_shares(share_WSK, share_WSK, CONFIG.hidden, (10, 40, 160), run)
        write_multiplier(crossings(share_WS, ratio_W), share_WSK, ratio_W, run)
    return read_run(tmp_path / "run")


def test_a_multiplier_comes_with_its_interval(tmp_path: Path) -> None:
    jitter_S = np.array([-0.02, -0.01, 0.0, 0.01, 0.02])
    found = told(tmp_path, np.array([0.3 + jitter_S, 0.4 + jitter_S, 0.6 + jitter_S]))
    estimate = found.summary["estimates"]["size_multiplier"]
    assert estimate["value"] == pytest.approx(8.0, rel=0.01) and 4 < estimate["low"] < 8 < estimate["high"] < 16
    assert "P1, at its own size the supervised model wins less than half: not refuted" in found.notes
    assert "P2, the multiplier is above 2: not refuted" in found.notes


def test_beyond_the_range_no_number_is_given(tmp_path: Path) -> None:
    found = told(tmp_path, np.full((3, 5), 0.2) + 0.01 * np.arange(5))
    assert "size_multiplier" not in found.summary["estimates"]
    (said,) = (note for note in found.notes if "beyond the range measured" in note)
    assert "5 of 5 seeds (above 1 to 16.0 times)" in said and "P2 is not refuted" in said


def test_what_seeds_cannot_tell_is_said_and_a_small_win_refutes(tmp_path: Path) -> None:
    found = told(
        tmp_path, np.array([[0.7, 0.72, 0.71, 0.7, 0.73], [0.3, 0.7, 0.4, 0.6, 0.5], [0.8, 0.8, 0.9, 0.8, 0.8]])
    )
    assert any("P1" in note and note.endswith(": refuted") for note in found.notes)
    assert any("5 seeds cannot tell the two apart" in note for note in found.notes)
    assert any("beyond the range" in note and "P2 is refuted" in note for note in found.notes)


def test_a_smallest_model_that_only_seems_to_win_refutes_nothing(tmp_path: Path) -> None:
    """One seed wins by a little at its own size, the others draw level at three times it."""
    won_WS = np.array([[0.56, 0.48, 0.47], [0.57, 0.49, 0.48], [0.60, 0.56, 0.55]])
    (said,) = (note for note in told(tmp_path, won_WS).notes if "beyond the range measured" in note)
    assert "in 1 of 3 seeds (below 1 to 16.0 times)" in said and said.endswith("is not decided: 3 seeds cannot tell")
    won_WS = np.array([[0.7, 0.7, 0.7, 0.7, 0.49], [0.8, 0.8, 0.8, 0.8, 0.495], [0.9, 0.9, 0.9, 0.9, 0.6]])
    (said,) = (note for note in told(tmp_path / "past", won_WS).notes if "beyond the range measured" in note)
    assert "is not decided" in said, "one seed has a multiplier above 2"


def test_sizes_that_only_seem_to_lose_leave_it_open(tmp_path: Path) -> None:
    won_WS = np.array([[0.3, 0.2, 0.3], [0.4, 0.3, 0.4], [0.49, 0.3, 0.495]])
    found = told(tmp_path, won_WS)
    assert any(note.startswith("stated before: P1") and "refuted if" in note for note in found.notes)
    (said,) = (note for note in found.notes if "beyond the range measured" in note)
    assert "(above 1 to 16.0 times)" in said and "is not decided" in said


def test_the_trained_policy_answers_and_not_best_of_n(tmp_path: Path) -> None:
    """Of a run that learns a reward best of n stands behind the policy in every row of samples."""

    def stored(name: str, rows: list[dict[str, Any]]) -> Path:
        folder = tmp_path / name
        with Run.create("reviews", ReviewsConfig(), root=tmp_path, seed=0, folder=folder) as run:
            run.progress = Progress(quiet=True)
            run.samples(rows)
        return folder

    rows = [
        {"prompt": f"opening {k}", "base": "dull", "ppo": "good good", "gold": {}, "best_of_n": "good"}
        for k in range(4)
    ]
    folder = stored("a", rows)
    (said,) = answers_by_seed([folder])
    assert said["opening 0"] == ("dull", "good good")

    def gold(item: Item) -> np.ndarray[Any, Any]:
        return np.array([float(item.content.split().count("good"))])

    other = [{**one, "ppo": "dull", "base": "good"} for one in rows]
    arms = [answers_by_seed([folder, folder]), answers_by_seed([stored("b", other)] * 2)]
    won_WSK = shares_of(arms, arms[1], gold, "answer")
    assert won_WSK.shape == (2, 2, 4) and (won_WSK[0] == 1).all() and (won_WSK[1] == 0.5).all()
    assert (shares_of(arms, arms[1], gold, "base")[0] == 0).all()


def test_the_cost_is_stated_before(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Plan({"policy": 10.0}, {"sample": 10.0, "update": 20.0}, 40, 0.0)
    monkeypatch.setattr(size, "reviews_plan", lambda config: whole)
    found = size.plan(CONFIG)
    assert found.comparisons == 5 * 4 * 40 and len(found.seconds) == 4
    assert list(found.seconds.values())[:3] == sorted(list(found.seconds.values())[:3])
    assert json.dumps(found.seconds)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"hidden": (64, 128)}, "three widths"),
        ({"hidden": (256, 128, 64)}, "rising"),
        ({"hidden": (64, 100, 128)}, "multiples of 64"),
        ({"steps": 0}, "1 or more"),
        ({"seeds": 1}, "says nothing of the spread"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        SizeConfig(**wrong)
