"""The loop of clips: it goes on without answers, takes them late and out of order, and resumes to the bit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backflip.data import Judgement, Query
from backflip.errors import ConfigError
from backflip.loops import control_hearing
from backflip.loops.control import ControlLoopConfig, ControlParts, threads, train
from backflip.optimise import ppo
from backflip.policies.actor_critic import ActorCritic, ActorCriticConfig
from backflip.rewards.clips import ClipFitConfig, ClipRewards
from backflip.run import Run
from backflip.run_folder import append_lines, append_text
from backflip.store import Store
from backflip.store.lineage import Lineage
from backflip.worlds.control import ControlWorld, unpack

CONFIG = ControlLoopConfig(
    steps=1200,
    environments=2,
    row_steps=50,
    piece_steps=25,
    comparisons=20,
    ask_at_once=4,
    schedule_steps=1e3,
    ppo=replace(ControlLoopConfig().ppo, minibatches=2),
    fit=ClipFitConfig(steps=4, first_steps=8, batch=16),
    save_every=3,
    check_every=4,
)


class Judge:
    """Prefers the clip that ends further ahead; tells what it knows when `patience` updates have passed, last first."""

    def __init__(self, store: Store, patience: int = 0, skips: bool = False) -> None:
        self.store, self.patience, self.skips = store, patience, skips
        self.waiting: list[tuple[int, Judgement]] = []
        self.clock = 0
        self.stopped = False

    def ask(self, queries: Sequence[Query]) -> None:
        self.store.add_queries(queries)
        self.waiting += [(self.clock + self.patience, self.judge(query)) for query in queries]

    def answers(self, since: int, wait: float = 0.0) -> tuple[list[Judgement], int]:
        self.clock += 1
        due = [one for when, one in self.waiting if when < self.clock][::-1]
        self.waiting = [(when, one) for when, one in self.waiting if when >= self.clock]
        if due:
            self.store.add_judgements(due)
        return self.store.judgements(since)

    def judge(self, query: Query) -> Judgement:
        if self.skips:
            return Judgement(query.id, "judge", None, note="never says anything")
        first, second = (float(unpack(item.payload["scene"])[-1, 0]) for item in query.items)
        return Judgement(query.id, "judge", (1.0, 0.0) if first > second else (0.0, 1.0))


def parts_of(run: Run, config: ControlLoopConfig, judge: Any = None) -> ControlParts:
    world = ControlWorld("Hopper-v5", environments=config.environments, steps=config.row_steps, seed=config.seed)
    rngs = [np.random.default_rng([config.seed, k]) for k in range(2)]
    return ControlParts(
        world=world,
        policy=ActorCritic(world.features, world.actions, ActorCriticConfig(hidden=24), rngs[0]),
        overseer=judge or Judge(run.store),
        reward=ClipRewards(world.features, world.actions, config.fit, rngs[1]),
        clip_steps=10,
        question="which?",
        check=lambda policy, reward, rows: {"height_m": float(rows.obs[:, :, 0].mean())},
    )


def start(folder: Path, config: ControlLoopConfig = CONFIG) -> Run:
    return Run.create("control", config, root=folder.parent, seed=config.seed, folder=folder)


def metrics(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if "seconds" not in name} for row in rows]


def test_it_asks_what_was_planned_and_learns(tmp_path: Path) -> None:
    with start(tmp_path / "run") as run, threads(2):
        parts = parts_of(run, CONFIG)
        before = {name: value.clone() for name, value in parts.policy.state_dict().items()}
        at = train(parts, CONFIG, run)
        assert at.update == 12 and len(at.asked) == len(at.heard) == 20
        assert run.store.counts()["judgements"] == 20
        assert torch.get_num_threads() == 2
    rows = metrics(tmp_path / "run")
    assert [row["step"] for row in rows if row["phase"] == "control"] == list(range(1, 13))
    asked = [row["asked"] for row in rows if row["phase"] == "control"]
    assert asked[0] == 5 and asked == sorted(asked) and asked[-1] == 20  # a quarter before anything was learned
    assert max(row["held_out_n"] for row in rows if row["phase"] == "reward" and "held_out_n" in row) >= 1
    assert not torch.equal(before["actor.4"], parts.policy.state_dict()["actor.4"])
    assert [row["step"] for row in rows if row["phase"] == "check"] == [4, 8, 12]


def test_it_never_waits_and_takes_late_answers_out_of_order(tmp_path: Path) -> None:
    with start(tmp_path / "run") as run:
        judge = Judge(run.store, patience=3)
        at = train(parts_of(run, CONFIG, judge), CONFIG, run)
        assert at.update == 12 and 0 < len(at.heard) < 20  # the last ones came too late, and nobody waited
    rows = metrics(tmp_path / "run")
    control = [row for row in rows if row["phase"] == "control"]
    assert control[0]["asked"] == 5 and control[0]["answered"] == 0 and "policy_loss" not in control[0]
    assert "policy_loss" in control[-1]


def test_what_nobody_answers_in_time_is_withdrawn_and_newer_pairs_are_asked_in_its_place(tmp_path: Path) -> None:
    config = replace(CONFIG, stale_updates=2)
    with start(tmp_path / "run", config) as run:
        judge = Judge(run.store, patience=5)
        at = train(parts_of(run, config, judge), config, run)
        states = run.store.states(at.asked)
        late = {one.query_id for one in run.store.judgements_by_id(at.heard).values()}
    assert len(at.asked) - len(at.expired) == 20 and len(at.expired) >= 5 and len(at.asked_at) == len(at.asked)
    assert {states[one] for one in at.expired} <= {"expired", "answered"}
    assert late & set(at.expired)  # a late answer is learned from all the same
    rows = [row for row in metrics(tmp_path / "run") if row["phase"] == "control"]
    assert rows[1]["expired"] == 0 < rows[2]["expired"] <= rows[-1]["expired"] == len(at.expired)


def test_what_was_withdrawn_before_a_kill_is_withdrawn_after_it(tmp_path: Path) -> None:
    """Else it would count as asked, and nothing would be asked in its place."""
    config = replace(CONFIG, stale_updates=2, save_every=2)
    with start(tmp_path / "whole", config) as run:
        whole = train(parts_of(run, config, Judge(run.store, patience=99)), config, run)
    with pytest.raises(Stop), start(tmp_path / "killed", config) as run:
        train(dying(parts_of(run, config, Judge(run.store, patience=99)), 3), config, run)
    with Run.resume(tmp_path / "killed") as run:
        # written down, and killed while its clips were filmed: it never reached the store
        append_lines(run.path / "asked.jsonl", [{"id": "00", "update": 2, "held": False}])
        again = train(parts_of(run, config, Judge(run.store, patience=99)), config, run)
    assert len(whole.expired) >= 5 and again.expired == whole.expired and again.asked == whole.asked


def test_nothing_is_withdrawn_where_answers_come_in_time(tmp_path: Path) -> None:
    config = replace(CONFIG, stale_updates=1)
    with start(tmp_path / "run", config) as run:
        at = train(parts_of(run, config), config, run)
    assert not at.expired and len(at.asked) == 20


class Shy(Judge):
    """Cannot say of every other question."""

    def judge(self, query: Query) -> Judgement:
        self.skips = int(query.id[:8], 16) % 2 == 0
        return super().judge(query)


def test_the_lineage_names_those_judgements_alone_that_taught(tmp_path: Path) -> None:
    config = replace(CONFIG, steps=300, comparisons=12)
    with start(tmp_path / "run", config) as run:
        at = train(parts_of(run, config, Shy(run.store)), config, run)
        lineage = Lineage(run.store)
        taught = run.store.judgements_by_id(lineage.teachers_of(lineage.models()[-1].id)).values()
    assert 0 < at.unanswered < 12 and all(one.answer is not None for one in taught)
    assert {one.query_id for one in taught} & set(at.held) == set() and 0 < len(taught) <= 12 - at.unanswered


def test_a_judge_who_always_skips_teaches_nothing_and_breaks_nothing(tmp_path: Path) -> None:
    with start(tmp_path / "run") as run:
        parts = parts_of(run, CONFIG, Judge(run.store, skips=True))
        before = [value.clone() for value in parts.policy.parameters()]
        at = train(parts, CONFIG, run)
        assert (at.unanswered, at.ties, len(at.heard)) == (20, 0, 20)
        assert all(torch.equal(a, b) for a, b in zip(before, parts.policy.parameters(), strict=True))
    assert not [row for row in metrics(tmp_path / "run") if row["phase"] == "reward"]


def test_answers_that_are_only_measured_teach_nothing_yet(tmp_path: Path) -> None:
    config = replace(CONFIG, comparisons=1, fit=replace(CONFIG.fit, held_out=0.9))
    with start(tmp_path / "run", config) as run:
        at = train(parts_of(run, config), config, run)
        told = run.store.judgements_by_id(at.heard).values()
        assert at.held == [one.query_id for one in told] == at.asked and len(at.asked) == 1
    assert not [row for row in metrics(tmp_path / "run") if row["phase"] == "reward"]


class Stop(Exception):
    """Stands for a kill."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[ControlParts, list[dict[str, Any]]]:
    """What a run that nobody killed ends with, and what it logged."""
    folder = tmp_path_factory.mktemp("control") / "whole"
    with start(folder) as run:
        parts = parts_of(run, CONFIG)
        train(parts, CONFIG, run)
    return parts, metrics(folder)


