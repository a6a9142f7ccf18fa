"""Every method reaches its own limit in a world whose answers can all be listed, and no method passes the exact frontier."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from backflip.data import Episodes
from backflip.measures.frontier import frontier
from backflip.optimise import dpo, grpo, kl, reinforce, sft
from backflip.optimise.dpo import DPOConfig
from backflip.optimise.grpo import GRPOConfig
from backflip.optimise.reinforce import ReinforceConfig
from backflip.optimise.returns import on_last_decision
from backflip.optimise.step import evaluate_all
from backflip.worlds.enumerable import (
    EnumerableWorld,
    TableReward,
    TabularPolicy,
    exact_expected,
    exact_kl,
    optimum,
)

AT_ONCE = 10**6
BETA = 0.5
Update = Callable[..., dict[str, float]]


@dataclass
class Problem:
    """A world of 2 prompts and 15 answers, its reference policy, and a score for every answer."""

    world: EnumerableWorld
    reference: TabularPolicy
    score_KC: Tensor
    rng: np.random.Generator

    @property
    def reference_KC(self) -> Tensor:
        return self.reference.completion_logp_KC().detach()

    def start(self) -> TabularPolicy:
        policy = TabularPolicy(self.world, values=False)
        policy.load_state_dict(self.reference.state_dict())
        return policy

    def referred(self, episodes: Episodes) -> Episodes:
        ref_logp_BT = evaluate_all(self.reference, episodes, tokens_per_microbatch=AT_ONCE).logp_BT
        return replace(episodes, ref_logp_BT=ref_logp_BT)

    def shortfall(self, policy: TabularPolicy) -> float:
        """Return the worst prompt's (beta ln Z - J) / (beta ln Z - E_pi0[score])."""
        logp_KC = policy.completion_logp_KC().detach()
        best_K = optimum(self.reference_KC, self.score_KC, BETA)[1]
        worth_K = exact_expected(logp_KC, self.score_KC) - BETA * exact_kl(logp_KC, self.reference_KC)
        return float(((best_K - worth_K) / (best_K - exact_expected(self.reference_KC, self.score_KC))).max())

    def check_frontier(self, policy: TabularPolicy) -> None:
        """No policy has more reward than max E[score] at its KL; this one has nearly as much."""
        logp_KC = policy.completion_logp_KC().detach()
        kl_nats = float(exact_kl(logp_KC, self.reference_KC).mean())
        gained = float(exact_expected(logp_KC, self.score_KC).mean())
        most = frontier(self.reference_KC.numpy(), self.score_KC.numpy(), kl_nats)
        start = float(exact_expected(self.reference_KC, self.score_KC).mean())
        assert most - 0.02 * (most - start) < gained < most + 1e-9
        assert gained > frontier(self.reference_KC.numpy(), self.score_KC.numpy(), 0.8 * kl_nats), (
            "a KL too small is seen"
        )


def problem(seed: int, added: float = 0.0, group_size: int = 4) -> Problem:
    rng = np.random.default_rng(seed)
    world = EnumerableWorld(3, 3, 2, group_size=group_size)
    reference = TabularPolicy(world, rng, values=False)
    return Problem(world, reference, torch.tensor(rng.normal(size=(2, len(world.completions)))) + added, rng)


def train(given: Problem, update: Update, config: Any, updates: int = 150, rows: int = 256) -> TabularPolicy:
    """The loop of every method that samples: the KL in the reward, Adam, a learning rate that falls to 0."""
    policy, reward = given.start(), TableReward(given.world, given.score_KC)
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.1, eps=1e-5)
    for number in range(updates):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * (1 - number / updates)
        episodes = given.referred(given.world.collect(policy, rows, given.rng))
        reward_BT = kl.shape_reward(reward(episodes), episodes, BETA)
        update(policy, optimizer, episodes, reward_BT, replace(config, tokens_per_microbatch=AT_ONCE), given.rng)
    return policy


SAMPLING: dict[str, tuple[Update, Any]] = {
    "REINFORCE": (reinforce.update, ReinforceConfig()),
    "REINFORCE, credit to go": (
        reinforce.update,
        ReinforceConfig(credit="to_go", aggregate="constant", constant_length=1),
    ),
    "RLOO": (reinforce.update, reinforce.rloo()),
    "GRPO": (grpo.update, GRPOConfig()),
    "Dr. GRPO": (grpo.update, grpo.dr_grpo(3)),
}


@pytest.mark.parametrize("name", SAMPLING)
@pytest.mark.parametrize(("seed", "added"), [(0, 0.0), (1, 100.0)])
def test_a_sampling_method_reaches_the_closed_form(name: str, seed: int, added: float) -> None:
    """Shortfall from beta ln Z at most 1 % of what there is to gain, whatever constant the score carries."""
    given = problem(seed, added)
    assert given.shortfall(given.reference) == 1
    policy = train(given, *SAMPLING[name])
    assert given.shortfall(policy) < 0.01
    given.check_frontier(policy)


def test_without_a_baseline_a_constant_in_the_score_misses_the_closed_form() -> None:
    given = problem(1, 100.0)
    assert given.shortfall(train(given, reinforce.update, ReinforceConfig(baseline="none"), updates=60)) > 0.1


