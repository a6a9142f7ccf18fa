"""A function as a reward, and weighted sums with their parts apart."""

import math
import sys
from typing import Any, cast

import numpy as np
import pytest
import torch

from backflip.data import Episodes
from backflip.errors import ConfigError, DataError
from backflip.protocols import RewardModel
from backflip.rewards.combine import FunctionReward, WeightedRewards


@pytest.fixture
def episodes(world: Any, answer: Any) -> Episodes:
    return world.load([answer("the film", "good"), answer("a story", "was very very good"), answer("the film", "dull")])


def words(prompt: str, text: str) -> float:
    return float(len(text.split()))


def test_the_score_stands_on_the_last_decision(world: Any, episodes: Episodes):
    reward = FunctionReward(words, world)
    assert isinstance(reward, RewardModel)
    reward_BT = reward(episodes)
    assert reward_BT.sum(1).tolist() == [1, 4, 1]
    assert [int(row.nonzero()) for row in reward_BT] == (episodes.mask_BT.sum(1) - 1).tolist()


def test_the_function_gets_prompt_and_answer(world: Any, episodes: Episodes):
    seen: list[tuple[str, str]] = []
    FunctionReward(lambda prompt, text: seen.append((prompt, text)) or 0.0, world)(episodes)
    assert seen == [("the film", "good"), ("a story", "was very very good"), ("the film", "dull")]


@pytest.mark.parametrize("said", [None, math.nan, math.inf, "good", 1 + 2j])
def test_what_cannot_be_scored_is_named_by_its_row(world: Any, episodes: Episodes, said: Any):
    with pytest.raises(DataError, match=r"row 2.*dull"):
        FunctionReward(lambda _, text: said if text == "dull" else 1.0, world)(episodes)


def test_an_exception_names_its_row(world: Any, episodes: Episodes):
    with pytest.raises(DataError, match=r"row 1.*ZeroDivisionError"):
        FunctionReward(lambda _, text: 1 / (4 - len(text.split())), world)(episodes)


def test_numbers_of_numpy_are_numbers_and_an_exit_is_a_failure(world: Any, episodes: Episodes):
    assert FunctionReward(lambda *_: cast(float, np.float32(2)), world)(episodes).sum(1).tolist() == [2, 2, 2]
    with pytest.raises(DataError, match=r"row 0.*SystemExit"):
        FunctionReward(lambda *_: sys.exit(0), world)(episodes)


def test_weights_add_up_and_parts_are_reported(world: Any, episodes: Episodes):
    parts = {
        "words": (2.0, FunctionReward(words, world)),
        "dull": (-3.0, FunctionReward(lambda _, t: float("dull" in t), world)),
    }
    reward_BT, stats = WeightedRewards(parts).scored(episodes)
    assert reward_BT.sum(1).tolist() == [2, 8, -1]
    assert stats["reward_words_mean"] == 2 and stats["reward_dull_mean"] == pytest.approx(1 / 3)
    assert stats["reward_words_std"] == pytest.approx(math.sqrt(2))
    torch.testing.assert_close(WeightedRewards(parts)(episodes), reward_BT)


def test_no_parts_or_no_finite_weight_is_refused(world: Any):
    with pytest.raises(ConfigError):
        WeightedRewards({})
    with pytest.raises(ConfigError):
        WeightedRewards({"words": (math.nan, FunctionReward(words, world))})
