"""FeedME on an overseer's grades: they teach, a kill changes nothing, and grades that choose nothing stop the run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from backflip.errors import ConfigError, DataError
from backflip.experiments.methods import load
from backflip.loops import improving, rating
from backflip.loops.rating import ByOverseer
from backflip.optimise.feedme import AtLeast, FeedMEConfig, TopShare
from backflip.optimise.scores import ScoreRules
from backflip.overseers.people import PeopleOverseer
from backflip.progress import Progress
from backflip.rewards.combine import FunctionReward
from backflip.run import Run

from .toy import Crash, Judge, crashing, goodness, lines, new_run, outcome, parts_of, tiny_policy, worth


def grades(prompt: str, answer: str) -> float | None:
    return min(3.0, goodness(prompt, answer)) / 3


def graded(**more: Any) -> Any:
    return load("feedme").config(**({"comparisons": 96, "updates": 12, "save_every": 1, "lr": 1e-2} | more))


def by_overseer(keep: Any = None, answers: int = 24) -> ByOverseer:
    return ByOverseer(TopShare(0.25) if keep is None else keep, answers)


def test_grades_and_their_opposite_teach_opposite_things(tmp_path: Path) -> None:
    config, found, before = graded(rating=by_overseer()), dict[str, float](), worth(tiny_policy())
    judges: dict[str, Judge] = {"likes": grades, "hates": lambda prompt, answer: 1 - (grades(prompt, answer) or 0)}
    for name, judge in judges.items():
        with new_run(tmp_path / name, config) as run:
            trained = load("feedme").train(parts_of(run, judge), config, run)
            assert trained.judged == "ratings" and 80 < trained.counts["judgements"] <= 96 and not trained.pairs
            assert trained.reward is None and {row["phase"] for row in lines(run)} == {"ask", "feedme", "check"}
            row = lines(run, "feedme")[0]
            assert row["kept_reward_mean"] > row["reward_sum_mean"] and row["bar"] > 0
            assert {query.kind for query in run.store.queries()[0]} == {"rate"}
            found[name] = worth(trained.policy)
    assert found["likes"] > before + 0.25 and found["hates"] < before - 0.25, (before, found)


def test_a_kill_while_grading_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = graded(rating=by_overseer(), rounds=2, comparisons=32, updates=4)
    train = load("feedme").train
    with new_run(tmp_path / "whole", config) as run:
        whole = outcome(run, train(parts_of(run, grades), config, run))
    for number, (module, name, times) in enumerate(((rating, "gather", 2), (improving, "stopped", 4))):
        with monkeypatch.context() as patch:
            crashing(patch, module, name, times)
            with pytest.raises(Crash), new_run(tmp_path / str(number), config) as run:
                train(parts_of(run, grades), config, run)
        with Run.resume(tmp_path / str(number)) as run:
            run.progress = Progress(quiet=True)
            again = outcome(run, train(parts_of(run, grades), config, run))
        assert all(torch.equal(tensor, again[0][key]) for key, tensor in whole[0].items()), name
        assert again[1:] == whole[1:], name


@pytest.mark.parametrize(
    ("said", "keep", "words"),
    [
        (1.2, None, r"said 1.2 to query .* expected a score in \[0, 1\]"),
        (-0.1, None, "expected a score"),
        (float("nan"), None, "expected a score"),
        (None, None, "nobody graded a single answer"),
        (0.5, None, "rows are rated 0.5, so nothing is chosen"),
        (1.0, AtLeast(1.0), "rows are rated 1, so nothing is chosen"),
        (0.0, AtLeast(1.0), "rows passes"),
    ],
)
def test_grades_that_choose_nothing_stop_the_run(tmp_path: Path, said: float | None, keep: Any, words: str) -> None:
    """Outside of their range, none at all, all ties, one class only."""
    config = graded(rating=by_overseer(keep))
    with new_run(tmp_path / "run", config) as run, pytest.raises(DataError, match=words):
        load("feedme").train(parts_of(run, lambda prompt, answer: said), config, run)


def test_what_has_no_meaning_where_the_overseer_grades_is_refused(tmp_path: Path) -> None:
    for change in ({"members": 1}, {"episodes": 80}, {"group": 8, "episodes": 160}, {"scores": ScoreRules()}):
        with pytest.raises(ConfigError, match="has no meaning with rating:by_overseer"):
            graded(rating=by_overseer(), **change)
    with pytest.raises(ConfigError, match=r"the bar is rating\.keep"):
        graded(rating=by_overseer(), feedme=FeedMEConfig(keep=AtLeast(0.5)))
    for keep in (AtLeast(7.0), AtLeast(0.0)):
        with pytest.raises(ConfigError, match="ratings lie in"):
            ByOverseer(keep)
    with pytest.raises(ConfigError, match="answers is 0"):
        ByOverseer(answers=0)
    config = graded(rating=by_overseer())
    with new_run(tmp_path / "people", config) as run:
        for parts in (
            replace(parts_of(run), overseer=PeopleOverseer(run.store)),
            parts_of(run, given=FunctionReward(goodness, parts_of(run).world, "goodness")),
        ):
            with pytest.raises(ConfigError, match="needs an overseer who grades"):
                load("feedme").train(parts, config, run)
    with new_run(tmp_path / "pairs", config) as run, pytest.raises(DataError, match='judge "likes_good" failed'):
        load("feedme").train(parts_of(run), config, run)
