"""Every method: it runs to its end in little, any of its moments can be resumed, it learns what the judge likes, and it takes a plain function."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
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
from backflip.loops import asking, improving
from backflip.loops.choosing import Asking, choose
from backflip.loops.dealing import deal
from backflip.loops.parts import Parts, Trained
from backflip.measures.kl import kl_columns
from backflip.optimise.scores import ScoreRules
from backflip.overseers.function import FunctionOverseer
from backflip.policies.best_of import BestOfN, load_used
from backflip.policies.lm import LMConfig, LMPolicy
from backflip.progress import Progress
from backflip.protocols import Policy, RewardModel
from backflip.rewards.combine import FunctionReward
from backflip.rewards.comparisons import Comparison
from backflip.rewards.fit import FitConfig
from backflip.rewards.model import SequenceRewardModel
from backflip.run import Run
from backflip.worlds.text import TextWorld, answer, pad_left

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
    "nash_md": {"lr": 5e-3, **{name: REWARDED[name] for name in ("members", "fit", "episodes", "scores")}},
    "best_of_n": {"best_of": 8, **{name: REWARDED[name] for name in ("members", "fit", "normalise_on")}},
}
"""What each method is told here beside what all are told."""
UPDATED = [name for name in SMALL if name != "best_of_n"]
"""Those that train the policy."""
Judge = Callable[[str, str, str], float | None]


def config_of(method: str, **more: Any) -> Any:
    told: dict[str, Any] = {"comparisons": 64}
    if method in UPDATED:
        told |= {"updates": 8, "save_every": 1, "check_every": 4}
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


@pytest.mark.parametrize("method", SMALL)
def test_a_judge_that_raises_stops_the_run(tmp_path: Path, method: str) -> None:
    def broken(prompt: str, a: str, b: str) -> float:
        raise KeyError("no such film")

    config = config_of(method)
    with new_run(tmp_path / "run", config) as run, pytest.raises(DataError, match='judge "broken" failed on query'):
        load(method).train(parts_of(run, broken), config, run)


@pytest.mark.parametrize("method", UPDATED)
def test_settings_that_cannot_be_are_refused(method: str) -> None:
    with pytest.raises(ConfigError, match="updates is 0, expected 1 or more"):
        config_of(method, updates=0)


# -- choosing ---------------------------------------------------------------------------------------------------------------


def test_best_of_n_killed_between_its_rounds_ends_as_if_nothing_had_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its questions of the second round are those on which the models of the first disagree."""
    config = config_of("best_of_n", rounds=2, members=2, queries="disagreement", candidates=2)
    found: list[tuple[Any, ...]] = []
    for name in ("whole", "killed"):
        with monkeypatch.context() as patch:
            if name == "killed":
                crashing(patch, asking, "gather", 2)
                with pytest.raises(Crash), new_run(tmp_path / name, config) as run:
                    load("best_of_n").train(parts_of(run), config, run)
        with Run.resume(tmp_path / name) if name == "killed" else new_run(tmp_path / name, config) as run:
            run.progress = Progress(quiet=True)
            trained = load("best_of_n").train(parts_of(run), config, run)
            queries = run.store.queries_by_id(asking_of_run(run))
            found.append((*outcome(run, trained)[1:], worth(trained.policy)))
    assert found[0] == found[1]
    assert {query.reason for query in queries.values()} == {"random", "disagreement"}
    assert all(tensor.equal(before) for tensor, before in same_weights(trained.policy))


def asking_of_run(run: Run) -> list[str]:
    return json.loads((run.path / "results" / "asked.json").read_text())["asked"]


