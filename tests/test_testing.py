"""The contract checks pass on our own parts, and each broken promise is told by its own words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from backflip import invariants
from backflip.data import PAD, Act, Episodes, Evaluation, Item, Judgement, Query
from backflip.overseers.function import FunctionOverseer
from backflip.overseers.synthetic import SyntheticTeacher, TeacherConfig
from backflip.protocols import Policy
from backflip.store import Store
from backflip.testing import check_overseer, check_policy, check_reward_model, check_world
from backflip.worlds.enumerable import EnumerableWorld, TableReward, TabularPolicy

WORLD = EnumerableWorld(prompts=3, vocabulary=4, length=3)
OBS_BP = WORLD.obs_BP(torch.arange(120) % 3)
WHOLE = TabularPolicy(WORLD, np.random.default_rng(0), temperature=0.7)
SCORE_KC = torch.randn(3, len(WORLD.completions), generator=torch.Generator().manual_seed(0))


def broken(match: str, check: Callable[[], object]) -> None:
    with pytest.raises(AssertionError, match=match):
        check()


# -- policies ----------------------------------------------------------------------------------------------------------


class Altered:
    """A sound policy, some of whose methods are replaced."""

    def __init__(self, **methods: Callable[..., Any]) -> None:
        self.methods = methods

    def act(self, obs: Tensor, rng: np.random.Generator) -> Act:
        act = WHOLE.act(obs, rng)
        return self.methods["act"](act) if "act" in self.methods else act

    def evaluate(self, episodes: Episodes) -> Evaluation:
        evaluation = WHOLE.evaluate(episodes)
        return self.methods["evaluate"](evaluation, episodes) if "evaluate" in self.methods else evaluation

    def kl_BT(self, reference: Policy, episodes: Episodes) -> Tensor:
        kl_BT = WHOLE.kl_BT(WHOLE, episodes)
        return self.methods["kl"](kl_BT, episodes) if "kl" in self.methods else kl_BT


def test_a_sound_policy_keeps_its_contract() -> None:
    check_policy(WHOLE, OBS_BP)
    check_policy(Altered(), OBS_BP)


def drawn_globally(act: Act) -> Act:
    torch.rand(1)
    return act


def drawn_twice() -> Callable[[Act], Act]:
    state = np.random.default_rng(0)
    return lambda act: replace(
        act, action=torch.where(act.mask_BT, torch.from_numpy(state.integers(0, 4, (120, 3))), PAD)
    )


def cooled(act: Act) -> Act:
    """Answers of a colder policy under the log-probabilities of the right one."""
    cold = TabularPolicy(WORLD, np.random.default_rng(0), temperature=0.3).act(OBS_BP, np.random.default_rng(0))
    rows = Episodes(OBS_BP, cold.action, cold.mask_BT, None, torch.zeros(120), torch.zeros(120, dtype=torch.long))
    return replace(cold, logp_BT=WHOLE.evaluate(rows).logp_BT.detach())


def noisy() -> Callable[[Evaluation, Episodes], Evaluation]:
    generator = torch.Generator().manual_seed(0)

    def evaluate(evaluation: Evaluation, episodes: Episodes) -> Evaluation:
        noise_BT = 1e-6 * torch.randn(episodes.mask_BT.shape, generator=generator) * episodes.mask_BT
        return replace(evaluation, logp_BT=evaluation.logp_BT + noise_BT)

    return evaluate


def of_its_batch(evaluation: Evaluation, episodes: Episodes) -> Evaluation:
    lone = 0.01 * (len(episodes) < 10) * episodes.mask_BT
    return replace(evaluation, logp_BT=evaluation.logp_BT + lone)


@pytest.mark.parametrize(
    ("altered", "match"),
    [
        ({"act": drawn_globally}, "moved a global generator"),
        ({"act": drawn_twice()}, "equal generators gave unlike actions"),
        ({"act": lambda act: replace(act, mask_BT=act.mask_BT.float())}, "mask_BT must be bool"),
        ({"act": lambda act: replace(act, ended_B=act.ended_B.float())}, "ended_B must be bool"),
        ({"act": lambda act: replace(act, logp_BT=act.logp_BT - 0.1)}, "not 0 where the mask is False"),
        ({"act": lambda act: replace(act, logp_BT=act.logp_BT * 1.1)}, "a temperature left out of one of them"),
        ({"act": lambda act: replace(act, logp_BT=act.logp_BT * torch.inf)}, "not finite"),
        ({"act": lambda act: replace(act, mask_BT=act.mask_BT & False)}, "every row must decide"),
        ({"act": cooled}, "what is sampled is not what is scored"),
        ({"evaluate": noisy()}, "evaluating twice differs"),
        ({"evaluate": of_its_batch}, "a row alone and the same row in its batch"),
        ({"evaluate": lambda e, _: replace(e, logp_BT=e.logp_BT.detach())}, "with gradients"),
        ({"evaluate": lambda e, _: replace(e, entropy_BT=e.entropy_BT + 1)}, "entropy_BT is not 0 where"),
        ({"evaluate": lambda e, _: replace(e, value_BT=e.value_BT[:, :1])}, "value_BT is"),
        ({"kl": lambda kl, e: kl + 0.01 * e.mask_BT}, "KL of the policy with itself"),
        ({"kl": lambda kl, _: kl.sum(1)}, "kl_BT must have a number"),
    ],
)  # fmt: skip
def test_a_broken_promise_of_a_policy_is_told(altered: dict[str, Any], match: str) -> None:
    broken(match, lambda: check_policy(Altered(**altered), OBS_BP))


# -- worlds ------------------------------------------------------------------------------------------------------------


def new_world() -> EnumerableWorld:
    return EnumerableWorld(prompts=3, vocabulary=4, length=3)


def test_a_sound_world_keeps_its_contract() -> None:
    check_world(new_world(), WHOLE)


class Short(EnumerableWorld):
    def collect(self, policy: Policy, n: int, rng: np.random.Generator) -> Episodes:
        return super().collect(policy, n - 1, rng)


class Silent(EnumerableWorld):
    def show(self, episodes: Episodes) -> list[Item]:
        return super().show(episodes)[1:]


class Forgetful(EnumerableWorld):
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Forget."""


