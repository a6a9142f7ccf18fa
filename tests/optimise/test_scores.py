"""Score rules: clip, and rows that never ended."""

import numpy as np
import pytest
import torch

from backflip.data import Episodes
from backflip.errors import ConfigError, DataError
from backflip.optimise import scores
from backflip.worlds.enumerable import END, EnumerableWorld, TableReward, TabularPolicy


def setting() -> tuple[Episodes, torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    world = EnumerableWorld(3, 3)
    episodes = world.collect(TabularPolicy(world), 60, rng)
    reward_BT = TableReward(world, torch.tensor(rng.normal(0, 3, (1, len(world.completions)))))(episodes)
    return episodes, reward_BT, (episodes.action == END).any(1)


def test_default_changes_nothing_and_counts_what_did_not_end() -> None:
    episodes, reward_BT, ended_B = setting()
    shaped_BT, stats = scores.apply_rules(reward_BT, episodes, ended_B, scores.ScoreRules())
    assert torch.equal(shaped_BT, reward_BT)
    assert stats["missing_end_fraction"] == pytest.approx(float((~ended_B).float().mean()))
    assert 0 < stats["missing_end_fraction"] < 1 and stats["score_clipped_fraction"] == 0


def test_replace_and_subtract_differ_as_they_say() -> None:
    episodes, reward_BT, ended_B = setting()
    replaced_BT, _ = scores.apply_rules(reward_BT, episodes, ended_B, scores.ScoreRules(missing_end="replace"))
    torch.testing.assert_close(replaced_BT.sum(1), torch.where(ended_B, reward_BT.sum(1), -1.0))
    rules = scores.ScoreRules(missing_end="subtract", missing_end_value=2.0)
    lowered_BT, _ = scores.apply_rules(reward_BT, episodes, ended_B, rules)
    torch.testing.assert_close(lowered_BT.sum(1), reward_BT.sum(1) - 2.0 * (~ended_B))
    for shaped_BT in (replaced_BT, lowered_BT):
        assert (shaped_BT[~episodes.mask_BT] == 0).all()


def test_clip_is_logged_with_the_unclipped_mean() -> None:
    episodes, reward_BT, ended_B = setting()
    shaped_BT, stats = scores.apply_rules(reward_BT, episodes, ended_B, scores.ScoreRules(clip=1.0))
    score_B = reward_BT.sum(1)
    torch.testing.assert_close(shaped_BT.sum(1), score_B.clamp(-1, 1))
    assert stats["score_mean"] == pytest.approx(float(score_B.mean()), abs=1e-6)
    assert stats["score_clipped_fraction"] == pytest.approx(float((score_B.abs() > 1).float().mean()))


def test_senseless_rules_and_empty_rows_are_refused() -> None:
    episodes, reward_BT, ended_B = setting()
    with pytest.raises(ConfigError, match="clip"):
        scores.ScoreRules(clip=0)
    with pytest.raises(ConfigError, match="rewards rows without an end"):
        scores.ScoreRules(missing_end="subtract")
    mask_BT = episodes.mask_BT.clone()
    mask_BT[3] = False
    reward_BT[3] = 0
    empty = Episodes(episodes.obs, episodes.action, mask_BT, None, episodes.bootstrap_B, episodes.group_B)
    with pytest.raises(DataError, match="row 3 holds no decision"):
        scores.apply_rules(reward_BT, empty, ended_B, scores.ScoreRules())
