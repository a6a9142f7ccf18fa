"""What the control experiments share: the parts of the loop over any environment, and what came out on unseen episodes.

No experiment. Left out: tasks with a truth of their own (`backflip`).

Shapes: B episodes, T steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from backflip.data import Episodes
from backflip.errors import ConfigError
from backflip.loops.control import ControlLoopConfig, ControlParts, Position, stream
from backflip.measures.clip_truth import ClipTruth, correlation
from backflip.measures.gym_truth import pair_accuracy, true_reward_BT
from backflip.measures.stats import mean_interval
from backflip.policies.actor_critic import ActorCritic, ActorCriticConfig
from backflip.protocols import Overseer
from backflip.rewards.clips import ClipRewards
from backflip.worlds.clips import ClipFiles, write_video
from backflip.worlds.control import ControlWorld
from backflip.worlds.gym_batch import Replays
from backflip.worlds.gym_task import GymTask
from backflip.worlds.mujoco_tasks import Task

if TYPE_CHECKING:
    from backflip.run import Run

Seen = NDArray[np.float64]
CHECKED = 4
"""Rows whose true reward is looked at now and then."""


@dataclass(frozen=True)
class Unseen:
    """Whole episodes from seeds that nobody trained on, and what the environment paid for each."""

    world: ControlWorld
    rows: Episodes
    return_B: Seen


def parts_of(
    task: Task | GymTask,
    config: ControlLoopConfig,
    policy: ActorCriticConfig,
    overseer: Overseer,
    question: str,
    truth: ClipTruth,
    *,
    learned: bool = True,
) -> ControlParts:
    """Return what the loop needs; not `learned`: the same optimiser on the true reward, and nobody is asked.

    Raises:
        ConfigError: a clip is longer than a row.
    """
    clip_steps = max(1, round(config.clip_seconds / task.seconds_a_step))
    if clip_steps > config.row_steps:
        raise ConfigError(
            f"a clip of {config.clip_seconds:g} s is {clip_steps} steps of {task.id}, and rows have {config.row_steps}; expected "
            "no more than a row: change clip_seconds, or row_steps"
        )
    world = ControlWorld(
        task, environments=config.environments, steps=config.row_steps, seed=config.seed, horizons=config.horizons
    )

    def check(policy: ActorCritic, reward: ClipRewards, rows: Episodes) -> dict[str, float]:
        some = rows.select(list(range(min(CHECKED, len(rows)))))
        true_BT = true_reward_BT(world, some, truth)
        found = {"true_reward_mean": float(true_BT.mean())}
        if learned:
            found["correlation_with_truth"] = correlation(reward(some).numpy(), true_BT.numpy())
        return found

    return ControlParts(
        world=world,
        policy=_fresh(world, policy, config.seed),
        overseer=overseer,
        reward=ClipRewards(world.features, world.actions, config.fit, stream(config.seed, "reward")),
        clip_steps=clip_steps,
        question=question,
        check=check,
        given=None if learned else lambda rows: true_reward_BT(world, rows, truth),
    )


def fresh_policy(task: Task | GymTask, config: ActorCriticConfig, seed: int) -> ActorCritic:
    """Return the policy with which `parts_of` begins."""
    return _fresh(ControlWorld(task, environments=1, steps=task.horizon), config, seed)


def _fresh(world: ControlWorld, config: ActorCriticConfig, seed: int) -> ActorCritic:
    return ActorCritic(world.features, world.actions, config, stream(seed, "policy"), discrete=world.discrete)


def unseen(policy: ActorCritic, task: Task | GymTask, episodes: int, seed: int, truth: ClipTruth) -> Unseen:
    """Return whole episodes of `policy`; the same seed gives the same beginnings to every policy."""
    world = ControlWorld(task, environments=episodes, steps=task.horizon, seed=seed + 1_000_000)
    rows = world.collect(policy, episodes, stream(seed, "unseen"))
    return Unseen(world, rows, true_reward_BT(world, rows, truth).sum(1).numpy())


def write_results(parts: ControlParts, found: Unseen, truth: ClipTruth, pairs: int, run: Run) -> None:
    """Write what the policy's unseen episodes are worth, and on how many of their pairs of clips the reward is right."""
    run.estimate("true_return", mean_interval(found.return_B))
    run.result("episodes", [{"true_return": float(value)} for value in found.return_B])
    if parts.given is not None:
        return
    if not bool((parts.reward.std_M > 0).all()):
        run.note(
            "no answer came that could be learned from (or all that came are only measured: fit.held_out), so the policy is as it was "
            "at the start"
        )
        return
    rng = stream(run.seed, "pairs")
    accuracy = pair_accuracy(found.world, found.rows, parts.reward, truth, parts.clip_steps, pairs, rng)
    if accuracy is None:
        run.note(
            "all pairs of unseen clips are equally good by the true reward, so the learned one has nothing to be right about"
        )
    else:
        run.estimate("pair_accuracy", accuracy)


def judge_words(overseer: str, teacher: str) -> str:
    """Return who judged, in words."""
    return {"terminal": "a person", "people": "people in the browser"}.get(overseer, f"synthetic teacher ({teacher})")


def write_cost(at: Position, judge: str, run: Run) -> None:
    """Write what was asked, of whom, and how long it took."""
    run.result(
        "cost",
        {
            "comparisons": len(at.heard),
            "unanswered": at.unanswered,
            "ties": at.ties,
            "judge": judge,
            "seconds": run.seconds,
            "seconds_by_phase": run.progress.seconds_by_phase,
        },
    )


def write_films(found: Unseen, task: Task | GymTask, count: int, run: Run) -> None:
    """Write the first `count` unseen episodes as videos, in real time."""
    if not count:
        return
    rows = found.rows.select(list(range(min(count, len(found.rows)))))
    folder = run.path / "videos"
    if isinstance(task, Task):
        assert rows.scene is not None
        for number, scene in enumerate(rows.scene.numpy()):
            write_video([scene], task, folder / _film(number), speed=1.0)
        return
    films = ClipFiles(folder, speed=1.0, replays=Replays(task, drawn=True))
    for number, item in enumerate(found.world.show(rows)):
        films(item).replace(folder / _film(number))


def _film(number: int) -> str:
    return f"unseen_episode_{number + 1},_real_time.mp4"
