"""Nash-MD: rivals from the mixture, the exact rate, and its own limit on preferences that no score can express."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from backflip.data import Episodes
from backflip.errors import ConfigError, DataError
from backflip.measures import preference_games as games
from backflip.optimise import kl, nash_md
from backflip.optimise.nash_md import NashMDConfig
from backflip.optimise.reinforce import ReinforceConfig
from backflip.worlds.enumerable import EnumerableWorld, TabularPolicy

CYCLE_AA = np.array([[0.5, 0.9, 0.1], [0.1, 0.5, 0.9], [0.9, 0.1, 0.5]])
BASE_A = np.array([0.6, 0.3, 0.1])


def test_the_exact_iteration_has_its_known_rate() -> None:
    """eta_t = 2 / (tau (t + 2)): total variation to the regularised equilibrium falls as 1 / t, KL as 1 / t^2."""
    tau, steps = 0.5, 2000
    solution_A = games.regularised_nash(CYCLE_AA, BASE_A, tau)
    logp_A = base_A = torch.tensor(BASE_A).log()
    prob_AA = torch.tensor(CYCLE_AA)
    times, variation, divergence = list[int](), list[float](), list[float]()
    for t in range(steps):
        logp_A = nash_md.mirror_step(logp_A, base_A, prob_AA, 2 / (tau * (t + 2)), tau)
        if t >= 100 and t % 20 == 0:
            p_A = logp_A.exp().numpy()
            times.append(t)
            variation.append(0.5 * float(np.abs(p_A - solution_A).sum()))
            divergence.append(float((solution_A * np.log(solution_A / p_A)).sum()))
            assert divergence[-1] < 8 / (tau**2 * (t + 1))
    slopes = [float(np.polyfit(np.log(times), np.log(found), 1)[0]) for found in (variation, divergence)]
    assert slopes[0] == pytest.approx(-1, abs=0.15) and slopes[1] == pytest.approx(-2, abs=0.3)
    stuck_A = base_A
    for _ in range(steps):
        stuck_A = nash_md.mirror_step(stuck_A, base_A, prob_AA, 0.5, tau)
    assert 0.5 * float(np.abs(stuck_A.exp().numpy() - solution_A).sum()) > 10 * variation[-1], (
        "a constant eta keeps a bias"
    )
    with pytest.raises(ConfigError, match="eta"):
        nash_md.mirror_step(base_A, base_A, prob_AA, 3.0, tau)


def cycle() -> tuple[EnumerableWorld, TabularPolicy, nash_md.Preference]:
    """Three answers of one decision each, the base `BASE_A`, and the cycle as a preference."""
    world = EnumerableWorld(3, 1, group_size=16)
    base = TabularPolicy(world, values=False)
    assert world.completions == [(0,), (1,), (2,)]
    with torch.no_grad():
        base.logits_KXV.copy_(torch.tensor(BASE_A).log().view(1, 1, 3))
    table_AA = torch.tensor(CYCLE_AA)

    def preference(rows: Episodes, rivals: Episodes) -> Tensor:
        return table_AA[rows.action[:, 0], rivals.action[:, 0]]

    return world, base, preference


def referred(base: TabularPolicy, episodes: Episodes) -> Episodes:
    return replace(episodes, ref_logp_BT=base.evaluate(episodes).logp_BT.detach())


@pytest.mark.parametrize("mixture", [0.0, 0.5])
def test_the_policy_reaches_the_equilibrium_of_its_own_mixture(mixture: float) -> None:
    """pi = base * exp(P mixture(pi) / tau) / Z: with mixture 0 the regularised Nash equilibrium, otherwise near it."""
    world, base, preference = cycle()
    tau, rng = 0.3, np.random.default_rng(0)
    target_A = torch.tensor(BASE_A)
    for _ in range(3000):  # the equation, by damped substitution
        mixed_A = torch.softmax((1 - mixture) * target_A.log() + mixture * torch.tensor(BASE_A).log(), -1)
        reply_A = torch.softmax(torch.tensor(BASE_A).log() + torch.tensor(CYCLE_AA) @ mixed_A / tau, -1)
        target_A = 0.95 * target_A + 0.05 * reply_A
    if not mixture:
        np.testing.assert_allclose(target_A.numpy(), games.regularised_nash(CYCLE_AA, BASE_A, tau), atol=1e-6)
    policy = TabularPolicy(world, values=False)
    policy.load_state_dict(base.state_dict())
    optimizer = torch.optim.SGD(policy.parameters(), lr=4)
    config = NashMDConfig(mixture=mixture, step=ReinforceConfig(tokens_per_microbatch=10**6, max_grad_norm=10))
    for number in range(80):
        for group in optimizer.param_groups:
            group["lr"] = 4 * (1 - number / 80)
        episodes = referred(base, world.collect(policy, 256, rng))
        reward_BT, _ = nash_md.duel_rewards(episodes, preference, config)
        nash_md.update(policy, optimizer, episodes, kl.shape_reward(reward_BT, episodes, tau), config)
    found_A = policy.completion_logp_KC().detach()[0].exp()
    assert 0.5 * float((found_A - target_A).abs().sum()) < 0.02
    assert 0.5 * float((found_A - torch.tensor(BASE_A)).abs().sum()) > 0.1


def test_rivals_are_drawn_from_the_geometric_mixture() -> None:
    world, base, preference = cycle()
    policy = TabularPolicy(world, values=False)
    episodes = referred(
        base, replace(world.collect(policy, 3000, np.random.default_rng(0)), group_B=torch.arange(3000) // 100)
    )
    mixture_A = torch.softmax(0.5 * policy.completion_logp_KC().detach()[0] + 0.5 * torch.tensor(BASE_A).log(), -1)
    row_N, rival_N, weight_N = nash_md._duels(episodes, NashMDConfig(mixture=0.5))
    assert (row_N != rival_N).all() and (episodes.group_B[row_N] == episodes.group_B[rival_N]).all()
    number_B = world.completion_B(episodes)
    seen_A = torch.zeros(3, dtype=torch.float64).index_add_(0, number_B[rival_N], weight_N) / len(episodes)
    torch.testing.assert_close(seen_A, mixture_A, atol=0.02, rtol=0)
    drawn = NashMDConfig(mixture=0.5, rivals="drawn")
    average, _ = nash_md.duel_rewards(episodes, preference, NashMDConfig(mixture=0.5))
    single, stats = nash_md.duel_rewards(episodes, preference, drawn, np.random.default_rng(1))
    assert stats["duels"] == 3000
    for number in range(3):
        of = number_B == number
        torch.testing.assert_close(single[of].mean(), average[of].mean(), atol=0.03, rtol=0)


def test_a_preference_that_is_no_probability_is_refused_with_its_row() -> None:
    world, _, preference = cycle()
    episodes = world.collect(TabularPolicy(world, values=False), 32, np.random.default_rng(0))
    self_play = NashMDConfig(mixture=0.0)
    for broken in (float("nan"), 1.5):
        with pytest.raises(DataError, match="for row 0 against row 1 no probability"):
            nash_md.duel_rewards(episodes, lambda rows, rivals, said=broken: torch.full((len(rows),), said), self_play)
    with pytest.raises(ConfigError, match="groups of 2"):
        nash_md.duel_rewards(replace(episodes, group_B=torch.arange(32)), preference, self_play)
    with pytest.raises(ConfigError, match="Generator"):
        nash_md.duel_rewards(episodes, preference, NashMDConfig(mixture=0.0, rivals="drawn"))
    with pytest.raises(ConfigError, match="mixture"):
        NashMDConfig(mixture=1.5)
