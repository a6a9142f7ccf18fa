"""Somersaults are counted by hand-made motions of which everybody can say how many they hold."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backflip.data import Item
from backflip.errors import DataError
from backflip.measures import backflip_truth as teacher_file
from backflip.measures import somersaults
from backflip.measures.backflip_truth import CRASHED, LANDED, backflip_truth, hand_written
from backflip.measures.somersaults import backward_turns, complete_somersaults, foot_height, turns_in_the_air
from backflip.worlds.control import pack
from backflip.worlds.mujoco_batch import MujocoBatch
from backflip.worlds.mujoco_tasks import find_task


def motion(turns: float, height: float = 1.3, steps: int = 1000) -> np.ndarray:
    qpos = np.zeros((steps + 1, 6))
    qpos[:, 1] = height
    qpos[:, 2] = -2 * np.pi * turns * np.linspace(0, 1, steps + 1)
    return qpos


def test_whole_backward_turns_high_up_are_counted() -> None:
    assert len(complete_somersaults(motion(3.5))) == 3
    assert complete_somersaults(motion(2.5)) == [400, 800]
    assert backward_turns(motion(2.5)) == pytest.approx(2.5)


def test_forward_turns_and_swinging_are_none() -> None:
    assert complete_somersaults(motion(-3.5)) == []
    swinging = motion(0)
    swinging[:, 2] = 3 * np.sin(np.linspace(0, 60, 1001))
    assert complete_somersaults(swinging) == []


def test_going_back_and_over_again_counts_once() -> None:
    qpos = motion(0)
    qpos[:, 2] = -2 * np.pi * np.interp(np.arange(1001), [0, 300, 400, 500, 1000], [0, 1.2, 0.8, 1.2, 1.3])
    assert len(complete_somersaults(qpos)) == 1


def test_a_fall_spoils_the_turn_in_which_it_happens() -> None:
    qpos = motion(3.5)
    qpos[100:110, 1] = 0.3  # in the first turn
    assert len(complete_somersaults(qpos)) == 2


def test_a_leap_that_ends_on_the_head_is_no_somersault() -> None:
    """High up at 2 pi, on the ground 6 steps later, and a roll over the ground into the next leap: a trick that paid half its turns."""
    qpos = motion(20)
    qpos[np.arange(1001) % 100 >= 56, 1] = 0.1
    assert complete_somersaults(qpos) == [] and len(turns_in_the_air(qpos)) == 20, "the weaker count takes it"
    landing = motion(1.5)
    crossing = int(np.argmax(-landing[:, 2] >= 2 * np.pi))
    for after, counted in ((40, 0), (41, 1)):
        fallen = landing.copy()
        fallen[crossing + after :, 1] = 0.3
        assert len(complete_somersaults(fallen)) == counted
        assert len(complete_somersaults(fallen, and_after=False)) == 1
    twice = motion(2.5)
    fallen = int(np.argmax(-twice[:, 2] >= 2 * np.pi)) + 5
    twice[fallen : fallen + 3, 1] = 0.3  # held against the turn before, or against the one after
    assert (len(complete_somersaults(twice)), len(complete_somersaults(twice, and_after=False))) == (0, 1)


def test_turns_in_the_air_are_high_or_come_down_on_the_foot() -> None:
    assert turns_in_the_air(motion(2.5)) == complete_somersaults(motion(2.5)) == [400, 800]
    assert turns_in_the_air(motion(-2.5)) == turns_in_the_air(motion(2.5, height=0.3)) == []
    on_foot = motion(1.5, height=0.95)  # with straight legs the foot reaches the ground
    assert len(turns_in_the_air(on_foot)) == len(complete_somersaults(on_foot)) == 1
    crossing = int(np.argmax(-on_foot[:, 2] >= 2 * np.pi))
    on_foot[crossing + 10, 1] = 0.39
    assert turns_in_the_air(on_foot) == complete_somersaults(on_foot) == []


def test_a_turn_at_the_very_end_is_not_seen_to_land() -> None:
    assert len(complete_somersaults(motion(1.0, steps=1000))) == 0
    assert len(complete_somersaults(motion(1.0, steps=1000)[:1000])) == 0
    late = motion(0)
    late[:, 2] = -2 * np.pi * np.interp(np.arange(1001), [0, 960, 1000], [0, 1, 1])
    assert complete_somersaults(late) == [960]
    late[:, 2] = -2 * np.pi * np.interp(np.arange(1001), [0, 961, 1000], [0, 1, 1])
    assert complete_somersaults(late) == []


def test_low_turns_need_the_foot_on_the_ground_soon() -> None:
    low = motion(1.5, height=0.9)
    low[:, 3:5] = -1.2  # legs drawn in, so that the foot is in the air
    crossing = int(np.argmax(-low[:, 2] >= 2 * np.pi))
    assert foot_height(low)[crossing : crossing + 41].min() > 0.07
    assert complete_somersaults(low) == []
    for after, counted in ((40, 1), (41, 0)):
        landed = low.copy()
        landed[crossing + after, 1] = 0.0  # the whole body on the ground at that moment
        landed[crossing + after, 1] = 0.9 - foot_height(low)[crossing + after] + 0.05
        landed[crossing + after, 1] = max(landed[crossing + after, 1], 0.41)
        landed[crossing + after, 2:5] = -2 * np.pi, 0.0, 0.0
        landed[crossing + after, 1] = 1.0 if counted else landed[crossing + after, 1]
        assert (foot_height(landed)[crossing + after] <= 0.07) or not counted
        assert len(complete_somersaults(landed)) == counted


def test_the_foot_is_where_mujoco_has_it() -> None:
    mujoco: Any = pytest.importorskip("mujoco")
    batch = MujocoBatch(find_task("Hopper-v5"), 1)
    model, data = batch.model, batch.data[0]
    foot = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_GEOM, "foot_geom")
    rng = np.random.default_rng(0)
    for _ in range(50):
        qpos = rng.uniform(-3, 3, 6)
        batch.place(0, qpos, np.zeros(6))
        axis = data.geom_xmat[foot].reshape(3, 3)[:, 2] * model.geom_size[foot, 1]
        lowest = min(data.geom_xpos[foot][2] - axis[2], data.geom_xpos[foot][2] + axis[2])
        assert foot_height(qpos[None])[0] == pytest.approx(lowest, abs=1e-9)


def test_what_is_no_hopper_is_refused() -> None:
    for wrong in (np.zeros((5, 3)), np.zeros(6), np.full((5, 6), np.nan)):
        with pytest.raises(DataError, match="joints of a Hopper"):
            complete_somersaults(wrong)


# -- what the teacher sees -------------------------------------------------------------------------------------------


def truth_of(qpos: np.ndarray) -> np.ndarray:
    return backflip_truth(Item("Hopper-v5", "", {"scene": pack(np.hstack([qpos, np.zeros_like(qpos)]))}, media="clip"))


def test_the_teacher_wants_backward_turns_high_up() -> None:
    assert len(truth_of(motion(1, steps=125))) == 125
    clips = (
        motion(1.2, steps=125),
        motion(1.2, height=0.3, steps=125),
        motion(0, steps=125),
        motion(0, height=0.2, steps=125),
    )
    high, low, stands, lies = (truth_of(one).sum() for one in clips)
    assert high > low > stands > lies > truth_of(motion(-1.2, steps=125)).sum()


def test_a_turn_over_the_head_or_onto_it_costs_and_a_landed_one_pays() -> None:
    clean = motion(1.2, steps=125)  # upright again at step 105: its landing is seen for 20 steps
    assert truth_of(clean)[-1] > LANDED and truth_of(clean)[:-1].max() < 1.0
    over, onto = clean.copy(), clean.copy()
    over[50:54, 1] = 0.2
    onto[115:, 1] = 0.2
    for wrong in (over, onto):
        assert truth_of(wrong)[-1] < 0.0 and truth_of(clean).sum() - truth_of(wrong).sum() > LANDED + CRASHED - 0.5
    assert truth_of(clean[:125])[-1] < 1.0, "a landing that is seen for 19 steps is not judged"
    before = motion(1.2, steps=125)
    before[:, 2] += np.pi  # half a turn is over when the clip begins
    assert truth_of(before).max() > LANDED


def test_leaning_back_and_forth_through_the_upright_earns_no_bonus() -> None:
    leaning = motion(0, steps=125)
    leaning[:, 2] = 0.3 * np.sin(np.linspace(0, 20, 126))
    leaning[:, 2] -= leaning[-1, 2] * np.linspace(0, 1, 126)
    assert truth_of(leaning).sum() == pytest.approx(truth_of(motion(0, steps=125)).sum(), abs=1e-6)


def test_teacher_and_count_share_nothing() -> None:
    """Neither imports the other, nor any function of a third file that both use."""
    used: list[set[str]] = []
    for module in (teacher_file, somersaults):
        tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
        used.append(
            {
                f"{node.module}.{name.name}"
                for node in ast.walk(tree)
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("backflip")
                for name in node.names
            }
        )
    assert used[0] & used[1] == set() and not any("somersaults" in name for name in used[0])
    assert not any("truth" in name for name in used[1])


def test_the_reward_written_by_hand_pays_speed_more_where_it_is_high() -> None:
    def pay(qpos: np.ndarray) -> np.ndarray:
        return hand_written(
            Item("Hopper-v5", "", {"scene": pack(np.hstack([qpos, np.zeros_like(qpos)]))}, media="clip")
        )

    turning = motion(1, steps=125)  # one turn a second
    assert pay(turning) == pytest.approx(0.3 * 2 * np.pi * 1.3 + 0.13)
    low = motion(1, height=0.4, steps=125)
    assert pay(low) == pytest.approx(0.3 * 2 * np.pi * 0.3 + 0.04)
    assert pay(motion(0)) == pytest.approx(0.13)
