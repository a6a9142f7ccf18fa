"""Where the right answer is known: optimisers against closed forms in a world whose answers can all be listed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import combinations, product

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from backflip.measures import best_of_n as measure
from backflip.optimise import kl, ppo
from backflip.optimise.best_of_n import choose
from backflip.optimise.step import evaluate_all
from backflip.worlds.enumerable import (
    EnumerableWorld,
    TableReward,
    TabularPolicy,
    exact_expected,
    exact_kl,
    optimum,
)


@dataclass
class Problem:
    """A world, its reference policy and a score for every answer."""

    world: EnumerableWorld
    reference: TabularPolicy
    score_KC: Tensor
    beta: float

    def shortfall_K(self, policy: TabularPolicy) -> Tensor:
        """Return (beta ln Z - J) / (beta ln Z - E_pi0[score]) for every prompt."""
        reference_KC, logp_KC = self.reference.completion_logp_KC().detach(), policy.completion_logp_KC().detach()
        best_K = optimum(reference_KC, self.score_KC, self.beta)[1]
        worth_K = exact_expected(logp_KC, self.score_KC) - self.beta * exact_kl(logp_KC, reference_KC)
        return (best_K - worth_K) / (best_K - exact_expected(reference_KC, self.score_KC))


def problem(seed: int, added: float = 0.0) -> tuple[Problem, np.random.Generator]:
    rng = np.random.default_rng(seed)
    world = EnumerableWorld(3, 3, 2)
    reference = TabularPolicy(world, rng)
    return Problem(world, reference, torch.tensor(rng.normal(size=(2, len(world.completions)))) + added, 0.3), rng


def train(
    given: Problem, rng: np.random.Generator, updates: int = 80, rows: int = 384, config: ppo.PPOConfig | None = None
) -> TabularPolicy:
    """PPO as the library ships it: its defaults (or `config`), Adam, a learning rate that falls to 0."""
    policy = TabularPolicy(given.world)
    policy.load_state_dict(given.reference.state_dict())
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.1, eps=1e-5)
    reward = TableReward(given.world, given.score_KC)
    for update in range(updates):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * (1 - update / updates)
        episodes = given.world.collect(policy, rows, rng)
        ref_logp_BT = evaluate_all(given.reference, episodes, tokens_per_microbatch=10**6).logp_BT
        episodes = replace(episodes, ref_logp_BT=ref_logp_BT)
        reward_BT = kl.shape_reward(reward(episodes), episodes, given.beta)
        ppo.update(policy, optimizer, episodes, reward_BT, config or ppo.PPOConfig())
    return policy


@pytest.mark.parametrize("added", [0.0, 100.0])
def test_ppo_reaches_the_closed_form(added: float) -> None:
    """The shortfall from beta ln Z is at most 1 % of what there is to gain, whatever constant the score carries."""
    for seed in range(2):
        given, rng = problem(seed, added)
        assert (given.shortfall_K(given.reference) == 1).all()
        assert float(given.shortfall_K(train(given, rng)).max()) < 0.01


def test_without_centred_values_a_constant_in_the_score_misses_the_closed_form() -> None:
    given, rng = problem(0, 100.0)
    assert float(given.shortfall_K(train(given, rng, config=ppo.PPOConfig(center_values=False))).max()) > 0.1


def test_a_wrong_sign_of_the_kl_misses_the_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    given, rng = problem(0)
    monkeypatch.setattr(
        kl, "shape_reward", lambda reward_BT, episodes, beta: reward_BT + beta * kl.log_ratio_BT(episodes)
    )
    assert float(given.shortfall_K(train(given, rng, updates=40)).max()) > 0.1


def test_a_reward_one_token_early_misses_the_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sums of rewards are still right, so only what is learnt can tell."""
    given, rng = problem(0)
    shape = kl.shape_reward

    def early(reward_BT: Tensor, episodes: object, beta: float) -> Tensor:
        first_BT = reward_BT[:, :1]
        moved_BT = torch.cat([first_BT + reward_BT[:, 1:2], reward_BT[:, 2:], torch.zeros_like(first_BT)], 1)
        return shape(moved_BT, episodes, beta)  # type: ignore[arg-type]

    monkeypatch.setattr(kl, "shape_reward", early)
    assert float(given.shortfall_K(train(given, rng, updates=40)).max()) > 0.1


