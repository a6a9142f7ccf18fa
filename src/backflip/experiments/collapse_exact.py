"""Collapse where nothing has to be estimated: 20 equally good answers, every method, several weights of the KL.

In a world whose answers can be listed, 20 of them score 1 to each prompt and all others 0. The best policy under any KL penalty keeps all
20 in the base's proportions, so a method that drops some has collapsed by how it optimises, not by what it was asked for. No experiment.

Shapes: K prompts, C answers, B rows, T decisions, G pairs, 2 rows of a pair.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backflip.data import Episodes, concat
from backflip.loops.parts import stream
from backflip.measures.modes import effective_modes, expected_distinct_share, modes_covered
from backflip.measures.prompt_information import exact_prompt_information
from backflip.optimise import conditional, dpo, feedme, grpo, nash_md, ppo, reinforce, sft
from backflip.optimise.conditional import Asked, ConditionalConfig
from backflip.optimise.dpo import DPOConfig
from backflip.optimise.feedme import AtLeast, FeedMEConfig
from backflip.optimise.grpo import GRPOConfig
from backflip.optimise.kl import shape_reward
from backflip.optimise.nash_md import NashMDConfig
from backflip.optimise.ppo import PPOConfig
from backflip.optimise.reinforce import ReinforceConfig
from backflip.optimise.returns import on_last_decision
from backflip.optimise.step import evaluate_all
from backflip.rewards.preference import ScorePreference
from backflip.worlds.enumerable import (
    EnumerableWorld,
    TableReward,
    TabularPolicy,
    exact_entropy,
    exact_expected,
    exact_kl,
    optimum,
)

MODES, VOCABULARY, LENGTH, PROMPTS, GROUP = 20, 5, 3, 3, 4
DRAWN = 20
"""Answers of which it is computed how many differ."""
AT_ONCE = 10**6
LEARNING_RATE = 0.1
HELD: dict[str, tuple[Callable[..., dict[str, float]], Any]] = {
    "ppo": (ppo.update, PPOConfig(tokens_per_microbatch=AT_ONCE)),
    "reinforce": (reinforce.update, ReinforceConfig(tokens_per_microbatch=AT_ONCE)),
    "rloo": (reinforce.update, replace(reinforce.rloo(), tokens_per_microbatch=AT_ONCE)),
    "grpo": (grpo.update, GRPOConfig(tokens_per_microbatch=AT_ONCE)),
    "nash_md": (nash_md.update, NashMDConfig(step=ReinforceConfig(tokens_per_microbatch=AT_ONCE))),
}
"""Methods that sample and are held by a KL in the reward; that of Nash-MD is a win rate, half the score's spread at most."""
FREE = ("feedme", "conditional", "sft")
"""Methods that know no KL."""
EXACT_SFT = sft.SFTConfig(tokens_per_microbatch=AT_ONCE, aggregate="constant", constant_length=1)


@dataclass(frozen=True)
class Problem:
    """The world, its base, and a score of 1 for MODES answers to every prompt."""

    world: EnumerableWorld
    base: TabularPolicy
    score_KC: Tensor

    @property
    def base_KC(self) -> Tensor:
        """Log-probabilities of the base."""
        return self.base.completion_logp_KC().detach()

    def referred(self, rows: Episodes) -> Episodes:
        """Return rows with the base's log-probabilities."""
        return replace(rows, ref_logp_BT=evaluate_all(self.base, rows, tokens_per_microbatch=AT_ONCE).logp_BT)

    def start(self) -> TabularPolicy:
        """Return a copy of the base, with values."""
        policy = TabularPolicy(self.world)
        with torch.no_grad():
            policy.logits_KXV.copy_(self.base.logits_KXV)
        return policy


def problem(seed: int) -> Problem:
    """Draw a world's base and which of its longest answers are good."""
    world = EnumerableWorld(VOCABULARY, LENGTH, PROMPTS, group_size=GROUP)
    rng = stream(seed, "planted modes")
    base = TabularPolicy(world, rng, scale=0.5, values=False)
    score_KC = torch.zeros(PROMPTS, len(world.completions), dtype=torch.float64)
    longest = [number for number, answer in enumerate(world.completions) if len(answer) == LENGTH and answer[-1]]
    for prompt in range(PROMPTS):
        score_KC[prompt, torch.from_numpy(rng.choice(longest, MODES, replace=False))] = 1.0
    return Problem(world, base, score_KC)


def trained(method: str, beta: float | None, updates: int, rows: int, seed: int) -> tuple[Problem, Tensor]:
    """Train a method from the base; return the problem and the log-probabilities of what came of it, (K, C).

    `beta` weighs the KL; None for a method that knows none.
    """
    given, rng = problem(seed), stream(seed, f"collapse {method}")
    if method in HELD:
        policy = given.start()
        step = _on_policy(given, policy, method, beta or 0.0, rows, rng)
    elif method == "conditional":
        return given, _conditional(given, updates, rows, rng)
    elif method == "feedme":
        policy = given.start()
        step = _feedme(given, policy, rows, rng)
    else:
        policy = given.start()
        step = _from_pairs(given, policy, method, beta, rows, rng)
    _descend(policy, step, updates)
    return given, policy.completion_logp_KC().detach()


