"""PPO: the loss by hand, the checks before the first step, and what must not change the result."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from backflip.data import Episodes, Evaluation
from backflip.errors import ConfigError, DataError
from backflip.optimise import ppo
from backflip.worlds.enumerable import EnumerableWorld, TableReward, TabularPolicy

ONE_EPOCH = ppo.PPOConfig(epochs=1)


def setting(seed: int = 0, rows: int = 48) -> tuple[TabularPolicy, torch.optim.Optimizer, Episodes, Tensor]:
    rng = np.random.default_rng(seed)
    world = EnumerableWorld(3, 4, 2)
    policy = TabularPolicy(world, rng)
    assert policy.value_KX is not None
    with torch.no_grad():
        policy.value_KX.copy_(torch.tensor(rng.normal(size=policy.value_KX.shape)))
    episodes = world.collect(policy, rows, rng)
    reward_BT = TableReward(world, torch.tensor(rng.normal(size=(2, len(world.completions)))))(episodes)
    return policy, torch.optim.Adam(policy.parameters(), lr=0.05, eps=1e-5), episodes, reward_BT


def weights_after(config: ppo.PPOConfig, seed: int = 0) -> dict[str, Tensor]:
    policy, optimizer, episodes, reward_BT = setting(seed)
    ppo.update(policy, optimizer, episodes, reward_BT, config, np.random.default_rng(1))
    return {name: tensor.clone() for name, tensor in policy.state_dict().items()}


def test_loss_terms_by_hand() -> None:
    config = ppo.PPOConfig(clip=0.2, value_clip=0.5)
    ratio = torch.tensor([[1.5, 1.5, 0.5, 0.5, 1.1]])
    evaluation = Evaluation(ratio.log(), torch.zeros(1, 5), torch.tensor([[1.0, 1.0, 0.2, -3.0, 0.0]]))
    targets = {
        "old_logp": torch.zeros(1, 5),
        "old_value": torch.zeros(1, 5),
        "advantage": torch.tensor([[2.0, -2.0, 2.0, -2.0, 1.0]]),
        "return": torch.tensor([[2.0, 0.4, 0.0, -3.0, 0.0]]),
    }
    terms = ppo.loss_terms(evaluation, targets, config)
    assert terms["policy_loss"].tolist()[0] == pytest.approx([-2.4, 3.0, -1.0, 1.6, -1.1])
    assert terms["value_loss"].tolist()[0] == pytest.approx([0.5 * 1.5**2, 0.5 * 0.6**2, 0.02, 0.5 * 2.5**2, 0.0])
    assert terms["clip_fraction"].tolist() == [[1, 0, 0, 1, 0]]
    assert terms["value_clip_fraction"].tolist() == [[1, 0, 0, 1, 0]]


def test_log_ratios_are_limited_and_counted() -> None:
    evaluation = Evaluation(torch.tensor([[500.0, -500.0]]), torch.zeros(1, 2), torch.zeros(1, 2))
    zero = torch.zeros(1, 2)
    targets = {"old_logp": zero, "old_value": zero, "advantage": -torch.ones(1, 2), "return": zero}
    terms = ppo.loss_terms(evaluation, targets, ppo.PPOConfig())
    assert torch.isfinite(terms["policy_loss"]).all() and terms["log_ratio_limited_fraction"].tolist() == [[1, 1]]


def test_ratio_is_one_before_the_first_step() -> None:
    policy, optimizer, episodes, reward_BT = setting()
    stats = ppo.update(policy, optimizer, episodes, reward_BT, ONE_EPOCH)
    assert stats["ratio_max_error"] < 1e-6 and stats["ratio_mean"] == pytest.approx(1.0)
    assert stats["clip_fraction"] == 0 and stats["approx_kl_nats"] == pytest.approx(0.0, abs=1e-6)


def test_a_ratio_other_than_one_is_refused_before_anything_moves() -> None:
    policy, optimizer, episodes, reward_BT = setting()
    before = policy.logits_KXV.detach().clone()
    policy.temperature = 1.3
    with pytest.raises(DataError, match=r"\|ratio - 1\|"):
        ppo.update(policy, optimizer, episodes, reward_BT, ONE_EPOCH)
    assert torch.equal(before, policy.logits_KXV)
    policy.temperature = 3.0  # low precision is forgiven a little, this is not
    with pytest.raises(DataError, match="differ from those of sampling"):
        ppo.update(policy, optimizer, episodes, reward_BT, replace(ONE_EPOCH, recompute_old_logp=True))
    assert torch.equal(before, policy.logits_KXV)


def test_accumulation_equals_one_batch_over_whole_updates() -> None:
    for aggregate in ("token", "sequence", "constant"):
        config = ppo.PPOConfig(aggregate=aggregate, constant_length=4, tokens_per_microbatch=10**6)
        whole, parts = weights_after(config), weights_after(replace(config, tokens_per_microbatch=9))
        for name in whole:
            torch.testing.assert_close(whole[name], parts[name], atol=1e-5, rtol=1e-4)


def test_padding_never_changes_a_statistic() -> None:
    """Values and log-probabilities on masked positions are filled with junk; nothing that is returned notices."""
    clean_policy, clean_optimizer, episodes, reward_BT = setting()
    clean = ppo.update(clean_policy, clean_optimizer, episodes, reward_BT, ppo.PPOConfig())
    policy, optimizer, _, _ = setting()
    assert episodes.logp_BT is not None and episodes.value_BT is not None
    junk = replace(
        episodes,
        logp_BT=torch.where(episodes.mask_BT, episodes.logp_BT, 1.0),
        value_BT=torch.where(episodes.mask_BT, episodes.value_BT, float("nan")),
    )
    assert ppo.update(policy, optimizer, junk, reward_BT, ppo.PPOConfig()) == clean


def test_old_logp_comes_free_or_by_a_pass_with_the_same_result() -> None:
    sampled = weights_after(ppo.PPOConfig(), seed=3)
    recomputed = weights_after(ppo.PPOConfig(recompute_old_logp=True), seed=3)
    for name in sampled:
        torch.testing.assert_close(sampled[name], recomputed[name], atol=1e-5, rtol=1e-4)
    several = weights_after(ppo.PPOConfig(minibatches=3), seed=3)
    again = weights_after(ppo.PPOConfig(minibatches=3, recompute_old_logp=True), seed=3)
    for name in several:
        torch.testing.assert_close(several[name], again[name], atol=1e-5, rtol=1e-4)


def test_values_are_computed_where_sampling_left_them_out() -> None:
    given = weights_after(ppo.PPOConfig())
    policy, optimizer, episodes, reward_BT = setting()
    ppo.update(policy, optimizer, replace(episodes, value_BT=None), reward_BT, ppo.PPOConfig())
    torch.testing.assert_close(policy.logits_KXV.detach(), given["logits_KXV"])


def test_a_constant_in_the_score_changes_nothing() -> None:
    policy, optimizer, episodes, reward_BT = setting()
    stats = ppo.update(policy, optimizer, episodes, reward_BT, ppo.PPOConfig())
    other, other_optimizer, _, _ = setting()
    last_BT = torch.nn.functional.one_hot(episodes.mask_BT.sum(1) - 1, episodes.mask_BT.shape[1])
    shifted = ppo.update(other, other_optimizer, episodes, reward_BT + 100 * last_BT, ppo.PPOConfig())
    torch.testing.assert_close(other.logits_KXV, policy.logits_KXV, atol=2e-3, rtol=0)
    assert shifted["value_offset"] == pytest.approx(stats["value_offset"] + 100, abs=1e-3)
    assert shifted["explained_variance"] == pytest.approx(stats["explained_variance"], abs=1e-3)


def test_bf16_logs_the_gap() -> None:
    policy, optimizer, episodes, reward_BT = setting()
    assert episodes.logp_BT is not None
    rounded = replace(episodes, logp_BT=episodes.logp_BT.bfloat16().float())
    with pytest.raises(DataError, match="recompute_old_logp"):
        ppo.update(policy, optimizer, rounded, reward_BT, ppo.PPOConfig())
    stats = ppo.update(policy, optimizer, rounded, reward_BT, ppo.PPOConfig(autocast="bf16"))
    assert 0 < stats["logp_gap_mean_nats"] < 0.01 and stats["logp_gap_max_nats"] >= stats["logp_gap_mean_nats"]


def test_entropy_bonus_keeps_entropy() -> None:
    plain, plain_optimizer, episodes, reward_BT = setting()
    ppo.update(plain, plain_optimizer, episodes, reward_BT, ppo.PPOConfig(epochs=8))
    paid, paid_optimizer, _, _ = setting()
    ppo.update(paid, paid_optimizer, episodes, reward_BT, ppo.PPOConfig(epochs=8, entropy_coef=1.0))
    assert paid.evaluate(episodes).entropy_BT.sum() > plain.evaluate(episodes).entropy_BT.sum()


def test_whitened_rewards_ignore_the_scale_of_centred_rewards() -> None:
    config = ppo.PPOConfig(whiten_rewards=True)
    policy, optimizer, episodes, reward_BT = setting()
    centred_BT = torch.where(episodes.mask_BT, reward_BT - reward_BT[episodes.mask_BT].mean(), 0.0)
    ppo.update(policy, optimizer, episodes, centred_BT, config)
    other, other_optimizer, _, _ = setting()
    ppo.update(other, other_optimizer, episodes, centred_BT * 50, config)
    torch.testing.assert_close(other.logits_KXV, policy.logits_KXV, atol=1e-3, rtol=0)


class _Without(TabularPolicy):
    """A policy whose entropy carries no gradient."""

    def evaluate(self, episodes: Episodes) -> Evaluation:
        evaluation = super().evaluate(episodes)
        return replace(evaluation, entropy_BT=evaluation.entropy_BT.detach())


def test_contradictions_are_refused_in_words() -> None:
    policy, optimizer, episodes, reward_BT = setting()
    with pytest.raises(DataError, match="demonstrations"):
        ppo.update(policy, optimizer, replace(episodes, logp_BT=None), reward_BT, ONE_EPOCH)
    with pytest.raises(ConfigError, match="numpy Generator"):
        ppo.update(policy, optimizer, episodes, reward_BT, ppo.PPOConfig(minibatches=2))
    valueless = TabularPolicy(policy.world, values=False)
    for given in (episodes, replace(episodes, value_BT=None)):
        flat = valueless.evaluate(given).logp_BT.detach()
        with pytest.raises(ConfigError, match="value_head=True"):
            ppo.update(valueless, optimizer, replace(given, logp_BT=flat), reward_BT, ONE_EPOCH)
    blind = _Without(policy.world, np.random.default_rng(0))
    flat = blind.evaluate(episodes).logp_BT.detach()
    with pytest.raises(ConfigError, match="carries no gradient"):
        ppo.update(blind, optimizer, replace(episodes, logp_BT=flat), reward_BT, ppo.PPOConfig(entropy_coef=0.1))
    with pytest.raises(ConfigError, match="decisions are too few"):
        one = episodes.select([int(episodes.mask_BT.sum(1).argmax())])
        ppo.update(policy, optimizer, one, torch.zeros(one.mask_BT.shape), ONE_EPOCH)
    wrongs: list[dict[str, Any]] = [{"epochs": 0}, {"gamma": 1.1}, {"clip": 0.0}, {"max_grad_norm": -1.0}]
    for wrong in wrongs:
        with pytest.raises(ConfigError):
            ppo.PPOConfig(**wrong)


def test_a_reward_that_blows_up_is_refused_and_the_weights_kept() -> None:
    policy, optimizer, episodes, reward_BT = setting()
    before = policy.logits_KXV.detach().clone()
    with pytest.raises(DataError, match="not finite"):
        ppo.update(policy, optimizer, episodes, reward_BT * float("inf"), ONE_EPOCH)
    with pytest.raises(DataError, match="refused a step"):
        config = ppo.PPOConfig(epochs=1, whiten_advantages=False)
        ppo.update(policy, optimizer, episodes, reward_BT * 1e30, config)
    assert torch.equal(before, policy.logits_KXV)