class Muddled(EnumerableWorld):
    def load(self, items: Sequence[Item]) -> Episodes:
        return super().load(sorted(items, key=lambda item: item.content))


class Truncating(EnumerableWorld):
    """Loses the last decision of what it shows and loads alike, so that only the log-probabilities tell."""

    def load(self, items: Sequence[Item]) -> Episodes:
        rows = super().load(items)
        first_BT = rows.mask_BT & (torch.arange(rows.mask_BT.shape[1]) < 1)
        return replace(rows, mask_BT=first_BT)

    def show(self, episodes: Episodes) -> list[Item]:
        return super().show(replace(episodes, mask_BT=episodes.action != PAD))


class Tupled(EnumerableWorld):
    def show(self, episodes: Episodes) -> list[Item]:
        return [replace(item, payload={**item.payload, "pair": (1, 2)}) for item in super().show(episodes)]


class Raw(EnumerableWorld):
    def show(self, episodes: Episodes) -> list[Item]:
        return [replace(item, payload={**item.payload, "raw": torch.zeros(1)}) for item in super().show(episodes)]


@pytest.mark.parametrize(
    ("world", "match"),
    [
        (Short, "asked for 6 rows and gave 5"),
        (Silent, "5 items for 6 rows"),
        (Forgetful, "state_dict leaves something out"),
        (Muddled, "gives other items, or another order"),
        (Truncating, "nats otherwise than e"),
        (Tupled, "changes when it goes through JSON"),
        (Raw, "payload is not JSON"),
    ],
)
def test_a_broken_promise_of_a_world_is_told(world: type[EnumerableWorld], match: str) -> None:
    broken(match, lambda: check_world(world(prompts=3, vocabulary=4, length=3), WHOLE))


# -- reward models -----------------------------------------------------------------------------------------------------

ROWS = new_world().collect(WHOLE, 24, np.random.default_rng(1))
SOUND = TableReward(WORLD, SCORE_KC)


def test_a_sound_reward_model_keeps_its_contract() -> None:
    check_reward_model(SOUND, ROWS, last_only=True)


class Ensemble:
    def __init__(self, member: Callable[[Tensor], Tensor]) -> None:
        self.member = member

    def __call__(self, episodes: Episodes) -> Tensor:
        return SOUND(episodes)

    def members(self, episodes: Episodes) -> Tensor:
        return self.member(SOUND(episodes))


def test_an_ensemble_gives_a_number_for_every_member() -> None:
    check_reward_model(Ensemble(lambda reward_BT: torch.stack([reward_BT, reward_BT])), ROWS)
    broken("members must return", lambda: check_reward_model(Ensemble(lambda reward_BT: reward_BT), ROWS))
    broken("member's reward is not finite", lambda: check_reward_model(Ensemble(lambda r: r[None] / 0), ROWS))


@pytest.mark.parametrize(
    ("reward", "match"),
    [
        (lambda rows: SOUND(rows).sum(1), r"expected \(B, T\)"),
        (lambda rows: SOUND(rows).requires_grad_(), "no gradient"),
        (lambda rows: SOUND(rows) + 1, "not 0 where the mask is False"),
        (lambda rows: SOUND(rows) / 0, "not finite"),
        (lambda rows: SOUND(rows) - SOUND(rows).mean() * rows.mask_BT, "a row alone and the same row in its batch"),
        (lambda rows: SOUND(rows) + 0.1 * rows.mask_BT, "beside the last decision"),
        (lambda rows: torch.dropout(SOUND(rows), 0.5, True), "scoring twice differs"),
    ],
)
def test_a_broken_promise_of_a_reward_model_is_told(reward: Any, match: str) -> None:
    torch.manual_seed(1)  # for the dropout above alone
    broken(match, lambda: check_reward_model(reward, ROWS, last_only=True))


