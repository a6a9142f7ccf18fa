"""Learning proofs: what is claimed to learn does, over seeds, against the same run with a reward that says nothing.

Both arms take the same number of the same steps. In the control arm the scores of a batch are dealt out to its rows at
random, so everything is as before but what there is to learn. Judged by a permutation test over seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from backflip.data import Episodes
from backflip.measures.stats import permutation_test
from backflip.optimise import kl, ppo, sft
from backflip.optimise.best_of_n import choose
from backflip.optimise.step import evaluate_all
from backflip.policies.lm import LMConfig, LMPolicy
from backflip.worlds.enumerable import EnumerableWorld, TableReward, TabularPolicy, exact_expected
from backflip.worlds.text import answer

SEEDS = 6
Optimise = Callable[[TabularPolicy, torch.optim.Optimizer, Episodes, Tensor], object]


def dealt(reward_BT: Tensor, mask_BT: Tensor, rng: np.random.Generator) -> Tensor:
    """Give each row the score of a row drawn without replacement, on its own last decision."""
    rows = torch.arange(len(mask_BT))
    other_BT = torch.zeros(reward_BT.shape)
    other_BT[rows, mask_BT.sum(1) - 1] = reward_BT.sum(1)[torch.as_tensor(rng.permutation(len(mask_BT)))]
    return other_BT


def by_ppo(policy: TabularPolicy, optimizer: torch.optim.Optimizer, episodes: Episodes, reward_BT: Tensor) -> object:
    return ppo.update(policy, optimizer, episodes, reward_BT, ppo.PPOConfig())


def by_choice(policy: TabularPolicy, optimizer: torch.optim.Optimizer, episodes: Episodes, reward_BT: Tensor) -> object:
    """Tune on the best of each group: best-of-n taught to the policy."""
    best = episodes.select(choose(episodes, reward_BT))
    ones_BT = torch.zeros(best.mask_BT.shape)
    ones_BT[torch.arange(len(best)), best.mask_BT.sum(1) - 1] = 1.0
    return sft.update(policy, optimizer, best, ones_BT, sft.SFTConfig())


def gain(optimise: Optimise, seed: int, *, informed: bool) -> float:
    """Return by how much the exact expected score rose in 12 updates."""
    rng = np.random.default_rng([seed, 7])
    world = EnumerableWorld(4, 3, 2, group_size=4)
    policy = TabularPolicy(world, rng)
    score_KC = torch.tensor(rng.normal(size=(2, len(world.completions))))
    reward = TableReward(world, score_KC)
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.05, eps=1e-5)
    before = float(exact_expected(policy.completion_logp_KC().detach(), score_KC).mean())
    for _ in range(12):
        episodes = world.collect(policy, 64, rng)
        reward_BT = reward(episodes)
        optimise(policy, optimizer, episodes, reward_BT if informed else dealt(reward_BT, episodes.mask_BT, rng))
    return float(exact_expected(policy.completion_logp_KC().detach(), score_KC).mean()) - before


@pytest.mark.parametrize("optimise", [by_ppo, by_choice])
def test_informed_runs_beat_uninformed_ones(optimise: Optimise) -> None:
    informed = [gain(optimise, seed, informed=True) for seed in range(SEEDS)]
    control = [gain(optimise, seed, informed=False) for seed in range(SEEDS)]
    assert permutation_test(informed, control, np.random.default_rng(0)) < 0.01


def language_model(seed: int) -> LMPolicy:
    torch.manual_seed(seed)
    config: dict[str, Any] = {
        "vocab_size": 24, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
        "attn_implementation": "eager",
    }  # fmt: skip
    head = torch.nn.Linear(32, 1)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    settings = LMConfig(max_new_tokens=8, rows=32, device="cpu")
    return LMPolicy(LlamaForCausalLM(LlamaConfig(**config)), None, settings, head)


def favourite_share(seed: int, *, informed: bool) -> float:
    """Train a tiny language model to say token 5 under a KL penalty; return the share of 5 in fresh answers."""
    rng = np.random.default_rng([seed, 8])
    policy = language_model(seed)
    reference = policy.reference()
    optimizer = torch.optim.Adam(policy.module.parameters(), lr=3e-3, eps=1e-5)

    def collect(rows: int) -> tuple[Episodes, Tensor]:
        episodes = answer(policy, torch.as_tensor(rng.integers(3, 24, (rows, 4))), torch.arange(rows), rng)
        return episodes, ((episodes.action == 5) & episodes.mask_BT).sum(1) / episodes.mask_BT.sum(1)

    for _ in range(8):
        episodes, share_B = collect(32)
        reward_BT = torch.zeros(episodes.mask_BT.shape)
        reward_BT[torch.arange(32), episodes.mask_BT.sum(1) - 1] = share_B
        reward_BT = reward_BT if informed else dealt(reward_BT, episodes.mask_BT, rng)
        ref_logp_BT = evaluate_all(reference, episodes, tokens_per_microbatch=400).logp_BT
        episodes = replace(episodes, ref_logp_BT=ref_logp_BT)
        shaped_BT = kl.shape_reward(reward_BT, episodes, 0.01)
        ppo.update(policy, optimizer, episodes, shaped_BT, ppo.PPOConfig(tokens_per_microbatch=200))
    return float(collect(64)[1].mean())


def test_a_language_model_learns_what_it_is_paid_for() -> None:
    informed = [favourite_share(seed, informed=True) for seed in range(SEEDS)]
    control = [favourite_share(seed, informed=False) for seed in range(SEEDS)]
    assert permutation_test(informed, control, np.random.default_rng(0)) < 0.01
    assert np.mean(informed) > 2 * np.mean(control)
