"""DPO and IPO: the losses by hand, ties, pairs that stay together, and what must not change the result."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from backflip.data import Episodes
from backflip.errors import ConfigError, DataError
from backflip.optimise import dpo
from backflip.optimise.dpo import DPOConfig
from backflip.worlds.enumerable import EnumerableWorld, TabularPolicy


def setting(seed: int = 0, pairs: int = 20) -> tuple[TabularPolicy, torch.optim.Optimizer, Episodes, Tensor]:
    """Pairs with soft answers, some of them ties, in an order that tears pairs apart."""
    rng = np.random.default_rng(seed)
    world = EnumerableWorld(3, 4, 2, group_size=2)
    policy, reference = TabularPolicy(world, rng, values=False), TabularPolicy(world, rng, values=False)
    episodes = world.collect(policy, 2 * pairs, rng)
    episodes = replace(episodes, ref_logp_BT=reference.evaluate(episodes).logp_BT.detach())
    first_G = torch.tensor(rng.choice([0.0, 0.2, 0.5, 1.0], pairs))
    share_B = torch.stack([first_G, 1 - first_G], 1).flatten()
    torn = torch.tensor(rng.permutation(2 * pairs))
    episodes = episodes.select(torn)
    optimizer = torch.optim.SGD(policy.parameters(), lr=1.0)
    return policy, optimizer, episodes, dpo.answer_rewards(episodes, share_B[torn])


def logits_after(config: DPOConfig) -> Tensor:
    policy, optimizer, episodes, reward_BT = setting()
    dpo.update(policy, optimizer, episodes, reward_BT, config, np.random.default_rng(1))
    return policy.logits_KXV.detach()


def test_pair_losses_by_hand() -> None:
    lead_G, share_G = torch.tensor([2.0, 2.0, 2.0]), torch.tensor([1.0, 0.5, 0.25])
    right, wrong = -math.log(1 / (1 + math.exp(-1.0))), -math.log(1 / (1 + math.exp(1.0)))
    found = dpo.pair_loss(lead_G, share_G, DPOConfig(beta=0.5)).tolist()
    assert found == pytest.approx([right, 0.5 * (right + wrong), 0.25 * right + 0.75 * wrong])
    found = dpo.pair_loss(lead_G, share_G, DPOConfig(loss="ipo", beta=0.5)).tolist()
    assert found == pytest.approx([(2 - 1) ** 2, 2**2, (2 + 0.5) ** 2])


def test_the_soft_ipo_loss_is_the_expectation_of_the_hard_one_less_a_constant() -> None:
    config, share = DPOConfig(loss="ipo", beta=0.3), 0.7
    lead_G = torch.linspace(-3, 3, 7, dtype=torch.float64)
    one, soft = torch.ones_like(lead_G), torch.full_like(lead_G, share)
    mixed_G = share * dpo.pair_loss(lead_G, one, config) + (1 - share) * dpo.pair_loss(lead_G, 0 * one, config)
    gap_G = mixed_G - dpo.pair_loss(lead_G, soft, config)
    torch.testing.assert_close(gap_G, gap_G[0].expand(7))


@pytest.mark.parametrize("loss", ["dpo", "ipo"])
def test_the_step_is_the_gradient_of_the_loss_written_out(loss: Any) -> None:
    config = DPOConfig(loss=loss, beta=0.7, max_grad_norm=float("inf"))
    policy, optimizer, episodes, reward_BT = setting()
    assert episodes.ref_logp_BT is not None
    before = policy.logits_KXV.detach().clone()
    share_B, total = reward_BT.sum(1), torch.zeros(())
    ratio_B = (policy.evaluate(episodes).logp_BT - episodes.ref_logp_BT).sum(1)
    for group in episodes.group_B.unique():
        one, two = (episodes.group_B == group).nonzero().flatten().tolist()
        lead, share = ratio_B[one] - ratio_B[two], share_B[one]
        if loss == "dpo":
            sigma = torch.sigmoid(config.beta * lead)
            total = total - share * sigma.log() - (1 - share) * (1 - sigma).log()
        else:
            total = total + (lead - (share - 0.5) / config.beta) ** 2
    (total / 20).backward()
    assert policy.logits_KXV.grad is not None
    expected = before - policy.logits_KXV.grad
    stats = dpo.update(policy, optimizer, episodes, reward_BT, config)
    torch.testing.assert_close(policy.logits_KXV.detach(), expected, atol=1e-5, rtol=1e-4)
    assert stats["loss"] == pytest.approx(float(total.detach()) / 20, rel=1e-4)


def test_accumulation_keeps_pairs_together_and_changes_nothing() -> None:
    for config in (DPOConfig(nll_coef=0.3), DPOConfig(loss="ipo"), DPOConfig(minibatches=3, epochs=2)):
        whole = logits_after(replace(config, tokens_per_microbatch=10**6))
        torch.testing.assert_close(whole, logits_after(replace(config, tokens_per_microbatch=1)), atol=1e-5, rtol=1e-4)


def test_statistics_of_dpo_know_ties_and_padding() -> None:
    policy, optimizer, episodes, reward_BT = setting()
    clean = dpo.update(policy, optimizer, episodes, reward_BT, DPOConfig())
    share_B = reward_BT.sum(1)
    assert clean["tie_fraction"] == pytest.approx(float((share_B == 0.5).float().mean()))
    assert episodes.ref_logp_BT is not None
    ratio_B = (setting()[0].evaluate(episodes).logp_BT - episodes.ref_logp_BT).sum(1)
    right: list[float] = []
    for group in episodes.group_B.unique():
        one, two = (episodes.group_B == group).nonzero().flatten().tolist()
        if share_B[one] != 0.5:
            right.append(float((ratio_B[one] > ratio_B[two]) == (share_B[one] > share_B[two])))
    assert clean["accuracy"] == pytest.approx(float(np.mean(right)))
    policy, optimizer, _, _ = setting()
    junk = replace(episodes, ref_logp_BT=torch.where(episodes.mask_BT, episodes.ref_logp_BT, float("nan")))
    assert dpo.update(policy, optimizer, junk, reward_BT, DPOConfig()) == clean


def test_all_ties_pull_back_to_the_reference() -> None:
    """A tie is an answer: it says that the two are equally good, so their leads shrink."""
    policy, optimizer, episodes, _ = setting()
    reward_BT = dpo.answer_rewards(episodes, torch.full((len(episodes),), 0.5))

    def leads() -> Tensor:
        assert episodes.ref_logp_BT is not None
        ratio_B = (policy.evaluate(episodes).logp_BT - episodes.ref_logp_BT).sum(1).detach()
        pair_G2 = dpo.pair_rows(episodes.group_B)
        return (ratio_B[pair_G2[:, 0]] - ratio_B[pair_G2[:, 1]]).abs().mean()

    before = leads()
    stats = dpo.update(policy, optimizer, episodes, reward_BT, DPOConfig(beta=1.0, epochs=50))
    assert stats["tie_fraction"] == 1 and stats["accuracy"] == 0.5 and leads() < 0.5 * before


def test_what_is_no_pair_is_refused_and_nothing_moves() -> None:
    policy, optimizer, episodes, reward_BT = setting()
    before = policy.logits_KXV.detach().clone()
    with pytest.raises(ConfigError, match="ref_logp_BT"):
        dpo.update(policy, optimizer, replace(episodes, ref_logp_BT=None), reward_BT, DPOConfig())
    with pytest.raises(DataError, match="expected 2 in every group"):
        dpo.update(policy, optimizer, episodes.select(range(3)), reward_BT[:3], DPOConfig())
    with pytest.raises(DataError, match="sum to 1"):
        dpo.update(policy, optimizer, episodes, 2 * reward_BT, DPOConfig())
    with pytest.raises(DataError, match="different prompts"):
        mixed = replace(episodes, obs=torch.where(torch.arange(len(episodes))[:, None] == 0, 1, episodes.obs))
        mixed = replace(mixed, obs=mixed.obs.index_fill(0, torch.tensor([1]), 0))
        dpo.update(policy, optimizer, mixed, reward_BT, DPOConfig())
    with pytest.raises(DataError, match="each in"):
        dpo.answer_rewards(episodes, torch.full((len(episodes),), 1.5))
    assert torch.equal(before, policy.logits_KXV)
    wrongs: list[dict[str, Any]] = [{"beta": 0.0}, {"epochs": 0}, {"nll_coef": -1.0}]
    for wrong in wrongs:
        with pytest.raises(ConfigError):
            DPOConfig(**wrong)