def test_a_reward_for_every_decision_is_allowed_where_it_is_not_text() -> None:
    check_reward_model(lambda episodes: episodes.mask_BT * 0.5, ROWS)


# -- overseers ---------------------------------------------------------------------------------------------------------


def queries(count: int = 6) -> list[Query]:
    items = [Item("The film", "x" * k, {"n": k}) for k in range(2 * count)]
    return [Query((items[k], items[2 * count - 1 - k]), "Which is longer?") for k in range(count)]


def length(item: Item) -> float:
    return float(len(item.content))


def test_sound_overseers_keep_their_contract(tmp_path: Path) -> None:
    with Store.open(tmp_path / "teacher.sqlite") as store:
        found = check_overseer(SyntheticTeacher(store, length), queries(), swaps=True)
        assert [judgement.answer for judgement in found] == [(0.0, 1.0)] * 6
    with Store.open(tmp_path / "skipping.sqlite") as store:
        check_overseer(SyntheticTeacher(store, length, TeacherConfig(skip=100.0)), queries(), swaps=True)
    with Store.open(tmp_path / "function.sqlite") as store:
        judge = FunctionOverseer(store, lambda prompt, a, b: float(len(a) > len(b)), name="longer")
        check_overseer(judge, queries(), swaps=True)


class Listed:
    """An overseer that keeps its answers in a list; what it answers, and how, can be altered."""

    def __init__(self, **altered: Any) -> None:
        self.altered = altered
        self.told: list[Judgement] = []

    def ask(self, queries: Sequence[Query]) -> Any:
        known = set() if self.altered.get("again") else {judgement.query_id for judgement in self.told}
        self.told += [self.judge(query) for query in queries if query.id not in known][self.altered.get("lost", 0) :]
        return self.altered.get("returned")

    def judge(self, query: Query) -> Judgement:
        better = self.altered.get("answer", lambda query: length(query.items[0]) > length(query.items[1]))(query)
        share = better if isinstance(better, tuple) or better is None else (float(better), float(not better))
        return Judgement(self.altered.get("name", query.id), "listed", share, note=self.altered.get("note", ""))

    def answers(self, since: int, wait: float = 0.0) -> tuple[list[Judgement], int]:
        if self.altered.get("restless"):
            self.told = [replace(judgement, note=judgement.note + "again") for judgement in self.told]
        return self.told[since:], since if self.altered.get("stuck") else len(self.told)


def test_the_plain_list_is_sound() -> None:
    check_overseer(Listed(), queries(), swaps=True)


@pytest.mark.parametrize(
    ("altered", "match"),
    [
        ({"returned": 3}, "ask returns nothing"),
        ({"lost": 1}, "1 of 6 queries got no answer"),
        ({"name": "0" * 32}, "not asked"),
        ({"answer": lambda query: None}, "needs a note"),
        ({"answer": lambda query: (1.0,)}, "needs 2 numbers, got 1"),
        ({"again": True}, "idempotent"),
        ({"stuck": True}, "it must grow"),
        ({"answer": lambda query: True}, "the other way round"),
        ({"restless": True}, "the same cursor must always give the same answers"),
    ],
)
def test_a_broken_promise_of_an_overseer_is_told(altered: dict[str, Any], match: str) -> None:
    broken(match, lambda: check_overseer(Listed(**altered), queries(), swaps=True))


class _Biased(TabularPolicy):
    """Samples the second half of the vocabulary twice as often as it says."""

    def act(self, obs: Tensor, rng: np.random.Generator) -> Act:
        act = super().act(obs, rng)
        low_B1 = (act.action < self.world.vocabulary // 2) & (act.action > 0)
        moved_B1 = low_B1 & torch.from_numpy(rng.random(low_B1.shape) < 0.5)
        return replace(act, action=torch.where(moved_B1, act.action + self.world.vocabulary // 2 - 1, act.action))


def test_rare_decisions_share_a_bin() -> None:
    """Of 2,000 decisions that are all as likely none is expected five times, and a bias is found all the same."""
    world = EnumerableWorld(vocabulary=2000, length=1)
    obs_BP = world.obs_BP(torch.zeros(4000, dtype=torch.long))
    policy, biased = TabularPolicy(world), _Biased(world)
    p_values = [invariants.frequency_p_value(policy, obs_BP, np.random.default_rng(seed)) for seed in range(5)]
    assert min(p_values) > 1e-3
    assert invariants.frequency_p_value(biased, obs_BP, np.random.default_rng(0)) < 1e-6
