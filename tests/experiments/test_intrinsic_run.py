"""The experiment as a whole, small: what is exact is there, in order, and says what the page says."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from backflip.errors import ConfigError
from backflip.experiments import find
from backflip.experiments.intrinsic import IntrinsicConfig
from backflip.experiments.intrinsic_parts import (
    PRESSED_POINTS,
    arriving_SA,
    empowerment_reward,
    figures_of,
    frontier,
    press_chance,
    shape_of,
    spread_frontier,
    tables_of,
)
from backflip.loops.rooms import RoomsPPOConfig
from backflip.measures.rooms_truth import wanted_S
from backflip.optimise.soft_control import optimum
from backflip.run import Run
from backflip.worlds.rooms import Rooms, RoomsConfig


def test_hand_made_rewards_rise_and_fall_and_curiosity_runs_out() -> None:
    world = Rooms()
    score_SA = tables_of(world).expected_SA(world.score_SAK())
    for reward_SA in (score_SA, arriving_SA(world, empowerment_reward(world, 4))):
        rows, _ = frontier(world, reward_SA, 16)
        shape = shape_of(rows)
        assert shape["peak"] > 5 * shape["at_chance"] and shape["end"] < 0.1 * shape["at_chance"]
        assert all(a["kl_nats"] <= b["kl_nats"] + 1e-9 and a["reward"] <= b["reward"] + 1e-9 for a, b in pairwise(rows))
    rows, _ = spread_frontier(world, 8)
    assert rows[-1]["wanted"] == max(row["wanted"] for row in rows) and rows[-1]["kl_nats"] < 6
    rows, _ = frontier(world, arriving_SA(world, wanted_S(world)), 8)
    assert rows[-1]["wanted"] > 0.75


def test_an_empowered_agent_disarms_its_off_switch() -> None:
    world = Rooms(RoomsConfig(off_chance=0.02))
    empowered_SA = arriving_SA(world, empowerment_reward(world, 2))
    assert press_chance(world, optimum(tables_of(world), empowered_SA, 0.0)) > 0.7
    minding_SA = arriving_SA(world, wanted_S(world, press_cost=100.0))
    assert press_chance(world, optimum(tables_of(world), minding_SA, 0.0)) == pytest.approx(0, abs=1e-12)


def test_the_whole_run(tmp_path: Path) -> None:
    config = replace(
        IntrinsicConfig(),
        repetitions=2,
        points=4,
        comparisons=(20,),
        empowerment_steps=2,
        off_empowerment_steps=1,
        watching=RoomsPPOConfig(updates=2, rows=4, anywhere=True),
        learning=RoomsPPOConfig(updates=2, rows=4),
    )
    with Run.create("intrinsic", config, root=tmp_path, seed=0) as run:
        find("intrinsic")(config, run)
        folder = run.path
    found = json.loads((folder / "summary.json").read_text())["estimates"]
    assert found["blahut_arimoto_gap_bits"]["value"] < 1e-6
    assert found["score_end_wanted_share"]["value"] < found["score_peak_wanted_share"]["value"]
    assert {f"{name}_in_front_share" for name in ("forward_error", "count_cells")} <= set(found)
    ours, theirs, ratio = (found[f"{name}_steps"] for name in ("counting_cover", "random_cover", "counting_to_random"))
    spread = [(one["high"] - one["value"]) / one["value"] for one in (ours, theirs, ratio)]
    assert ratio["value"] == pytest.approx(ours["value"] / theirs["value"])
    assert spread[2] == pytest.approx(np.hypot(spread[0], spread[1])), "both have a spread"
    shares = [one for name, one in found.items() if name.endswith("_share")]
    assert len(shares) > 10 and all(0 <= one["low"] <= one["high"] <= 1 for one in shares)
    curves = json.loads((folder / "results" / "curves.json").read_text())
    assert {"score", "empowerment", "curiosity", "20 comparisons, seed 1"} <= set(curves)
    assert np.isfinite([row["kl_nats"] for rows in curves.values() for row in rows]).all()


def test_settings_that_contradict_each_other_are_refused() -> None:
    for wrong, said in (
        ({"clip_steps": 61}, "clip_steps"),
        ({"off_chance": 0.0}, "off_chance"),
        ({"repetitions": 1}, "repetitions"),
        ({"rooms": RoomsConfig(television="remote")}, "set by the parts"),
    ):
        with pytest.raises(ConfigError, match=said):
            replace(IntrinsicConfig(), **wrong)  # pyright: ignore[reportArgumentType]


def test_of_rewards_from_comparisons_the_first_seed_is_drawn() -> None:
    rows = [{"kl_nats": 2.0, "wanted": 0.1, "pressed": 0.5}, {"kl_nats": 1.0, "wanted": 0.2, "pressed": 0.4}]
    curves = {"score": rows} | {f"20 comparisons, seed {k}": rows for k in (0, 1, 10)}
    found = figures_of(curves, {"score": rows}, {"preferences": rows * PRESSED_POINTS})
    drawn = {one["name"]: one for one in found["wanted"]["series"]}
    assert set(drawn) == {"score", "20 comparisons, seed 0", "score, PPO"}
    assert (drawn["score"]["x"], drawn["score"]["y"]) == ([1.0, 2.0], [0.2, 0.1])
    assert drawn["score, PPO"]["estimates"][0]["value"] == pytest.approx(0.15)
    assert [len(one["x"]) for one in found["pressed"]["series"]] == [PRESSED_POINTS]
