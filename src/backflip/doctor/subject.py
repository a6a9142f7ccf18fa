"""What the doctor looks at: a policy with a critic, rows that it sampled, a reward model, another policy.

Left out: the checks (`checks`) and how each is measured (`measures`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from backflip.data import Episodes
from backflip.errors import ConfigError
from backflip.policies.lm import LMConfig, LMPolicy, load_policy
from backflip.rewards.model import SequenceRewardModel
from backflip.worlds.text import TextWorld

PROMPTS = ("The film", "I went in expecting", "What a", "By the end of this", "It", "The plot of the second half is")
"""Of unlike lengths, so that there is padding."""
CONFIG = LMConfig(temperature=0.7, max_new_tokens=12, rows=8)
"""A temperature other than 1, or leaving it out would show nowhere; few rows at once, so that finished ones are refilled."""
ROWS = 48


@dataclass(frozen=True)
class Subject:
    """What is looked at: a policy with a critic, its world, rows that it sampled, a reward model, another policy."""

    policy: LMPolicy
    world: TextWorld
    episodes: Episodes
    other: LMPolicy
    """The policy with noise on its weights: something to be unlike."""
    reward: SequenceRewardModel | str
    """Or why there is none."""


def load_subject_policy(where: str | Path) -> LMPolicy:
    """Load a model as the checks want it: with a critic, at a temperature other than 1, in float32."""
    return load_policy(where, CONFIG, value_head=True)


def make_subject(policy: LMPolicy, reward: SequenceRewardModel | None = None, seed: int = 0) -> Subject:
    """Sample rows and make the things that the policy is compared with."""
    world = TextWorld(PROMPTS, policy.tokenizer, seed=seed)
    episodes = world.collect(policy, ROWS, np.random.default_rng(seed))
    other = policy.reference()
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in other.module.parameters():
            drawn = torch.randn(weight.shape, generator=noise).to(weight)
            weight.add_(0.1 * drawn * (weight.std(correction=0) if weight.numel() > 1 else 1.0))
    try:
        judge = reward or SequenceRewardModel.from_causal_lm(
            policy.module.plain, np.random.default_rng(seed), policy.pad_id
        )
        if judge.normaliser is None:
            judge.measure_normaliser(episodes, policy.hash())
    except ConfigError as error:
        return Subject(policy, world, episodes, other, str(error))
    return Subject(policy, world, episodes, other, judge)
