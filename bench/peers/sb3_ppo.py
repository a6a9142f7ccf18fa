"""The peer's side of bench/control.py: PPO of Stable-Baselines3, run by the Python of `.venv-sb3`.

    .venv-sb3/bin/python bench/peers/sb3_ppo.py TASK.json SEED

Its configuration is here in full; corrections are welcome. Alike on both sides: networks, environments, steps, minibatch, epochs,
learning rate, Adam's epsilon, clip, gamma, lambda, weight of the value loss, gradient norm, first deviation, and the scaling of
observations and rewards by running statistics. The environments carry no Monitor, which would cost the peer time. Prints one JSON line last.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import warnings
from pathlib import Path
from typing import Any

START = time.perf_counter()
TASK: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
SEED = int(sys.argv[2])
sys.path[:0] = [str(Path(__file__).parents[1])]
warnings.simplefilter("ignore")

import gymnasium  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from control_task import Ledger  # noqa: E402
from stable_baselines3 import PPO, __version__  # noqa: E402  # pyright: ignore[reportMissingImports]
from stable_baselines3.common.callbacks import BaseCallback  # noqa: E402  # pyright: ignore[reportMissingImports]
from stable_baselines3.common.vec_env import (  # noqa: E402  # pyright: ignore[reportMissingImports]
    DummyVecEnv,
    SubprocVecEnv,
    VecNormalize,
)


def environment() -> Any:
    """Make one environment of the task, which never ends early."""
    return gymnasium.make(TASK["env"], terminate_when_unhealthy=False, max_episode_steps=TASK["horizon"])


class Watch(BaseCallback):  # pyright: ignore[reportUntypedBaseClass]
    """Notes the end of every update: the moment before the next rollout begins."""

    def __init__(self, ledger: Ledger, venv: Any) -> None:
        super().__init__()
        self.ledger, self.venv, self.begun, self.over = ledger, venv, False, False

    def decide(self, obs: Any) -> Any:
        """Return actions without noise."""
        return self.model.predict(self.venv.normalize_obs(obs), deterministic=True)[0]

    def _on_rollout_start(self) -> None:
        if self.begun:
            self.over = self.ledger.note(self.decide)
        else:
            self.begun = True
            self.ledger.start()

    def _on_step(self) -> bool:
        return not self.over


def main() -> None:
    """Train and print what happened."""
    torch.set_num_threads(TASK["peer"]["torch_threads"])
    kind = {"DummyVecEnv": DummyVecEnv, "SubprocVecEnv": SubprocVecEnv}[TASK["peer"]["vectorisation"]]
    venv = VecNormalize(kind([environment] * TASK["environments"]), gamma=TASK["gamma"])
    config = {
        "n_steps": TASK["steps"],
        "batch_size": TASK["batch"],
        "n_epochs": TASK["epochs"],
        "learning_rate": TASK["learning_rate"],
        "gamma": TASK["gamma"],
        "gae_lambda": TASK["lam"],
        "clip_range": TASK["clip"],
        "ent_coef": 0.0,
        "vf_coef": 0.5,
        "max_grad_norm": TASK["max_grad_norm"],
        "policy_kwargs": {"net_arch": {"pi": [TASK["hidden"]] * 2, "vf": [TASK["hidden"]] * 2}, "log_std_init": 0.0},
        "device": "cpu",
        "seed": SEED,
    }
    model = PPO("MlpPolicy", venv, **config)
    ledger = Ledger(TASK)
    watch = Watch(ledger, venv)
    construct_seconds = time.perf_counter() - START
    # one update more than are counted: an update is over when the next rollout begins
    model.learn((TASK["updates"] + 1) * TASK["environments"] * TASK["steps"], callback=watch)
    print(
        json.dumps(
            {
                "seconds": ledger.seconds,
                "evaluations": ledger.evaluations,
                "construct_seconds": construct_seconds,
                "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                "action_std": float(np.exp(model.policy.log_std.detach().numpy()).mean()),
                "config": {"stable_baselines3": __version__, **config, **TASK["peer"]},
            }
        )
    )
    venv.close()


if __name__ == "__main__":
    main()
