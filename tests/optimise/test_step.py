"""Micro-batches: trimmed, sorted, and equal to one batch."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from backflip.data import PAD, Episodes, Evaluation, concat
from backflip.errors import ConfigError, DataError
from backflip.optimise import step
from backflip.worlds.enumerable import EnumerableWorld, TabularPolicy


def sampled(rows: int = 37, seed: int = 0) -> tuple[TabularPolicy, Episodes]:
    rng = np.random.default_rng(seed)
    world = EnumerableWorld(3, 5, 3)
    policy = TabularPolicy(world, rng)
    return policy, world.collect(policy, rows, rng)


def wide(episodes: Episodes, prompt: int = 4, answer: int = 6) -> Episodes:
    """Return the same rows with more filling on either side."""
    rows = len(episodes)
    filling = Episodes(
        obs=torch.zeros(1, episodes.obs.shape[1] + prompt, dtype=torch.long),
        action=torch.zeros(1, episodes.action.shape[1] + answer, dtype=torch.long),
        mask_BT=torch.ones(1, episodes.action.shape[1] + answer, dtype=torch.bool),
        logp_BT=torch.zeros(1, episodes.action.shape[1] + answer),
        bootstrap_B=torch.zeros(1),
        group_B=torch.zeros(1, dtype=torch.long),
    )
    return concat([replace(episodes, value_BT=None), filling]).select(range(rows))


def test_concat_fills_prompts_on_the_left_and_time_on_the_right() -> None:
    _, episodes = sampled(3)
    wider = wide(episodes, prompt=4)
    assert (wider.obs[:, : -episodes.obs.shape[1]] == PAD).all() and (wider.action[:, -1] == PAD).all()
    short, long = (
        Episodes(
            torch.ones(1, steps, 2),
            torch.ones(1, steps, 2),
            torch.ones(1, steps, dtype=torch.bool),
            None,
            torch.zeros(1),
            torch.zeros(1, dtype=torch.long),
        )
        for steps in (2, 3)
    )
    both = concat([short, long])
    assert both.obs[0].tolist() == both.action[0].tolist() == [[1, 1], [1, 1], [0, 0]]
    assert both.mask_BT.tolist() == [[True, True, False], [True, True, True]]


def nll(evaluation: Evaluation, targets: Mapping[str, Tensor]) -> Tensor:
    return -(targets["weight"] * evaluation.logp_BT).sum()


def gradient(policy: TabularPolicy, episodes: Episodes, tokens: int) -> Tensor:
    policy.zero_grad()
    weight_BT = step.decision_weights(episodes.mask_BT, "token")
    step.accumulate(policy, episodes, {"weight": weight_BT}, nll, tokens_per_microbatch=tokens)
    assert policy.logits_KXV.grad is not None
    return policy.logits_KXV.grad.clone()


def test_accumulated_gradient_equals_one_batch() -> None:
    policy, episodes = sampled()
    whole = gradient(policy, episodes, 10**9)
    policy.zero_grad()
    direct = -policy.evaluate(episodes).logp_BT[episodes.mask_BT].mean()
    direct.backward()
    assert policy.logits_KXV.grad is not None
    torch.testing.assert_close(whole, policy.logits_KXV.grad)
    for tokens in (1, 10, 50, 200):
        torch.testing.assert_close(gradient(policy, episodes, tokens), whole)


def test_filling_changes_neither_gradient_nor_evaluation() -> None:
    policy, episodes = sampled()
    padded = wide(episodes)
    torch.testing.assert_close(gradient(policy, padded, 60), gradient(policy, episodes, 60))
    one = step.evaluate_all(policy, episodes, tokens_per_microbatch=60)
    other = step.evaluate_all(policy, padded, tokens_per_microbatch=60)
    torch.testing.assert_close(other.logp_BT[:, : one.logp_BT.shape[1]], one.logp_BT)
    assert (other.logp_BT[~padded.mask_BT] == 0).all()


def test_micro_batches_hold_every_row_once_within_the_budget_and_are_trimmed() -> None:
    _, episodes = sampled()
    padded = wide(episodes)
    for budget in (1, 12, 40, 10**6):
        parts = step.micro_batches(padded, budget)
        rows = torch.cat([part.rows for part in parts])
        assert sorted(rows.tolist()) == list(range(len(episodes)))
        for part in parts:
            assert part.tokens <= budget or len(part.rows) == 1
            assert (part.episodes.obs[:, 0] != PAD).any() and part.episodes.mask_BT[:, -1].any()
            torch.testing.assert_close(part.episodes.group_B, padded.group_B[part.rows])
        length_B = (episodes.obs != PAD).sum(1) + episodes.mask_BT.sum(1)
        assert length_B[rows].tolist() == sorted(length_B.tolist(), reverse=True)


def test_sorting_by_length_saves_padding() -> None:
    _, episodes = sampled(rows=400)
    useful = int((episodes.obs != PAD).sum() + episodes.mask_BT.sum())
    computed = sum(part.tokens for part in step.micro_batches(wide(episodes), 64))
    assert useful <= computed < 1.1 * useful


def test_rows_without_decisions_are_left_out() -> None:
    policy, episodes = sampled(rows=6)
    mask_BT = episodes.mask_BT.clone()
    mask_BT[2] = False
    without = replace(episodes, mask_BT=mask_BT)
    assert 2 not in torch.cat([part.rows for part in step.micro_batches(without, 100)])
    assert (step.evaluate_all(policy, without, tokens_per_microbatch=100).logp_BT[2] == 0).all()


def test_others_turns_inside_a_row_are_kept_and_those_after_it_cut() -> None:
    _, episodes = sampled(rows=3)
    mask_BT = torch.tensor([[True, False, True, False, False]] * 3)
    part = step.trim(replace(episodes, mask_BT=mask_BT))
    assert part.mask_BT.tolist() == [[True, False, True]] * 3


def test_observations_of_steps_are_not_taken_for_filling() -> None:
    rows, steps = 3, 4
    obs = torch.full((rows, steps, 2), -1.0)
    mask_BT = torch.ones(rows, steps, dtype=torch.bool)
    zeros = torch.zeros(rows)
    episodes = Episodes(obs, torch.zeros(rows, steps, 2), mask_BT, zeros.expand(steps, rows).T, zeros, zeros.long())
    assert step.trim(episodes).obs.shape == obs.shape
    assert [part.tokens for part in step.micro_batches(episodes, 100)] == [3 * (4 + 4)]


def test_weights_follow_their_rule() -> None:
    mask_BT = torch.tensor([[True, True, True], [True, False, False], [False, False, False]])
    assert step.decision_weights(mask_BT, "token").sum().item() == pytest.approx(1.0)
    assert step.decision_weights(mask_BT, "token")[0, 0].item() == pytest.approx(0.25)
    assert step.decision_weights(mask_BT, "sequence").sum(1).tolist() == pytest.approx([0.5, 0.5, 0.0])
    assert step.decision_weights(mask_BT, "constant", 10).sum().item() == pytest.approx(4 / 30)
    with pytest.raises(ConfigError, match="constant_length"):
        step.decision_weights(mask_BT, "constant")
    with pytest.raises(DataError, match="no decision"):
        step.decision_weights(torch.zeros(2, 2, dtype=torch.bool), "token")


def test_a_step_that_is_not_finite_is_refused_and_moves_nothing() -> None:
    policy, episodes = sampled()
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.1)
    before = policy.logits_KXV.detach().clone()
    gradient(policy, episodes, 100)
    with pytest.raises(DataError, match="refused a step"):
        step.take_step(optimizer, float("nan"), 1.0)
    gradient(policy, episodes, 100)
    assert policy.logits_KXV.grad is not None
    policy.logits_KXV.grad[0, 0, 0] = float("inf")
    with pytest.raises(DataError, match="gradient norm"):
        step.take_step(optimizer, 1.0, 1.0)
    assert torch.equal(policy.logits_KXV, before)
    assert policy.logits_KXV.grad is None
    with pytest.raises(ConfigError, match="no parameter"):
        step.take_step(optimizer, 1.0, 1.0)


def test_gradient_is_clipped_to_its_norm() -> None:
    policy, episodes = sampled()
    optimizer = torch.optim.SGD(policy.parameters(), lr=1.0)
    before, raw = policy.logits_KXV.detach().clone(), gradient(policy, episodes, 100)
    norm = step.take_step(optimizer, 0.0, 0.01)
    assert norm == pytest.approx(float(raw.norm()))
    assert float((policy.logits_KXV.detach() - before).norm()) == pytest.approx(0.01, rel=1e-3)


def test_minibatches_hold_every_row_once() -> None:
    rng = np.random.default_rng(0)
    drawn = list(step.minibatches(10, 3, rng))
    assert sorted(torch.cat(drawn).tolist()) == list(range(10)) and torch.cat(drawn).tolist() != list(range(10))
    assert [rows.tolist() for rows in step.minibatches(4, 1, None)] == [[0, 1, 2, 3]]
    with pytest.raises(ConfigError, match="numpy Generator"):
        list(step.minibatches(10, 2, None))
    with pytest.raises(ConfigError, match="expected 1 to 3"):
        list(step.minibatches(3, 4, rng))
    with pytest.raises(ConfigError, match="tokens_per_microbatch"):
        step.micro_batches(sampled()[1], 0)
