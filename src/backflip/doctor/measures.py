"""How each invariant is measured on a language model; the general ones are in `backflip.invariants`.

Every function returns one number that should not exceed the limit in `checks`, where it also says what that means.

Shapes: B rows, P prompt tokens, T answer tokens, L tokens of a row, V vocabulary.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backflip import invariants
from backflip.checkpoint import load_tensors, save_tensors
from backflip.data import PAD, Episodes
from backflip.doctor.subject import PROMPTS, Subject
from backflip.optimise.ppo import PPOConfig, update
from backflip.policies.lm import LMConfig, LMPolicy
from backflip.worlds.prompts import chat_prompt, prompt_tokens, text_tokens
from backflip.worlds.text import TextWorld

ONE_TOKEN_ROWS = 2000
UPDATE_ROWS = 8


@dataclass(frozen=True)
class Measured:
    """What a check found: a number, or None where the check does not apply, and what else there is to say."""

    value: float | None
    note: str = ""


def ratio(subject: Subject) -> float:
    """Compare sampling with scoring, as the ratio that PPO starts from."""
    return invariants.ratio_error(subject.policy, subject.episodes)


def plain_forward(subject: Subject) -> float:
    """Compare with transformers' own forward pass, divided by the temperature here and now."""
    policy, worst = subject.policy, 0.0
    ours_BT = policy.logp_BT(subject.episodes)
    rows = zip(subject.episodes.obs, subject.episodes.action, subject.episodes.mask_BT, ours_BT, strict=True)
    for obs_P, action_T, mask_T, ours_T in rows:
        prompt_L, answer_L = obs_P[obs_P != PAD].to(policy.device), action_T[mask_T]
        with torch.no_grad():
            logits_LV = policy.module.plain(torch.cat([prompt_L, answer_L])[None]).logits[0].float()
        logp_LV = torch.log_softmax(logits_LV / policy.config.temperature, -1)[len(prompt_L) - 1 : -1]
        theirs_T = logp_LV.gather(1, answer_L[:, None])[:, 0]
        worst = max(worst, float((theirs_T - ours_T[mask_T]).abs().max()))
    return worst


def batch(subject: Subject) -> float:
    """Compare rows alone with rows in their batch."""
    return invariants.batch_gap_nats(subject.policy, subject.episodes)


def repeat(subject: Subject) -> float:
    """Score the same rows twice."""
    return invariants.repeat_gap_nats(subject.policy, subject.episodes)


def sampling(subject: Subject) -> float:
    """Compare the log-probability of what was sampled with the entropy."""
    return abs(invariants.sampling_z(subject.policy, subject.episodes))


def frequencies(subject: Subject) -> float:
    """Count first tokens of one prompt, and return -log10 of the chi-square p-value."""
    one_token = _with(subject.policy, replace(subject.policy.config, max_new_tokens=1, rows=ONE_TOKEN_ROWS))
    obs_BP = torch.tensor([subject.world.tokens[0]] * ONE_TOKEN_ROWS)
    p_value = invariants.frequency_p_value(one_token, obs_BP, np.random.default_rng(1))
    return float(-np.log10(max(p_value, 1e-300)))


def self_kl(subject: Subject) -> float:
    """Return the largest KL of a decision between the policy and its own reference."""
    return invariants.largest_kl_nats(subject.policy, subject.policy.reference(), subject.episodes)


def kl_agrees(subject: Subject) -> float:
    """Compare the sampled KL to another policy with the exact one."""
    return abs(invariants.kl_z(subject.policy, subject.other, subject.episodes))


def reward_sum(subject: Subject) -> float | Measured:
    """Compare the sum of shaped rewards with score - beta * KL."""
    if isinstance(subject.reward, str):
        return Measured(None, subject.reward)
    scored = replace(subject.episodes, ref_logp_BT=subject.other.logp_BT(subject.episodes))
    return invariants.reward_sum_error(scored, subject.reward(scored), beta=0.3)


def reward_place(subject: Subject) -> float | Measured:
    """Return how much reward lies beside the last decision, or got lost."""
    if isinstance(subject.reward, str):
        return Measured(None, subject.reward)
    reward_BT = subject.reward(subject.episodes)
    lost_B = (reward_BT.sum(1) - subject.reward.normalised_B(subject.episodes)).abs()
    return max(invariants.misplaced_reward(subject.episodes, reward_BT), float(lost_B.max()))


def reward_batch(subject: Subject) -> float | Measured:
    """Compare scores of rows alone with those in their batch."""
    if isinstance(subject.reward, str):
        return Measured(None, subject.reward)
    return invariants.reward_batch_gap(subject.reward, subject.episodes)


def accumulation(subject: Subject) -> float:
    """Compare the gradient of one-row micro-batches with that of one batch."""
    parameters = dict(subject.policy.module.named_parameters())
    return invariants.accumulation_error(subject.policy, subject.episodes.select(range(UPDATE_ROWS)), parameters)


