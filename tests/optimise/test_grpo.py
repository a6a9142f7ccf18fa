"""GRPO and Dr. GRPO: advantages by hand, the checks before the first step, and what must not change the result."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from backflip.data import Episodes
from backflip.errors import ConfigError, DataError
from backflip.optimise import grpo
from backflip.optimise.grpo import GRPOConfig
from backflip.worlds.enumerable import EnumerableWorld, TableReward, TabularPolicy


def setting(seed: int = 0, rows: int = 48) -> tuple[TabularPolicy, torch.optim.Optimizer, Episodes, Tensor]:
    rng = np.random.default_rng(seed)
    world = EnumerableWorld(3, 4, 2, group_size=4)
    policy = TabularPolicy(world, rng, values=False)
    episodes = world.collect(policy, rows, rng)
    episodes = replace(episodes, ref_logp_BT=TabularPolicy(world, values=False).evaluate(episodes).logp_BT.detach())
    reward_BT = TableReward(world, torch.tensor(rng.normal(size=(2, len(world.completions)))))(episodes)
    return policy, torch.optim.Adam(policy.parameters(), lr=0.05, eps=1e-5), episodes, reward_BT


def logits_after(config: GRPOConfig, seed: int = 0) -> Tensor:
    policy, optimizer, episodes, reward_BT = setting(seed)
    grpo.update(policy, optimizer, episodes, reward_BT, config, np.random.default_rng(1))
    return policy.logits_KXV.detach()


def test_advantages_by_hand() -> None:
    mask_BT = torch.tensor([[True, True], [True, False], [True, True], [True, True], [True, True]])
    episodes = Episodes(
        obs=torch.zeros(5, 1, dtype=torch.long),
        action=mask_BT.long(),
        mask_BT=mask_BT,
        logp_BT=torch.zeros(5, 2),
        bootstrap_B=torch.zeros(5),
        group_B=torch.tensor([0, 0, 1, 1, 2]),
    )
    reward_BT = torch.tensor([[1.0, 3.0], [2.0, 0.0], [0.0, 9.0], [0.0, 9.0], [0.0, 5.0]])

    def found(scale: Any) -> list[list[float]]:
        return grpo.advantages_BT(episodes, reward_BT, GRPOConfig(scale=scale))[0].tolist()

    assert found("none") == [[1, 1], [-1, 0], [0, 0], [0, 0], [0, 0]]
    assert found("group") == [[1, 1], [-1, 0], [0, 0], [0, 0], [0, 0]]
    assert found("batch")[0][0] == pytest.approx(1 / (2 / 5) ** 0.5)
    stats = grpo.advantages_BT(episodes, 3 * reward_BT, GRPOConfig())[1]
    assert stats["equal_group_fraction"] == pytest.approx(2 / 3)
    assert grpo.advantages_BT(episodes, 3 * reward_BT, GRPOConfig())[0].tolist() == found("group")


def test_ratio_is_one_before_the_first_step_of_grpo() -> None:
    policy, optimizer, episodes, reward_BT = setting()
    stats = grpo.update(policy, optimizer, episodes, reward_BT, GRPOConfig(epochs=1))
    assert stats["ratio_max_error"] < 1e-6 and stats["clip_fraction"] == 0 and stats["ratio_mean"] == pytest.approx(1)
    policy.temperature = 1.3
    before = policy.logits_KXV.detach().clone()
    with pytest.raises(DataError, match=r"\|ratio - 1\|"):
        grpo.update(policy, optimizer, episodes, reward_BT, GRPOConfig())
    assert torch.equal(before, policy.logits_KXV)


def test_dr_grpo_first_step_is_the_unclipped_gradient_of_the_lead() -> None:
    """Liu et al. 2025: nothing but sum (R - mean) * grad log pi, over rows times the longest answer."""
    policy, _, episodes, reward_BT = setting()
    before = policy.logits_KXV.detach().clone()
    lead_B = grpo.advantages_BT(episodes, reward_BT, grpo.dr_grpo(4))[0].amax(1) + grpo.advantages_BT(
        episodes, reward_BT, grpo.dr_grpo(4)
    )[0].amin(1)  # one of the two is the padding's 0, or both are the lead
    full_B = episodes.mask_BT.all(1)
    lead_B = torch.where(full_B, lead_B / 2, lead_B)
    (-(lead_B * policy.evaluate(episodes).logp_BT.sum(1)).sum() / (len(episodes) * 4)).backward()
    assert policy.logits_KXV.grad is not None
    expected = before - policy.logits_KXV.grad
    config = replace(grpo.dr_grpo(4), epochs=1, max_grad_norm=float("inf"))
    grpo.update(policy, torch.optim.SGD(policy.parameters(), lr=1.0), episodes, reward_BT, config)
    torch.testing.assert_close(policy.logits_KXV.detach(), expected, atol=1e-6, rtol=1e-5)


def test_accumulation_and_recomputing_change_nothing_in_grpo() -> None:
    for aggregate in ("token", "sequence", "constant"):
        config = GRPOConfig(aggregate=aggregate, constant_length=4, tokens_per_microbatch=10**6, loss_kl_coef=0.1)
        whole, parts = logits_after(config), logits_after(replace(config, tokens_per_microbatch=9))
        torch.testing.assert_close(whole, parts, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(logits_after(GRPOConfig()), logits_after(GRPOConfig(recompute_old_logp=True)))
    several = GRPOConfig(minibatches=3)
    torch.testing.assert_close(logits_after(several), logits_after(replace(several, recompute_old_logp=True)))


def test_padding_never_changes_a_statistic_of_grpo() -> None:
    policy, optimizer, episodes, reward_BT = setting()
    config = GRPOConfig(loss_kl_coef=0.1)
    clean = grpo.update(policy, optimizer, episodes, reward_BT, config)
    policy, optimizer, _, _ = setting()
    assert episodes.logp_BT is not None and episodes.ref_logp_BT is not None
    junk = replace(
        episodes,
        logp_BT=torch.where(episodes.mask_BT, episodes.logp_BT, 1.0),
        ref_logp_BT=torch.where(episodes.mask_BT, episodes.ref_logp_BT, float("nan")),
    )
    assert grpo.update(policy, optimizer, junk, reward_BT, config) == clean


def test_a_loss_kl_pulls_to_the_reference_and_never_lets_go() -> None:
    targets = {"old_logp": torch.zeros(1, 3), "advantage": torch.zeros(1, 3), "ref_logp": torch.zeros(1, 3)}
    logp_BT = torch.tensor([[0.5, -2.0, -40.0]], requires_grad=True)
    grpo.loss_terms(logp_BT, targets, GRPOConfig())["loss_kl_nats"].sum().backward()
    assert logp_BT.grad is not None
    assert logp_BT.grad.tolist() == [[0.5, -2.0, -grpo.HUBER_NATS]]
    policy, optimizer, episodes, reward_BT = setting()
    with pytest.raises(ConfigError, match="ref_logp_BT"):
        bare = replace(episodes, ref_logp_BT=None)
        grpo.update(policy, optimizer, bare, reward_BT, GRPOConfig(loss_kl_coef=0.1))


def test_what_grpo_cannot_use_is_refused() -> None:
    policy, optimizer, episodes, reward_BT = setting()
    with pytest.raises(ConfigError, match="group size of 2"):
        alone = replace(episodes, group_B=torch.arange(len(episodes)))
        grpo.update(policy, optimizer, alone, reward_BT, GRPOConfig())
    with pytest.raises(DataError, match="demonstrations"):
        grpo.update(policy, optimizer, replace(episodes, logp_BT=None), reward_BT, GRPOConfig())
    with pytest.raises(ConfigError, match="numpy Generator"):
        grpo.update(policy, optimizer, episodes, reward_BT, GRPOConfig(minibatches=2))
    with pytest.raises(ConfigError, match="constant_length"):
        grpo.update(policy, optimizer, episodes, reward_BT, GRPOConfig(aggregate="constant"))
    wrongs: list[dict[str, Any]] = [{"epochs": 0}, {"clip": 0.0}, {"loss_kl_coef": -1.0}]
    for wrong in wrongs:
        with pytest.raises(ConfigError):
            GRPOConfig(**wrong)
