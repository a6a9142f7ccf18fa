"""Best-of-n: the choice itself. What it is worth and what it costs is tested with the closed forms."""

import numpy as np
import pytest
import torch

from backflip.errors import DataError
from backflip.optimise import best_of_n
from backflip.worlds.enumerable import EnumerableWorld, TableReward, TabularPolicy


def test_each_group_keeps_its_best_and_the_first_of_equals() -> None:
    rng = np.random.default_rng(0)
    world = EnumerableWorld(3, 2, prompts=2, group_size=4)
    episodes = world.collect(TabularPolicy(world), 40, rng)
    reward_BT = TableReward(world, torch.tensor(rng.integers(0, 3, (2, len(world.completions)))))(episodes)
    picked = best_of_n.choose(episodes, reward_BT)
    score_B = reward_BT.sum(1).tolist()
    groups = [range(start, start + 4) for start in range(0, 40, 4)]
    assert picked.tolist() == [max(rows, key=lambda row: (score_B[row], -row)) for rows in groups]
    assert episodes.select(picked).group_B.tolist() == list(range(10))


def test_groups_need_not_lie_together() -> None:
    world = EnumerableWorld(3, 2, group_size=2)
    episodes = world.collect(TabularPolicy(world), 6, np.random.default_rng(0)).select([0, 2, 4, 1, 3, 5])
    reward_BT = torch.zeros(episodes.mask_BT.shape)
    reward_BT[:, 0] = torch.tensor([0.0, 5.0, 1.0, 1.0, 4.0, 0.0])
    assert best_of_n.choose(episodes, reward_BT).tolist() == [3, 1, 2]


def test_scores_that_are_no_numbers_are_refused() -> None:
    world = EnumerableWorld(3, 2)
    episodes = world.collect(TabularPolicy(world), 3, np.random.default_rng(0))
    reward_BT = torch.zeros(episodes.mask_BT.shape)
    reward_BT[1, 0] = float("nan")
    with pytest.raises(DataError, match="row 1 is not finite"):
        best_of_n.choose(episodes, reward_BT)
