"""Deep RL from comparisons of clips (Christiano et al. 2017): act, ask, fit, improve, all the time.

The whole recipe stands here. It never waits for an overseer: answers are taken when they have come, in whatever order. What
it leaves out: which body, who judges, and what the result is worth (the experiment). It can be killed at any moment, as
`loops/ppo` can: everything random is a function of the seed and the place in the recipe.

Shapes: M members of the ensemble, B rows, T steps.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from backflip.data import Episodes
from backflip.errors import ConfigError
from backflip.loops.answers import write_asked
from backflip.loops.control_asking import ask, put_before
from backflip.loops.control_hearing import Heard
from backflip.loops.parts import stream
from backflip.optimise import ppo
from backflip.optimise.ppo import PPOConfig
from backflip.policies.actor_critic import ActorCritic
from backflip.protocols import Overseer
from backflip.rewards.clips import ClipFit, ClipFitConfig, ClipRewards
from backflip.rewards.queries import Choice
from backflip.worlds.control import ControlWorld, pieces

if TYPE_CHECKING:
    from backflip.run import Run


@dataclass(frozen=True)
class ControlLoopConfig:
    """Settings of the recipe."""

    seed: int = 0
    """Of everything random."""
    steps: int = 800_000
    """Real steps of the environments, over all of them."""
    environments: int = 16
    """Simulations at once."""
    horizons: tuple[int, ...] = (250, 1000)
    """Lengths of episodes while training, given to the environments in turn. Fixed, whatever happens in them; a body that has fallen
    lies in most of a long one, and short ones let it stand up oftener."""
    row_steps: int = 250
    """Steps of a row between two updates; must divide the horizon."""
    piece_steps: int = 50
    """PPO sees rows in pieces of this many steps, so that minibatches mix; must divide `row_steps`."""
    comparisons: int = 300
    """Questions put to the overseer."""
    first_share: float = 0.25
    """Share of the questions that are asked before the policy learns (Christiano et al. 2017, A.1)."""
    schedule_steps: float = 4e5
    """The rate of asking falls as c / (steps + c), this being c; 2e6 there, for runs of tens of millions."""
    ask_at_once: int = 10
    """Questions are put in batches of at least this many."""
    asks: Literal["comparisons", "scores"] = "comparisons"
    """What is asked: which of two clips is better, or what one is worth (Christiano et al. 2017, fig. 5). `comparisons` counts either."""
    queries: Choice = "mixed"
    """Which pairs (or clips) are asked about: random, disagreement, or half and half."""
    older_share: float = 0.5
    """Share of questions that compare a clip of now with one that was asked about before."""
    wait_seconds: float = 0.0
    """How long an update waits while questions are open. 0 never waits: answers are taken whenever they come. A person at this
    terminal sees a question only while the run waits."""
    stale_updates: int = 100
    """Updates after which a question that nobody answered is withdrawn and another one asked in its place; 0: never."""
    clip_seconds: float = 1.0
    """Length of a clip in the body's own time."""
    fit: ClipFitConfig = field(default_factory=ClipFitConfig)
    """The fit of the reward."""
    weigh_people: bool = True
    """Whether answers of people count in the fit by how often they seem to be right (docs/labeling.md)."""
    lr: float = 3e-4
    """Adam's learning rate."""
    ppo: PPOConfig = field(
        default_factory=lambda: PPOConfig(
            epochs=10, minibatches=16, gamma=0.99, value_coef=0.5, value_clip=float("inf"), center_values=False,
            max_grad_norm=0.5, entropy_coef=0.01, tokens_per_microbatch=1_000_000,
        )
    )  # fmt: skip
    """The update."""
    settle: float = 0.0
    """Share of the updates, the last ones, over which `ppo.entropy_coef` falls to 0 in a straight line: explore first, then be exact."""
    target_kl_nats_per_decision: float = 0.03
    """The learning rate is halved after an update that moved the policy by more than twice this, raised by half after one that
    moved it by less than half (Schulman et al. 2017, sec. 4); 0 keeps it."""
    save_every: int = 20
    """Updates between saved states."""
    check_every: int = 10
    """Updates between looks at what was learned."""

    def __post_init__(self) -> None:
        for name in (
            "steps",
            "environments",
            "row_steps",
            "piece_steps",
            "comparisons",
            "ask_at_once",
            "save_every",
            "check_every",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected 1 or more")
        if any(horizon < 1 for horizon in self.horizons):
            raise ConfigError(f"horizons is {self.horizons}, expected 1 or more each")
        for name in ("lr", "schedule_steps"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} is {getattr(self, name)}, expected a number above 0")
        if not 0 <= self.target_kl_nats_per_decision < float("inf"):
            raise ConfigError(
                f"target_kl_nats_per_decision is {self.target_kl_nats_per_decision}, expected 0 or more; 0 keeps the learning rate"
            )
        if self.row_steps % self.piece_steps:
            raise ConfigError(f"piece_steps is {self.piece_steps}, expected a divisor of row_steps ({self.row_steps})")
        if self.steps < self.environments * self.row_steps:
            raise ConfigError(
                f"steps is {self.steps}, and one update takes {self.environments} environments of {self.row_steps} steps; expected "
                f"{self.environments * self.row_steps} or more"
            )
        pieces_a_batch = self.environments * self.row_steps // self.piece_steps
        if self.ppo.minibatches > pieces_a_batch:
            raise ConfigError(
                f"{self.environments} environments of {self.row_steps} steps make {pieces_a_batch} pieces, which cannot be cut into "
                f"{self.ppo.minibatches} minibatches; lower ppo.minibatches or piece_steps"
            )
        if not 0 <= self.clip_seconds < float("inf"):
            raise ConfigError(f"clip_seconds is {self.clip_seconds}, expected 0 or more; 0 is a clip of one step")
        if not self.wait_seconds >= 0 or self.stale_updates < 0:
            raise ConfigError(
                f"wait_seconds is {self.wait_seconds}, stale_updates {self.stale_updates}; expected 0 or more each"
            )
        if not 0 <= self.older_share <= 1:
            raise ConfigError(f"older_share is {self.older_share}, expected a share from 0 to 1")
        if not 0 <= self.settle <= 1:
            raise ConfigError(f"settle is {self.settle}, expected a share from 0 to 1")
        if not 0 < self.first_share <= 1:
            raise ConfigError(f"first_share is {self.first_share}, expected above 0 and at most 1")

    @property
    def updates(self) -> int:
        """Updates of the policy, each on rows of all environments."""
        return max(1, self.steps // (self.environments * self.row_steps))


@dataclass(frozen=True)
class ControlParts:
    """What the recipe is applied to."""

    world: ControlWorld
    policy: ActorCritic
    overseer: Overseer
    reward: ClipRewards
    clip_steps: int
    question: str
    check: Callable[[ActorCritic, ClipRewards, Episodes], dict[str, float]] | None = None
    """A look at what was learned; may cost, never teaches."""
    given: Callable[[Episodes], Tensor] | None = None
    """A reward_BT that is not learned: nobody is asked, and the same optimiser takes the same real steps. For comparison. It is
    scaled to mean 0 and deviation 1 over each batch of rows, as a learned one is at every fit."""


@dataclass
class Position:
    """How far the recipe has come; part of the saved state."""

    update: int = 0
    lr: float = 0.0
    asked: list[str] = field(default_factory=list[str])
    """Ids of the questions so far."""
    asked_at: list[int] = field(default_factory=list[int])
    """At which update each of them was asked."""
    held: list[str] = field(default_factory=list[str])
    """Those that are only measured."""
    expired: list[str] = field(default_factory=list[str])
    """Those that were withdrawn because nobody answered in time; a late answer is learned from all the same."""
    heard: list[str] = field(default_factory=list[str])
    """Ids of the judgements that were taken, in that order."""
    unanswered: int = 0
    ties: int = 0
    weight: dict[str, float] = field(default_factory=dict[str, float])
    """What each person's answers weigh in the fit; empty while all weigh the same."""
    weighed_at: int = 0
    """How many answers there were when people were weighed last."""


def train(parts: ControlParts, config: ControlLoopConfig, run: Run) -> Position:
    """Carry out the recipe, or what is left of it after a kill; logs phases `reward`, `control`, `check`.

    Raises:
        DataError: see `optimise.ppo.update` and `rewards.clips`.
    """
    many = torch.get_num_threads()
    policy, world, reward = parts.policy, parts.world, parts.reward
    optimizer = torch.optim.Adam(policy.parameters(), lr=config.lr, eps=1e-5, fused=True)
    fit = ClipFit(reward, config.fit)
    at = Position(lr=config.lr)
    untaught = copy.deepcopy(reward)
    heard, earlier = Heard(config.weigh_people), put_before(run)
    if (saved := run.load_state()) is not None:
        at = Position(**saved["at"])
        world.load_state_dict(saved["world"])
        policy.load_state_dict(saved["policy"])
        optimizer.load_state_dict(saved["optimizer"])
        reward.load_state_dict(saved["reward"])
        fit.load_state_dict(saved["fit"])
        heard.read_again(at, run)

    # A policy this small waits for a second thread longer than it helps, and the simulations have their own.
    with threads(1), run.progress.phase(f"learn from {config.comparisons} comparisons", config.updates) as bar:
        bar.advance(at.update)
        while at.update < config.updates:
            began = time.perf_counter()
            rows = world.collect(policy, config.environments, stream(config.seed, "act", at.update))
            acted = time.perf_counter()
            if parts.given is None:
                ask(parts, config, at, rows, run, earlier, fitted=fit.fits > 0)
                fresh = heard.take(parts.overseer, config.wait_seconds, at, run)
            else:
                fresh = 0
            inside, held = heard.apart(parts.overseer, at, run) if fresh else ([], [])
            if inside:  # the first answers to come may all be to questions that are only measured
                with threads(many):
                    stats = fit(world, inside, held, stream(config.seed, "fit", at.update))
                reward.measure_normaliser(rows)
                run.log(at.update, "reward", fresh=float(fresh), **stats)
            judged = time.perf_counter()
            ready = fit.fits > 0 or parts.given is not None
            stats = _improve(parts, config, at, rows, optimizer) if ready else {}
            policy.learn_scale(rows)
            at.update += 1
            stats |= {
                "steps": float(at.update * rows.mask_BT.numel()),
                "asked": float(len(at.asked)),
                "expired": float(len(at.expired)),
                "answered": float(len(heard.taught)),
                "seconds_act": acted - began,
                "seconds_fit": judged - acted,
                "seconds_update": time.perf_counter() - judged,
            }
            run.log(at.update, "control", **stats)
            bar.advance(1, answers=len(heard.taught))
            if parts.check and ready and (at.update % config.check_every == 0 or at.update == config.updates):
                run.log(at.update, "check", **parts.check(policy, reward, rows))
            if at.update % config.save_every == 0 and at.update < config.updates:
                _save(parts, at, optimizer, fit, run)
    if heard.taught:
        heard.remember(at, run)
        if at.weight:
            heard.write_weighting(untaught, world, config, at, run)
    if at.asked:
        run.store.expire(at.asked)  # what is still open would teach nothing any more
        write_asked(run, at.asked, at.asked_at, config.updates, at.held)
    return at


@contextmanager
def threads(count: int) -> Generator[None]:
    """Let torch compute with this many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _improve(
    parts: ControlParts, config: ControlLoopConfig, at: Position, rows: Episodes, optimizer: torch.optim.Optimizer
) -> dict[str, float]:
    """Take one PPO update on the learned reward, and set the learning rate of the next."""
    for group in optimizer.param_groups:
        group["lr"] = at.lr
    reward_BT, explained = _rewarded(parts, rows)
    small = pieces(rows, config.piece_steps)
    stats = ppo.update(
        parts.policy,
        optimizer,
        small,
        reward_BT.reshape(small.mask_BT.shape),
        replace(config.ppo, entropy_coef=config.ppo.entropy_coef * _entropy_share(config, at.update)),
        stream(config.seed, "minibatches", at.update),
    )
    stats |= explained | {"lr": at.lr}
    if config.target_kl_nats_per_decision:
        moved = stats["approx_kl_last_nats"] / config.target_kl_nats_per_decision
        at.lr = float(np.clip(at.lr * (0.5 if moved > 2 else 1.5 if moved < 0.5 else 1.0), 1e-5, 1e-3))
    return stats


def _entropy_share(config: ControlLoopConfig, update: int) -> float:
    last = max(1.0, config.settle * config.updates)
    return min(1.0, (config.updates - update) / last) if config.settle else 1.0


def _rewarded(parts: ControlParts, rows: Episodes) -> tuple[Tensor, dict[str, float]]:
    if parts.given is not None:
        given_BT = parts.given(rows).float()
        mean, std = given_BT.mean(), given_BT.std(correction=0)
        return (given_BT - mean) / (std + 1e-8), {"given_mean": float(mean), "given_std": float(std)}
    members_MBT = parts.reward.members(rows)
    reward_BT = members_MBT.mean(0)
    return reward_BT, {
        "proxy_mean": float(reward_BT.mean()),
        "proxy_std": float(reward_BT.std(correction=0)),
        "disagreement": float(members_MBT.std(0, correction=0).mean()),
    }


def _save(parts: ControlParts, at: Position, optimizer: torch.optim.Optimizer, fit: ClipFit, run: Run) -> None:
    state: dict[str, Any] = {
        "at": vars(at),
        "policy": parts.policy.state_dict(),
        "optimizer": optimizer.state_dict(),
        "reward": parts.reward.state_dict(),
        "fit": fit.state_dict(),
        "world": parts.world.state_dict(),
    }
    run.save_state(f"update {at.update}", state)
