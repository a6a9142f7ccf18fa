"""Every method: it runs to its end in little, any of its moments can be resumed, it learns what the judge likes, and it takes a plain function."""

from __future__ import annotations

import importlib
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from backflip.data import Item
from backflip.errors import ConfigError, DataError
from backflip.experiments.methods import METHODS, load
from backflip.loops import asking, improving
from backflip.loops.asking import next_questions
from backflip.loops.conditional import level_tokens
from backflip.loops.dealing import deal
from backflip.loops.parts import Parts, begin
from backflip.optimise.scores import ScoreRules
from backflip.policies.asked import AskedLM
from backflip.progress import Progress
from backflip.rewards.combine import FunctionReward
from backflip.rewards.comparisons import Comparison
from backflip.run import Run

from .toy import (
    SMALL,
    UPDATED,
    Crash,
    config_of,
    crashing,
    goodness,
    likes_good,
    lines,
    new_run,
    outcome,
    parts_of,
    tiny_policy,
    worth,
)


def test_every_method_is_tried_here() -> None:
    assert {*SMALL, "imitate"} == set(METHODS)


@pytest.mark.parametrize("method", [name for name in UPDATED if name != "ppo"])
def test_a_kill_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    config = config_of(method, rounds=2, comparisons=32, updates=4)
    train = load(method).train
    with new_run(tmp_path / "whole", config) as run:
        whole = outcome(run, train(parts_of(run), config, run))
    assert [row["step"] for row in lines(run, method)] == [1, 2, 3, 4]
    assert len(lines(run, "ask")) == 2 and whole[3]["judgements"] == len(whole[2])
    moments = [(asking, "gather", 2), (improving, "stopped", 2), (improving, "stopped", 4)]
    for number, (module, name, times) in enumerate(moments):
        folder = tmp_path / str(number)
        with monkeypatch.context() as patch:
            crashing(patch, module, name, times)
            with pytest.raises(Crash), new_run(folder, config) as run:
                train(parts_of(run), config, run)
        with Run.resume(folder) as run:
            run.progress = Progress(quiet=True)
            again = outcome(run, train(parts_of(run), config, run))
        assert all(torch.equal(tensor, again[0][key]) for key, tensor in whole[0].items()), name
        assert again[1:] == whole[1:], name


@pytest.mark.parametrize("method", UPDATED)
def test_the_page_of_a_method_names_all_that_it_logs(tmp_path: Path, method: str) -> None:
    """docs/METHOD.md has a table row or a word in code for each, or docs/methods.md, which has what all methods log."""
    config = config_of(method, comparisons=16, updates=2, save_every=2)
    with new_run(tmp_path / "run", config) as run:
        load(method).train(parts_of(run), config, run)
        logged = {name for row in lines(run, method) for name in row} - {"step", "phase", "time"}
    assert len(logged) > 5
    assert logged - named(f"{method}.md") - named("methods.md") == set()


def named(page: str) -> set[str]:
    """Return the words that stand in code on a page of the documents."""
    return set(re.findall(r"`(\w+)`", (Path(__file__).parents[2] / "docs" / page).read_text(encoding="utf-8")))


@pytest.mark.parametrize("method", [name for name in SMALL if name != "ppo"])
def test_a_judge_and_its_opposite_teach_opposite_things(tmp_path: Path, method: str) -> None:
    config, found = config_of(method), dict[str, float]()
    before = worth(tiny_policy())
    for name, judge in (("likes", likes_good), ("hates", lambda prompt, a, b: 1 - likes_good(prompt, a, b))):
        with new_run(tmp_path / name, config) as run:
            found[name] = worth(load(method).train(parts_of(run, judge), config, run).policy)
    assert found["likes"] > before + 0.25 and found["hates"] < before - 0.25, (before, found)


LEARNS_A_REWARD = [name for name in SMALL if "members" in SMALL[name]]
REWARDED_UPDATES = [name for name in LEARNS_A_REWARD if name in UPDATED]


@pytest.mark.parametrize("method", LEARNS_A_REWARD)
def test_a_plain_function_is_a_reward(tmp_path: Path, method: str) -> None:
    """Nobody is asked, nothing is fitted; an exception in it stops the run with its row."""
    config = config_of(method, **({"updates": 6} if method in UPDATED else {}))
    with new_run(tmp_path / "run", config) as run:
        parts = parts_of(run, lambda prompt, a, b: pytest.fail("nobody is to be asked"))
        given = FunctionReward(goodness, parts.world, "goodness")
        trained = load(method).train(parts_of(run, given=given), config, run)
        assert trained.counts["judgements"] == 0 == run.store.counts()["queries"]
        assert {row["phase"] for row in lines(run)} == ({method, "check"} if method in UPDATED else set())
        assert worth(trained.policy) > worth(tiny_policy()) + 0.2

    def fails(prompt: str, text: str) -> float:
        raise ValueError("cannot read it")

    with new_run(tmp_path / "broken", config) as run:
        given = FunctionReward(fails, parts.world, "fails")
        with pytest.raises(DataError, match=r"the reward fails failed on row 0, .*cannot read it"):
            worth(load(method).train(parts_of(run, given=given), config, run).policy)


