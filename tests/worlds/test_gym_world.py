"""Any Gymnasium environment in the control world: promises kept, episodes that happen again, and every refusal in one line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

gymnasium: Any = pytest.importorskip("gymnasium")
from gymnasium import spaces  # noqa: E402 after the skip

from backflip.errors import ConfigError, DataError, MissingExtra  # noqa: E402
from backflip.measures.gym_truth import GymTruth, MujocoTruth, own_reward, pair_accuracy, true_reward_BT  # noqa: E402
from backflip.policies.actor_critic import ActorCritic, ActorCriticConfig  # noqa: E402
from backflip.testing import check_world  # noqa: E402
from backflip.worlds.clips import ClipFiles  # noqa: E402
from backflip.worlds.control import ControlWorld, cut, unpack  # noqa: E402
from backflip.worlds.gym_batch import Replays  # noqa: E402
from backflip.worlds.gym_task import Ends, GymTask, check_drawn, gym_task, read_options  # noqa: E402
from backflip.worlds.mujoco_tasks import TASKS  # noqa: E402

DOT = "backflip.worlds.moving_dot:MovingDot-v0"
BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)
DICT = spaces.Dict({"where": BOX, "lamp": spaces.Discrete(3), "more": spaces.Tuple([BOX])})
SPACES: dict[str, tuple[Any, Any]] = {
    "dict": (DICT, spaces.Discrete(3, start=5)),
    "picture": (spaces.Box(0, 255, (8, 8, 3), np.uint8), spaces.Discrete(2)),
    "text": (spaces.Text(5), spaces.Discrete(2)),
    "several": (BOX, spaces.MultiDiscrete([2, 3])),
    "unbounded": (BOX, spaces.Box(-np.inf, np.inf, (2,), np.float32)),
    "blind": (spaces.Box(-1.0, 1.0, (0,), np.float32), spaces.Discrete(2)),
    "bound": (BOX, spaces.Box(-1.0, 1.0, (0,), np.float32)),
    "scaled": (BOX, spaces.Box(np.array([[0.0], [-4.0]], np.float32), np.array([[1.0], [4.0]], np.float32))),
}


def _raises(error: BaseException) -> Any:
    raise error


FAULTS: dict[str, Any] = {
    "raises": lambda toy: _raises(ValueError("out of\ncheese")),
    "leaves": lambda toy: _raises(SystemExit(0)),
    "grows": lambda toy: (np.zeros(3), 1.0, False, False, {}),
    "nan reward": lambda toy: (toy.look(), float("nan"), False, False, {}),
    "no reward": lambda toy: (toy.look(), None, False, False, {}),
    "four": lambda toy: (toy.look(), 1.0, False, {}),
}
"""What a step returns, by what is wrong with it."""


class Toy(gymnasium.Env):
    """Gives what its spaces say; `fault` names what is wrong with it."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

    def __init__(self, kind: str = "scaled", fault: str = "", at: int = 3) -> None:
        self.observation_space, self.action_space = deepcopy(SPACES[kind])
        self.fault, self.at = fault, at
        self.steps = self.lives = 0
        self.heard: list[Any] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        self.lives += 1
        self.observation_space.seed(seed)
        return self.look(), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action), action
        self.steps += 1
        self.heard.append(action)
        if self.steps == self.at and self.fault in FAULTS:
            return FAULTS[self.fault](self)
        if self.fault == "fragile" and self.steps > self.at:
            raise RuntimeError("stepped after its end")
        return self.look(), 1.0, self.fault in ("ends", "fragile") and self.steps == self.at, False, {}

    def look(self) -> Any:
        seen = self.observation_space.sample()
        if self.fault == "nan" and self.steps == self.at:
            seen[0] = np.nan
        if self.fault == "remembers":
            seen[0] = self.lives / 100
        return seen


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    gymnasium.register("Toy-v0", entry_point=Toy, max_episode_steps=10)
    gymnasium.register("Endless-v0", entry_point=Toy)
    gymnasium.register("Sticky-v0", entry_point=Toy, max_episode_steps=10, nondeterministic=True)
    yield
    for name in ("Toy-v0", "Endless-v0", "Sticky-v0"):
        del gymnasium.registry[name]


