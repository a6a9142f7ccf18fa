"""Every method: it runs to its end in little, any of its moments can be resumed, it learns what the judge likes, and it takes a plain function."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from backflip.data import Item
from backflip.errors import ConfigError, DataError
from backflip.experiments.methods import METHODS, load
from backflip.loops import asking, improving, rating
from backflip.loops.dealing import deal
from backflip.loops.parts import Parts, Trained
from backflip.loops.rating import ByOverseer
from backflip.optimise.feedme import AtLeast, FeedMEConfig, TopShare
from backflip.optimise.scores import ScoreRules
from backflip.overseers.function import FunctionOverseer
from backflip.overseers.people import PeopleOverseer
from backflip.policies.lm import LMConfig, LMPolicy
from backflip.progress import Progress
from backflip.protocols import Policy, RewardModel
from backflip.rewards.combine import FunctionReward
from backflip.rewards.comparisons import Comparison
from backflip.rewards.fit import FitConfig
from backflip.rewards.model import SequenceRewardModel
from backflip.run import Run
from backflip.worlds.text import TextWorld

WORDS = "<pad> <s> </s> the film was good bad long dull bright . and very".split()
PROMPTS = [f"the film was {word}" for word in WORDS[6:]]
GOOD = {"good", "bright", "very", "and"}
REWARDED: dict[str, Any] = {
    "members": 1, "fit": FitConfig(epochs=2, batch=16, lr=3e-3, head_lr=3e-3), "normalise_on": 16, "episodes": 32,
    "scores": ScoreRules(),
}  # fmt: skip
SMALL: dict[str, dict[str, Any]] = {
    "ppo": {"lr": 5e-3, **REWARDED},
    "reinforce": {"lr": 5e-3, **REWARDED},
    "rloo": {"lr": 5e-3, **REWARDED},
    "grpo": {"lr": 5e-3, **REWARDED},
    "dpo": {"lr": 5e-3, "pairs": 24, "updates": 12},
    "feedme": {"lr": 5e-3, **REWARDED},
    "conditional": {"lr": 1e-2, "updates": 16, **REWARDED},
    "sft": {"lr": 1e-2, "answers": 24, "updates": 12},
}
"""What each method is told here beside what all are told."""
Judge = Callable[..., float | None]


def config_of(method: str, **more: Any) -> Any:
    told: dict[str, Any] = {"comparisons": 64, "updates": 8, "save_every": 1, "check_every": 4}
    return load(method).config(**(told | SMALL[method] | more))


def tiny_policy() -> LMPolicy:
    """A fresh random Llama over a few words."""
    inner = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="film"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special: dict[str, Any] = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, **special)
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "vocab_size": len(WORDS), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 32,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "attn_implementation": "eager",
    }  # fmt: skip
    head = torch.nn.Linear(32, 1)
    return LMPolicy(LlamaForCausalLM(LlamaConfig(**shape)), tokenizer, LMConfig(max_new_tokens=6, rows=32), head)


def goodness(prompt: str, text: str) -> float:
    return float(sum(word in GOOD for word in text.split()))


def likes_good(prompt: str, a: str, b: str) -> float:
    return (np.sign(goodness("", a) - goodness("", b)) + 1) / 2


def new_run(folder: Path, config: Any) -> Run:
    run = Run.create("toy", config, root=folder.parent, seed=config.seed, folder=folder)
    run.progress = Progress(quiet=True)
    return run


def parts_of(run: Run, judge: Judge = likes_good, given: RewardModel | None = None) -> Parts:
    policy = tiny_policy()
    start = policy.reference()
    return Parts(
        policy=policy,
        world=TextWorld(PROMPTS, policy.tokenizer, group_size=2),
        overseer=FunctionOverseer(run.store, judge),
        start_reward=lambda rng: SequenceRewardModel.from_causal_lm(start.module.plain, rng),
        question="Which is better?",
        given=given,
        check=lambda policy, reward: {"looked": 1.0},
    )


def lines(run: Run, phase: str | None = None) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    kept = [row for row in rows if phase in (None, row["phase"])]
    return [{key: value for key, value in row.items() if not key.startswith("seconds")} for row in kept]


def outcome(run: Run, trained: Trained) -> tuple[Any, ...]:
    weights = {name: tensor.clone() for name, tensor in trained.policy.module.state_dict().items()}
    pairs = [(pair.first.id, pair.second.id, pair.share, pair.weight) for pair in trained.pairs]
    return weights, lines(run), pairs, trained.counts, trained.fits, trained.episodes, trained.tokens


def worth(policy: Policy) -> float:
    """Return the mean goodness of many fresh answers."""
    world = TextWorld(PROMPTS, tiny_policy().tokenizer, seed=99)
    rows = world.collect(policy, 200, np.random.default_rng(1))
    return float(np.mean([goodness("", item.content) for item in world.show(rows)]))


class Crash(Exception):
    """Stands for a kill: nothing after it runs."""


def crashing(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, times: int) -> None:
    """Let a step of the recipe fail the given time it is entered."""
    true, entered = getattr(module, name), 0

    def step(*args: Any, **more: Any) -> Any:
        nonlocal entered
        entered += 1
        if entered == times:
            raise Crash
        return true(*args, **more)

    monkeypatch.setattr(module, name, step)


def test_every_method_is_tried_here() -> None:
    assert set(SMALL) == set(METHODS)


@pytest.mark.parametrize("method", [name for name in SMALL if name != "ppo"])
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


@pytest.mark.parametrize("method", [name for name in SMALL if name != "ppo"])
def test_a_judge_and_its_opposite_teach_opposite_things(tmp_path: Path, method: str) -> None:
    config, found = config_of(method), dict[str, float]()
    before = worth(tiny_policy())
    for name, judge in (("likes", likes_good), ("hates", lambda prompt, a, b: 1 - likes_good(prompt, a, b))):
        with new_run(tmp_path / name, config) as run:
            found[name] = worth(load(method).train(parts_of(run, judge), config, run).policy)
    assert found["likes"] > before + 0.25 and found["hates"] < before - 0.25, (before, found)


LEARNS_A_REWARD = [name for name in SMALL if "members" in SMALL[name]]


@pytest.mark.parametrize("method", LEARNS_A_REWARD)
def test_a_plain_function_is_a_reward(tmp_path: Path, method: str) -> None:
    """Nobody is asked, nothing is fitted; an exception in it stops the run with its row."""
    config = config_of(method, updates=6)
    with new_run(tmp_path / "run", config) as run:
        parts = parts_of(run, lambda prompt, a, b: pytest.fail("nobody is to be asked"))
        given = FunctionReward(goodness, parts.world, "goodness")
        trained = load(method).train(parts_of(run, given=given), config, run)
        assert trained.counts["judgements"] == 0 == run.store.counts()["queries"]
        assert {row["phase"] for row in lines(run)} == {method, "check"}
        assert worth(trained.policy) > worth(tiny_policy()) + 0.2

    def fails(prompt: str, text: str) -> float:
        raise ValueError("cannot read it")

    with new_run(tmp_path / "broken", config) as run:
        given = FunctionReward(fails, parts.world, "fails")
        with pytest.raises(DataError, match=r"the reward fails failed on row 0, .*cannot read it"):
            load(method).train(parts_of(run, given=given), config, run)


@pytest.mark.parametrize("method", SMALL)
def test_a_judge_that_raises_stops_the_run(tmp_path: Path, method: str) -> None:
    def broken(prompt: str, a: str, b: str) -> float:
        raise KeyError("no such film")

    config = config_of(method)
    with new_run(tmp_path / "run", config) as run, pytest.raises(DataError, match='judge "broken" failed on query'):
        load(method).train(parts_of(run, broken), config, run)


@pytest.mark.parametrize("method", SMALL)
def test_settings_that_cannot_be_are_refused(method: str) -> None:
    with pytest.raises(ConfigError, match="updates is 0, expected 1 or more"):
        config_of(method, updates=0)


# -- FeedME on an overseer's grades --------------------------------------------------------------------------------------


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
