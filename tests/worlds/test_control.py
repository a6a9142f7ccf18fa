"""The control world: equal to Gymnasium to the bit, a world in every promise, and clips that come back as they were."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backflip.data import Item
from backflip.errors import ConfigError, DataError
from backflip.measures.control_truth import Step, ended, gymnasium_reward
from backflip.optimise.returns import gae
from backflip.policies.actor_critic import ActorCritic, ActorCriticConfig
from backflip.testing import check_policy, check_world
from backflip.worlds.control import ControlWorld, cut, pack, pieces, unpack
from backflip.worlds.mujoco_batch import MujocoBatch
from backflip.worlds.mujoco_tasks import TASKS, find_task

HOPPER = "Hopper-v5"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MuJoCo writes what it has to say of a body into a file of the current folder."""
    monkeypatch.chdir(tmp_path)


def world_and_policy(environments: int = 4, steps: int = 50, seed: int = 0) -> tuple[ControlWorld, ActorCritic]:
    world = ControlWorld(HOPPER, environments=environments, steps=steps, seed=seed)
    return world, ActorCritic(world.features, world.actions, ActorCriticConfig(), np.random.default_rng(seed))


@pytest.mark.parametrize("name", TASKS)
def test_equal_to_gymnasium_to_the_bit(name: str) -> None:
    """Observations, rewards and ends over 1,000 steps of random actions, through contacts, crew by crew, and after a saved state."""
    gymnasium: Any = pytest.importorskip("gymnasium")
    task = TASKS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = [gymnasium.make(name).unwrapped for _ in range(3)]
    ours = MujocoBatch(task, 3)
    for place, one in enumerate(theirs):
        one.reset(seed=place)
        ours.place(place, one.data.qpos.copy(), one.data.qvel.copy())
    assert task.seconds_a_step == theirs[0].dt
    later = MujocoBatch(task, 3)
    rng = np.random.default_rng(0)
    contacts = ends = 0
    for step in range(1000):
        action_EA = rng.uniform(ours.low_A, ours.high_A, (3, len(ours.low_A)))
        before = ours.scene_ES.copy()
        for crew in ours.crews:
            ours.step(action_EA[crew], crew)
        scene_ES = ours.scene_ES
        seen, over = task.observe(scene_ES), ended(task, scene_ES)
        reward = gymnasium_reward(Step(task, before, scene_ES, action_EA))
        for place, one in enumerate(theirs):
            expected, worth, end, _, _ = one.step(action_EA[place])
            contacts += int(one.data.ncon > 0)
            ends += int(end)
            assert np.array_equal(seen[place], expected), f"step {step} of environment {place}"
            assert reward[place] == worth and over[place] == end, f"step {step} of environment {place}"
        if step == 500:
            later.restore(ours.state())
        elif step > 500:
            assert np.array_equal(later.step(action_EA), scene_ES)
    if name in (HOPPER, "Walker2d-v5", "HalfCheetah-v5", "Ant-v5"):
        assert contacts > 100  # or the test would say nothing of contacts
    if name not in ("HalfCheetah-v5", "Swimmer-v5", "Reacher-v5"):
        assert 0 < ends < 3000


@pytest.mark.parametrize("name", TASKS)
def test_episodes_begin_as_gymnasium_lets_them(name: str) -> None:
    """Equal first and second moments of the first states: 400 of theirs against 400 of ours."""
    gymnasium: Any = pytest.importorskip("gymnasium")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one = gymnasium.make(name).unwrapped
    theirs = np.stack([one.reset(seed=seed)[0] for seed in range(400)])
    batch = MujocoBatch(TASKS[name], 400)
    batch.reset(list(range(400)), np.random.default_rng(0))
    ours = TASKS[name].observe(batch.scene_ES)
    spread = np.sqrt((theirs.var(0) + ours.var(0)) / 400) + 1e-12
    assert (np.abs(theirs.mean(0) - ours.mean(0)) / spread).max() < 5
    assert np.abs(theirs.std(0) - ours.std(0)).max() <= 0.25 * max(theirs.std(0).max(), 1e-12)