def world_of(task: GymTask, environments: int = 3, steps: int = 5, seed: int = 0) -> tuple[ControlWorld, ActorCritic]:
    world = ControlWorld(task, environments=environments, steps=steps, seed=seed)
    rng = np.random.default_rng(seed)
    return world, ActorCritic(world.features, world.actions, ActorCriticConfig(hidden=8), rng, discrete=world.discrete)


def collected(task: GymTask, times: int = 1) -> tuple[ControlWorld, Any]:
    world, policy = world_of(task)
    rows = [world.collect(policy, 3, np.random.default_rng(k)) for k in range(times)]
    return world, rows[-1]


@pytest.mark.parametrize("name", [DOT, "Pendulum-v1"])
def test_it_keeps_the_promises_of_a_world(name: str) -> None:
    world, policy = world_of(gym_task(name), steps=25)
    check_world(world, policy, rows=6)


def test_dictionaries_are_flattened_and_choices_go_out_as_the_environment_counts_them() -> None:
    task = gym_task("Toy-v0", options={"kind": "dict"})
    assert (task.size, task.discrete) == (2 + 3 + 2, True)
    world, policy = world_of(task)
    check_world(world, policy, rows=3)
    rows = world.collect(policy, 3, np.random.default_rng(0))
    assert rows.action.shape == (3, 5, 3) and (rows.action.sum(-1) == 1).all()
    given = unpack(world.show(rows)[0].payload["episode"]["given"])
    assert given[-5:].tolist() == (rows.action[0].argmax(-1) + 5).tolist()


def test_actions_from_minus_one_to_one_are_scaled_and_cut_to_the_bounds() -> None:
    task = gym_task("Toy-v0")
    world, rows = collected(task)
    given = unpack(world.show(rows)[0].payload["episode"]["given"])
    assert given.shape[1:] == (2, 1) and given.dtype == np.float32
    wanted = rows.action[0].numpy().clip(-1, 1) * np.array([0.5, 4]) + np.array([0.5, 0])
    np.testing.assert_allclose(given[-5:, :, 0], wanted, rtol=1e-5)


def test_a_clip_holds_no_reward_and_its_truth_is_what_gymnasium_pays() -> None:
    task = gym_task("Pendulum-v1")
    world, policy = world_of(task, steps=50)
    rows = [world.collect(policy, 3, np.random.default_rng(k)) for k in range(2)][-1]
    item = world.show(rows)[1]
    assert set(item.payload) == {"action", "scene", "episode"}
    assert set(item.payload["episode"]) == {"env", "options", "horizon", "ends", "seed", "given"}
    env = gymnasium.make("Pendulum-v1")
    env.reset(seed=item.payload["episode"]["seed"])
    paid = [float(env.step(action)[1]) for action in unpack(item.payload["episode"]["given"])]
    truth = own_reward(task)
    assert isinstance(truth, GymTruth) and truth(item).tolist() == paid[-50:]
    clip = world.show(cut(rows.select([1]), 10, 1, np.random.default_rng(0)))[0]
    at = int(unpack(clip.payload["scene"])[0, -1])
    assert truth(clip).tolist() == paid[at : at + 10] == GymTruth(task)(clip).tolist()