def same_weights(policy: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return every weight of a policy beside that of the one that was started from."""
    return list(
        zip(policy.module.model.state_dict().values(), tiny_policy().module.model.state_dict().values(), strict=True)
    )


def test_best_of_n_has_no_tokens_to_train_on_and_a_bound_for_its_kl(tmp_path: Path) -> None:
    policy = tiny_policy()
    world = TextWorld(PROMPTS, policy.tokenizer)
    chosen = BestOfN(policy, FunctionReward(goodness, world), 4)
    rows = world.collect(chosen, 40, np.random.default_rng(0))
    assert rows.logp_BT is not None and rows.logp_BT[rows.mask_BT].isnan().all()
    assert chosen.kl_bound_nats == pytest.approx(np.log(4) - 3 / 4)
    for refused in (chosen.evaluate, lambda rows: chosen.kl_BT(policy, rows)):
        with pytest.raises(ConfigError, match=r"best of n has no .*: it chooses whole answers"):
            refused(rows)
    table = kl_columns(chosen, policy, rows)
    assert table["kl_is_bound"] and table["kl_nats_per_sequence"].value == chosen.kl_bound_nats
    chosen.save(tmp_path / "policy-0")
    with pytest.raises(DataError, match="a Python function; without it nobody can choose"):
        load_used(tmp_path / "policy-0")
    with pytest.raises(ConfigError, match="best_of is 0"):
        BestOfN(policy, FunctionReward(goodness, world), 0)


def test_best_of_n_takes_the_best_of_what_the_policy_says(tmp_path: Path) -> None:
    """The same draws, chosen by hand; and read back from its run it says the same."""
    policy = tiny_policy()
    world = TextWorld(PROMPTS, policy.tokenizer)
    chosen = BestOfN(policy, FunctionReward(goodness, world), 4)
    obs = pad_left(world.tokens)
    act = chosen.act(obs, np.random.default_rng(7))
    every = answer(
        policy, obs.repeat_interleave(4, 0), torch.arange(len(obs)).repeat_interleave(4), np.random.default_rng(7)
    )
    score = [goodness("", item.content) for item in world.show(every)]
    for row in range(len(obs)):
        best = max(range(4 * row, 4 * row + 4), key=lambda place: score[place])
        width = min(act.action.shape[1], every.action.shape[1])
        assert torch.equal(act.action[row, :width], every.action[best, :width])
    config = config_of("best_of_n")
    with new_run(tmp_path / "run", config) as run:
        trained = load("best_of_n").train(parts_of(run), config, run)
        run.checkpoint("policy", trained.updates, trained.policy.save)
    again = load_used(run.path / "checkpoints" / "policy-0")
    assert isinstance(again, BestOfN) and again.n == 8 and worth(again) == worth(trained.policy)


@pytest.mark.parametrize("wrong", [{"rounds": 1}, {"members": 1}])
@pytest.mark.parametrize("method", ["ppo", "rloo", "best_of_n"])
def test_disagreement_needs_models_that_disagree(method: str, wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="queries is mixed with"):
        config_of(method, **({"queries": "mixed", "rounds": 2, "members": 2} | wrong))


def test_the_most_disputed_pairs_are_asked_about(tmp_path: Path) -> None:
    """Two models that differ in what they make of one word disagree most where one answer of two has it."""
    policy = tiny_policy()
    world = TextWorld(PROMPTS, policy.tokenizer, group_size=2)
    rows = world.collect(policy, 80, np.random.default_rng(0))

    class Counting:
        def __init__(self, sign: float) -> None:
            self.sign = sign

        def score_B(self, episodes: Any) -> torch.Tensor:
            return torch.tensor([self.sign * item.content.split().count("bad") for item in world.show(episodes)])

    models: Any = [Counting(1.0), Counting(-1.0)]
    said = [item.content.split().count("bad") for item in world.show(rows)]
    apart = {place: abs(said[2 * place] - said[2 * place + 1]) for place in range(40)}
    picked = choose(Asking("disagreement", 4, models), rows, 5)
    assert [apart[place] for place, _ in picked] == sorted(apart.values(), reverse=True)[:5]
    mixed = choose(Asking("mixed", 4, models), rows, 5)
    assert mixed[:3] == [(0, "random"), (1, "random"), (2, "random")]
    assert [why for _, why in mixed[3:]] == ["disagreement"] * 2 and all(place >= 3 for place, _ in mixed[3:])
    assert choose(Asking("random", 4, ()), rows, 3) == mixed[:3]


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
