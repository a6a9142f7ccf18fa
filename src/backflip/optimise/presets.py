"""Whole recipes for PPO with the source of every number; start from one and change what you must with `replace`.

Left out: the loop that follows them (`backflip.loops.ppo`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from backflip.optimise.kl import AdaptiveKL, FixedKL, KLControl
from backflip.optimise.ppo import PPOConfig
from backflip.optimise.scores import ScoreRules


@dataclass(frozen=True)
class PPORecipe:
    """Everything that a PPO run on a language model needs beyond models and data."""

    source: str
    """Where the numbers come from."""
    ppo: PPOConfig
    """The update."""
    kl: KLControl
    """The weight of the KL penalty."""
    scores: ScoreRules
    """What happens to scores before the KL penalty."""
    learning_rate: float
    """Adam's, at the start."""
    adam_eps: float
    """Adam's epsilon; 1e-5 in the papers, against 1e-8 by default in torch."""
    linear_decay: bool
    """Whether the learning rate falls linearly to 0 over the run."""
    episodes_per_update: int
    """Rows sampled for each update."""
    temperature: float
    """Sampling temperature, in every log-probability too."""


def lm_human_preferences() -> PPORecipe:
    """Ziegler et al. 2019, sentiment task, as in the released code (124 M parameters, 1 M episodes)."""
    return PPORecipe(
        source="Ziegler et al. 2019, openai/lm-human-preferences, launch.py, sentiment",
        ppo=PPOConfig(whiten_rewards=True, max_grad_norm=float("inf"), center_values=False),
        kl=AdaptiveKL(beta=0.15, target_kl_nats_per_sequence=6.0, horizon_episodes=10_000),
        scores=ScoreRules(missing_end="replace", missing_end_value=-1.0),
        learning_rate=1e-5,
        adam_eps=1e-5,
        linear_decay=True,
        episodes_per_update=512,
        temperature=0.7,
    )


def n_plus() -> PPORecipe:
    """Huang et al. 2024, "The N+ implementation details of RLHF with PPO", TL;DR (1 B parameters and more)."""
    return PPORecipe(
        source="Huang et al. 2024, vwxyzjn/summarize_from_feedback_details, ppo.py",
        ppo=PPOConfig(max_grad_norm=float("inf"), center_values=False),
        kl=FixedKL(0.05),
        scores=ScoreRules(missing_end="replace", missing_end_value=-1.0),
        learning_rate=3e-6,
        adam_eps=1e-5,
        linear_decay=True,
        episodes_per_update=512,
        temperature=0.7,
    )


def small_cpu() -> PPORecipe:
    """Ours, for a few million parameters on a few cores: the main job's settings."""
    return PPORecipe(
        source="Backflip: the defaults of `backflip run reviews`; measured over seeds in lab/LOG.md",
        ppo=PPOConfig(epochs=2, entropy_coef=0.02),
        kl=FixedKL(0.045),
        scores=ScoreRules(missing_end="subtract", missing_end_value=0.5),
        learning_rate=1.2e-4,
        adam_eps=1e-5,
        linear_decay=True,
        episodes_per_update=160,
        temperature=0.8,
    )


PRESETS: dict[str, Callable[[], PPORecipe]] = {
    "lm_human_preferences": lm_human_preferences,
    "n_plus": n_plus,
    "small_cpu": small_cpu,
}
"""By name, for a command line."""
