"""The camera world: contracts, what its pictures hide and show, and the input that it refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from backflip.data import Item
from backflip.errors import ConfigError, DataError
from backflip.policies.tabular import TablePolicy
from backflip.testing import check_world
from backflip.worlds.camera import (
    ACTIONS,
    BOTH,
    CLOSE,
    FRONT,
    WAIT,
    CameraWorld,
    GridConfig,
    features,
    moved,
    pictures,
    starts,
    table_code,
)

GRID = GridConfig()


def anybody(grid: GridConfig = GRID) -> TablePolicy:
    return TablePolicy(*table_code(grid), len(ACTIONS))


@pytest.mark.parametrize("cameras", [FRONT, BOTH])
def test_the_world_keeps_its_promises(cameras: tuple[str, ...]) -> None:
    check_world(CameraWorld(GRID, BOTH if len(cameras) > 1 else FRONT), anybody())


def test_a_pretence_and_a_grasp_give_the_front_camera_one_picture_and_the_side_camera_two() -> None:
    pretence, grasp = (1, 1, 0, 1, 1, 2, 1), (1, 1, 2, 1, 1, 2, 1)
    assert pictures(pretence, FRONT, GRID) == pictures(grasp, FRONT, GRID) == "front camera\n...\n.H.\n..."
    assert pictures(pretence, BOTH, GRID).endswith("side camera\n...\nH.o\n...")
    assert pictures(grasp, BOTH, GRID).endswith("side camera\n...\n..H\n...")


def test_a_hand_behind_the_object_is_hidden_from_the_front() -> None:
    assert pictures((1, 1, 2, 1, 1, 0, 1), FRONT, GRID) == "front camera\n...\n.o.\n..."


def test_what_one_camera_shows_never_depends_on_depth_but_by_hiding() -> None:
    for hand_z in range(3):
        shown = {pictures((0, 2, hand_z, 1, 0, z, 1), FRONT, GRID) for z in range(3)}
        assert shown == {"front camera\nH..\n...\n.o."}


def test_an_items_content_holds_the_pictures_and_nothing_else() -> None:
    world = CameraWorld(GRID, FRONT)
    rows = world.collect(anybody(), 50, np.random.default_rng(0))
    assert rows.scene is not None
    for item, scene in zip(world.show(rows), rows.scene[:, -1].tolist(), strict=True):
        assert item.content == pictures(tuple(scene), FRONT, GRID)
        assert "side" not in item.content and not any(letter.isdigit() for letter in item.content + item.prompt)


def test_walls_hold_the_hand_and_effort_is_paid_all_the_same() -> None:
    scene = np.array([[0, 0, 0, 1, 1, 1, 0]])
    for action, after in ((2, [0, 0, 0]), (1, [1, 0, 0]), (5, [0, 0, 1]), (6, [0, 0, 0])):
        assert moved(scene, np.array([action]), GRID)[0, :3].tolist() == after
    assert GRID.cost(np.array([WAIT, 1, 2, 3, 4, 5, 6, CLOSE])).tolist() == [0, 0.01, 0.01, 0.01, 0.01, 0.3, 0.3, 0]


def test_episodes_begin_with_an_open_hand_in_the_front_layer_and_the_object_anywhere() -> None:
    first = starts(2000, GRID, np.random.default_rng(0))
    assert (first[:, 2] == 0).all() and (first[:, 6] == 0).all()
    assert {tuple(one) for one in first[:, 3:6].tolist()} == {
        (x, y, z) for x in range(3) for y in range(3) for z in range(3)
    }


def test_the_code_tells_apart_whatever_looks_different() -> None:
    rng = np.random.default_rng(0)
    scene = rng.integers(0, [3, 3, 3, 3, 3, 3, 2], (3000, 7))
    seen = features(scene, GRID)
    code_F, count = table_code(GRID)
    number = (torch.from_numpy(seen) @ code_F).long().numpy()
    assert len(np.unique(number)) == len(np.unique(seen, axis=0)) <= count and number.max() < count


def test_stills_rest_where_they_are() -> None:
    scene = np.array([[1, 1, 0, 1, 1, 2, 1], [0, 0, 0, 2, 2, 2, 0]])
    rows = CameraWorld(GRID).stills(scene)
    assert rows.scene is not None and rows.mask_BT.shape == (2, 1)
    assert (rows.scene.numpy() == scene[:, None]).all() and torch.equal(rows.obs[:, 0], rows.obs[:, 1])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"horizon": 6}, "longest way"),
        ({"depth": 0}, "cells"),
        ({"depth_cost": -0.1}, "costs"),
        ({"move_cost": float("nan")}, "costs"),
        ({"width": 50, "height": 50}, "states"),
    ],
)
def test_a_grid_that_cannot_be_is_refused(change: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        replace(GRID, **change)  # pyright: ignore[reportArgumentType] ints and floats by name


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"scene": [0, 0, 0, 3, 0, 0, 0], "action": [0]},
        {"scene": [0, 0, 0, 0, 0, 0], "action": [0]},
        {"scene": [0, 0, 0, 0, 0, 0, 0], "action": [9]},
        {"scene": [0, 0, 0, 0, 0, 0, 0.5], "action": [0]},
        {"scene": [0, 0, 0, 0, 0, 0, 0], "action": []},
        {"scene": "0000000", "action": [0]},
    ],
)
def test_an_item_that_is_no_episode_is_refused(payload: dict[str, object]) -> None:
    with pytest.raises(DataError, match="no episode of this grid"):
        CameraWorld(GRID).load([Item("Grasp the object.", "", payload)])


def test_rows_of_unlike_length_and_none_are_refused() -> None:
    world, scene = CameraWorld(GRID), [0, 0, 0, 0, 0, 0, 0]
    with pytest.raises(DataError, match="expected one length"):
        world.load([Item("", "", {"scene": scene, "action": [0] * n}) for n in (1, 2)])
    with pytest.raises(DataError, match="no items"):
        world.load([])
    rows = world.collect(anybody(), 2, np.random.default_rng(0))
    with pytest.raises(DataError, match="no scene"):
        world.show(replace(rows, scene=None))
