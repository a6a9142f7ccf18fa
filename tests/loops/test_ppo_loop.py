"""The recipe: its bookkeeping laws, what it hears from slow and silent overseers, and that any of its moments can be resumed."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backflip.data import Item, Judgement, Query
from backflip.errors import DataError
from backflip.loops import asking, fitting, improving
from backflip.loops import ppo as loop
from backflip.loops.answers import gather
from backflip.loops.asking import pair_up
from backflip.loops.parts import Parts, Trained
from backflip.loops.ppo import PPOLoopConfig, train
from backflip.loops.stop import StopRules
from backflip.measures.stats import permutation_test
from backflip.optimise.kl import FixedKL
from backflip.overseers.function import FunctionOverseer
from backflip.progress import Progress
from backflip.rewards.fit import FitConfig
from backflip.rewards.model import SequenceRewardModel
from backflip.run import Run
from backflip.store import Store
from backflip.store.lineage import Lineage
from backflip.worlds.text import TextWorld

from .toy import PROMPTS, Crash, Judge, crashing, goodness, likes_good, lines, new_run, tiny_policy

TINY = PPOLoopConfig(
    comparisons=12,
    members=1,
    fit=FitConfig(batch=8, held_out=0.2),
    normalise_on=12,
    updates=4,
    episodes=8,
    lr=3e-3,
    save_every=1,
    check_every=2,
)


def parts_of(run: Run, judge: Judge = likes_good, check: Any = None, overseer: Any = None) -> Parts:
    policy = tiny_policy()
    start = policy.reference()
    return Parts(
        policy=policy,
        world=TextWorld(PROMPTS, policy.tokenizer, group_size=2),
        overseer=overseer or FunctionOverseer(run.store, judge),
        start_reward=lambda rng: SequenceRewardModel.from_causal_lm(start.module.plain, rng),
        question="Which is better?",
        check=check,
    )


def questions_of(count: int) -> list[Query]:
    items = [Item("the film", f"answer {k}", {"answer_text": f"answer {k}"}) for k in range(2 * count)]
    return pair_up(items, "Which is better?", np.random.default_rng(0))


# -- hearing the overseer ------------------------------------------------------------------------------------------------


class Late:
    """Answers the question at place k only after `answers` was called `delays[k]` times; inf: never."""

    def __init__(self, store: Store, delays: Sequence[float], silent: Sequence[int] = ()) -> None:
        self.store, self.silent = store, set(silent)
        self.delays: Sequence[float] = delays
        self.asked: list[Query] = []
        self.calls = 0
        self.stopped = False

    def ask(self, queries: Sequence[Query]) -> None:
        known = {query.id for query in self.asked}
        self.asked += [query for query in queries if query.id not in known]
        self.store.add_queries(queries)

    def answers(self, since: int, wait: float = 0.0) -> tuple[list[Judgement], int]:
        self.calls += 1
        due = [k for k, delay in enumerate(self.delays[: len(self.asked)]) if delay <= self.calls]
        self.store.add_judgements(
            Judgement(self.asked[k].id, "late", None, note="cannot say")
            if k in self.silent
            else Judgement(self.asked[k].id, "late", (1.0, 0.0))
            for k in due
        )
        return self.store.judgements(since)


def test_answers_are_waited_for_and_none_is_an_answer(tmp_path: Path) -> None:
    with new_run(tmp_path / "run", TINY) as run:
        overseer, asked = Late(run.store, [1, 4, 2, 3], silent=[2]), questions_of(4)
        answers = gather(overseer, asked, TINY, run)
    assert [answer.query_id for answer in answers] == [query.id for query in asked]
    assert [answer.answer for answer in answers] == [(1.0, 0.0), (1.0, 0.0), None, (1.0, 0.0)]
    assert overseer.calls == 4


def test_without_waiting_what_is_there_is_heard(tmp_path: Path) -> None:
    with new_run(tmp_path / "run", TINY) as run:
        overseer, asked = Late(run.store, [1, math.inf, 1]), questions_of(3)
        answers = gather(overseer, asked, replace(TINY, wait_seconds=0), run)
        assert [answer.query_id for answer in answers] == [asked[0].id, asked[2].id]
        assert overseer.calls == 1
        # later the rest: those that came first are not asked for again, and are heard again
        overseer.delays = [1, 1, 1]
        answers = gather(overseer, asked, replace(TINY, wait_seconds=0), run)
        assert [answer.query_id for answer in answers] == [query.id for query in asked]


def test_waiting_ends(tmp_path: Path) -> None:
    with new_run(tmp_path / "run", TINY) as run:
        overseer = Late(run.store, [1, math.inf])
        began = time.monotonic()
        answers = gather(overseer, questions_of(2), replace(TINY, wait_seconds=0.05), run)
        assert len(answers) == 1 and time.monotonic() - began >= 0.05


def test_a_person_who_leaves_stops_the_run(tmp_path: Path) -> None:
    with new_run(tmp_path / "run", TINY) as run:
        overseer = Late(run.store, [1, math.inf])
        overseer.stopped = True
        with pytest.raises(KeyboardInterrupt):
            gather(overseer, questions_of(2), TINY, run)
        assert run.store.counts()["answered"] == 1


# -- the recipe ---------------------------------------------------------------------------------------------------------


def test_a_second_round_uses_the_answers_of_both(tmp_path: Path) -> None:
    config = replace(TINY, rounds=2)
    with new_run(tmp_path / "run", config) as run:
        trained = train(parts_of(run), config, run)
        asked, _ = run.store.queries()
        assert len(asked) == len({query.id for query in asked}) <= 12
        assert [row["judgements"] for row in lines(run, "ask")][-1] == len(asked) == trained.counts["judgements"]
        assert 0 < lines(run, "ask")[0]["judgements"] < len(asked)
        assert len(trained.pairs) == len(asked)
        assert [row["step"] for row in lines(run, "ppo")] == [1, 2, 3, 4]
        assert {row["round"] for row in lines(run, "reward")} == {0.0, 1.0}
        assert [path.name for path in run.checkpoints("reward_model")] == ["reward_model-0", "reward_model-1"]
        # the second round's answers are those of a policy that has learned: drawn from other weights
        assert trained.episodes == 24 + 4 * 8


def test_answers_that_come_late_are_used_in_the_next_round(tmp_path: Path) -> None:
    config = replace(TINY, rounds=2, wait_seconds=0)
    with new_run(tmp_path / "run", config) as run:
        overseer = Late(run.store, [1, 1, 1, 2, 2, math.inf] + [1] * 6, silent=[1])
        trained = train(parts_of(run, overseer=overseer), config, run)
        rounds = [(row["judgements"], row["unanswered"]) for row in lines(run, "ask")]
        count = len(overseer.asked)
        assert rounds == [(3, 1), (count - 1, 1)]
        lineage = Lineage(run.store)
        taught = run.store.judgements_by_id(lineage.teachers_of(lineage.models()[-1].id)).values()
        assert len(taught) == len(trained.pairs) and all(one.answer is not None for one in taught), (
            "can't tell teaches nothing"
        )
        used = {pair.first.id for pair in trained.pairs}
        assert overseer.asked[3].items[0].id in used and overseer.asked[5].items[0].id not in used


def test_nobody_answers(tmp_path: Path) -> None:
    with new_run(tmp_path / "run", TINY) as run, pytest.raises(DataError, match="nobody answered a single question"):
        train(parts_of(run, lambda prompt, a, b: None), TINY, run)


def test_a_question_asked_twice_counts_once(tmp_path: Path) -> None:
    """A policy that writes one token of fourteen repeats itself."""
    config = replace(TINY, comparisons=80, updates=1)
    with new_run(tmp_path / "run", config) as run:
        parts = parts_of(run)
        policy = parts.policy
        policy.config = replace(policy.config, max_new_tokens=1)
        trained = train(parts, config, run)
        told = run.store.counts()["judgements"]
        assert told == len(run.store.queries()[0]) == len(trained.pairs) == trained.counts["judgements"] < 80


def test_judgements_are_never_more_than_allowed(tmp_path: Path) -> None:
    config = replace(TINY, rounds=2, stop=StopRules(judgements=5))
    with new_run(tmp_path / "run", config) as run:
        train(parts_of(run), config, run)
        assert run.store.counts()["queries"] <= 5


@pytest.mark.parametrize(
    ("stop", "said"),
    [
        (StopRules(kl_nats_per_sequence=-1e9), "the KL estimate"),
        (StopRules(minutes=0.0), "0 minutes are over"),
    ],
    ids=["kl", "minutes"],
)
def test_stop_rules_end_a_round_and_the_end_is_looked_at(tmp_path: Path, stop: StopRules, said: str) -> None:
    config = replace(TINY, rounds=2, stop=stop, check_every=100)
    with new_run(tmp_path / "run", config) as run:
        train(parts_of(run, check=lambda policy, reward: {"looked": 1.0}), config, run)
        assert [row["step"] for row in lines(run, "ppo")] == [1, 3]  # the first update of each round
        assert [row["step"] for row in lines(run, "check")] == [0, 1, 3]
        assert said in (run.path / "notes.jsonl").read_text()


# -- resuming ------------------------------------------------------------------------------------------------------------


def outcome(run: Run, trained: Trained, parts: Parts) -> tuple[Any, ...]:
    weights = {name: tensor.clone() for name, tensor in parts.policy.module.state_dict().items()}
    pairs = [(pair.first.id, pair.second.id, pair.share, pair.weight) for pair in trained.pairs]
    return (
        weights,
        lines(run),
        pairs,
        trained.counts,
        trained.fits,
        trained.episodes,
        trained.tokens,
        run.store.counts(),
    )


MOMENTS = {"pair_up": asking, "gather": asking, "fit_reward": fitting, "improve": loop, "stopped": improving}
"""Steps of the recipe that fail the given time they are entered."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    config = replace(TINY, rounds=2, comparisons=40)
    with new_run(tmp_path_factory.mktemp("whole") / "run", config) as run:
        parts = parts_of(run, check=lambda policy, reward: {"looked": 1.0})
        parts.policy.config = replace(parts.policy.config, max_new_tokens=2)  # it repeats itself across rounds
        return outcome(run, train(parts, config, run), parts)


