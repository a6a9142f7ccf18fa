"""The KL penalty: sign, sum, and the two controllers."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from backflip.data import Episodes
from backflip.errors import ConfigError, DataError
from backflip.optimise import kl
from backflip.optimise.step import evaluate_all
from backflip.worlds.enumerable import EnumerableWorld, TableReward, TabularPolicy, exact_kl


def sampled(rows: int = 64, seed: int = 0) -> tuple[TabularPolicy, TabularPolicy, Episodes, torch.Tensor]:
    rng = np.random.default_rng(seed)
    world = EnumerableWorld(3, 3, 2)
    policy, reference = TabularPolicy(world, rng), TabularPolicy(world, rng)
    episodes = world.collect(policy, rows, rng)
    ref_logp_BT = evaluate_all(reference, episodes, tokens_per_microbatch=10_000).logp_BT
    episodes = replace(episodes, ref_logp_BT=ref_logp_BT)
    reward_BT = TableReward(world, torch.tensor(rng.normal(size=(2, len(world.completions)))))(episodes)
    return policy, reference, episodes, reward_BT


def test_reward_sum_is_score_minus_beta_times_kl() -> None:
    _, _, episodes, reward_BT = sampled()
    assert episodes.logp_BT is not None and episodes.ref_logp_BT is not None
    shaped_BT = kl.shape_reward(reward_BT, episodes, 0.3)
    for row in range(len(episodes)):
        mask = episodes.mask_BT[row]
        total = float(episodes.logp_BT[row][mask].sum() - episodes.ref_logp_BT[row][mask].sum())
        assert float(shaped_BT[row].sum()) == pytest.approx(float(reward_BT[row].sum()) - 0.3 * total, abs=1e-5)
    assert (shaped_BT[~episodes.mask_BT] == 0).all()


def test_k1_averages_to_the_exact_kl_with_its_sign() -> None:
    policy, reference, episodes, _ = sampled(rows=40_000)
    exact_K = exact_kl(policy.completion_logp_KC().detach(), reference.completion_logp_KC().detach())
    k1_B = kl.k1_nats_B(episodes)
    for prompt in range(2):
        rows = episodes.obs[:, -1] == prompt
        error = float(k1_B[rows].std()) / int(rows.sum()) ** 0.5
        assert float(k1_B[rows].mean()) == pytest.approx(float(exact_K[prompt]), abs=5 * error)
    assert (exact_K > 0.1).all()


def test_a_policy_that_drifted_is_paid_less() -> None:
    _, _, episodes, reward_BT = sampled(rows=40_000)
    assert kl.shape_reward(reward_BT, episodes, 0.3).sum() < reward_BT.sum()


def test_own_reference_costs_nothing() -> None:
    policy, _, episodes, reward_BT = sampled()
    own = evaluate_all(policy, episodes, tokens_per_microbatch=10_000)
    same = replace(episodes, ref_logp_BT=own.logp_BT)
    torch.testing.assert_close(kl.shape_reward(reward_BT, same, 0.3), reward_BT)


def test_missing_reference_is_said() -> None:
    _, _, episodes, reward_BT = sampled()
    with pytest.raises(DataError, match="no ref_logp_BT"):
        kl.shape_reward(reward_BT, replace(episodes, ref_logp_BT=None), 0.1)
    with pytest.raises(DataError, match="no logp_BT"):
        kl.shape_reward(reward_BT, replace(episodes, logp_BT=None), 0.1)


def test_adaptive_controller_follows_its_formula() -> None:
    control = kl.AdaptiveKL(beta=0.15, target_kl_nats_per_sequence=6.0, horizon_episodes=10_000)
    assert control.after(6.0, 512).beta == pytest.approx(0.15)
    assert control.after(6.6, 512).beta == pytest.approx(0.15 * (1 + 0.1 * 512 / 10_000))
    assert control.after(1000.0, 512).beta == pytest.approx(0.15 * (1 + 0.2 * 512 / 10_000))
    assert control.after(0.0, 512).beta == pytest.approx(0.15 * (1 - 0.2 * 512 / 10_000))
    assert control.after(0.0, 10**9).beta > 0


def test_adaptive_controller_holds_a_responsive_policy_at_its_target() -> None:
    """A policy whose KL is 2 / beta (so 0.4 gives 5 nats) is steered to the target from far away on either side."""
    for start in (0.01, 4.0):
        control = kl.AdaptiveKL(beta=start, target_kl_nats_per_sequence=5.0, horizon_episodes=2_000)
        for _ in range(400):
            control = control.after(2.0 / control.beta, 256)
        assert 2.0 / control.beta == pytest.approx(5.0, rel=0.02)


def test_fixed_controller_stays() -> None:
    assert kl.FixedKL(0.05).after(100.0, 512) == kl.FixedKL(0.05)


def test_senseless_controllers_are_refused() -> None:
    with pytest.raises(ConfigError, match="negative KL"):
        kl.FixedKL(-0.1)
    with pytest.raises(ConfigError, match="above 0"):
        kl.AdaptiveKL(target_kl_nats_per_sequence=0.0)
