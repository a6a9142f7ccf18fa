"""The rooms are what their map says, and the world that walks in them follows its own tables."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from backflip.data import Item
from backflip.errors import ConfigError, DataError
from backflip.policies.rooms_policy import StatePolicy
from backflip.protocols import World
from backflip.rewards.cells import CellReward
from backflip.testing import check_policy, check_reward_model, check_world
from backflip.worlds.rooms import PICTURE, PLAN, PRESS, STATE, Rooms, RoomsConfig


def chance(world: Rooms) -> StatePolicy:
    return StatePolicy(world.states, world.actions, world.config.horizon)


def test_the_shipped_map_has_four_rooms_and_four_doors() -> None:
    world = Rooms()
    assert isinstance(world, World)
    assert (world.cells, world.actions, world.states) == (4 * 25 + 4, 4, 104)
    corner, inside = world.place_of[1, 1], world.place_of[3, 3]
    assert world.next_SAK[corner, :, 0].tolist() == [corner, world.place_of[1, 2], world.place_of[2, 1], corner]
    assert world.next_SAK[inside, :, 0].tolist() == [world.place_of[p] for p in ((2, 3), (3, 4), (4, 3), (3, 2))]
    assert np.allclose(world.chance_SAK.sum(2), 1)


def test_the_score_pays_for_stepping_onto_a_coin_and_not_for_staying_on_it() -> None:
    world = Rooms(RoomsConfig(stay=True))
    score_SAK = world.score_SAK()
    above, coin = world.place_of[4, 9], world.place_of[5, 9]
    assert score_SAK[above, 2, 0] == 1 and score_SAK[coin, PRESS, 0] == 0 and score_SAK[coin, 0, 0] == 0
    assert score_SAK.sum() == 2 * (4 + 2)  # each coin before a door has four neighbours, each in a door two


def test_sampled_steps_follow_the_tables() -> None:
    world = Rooms(RoomsConfig(off_chance=0.3))
    rng = np.random.default_rng(0)
    state_B = np.full(4000, world.start)
    after_B, _ = world.step(state_B, np.zeros(4000, dtype=np.int64), np.ones(4000, dtype=np.int64), rng)
    assert set(after_B) == {world.off, world.place_of[1, 2]}
    assert abs(float((after_B == world.off).mean()) - 0.3) < 0.03
    still_B, _ = world.step(np.array([world.off]), np.zeros(1, dtype=np.int64), np.ones(1, dtype=np.int64), rng)
    assert still_B.tolist() == [world.off]


def test_the_button_disarms_for_good() -> None:
    world = Rooms(RoomsConfig(off_chance=0.3))
    beside, button = world.place_of[11, 2], world.place_of[11, 1]
    assert world.next_SAK[beside, 3].tolist() == [world.cells + button, world.off]
    disarmed = world.cells + beside
    assert (world.next_SAK[world.cells : world.off] >= world.cells).all()
    assert world.chance_SAK[disarmed].tolist() == [[1, 0]] * 4


@pytest.mark.parametrize("kind", ["remote", "flicker"])
def test_the_television_changes_when_it_should_and_is_seen_in_front_of_it_alone(kind: str) -> None:
    world = Rooms(RoomsConfig(television="remote" if kind == "remote" else "flicker"))
    front = world.marked("T")[0]
    rng = np.random.default_rng(0)
    state_B, picture_B = np.full(500, front), np.arange(500) % 256
    _, bumped_B = world.step(state_B, picture_B, np.zeros(500, dtype=np.int64), rng)
    _, pressed_B = world.step(state_B, picture_B, np.full(500, PRESS), rng)
    assert (pressed_B != picture_B).mean() > 0.95
    assert (bumped_B == picture_B).all() if kind == "remote" else (bumped_B != picture_B).mean() > 0.95
    rows = world.collect(chance(world), 64, rng, anywhere=True)
    assert torch.equal(rows.obs[..., PICTURE] > 0, rows.obs[..., STATE] == front)
    seen = world.features(rows.obs)
    assert seen.shape[-1] == world.cells + 8 and torch.equal(seen[..., : world.cells].sum(-1), torch.ones(64, 61))
    assert torch.equal(seen[..., world.cells :].abs().sum(-1) == 8, rows.obs[..., PICTURE] > 0)


def test_contracts_of_world_and_policy() -> None:
    world = Rooms(replace(RoomsConfig(), horizon=6))
    reward = CellReward(world, torch.arange(world.cells).float())
    check_world(world, chance(world))
    check_reward_model(reward, world.collect(chance(world), 6, np.random.default_rng(0)))
    obs = torch.zeros(64, 1, 3, dtype=torch.long)
    obs[:, 0, STATE] = torch.arange(64)
    policy = chance(world)
    with torch.no_grad():
        policy.logits_SA.copy_(torch.from_numpy(np.random.default_rng(0).normal(size=policy.logits_SA.shape)))
    check_policy(policy, obs)


def test_pictures_of_walks() -> None:
    world = Rooms()
    drawn = world.drawn([world.place_of[p] for p in ((1, 1), (1, 2), (1, 3))]).splitlines()
    assert drawn[1].startswith("#o*x.") and len(drawn) == 13
    share_C = np.zeros(world.cells)
    share_C[[world.place_of[1, 1], world.place_of[1, 2]]] = [0.9, 0.1]
    assert world.shaded(share_C).splitlines()[1].startswith("#91.")


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ("#####\n#SG.#\n####", "one length"),
        ("####\n#SGz\n####", "made of"),
        ("####\n#SG.\n####", "gap in its outer wall"),
        ("####\n#S.#\n####", "no cell G"),
        ("#####\n#GG.#\n#####", "0 cells S"),
        ("######\n#SG#.#\n######", "cannot be reached"),
    ],
)
def test_a_broken_map_is_refused(plan: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Rooms(RoomsConfig(plan=plan))


def test_what_the_settings_need_must_be_on_the_map() -> None:
    plain = PLAN.replace("T", ".").replace("B", ".")
    with pytest.raises(ConfigError, match="0 cells T"):
        Rooms(RoomsConfig(plan=plain, television="remote"))
    with pytest.raises(ConfigError, match="0 cells B"):
        Rooms(RoomsConfig(plan=plain, off_chance=0.1))
    with pytest.raises(ConfigError, match="off_chance"):
        RoomsConfig(off_chance=1.0)


def test_items_of_other_worlds_are_refused() -> None:
    world = Rooms()
    with pytest.raises(DataError, match="no walk in these rooms"):
        world.load([Item("", "", {"obs": [[0, 0, 0]], "action": []}, media="clip")])
    with pytest.raises(DataError, match="no items"):
        world.load([])
