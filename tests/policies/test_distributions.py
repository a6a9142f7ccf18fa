"""What actors draw from: exact KL and entropy, one distribution in numpy and torch, and files of both kinds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Normal, kl_divergence

from backflip.data import Episodes
from backflip.optimise import ppo
from backflip.policies.actor_critic import ActorCritic, ActorCriticConfig
from backflip.policies.distributions import Categorical, Gaussian
from backflip.testing import check_policy

FEATURES, ACTIONS = 3, 5


def policy_of(seed: int, *, discrete: bool) -> ActorCritic:
    config = ActorCriticConfig(hidden=8, first_gain=1.0)
    return ActorCritic(FEATURES, ACTIONS, config, np.random.default_rng(seed), discrete=discrete)


def rows_of(policy: ActorCritic, rows: int = 64, steps: int = 4) -> Episodes:
    rng = np.random.default_rng(0)
    obs = torch.from_numpy(rng.standard_normal((rows, steps + 1, FEATURES)).astype(np.float32))
    acts = [policy.act(obs[:, step : step + 1], rng) for step in range(steps)]
    values = [act.value_BT for act in acts if act.value_BT is not None]
    return Episodes(
        obs,
        torch.cat([act.action for act in acts], 1),
        torch.ones(rows, steps, dtype=torch.bool),
        torch.cat([act.logp_BT for act in acts], 1),
        torch.zeros(rows),
        torch.arange(rows),
        torch.cat(values, 1),
    )


@pytest.mark.parametrize("discrete", [False, True])
def test_both_keep_the_promises_of_a_policy(discrete: bool) -> None:
    check_policy(
        policy_of(0, discrete=discrete), torch.randn(96, 1, FEATURES, generator=torch.Generator().manual_seed(0))
    )


def test_choices_are_vectors_with_one_one_drawn_as_often_as_their_probability_says() -> None:
    logit = np.log(np.array([[0.5, 0.3, 0.15, 0.05]], dtype=np.float32)) + 7
    action_BA, logp_B = Categorical().draw(np.repeat(logit, 20_000, 0), np.random.default_rng(0))
    assert set(np.unique(action_BA)) == {0.0, 1.0} and (action_BA.sum(1) == 1).all()
    np.testing.assert_allclose(action_BA.mean(0), [0.5, 0.3, 0.15, 0.05], atol=0.015)
    np.testing.assert_allclose(np.exp(logp_B), action_BA @ np.array([0.5, 0.3, 0.15, 0.05]), rtol=1e-5)
    one_BA, _ = Categorical().draw(np.full((3, 1), 2.0, dtype=np.float32), np.random.default_rng(0))
    assert one_BA.tolist() == [[1.0]] * 3


def test_log_probability_entropy_and_kl_are_those_of_torch() -> None:
    ours, theirs = torch.randn(2, 6, 4, ACTIONS, generator=torch.Generator().manual_seed(1))
    taken = torch.nn.functional.one_hot(torch.arange(24).reshape(6, 4) % ACTIONS, ACTIONS).float()
    choice, known = Categorical(), TorchCategorical(logits=ours)
    torch.testing.assert_close(choice.logp_BT(ours, taken), known.log_prob(taken.argmax(-1)))
    torch.testing.assert_close(choice.entropy(ours), known.entropy())
    torch.testing.assert_close(
        choice.kl_BT(ours, choice, theirs), kl_divergence(known, TorchCategorical(logits=theirs))
    )
    stds = [
        torch.nn.Parameter(torch.linspace(-1, 0.5, ACTIONS)),
        torch.nn.Parameter(torch.linspace(0.3, -0.3, ACTIONS)),
    ]
    one, two = Gaussian(stds[0]), Gaussian(stds[1])
    first, second = Normal(ours, stds[0].sigmoid()), Normal(theirs, stds[1].sigmoid())
    torch.testing.assert_close(one.logp_BT(ours, theirs), first.log_prob(theirs).sum(-1))
    torch.testing.assert_close(one.entropy(ours), first.entropy()[0, 0].sum(-1))
    torch.testing.assert_close(one.kl_BT(ours, two, theirs), kl_divergence(first, second).sum(-1))


def test_ppo_takes_choices_and_the_ratio_before_the_first_step_is_one() -> None:
    policy = policy_of(1, discrete=True)
    rows = rows_of(policy)
    before = policy.evaluate(rows).logp_BT.detach()
    wanted = rows.action[..., 2]
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
    stats = ppo.update(policy, optimizer, rows, wanted, ppo.PPOConfig(gamma=0.0, lam=0.0))
    assert stats["ratio_max_error"] < 1e-5 and stats["entropy_nats"] <= np.log(ACTIONS)
    after = policy.evaluate(rows).logp_BT.detach()
    assert (after - before)[wanted == 1].mean() > 0.02  # what was paid for is now likelier
    with pytest.raises(Exception, match="ratio"):
        ppo.update(policy, optimizer, replace(rows, logp_BT=before - 0.01), wanted, ppo.PPOConfig())


@pytest.mark.parametrize("discrete", [False, True])
def test_files_of_both_kinds_are_read_back(tmp_path: Path, discrete: bool) -> None:
    policy = policy_of(2, discrete=discrete)
    rows = rows_of(policy)
    policy.learn_scale(rows)
    policy.save(tmp_path / "policy")
    again = ActorCritic.load(tmp_path / "policy")
    assert isinstance(again.actions, Categorical) == discrete
    assert torch.equal(again.evaluate(rows).logp_BT, policy.evaluate(rows).logp_BT)
    assert float(again.kl_BT(policy, rows).abs().max()) == 0


def test_no_deviation_grows_beyond_the_range_of_an_action_however_it_is_paid_for() -> None:
    normal = Gaussian.of(ACTIONS, 0.6)
    np.testing.assert_allclose(normal.log_std_A.detach().exp().numpy(), 0.6, rtol=1e-6)
    optimizer = torch.optim.SGD([normal.free_A], lr=5.0)
    for _ in range(50):
        optimizer.zero_grad()
        (-normal.entropy(torch.zeros(1))).backward()
        optimizer.step()
    assert 0.9 < float(normal.log_std_A.detach().exp().max()) <= 1.0
    optimizer.zero_grad()
    normal.entropy(torch.zeros(1)).backward()
    assert normal.free_A.grad is not None and bool((normal.free_A.grad > 0).all())  # it can come down again