@pytest.mark.parametrize("after", [1, 3, 4, 8, 11])
def test_killed_and_resumed_it_ends_with_the_same_numbers(
    tmp_path: Path, undisturbed: tuple[ControlParts, list[dict[str, Any]]], after: int
) -> None:
    whole, logged = undisturbed
    with pytest.raises(Stop), start(tmp_path / "killed") as run:
        train(dying(parts_of(run, CONFIG), after), CONFIG, run)
    with Run.resume(tmp_path / "killed") as run:
        again = parts_of(run, CONFIG)
        train(again, CONFIG, run)
    for name, value in whole.policy.state_dict().items():
        assert torch.equal(value, again.policy.state_dict()[name]), name
    for name, value in whole.reward.state_dict().items():
        assert torch.equal(value, again.reward.state_dict()[name]), name
    assert logged == metrics(tmp_path / "killed")


class Two(Judge):
    """Two people who judge every pair at once; the second is wrong in three of ten."""

    def ask(self, queries: Sequence[Query]) -> None:
        self.store.add_queries(queries)
        for query in queries:
            told = self.judge(query)
            assert told.answer is not None
            other = told.answer[::-1] if int(query.id[:8], 16) % 10 < 3 else told.answer
            answers = (told.answer, other)
            self.store.add_judgements([Judgement(query.id, f"person:{n}", one) for n, one in enumerate(answers)])


