"""Tests must be able to fail: one fault at a time is planted into the real code, and the named check must notice.

A fault is an edit of one line of a function's source. The named test must pass on the code as it is and fail on the
code with the fault; a check inside the library must raise.
"""

from __future__ import annotations

import importlib.util
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from backflip import masked
from backflip.data import Episodes
from backflip.errors import DataError
from backflip.measures import frontier
from backflip.optimise import (
    best_of_n,
    conditional,
    dpo,
    feedme,
    grpo,
    imitate,
    kl,
    nash_md,
    ppo,
    reinforce,
    returns,
    scores,
    step,
)
from backflip.policies import draw, lm, score
from backflip.worlds import enumerable
from backflip.worlds.enumerable import EnumerableWorld, TabularPolicy
from backflip.worlds.text import answer

TESTS = Path(__file__).parent
END = 2


def named(path: str, test: str) -> Callable[[], None]:
    """Return a test function by its file and name, freshly loaded."""
    spec = importlib.util.spec_from_file_location(f"planted_{Path(path).stem}", TESTS / path)
    assert spec is not None and spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, test)


def plant(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, old: str, new: str) -> None:
    """Replace a function by itself with one edit; the text to replace must be there exactly once."""
    function = getattr(owner, name)
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(old) == 1, f"{name} holds {old!r} {source.count(old)} times: the fault must be planted anew"
    code = compile("from __future__ import annotations\n" + source.replace(old, new), f"planted in {name}", "exec")
    space = dict(function.__globals__)
    exec(code, space)
    monkeypatch.setattr(owner, name, space[name])


