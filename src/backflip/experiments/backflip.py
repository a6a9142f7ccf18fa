"""The signature: teach a Hopper to do backflips by comparisons of one-second clips alone.

Nobody writes a reward. An overseer sees two clips and says in which the backflip is better; a reward model learns that;
PPO learns from the reward model. What came out is counted from joint positions by code that shares nothing with the overseer.

Shapes: E episodes, L states of an episode, S numbers of a scene.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from backflip.data import Episodes
from backflip.errors import ConfigError
from backflip.experiments import experiment
from backflip.experiments.control_parts import judge_words, write_cost
from backflip.experiments.control_plan import Nobody, control_plan
from backflip.loops.control import ControlLoopConfig, ControlParts, stream, train
from backflip.measures.backflip_truth import backflip_truth, hand_written
from backflip.measures.clip_truth import ClipTruth, correlation_with_truth, kept_truth, worth_of_steps
from backflip.measures.somersaults import backward_turns, complete_somersaults, turns_in_the_air
from backflip.measures.stats import mean_count_interval, mean_interval
from backflip.optimise.ppo import PPOConfig
from backflip.overseers.people import PeopleOverseer
from backflip.overseers.recorded import recorded
from backflip.overseers.synthetic import SyntheticTeacher, teacher
from backflip.overseers.terminal import TerminalOverseer
from backflip.plan import Plan
from backflip.policies.actor_critic import ActorCritic, ActorCriticConfig
from backflip.protocols import Overseer
from backflip.rewards.clips import ClipFitConfig, ClipRewards
from backflip.worlds.clips import ClipFiles, write_video
from backflip.worlds.control import ControlWorld
from backflip.worlds.mujoco_tasks import Array, find_task
from backflip.worlds.packed import pack

if TYPE_CHECKING:
    from backflip.run import Run

QUESTION = "Which is the better backflip? The body turns backwards, anticlockwise as you see it, high above the ground, and lands upright."
TASK = "Hopper-v5"
GIVEN: Mapping[str, ClipTruth] = {"teacher": backflip_truth, "written": hand_written}
"""Rewards that are not learned, by the setting that asks for them."""
USUAL_CLIP = 5.0
"""Radians that a clip of a policy that turns is worth; the teachers skip and equal go by a tenth of it."""
SHOWN = 2
"""Unseen episodes that are filmed: the first ones, whatever they show."""


@dataclass(frozen=True)
class BackflipConfig(ControlLoopConfig):
    """Settings of the backflip."""

    steps: int = 2_700_000
    """Real steps of the environments, over all of them."""
    horizons: tuple[int, ...] = (1000,)
    """Lengths of episodes while training. Shorter ones teach one fall backwards and then to lie still (lab/LOG.md)."""
    comparisons: int = 900
    """Questions put to the overseer."""
    first_share: float = 0.15
    """Share of the questions that are asked before the policy learns."""
    schedule_steps: float = 1e6
    """The rate of asking falls as c / (steps + c), this being c."""
    fit: ClipFitConfig = field(
        default_factory=lambda: ClipFitConfig(steps=100, first_steps=400, every=5, lr=3e-3, noise=0.0)
    )
    """The fit of the reward. A graded answer says itself how sure it is; for answers that only choose, 0.1 is the usual noise."""
    ppo: PPOConfig = field(default_factory=lambda: replace(ControlLoopConfig().ppo, gamma=0.995, entropy_coef=0.02))
    """The update. A discount of 0.995 sees 1.6 s ahead: past the landing."""
    settle: float = 1.0
    """Share of the updates, the last ones, over which the entropy bonus falls to 0 in a straight line."""
    overseer: Literal["synthetic", "terminal", "people"] = "synthetic"
    """Who compares: a synthetic teacher that sees the turning, a person at this terminal, who is given the paths of two films, or
    people in the browser (`backflip serve`)."""
    scale: Literal["seven", "choice"] = "seven"
    """How a person at the terminal answers: how much better one is on a scale of seven, or which is better."""
    teacher: Literal["graded", "oracle", "stochastic", "mistake", "skip", "equal", "flipped", "coin"] = "graded"
    """How the synthetic teacher answers. graded: on the same scale of seven, sure by one logit a radian. The others choose, and
    err as in Lee et al. 2021; flipped wants forward turns, coin does not look."""
    policy: ActorCriticConfig = field(default_factory=ActorCriticConfig)
    """The networks."""
    reward: Literal["learned", "teacher", "written"] = "learned"
    """What the policy is trained on. teacher, written: nobody is asked, and the same optimiser takes the same steps on the synthetic
    teacher's own score of every step, or on a reward written by hand. For comparison."""
    playback_speed: float = 0.5
    """Of films; 0.5 shows a second in two."""
    episodes: int = 10
    """Unseen episodes on which somersaults are counted at the end."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.episodes < 2 or not 0 < self.playback_speed < float("inf"):
            raise ConfigError(
                f"episodes is {self.episodes} and playback_speed {self.playback_speed}; expected 2 or more, and above 0"
            )
        if self.asks != "comparisons":
            raise ConfigError("the backflip's overseers compare; leave asks as it is")
        if not 2 <= round(self.clip_seconds / find_task(TASK).seconds_a_step) <= self.row_steps:
            raise ConfigError(
                f"a clip of {self.clip_seconds:g} s is {round(self.clip_seconds / find_task(TASK).seconds_a_step)} steps; expected 2 to "
                f"row_steps ({self.row_steps})"
            )
        if self.overseer != "synthetic" and self.reward != "learned":
            raise ConfigError(f"a person is not asked where reward is {self.reward}; leave one of the two as it is")
        if self.overseer == "terminal" and self.wait_seconds == 0:
            raise ConfigError(
                "a person at the terminal is asked only while the run waits; give --wait_seconds 30, or inf"
            )


def plan(config: BackflipConfig) -> Plan:
    """Estimate what a run needs by doing a little of it."""
    by_a_person = config.overseer != "synthetic"
    return control_plan(
        parts_of(config, Nobody()), config, measured_steps=1000 * config.episodes, by_a_person=by_a_person
    )


@experiment(config=BackflipConfig, plan=plan)
def main(config: BackflipConfig, run: Run) -> None:
    """Teach a Hopper backflips by comparisons of clips: no reward is written, somersaults are counted."""
    parts = parts_of(config, overseer_of(config, run))
    at = train(parts, config, run)
    run.checkpoint("policy", at.update, parts.policy.save)
    with run.progress.phase("count somersaults in unseen episodes"):
        scene_ELS = unseen(parts.policy, config)
    write_results(scene_ELS, run)
    for number, scene in enumerate(scene_ELS[:SHOWN]):
        film = run.path / "videos" / f"unseen_episode_{number + 1},_real_time.mp4"
        write_video([scene], find_task(TASK), film, speed=1.0)
    judge = judge_words(config.overseer, config.teacher)
    write_cost(at, judge if config.reward == "learned" else "nobody", run)


def parts_of(config: BackflipConfig, overseer: Overseer) -> ControlParts:
    """Return what the loop needs."""
    given = GIVEN.get(config.reward)
    world = ControlWorld(
        TASK,
        environments=config.environments,
        steps=config.row_steps,
        seed=config.seed,
        horizons=config.horizons,
    )
    return ControlParts(
        world=world,
        policy=ActorCritic(world.features, world.actions, config.policy, stream(config.seed, "policy")),
        overseer=overseer,
        reward=ClipRewards(world.features, world.actions, config.fit, stream(config.seed, "reward")),
        clip_steps=max(2, round(config.clip_seconds / world.task.seconds_a_step)),
        question=QUESTION,
        check=check,
        given=None if given is None else lambda rows: torch.from_numpy(worth_of_steps(rows, given)),
    )


def write_results(scene_ELS: Array, run: Run) -> None:
    """Keep the positions of the joints, count, and write the estimates."""
    run.result("unseen_qpos", pack(scene_ELS[..., :6]))
    counts = [float(len(complete_somersaults(qpos))) for qpos in scene_ELS[..., :6]]
    turns = [backward_turns(qpos) for qpos in scene_ELS[..., :6]]
    found = mean_count_interval(counts)
    run.estimate("backflips_per_1000_steps", found)
    run.estimate(
        "turns_in_the_air_per_1000_steps",
        mean_count_interval([len(turns_in_the_air(qpos)) for qpos in scene_ELS[..., :6]]),
    )
    run.estimate(
        "turns_without_a_fall_before_per_1000_steps",
        mean_count_interval([len(complete_somersaults(qpos, and_after=False)) for qpos in scene_ELS[..., :6]]),
    )
    run.estimate("backward_turns_per_1000_steps", mean_interval(turns))
    run.estimate("torso_height_m", mean_interval(scene_ELS[..., 1].mean(1)))
    run.result("episodes", [{"backflips": k, "turns": turn} for k, turn in zip(counts, turns, strict=True)])
    run.note(f"{found.value:.1f} landed backflips in 1,000 steps, on average over {len(counts)} unseen episodes")


def overseer_of(config: BackflipConfig, run: Run) -> Overseer:
    """Return a person at this terminal, or the teacher who compares clips by how far and how high the body turned."""
    if (again := recorded(run.path, run.store)) is not None:
        return again
    if config.overseer != "synthetic":
        film = ClipFiles(run.path / "clips", speed=config.playback_speed)
        if config.overseer == "people":
            return PeopleOverseer(run.store, film, run)
        return TerminalOverseer(run.store, film=film, seven=config.scale == "seven")
    truth = kept_truth(backflip_truth, run.store, "backflip, landed")
    return SyntheticTeacher(run.store, truth, teacher(config.teacher, mean_return=USUAL_CLIP, seed=config.seed))


def check(policy: ActorCritic, reward: ClipRewards, rows: Episodes) -> dict[str, float]:
    """Return what the last rows did, and how well the reward ranks their steps."""
    if rows.scene is None:
        return {}
    scene = rows.scene.numpy()
    scale = 1000 / (scene.shape[1] - 1)
    found = {
        "backward_turns_per_1000_steps": float(np.mean([backward_turns(one[:, :6]) for one in scene])) * scale,
        "torso_height_m": float(scene[:, :, 1].mean()),
    }
    if bool((reward.std_M > 0).all()):
        found["correlation_with_truth"] = correlation_with_truth(reward(rows), rows, backflip_truth)
    return found


def unseen(policy: ActorCritic, config: BackflipConfig) -> Array:
    """Return the scenes of whole episodes from seeds of their own."""
    world = ControlWorld(TASK, environments=config.episodes, steps=1000, seed=config.seed + 1_000_000)
    rows = world.collect(policy, config.episodes, stream(config.seed, "unseen"))
    assert rows.scene is not None
    return rows.scene.numpy()