def dying(parts: ControlParts, after: int) -> ControlParts:
    """Stop like a kill in the update after so many."""
    real, done = parts.policy.learn_scale, 0

    def dies(rows: Any) -> None:
        nonlocal done
        done += 1
        if done > after:
            raise Stop
        real(rows)

    parts.policy.learn_scale = dies  # type: ignore[method-assign]
    return parts


def test_people_weigh_after_a_kill_what_they_weighed_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are weighed anew when there are a tenth more answers; here one pair comes at a time, to sixteen."""
    monkeypatch.setattr(
        control_hearing, "person_weights", lambda store, *_: {"person:1": 1 / store.counts()["judgements"]}
    )
    config = replace(CONFIG, steps=600, first_share=0.8, ask_at_once=1, save_every=2)
    with start(tmp_path / "whole", config) as run:
        whole = train(parts_of(run, config, Two(run.store)), config, run)
    with pytest.raises(Stop), start(tmp_path / "killed", config) as run:
        train(dying(parts_of(run, config, Two(run.store)), 4), config, run)
    with Run.resume(tmp_path / "killed") as run:
        again = train(parts_of(run, config, Two(run.store)), config, run)
    assert whole.weighed_at >= 32 and (again.weight, again.weighed_at) == (whole.weight, whole.weighed_at)
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "killed")


def test_killed_while_answers_are_on_their_way_every_one_of_them_teaches_in_the_end(tmp_path: Path) -> None:
    config = replace(CONFIG, steps=CONFIG.steps * 2, comparisons=40, save_every=20, stale_updates=0)
    with pytest.raises(Stop), start(tmp_path / "run", config) as run:
        train(dying(parts_of(run, config, Judge(run.store, patience=3)), 15), config, run)
    before = Store.open(tmp_path / "run" / "store.sqlite", "read")
    told, _ = before.judgements(0)
    before.close()
    append_text(tmp_path / "run" / "asked.jsonl", '{"id": "to')
    with Run.resume(tmp_path / "run") as run:
        judge = Judge(run.store, patience=3)
        at = train(parts_of(run, config, judge), config, run)
        heard = {one.query_id for one in run.store.judgements_by_id(at.heard).values()}
        asked = [row["id"] for row in map(json.loads, (run.path / "asked.jsonl").read_text().splitlines())]
    assert len(told) >= 5 and {one.query_id for one in told} <= heard
    assert len(at.asked) == len(set(at.asked)) == len(at.asked_at) and set(at.asked) == set(asked)
    assert set(at.held) <= set(at.asked)


def test_a_person_who_goes_away_stops_it_cleanly(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), start(tmp_path / "run") as run:
        judge = Judge(run.store)
        judge.stopped = True
        train(parts_of(run, CONFIG, judge), CONFIG, run)


def test_bad_settings_are_one_line() -> None:
    for wrong in (
        {"steps": 0},
        {"comparisons": 0},
        {"first_share": 0.0},
        {"first_share": 1.5},
        {"wait_seconds": -1.0},
        {"older_share": 1.1},
        {"piece_steps": 60},
        {"environments": 1, "piece_steps": 125},
    ):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            ControlLoopConfig(**wrong)  # type: ignore[arg-type]


def test_a_given_reward_asks_nobody_and_teaches(tmp_path: Path) -> None:
    with start(tmp_path / "run") as run:
        parts = replace(parts_of(run, CONFIG), given=lambda rows: rows.obs[:, 1:, 5].double())
        before = parts.policy.actor[4].detach().clone()
        at = train(parts, CONFIG, run)
        assert at.asked == at.heard == [] and run.store.counts()["queries"] == 0
        assert not torch.equal(before, parts.policy.actor[4])
    rows = [row for row in metrics(tmp_path / "run") if row["phase"] == "control"]
    assert all(abs(row["reward_sum_mean"]) < 1e-3 and row["given_std"] > 0 for row in rows)


def test_the_entropy_bonus_falls_to_nothing_over_the_last_updates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CONFIG, settle=0.5, ppo=replace(CONFIG.ppo, entropy_coef=0.4))
    seen: list[float] = []
    plain = ppo.update

    def watched(*args: Any) -> dict[str, float]:
        seen.append(args[4].entropy_coef)
        return plain(*args)

    monkeypatch.setattr(ppo, "update", watched)
    with Run.create("control", config, root=tmp_path, seed=0) as run:
        train(parts_of(run, config), config, run)
    assert config.updates == 12 and len(seen) == 12
    assert seen == pytest.approx([0.4] * 6 + [0.4 * k / 6 for k in (6, 5, 4, 3, 2, 1)])
    with pytest.raises(ConfigError, match="settle is 2"):
        replace(CONFIG, settle=2.0)


def test_no_clip_of_a_held_out_question_is_learned_from_in_whole_or_in_part(tmp_path: Path) -> None:
    config = replace(CONFIG, environments=4, comparisons=30, older_share=0.5, fit=replace(CONFIG.fit, held_out=0.3))
    with Run.create("control", config, root=tmp_path, seed=0) as run:
        at = train(parts_of(run, config), config, run)
        questions = run.store.queries_by_id(at.asked)
    assert len(at.asked) == len(set(at.asked)) == 30 and len(at.held) == 9

    def states(ids: list[str]) -> set[bytes]:
        scenes = [unpack(item.payload["scene"]) for one in ids for item in questions[one].items]
        return {state.tobytes() for scene in scenes for state in scene}

    held, learned = states(at.held), states([one for one in at.asked if one not in at.held])
    assert held and learned and not held & learned


def test_the_first_questions_do_not_wait_for_a_batch(tmp_path: Path) -> None:
    config = replace(CONFIG, comparisons=12, first_share=0.25, ask_at_once=10)
    with Run.create("control", config, root=tmp_path, seed=0) as run:
        train(parts_of(run, config), config, run)
        rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    asked = [row["asked"] for row in rows if row["phase"] == "control"]
    assert asked[0] == 3 and asked[-1] == 12