@pytest.mark.parametrize("fault", [ValueError("cannot read it"), math.nan], ids=["raises", "nan"])
@pytest.mark.parametrize("method", REWARDED_UPDATES)
def test_a_reward_that_fails_late_loses_nothing_of_what_was_learned(
    tmp_path: Path, method: str, fault: Exception | float
) -> None:
    """No save was due yet, and still the run goes on from the update that failed, to the same end."""
    config, asked = config_of(method, updates=5, save_every=100), list[str]()

    def train(run: Run, reward: Callable[[str, str], float]) -> tuple[Any, ...]:
        run.progress = Progress(quiet=True)
        given = FunctionReward(reward, parts_of(run).world, "late")
        return outcome(run, load(method).train(parts_of(run, given=given), config, run))

    def counted(prompt: str, text: str) -> float:
        asked.append(text)
        return goodness(prompt, text)

    with new_run(tmp_path / "whole", config) as run:
        whole = train(run, counted)
    healthy = 3 * len(asked) // 5

    def late(prompt: str, text: str) -> float:
        if len(asked) < healthy:
            return counted(prompt, text)
        if isinstance(fault, Exception):
            raise fault
        return fault

    asked.clear()
    with pytest.raises(DataError, match=r"the reward late .* row \d"), new_run(tmp_path / "late", config) as run:
        train(run, late)
    with Run.resume(tmp_path / "late") as run:
        assert [row["step"] for row in lines(run, method)] == [1, 2, 3]
        again = train(run, goodness)
    assert all(torch.equal(tensor, again[0][key]) for key, tensor in whole[0].items())
    assert again[1:] == whole[1:]


@pytest.mark.parametrize("method", LEARNS_A_REWARD)
def test_a_constant_reward_is_named_though_rows_without_an_end_cost(tmp_path: Path, method: str) -> None:
    told = {"scores": ScoreRules(missing_end="replace"), "updates": 3} if method in UPDATED else {}
    said = r"the (reward|win rate over rivals) of all answers is (7|0\.5), whatever they say"
    config = config_of(method, **told)
    with new_run(tmp_path / "run", config) as run:
        parts = parts_of(run)
        parts = parts_of(run, given=FunctionReward(lambda prompt, text: 7, parts.world, "seven"))
        if method in ("feedme", "conditional"):
            with pytest.raises(DataError, match=said):
                load(method).train(parts, config, run)
            return
        load(method).train(parts, config, run)
        notes = [line for line in (run.path / "notes.jsonl").read_text().splitlines() if re.search(said, line)]
    assert len(notes) == 1


def test_a_look_that_fails_is_taken_again(tmp_path: Path) -> None:
    config = config_of("rloo", updates=4, save_every=100, check_every=2)
    train = load("rloo").train

    def parts_with(run: Run, fails_at: int) -> Parts:
        looks = iter(range(100))

        def check(policy: object, reward: object) -> dict[str, float]:
            if next(looks) == fails_at:
                raise DataError("the judge has gone home")
            return {"looked": 1.0}

        given = FunctionReward(goodness, parts_of(run).world, "goodness")
        return replace(parts_of(run, given=given), check=check)

    with new_run(tmp_path / "whole", config) as run:
        whole = outcome(run, train(parts_with(run, -1), config, run))
    with pytest.raises(DataError, match="gone home"), new_run(tmp_path / "late", config) as run:
        train(parts_with(run, 1), config, run)
    with Run.resume(tmp_path / "late") as run:
        run.progress = Progress(quiet=True)
        again = outcome(run, train(parts_with(run, -1), config, run))
    assert all(torch.equal(tensor, again[0][key]) for key, tensor in whole[0].items())
    assert again[1:] == whole[1:]


