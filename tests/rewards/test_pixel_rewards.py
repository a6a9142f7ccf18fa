"""Rewards from pictures: members apart, nothing dropped and nothing moved while scoring, four pictures and no more."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backflip.data import Episodes, Item, concat
from backflip.errors import ConfigError, DataError
from backflip.rewards.clips import ClipFit
from backflip.rewards.comparisons import Comparison
from backflip.rewards.fit import Rows
from backflip.rewards.pixel_baselines import pixel_baseline_deltas
from backflip.rewards.pixels import PixelFitConfig, PixelRewards, stacks
from backflip.testing import check_reward_model

STEPS = 5
SMALL = PixelFitConfig(members=2, filters=2, hidden=4, first_steps=30, steps=2, batch=8, lr=1e-2, l2=0, dropout=0.2)


def clips(count: int, seed: int = 0) -> Episodes:
    """Rows of noise with a bright block, higher or lower in the picture from clip to clip."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 40, (count, STEPS + 1, 84, 84), dtype=np.uint8)
    for row, line in enumerate(rng.integers(0, 60, count)):
        frames[row, :, line : line + 24, 30:54] += 150
    return Episodes(
        torch.from_numpy(frames),
        torch.zeros(count, STEPS, dtype=torch.long),
        torch.ones(count, STEPS, dtype=torch.bool),
        None,
        torch.zeros(count),
        torch.arange(count),
    )


class Shelf:
    """A world that only loads: an item is a row's number."""

    def __init__(self, rows: Episodes) -> None:
        self.rows = rows

    def load(self, items: Sequence[Item]) -> Episodes:
        return self.rows.select([int(item.content) for item in items])


def made(seed: int = 0, **settings: Any) -> PixelRewards:
    return PixelRewards(replace(SMALL, **settings), np.random.default_rng(seed))


def settled(seed: int = 0, **settings: Any) -> PixelRewards:
    reward, rows = made(seed, **settings), clips(12)
    reward.scale_inputs(rows)
    reward.settle(rows)
    reward.measure_normaliser(rows)
    return reward


def judged(rows: Episodes) -> list[Comparison]:
    """Pairs of neighbours; the one with its block higher up is better."""
    height = (rows.obs.float().mean((1, 3)) @ torch.arange(84.0)).tolist()
    items = [Item("", str(k), {}, media="clip") for k in range(len(rows))]
    return [Comparison(items[k], items[k + 1], float(height[k] < height[k + 1])) for k in range(0, len(rows) - 1, 2)]


def test_it_keeps_the_promises_of_a_reward_model() -> None:
    reward, rows = settled(), clips(6)
    mask_BT = rows.mask_BT.clone()
    mask_BT[2, 3:] = False
    check_reward_model(reward, replace(rows, mask_BT=mask_BT))
    torch.testing.assert_close(reward(rows), reward.members(rows).mean(0))


