"""The policy that looks everything up."""

from __future__ import annotations

import numpy as np
import torch

from backflip.data import Episodes
from backflip.policies.tabular import TablePolicy
from backflip.testing import check_policy


def table(seed: int = 0) -> TablePolicy:
    policy = TablePolicy(torch.tensor([1.0, 2.0, 3.0]), 7, 5)
    with torch.no_grad():
        policy.logits_NA.copy_(torch.from_numpy(np.random.default_rng(seed).normal(0, 1, (7, 5))))
        policy.value_N.copy_(torch.arange(7.0))
    return policy


def seen(rows: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).integers(0, 2, (rows, 1, 3))).float()


def test_it_keeps_the_promises_of_a_policy() -> None:
    check_policy(table(), seen(64))


def test_it_looks_up_what_is_seen() -> None:
    policy, obs = table(), seen(20)
    act = policy.act(obs, np.random.default_rng(0))
    assert act.value_BT is not None
    assert act.value_BT[:, 0].tolist() == (obs[:, 0] @ policy.code_F).tolist()


def test_a_slipping_hand_mixes_in_random_actions_and_leaves_its_owner_alone() -> None:
    policy = table()
    before = policy.probability_NA()
    slipping = policy.slipping(0.3)
    assert torch.allclose(slipping.probability_NA(), 0.7 * before + 0.3 / 5, atol=1e-6)
    assert torch.equal(policy.probability_NA(), before)
    assert torch.allclose(policy.slipping(1.0).probability_NA(), torch.full((7, 5), 0.2, dtype=torch.float64))


def test_kl_to_another_table_is_that_of_its_rows() -> None:
    ours, theirs, obs = table(0), table(1), seen(4)
    act = ours.act(obs, np.random.default_rng(0))
    rows = Episodes(obs, act.action, act.mask_BT, act.logp_BT, torch.zeros(4), torch.arange(4))
    p_NA, q_NA = ours.probability_NA(), theirs.probability_NA()
    expected = (p_NA * (p_NA / q_NA).log()).sum(1)[ours.place(obs[:, 0])]
    assert torch.allclose(ours.kl_BT(theirs, rows)[:, 0].double(), expected, atol=1e-5)
