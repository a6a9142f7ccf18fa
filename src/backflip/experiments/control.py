"""Any Gymnasium environment, taught by comparisons of clips: `--env` names it, its own reward or a person judges.

The MuJoCo v5 tasks of `worlds/mujoco_tasks` take the fast path; every other id, or one of theirs with options, is stepped
by Gymnasium. docs/control.md says how to bring an environment of your own.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from backflip.errors import ConfigError
from backflip.experiments import experiment
from backflip.experiments.control_parts import (
    fresh_policy,
    judge_words,
    parts_of,
    unseen,
    write_cost,
    write_films,
    write_results,
)
from backflip.experiments.control_plan import Nobody, control_plan
from backflip.loops.control import ControlLoopConfig, train
from backflip.measures.clip_truth import ClipTruth, kept_truth
from backflip.measures.control_truth import task_truth
from backflip.measures.gym_truth import own_reward
from backflip.measures.one_leg import TASK as ONE_LEG
from backflip.measures.one_leg import one_leg_truth
from backflip.measures.stats import mean_interval
from backflip.optimise.ppo import PPOConfig
from backflip.overseers.people import PeopleOverseer
from backflip.overseers.recorded import recorded
from backflip.overseers.synthetic import SyntheticTeacher, teacher
from backflip.overseers.terminal import TerminalOverseer
from backflip.plan import Plan
from backflip.policies.actor_critic import ActorCriticConfig
from backflip.protocols import Overseer
from backflip.rewards.clips import ClipFitConfig
from backflip.worlds.clips import ClipFiles, Painter
from backflip.worlds.gym_batch import Replays
from backflip.worlds.gym_task import Ends, GymTask, check_drawn, gym_task, read_options
from backflip.worlds.mujoco_tasks import TASKS, Task

if TYPE_CHECKING:
    from backflip.run import Run


@dataclass(frozen=True)
class ControlConfig(ControlLoopConfig):
    """Settings of the loop over any environment; the defaults are for Pendulum-v1."""

    env: str = "Pendulum-v1"
    """Gymnasium's id; MODULE:ID where a module of yours registers it."""
    options: tuple[str, ...] = ()
    """What the environment is made with besides, as NAME=VALUE, values in JSON: g=9.81 terminate_when_unhealthy=false"""
    ends: Ends = "refuse"
    """Where the environment itself would end before the horizon. refuse: the run stops and says so. go_on: it is stepped on. hold: its
    last state stays until the horizon. Its reward after its own end counts 0; a learner never sees an end."""
    steps: int = 60_000
    """Real steps of the environments, over all of them."""
    environments: int = 16
    """Copies of the environment."""
    horizons: tuple[int, ...] = ()
    """Length of every episode, always; several are given to the copies in turn. None: the environment's own time limit."""
    row_steps: int = 50
    """Steps of a row between two updates; must divide the horizon, and hold a clip."""
    piece_steps: int = 10
    """PPO sees rows in pieces of this many steps, so that minibatches mix; must divide `row_steps`."""
    comparisons: int = 200
    """Questions put to the overseer."""
    schedule_steps: float = 3e4
    """The rate of asking falls as c / (steps + c), this being c."""
    clip_seconds: float = 1.0
    """Length of a clip; a step lasts 1 / render_fps of the environment, or 1/30 s where it says none."""
    first_share: float = 0.15
    """Share of the questions that are asked before the policy learns."""
    fit: ClipFitConfig = field(default_factory=lambda: ClipFitConfig(steps=60, every=5, lr=3e-3, noise=0.0))
    """The fit of the reward. The teacher of the defaults never errs; for people, or one that does, fit.noise 0.1 is the usual choice."""
    lr: float = 1e-3
    """Adam's learning rate."""
    ppo: PPOConfig = field(
        default_factory=lambda: replace(ControlLoopConfig().ppo, gamma=0.98, minibatches=4, clip=0.1)
    )
    """The update."""
    settle: float = 0.6
    """Share of the updates, the last ones, over which the entropy bonus falls to 0 in a straight line."""
    overseer: Literal["synthetic", "terminal", "people"] = "synthetic"
    """Who compares: a synthetic teacher that sees the environment's own reward, a person at this terminal, who is given the paths of
    two films, or people in the browser (`backflip serve`)."""
    judged_by: Literal["own", "watched", "one_leg"] = "own"
    """What the synthetic teacher and the measures go by. own: the environment's own reward. watched: what a person wants who watches a
    MuJoCo task whose episodes never end early (docs/mujoco.md). one_leg: HalfCheetah-v5 on its front leg alone."""
    teacher: Literal["oracle", "graded", "stochastic", "mistake", "skip", "equal", "myopic", "flipped", "coin"] = (
        "oracle"
    )
    """How the synthetic teacher errs (Lee et al. 2021); graded says on a scale of seven how much better one is; flipped wants the opposite, coin does not look."""
    beta: float = 1.0
    """How sure the teachers stochastic, graded and flipped are: logits by which clips differ whose truths differ by 1."""
    clip_return: float = 0.0
    """What a usual clip is worth; the teachers skip and equal go by a tenth of it, and need it above 0."""
    full_score: float = 0.0
    """What a clip is worth that scores 1, where `asks` is scores."""
    question: str = "In which clip do better things happen? Judge only what you see happen in the clip."
    """What a person is asked."""
    reward: Literal["learned", "true"] = "learned"
    """true: nobody is asked, and the same optimiser takes the same steps on the environment's own reward. For comparison."""
    policy: ActorCriticConfig = field(default_factory=lambda: ActorCriticConfig(first_std=0.9))
    """The networks."""
    playback_speed: float = 1.0
    """Of films that are judged; 0.5 shows a second in two."""
    films: int = 0
    """Unseen episodes that are filmed at the end, the first ones."""
    episodes: int = 20
    """Unseen episodes on which the policy is measured at the end."""
    pairs: int = 100
    """Pairs of clips from these episodes, on which the learned reward is measured."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.episodes < 2 or self.pairs < 2 or self.films < 0 or not 0 < self.playback_speed < float("inf"):
            raise ConfigError(
                f"episodes {self.episodes}, pairs {self.pairs}, films {self.films}, playback_speed {self.playback_speed}: expected 2 "
                "or more, 2 or more, 0 or more, above 0"
            )
        if self.asks == "scores" and (
            self.overseer != "synthetic" or self.teacher not in ("oracle", "flipped") or not self.full_score > 0
        ):
            raise ConfigError(
                "scores are asked of a synthetic teacher, oracle or flipped, whose full_score is above 0; overseer is "
                f"{self.overseer}, teacher {self.teacher}, full_score {self.full_score:g}"
            )
        if not self.beta >= 0:
            raise ConfigError(f"beta is {self.beta}, expected 0 or more")
        for name in ("clip_return", "full_score"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} is {getattr(self, name)}, expected a number of 0 or more")
        if self.overseer == "synthetic" and self.teacher in ("skip", "equal") and self.clip_return == 0:
            raise ConfigError(
                f"the teacher {self.teacher} goes by a tenth of what a usual clip is worth, and clip_return is 0, so it would err in "
                "nothing; give --clip_return, or teacher oracle"
            )
        if self.overseer != "synthetic" and self.reward != "learned":
            raise ConfigError(f"a person is not asked where reward is {self.reward}; leave one of the two as it is")
        if self.overseer == "terminal" and self.wait_seconds == 0:
            raise ConfigError(
                "a person at the terminal is asked only while the run waits; give --wait_seconds 30, or inf"
            )


def plan(config: ControlConfig) -> Plan:
    """Estimate what a run needs by doing a little of it."""
    task = find(config)
    truth = truth_of(config, task)
    parts = parts_of(task, config, config.policy, Nobody(), config.question, truth, learned=config.reward == "learned")
    measured = 2 * config.episodes * task.horizon
    return control_plan(parts, config, measured_steps=measured, by_a_person=config.overseer != "synthetic")


@experiment(config=ControlConfig, plan=plan)
def main(config: ControlConfig, run: Run) -> None:
    """Teach any Gymnasium environment by comparisons of clips; its own reward judges, or a person does."""
    task = find(config)
    if config.overseer != "synthetic" or config.films:
        check_pictures(task)
    truth = truth_of(config, task)
    overseer = overseer_of(config, task, truth, run)
    learned = config.reward == "learned"
    parts = parts_of(task, config, config.policy, overseer, config.question, truth, learned=learned)
    at = train(parts, config, run)
    run.checkpoint("policy", at.update, parts.policy.save)
    with run.progress.phase("measure on unseen episodes"):
        found = unseen(parts.policy, task, config.episodes, config.seed, truth)
        write_results(parts, found, truth, config.pairs, run)
        fresh = fresh_policy(task, config.policy, config.seed)
        before = unseen(fresh, task, config.episodes, config.seed, truth)
        run.estimate("untrained_return", mean_interval(before.return_B))
        write_films(found, task, config.films, run)
    run.note(f"{found.return_B.mean():.1f} true return on {config.episodes} unseen episodes of {task.id}")
    judge = judge_words(config.overseer, config.teacher) if learned else "nobody"
    write_cost(at, judge, run)


def find(config: ControlConfig) -> Task | GymTask:
    """Return what `env` names: the fast path where there is one and nothing is asked of the environment itself.

    Raises:
        ConfigError: see `gym_task`.
    """
    if config.env in TASKS and not config.options and config.ends == "refuse":
        task = TASKS[config.env]
        return replace(task, horizon=max(config.horizons)) if config.horizons else task
    options = read_options(config.options)
    horizon = max(config.horizons) if config.horizons else None
    return gym_task(config.env, options=options, horizon=horizon, ends=config.ends)


def check_pictures(task: Task | GymTask) -> None:
    """Raise ConfigError or MissingExtra at once where a person could not be shown anything."""
    if isinstance(task, Task):
        Painter(task)
    else:
        check_drawn(task)


def overseer_of(config: ControlConfig, task: Task | GymTask, truth: ClipTruth, run: Run) -> Overseer:
    """Return a person at this terminal, or the teacher who compares clips by the environment's own reward."""
    if (again := recorded(run.path, run.store)) is not None:
        return again
    if config.overseer != "synthetic":
        replays = None if isinstance(task, Task) else Replays(task, drawn=True)
        film = ClipFiles(run.path / "clips", speed=config.playback_speed, replays=replays)
        return (
            TerminalOverseer(run.store, film=film)
            if config.overseer == "terminal"
            else PeopleOverseer(run.store, film, run)
        )
    kept = kept_truth(truth, run.store, f"{task.id}, {config.judged_by}")
    errs = teacher(config.teacher, beta=config.beta, mean_return=config.clip_return, seed=config.seed)
    return SyntheticTeacher(run.store, kept, replace(errs, full_score=config.full_score))


def truth_of(config: ControlConfig, task: Task | GymTask) -> ClipTruth:
    """Return what clips are judged by.

    Raises:
        ConfigError: nobody has written that down for this task.
    """
    if config.judged_by == "own":
        return own_reward(task)
    if not isinstance(task, Task) or (config.judged_by == "one_leg" and task.id != ONE_LEG):
        where = ONE_LEG if config.judged_by == "one_leg" else f"one of {', '.join(TASKS)}"
        raise ConfigError(f"judged_by {config.judged_by} on {task.id}; expected {where}, or judged_by own")
    return one_leg_truth if config.judged_by == "one_leg" else task_truth