def ends(subject: Subject) -> Measured:
    """Count faults of pad and end tokens."""
    policy, faults = subject.policy, list[str]()
    if not policy.end_tokens:
        faults.append("no end token is known")
    if policy.pad_id in policy.end_tokens:
        faults.append(f"the policy's pad token {policy.pad_id} is an end token")
    if not isinstance(subject.reward, str) and subject.reward.config.pad_token_id in policy.end_tokens:
        faults.append(f"the reward model's pad token {subject.reward.config.pad_token_id} is an end token")
    act = policy.act(subject.episodes.obs, np.random.default_rng(2))
    is_end_BT = torch.isin(act.action, torch.tensor(policy.end_tokens or (PAD,), device=act.action.device))
    if bool((is_end_BT & ~act.mask_BT).any()):
        faults.append("an end token is masked, so nobody learns to stop")
    last_B = act.mask_BT.sum(1, keepdim=True) - 1
    ends_last_B = is_end_BT.gather(1, last_B)[:, 0]
    if not torch.equal(ends_last_B, act.ended_B) or bool((is_end_BT.sum(1) != ends_last_B).any()):
        faults.append("an answer goes on after its end token, or is said to have ended without one")
    return Measured(float(len(faults)), "; ".join(faults))


def chat(subject: Subject) -> Measured:
    """Count faults between our prompts and the chat template."""
    tokenizer, faults = subject.policy.tokenizer, list[str]()
    if not getattr(tokenizer, "chat_template", None):
        return Measured(None, "the tokenizer has no chat template")
    turns = [{"role": "user", "content": "How was the film?"}]
    prompt = chat_prompt(turns)
    ours = prompt_tokens(prompt, tokenizer)
    theirs: Any = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=True, return_dict=False)
    if ours != list(theirs):
        faults.append("our prompt tokens are not those of the tokenizer's own template")
    rendered = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    if tokenizer.decode(ours, clean_up_tokenization_spaces=False) != rendered:
        faults.append("the prompt's tokens do not decode to the prompt")
    if tokenizer.bos_token_id is not None and ours.count(tokenizer.bos_token_id) > 1:
        faults.append("the begin token stands twice")
    answered = [*turns, {"role": "assistant", "content": "Quite good."}]
    whole = text_tokens(tokenizer.apply_chat_template(answered, tokenize=False), tokenizer, special=False)
    if whole[: len(ours)] != ours:
        faults.append("the prompt is no beginning of the same chat with an answer")
    if not set(whole[len(ours) :]) & set(subject.policy.end_tokens):
        faults.append("the template ends an answer with no token that the policy ends at")
    return Measured(float(len(faults)), "; ".join(faults))


def low_precision(subject: Subject) -> Measured:
    """Sample in bf16 and let a real update, at learning rate 0, recompute the old log-probabilities."""
    policy = _with(subject.policy, replace(subject.policy.config, sampling="bfloat16"))
    episodes = subject.world.collect(policy, UPDATE_ROWS, np.random.default_rng(3))
    still = torch.optim.SGD(policy.module.parameters(), lr=0.0)
    config = PPOConfig(epochs=1, recompute_old_logp=True, gap_tolerance_nats=float("inf"))
    stats = update(policy, still, episodes, _ramp(episodes), config)
    return Measured(stats["logp_gap_mean_nats"], f"the largest is {stats['logp_gap_max_nats']:.3g}")


def resume(subject: Subject) -> float:
    """Two updates in one go, against one, a save, a load over disturbed weights, and the other."""
    policy = subject.policy
    start = {name: weight.clone() for name, weight in policy.module.state_dict().items()}

    def updates(count: int, state: dict[str, Any] | None) -> dict[str, Any]:
        optimizer = torch.optim.AdamW(policy.module.parameters(), lr=1e-4)
        world, rng = TextWorld(PROMPTS, policy.tokenizer), np.random.default_rng(4)
        if state is not None:
            policy.module.load_state_dict(state["policy"])
            optimizer.load_state_dict(state["optimizer"])
            world.load_state_dict(state["world"])
            rng.bit_generator.state = state["rng"]
        for _ in range(count):
            episodes = world.collect(policy, UPDATE_ROWS, rng)
            update(policy, optimizer, episodes, _ramp(episodes), PPOConfig(epochs=1), rng)
        weights = {name: weight.clone() for name, weight in policy.module.state_dict().items()}
        return {
            "policy": weights,
            "optimizer": optimizer.state_dict(),
            "world": world.state_dict(),
            "rng": rng.bit_generator.state,
        }

    try:
        straight = updates(2, None)
        policy.module.load_state_dict(start)
        with tempfile.TemporaryDirectory(prefix="backflip-doctor-") as folder:
            save_tensors(Path(folder) / "state", updates(1, None))
            policy.module.load_state_dict(start)  # whatever the load below forgets stays as it was at the start
            resumed = updates(1, load_tensors(Path(folder) / "state"))
        return max(float((straight["policy"][k] - resumed["policy"][k]).abs().max()) for k in start)
    finally:
        policy.module.load_state_dict(start)


def _ramp(episodes: Episodes) -> torch.Tensor:
    """Return a made-up reward: rows between -1 and 1, on their last decision."""
    last_BT = episodes.mask_BT & (episodes.mask_BT.flip(1).cumsum(1).flip(1) == 1)
    return last_BT * torch.linspace(-1, 1, len(episodes), device=last_BT.device)[:, None]


def _with(policy: LMPolicy, config: LMConfig) -> LMPolicy:
    """Return the same weights under another config."""
    return LMPolicy(policy.module.model, policy.tokenizer, config, policy.module.value_head, adapters=policy.adapters)
