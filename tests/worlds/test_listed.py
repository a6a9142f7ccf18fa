"""Listed worlds: what is exact, against sampling and against every path written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from backflip.errors import ConfigError, DataError
from backflip.worlds.listed import Listed, action_values, best, greedy, reach, rollouts, table_policy, uniform, value


def world() -> Listed:
    """From 0 a sure way to 1 and a gamble between 1 and 2; 1 and 2 pay by their action and end in 3."""
    next_SAK = np.array([[[1, 1], [1, 2]], [[3, 3], [3, 3]], [[3, 3], [3, 3]], [[3, 3], [3, 3]]])
    chance_SAK = np.full((4, 2, 2), 0.5)
    chance_SAK[0, 1] = 0.25, 0.75
    reward_SAK = np.zeros((4, 2, 2))
    reward_SAK[0, 0], reward_SAK[1, 1], reward_SAK[2, 0] = 0.5, 2.0, 4.0
    return Listed(next_SAK, chance_SAK, reward_SAK, np.array([1.0, 0, 0, 0]), np.array([False, False, False, True]))


def test_values_are_those_of_every_path_written_out() -> None:
    policy_SA = np.array([[0.4, 0.6], [0.3, 0.7], [0.9, 0.1], [0.5, 0.5]])
    at_1, at_2 = 0.7 * 2.0, 0.9 * 4.0
    q_SA = action_values(world(), policy_SA)
    assert q_SA[0] == pytest.approx([0.5 + at_1, 0.25 * at_1 + 0.75 * at_2])
    assert value(world(), policy_SA) == pytest.approx(0.4 * (0.5 + at_1) + 0.6 * (0.25 * at_1 + 0.75 * at_2))
    assert reach(world(), policy_SA, 0, 2) == pytest.approx(0.6 * 0.75)
    assert reach(world(), policy_SA, 0, 3) == pytest.approx(1)


def test_no_deterministic_policy_is_better_than_the_best() -> None:
    found = value(world(), best(world()))
    for number in range(8):
        policy_SA = np.eye(2)[[number & 1, number >> 1 & 1, number >> 2 & 1, 0]]
        assert value(world(), policy_SA) <= found + 1e-12
    assert found == pytest.approx(0.25 * 2 + 0.75 * 4)
    assert greedy(np.array([1.0, 1.0, 0.0])) == pytest.approx([0.5, 0.5, 0])


def test_rows_are_paid_what_is_expected_and_nothing_once_it_is_over() -> None:
    policy_SA = np.array([[0.4, 0.6], [0.3, 0.7], [0.9, 0.1], [0.5, 0.5]])
    rows = rollouts(world(), table_policy(world(), policy_SA), 20_000, np.random.default_rng(0))
    assert rows.reward_BT is not None and rows.logp_BT is not None
    assert float(rows.reward_BT.sum(1).mean()) == pytest.approx(value(world(), policy_SA), abs=0.03)
    assert (rows.mask_BT.sum(1) == 2).all() and (rows.reward_BT[~rows.mask_BT] == 0).all()
    assert (rows.logp_BT[~rows.mask_BT] == 0).all() and (rows.bootstrap_B == 0).all()
    evaluated = table_policy(world(), policy_SA).evaluate(rows)
    assert torch.allclose(evaluated.logp_BT, rows.logp_BT, atol=1e-6)


def test_a_row_that_is_cut_goes_on_in_the_critics_value() -> None:
    policy = table_policy(world(), uniform(world()))
    with torch.no_grad():
        policy.value_N.copy_(torch.tensor([9.0, 1.0, 2.0, 9.0]))
    rows = rollouts(world(), policy, 200, np.random.default_rng(0), cut=1)
    assert rows.mask_BT.shape == (200, 1)
    assert torch.equal(rows.bootstrap_B, rows.obs[:, 1, 0])


def test_what_is_no_world_is_refused() -> None:
    good = vars(world())
    for change, words in (
        ({"chance_SAK": np.full((4, 2, 2), 0.4)}, "sum to 1"),
        ({"start_S": np.array([0.0, 0, 0, 1])}, "no episode may begin"),
        ({"next_SAK": np.zeros((4, 2, 2), dtype=int)}, "later state"),
        ({"reward_SAK": np.full((4, 2, 2), np.nan)}, "not finite"),
    ):
        with pytest.raises(DataError, match=words):
            Listed(**{**good, **change})
    with pytest.raises(ConfigError, match="0 rows"):
        rollouts(world(), table_policy(world()), 0, np.random.default_rng(0))
