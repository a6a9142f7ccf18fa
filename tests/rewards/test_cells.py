"""A reward a cell from comparisons of walks: what Bradley-Terry says, and no more than was asked."""

import numpy as np
import pytest
import torch

from backflip.errors import ConfigError, DataError
from backflip.policies.rooms_policy import StatePolicy
from backflip.rewards.cells import CellReward, fit_cells
from backflip.rewards.comparisons import Comparison
from backflip.worlds.rooms import Rooms, RoomsConfig

SMALL = "#####\n#S..#\n#..G#\n#####"


def judged(rooms: Rooms, worth_C: np.ndarray, count: int) -> list[Comparison]:
    """Comparisons whose shares are exactly what these rewards say."""
    policy = StatePolicy(rooms.states, rooms.actions, rooms.config.horizon)
    rows = rooms.collect(policy, 2 * count, np.random.default_rng(0), anywhere=True)
    items, total = rooms.show(rows), worth_C[rows.obs[:, 1:, 0].numpy()].sum(1)
    share = 1 / (1 + np.exp(total[1::2] - total[::2]))
    return [Comparison(a, b, float(p)) for a, b, p in zip(items[::2], items[1::2], share, strict=True)]


def test_exact_shares_bring_the_reward_back_but_for_a_constant() -> None:
    rooms = Rooms(RoomsConfig(plan=SMALL, horizon=6))
    worth_C = np.random.default_rng(1).normal(size=rooms.cells)
    reward, stats = fit_cells(rooms, judged(rooms, worth_C, 400), l2=1e-6)
    found = reward.reward_C.numpy()
    assert np.abs((found - found.mean()) - (worth_C - worth_C.mean())).max() < 0.02
    assert stats["accuracy"] == 1.0 and stats["n"] == 400


def test_the_fit_is_where_the_gradient_is_nothing() -> None:
    rooms = Rooms(RoomsConfig(plan=SMALL, horizon=6))
    pairs = judged(rooms, np.arange(rooms.cells, dtype=float), 30)
    reward, _ = fit_cells(rooms, pairs, l2=0.5)
    gradient = 2 * 0.5 * reward.reward_C.numpy()
    for pair in pairs:
        a, b = (
            np.bincount([one[0] for one in item.payload["obs"][1:]], minlength=rooms.cells)
            for item in (pair.first, pair.second)
        )
        p = 1 / (1 + np.exp(-float((a - b) @ reward.reward_C.numpy())))
        gradient = gradient + (p - pair.share) * (a - b)
    assert np.abs(gradient).max() < 1e-4


def test_nothing_to_learn_from_is_said() -> None:
    rooms = Rooms(RoomsConfig(plan=SMALL))
    with pytest.raises(DataError, match="no comparisons"):
        fit_cells(rooms, [])
    with pytest.raises(ConfigError, match="l2"):
        fit_cells(rooms, judged(rooms, np.zeros(rooms.cells), 2), l2=0)
    with pytest.raises(DataError, match="expected one a cell"):
        CellReward(rooms, torch.zeros(3))
