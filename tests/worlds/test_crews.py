"""Crews of simulations: what comes out is the same whoever simulated it, and a helper that dies is not missed."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

pytest.importorskip("mujoco")
from backflip.policies.actor_critic import ActorCritic, ActorCriticConfig
from backflip.worlds.control import ControlWorld
from backflip.worlds.crews import PATIENCE, SENT_OF_A_TASK, _write
from backflip.worlds.mujoco_tasks import TASKS


@pytest.fixture(scope="module", autouse=True)
def simulated_here() -> None:
    """Helpers come here as they do for users."""


def world_of(name: str, processes: int, environments: int = 6) -> ControlWorld:
    return ControlWorld(name, environments=environments, steps=25, seed=1, horizons=(50,), processes=processes)


def policy_of(world: ControlWorld) -> ActorCritic:
    return ActorCritic(world.features, world.actions, ActorCriticConfig(hidden=16), np.random.default_rng(0))


def same(ours: ControlWorld, theirs: ControlWorld, policy: Any, seed: int) -> None:
    count = ours.batch.count
    a, b = (world.collect(policy, count, np.random.default_rng(seed)) for world in (ours, theirs))
    for name in ("obs", "action", "logp_BT", "value_BT", "scene", "bootstrap_B"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    assert ours.state_dict() == theirs.state_dict()


@pytest.mark.parametrize("name", ["Hopper-v5", "Ant-v5"])
def test_rows_do_not_depend_on_who_simulated_them(name: str) -> None:
    alone, helped = world_of(name, 1), world_of(name, 3)
    assert len(alone.batch.crews) == 2 and alone.crews.wait_for_helpers() == 0
    assert helped.crews.wait_for_helpers() == 1, "as many helpers as crews can use, not more"
    policy = policy_of(alone)
    for seed in range(5):  # over the ends of episodes too
        same(helped, alone, policy, seed)


def test_many_environments_are_an_even_number_of_crews() -> None:
    for count, sizes in (
        (1, [1]),
        (2, [1, 1]),
        (5, [3, 2]),
        (16, [8, 8]),
        (17, [5, 4, 4, 4]),
        (40, [7, 7, 7, 7, 6, 6]),
    ):
        world = world_of("Reacher-v5", 1, environments=count)
        assert [crew.stop - crew.start for crew in world.batch.crews] == sizes
        assert [world.batch.crews[0].start, world.batch.crews[-1].stop] == [0, count]


def test_helpers_come_when_the_work_is_long_and_nobody_waits_for_them() -> None:
    alone, helped = world_of("Hopper-v5", 1), world_of("Hopper-v5", 2)
    policy = policy_of(alone)
    seed = 0
    for seed in range(PATIENCE):
        same(helped, alone, policy, seed)
    assert not helped.crews._helpers
    deadline = time.monotonic() + 60
    while not any(one.ready() for one in helped.crews._helpers) and time.monotonic() < deadline:
        seed += 1
        same(helped, alone, policy, seed)
    assert [one.ready() for one in helped.crews._helpers] == [True]
    same(helped, alone, policy, 1000)


def test_a_helper_that_was_killed_is_not_missed() -> None:
    alone, helped = world_of("Hopper-v5", 1), world_of("Hopper-v5", 2)
    policy = policy_of(alone)
    helped.crews.wait_for_helpers()
    same(helped, alone, policy, 0)
    process = helped.crews._helpers[0]._process
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    for seed in (1, 2):
        same(helped, alone, policy, seed)
    assert not helped.crews._helpers[0].ready()


class Own(ActorCritic):
    """A policy of somebody's."""

    def acting(self, rows: int, steps: int, rng: np.random.Generator) -> None:
        """Act decision by decision."""