def test_the_shortfall_is_a_ratio_of_divergences() -> None:
    """(beta ln Z - J) / (beta ln Z - E_pi0[r]) = KL(pi || pi*) / KL(pi0 || pi*), so no constant can flatter it."""
    given, rng = problem(0)
    policy = TabularPolicy(given.world, rng)
    reference_KC = given.reference.completion_logp_KC().detach()
    best_KC = optimum(reference_KC, given.score_KC, given.beta)[0]
    expected_K = exact_kl(policy.completion_logp_KC().detach(), best_KC) / exact_kl(reference_KC, best_KC)
    torch.testing.assert_close(given.shortfall_K(policy), expected_K)
    moved = replace(given, score_KC=given.score_KC + 100)
    torch.testing.assert_close(moved.shortfall_K(policy), expected_K, rtol=1e-6, atol=1e-9)


def test_the_kl_belongs_in_the_reward() -> None:
    """The worked case of docs/ppo.md: a per-token KL as a loss stops at P(A) = 0.362, worth 0.522 instead of 0.831.

    The first token is A or B; after A the answer ends with 0.9; after B a second token of base probability 0.001 pays
    1. The two numbers that are trained are the logits of A against B and of the rare token. The loss form weighs the KL
    at each position by how often it is reached, and does not charge the first token for the KL that it leads to.
    """
    beta, rare = 0.1, 0.001

    def bernoulli_kl(p: Tensor, q: float) -> Tensor:
        return p * torch.log(p / q) + (1 - p) * torch.log((1 - p) / (1 - q))

    def settle(kl_in_reward: bool) -> tuple[float, float]:
        logits = torch.tensor([0.0, math.log(rare / (1 - rare))], dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.Adam([logits], lr=0.5, eps=1e-15)
        for _ in range(1000):
            p_a, p_rare = torch.sigmoid(logits)
            gain = 0.9 * p_a + (1 - p_a) * p_rare
            reached = 1 - p_a if kl_in_reward else (1 - p_a).detach()
            optimizer.zero_grad()
            (beta * (bernoulli_kl(p_a, 0.5) + reached * bernoulli_kl(p_rare, rare)) - gain).backward()
            optimizer.step()
        with torch.no_grad():
            p_a, p_rare = torch.sigmoid(logits)
            total_kl = bernoulli_kl(p_a, 0.5) + (1 - p_a) * bernoulli_kl(p_rare, rare)
            return float(p_a), float(0.9 * p_a + (1 - p_a) * p_rare - beta * total_kl)

    best = beta * math.log(0.5 * math.exp(0.9 / beta) + 0.5 * (rare * math.exp(1 / beta) + (1 - rare)))
    p_a, worth = settle(kl_in_reward=True)
    assert (round(p_a, 3), round(worth, 3)) == (0.997, 0.831) and worth == pytest.approx(best)
    p_a, worth = settle(kl_in_reward=False)
    assert (round(p_a, 3), round(worth, 3)) == (0.362, 0.522)


# -- best-of-n ---------------------------------------------------------------------------------------------------------


def test_the_kl_bound_has_its_known_values() -> None:
    known = {2: 0.193, 4: 0.636, 8: 1.204, 16: 1.835, 64: 3.175, 256: 4.549, 1024: 5.932}
    assert {n: round(measure.kl_bound_nats(n), 3) for n in known} == known
    assert measure.kl_bound_nats(1) == 0


def test_the_exact_kl_has_its_known_values_and_stays_under_the_bound() -> None:
    grades = np.full(7, 1 / 7)
    assert round(measure.kl_exact_nats(grades, 16), 3) == 1.637
    assert round(measure.kl_exact_nats(grades, 64), 3) == 1.945
    assert measure.kl_exact_nats(grades, 10**6) == pytest.approx(math.log(7))
    assert measure.kl_exact_nats(np.full(200, 1 / 200), 16) == pytest.approx(1.8348, abs=5e-5)
    rng = np.random.default_rng(0)
    for n in (1, 2, 5, 30):
        level_L = rng.dirichlet(np.full(12, 0.5))
        assert -1e-12 <= measure.kl_exact_nats(level_L, n) <= measure.kl_bound_nats(n) + 1e-12


def graded() -> tuple[EnumerableWorld, TabularPolicy, Tensor]:
    """A policy over seven answers, and grades with ties among them."""
    world = EnumerableWorld(3, 2, group_size=3)
    policy = TabularPolicy(world, np.random.default_rng(4), values=False)
    return world, policy, torch.tensor([[2.0, 0.0, 1.0, 2.0, 1.0, 1.0, 0.0]])


def of_all_tuples(probability_C: np.ndarray, score_C: np.ndarray, n: int) -> np.ndarray:
    """Return the distribution of best-of-n (first of equals) by going through every n-tuple of answers."""
    best_C = np.zeros(len(probability_C))
    for drawn in product(range(len(probability_C)), repeat=n):
        winner = max(drawn, key=lambda answer: score_C[answer])  # max keeps the first of equals
        best_C[winner] += math.prod(float(probability_C[answer]) for answer in drawn)
    return best_C


def test_the_exact_kl_equals_that_over_every_tuple_of_answers() -> None:
    world, policy, score_KC = graded()
    logp_KC, score_C = policy.completion_logp_KC().detach(), score_KC[0].numpy()
    assert len(world.completions) == len(score_C)
    probability_C = logp_KC[0].exp().numpy()
    level_L = [float(probability_C[score_C == level].sum()) for level in np.unique(score_C)]
    for n in (1, 2, 4):
        best_KC = torch.tensor(of_all_tuples(probability_C, score_C, n)).log().unsqueeze(0)
        assert float(best_KC.exp().sum()) == pytest.approx(1.0)
        assert measure.kl_exact_nats(level_L, n) == pytest.approx(float(exact_kl(best_KC, logp_KC)), abs=1e-12)
        assert float(exact_kl(best_KC, logp_KC)) <= measure.kl_bound_nats(n) + 1e-12


def test_choose_draws_from_the_exact_distribution() -> None:
    world, policy, score_KC = graded()
    episodes = world.collect(policy, 3 * 8000, np.random.default_rng(0))
    chosen = episodes.select(choose(episodes, TableReward(world, score_KC)(episodes)))
    seen_C = np.bincount(world.completion_B(chosen).numpy(), minlength=len(world.completions))
    probability_C = policy.completion_logp_KC().detach()[0].exp().numpy()
    expected_C = of_all_tuples(probability_C, score_KC[0].numpy(), 3)
    assert stats.chisquare(seen_C, expected_C / expected_C.sum() * seen_C.sum()).pvalue > 1e-3
    assert stats.chisquare(seen_C, probability_C / probability_C.sum() * seen_C.sum()).pvalue < 1e-6


@pytest.mark.parametrize("ties", [False, True])
def test_the_estimator_equals_brute_force_over_all_subsets(ties: bool) -> None:
    """Every subset of n of N samples, tied maxima averaged, for N up to 12."""
    rng = np.random.default_rng(0)
    for samples, n in ((7, 3), (12, 1), (12, 5), (9, 9)):
        proxy_N = rng.integers(0, 4, samples).astype(float) if ties else rng.normal(size=samples)
        gold_N = rng.normal(size=samples)
        for worst in (False, True):
            pick = min if worst else max
            means: list[float] = []
            for subset in combinations(range(samples), n):
                extreme = pick(proxy_N[i] for i in subset)
                means.append(float(np.mean([gold_N[i] for i in subset if proxy_N[i] == extreme])))
            got = measure.best_of_n(proxy_N, gold_N, n, worst=worst).value
            assert got == pytest.approx(float(np.mean(means)), abs=1e-12)


def test_the_estimator_has_the_exact_expectation_and_less_spread_than_naive_subsets() -> None:
    """From an enumerable policy: its mean over many draws is the exact worth of best-of-n."""
    world, policy, score_KC = graded()
    probability_C, score_C = policy.completion_logp_KC().detach()[0].exp().numpy(), score_KC[0].numpy()
    rng = np.random.default_rng(0)
    gold_C = rng.normal(size=len(world.completions))
    number_KN = rng.choice(len(gold_C), (2000, 12), p=probability_C / probability_C.sum())
    estimate = measure.best_of_n(score_C[number_KN], gold_C[number_KN], 3)
    exact = float(of_all_tuples(probability_C, score_C, 3) @ gold_C)
    assert estimate.low < exact < estimate.high
    first_K = number_KN[:, :3][np.arange(2000), score_C[number_KN[:, :3]].argmax(1)]
    naive_width = 2 * 1.96 * float(gold_C[first_K].std()) / 2000**0.5
    assert estimate.high - estimate.low < 0.8 * naive_width