def test_all_methods_ask_the_same_in_their_first_round(tmp_path: Path) -> None:
    """Also the one that asks its policy for something: at equal labels no method has better questions."""
    asked: dict[str, list[str]] = {}
    for method in SMALL:
        with new_run(tmp_path / method, config_of(method)) as run:
            parts = parts_of(run)
            now = begin(parts, config_of(method), run)
            if method == "conditional":
                now.asked = AskedLM(now.policy, level_tokens(now.policy, 2), 1)
            asked[method] = [query.id for query in next_questions(parts, config_of(method), now, run)]
    assert len(set(asked["ppo"])) > 50 and all(each == asked["ppo"] for each in asked.values())


def test_early_looks_come_after_one_two_and_four_updates(tmp_path: Path) -> None:
    config = config_of("rloo", updates=12, check_every=6, check_early=True)
    with new_run(tmp_path / "run", config) as run:
        given = FunctionReward(goodness, parts_of(run).world, "goodness")
        load("rloo").train(parts_of(run, given=given), config, run)
        assert [row["step"] for row in lines(run, "check")] == [0, 1, 2, 4, 6, 12]


@pytest.mark.parametrize("method", SMALL)
def test_a_judge_that_raises_stops_the_run(tmp_path: Path, method: str) -> None:
    def broken(prompt: str, a: str, b: str) -> float:
        raise KeyError("no such film")

    config = config_of(method)
    with new_run(tmp_path / "run", config) as run, pytest.raises(DataError, match='judge "broken" failed on query'):
        load(method).train(parts_of(run, broken), config, run)


@pytest.mark.parametrize("method", ["dpo", "nash_md"])
def test_nothing_but_ties_is_said(tmp_path: Path, method: str) -> None:
    """Two rounds of nothing else, said once in each: the policy stays the base, and no reader takes it for a trained one."""
    config = config_of(method, comparisons=32, rounds=2, updates=2)
    with new_run(tmp_path / "run", config) as run:
        load(method).train(parts_of(run, lambda prompt, a, b: 0.5), config, run)
        said = [note for note in notes(run) if "answers heard are ties" in note]
    assert len(said) == 2 and all("nothing says which answer is better" in note for note in said)


@pytest.mark.parametrize("method", ["dpo", "sft", "rloo"])
def test_a_judge_who_likes_a_place_is_named(tmp_path: Path, method: str) -> None:
    config, said = config_of(method, updates=1), dict[str, list[str]]()
    judges = {"first": lambda prompt, a, b: 1.0, "last": lambda prompt, a, b: 0.2, "fair": likes_good}
    for name, judge in judges.items():
        with new_run(tmp_path / name, config) as run:
            load(method).train(parts_of(run, judge), config, run)
            said[name] = [note for note in notes(run) if "shown first" in note]
    assert [len(said[name]) for name in judges] == [1, 1, 0]
    assert "the answer shown first won 100% of 64 questions" in said["first"][0] and "won 20%" in said["last"][0]
    few = config_of("dpo", comparisons=12, updates=1)
    with new_run(tmp_path / "few", few) as run:
        load("dpo").train(parts_of(run, judges["first"]), few, run)
        assert notes(run) == []


def notes(run: Run) -> list[str]:
    file = run.path / "notes.jsonl"
    return [json.loads(line)["text"] for line in file.read_text().splitlines()] if file.exists() else []


@pytest.mark.parametrize("method", UPDATED)
def test_settings_that_cannot_be_are_refused(method: str) -> None:
    with pytest.raises(ConfigError, match="updates is 0, expected 1 or more"):
        config_of(method, updates=0)


# -- dealing ---------------------------------------------------------------------------------------------------------------


def pairs_of(count: int, weight: Callable[[int], float] = lambda k: 1.0) -> list[Comparison]:
    items = [Item("the film", str(k), {}) for k in range(count)]
    return [Comparison(item, item, 1.0, weight(k)) for k, item in enumerate(items)]


def dealt_out(pairs: list[Comparison], count: int, turns: int) -> list[int]:
    return [int(one.first.content) for turn in range(turns) for one in deal(pairs, count, turn, 0, 0)]


def test_every_pair_is_dealt_once_a_pass() -> None:
    dealt = dealt_out(pairs_of(25), 10, 10)
    passes = [dealt[start : start + 25] for start in range(0, 100, 25)]
    assert all(sorted(one) == list(range(25)) for one in passes)
    assert len(set(map(tuple, passes))) == 4


def test_a_pair_that_weighs_more_comes_more_often() -> None:
    dealt = dealt_out(pairs_of(10, lambda k: 9.0 if k == 0 else 1.0), 20, 50)
    assert dealt.count(0) / len(dealt) == pytest.approx(0.5, abs=0.064)  # 9 of 18, four standard errors of 1,000


def test_a_module_of_a_method_ends_with_it() -> None:
    for name, module in METHODS.items():
        assert importlib.import_module(module).METHOD is load(name)
