"""Learners in the rooms: PPO on any reward, curiosity included, and a counting agent that plans its way to what is new.

Left out: what a reward is worth (the experiment), and the exact optimum beside which PPO is laid (`optimise/soft_control`).

Shapes: B rows, T steps, S states, A actions, C cells.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from backflip.data import Episodes
from backflip.errors import ConfigError
from backflip.loops.parts import stream
from backflip.optimise import ppo
from backflip.optimise.ppo import PPOConfig
from backflip.policies.rooms_policy import StatePolicy
from backflip.protocols import RewardModel
from backflip.rewards.curiosity import Curiosity
from backflip.worlds.rooms import STATE, Rooms


@dataclass(frozen=True)
class RoomsPPOConfig:
    """Settings of PPO in the rooms."""

    updates: int = 80
    """Updates of the policy."""
    rows: int = 16
    """Episodes an update."""
    anywhere: bool = False
    """Whether episodes begin in cells that are all as likely, not at S."""
    lr: float = 0.05
    """Adam's learning rate; the policy is a table."""
    ppo: PPOConfig = field(
        default_factory=lambda: PPOConfig(
            epochs=4, minibatches=4, gamma=0.99, value_coef=0.5, value_clip=float("inf"), center_values=False,
            max_grad_norm=10.0, entropy_coef=0.01, tokens_per_microbatch=1_000_000,
        )
    )  # fmt: skip
    """The update."""

    def __post_init__(self) -> None:
        if self.updates < 1 or self.rows < 1 or not self.lr > 0:
            raise ConfigError(f"updates {self.updates}, rows {self.rows}, lr {self.lr}; expected 1, 1 and above 0")
        if self.ppo.minibatches > self.rows:
            raise ConfigError(
                f"{self.rows} rows cannot be cut into {self.ppo.minibatches} minibatches; give rows, or lower ppo.minibatches"
            )


def improve(
    world: Rooms,
    reward: RewardModel,
    config: RoomsPPOConfig,
    seed: int,
    *,
    beta: float = 0.0,
    look: Callable[[int, Episodes, dict[str, float]], None] | None = None,
) -> StatePolicy:
    """Return a table trained by PPO on a reward less `beta` nats' price of straying from uniform actions.

    A reward that learns (`Curiosity`) does so after every update has been paid by it. `look` sees each update's number, rows and
    statistics.
    """
    policy = StatePolicy(world.states, world.actions, world.config.horizon)
    optimizer = torch.optim.Adam(policy.parameters(), lr=config.lr)
    learn = getattr(reward, "learn", None)
    for update in range(config.updates):
        rows = world.collect(policy, config.rows, stream(seed, "act", update), anywhere=config.anywhere)
        reward_BT = reward(rows)
        if beta:
            assert rows.logp_BT is not None
            reward_BT = reward_BT - beta * (rows.logp_BT + float(np.log(world.actions)))
        for group in optimizer.param_groups:
            group["lr"] = config.lr * (1 - update / config.updates if beta else 1.0)
        stats = ppo.update(policy, optimizer, rows, reward_BT, config.ppo, stream(seed, "minibatches", update))
        if learn is not None:
            stats |= learn(rows, stream(seed, "curiosity", update))
        if look is not None:
            look(update, rows, stats | {"bonus_mean": float(reward_BT.mean())})
    return policy


def curious_time(
    world: Rooms, reward: Curiosity, config: RoomsPPOConfig, seed: int
) -> tuple[NDArray[np.float64], list[dict[str, float]]]:
    """Return each cell's share of the steps in the last quarter of a curious agent's updates, and each update's statistics.

    Among these is `share_in_front`, of the time in front of the television or one step from there: who turns away and looks again is
    surprised by its picture as much as who presses the remote.
    """
    visits_C = np.zeros(world.cells)
    told: list[dict[str, float]] = []
    front = around(world)

    def look(update: int, rows: Episodes, stats: dict[str, float]) -> None:
        at_C = np.bincount(world.cell_S()[rows.obs[:, 1:, STATE].numpy().ravel()], minlength=world.cells)[: world.cells]
        if update >= config.updates - max(1, config.updates // 4):
            visits_C[:] += at_C
        told.append(stats | {"share_in_front": float(at_C[front].sum() / at_C.sum())})

    improve(world, reward, config, seed, look=look)
    return visits_C / visits_C.sum(), told


def around(world: Rooms) -> list[int]:
    """Return the cell in front of the television, and those one step from it."""
    cell_S = world.cell_S()
    near_SA = np.isin(cell_S[world.next_SAK[: world.cells, :, 0]], world.marked("T"))
    return np.flatnonzero(near_SA.any(1)).tolist()


def random_cover(world: Rooms, share: float, rng: np.random.Generator, most: int = 20_000) -> int:
    """Return the steps that a walk of uniform actions takes until it has been in this share of the cells."""
    return _cover(world, share, lambda state, came: int(rng.integers(world.actions)), rng, most)


def counting_cover(
    world: Rooms, share: float, rng: np.random.Generator, gamma: float = 0.95, most: int = 20_000
) -> int:
    """Return the same for an agent that knows no map: it pays itself 1 / sqrt(1 + visits) for coming to a state, and plans.

    It plans by value iteration in the transitions that it has seen; an action that it has not tried
    promises the most there could be: something new at every step (Strehl and Littman 2008, with a bonus on states). Ties are drawn.
    """
    visits_S = np.zeros(world.states)
    known_SA = np.full((world.states, world.actions), -1)
    value_S = np.zeros(world.states)
    last: list[tuple[int, int]] = []

    def choose(state: int, came: bool) -> int:
        if last:
            known_SA[last[0]] = state
        visits_S[state] += 1
        bonus_S = 1 / np.sqrt(1 + visits_S)

        def look_ahead() -> NDArray[np.float64]:
            return np.where(known_SA >= 0, bonus_S[known_SA] + gamma * value_S[known_SA], 1 / (1 - gamma))

        for _ in range(20):
            value_S[:] = look_ahead().max(1)
        q_A = look_ahead()[state]
        best = np.flatnonzero(q_A >= q_A.max() - 1e-9)
        action = int(rng.choice(best))
        last[:] = [(state, action)]
        return action

    return _cover(world, share, choose, rng, most)


def _cover(world: Rooms, share: float, choose: Callable[[int, bool], int], rng: np.random.Generator, most: int) -> int:
    """Walk without end until enough cells were seen; `most` steps where they never are."""
    cell_S = world.cell_S()
    state_B, picture_B = np.array([world.start]), np.zeros(1, dtype=np.int64)
    seen = {int(cell_S[world.start])}
    for step in range(most):
        if len(seen) >= share * world.cells:
            return step
        action = choose(int(state_B[0]), step > 0)
        state_B, picture_B = world.step(state_B, picture_B, np.array([action]), rng)
        seen.add(int(cell_S[state_B[0]]))
    return most
