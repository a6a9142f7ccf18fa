"""Learning proof: on the moving dot, comparisons teach, over seeds, against the same run with a teacher that tosses a coin.

Both arms ask the same number of questions of the same kind and take the same steps; judged by a permutation test over seeds.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

pytest.importorskip("gymnasium")
from backflip.experiments.moving_dot import NAME, MovingDotConfig, arm
from backflip.measures.stats import permutation_test
from backflip.policies.actor_critic import ActorCriticConfig
from backflip.progress import Progress
from backflip.rewards.clips import ClipFitConfig
from backflip.run import Run
from backflip.worlds.gym_task import gym_task

SEEDS = 5
CONFIG = MovingDotConfig(
    steps=4_000,
    environments=8,
    comparisons=300,
    clip_seconds=0.3,
    first_share=0.75,
    ask_at_once=50,
    check_every=100,
    save_every=100,
    episodes=20,
    lr=3e-3,
    target_kl_nats_per_decision=0.0,
    fit=ClipFitConfig(hidden=16, batch=64, steps=30, first_steps=300, lr=5e-3),
    policy=ActorCriticConfig(hidden=16),
    ppo=replace(MovingDotConfig().ppo, epochs=6),
)


def learned(folder: Path, seed: int, teacher: Literal["oracle", "coin"]) -> float:
    config = replace(CONFIG, seed=seed, teacher=teacher)
    with Run.create("moving_dot", config, root=folder, seed=seed, folder=folder / f"{teacher}_{seed}") as run:
        run.progress = Progress(quiet=True)
        return float(arm(gym_task(NAME), config, run, "comparisons").return_B.mean())


def test_comparisons_teach_and_a_coin_does_not(tmp_path: Path) -> None:
    taught = [learned(tmp_path, seed, "oracle") for seed in range(SEEDS)]
    tossed = [learned(tmp_path, seed, "coin") for seed in range(SEEDS)]
    assert permutation_test(taught, tossed, np.random.default_rng(0)) < 0.05, (taught, tossed)
    assert np.mean(taught) > 2.5 > np.mean(tossed)