@pytest.mark.parametrize("time_entered", [1, 2])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_crash_anywhere_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: tuple[Any, ...], moment: str, time_entered: int
) -> None:
    config = replace(TINY, rounds=2, comparisons=40)

    def attempt(run: Run) -> tuple[Any, ...]:
        parts = parts_of(run, check=lambda policy, reward: {"looked": 1.0})
        parts.policy.config = replace(parts.policy.config, max_new_tokens=2)
        return outcome(run, train(parts, config, run), parts)

    crashing(monkeypatch, MOMENTS[moment], moment, time_entered)
    with pytest.raises(Crash), new_run(tmp_path / "run", config) as run:
        attempt(run)
    with Run.resume(tmp_path / "run") as run:
        run.progress = Progress(quiet=True)
        again = attempt(run)
    assert all(torch.equal(tensor, again[0][name]) for name, tensor in whole[0].items())
    assert again[1:] == whole[1:]


def test_a_run_reads_back_its_own_questions_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store may be shared: what others asked before is not taken for this run's."""
    config = replace(TINY, updates=2)

    def crash(*args: object) -> None:
        raise Crash

    others = questions_of(7)
    with pytest.raises(Crash), new_run(tmp_path / "run", config) as run:
        FunctionOverseer(run.store, likes_good).ask(others)
        monkeypatch.setattr(loop, "improve", crash)
        train(parts_of(run), config, run)
    monkeypatch.undo()
    with Run.resume(tmp_path / "run") as run:
        run.progress = Progress(quiet=True)
        trained = train(parts_of(run), config, run)
        strangers = {item.id for query in others for item in query.items}
        assert len(trained.pairs) == trained.counts["judgements"] > 7
        assert not strangers & {pair.first.id for pair in trained.pairs}


