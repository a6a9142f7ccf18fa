"""The enumerable world is what it claims: everything is listed, and every exact number agrees with sampling."""

from dataclasses import replace
from typing import cast

import numpy as np
import pytest
import torch
from scipy import stats

from backflip.data import Item
from backflip.errors import ConfigError, DataError
from backflip.protocols import Policy, RewardModel, World
from backflip.worlds import enumerable
from backflip.worlds.enumerable import END, EnumerableWorld, TableReward, TabularPolicy


def test_protocols_and_sizes() -> None:
    world = EnumerableWorld(4, 3, 2)
    assert isinstance(world, World) and isinstance(TabularPolicy(world), Policy)
    assert isinstance(TableReward(world, torch.zeros(2, 40)), RewardModel)
    assert len(world.prefixes) == 1 + 3 + 9 and len(world.completions) == 13 + 27
    assert len(set(world.completions)) == 40
    with pytest.raises(ConfigError, match="at most 4096"):
        EnumerableWorld(10, 10)


def test_probabilities_of_all_answers_sum_to_one() -> None:
    world = EnumerableWorld(4, 3, 2)
    policy = TabularPolicy(world, np.random.default_rng(0), temperature=0.7)
    torch.testing.assert_close(policy.completion_logp_KC().exp().sum(1), torch.ones(2, dtype=torch.float64))


def test_sampled_frequencies_match_the_listed_probabilities() -> None:
    world = EnumerableWorld(3, 3, 2)
    rng = np.random.default_rng(0)
    policy = TabularPolicy(world, rng, temperature=0.7)
    episodes = world.collect(policy, 40_000, rng)
    probability_KC = policy.completion_logp_KC().detach().exp().numpy()
    prompt_B, number_B = world.prompt_B(episodes).numpy(), world.completion_B(episodes).numpy()
    for prompt in range(2):
        seen_C = np.bincount(number_B[prompt_B == prompt], minlength=len(world.completions))
        assert stats.chisquare(seen_C, probability_KC[prompt] * seen_C.sum()).pvalue > 1e-3


def test_act_and_evaluate_agree_and_the_end_is_a_decision() -> None:
    world = EnumerableWorld(3, 3, 2)
    rng = np.random.default_rng(0)
    policy = TabularPolicy(world, rng, temperature=0.7)
    episodes = world.collect(policy, 200, rng)
    act = policy.act(episodes.obs, rng)
    evaluation = policy.evaluate(episodes)
    assert episodes.logp_BT is not None
    torch.testing.assert_close(evaluation.logp_BT.detach(), episodes.logp_BT)
    assert (episodes.action[episodes.mask_BT] == END).any() and act.ended_B.any() and not act.ended_B.all()
    assert act.ended_B.tolist() == (act.action == END).any(1).tolist()


def test_exact_numbers_agree_with_the_chain_rule() -> None:
    """Per-decision KL and entropy, weighted by how likely each answer is, sum to those of whole answers."""
    world = EnumerableWorld(3, 4, 2)
    rng = np.random.default_rng(0)
    policy, reference = TabularPolicy(world, rng), TabularPolicy(world, rng)
    everything = world.everything()
    logp_KC, reference_KC = policy.completion_logp_KC().detach(), reference.completion_logp_KC().detach()
    p_KC = logp_KC.exp()
    kl_KC = policy.kl_BT(reference, everything).double().sum(1).view(2, -1)
    entropy_KC = policy.evaluate(everything).entropy_BT.detach().double().sum(1).view(2, -1)
    torch.testing.assert_close((p_KC * kl_KC).sum(1), enumerable.exact_kl(logp_KC, reference_KC))
    torch.testing.assert_close((p_KC * entropy_KC).sum(1), enumerable.exact_entropy(logp_KC))
    assert float(policy.kl_BT(policy, everything).abs().max()) == 0
    with pytest.raises(ConfigError, match="another table"):
        policy.kl_BT(cast(Policy, object()), everything)


def test_no_policy_beats_the_optimum() -> None:
    world = EnumerableWorld(3, 3, 2)
    rng = np.random.default_rng(0)
    reference_KC = TabularPolicy(world, rng).completion_logp_KC().detach()
    score_KC, beta = torch.tensor(rng.normal(size=(2, len(world.completions)))), 0.4
    best_KC, value_K = enumerable.optimum(reference_KC, score_KC, beta)

    def worth(logp_KC: torch.Tensor) -> torch.Tensor:
        return enumerable.exact_expected(logp_KC, score_KC) - beta * enumerable.exact_kl(logp_KC, reference_KC)

    torch.testing.assert_close(worth(best_KC), value_K)
    for _ in range(20):
        other_KC = torch.log_softmax(best_KC + torch.tensor(rng.normal(0, 0.1, best_KC.shape)), -1)
        assert (worth(other_KC) < value_K).all()


def test_load_of_show_gives_equal_rewards_and_strangers_are_refused() -> None:
    world = EnumerableWorld(3, 3, 3)
    rng = np.random.default_rng(0)
    episodes = world.collect(TabularPolicy(world), 50, rng)
    reward = TableReward(world, torch.tensor(rng.normal(size=(3, len(world.completions)))))
    loaded = EnumerableWorld(3, 3, 3).load(world.show(episodes))
    torch.testing.assert_close(reward(loaded).sum(1), reward(episodes).sum(1))
    torch.testing.assert_close(loaded.obs, episodes.obs)
    with pytest.raises(DataError, match="no answer of this world"):
        world.load([Item(prompt="", content="", payload={"prompt": 0, "tokens": [1]})])
    with pytest.raises(DataError, match="no answer of this world"):
        world.completion_B(replace(episodes, action=episodes.action + 7))


def test_collecting_resumes_where_it_was() -> None:
    world, policy = EnumerableWorld(3, 3, 3, group_size=2), TabularPolicy(EnumerableWorld(3, 3, 3))
    world.collect(policy, 5, np.random.default_rng(0))
    other = EnumerableWorld(3, 3, 3, group_size=2)
    other.load_state_dict(world.state_dict())
    one, two = (w.collect(policy, 7, np.random.default_rng(1)) for w in (world, other))
    assert (
        torch.equal(one.obs, two.obs) and torch.equal(one.action, two.action) and torch.equal(one.group_B, two.group_B)
    )
    assert (one.obs[:, -1] == (one.group_B % 3)).all()