def test_acting_for_a_whole_row_is_acting_decision_by_decision() -> None:
    fast, slow = world_of("Hopper-v5", 1), world_of("Hopper-v5", 1)
    policy = policy_of(fast)
    own = Own(fast.features, fast.actions, ActorCriticConfig(hidden=16), np.random.default_rng(0))
    for seed in range(3):
        a, b = (w.collect(p, 6, np.random.default_rng(seed)) for w, p in ((fast, policy), (slow, own)))
        for name in ("obs", "action", "logp_BT", "scene"):
            assert torch.equal(getattr(a, name), getattr(b, name)), name
        assert a.value_BT is not None and b.value_BT is not None and a.value_BT.abs().max() > 0
        assert torch.allclose(a.value_BT, b.value_BT, atol=1e-6)
        for one in (policy, own):
            one.learn_scale(a)


def test_a_policy_that_cannot_be_sent_acts_here() -> None:
    alone, helped = world_of("Hopper-v5", 1), world_of("Hopper-v5", 2)
    policy = Own(alone.features, alone.actions, ActorCriticConfig(hidden=16), np.random.default_rng(0))
    helped.crews.wait_for_helpers()
    for seed in (0, 1):
        same(helped, alone, policy, seed)


def test_products_do_not_spin_on_the_processor_that_a_helper_needs() -> None:
    """With two threads in numpy's products a row took twice as long: the second one span beside the helper."""
    world = world_of("Reacher-v5", 1)
    seen: list[int] = []

    class Watching(ActorCritic):
        def act(self, obs: Any, rng: Any) -> Any:
            seen.extend(one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas")
            return super().act(obs, rng)

        def acting(self, rows: int, steps: int, rng: Any) -> None:
            return None

    policy = Watching(world.features, world.actions, ActorCriticConfig(hidden=16), np.random.default_rng(0))
    with threadpool_limits(2, user_api="blas"):
        world.crews.rows(policy, 3, np.random.default_rng(0))
        after = {one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"}
    assert seen and set(seen) == {1}
    assert after == {2}, "and whoever came before has their threads again"


def test_what_fails_in_a_helper_is_done_here_and_does_not_cost_the_helper(monkeypatch: pytest.MonkeyPatch) -> None:
    alone, helped = world_of("Hopper-v5", 1), world_of("Hopper-v5", 2)
    policy = policy_of(alone)
    helped.crews.wait_for_helpers()
    with monkeypatch.context() as patched:
        patched.setattr(ActorCritic, "shape", lambda self: {"features": 3, "actions": 3, "hidden": 16})
        same(helped, alone, policy, 0)
    assert helped.crews._helpers[0].ready()
    asked: list[bool] = []
    real = helped.crews._helpers[0].answer
    monkeypatch.setattr(
        helped.crews._helpers[0], "answer", lambda count: (got := real(count), asked.append(got is not None))[0]
    )
    same(helped, alone, policy, 1)
    assert asked == [True], "the helper works again"


def test_a_task_that_was_made_otherwise_gets_no_helpers() -> None:
    assert world_of("Hopper-v5", 2).crews.processes == 2
    for task, processes in (
        (replace(TASKS["Hopper-v5"], turning=None), 2),
        (replace(TASKS["Hopper-v5"], frame_skip=2), 1),
    ):
        world = ControlWorld(task, environments=6, steps=25, processes=2)
        assert world.crews.processes == processes
    alone, helped = (
        ControlWorld(replace(TASKS["Hopper-v5"], turning=None), environments=6, steps=25, processes=k) for k in (1, 2)
    )
    helped.crews.wait_for_helpers()
    same(helped, alone, policy_of(alone), 0)


def test_helpers_go_when_their_world_goes() -> None:
    helped = world_of("Hopper-v5", 2)
    helped.crews.wait_for_helpers()
    process = helped.crews._helpers[0]._process
    del helped
    gc.collect()
    assert process.wait(timeout=30) is not None


def test_a_helper_whose_asker_has_gone_ends_without_a_word() -> None:
    order = {name: getattr(TASKS["Hopper-v5"], name) for name in SENT_OF_A_TASK}
    process = subprocess.Popen(
        [sys.executable, "-m", "backflip.worlds.crews"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        process.stdout.close()  # nobody will read what it says
        _write(process.stdin, order, {})
        assert process.stderr.read() == b"" and process.wait() == 0