def describe(given: Problem, logp_KC: Tensor) -> dict[str, float]:
    """Return the exact measures of a policy, means over prompts: KL, score, entropy, modes, distinct answers; and what it heeds of the prompt."""
    p_KC, base_KC = logp_KC.exp().numpy(), given.base_KC.exp().numpy()
    modes = [np.flatnonzero(given.score_KC[prompt].numpy()) for prompt in range(PROMPTS)]
    shares = [(p_KC[k, modes[k]], base_KC[k, modes[k]]) for k in range(PROMPTS)]
    return {
        "kl_nats": float(exact_kl(logp_KC, given.base_KC).mean()),
        "score": float(exact_expected(logp_KC, given.score_KC).mean()),
        "entropy_nats": float(exact_entropy(logp_KC).mean()),
        "modes_covered": float(np.mean([modes_covered(ours, base) for ours, base in shares])),
        "effective_modes": float(np.mean([effective_modes(ours) for ours, _ in shares])),
        "distinct_share": float(np.mean([expected_distinct_share(p_C / p_C.sum(), DRAWN) for p_C in p_KC])),
        "prompt_information_nats": exact_prompt_information(logp_KC.numpy()),
    }


def best(given: Problem, beta: float) -> dict[str, float]:
    """Return the measures of the policy that is best at this weight of the KL.

    At a weight of 0 every policy on the modes is equally good; the limit from above is shown, which is the base among good answers alone.
    """
    if beta:
        return describe(given, optimum(given.base_KC, given.score_KC, beta)[0])
    kept_KC = torch.where(given.score_KC > 0, given.base_KC, -torch.inf)
    return describe(given, kept_KC - kept_KC.logsumexp(1, keepdim=True))


def _descend(policy: Any, step: Callable[[torch.optim.Optimizer], object], updates: int) -> None:
    optimizer = torch.optim.Adam(policy.parameters(), lr=LEARNING_RATE, eps=1e-5)
    for number in range(updates):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * (1 - number / updates)
        step(optimizer)


def _on_policy(
    given: Problem, policy: TabularPolicy, method: str, beta: float, rows: int, rng: np.random.Generator
) -> Callable[[torch.optim.Optimizer], object]:
    update, config = HELD[method]
    reward = TableReward(given.world, given.score_KC)

    def step(optimizer: torch.optim.Optimizer) -> object:
        sampled = given.referred(given.world.collect(policy, rows, rng))
        duel = isinstance(config, NashMDConfig)
        reward_BT = nash_md.duel_rewards(sampled, ScorePreference(reward), config)[0] if duel else reward(sampled)
        return update(policy, optimizer, sampled, shape_reward(reward_BT, sampled, beta), config, rng)

    return step


def _feedme(
    given: Problem, policy: TabularPolicy, rows: int, rng: np.random.Generator
) -> Callable[[torch.optim.Optimizer], object]:
    reward, config = TableReward(given.world, given.score_KC), FeedMEConfig(AtLeast(1.0), EXACT_SFT)

    def step(optimizer: torch.optim.Optimizer) -> object:
        sampled = given.world.collect(policy, rows, rng)
        reward_BT = reward(sampled)
        if bool((reward_BT.sum(1) >= 1).all()):  # all pass the bar: nothing is left to choose
            return None
        return feedme.update(policy, optimizer, sampled, reward_BT, config, rng)

    return step


def _from_pairs(
    given: Problem, policy: TabularPolicy, method: str, beta: float | None, rows: int, rng: np.random.Generator
) -> Callable[[torch.optim.Optimizer], object]:
    """DPO and SFT: fresh pairs of the base, each answered by one draw of a Bradley-Terry overseer who sees the score."""
    reward, chosen = (
        TableReward(given.world, given.score_KC),
        DPOConfig(beta=beta or 1.0, tokens_per_microbatch=AT_ONCE),
    )

    def step(optimizer: torch.optim.Optimizer) -> object:
        sampled = given.world.collect(given.base, rows, rng)
        sampled = given.referred(replace(sampled, group_B=torch.arange(rows) // 2))
        score_G2 = reward(sampled).sum(1).view(-1, 2)
        first_G = torch.from_numpy(rng.random(rows // 2)) < torch.sigmoid(score_G2[:, 0] - score_G2[:, 1])
        share_B = torch.stack([first_G, ~first_G], 1).float().flatten()
        if method == "dpo":
            return dpo.update(policy, optimizer, sampled, dpo.answer_rewards(sampled, share_B), chosen, rng)
        return sft.update(policy, optimizer, sampled, on_last_decision(share_B, sampled.mask_BT), EXACT_SFT, rng)

    return step


def _conditional(given: Problem, updates: int, rows: int, rng: np.random.Generator) -> Tensor:
    """Level l of prompt k is prompt l * PROMPTS + k of a wider world: a table has no other way to read a level."""
    wide = EnumerableWorld(VOCABULARY, LENGTH, 2 * PROMPTS)
    table = TabularPolicy(wide, values=False)
    with torch.no_grad():
        table.logits_KXV.copy_(given.base.logits_KXV.repeat(2, 1, 1))
    asked = Asked(table, lambda obs, level_B: wide.obs_BP(level_B * PROMPTS + obs[:, -1]), level=1)
    reward, config = TableReward(given.world, given.score_KC), ConditionalConfig(edges=(0.5,), sft=EXACT_SFT)

    def step(optimizer: torch.optim.Optimizer) -> object:
        ours, others = (given.world.collect(policy, rows // 2, rng) for policy in (asked, given.base))
        sampled = concat([replace(part, value_BT=None) for part in (ours, others)])
        return conditional.update(asked, optimizer, sampled, reward(sampled), config, rng)

    _descend(table, step, updates)
    return table.completion_logp_KC().detach()[PROMPTS:]