@pytest.mark.parametrize("name", ["RLOO", "GRPO"])
def test_a_wrong_sign_of_the_kl_misses_the_limit_of(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = problem(1)
    monkeypatch.setattr(
        kl, "shape_reward", lambda reward_BT, episodes, beta: reward_BT + beta * kl.log_ratio_BT(episodes)
    )
    assert given.shortfall(train(given, *SAMPLING[name], updates=60)) > 0.1


# -- pairs ---------------------------------------------------------------------------------------------------------------


def every_pair(given: Problem) -> tuple[Episodes, Tensor]:
    """Return every pair of answers to every prompt, and the exact Bradley-Terry share of each row."""
    prompts, answers = given.score_KC.shape
    one, two = np.triu_indices(answers, 1)
    number_B = np.tile(np.stack([one, two], 1).ravel(), prompts)
    prompt_B = torch.arange(prompts).repeat_interleave(2 * len(one))
    rows = given.world.rows(prompt_B, [given.world.completions[number] for number in number_B])
    score_G2 = given.score_KC[prompt_B, torch.tensor(number_B)].view(-1, 2)
    share_B = torch.sigmoid(score_G2 - score_G2.flip(1)).flatten()
    return given.referred(replace(rows, group_B=torch.arange(len(rows)) // 2)), share_B


def fit_pairs(given: Problem, config: DPOConfig, updates: int = 200) -> TabularPolicy:
    policy = given.start()
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.1, eps=1e-8)
    rows, share_B = every_pair(given)
    reward_BT = dpo.answer_rewards(rows, share_B)
    for number in range(updates):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * (1 - number / updates)
        dpo.update(policy, optimizer, rows, reward_BT, replace(config, tokens_per_microbatch=AT_ONCE))
    return policy


@pytest.mark.parametrize("added", [0.0, 100.0])
def test_dpo_on_bradley_terry_answers_reaches_the_same_closed_form(added: float) -> None:
    given = problem(0, added)
    assert given.shortfall(fit_pairs(given, DPOConfig(beta=BETA))) < 0.01


def test_ipo_reaches_its_own_limit_which_is_another() -> None:
    """pi0 * exp(p(. beats the pairs' distribution) / tau): Azar et al. 2024, eq. 9, pairs drawn uniformly here."""
    given = problem(0)
    policy = fit_pairs(given, DPOConfig(loss="ipo", beta=BETA))
    prob_KCC = torch.sigmoid(given.score_KC[:, :, None] - given.score_KC[:, None, :])
    limit_KC = torch.log_softmax(given.reference_KC + prob_KCC.mean(2) / BETA, -1)
    assert float((limit_KC.exp() - policy.completion_logp_KC().detach().exp()).abs().max()) < 1e-3
    assert given.shortfall(policy) > 0.1


def test_dpo_from_fresh_pairs_reaches_the_closed_form_too() -> None:
    """Online: pairs from the policy itself, each with the exact share as its soft answer."""
    given = problem(1, group_size=2)
    policy, reward = given.start(), TableReward(given.world, given.score_KC)
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.1, eps=1e-5)
    for number in range(100):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * (1 - number / 100)
        rows = given.referred(given.world.collect(policy, 256, given.rng))
        score_G2 = reward(rows).sum(1).view(-1, 2)
        reward_BT = dpo.answer_rewards(rows, torch.sigmoid(score_G2 - score_G2.flip(1)).flatten())
        dpo.update(policy, optimizer, rows, reward_BT, DPOConfig(beta=BETA, tokens_per_microbatch=AT_ONCE))
    assert given.shortfall(policy) < 0.01


# -- preferred answers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("circular", [False, True])
def test_tuning_on_preferred_answers_is_best_of_2_under_the_overseer(circular: bool) -> None:
    """pi0(y) * 2 E[P(y preferred to another draw)], and never further from the base than ln 2 - 1/2."""
    given = problem(0)
    base_KC = given.reference_KC.exp()
    lead_KCC = 3 * (given.score_KC[:, :, None] - given.score_KC[:, None, :])
    if circular:
        noise_KCC = torch.tensor(given.rng.normal(size=lead_KCC.shape)) * 5
        lead_KCC = noise_KCC - noise_KCC.transpose(1, 2)
    limit_KC = 2 * base_KC * (torch.sigmoid(lead_KCC) * base_KC[:, None, :]).sum(2)
    assert torch.allclose(limit_KC.sum(1), torch.ones(2, dtype=limit_KC.dtype), atol=1e-5)
    assert float(exact_kl(limit_KC.log(), given.reference_KC).max()) < np.log(2) - 0.5
    prompts, answers = limit_KC.shape
    rows = given.world.rows(torch.arange(prompts).repeat_interleave(answers), [*given.world.completions] * prompts)
    weight_BT = on_last_decision(limit_KC.flatten().float(), rows.mask_BT)
    config = sft.SFTConfig(aggregate="constant", constant_length=1, tokens_per_microbatch=AT_ONCE)
    policy = given.start()
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.1, eps=1e-8)
    for number in range(200):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * (1 - number / 200)
        sft.update(policy, optimizer, rows, weight_BT, config)
    found_KC = policy.completion_logp_KC().detach().exp()
    assert float((found_KC - limit_KC).abs().sum(1).max()) / 2 < 0.01