def test_a_resumed_world_goes_on_to_the_bit_in_a_fresh_process() -> None:
    task = gym_task("Pendulum-v1")
    world, policy = world_of(task, steps=50)
    for k in range(2):
        world.collect(policy, 3, np.random.default_rng(k))
    state = json.loads(json.dumps(world.state_dict()))
    again = ControlWorld(gym_task("Pendulum-v1"), environments=3, steps=50, seed=9)
    again.load_state_dict(state)
    for k in range(4):
        one, two = (each.collect(policy, 3, np.random.default_rng(k)) for each in (world, again))
        assert torch.equal(one.obs, two.obs) and one.scene is not None and two.scene is not None
        assert torch.equal(one.scene, two.scene)
        assert [item.id for item in world.show(one)] == [item.id for item in again.show(two)]
    with pytest.raises(DataError, match="this world has 2 of 5 numbers; resume with the environment"):
        ControlWorld(task, environments=2, steps=50).load_state_dict(state)
    with pytest.raises(DataError, match=r"this one Pendulum-v1\(g=9\.0\)"):
        ControlWorld(gym_task("Pendulum-v1", options={"g": 9.0}), environments=3, steps=50).load_state_dict(state)


def test_an_end_is_refused_unless_it_is_said_what_comes_after_it() -> None:
    ends: dict[str, Any] = {"fault": "ends"}
    with pytest.raises(DataError) as refused:
        collected(gym_task("Toy-v0", options=ends))
    assert str(refused.value) == (
        'environment 0 of Toy-v0(fault="ends") ended after 3 of 10 steps, and an end tells a learner what nobody said; switch '
        "ends off in the environment (options such as terminate_when_unhealthy=false), or say what comes after one: ends=go_on "
        "(it is stepped on) or ends=hold (its last state stays until the horizon)"
    )
    ways: tuple[tuple[Ends, bool], ...] = (("go_on", True), ("hold", False))
    for how, moves in ways:
        task = gym_task("Toy-v0", options=ends, ends=how)
        world, policy = world_of(task, steps=10)
        check_world(world, policy, rows=3)
        rows = world.collect(policy, 3, np.random.default_rng(0))
        assert rows.mask_BT.all() and (rows.bootstrap_B != 0).all()  # the learner sees no end
        assert bool((rows.obs[:, 4:] != rows.obs[:, 3:4]).any()) == moves
        assert true_reward_BT(world, rows, own_reward(task)).tolist() == [[1.0] * 3 + [0.0] * 7] * 3


def test_an_end_at_the_horizon_itself_is_none() -> None:
    world, rows = collected(gym_task("Toy-v0", options={"fault": "ends", "at": 10}), times=4)
    assert rows.mask_BT.all() and world.batch.scene_ES[0, -1] == 10


def test_an_environment_that_remembers_is_found_out_when_a_clip_happens_again() -> None:
    task = gym_task("Toy-v0", options={"fault": "remembers"})
    world, rows = collected(task, times=3)
    with pytest.raises(
        DataError, match=r"gave another episode for the same seed and actions, .*draw from self\.np_random"
    ):
        own_reward(task)(world.show(rows)[0])
    with pytest.raises(DataError, match="gave another episode"):
        world.load_state_dict(world.state_dict())


def test_no_number_names_environment_step_and_seed() -> None:
    with pytest.raises(
        DataError, match=r"environment 0 of Toy-v0.* not finite after 3 steps of the episode with seed \d+;"
    ):
        collected(gym_task("Toy-v0", options={"fault": "nan"}))


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("raises", "failed to step after 3 steps of the episode with seed {}: ValueError: out of cheese"),
        ("leaves", "failed to step after 3 steps of the episode with seed {}: SystemExit: 0"),
        ("grows", "gave an observation of 3 numbers after 3 steps of the episode with seed {}, where its space has 2"),
        (
            "nan reward",
            "paid nan, which is no finite reward, after 3 steps of the episode with seed {}; mend the environment",
        ),
        ("no reward", "failed to step after 3 steps of the episode with seed {}: TypeError"),
        ("four", "failed to step after 3 steps of the episode with seed {}: ValueError: not enough values to unpack"),
    ],
)
def test_what_an_environment_does_wrong_is_told_with_environment_step_and_seed(fault: str, said: str) -> None:
    with pytest.raises(DataError) as told:
        collected(gym_task("Toy-v0", options={"fault": fault}))
    pattern = r"environment 0 of Toy-v0\(.*\) " + re.escape(said).replace(r"\{\}", r"\d+")
    assert re.match(pattern, str(told.value)) and "\n" not in str(told.value), told.value