# -- learning -----------------------------------------------------------------------------------------------------------


def gain(folder: Path, seed: int, judge: Judge) -> float:
    """Return by how many good words an answer the policy's answers improved, on many fresh answers."""
    config = replace(
        TINY, seed=seed, comparisons=96, normalise_on=32, updates=10, episodes=48, kl=FixedKL(0.01), save_every=100, check_every=100,
        lr=5e-3, fit=FitConfig(epochs=4, batch=16, lr=3e-3, head_lr=3e-3),
    )  # fmt: skip
    with new_run(folder, config) as run:
        parts = parts_of(run, judge)
        world = TextWorld(PROMPTS, parts.policy.tokenizer, seed=99)
        before = world.collect(parts.policy, 200, np.random.default_rng(1))
        train(parts, config, run)
        after = world.collect(parts.policy, 200, np.random.default_rng(1))
        worth = [float(np.mean([goodness("", item.content) for item in world.show(rows)])) for rows in (before, after)]
    return worth[1] - worth[0]


def test_a_judge_teaches_and_a_coin_does_not(tmp_path: Path) -> None:
    """The whole recipe from comparisons alone, over five seeds, against the same recipe with answers that say nothing."""
    coins = [np.random.default_rng([7, seed]) for seed in range(5)]
    taught = [gain(tmp_path / f"oracle-{seed}", seed, likes_good) for seed in range(5)]
    untaught = [
        gain(tmp_path / f"coin-{seed}", seed, lambda prompt, a, b, coin=coin: float(coin.integers(2)))
        for seed, coin in enumerate(coins)
    ]
    assert permutation_test(taught, untaught, np.random.default_rng(0)) < 0.05
    assert min(taught) > 0.3