FAULTS: dict[str, tuple[Any, str, str, str, str, str]] = {
    "gamma misplaced": (
        returns, "gae", "gamma * next_value_B - value_TB", "next_value_B - gamma * value_TB",
        "optimise/test_returns.py", "test_gae_equals_the_textbook_sum_over_decisions",
    ),
    "lambda without gamma": (
        returns, "gae", "gamma * lam * next", "lam * next",
        "optimise/test_returns.py", "test_gae_equals_the_textbook_sum_over_decisions",
    ),
    "mask ignored in gae": (
        returns, "gae", "np.where(decided_B, value_TB[t], next_value_B)", "value_TB[t]",
        "optimise/test_returns.py", "test_what_lies_on_masked_positions_never_matters",
    ),
    "mask ignored in means": (
        masked, "masked_sum", "torch.where(mask_BT, x_BT, torch.zeros_like(x_BT))", "x_BT",
        "test_masked.py", "test_padding_never_changes_a_number",
    ),
    "not masked again after whitening": (
        masked, "masked_whiten", "return torch.where(mask_BT, white_BT, torch.zeros_like(white_BT))", "return white_BT",
        "test_masked.py", "test_padding_never_changes_a_number",
    ),
    "mask ignored in a statistic": (
        ppo, "_step_statistics", "float(masked_mean(term_BT, mask_BT))", "float(term_BT.mean())",
        "optimise/test_ppo.py", "test_padding_never_changes_a_statistic",
    ),
    "wrong sign of the KL": (
        kl, "shape_reward", "reward_BT - beta", "reward_BT + beta",
        "optimise/test_kl.py", "test_reward_sum_is_score_minus_beta_times_kl",
    ),
    "KL the wrong way round": (
        kl, "log_ratio_BT", "episodes.logp_BT - episodes.ref_logp_BT", "episodes.ref_logp_BT - episodes.logp_BT",
        "optimise/test_kl.py", "test_k1_averages_to_the_exact_kl_with_its_sign",
    ),
    "controller steers away": (
        kl.AdaptiveKL, "after", "1.0 + error", "1.0 - error",
        "optimise/test_kl.py", "test_adaptive_controller_holds_a_responsive_policy_at_its_target",
    ),
    "denominators of the micro-batch": (
        ppo, "_gradient", "masked_sum(part[\"weight\"] * total_BT, part[\"weight\"] > 0)",
        "masked_mean(total_BT, part[\"weight\"] > 0)",
        "optimise/test_ppo.py", "test_accumulation_equals_one_batch_over_whole_updates",
    ),
    "prompt cut on the wrong side": (
        step, "trim", "obs[:, obs.shape[1] - prompt :]", "obs[:, :prompt]",
        "optimise/test_step.py", "test_filling_changes_neither_gradient_nor_evaluation",
    ),
    "clip that never binds": (
        ppo, "clipped_surrogate", "torch.maximum(plain_BT, clipped_BT)", "torch.minimum(plain_BT, clipped_BT)",
        "optimise/test_ppo.py", "test_loss_terms_by_hand",
    ),
    "value clip that lets go": (
        ppo, "loss_terms", "torch.maximum(error_BT, near_error_BT)", "torch.minimum(error_BT, near_error_BT)",
        "optimise/test_ppo.py", "test_loss_terms_by_hand",
    ),
    "missing end subtracts instead of replacing": (
        scores, "apply_rules", "torch.where(ended_B, new_B, value)", "torch.where(ended_B, new_B, new_B + value)",
        "optimise/test_scores.py", "test_replace_and_subtract_differ_as_they_say",
    ),
    "last of equals wins": (
        best_of_n, "choose", "score > best[group][0]", "score >= best[group][0]",
        "optimise/test_choose.py", "test_each_group_keeps_its_best_and_the_first_of_equals",
    ),
    "sampler biased": (
        TabularPolicy, "act", "rng.random(rows)", "rng.random(rows) ** 1.05",
        "worlds/test_enumerable.py", "test_sampled_frequencies_match_the_listed_probabilities",
    ),
    "KL without its log": (
        TabularPolicy, "kl_BT", "(mine_KXV - other_KXV)", "(mine_KXV.exp() - other_KXV.exp())",
        "worlds/test_enumerable.py", "test_exact_numbers_agree_with_the_chain_rule",
    ),
    "optimum with beta squared": (
        enumerable, "optimum", "score_KC.double() / beta", "score_KC.double() / beta**2",
        "worlds/test_enumerable.py", "test_no_policy_beats_the_optimum",
    ),
    "baseline holds the row itself": (
        reinforce, "mean_of_others", "total_GT[index_B] - value_BT", "total_GT[index_B]",
        "optimise/test_reinforce.py", "test_advantages_by_hand",
    ),
    "mask ignored in the advantages of REINFORCE": (
        reinforce, "advantages_BT", "torch.where(mask_BT, advantage_BT, torch.zeros((), device=mask_BT.device))",
        "advantage_BT.expand(mask_BT.shape)",
        "optimise/test_reinforce.py", "test_advantages_by_hand",
    ),
    "return of the decision after": (
        reinforce, "advantages_BT", "gather(1, first_B1)", "gather(1, first_B1 + 1)",
        "optimise/test_reinforce.py", "test_advantages_by_hand",
    ),
    "REINFORCE goes downhill": (
        reinforce, "update", '-part["advantage"] * evaluation.logp_BT', 'part["advantage"] * evaluation.logp_BT',
        "optimise/test_reinforce.py", "test_rows_above_their_baseline_become_likelier",
    ),
    "lead over the batch, not the group": (
        grpo, "advantages_BT", "score_B - mean_B", "score_B - score_B.mean()",
        "optimise/test_grpo.py", "test_advantages_by_hand",
    ),
    "mask ignored in a loss KL": (
        grpo, "_reference_BT", "torch.where(episodes.mask_BT, episodes.ref_logp_BT.detach(), 0.0)",
        "episodes.ref_logp_BT.detach()",
        "optimise/test_grpo.py", "test_padding_never_changes_a_statistic_of_grpo",
    ),
    "DPO prefers the worse": (
        dpo, "pair_loss", "config.beta * lead_G", "-config.beta * lead_G",
        "optimise/test_dpo.py", "test_pair_losses_by_hand",
    ),
    "IPO's lead times beta": (
        dpo, "pair_loss", "(share_G - 0.5) / config.beta", "(share_G - 0.5) * config.beta",
        "optimise/test_dpo.py", "test_pair_losses_by_hand",
    ),
    "mask ignored in the reference of DPO": (
        dpo, "_terms", 'torch.where(mask_BT, part["ref_logp"], zero_BT)', 'part["ref_logp"]',
        "optimise/test_dpo.py", "test_statistics_of_dpo_know_ties_and_padding",
    ),
    "the bar itself does not pass": (
        feedme, "kept", "rating_B >= keep.rating", "rating_B > keep.rating",
        "optimise/test_choosing_methods.py", "test_what_is_kept_by_hand",
    ),
    "a score on the edge stays below": (
        conditional, "levels", ">= edge_L", "> edge_L",
        "optimise/test_choosing_methods.py", "test_levels_and_their_edges",
    ),
    "level told in the filling": (
        conditional.TokenInFront, "__call__", "(first_B + self.after).unsqueeze(1)", "(0 * first_B + self.after).unsqueeze(1)",
        "optimise/test_choosing_methods.py", "test_a_token_in_front_keeps_prompts_whole",
    ),
    "rivals far from the reference": (
        nash_md, "_duels", "-config.mixture * log_ratio_BT", "config.mixture * log_ratio_BT",
        "optimise/test_nash_md.py", "test_rivals_are_drawn_from_the_geometric_mixture",
    ),
    "preference the wrong way round": (
        nash_md, "mirror_step", "prob_AA @ mixture_A", "prob_AA.T @ mixture_A",
        "optimise/test_nash_md.py", "test_the_exact_iteration_has_its_known_rate",
    ),
    "expert's log-probability added": (
        imitate, "update", 'evaluation.logp_BT - part["expert"]', 'evaluation.logp_BT + part["expert"]',
        "optimise/test_choosing_methods.py", "test_a_step_of_imitation_follows_the_kl_at_each_decision",
    ),
    "tilt with beta squared": (
        frontier, "tilted", "lead_KC * per_beta", "lead_KC * per_beta**2",
        "measures/test_frontier.py", "test_no_distribution_is_above_the_frontier_and_the_tilt_is_on_it",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_fails_its_named_test(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, name, old, new, path, test = FAULTS[fault]
    check = named(path, test)
    check()
    plant(monkeypatch, owner, name, old, new)
    with pytest.raises((AssertionError, DataError)):
        check()


# -- faults of a policy or a world that PPO itself must refuse ---------------------------------------------------------


def language_model(seed: int = 0, dropout: float = 0.0, temperature: float = 0.8) -> lm.LMPolicy:
    torch.manual_seed(seed)
    config: dict[str, Any] = {
        "vocab_size": 24, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": END,
        "attention_dropout": dropout, "initializer_range": 0.3, "attn_implementation": "eager",
    }  # fmt: skip
    model = LlamaForCausalLM(LlamaConfig(**config))
    settings = lm.LMConfig(temperature=temperature, max_new_tokens=8, rows=16, device="cpu")
    return lm.LMPolicy(model, None, settings, torch.nn.Linear(32, 1))


def sampled(policy: lm.LMPolicy, rows: int = 32) -> tuple[Episodes, torch.Tensor]:
    """Answers to random prompts, with a score on each last decision."""
    rng = np.random.default_rng(0)
    obs_BP = torch.as_tensor(rng.integers(3, 24, (rows, 4)))
    episodes = answer(policy, obs_BP, torch.arange(rows), rng)
    reward_BT = torch.zeros(episodes.mask_BT.shape)
    reward_BT[torch.arange(rows), episodes.mask_BT.sum(1) - 1] = torch.linspace(-1, 1, rows)
    return episodes, reward_BT


def improve(policy: lm.LMPolicy, episodes: Episodes, reward_BT: torch.Tensor) -> dict[str, float]:
    optimizer = torch.optim.Adam(policy.module.parameters(), lr=1e-3, eps=1e-5)
    return ppo.update(policy, optimizer, episodes, reward_BT, ppo.PPOConfig(epochs=1, tokens_per_microbatch=100))


def test_a_language_model_without_a_fault_passes() -> None:
    policy = language_model(dropout=0.3)
    assert improve(policy, *sampled(policy))["ratio_max_error"] < 1e-4


def test_dropout_left_on_is_caught_by_the_ratio_check() -> None:
    policy = language_model(dropout=0.3)
    policy.module.model.train()
    with pytest.raises(DataError, match=r"\|ratio - 1\|.*dropout"):
        improve(policy, *sampled(policy))


def test_temperature_left_out_of_the_log_probability_is_caught_by_the_ratio_check(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy = language_model()
    episodes, reward_BT = sampled(policy)
    monkeypatch.setattr(score, "logits_to_logp", lambda logits_RV, temperature: draw.logits_to_logp(logits_RV, 1.0))
    with pytest.raises(DataError, match=r"\|ratio - 1\|.*temperature"):
        improve(policy, episodes, reward_BT)


def test_pad_equal_to_eos_is_caught_by_the_reward_check() -> None:
    """A mask that takes end tokens for padding leaves the score on a position where nothing was decided."""
    policy = language_model()
    episodes, reward_BT = sampled(policy)
    without_ends_BT = episodes.mask_BT & (episodes.action != END)
    assert not torch.equal(without_ends_BT, episodes.mask_BT)
    with pytest.raises(DataError, match="decided nothing"):
        improve(policy, replace(episodes, mask_BT=without_ends_BT), reward_BT)


def test_a_reward_one_token_late_is_caught_by_the_reward_check() -> None:
    policy = language_model()
    episodes, reward_BT = sampled(policy)
    late_BT = torch.roll(reward_BT, 1, dims=1)
    with pytest.raises(DataError, match="decided nothing"):
        improve(policy, episodes, late_BT)


def test_weights_that_moved_after_sampling_are_caught_by_the_ratio_check() -> None:
    policy = language_model()
    episodes, reward_BT = sampled(policy)
    improve(policy, episodes, reward_BT)
    with pytest.raises(DataError, match="moved since sampling"):
        improve(policy, episodes, reward_BT)


def test_log_probabilities_of_the_next_token_are_caught_by_the_ratio_check(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = language_model()
    episodes, reward_BT = sampled(policy)
    plant(monkeypatch, lm.LMPolicy, "_decisions", "obs_BP.shape[1] + time_N] - 1", "obs_BP.shape[1] + time_N] - 2")
    with pytest.raises(DataError, match=r"\|ratio - 1\|"):
        improve(policy, episodes, reward_BT)


def test_padding_that_is_read_is_caught_by_the_padding_law(monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy whose log-probabilities depend on the width of its batch fails the law that trimming changes nothing."""
    world = EnumerableWorld(3, 4, 3)
    policy = TabularPolicy(world, np.random.default_rng(0))
    episodes = world.collect(policy, 40, np.random.default_rng(1))

    def gap() -> float:
        parts = step.evaluate_all(policy, episodes, tokens_per_microbatch=6).logp_BT
        return float((parts - policy.evaluate(episodes).logp_BT.detach()).abs().max())

    assert gap() < 1e-6
    plant(monkeypatch, TabularPolicy, "evaluate", "picked_BT * mask_BT, ", "picked_BT / mask_BT.shape[1] * mask_BT, ")
    assert gap() > 0.1
