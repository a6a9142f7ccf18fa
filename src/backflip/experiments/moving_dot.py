"""The smallest control experiment: a dot learns to go to the centre from comparisons of one-second clips, in seconds.

Three arms on the same seeds: the policy as it is at the start, the same PPO on the true reward, and PPO on the reward learned from
comparisons. What comparisons are worth is where the last lies between the first two. docs/control.md has figures.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from backflip.errors import ConfigError
from backflip.experiments import experiment
from backflip.experiments.arms import normalised_return
from backflip.experiments.control_parts import fresh_policy, parts_of, unseen, write_films, write_results
from backflip.loops.control import ControlLoopConfig, train
from backflip.measures.clip_truth import kept_truth
from backflip.measures.gym_truth import GymTruth
from backflip.measures.stats import mean_interval
from backflip.optimise.ppo import PPOConfig
from backflip.overseers.synthetic import SyntheticTeacher, teacher
from backflip.policies.actor_critic import ActorCriticConfig
from backflip.progress import Progress
from backflip.rewards.clips import ClipFitConfig
from backflip.run import Run
from backflip.worlds.gym_task import GymTask, gym_task

if TYPE_CHECKING:
    from backflip.experiments.control_parts import Unseen

NAME = "backflip.worlds.moving_dot:MovingDot-v0"
QUESTION = "In which clip does the dot come nearer to the centre?"
Learns = Literal["comparisons", "true"]


@dataclass(frozen=True)
class MovingDotConfig(ControlLoopConfig):
    """Settings of the moving dot."""

    seeds: int = 5
    """Seeds on which every arm is trained, from `seed` on."""
    steps: int = 12_000
    """Real steps of the environments, over all of them."""
    environments: int = 16
    """Copies of the environment."""
    horizons: tuple[int, ...] = ()
    """Length of every episode; none: the environment's own 50 steps."""
    row_steps: int = 50
    """Steps of a row between two updates."""
    piece_steps: int = 10
    """PPO sees rows in pieces of this many steps."""
    comparisons: int = 300
    """Questions put to the teacher."""
    first_share: float = 0.5
    """Share of the questions that are asked before the policy learns."""
    schedule_steps: float = 1e4
    """The rate of asking falls as c / (steps + c), this being c."""
    clip_seconds: float = 0.5
    """Length of a clip; a second has 10 steps."""
    fit: ClipFitConfig = field(default_factory=lambda: ClipFitConfig(hidden=32, steps=40, first_steps=400, lr=3e-3))
    """The fit of the reward."""
    lr: float = 1e-3
    """Adam's learning rate."""
    ppo: PPOConfig = field(default_factory=lambda: replace(ControlLoopConfig().ppo, gamma=0.9, minibatches=4))
    """The update."""
    policy: ActorCriticConfig = field(default_factory=lambda: ActorCriticConfig(hidden=32))
    """The networks."""
    teacher: Literal["oracle", "mistake", "flipped", "coin"] = "oracle"
    """How the synthetic teacher errs (Lee et al. 2021); flipped wants the opposite, coin does not look."""
    episodes: int = 50
    """Unseen episodes on which each policy is measured."""
    pairs: int = 100
    """Pairs of clips from these episodes, on which the learned reward is measured."""
    films: int = 2
    """Unseen episodes of the first seed that are filmed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.asks != "comparisons":
            raise ConfigError("the moving dot's teacher compares; leave asks as it is")
        if self.seeds < 1 or self.episodes < 2 or self.pairs < 2 or self.films < 0:
            raise ConfigError(
                f"seeds {self.seeds}, episodes {self.episodes}, pairs {self.pairs}, films {self.films}: expected 1, 2, 2 and 0 or more"
            )


@experiment(config=MovingDotConfig)
def main(config: MovingDotConfig, run: Run) -> None:
    """Teach a dot to go to the centre by comparisons of clips, over seeds, in seconds: the loop at its smallest."""
    task = gym_task(NAME)
    rows = [
        compared(task, replace(config, seed=config.seed + number), run, first=not number)
        for number in range(config.seeds)
    ]
    run.table("arms", rows)
    for name in ("untrained", "true", "comparisons"):
        run.estimate(f"return_{name}", mean_interval([row[name] for row in rows]))
    learned, true, before = (np.array([row[name] for row in rows]) for name in ("comparisons", "true", "untrained"))
    share = normalised_return(learned, true, before)
    if share is None:
        run.note(
            "the same PPO on the true reward learned nothing, so nothing can be said of comparisons; give more steps"
        )
    else:
        run.estimate("normalised_return", share)
        run.note(f"comparisons are worth {share.value:.2f} of the true reward, over {len(rows)} seeds")


def compared(task: GymTask, config: MovingDotConfig, run: Run, *, first: bool) -> dict[str, float]:
    """Train every arm on one seed; return the mean true return of each. The first seed's comparisons are the run's own."""
    truth = GymTruth(task)
    if first:
        found = arm(task, config, run, "comparisons", measured=True)
    else:
        found = inside(task, config, run, "comparisons")
    true = inside(task, config, run, "true")
    before = unseen(fresh_policy(task, config.policy, config.seed), task, config.episodes, config.seed, truth)
    names = ("untrained", "true", "comparisons")
    means = (float(one.return_B.mean()) for one in (before, true, found))
    return {"seed": config.seed, **dict(zip(names, means, strict=True))}


def inside(task: GymTask, config: MovingDotConfig, run: Run, learns: Learns) -> Unseen:
    """Train an arm in a run folder of its own inside the run's; begun anew where it was cut off, as it takes seconds."""
    folder = run.path / "arms" / f"{learns}_{config.seed}"
    shutil.rmtree(folder, ignore_errors=True)
    with Run.create(run.experiment, config, root=run.path, seed=config.seed, folder=folder) as own:
        own.progress = Progress(quiet=True)
        return arm(task, config, own, learns)


def arm(task: GymTask, config: MovingDotConfig, run: Run, learns: Learns, *, measured: bool = False) -> Unseen:
    """Train one arm; return its unseen episodes. `measured` also writes them as results."""
    truth = GymTruth(task)
    overseer = SyntheticTeacher(
        run.store, kept_truth(truth, run.store, task.id), teacher(config.teacher, seed=config.seed)
    )
    parts = parts_of(task, config, config.policy, overseer, QUESTION, truth, learned=learns == "comparisons")
    at = train(parts, config, run)
    run.checkpoint("policy", at.update, parts.policy.save)
    found = unseen(parts.policy, task, config.episodes, config.seed, truth)
    if measured:
        write_results(parts, found, truth, config.pairs, run)
        write_films(found, task, config.films, run)
    return found