def test_it_keeps_the_promises_of_a_world_and_its_policy_those_of_a_policy() -> None:
    world, policy = world_and_policy()
    check_world(world, policy, rows=8)
    rows = world.collect(policy, 4, np.random.default_rng(0))
    check_policy(policy, rows.obs[:, :1].repeat(16, 1, 1))


def test_rows_go_on_until_the_horizon_and_never_cross_it() -> None:
    world, policy = world_and_policy(environments=2, steps=500)
    world.collect(policy, 2, np.random.default_rng(0))
    second = world.collect(policy, 2, np.random.default_rng(1))
    third = world.collect(policy, 2, np.random.default_rng(2))
    assert second.scene is not None and third.scene is not None
    # environment 0 had a whole episode; environment 1 began as if half of one were over
    assert not torch.equal(second.scene[0, -1], third.scene[0, 0])
    assert torch.equal(second.scene[1, -1], third.scene[1, 0])


def test_environments_may_have_horizons_of_their_own() -> None:
    world = ControlWorld(HOPPER, environments=4, steps=50, horizons=(50, 100))
    policy = world_and_policy()[1]
    first, second, third = (world.collect(policy, 4, np.random.default_rng(k)) for k in range(3))
    assert first.scene is not None and second.scene is not None and third.scene is not None
    goes_on = [
        [bool(torch.equal(a.scene[row, -1], b.scene[row, 0])) for row in range(4)]  # type: ignore[index]
        for a, b in ((first, second), (second, third))
    ]
    # 0 and 2 begin anew each time; 1 and 3 began as if half an episode were over, and then have a whole one
    assert goes_on == [[False, False, False, False], [False, True, False, True]]
    again = ControlWorld(HOPPER, environments=4, steps=50)
    again.load_state_dict(json.loads(json.dumps(world.state_dict())))
    assert again.horizon_E.tolist() == [50, 100, 50, 100]
    with pytest.raises(ConfigError, match="end of an episode of 75"):
        ControlWorld(HOPPER, environments=4, steps=50, horizons=(75,))


def test_angles_without_end_are_seen_as_sine_and_cosine() -> None:
    task = find_task(HOPPER)
    scene = np.zeros((2, task.nq + task.nv))
    scene[1, 2] = 2 * np.pi
    features = task.features(scene)
    np.testing.assert_allclose(features[0], features[1], atol=1e-6)
    assert not np.allclose(task.observe(scene)[0], task.observe(scene)[1])
    world, policy = world_and_policy()
    assert world.collect(policy, 4, np.random.default_rng(0)).obs.shape == (4, 51, 12)


def test_clips_are_stretches_of_rows_and_nothing_is_padded() -> None:
    world, policy = world_and_policy()
    rows = world.collect(policy, 4, np.random.default_rng(0))
    clips = cut(rows, 20, 200, np.random.default_rng(1))
    assert clips.obs.shape == (200, 21, 12) and clips.mask_BT.all() and clips.action.shape == (200, 20, 3)
    assert clips.scene is not None and rows.scene is not None
    starts = [
        [(row, at) for row in range(4) for at in range(31) if torch.equal(rows.scene[row, at : at + 21], clip)]
        for clip in clips.scene
    ]
    assert all(len(found) == 1 for found in starts)
    seen = {found[0] for found in starts}
    assert {row for row, _ in seen} == set(range(4)) and {0, 30} <= {at for _, at in seen}  # both ends are reached
    with pytest.raises(DataError, match="clip of 51 steps from rows of 50"):
        cut(rows, 51, 1, np.random.default_rng(0))