def test_an_environment_that_cannot_be_stepped_after_its_end_should_be_held() -> None:
    with pytest.raises(
        DataError, match=r"failed to step after its own end after 4 steps .* stepped after its end; ends=hold does not"
    ):
        collected(gym_task("Toy-v0", options={"fault": "fragile"}, ends="go_on"), times=4)
    collected(gym_task("Toy-v0", options={"fault": "fragile"}, ends="hold"), times=4)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("", {}, '"" names no environment; expected an id such as Pendulum-v1, or MODULE:ID'),
        (":Toy-v0", {}, '":Toy-v0" names no environment'),
        ("a:b:c", {}, '"a:b:c" names no environment'),
        ("Toy-v0", {"max_episode_steps": 5}, "max_episode_steps is not an option of an environment here; episodes get their length by horizons"),
        ("Toy-v0", {"at": [1], "kind": "nosuch"}, "Toy-v0 cannot be made so: KeyError: 'nosuch'; look at its options"),
        ("backflip.worlds.moving_dot:MovingDt-v0", {}, 'did you mean "backflip.worlds.moving_dot:MovingDot-v0"?'),
        ("Pendulm-v1", {}, 'no environment is called "Pendulm-v1"; did you mean "Pendulum-v1"?'),
        ("Hoper-v5", {}, 'no environment is called "Hoper-v5"; did you mean "Hopper-v5"?'),
        ("nosuch:Env-v0", {}, 'no environment is called "nosuch:Env-v0"; there is no module nosuch that could register it'),
        ("Xyzzyqwerty", {}, "expected an id that Gymnasium knows, or MODULE:ID where a module of yours registers it"),
        ("Pendulum-v1", {"h": 1}, "unexpected keyword argument 'h'"),
        ("Endless-v0", {}, "Endless-v0 has no time limit, and all episodes must have one length; give a horizon"),
        ("Sticky-v0", {}, "Sticky-v0 says that it is not a function of its seed and actions"),
        ("Toy-v0", {"kind": "picture"}, "Toy-v0 shows pictures, and this world reads numbers; wrap it"),
        ("Toy-v0", {"kind": "text"}, "expected Box, Discrete, MultiDiscrete, MultiBinary, or a Dict or Tuple of these"),
        ("Toy-v0", {"kind": "several"}, "actions of Toy-v0 are MultiDiscrete([2 3]); expected Discrete, or a Box of floats"),
        ("Toy-v0", {"kind": "blind"}, "observations of Toy-v0 are Box([], [], (0,), float32), which hold no number"),
        ("Toy-v0", {"kind": "bound"}, "actions of Toy-v0 are Box([], [], (0,), float32), which hold no number"),
        ("Toy-v0", {"kind": "unbounded"}, "actions of Toy-v0 are not bounded; expected a Box with finite low and high"),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_one_line(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        gym_task(name, options=options)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_a_horizon_may_be_given_and_episodes_have_it() -> None:
    task = gym_task("Endless-v0", horizon=5)
    _, rows = collected(task, times=3)
    assert task.horizon == 5 and rows.scene is not None and rows.scene[:, -1, -1].tolist() == [5.0] * 3
    with pytest.raises(ConfigError, match="rows of 4 steps would cross the end of an episode of 5"):
        ControlWorld(task, environments=1, steps=4)


def test_options_are_json_or_text_and_part_of_the_name() -> None:
    assert read_options(["g=9.5", "on=false", "kind=dict"]) == {"g": 9.5, "on": False, "kind": "dict"}
    for wrong in ("g", "=1", "a-b=1"):
        with pytest.raises(ConfigError, match=r"expected NAME=VALUE, such as g=9\.81"):
            read_options([wrong])
    assert gym_task("Pendulum-v1", options={"g": 9.5}).id == "Pendulum-v1(g=9.5)"


def test_clips_of_other_worlds_are_refused_everywhere() -> None:
    task, other = gym_task(DOT), gym_task("Toy-v0")
    world, rows = collected(task)
    item = world.show(rows)[0]
    for ask in (
        world_of(other)[0].load,
        lambda items: own_reward(other)(items[0]),
        lambda items: list(Replays(other)(items[0])),
    ):
        with pytest.raises(DataError, match="is no clip of Toy-v0"):
            ask([item])
    with pytest.raises(DataError, match="no longer knows how these rows came about"):
        world_of(task, seed=5)[0].show(rows)


def test_clips_are_filmed_while_they_happen_again(tmp_path: Path) -> None:
    pytest.importorskip("imageio.v2")
    task = gym_task(DOT)
    world, rows = collected(task)
    item = world.show(rows)[0]
    frames = Replays(task, drawn=True).pictures(item, 2)
    assert frames.shape == (3, 96, 96, 3)
    x, y = unpack(item.payload["scene"])[-2, :2]
    blue = np.argwhere((frames[-1] == (0, 103, 177)).all(-1)).mean(0)
    assert blue[1] == pytest.approx((x + 1.2) / 2.4 * 96, abs=1) and blue[0] == pytest.approx(
        (1.2 - y) / 2.4 * 96, abs=1
    )
    films = ClipFiles(tmp_path, speed=1.0, replays=Replays(task, drawn=True))
    assert films(item) == films(item) == tmp_path / f"{item.id}.mp4" and films(item).stat().st_size > 500


def test_what_cannot_draw_itself_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ConfigError, match=r"Toy-v0 cannot draw itself, so nobody can watch it; judge with overseer=synthetic"
    ):
        check_drawn(gym_task("Toy-v0"))
    import sys

    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(MissingExtra, match=r"Pendulum-v1 cannot be drawn: pygame is not installed, .*pip install"):
        check_drawn(gym_task("Pendulum-v1"))
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(MissingExtra, match=r"pip install 'backflip\[control\]'"):
        gym_task("Pendulum-v1")


