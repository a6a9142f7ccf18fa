"""How what several reward models say becomes one reward.

Shapes: M members, B rows.
"""

from __future__ import annotations

import pytest
import torch

from backflip.errors import ConfigError
from backflip.rewards.ensemble import EnsembleRule, Mean, Uncertain, Worst, check_rule

SCORE_MB = torch.tensor([[1.0, 0.0, 2.0], [1.0, 4.0, -2.0]])
"""Two members that agree on the first row, and on no other."""


def test_rules_say_what_they_are() -> None:
    assert Mean().of(SCORE_MB).tolist() == [1.0, 2.0, 0.0]
    assert Worst().of(SCORE_MB).tolist() == [1.0, 0.0, -2.0]
    assert Uncertain(0.5).of(SCORE_MB).tolist() == [1.0, 2.0 - 0.5 * 4.0, 0.0 - 0.5 * 4.0]


@pytest.mark.parametrize("rule", [Worst(), Uncertain()])
def test_caution_lowers_the_reward_where_members_disagree_and_nowhere_else(rule: EnsembleRule) -> None:
    lowered = Mean().of(SCORE_MB) - rule.of(SCORE_MB)
    assert lowered[0] == 0 and (lowered[1:] > 0).all()


def test_an_ensemble_of_one_and_a_reward_for_being_unsure_are_refused() -> None:
    check_rule(Mean(), 1)
    for rule in (Worst(), Uncertain()):
        with pytest.raises(ConfigError, match="an ensemble of one never disagrees"):
            check_rule(rule, 1)
    with pytest.raises(ConfigError, match=r"ensemble\.weight is -1, expected 0 or more"):
        Uncertain(-1)
