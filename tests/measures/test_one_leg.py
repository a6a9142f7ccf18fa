"""Feet of the cheetah: as high as MuJoCo puts them, and a teacher that wants the back one up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backflip.data import Item
from backflip.measures.one_leg import clearance, gait, one_leg_truth
from backflip.worlds.control import pack
from backflip.worlds.mujoco_tasks import find_task, read_body


def test_feet_are_where_mujoco_puts_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mujoco: Any = pytest.importorskip("mujoco")
    monkeypatch.chdir(tmp_path)
    model = read_body(find_task("HalfCheetah-v5"))
    data = mujoco.MjData(model)
    qpos = np.random.default_rng(0).uniform(-1, 1, (50, 9))
    for name, leg in (("bfoot", "back"), ("ffoot", "front")):
        geom = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_GEOM, name)
        lowest = []
        for one in qpos:
            data.qpos[:] = one
            mujoco.mj_kinematics(model, data)
            axis = data.geom_xmat[geom].reshape(3, 3)[:, 2] * model.geom_size[geom, 1]
            ends = data.geom_xpos[geom][2] + np.array([axis[2], -axis[2]])
            lowest.append(ends.min() - model.geom_size[geom, 0])
        ours = clearance(qpos, leg)  # type: ignore[arg-type]
        assert np.abs(ours - np.array(lowest)).max() < 0.015  # the ankle stands for the upper end of the foot's axis


def ride(back_thigh: float, metres: float) -> np.ndarray:
    scene = np.zeros((21, 18))
    scene[:, 0] = np.linspace(0, metres, 21)
    scene[:, 1], scene[:, 3] = -0.08, back_thigh  # the feet touch the ground
    return scene


def truth(scene: np.ndarray) -> float:
    return float(one_leg_truth(Item("HalfCheetah-v5", "", {"scene": pack(scene)}, media="clip")).sum())


def test_the_teacher_wants_speed_with_the_back_foot_up() -> None:
    up, down = ride(-1.5, 2.0), ride(0.0, 2.0)
    assert clearance(up[:, :9], "back").min() > 0.1 > clearance(down[:, :9], "back").max()
    assert truth(up) > truth(ride(-1.5, 1.0)) > truth(ride(-1.5, 0.0)) > truth(down)
    over = up.copy()
    over[:, 2] = np.pi  # on its back, both feet in the air
    assert truth(over) < 0


def test_a_gait_says_which_feet_were_where() -> None:
    found = gait(ride(-1.5, 2.0)[:, :9])
    assert found["metres_a_second"] == pytest.approx(2.0) and found["back_foot_up"] == 1.0
    assert gait(ride(0.0, 2.0)[:, :9])["back_foot_up"] == 0.0