def test_the_fast_path_is_paid_as_gymnasium_pays() -> None:
    """Reacher on both paths: the same seed cannot be given, so the truth is compared on the states of the fast one."""
    task = TASKS["Reacher-v5"]
    world = ControlWorld(task, environments=2, steps=50)
    policy = ActorCritic(world.features, world.actions, ActorCriticConfig(hidden=8), np.random.default_rng(0))
    rows = world.collect(policy, 2, np.random.default_rng(0))
    env: Any = gymnasium.make("Reacher-v5").unwrapped
    assert rows.scene is not None
    first = rows.scene[0, 0].numpy()
    env.reset(seed=0)
    env.set_state(first[:4], first[4:8])
    paid = [env.step(world.control_of(action))[1] for action in rows.action[0].numpy()]
    truth = own_reward(task)
    assert isinstance(truth, MujocoTruth)
    np.testing.assert_allclose(truth(world.show(rows)[0]), paid, rtol=1e-9)
    with pytest.raises(DataError, match="is a clip of Hopper-v5, not of Reacher-v5"):
        truth(replace(world.show(rows)[0], prompt="Hopper-v5"))


def test_pair_accuracy_is_1_for_the_truth_0_for_its_opposite_and_none_for_ties() -> None:
    task = gym_task("Pendulum-v1")
    world, policy = world_of(task, steps=50)
    rows = world.collect(policy, 3, np.random.default_rng(0))
    truth = own_reward(task)
    for sign, wanted in ((1.0, 1.0), (-1.0, 0.0)):
        found = pair_accuracy(
            world,
            rows,
            lambda episodes, sign=sign: sign * true_reward_BT(world, episodes, truth),
            truth,
            10,
            20,
            np.random.default_rng(0),
        )
        assert found is not None and found.value == wanted and found.n == 3, "as many as there are episodes"
    level = gym_task("Toy-v0")
    world, rows = collected(level)
    assert (
        pair_accuracy(
            world, rows, lambda episodes: episodes.obs[:, :-1, 0], own_reward(level), 2, 5, np.random.default_rng(0)
        )
        is None
    )
