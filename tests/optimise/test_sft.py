"""Supervised tuning: reaches what it is shown, with weights, and refuses what has no optimum."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from backflip.data import Episodes
from backflip.errors import ConfigError, DataError
from backflip.optimise import sft
from backflip.worlds.enumerable import EnumerableWorld, TableReward, TabularPolicy


def last_decision(episodes: Episodes, weight_B: torch.Tensor) -> torch.Tensor:
    reward_BT = torch.zeros(episodes.mask_BT.shape)
    reward_BT[torch.arange(len(episodes)), episodes.mask_BT.sum(1) - 1] = weight_B
    return reward_BT


def test_weighted_tuning_reaches_the_weighted_distribution() -> None:
    """On every answer once, weighted by p, the optimum is p itself: sft on rated samples is conditioning."""
    rng = np.random.default_rng(0)
    world = EnumerableWorld(3, 3, 2)
    target_KC = torch.softmax(torch.tensor(rng.normal(0, 1, (2, len(world.completions)))), -1)
    target_KC[:, ::4] = 0
    target_KC = target_KC / target_KC.sum(1, keepdim=True)
    everything = world.everything()
    reward_BT = TableReward(world, target_KC)(everything)
    policy = TabularPolicy(world, rng)
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.1, eps=1e-8)
    config = sft.SFTConfig(epochs=600, aggregate="constant", constant_length=1)
    first = sft.update(policy, optimizer, everything, reward_BT, replace(config, epochs=1))
    last = sft.update(policy, optimizer, everything, reward_BT, config)
    distance_K = 0.5 * (policy.completion_logp_KC().detach().exp() - target_KC).abs().sum(1)
    assert float(distance_K.max()) < 0.01
    assert last["loss"] < first["loss"]


def test_gradient_is_that_of_the_mean_negative_log_probability() -> None:
    world = EnumerableWorld(3, 3)
    rng = np.random.default_rng(0)
    policy = TabularPolicy(world, rng)
    rows = world.collect(TabularPolicy(world), 30, rng)
    before = policy.logits_KXV.detach().clone()
    (-policy.evaluate(rows).logp_BT[rows.mask_BT].mean()).backward()
    assert policy.logits_KXV.grad is not None
    expected = before - policy.logits_KXV.grad
    optimizer = torch.optim.SGD(policy.parameters(), lr=1.0)
    config = sft.SFTConfig(max_grad_norm=float("inf"), tokens_per_microbatch=13)
    stats = sft.update(policy, optimizer, rows, last_decision(rows, torch.ones(30)), config)
    torch.testing.assert_close(policy.logits_KXV.detach(), expected)
    assert stats["nats_per_token"] == pytest.approx(stats["loss"], rel=1e-5)


def test_rows_of_weight_zero_are_left_out() -> None:
    world = EnumerableWorld(3, 3)
    rows = world.collect(TabularPolicy(world), 30, np.random.default_rng(0))
    weight_B = (torch.arange(30) < 20).float()
    config = sft.SFTConfig(aggregate="constant", constant_length=3, max_grad_norm=float("inf"))
    moved: list[torch.Tensor] = []
    for part, weights, scale in ((rows, weight_B, 1.0), (rows.select(range(20)), torch.ones(20), 20 / 30)):
        policy = TabularPolicy(world, np.random.default_rng(1))
        optimizer = torch.optim.SGD(policy.parameters(), lr=1.0 * scale)
        sft.update(policy, optimizer, part, last_decision(part, weights), config)
        moved.append(policy.logits_KXV.detach())
    torch.testing.assert_close(moved[0], moved[1])


def test_senseless_weights_are_refused() -> None:
    world = EnumerableWorld(3, 3)
    policy = TabularPolicy(world)
    rows = world.collect(policy, 6, np.random.default_rng(0))
    optimizer = torch.optim.SGD(policy.parameters(), lr=1.0)
    for weights in (torch.tensor([1.0, 1, 1, 1, 1, -1]), torch.zeros(6)):
        with pytest.raises(ConfigError, match="row weights"):
            sft.update(policy, optimizer, rows, last_decision(rows, weights), sft.SFTConfig())
    with pytest.raises(DataError, match="not finite"):
        sft.update(policy, optimizer, rows, last_decision(rows, torch.full((6,), float("nan"))), sft.SFTConfig())
    wrongs: list[dict[str, Any]] = [{"epochs": 0}, {"max_grad_norm": 0.0}]
    for wrong in wrongs:
        with pytest.raises(ConfigError):
            sft.SFTConfig(**wrong)