def test_pieces_are_the_rows_with_the_values_between_them() -> None:
    """Generalised advantages at lambda 0 need one step and the value after it: pieces and rows have the same."""
    world, policy = world_and_policy()
    rows = world.collect(policy, 4, np.random.default_rng(0))
    small = pieces(rows, 10)
    assert small.mask_BT.shape == (20, 10) and small.obs.shape == (20, 11, 12)
    assert torch.equal(small.obs[3, -1], small.obs[4, 0]) and torch.equal(small.obs[0, 0], rows.obs[0, 0])
    reward_BT = torch.randn(4, 50)
    assert rows.value_BT is not None and small.value_BT is not None
    whole = gae(reward_BT, rows.value_BT, rows.mask_BT, rows.bootstrap_B, 0.9, 0.0)[0]
    parts = gae(reward_BT.reshape(20, 10), small.value_BT, small.mask_BT, small.bootstrap_B, 0.9, 0.0)[0]
    torch.testing.assert_close(parts.reshape(4, 50), whole)
    with pytest.raises(ConfigError, match="pieces of 7"):
        pieces(rows, 7)
    with pytest.raises(DataError, match="without values"):
        pieces(replace(rows, value_BT=None), 10)


def test_an_item_holds_no_reward_and_no_word_of_it() -> None:
    world, policy = world_and_policy()
    item = world.show(world.collect(policy, 4, np.random.default_rng(0)))[0]
    assert set(item.payload) == {"action", "scene"} and item.media == "clip"
    with pytest.raises(DataError, match="no clip of Hopper-v5"):
        world.load([replace(item, prompt="Ant-v5")])
    with pytest.raises(DataError, match="carry no scene"):
        world.show(replace(world.load([item]), scene=None))


def test_arrays_come_back_from_json_and_broken_ones_are_refused() -> None:
    for array in (np.arange(6.0).reshape(2, 3), np.zeros((0, 2), dtype=np.float32), np.array([[True]])):
        back = unpack(json.loads(json.dumps(pack(array))))
        assert back.dtype == array.dtype and np.array_equal(back, array)
    whole = pack(np.arange(6.0))
    for wrong in ({}, {**whole, "data": whole["data"][:-4]}, {**whole, "shape": [7]}, {**whole, "dtype": "|O"}, None):
        with pytest.raises(DataError, match="packed array is broken"):
            unpack(wrong)


def test_bad_settings_are_one_line() -> None:
    with pytest.raises(ConfigError, match='did you mean "Hopper-v5"'):
        ControlWorld("Hoper-v5", environments=1, steps=50)
    with pytest.raises(ConfigError, match="would cross the end of an episode of 1000; expected a divisor"):
        ControlWorld(HOPPER, environments=1, steps=300)
    with pytest.raises(ConfigError, match="0 simulations"):
        ControlWorld(HOPPER, environments=0, steps=50)
    world, policy = world_and_policy()
    with pytest.raises(ConfigError, match="6 rows from 4 environments; expected a multiple"):
        world.collect(policy, 6, np.random.default_rng(0))
    with pytest.raises(DataError, match="resume with the task and the number"):
        ControlWorld(HOPPER, environments=2, steps=50).load_state_dict(world.state_dict())
    with pytest.raises(DataError, match="this one Hopper-v5 in rows of 100"):
        ControlWorld(HOPPER, environments=4, steps=100).load_state_dict(world.state_dict())
    with pytest.raises(DataError, match="no items to load"):
        world.load([])


def test_an_observation_that_is_no_number_stops_the_world(monkeypatch: pytest.MonkeyPatch) -> None:
    world, policy = world_and_policy()
    real = world.batch.step

    def broken(action: Any, crew: slice) -> Any:
        real(action, crew)
        world.batch.scene_ES[2, 3] = np.nan
        return world.batch.scene_ES[crew]

    monkeypatch.setattr(world.batch, "step", broken)
    with pytest.raises(DataError, match=r"environment 2 of Hopper-v5 .* not finite"):
        world.collect(policy, 4, np.random.default_rng(0))


def test_without_mujoco_the_command_that_installs_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from backflip.errors import MissingExtra

    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(MissingExtra, match=r"pip install 'backflip\[control\]'"):
        ControlWorld(HOPPER, environments=1, steps=50)


def test_items_of_unlike_lengths_are_refused() -> None:
    world, policy = world_and_policy()
    rows = world.collect(policy, 4, np.random.default_rng(0))
    items: list[Item] = [*world.show(cut(rows, 10, 1, np.random.default_rng(0))), *world.show(rows)[:1]]
    with pytest.raises(DataError, match="expected one length"):
        world.load(items)
