"""The peer's side of bench/imitation.py: preference comparisons of imitation 1.0.1, run by the Python of `.venv-imitation`.

    .venv-imitation/bin/python bench/peers/imitation_preferences.py TASK.json CONFIG SEED

Its configurations are here in full; corrections are welcome. `own`: for Pendulum the settings of imitation's tutorial, for
HalfCheetah its named configuration seals_half_cheetah with a budget that finishes. `ours`: the policy's settings that Backflip's
side has. Its budget overshoots (each of iterations + 1 entries trains total // iterations, rounded up to rollouts), so it is given
fewer steps than asked, and real steps are reported. Prints one JSON line last.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import time
import warnings
from pathlib import Path
from typing import Any

START = time.perf_counter()
TASK: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
CONFIG: dict[str, Any] = TASK["peer"][sys.argv[2]]
SEED = int(sys.argv[3])
UNSEEN = 1_000_000
warnings.simplefilter("ignore")

import numpy as np  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(TASK["threads"])

# all of these live in the peer's environment alone
from imitation.algorithms import preference_comparisons as pc  # noqa: E402  # pyright: ignore[reportMissingImports]
from imitation.policies.base import (  # noqa: E402  # pyright: ignore[reportMissingImports]
    FeedForward32Policy,
    NormalizeFeaturesExtractor,
)
from imitation.rewards.reward_nets import (  # noqa: E402  # pyright: ignore[reportMissingImports]
    BasicRewardNet,
    NormalizedRewardNet,
    RewardEnsemble,
)
from imitation.util.networks import RunningNorm  # noqa: E402  # pyright: ignore[reportMissingImports]
from imitation.util.util import make_vec_env  # noqa: E402  # pyright: ignore[reportMissingImports]
from stable_baselines3 import PPO  # noqa: E402  # pyright: ignore[reportMissingImports]
from stable_baselines3.common.evaluation import evaluate_policy  # noqa: E402  # pyright: ignore[reportMissingImports]


def learn() -> dict[str, Any]:
    """Learn from comparisons and return what came of it."""
    torch.manual_seed(SEED)
    rng = np.random.default_rng(SEED)
    venv = make_vec_env(TASK["peer_env"], rng=rng, n_envs=CONFIG["environments"])
    spaces = (venv.observation_space, venv.action_space)

    def member() -> Any:
        net = BasicRewardNet(*spaces, normalize_input_layer=RunningNorm)
        return NormalizedRewardNet(net, RunningNorm) if CONFIG["normalised_output"] else net

    many = [member() for _ in range(CONFIG["members"])]
    reward = RewardEnsemble(*spaces, many) if len(many) > 1 else many[0]
    preferences = pc.PreferenceModel(reward)
    fragmenter = pc.RandomFragmenter(warning_threshold=0, rng=rng)
    if len(many) > 1:
        fragmenter = pc.ActiveSelectionFragmenter(
            preferences, fragmenter, fragment_sample_factor=10, uncertainty_on="probability"
        )
    small = CONFIG["ppo_network"] == "FeedForward32Policy"
    network = {} if small else {"net_arch": {"pi": [64, 64], "vf": [64, 64]}}
    agent = PPO(
        FeedForward32Policy if small else "MlpPolicy",
        venv,
        seed=SEED,
        device="cpu",
        policy_kwargs={
            "features_extractor_class": NormalizeFeaturesExtractor,
            "features_extractor_kwargs": {"normalize_class": RunningNorm},
            **network,
        },
        **CONFIG["ppo"],
    )
    rows = CONFIG["ppo"]["n_steps"] * CONFIG["environments"]
    # every entry of the schedule is rounded up to whole rollouts: give it what lands on the real steps wanted
    entries = CONFIG["iterations"] + 1
    asked = CONFIG["iterations"] * max(1, round(TASK["steps"] / entries / rows)) * rows
    algorithm = pc.PreferenceComparisons(
        pc.AgentTrainer(agent, reward, venv, exploration_frac=CONFIG["exploration"], rng=rng),
        reward,
        num_iterations=CONFIG["iterations"],
        fragmenter=fragmenter,
        preference_gatherer=pc.SyntheticGatherer(rng=rng),
        reward_trainer=pc._make_reward_trainer(
            preferences, pc.CrossEntropyRewardLoss(), rng, {"epochs": CONFIG["reward_epochs"]}
        ),
        fragment_length=CONFIG["clip_steps"],
        transition_oversampling=1,
        initial_comparison_frac=0.1,
        initial_epoch_multiplier=CONFIG["initial_epoch_multiplier"],
        query_schedule="hyperbolic",
    )
    construct_seconds = time.perf_counter() - START
    began = time.perf_counter()
    algorithm.train(total_timesteps=asked, total_comparisons=TASK["comparisons"])
    seconds = time.perf_counter() - began
    unseen = make_vec_env(TASK["peer_env"], rng=np.random.default_rng(UNSEEN + SEED), n_envs=1)
    returns, _ = evaluate_policy(agent.policy, unseen, TASK["episodes"], return_episode_rewards=True)
    return {
        "returns": [float(one) for one in returns],
        "seconds": seconds,
        "construct_seconds": construct_seconds,
        "comparisons": len(algorithm.dataset),
        "steps": int(agent.num_timesteps),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    """Send the peer's tables away and print one line."""
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        found = learn()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