def test_every_member_has_the_deviation_of_the_paper() -> None:
    reward, rows = settled(), clips(12)
    with torch.no_grad():
        reward.weights[-2][1] *= 100
    reward.measure_normaliser(rows)
    members_MN = reward.members(rows).flatten(1)
    torch.testing.assert_close(members_MN.mean(1), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(members_MN.std(1, correction=0), torch.full((2,), 0.05), atol=1e-5, rtol=0)


def test_one_pass_over_all_members_equals_each_alone() -> None:
    together, rows = settled(), clips(4)
    for member in range(2):
        alone = made(members=1)
        state = alone.state_dict()
        for name, value in together.state_dict().items():
            size = value.shape[0] // 2 if value.dim() and name not in ("input_mean",) else None
            state[name] = value if size is None else value[member * size : (member + 1) * size]
        alone.load_state_dict(state)
        torch.testing.assert_close(alone.raw_MBT(rows)[0], together.raw_MBT(rows)[member], atol=1e-5, rtol=1e-4)


def test_a_step_sees_the_picture_it_led_to_and_three_before_it() -> None:
    rows = clips(2)
    seen = stacks(rows)
    assert seen.shape == (2, STEPS, 4, 84, 84)
    assert torch.equal(seen[:, 4], rows.obs[:, 2:6]) and torch.equal(seen[:, 0, :3], rows.obs[:, [0, 0, 0]])
    reward = settled()
    before = reward.raw_MBT(rows)
    other = rows.obs.clone()
    other[:, 1] = 255 - other[:, 1]
    changed_T = (reward.raw_MBT(replace(rows, obs=other)) != before).any(0).any(0)
    assert changed_T.tolist() == [True, True, True, True, False]
    action = torch.ones_like(rows.action)
    assert torch.equal(reward.raw_MBT(replace(rows, action=action)), before)  # pictures alone


def scoring_leaves_it_alone(reward: PixelRewards) -> bool:
    """Return whether scoring rows changes no weight and no statistic."""
    state = {name: value.clone() for name, value in reward.state_dict().items()}
    reward(clips(7, seed=9))
    return all(torch.equal(state[name], value) for name, value in reward.state_dict().items())


def test_scoring_moves_nothing_and_a_planted_fault_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    reward = settled()
    assert scoring_leaves_it_alone(reward)
    plain = reward.raw_MBT

    def moving(episodes: Episodes) -> torch.Tensor:
        reward.settle(episodes)  # the statistics of whatever is scored
        return plain(episodes)

    monkeypatch.setattr(reward, "raw_MBT", moving)
    assert not scoring_leaves_it_alone(reward)


def test_dropout_is_off_while_scoring_and_a_planted_fault_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    reward, rows = settled(), clips(4)
    check_reward_model(reward, rows)
    rng = np.random.default_rng(0)
    first, second = (reward.fitting_MBT(rows, rng) for _ in range(2))
    assert not torch.equal(first, second) and first.requires_grad
    assert torch.equal(
        reward.fitting_MBT(rows, np.random.default_rng(1)), reward.fitting_MBT(rows, np.random.default_rng(1))
    )
    monkeypatch.setattr(reward, "raw_MBT", lambda episodes: reward.fitting_MBT(episodes, rng))
    with pytest.raises(AssertionError, match="dropout is on"):
        check_reward_model(reward, rows)


def test_without_dropout_a_fitted_batch_is_scored_as_it_was_fitted() -> None:
    reward, rows = made(dropout=0.0), clips(8)
    reward.scale_inputs(rows)
    reward.settle(rows)
    torch.testing.assert_close(
        reward.fitting_MBT(rows, np.random.default_rng(0)), reward.raw_MBT(rows), atol=1e-4, rtol=1e-3
    )


def test_steps_that_are_looked_at_stand_for_the_others() -> None:
    reward, rows = made(dropout=0.0, every=2), clips(4)
    found = {
        tuple((reward.fitting_MBT(rows, np.random.default_rng(seed)) != 0).any(0).any(0).tolist()) for seed in range(8)
    }
    assert found == {(True, False, True, False, True), (False, True, False, True, False)}
    same = replace(rows, obs=rows.obs[:, :1].expand(-1, STEPS + 1, -1, -1))  # every step alike: the sum is exact
    whole = made(dropout=0.0).fitting_MBT(same, np.random.default_rng(0)).sum(-1)
    torch.testing.assert_close(reward.fitting_MBT(same, np.random.default_rng(0)).sum(-1), whole, atol=1e-4, rtol=1e-3)


def test_it_learns_what_was_preferred_on_clips_it_has_not_seen() -> None:
    rows, held = clips(60), clips(40, seed=1)
    reward = made()
    fit = ClipFit(reward, replace(SMALL, first_steps=60))
    both = concat([rows, held])
    pairs, apart = judged(rows), judged(both)[30:]
    stats = fit(Shelf(both), pairs, apart, np.random.default_rng(0))  # type: ignore[arg-type]
    assert stats["held_out_accuracy"] > 0.8 and stats["held_out_n"] == 20


def test_a_fit_goes_on_from_its_saved_state() -> None:
    rows = clips(12)
    config, pairs = replace(SMALL, first_steps=2, l2=1e-4), judged(rows)
    one, other = made(), made()
    fits = [ClipFit(one, config), ClipFit(other, config)]
    for fit in fits:
        fit(Shelf(rows), pairs, pairs[:2], np.random.default_rng(0))  # type: ignore[arg-type]
    third_reward = made(seed=9)
    third = ClipFit(third_reward, config)
    third_reward.load_state_dict(one.state_dict())
    third.load_state_dict(fits[0].state_dict())
    for fit in (fits[1], third):
        fit(Shelf(rows), pairs, pairs[:2], np.random.default_rng(1))  # type: ignore[arg-type]
    assert all(
        torch.equal(a, b) for a, b in zip(other.state_dict().values(), third_reward.state_dict().values(), strict=True)
    )


def test_null_baselines_find_what_a_mean_picture_tells_and_no_more() -> None:
    rows = clips(200)
    pairs = judged(rows)
    inside, held = (Rows.of(Shelf(rows), part) for part in (pairs[:70], pairs[70:]))  # type: ignore[arg-type]
    right = {
        name: float((np.sign(delta) == np.sign(held.share_B.numpy() - 0.5)).mean())
        for name, delta in pixel_baseline_deltas(inside, held).items()
    }
    assert set(right) == {"majority", "brightness", "mean_picture", "motion"}
    assert right["mean_picture"] > 0.8 and right["brightness"] < 0.75


def test_wrong_settings_and_pictures_are_refused() -> None:
    for wrong in ({"filters": 0}, {"dropout": 1.0}, {"every": 0}, {"members": 0}):
        with pytest.raises(ConfigError):
            PixelFitConfig(**wrong)  # type: ignore[arg-type]
    rows = clips(2)
    with pytest.raises(DataError, match="expected bytes, 84 by 84"):
        made().scale_inputs(replace(rows, obs=rows.obs.float()))
    with pytest.raises(DataError, match="all pictures are the same"):
        made().scale_inputs(replace(rows, obs=torch.zeros_like(rows.obs)))
    with pytest.raises(DataError, match="no normaliser"):
        made()(rows)


FRESH = """
import json, sys
import numpy as np, torch
from backflip.data import Item
from backflip.rewards.pixels import PixelFitConfig, PixelRewards
from backflip.worlds.atari import AtariWorld
config = PixelFitConfig(members=2, filters=2, hidden=4)
world = AtariWorld("pong", environments=1, steps=5, seed=77, threads=1)
rows = world.load([Item(**json.loads(line)) for line in open(sys.argv[1])])
reward = PixelRewards(config, np.random.default_rng(0))
reward.scale_inputs(rows); reward.settle(rows); reward.measure_normaliser(rows)
print(json.dumps(reward(rows).tolist()))
"""


def test_a_clip_that_was_shown_has_equal_rewards_in_a_fresh_process(tmp_path: Path) -> None:
    pytest.importorskip("ale_py")
    from backflip.policies.scripted import ScriptedPlayer, do
    from backflip.worlds.atari import AtariWorld
    from backflip.worlds.control import cut

    world = AtariWorld("pong", environments=2, steps=60, threads=1)
    rows = cut(
        world.collect(ScriptedPlayer(do(0), 6, 1.0), 2, np.random.default_rng(0)), 10, 6, np.random.default_rng(1)
    )
    kept = tmp_path / "items.jsonl"
    kept.write_text("".join(json.dumps(vars(item)) + "\n" for item in world.show(rows)), encoding="utf-8")
    done = subprocess.run([sys.executable, "-c", FRESH, str(kept)], capture_output=True, text=True, check=True)
    reward = made(dropout=0.5)
    reward.scale_inputs(rows)
    reward.settle(rows)
    reward.measure_normaliser(rows)
    assert json.loads(done.stdout) == reward(rows).tolist()
