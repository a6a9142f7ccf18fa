"""REINFORCE and RLOO: advantages by hand, the gradient without bias, and what must not change the result."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from backflip.data import Episodes
from backflip.errors import ConfigError, DataError
from backflip.optimise import reinforce
from backflip.optimise.reinforce import ReinforceConfig
from backflip.worlds.enumerable import EnumerableWorld, TableReward, TabularPolicy, exact_expected

PLAIN = ReinforceConfig(baseline="none", aggregate="constant", constant_length=1, max_grad_norm=float("inf"))


def setting(seed: int = 0, rows: int = 48) -> tuple[TabularPolicy, torch.optim.Optimizer, Episodes, Tensor]:
    rng = np.random.default_rng(seed)
    world = EnumerableWorld(3, 4, 2, group_size=4)
    policy = TabularPolicy(world, rng, values=False)
    episodes = world.collect(policy, rows, rng)
    reward_BT = TableReward(world, torch.tensor(rng.normal(size=(2, len(world.completions)))))(episodes)
    return policy, torch.optim.Adam(policy.parameters(), lr=0.05, eps=1e-5), episodes, reward_BT


def gradient(config: ReinforceConfig, policy: TabularPolicy, episodes: Episodes, reward_BT: Tensor) -> Tensor:
    """Return what an update adds to the logits at a learning rate of 1: minus the gradient of the loss."""
    copy = TabularPolicy(policy.world, values=False)
    copy.load_state_dict(policy.state_dict())
    reinforce.update(copy, torch.optim.SGD(copy.parameters(), lr=1.0), episodes, reward_BT, config)
    return (copy.logits_KXV - policy.logits_KXV).detach()


def test_advantages_by_hand() -> None:
    mask_BT = torch.tensor([[True, True, True], [True, True, False], [True, False, False], [True, True, True]])
    reward_BT = torch.tensor([[0.0, 1.0, 3.0], [2.0, 0.0, 0.0], [6.0, 0.0, 0.0], [0.0, 0.0, 8.0]])
    episodes = Episodes(
        obs=torch.zeros(4, 1, dtype=torch.long),
        action=mask_BT.long(),
        mask_BT=mask_BT,
        logp_BT=torch.zeros(4, 3),
        bootstrap_B=torch.zeros(4),
        group_B=torch.tensor([0, 0, 1, 1]),
    )

    def found(**settings: Any) -> list[list[float]]:
        return reinforce.advantages_BT(episodes, reward_BT, ReinforceConfig(**settings)).tolist()

    assert found(baseline="none") == [[4, 4, 4], [2, 2, 0], [6, 0, 0], [8, 8, 8]]
    assert found(baseline="group") == [[2, 2, 2], [-2, -2, 0], [-2, 0, 0], [2, 2, 2]]
    assert found(baseline="none", credit="to_go") == [[4, 4, 3], [2, 0, 0], [6, 0, 0], [8, 8, 8]]
    assert found(baseline="group", credit="to_go") == [[2, 4, 3], [-2, -4, 0], [-2, 0, 0], [2, 8, 8]]
    assert found(baseline="none", credit="to_go", gamma=0.5)[0] == [1.25, 2.5, 3.0]
    assert found()[0] == pytest.approx([4 - 16 / 3] * 3)


def test_rows_above_their_baseline_become_likelier() -> None:
    policy, _, episodes, reward_BT = setting()
    moved_KXV = gradient(reinforce.rloo(), policy, episodes, reward_BT)
    before_B = policy.evaluate(episodes).logp_BT.detach().sum(1)
    with torch.no_grad():
        policy.logits_KXV.add_(moved_KXV, alpha=0.1)
    lead_B = reinforce.advantages_BT(episodes, reward_BT, reinforce.rloo()).sum(1)
    assert float((lead_B * (policy.evaluate(episodes).logp_BT.detach().sum(1) - before_B)).sum()) > 0


@pytest.mark.parametrize(
    "variant",
    [{}, {"baseline": "batch"}, {"baseline": "group"}, {"baseline": "group", "credit": "to_go"}],
    ids=lambda variant: "-".join(variant.values()) or "plain",
)
def test_the_mean_step_is_the_gradient_of_the_expected_reward(variant: dict[str, Any]) -> None:
    """Over many batches, with any baseline: no bias; with a baseline less noise, whatever constant the score carries."""
    rng = np.random.default_rng(3)
    world = EnumerableWorld(3, 2, group_size=4)
    policy = TabularPolicy(world, rng, values=False)
    score_KC = torch.tensor(rng.normal(size=(1, len(world.completions)))) + 2.0
    exact_expected(policy.completion_logp_KC(), score_KC).sum().backward()
    assert policy.logits_KXV.grad is not None
    exact = policy.logits_KXV.grad.flatten()
    reward = TableReward(world, score_KC)
    found: list[Tensor] = []
    batches = [world.collect(policy, 64, rng) for _ in range(100)]
    for episodes in batches:
        found.append(gradient(replace(PLAIN, **variant), policy, episodes, reward(episodes)).flatten())
    sample = torch.stack(found)
    error = sample.std(0) / len(sample) ** 0.5
    assert ((sample.mean(0) - exact).abs() < 4 * error + 1e-7).all()
    assert float(exact.norm()) > 5 * float(error.norm()), "the noise must leave something to see"
    if variant:
        raised = TableReward(world, score_KC + 10)
        plain = torch.stack([gradient(PLAIN, policy, episodes, raised(episodes)).flatten() for episodes in batches])
        assert sample.std(0).norm() < 0.5 * plain.std(0).norm()


def test_a_constant_in_the_score_changes_nothing() -> None:
    policy, _, episodes, reward_BT = setting()
    last_BT = torch.nn.functional.one_hot(episodes.mask_BT.sum(1) - 1, episodes.mask_BT.shape[1])
    for config in (ReinforceConfig(), reinforce.rloo(), ReinforceConfig(whiten_advantages=True)):
        moved = gradient(config, policy, episodes, reward_BT + 100 * last_BT)
        torch.testing.assert_close(moved, gradient(config, policy, episodes, reward_BT), atol=1e-4, rtol=1e-3)


def test_accumulation_equals_one_batch() -> None:
    policy, _, episodes, reward_BT = setting()
    for aggregate in ("token", "sequence", "constant"):
        config = replace(reinforce.rloo(), aggregate=aggregate, constant_length=4, tokens_per_microbatch=10**6)
        parts = gradient(replace(config, tokens_per_microbatch=9), policy, episodes, reward_BT)
        torch.testing.assert_close(parts, gradient(config, policy, episodes, reward_BT), atol=1e-6, rtol=1e-4)


def test_padding_never_changes_a_statistic_of_reinforce() -> None:
    policy, optimizer, episodes, reward_BT = setting()
    clean = reinforce.update(policy, optimizer, episodes, reward_BT, ReinforceConfig(whiten_advantages=True))
    policy, optimizer, _, _ = setting()
    assert episodes.logp_BT is not None
    junk = replace(episodes, logp_BT=torch.where(episodes.mask_BT, episodes.logp_BT, 1.0))
    assert reinforce.update(policy, optimizer, junk, reward_BT, ReinforceConfig(whiten_advantages=True)) == clean
    assert clean["decisions"] == float(episodes.mask_BT.sum()) and clean["equal_group_fraction"] == 0


def test_groups_of_equal_scores_teach_nothing_and_are_counted() -> None:
    policy, optimizer, episodes, reward_BT = setting()
    before = policy.logits_KXV.detach().clone()
    stats = reinforce.update(policy, optimizer, episodes, torch.zeros_like(reward_BT), reinforce.rloo())
    assert stats["equal_group_fraction"] == 1 and torch.equal(before, policy.logits_KXV)


def test_what_reinforce_cannot_use_is_refused_and_nothing_moves() -> None:
    policy, optimizer, episodes, reward_BT = setting()
    before = policy.logits_KXV.detach().clone()
    with pytest.raises(DataError, match="demonstrations"):
        reinforce.update(policy, optimizer, replace(episodes, logp_BT=None), reward_BT, ReinforceConfig())
    with pytest.raises(ConfigError, match="group size of 2"):
        alone = replace(episodes, group_B=torch.arange(len(episodes)))
        reinforce.update(policy, optimizer, alone, reward_BT, reinforce.rloo())
    with pytest.raises(DataError, match="row 3 is not finite"):
        broken_BT = reward_BT.clone()
        broken_BT[3, int(episodes.mask_BT[3].sum()) - 1] = float("nan")
        reinforce.update(policy, optimizer, episodes, broken_BT, ReinforceConfig())
    policy.temperature = 1.3
    with pytest.raises(DataError, match=r"\|ratio - 1\|"):
        reinforce.update(policy, optimizer, episodes, reward_BT, ReinforceConfig())
    assert torch.equal(before, policy.logits_KXV)
    wrongs: list[dict[str, Any]] = [{"gamma": 1.1}, {"max_grad_norm": 0.0}, {"entropy_coef": -1.0}]
    for wrong in wrongs:
        with pytest.raises(ConfigError):
            ReinforceConfig(**wrong)
