"""PPO on a reward written by hand, for comparison with `backflip run backflip`: what the optimiser can do if nobody has to ask.

    python lab/backflip_by_hand.py [STEPS [SEED [PIECE [EPISODE]]]]

The reward is 0.3 * backward speed * (0.3 + clip((height - 0.4) / 0.6, 0, 1)) + 0.1 * height, scaled by a running deviation. Prints turns and complete
somersaults of the rows while training, and of ten unseen episodes at the end.
"""

from __future__ import annotations

import sys

import numpy as np
import torch

from backflip.loops.control import ControlLoopConfig, stream
from backflip.measures.somersaults import backward_turns, complete_somersaults
from backflip.measures.stats import mean_interval
from backflip.optimise import ppo
from backflip.policies.actor_critic import ActorCritic, ActorCriticConfig
from backflip.worlds.control import ControlWorld, pieces


def main(steps: int, seed: int, piece: int, episode: int) -> None:
    """Train and count."""
    torch.set_num_threads(1)
    config = ControlLoopConfig(seed=seed, steps=steps)
    world = ControlWorld("Hopper-v5", environments=16, steps=min(250, episode), seed=seed, horizons=(episode,))
    policy = ActorCritic(world.features, world.actions, ActorCriticConfig(), stream(seed, "policy"))
    optimizer = torch.optim.Adam(policy.parameters(), eps=1e-5)
    lr, scale = config.lr, 0.0
    for update in range(steps // (16 * world.steps)):
        rows = world.collect(policy, 16, stream(seed, "act", update))
        assert rows.scene is not None
        scene = rows.scene.numpy()
        height, speed = scene[:, 1:, 1], -np.diff(scene[:, :, 2], axis=1) / world.task.seconds_a_step
        reward = 0.3 * speed * (0.3 + np.clip((height - 0.4) / 0.6, 0, 1)) + 0.1 * height
        scale = 0.95 * scale + 0.05 * reward.std() if update else reward.std()
        small = pieces(rows, piece)
        reward_BT = torch.tensor((reward - reward.mean()) / scale, dtype=torch.float32).reshape(small.mask_BT.shape)
        for group in optimizer.param_groups:
            group["lr"] = lr
        stats = ppo.update(policy, optimizer, small, reward_BT, config.ppo, stream(seed, "minibatches", update))
        moved = stats["approx_kl_last_nats"] / config.target_kl_nats_per_decision
        lr = float(np.clip(lr * (0.5 if moved > 2 else 1.5 if moved < 0.5 else 1.0), 1e-5, 1e-3))
        policy.learn_scale(rows)
        if (update + 1) % 25 == 0:
            turns = 1000 / world.steps * np.mean([backward_turns(one[:, :6]) for one in scene])
            sys.stdout.write(f"{(update + 1) * 16 * world.steps:>9,} steps: {turns:5.2f} turns in 1,000 steps\n")
    unseen = ControlWorld("Hopper-v5", environments=10, steps=1000, seed=seed + 1_000_000)
    found = unseen.collect(policy, 10, stream(seed, "unseen")).scene
    assert found is not None
    complete = mean_interval([float(len(complete_somersaults(one[:, :6]))) for one in found.numpy()])
    sys.stdout.write(
        f"complete: {complete}\nturns:    {mean_interval([backward_turns(one[:, :6]) for one in found.numpy()])}\n"
    )


if __name__ == "__main__":
    given = [int(argument) for argument in sys.argv[1:]]
    main(*(given + [1_000_000, 0, 50, 1000][len(given) :]))
