"""PPO let loose on a proxy, without a leash: how far it goes, and what gold and the proxy say on the way.

The update is the main job's (`loops.ppo.improve`); only the KL penalty is off, so that the distance grows. Each look is at the openings of
the pool, so gains are over the same base answers as those of best-of-n. Left out: the proxies (`overoptimisation_proxies`).

Shapes: K openings, C answers an opening at a look, L looks, B rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from backflip.checkpoint import save_tensors
from backflip.errors import ConfigError
from backflip.experiments.overoptimisation_proxies import Pool, Pushed, read_reward
from backflip.experiments.reviews_answers import QUESTION, Gold, held_out_answers
from backflip.loops.parts import Parts, Position, Training, stream
from backflip.loops.ppo import PPOLoopConfig, improve
from backflip.measures.diversity import length_tokens
from backflip.measures.gold import gold_scores
from backflip.measures.kl import kl_B
from backflip.memory import give_back
from backflip.optimise.kl import FixedKL
from backflip.optimise.ppo import PPOConfig
from backflip.optimise.scores import ScoreRules
from backflip.overseers.synthetic import SyntheticTeacher
from backflip.policies.lm import LMPolicy
from backflip.rewards.combine import WeightedRewards
from backflip.rewards.ensemble import RewardEnsemble
from backflip.rewards.model import SequenceRewardModel
from backflip.worlds.text import TextWorld

if TYPE_CHECKING:
    from backflip.experiments.overoptimisation import OveroptimisationConfig
    from backflip.run import Run


@dataclass(frozen=True)
class PushConfig:
    """How PPO pushes on a proxy."""

    updates: int = 24
    """Updates of each run."""
    episodes: int = 64
    """Answers sampled for each update."""
    lr: float = 3e-4
    """Adam's learning rate; constant."""
    kl_coef: float = 0.0
    """What a nat costs in reward; 0 lets the distance grow."""
    every: int = 3
    """Updates from one look to the next."""
    copies: int = 4
    """Answers to each opening of the pool at a look."""
    ppo: PPOConfig = field(default_factory=lambda: PPOConfig(epochs=2))
    """The update."""

    def __post_init__(self) -> None:
        if min(self.updates, self.episodes, self.every, self.copies) < 1 or self.updates < 3 * self.every:
            raise ConfigError(
                f"push.updates is {self.updates} with a look every {self.every}, {self.episodes} episodes and {self.copies} copies; expected 1 "
                "or more of each, and three looks or more, or no curve can be fitted"
            )
        if not (0 < self.lr < float("inf") and 0 <= self.kl_coef < float("inf")):
            raise ConfigError(f"push.lr is {self.lr} and push.kl_coef {self.kl_coef}; expected above 0, and 0 or more")


@dataclass(frozen=True)
class Looker:
    """What is looked at while a policy is pushed."""

    base: LMPolicy
    world: TextWorld
    gold: Gold
    pool: Pool
    config: OveroptimisationConfig

    def look(self, policy: LMPolicy, reward: RewardEnsemble, seed: int, update: int) -> dict[str, Any]:
        """Return opening by opening what gold, proxy and KL (exact, nats) are, and the answers as tokens."""
        openings = self.pool.shape[0]
        rng = stream(seed, "look at the pushed", update)
        rows = held_out_answers(self.world, policy, self.config.push.copies, rng, openings)
        gold_B = gold_scores(self.gold, self.world.show(rows))
        found = {
            "gold": gold_B,
            "proxy": reward.normalised_B(rows).double().numpy(),
            "kl": kl_B(policy, self.base, rows),
        }
        by_opening = {name: value_B.reshape(openings, -1).mean(1) for name, value_B in found.items()}
        return {
            "update": update,
            "length_tokens": length_tokens(rows).value,
            **{name: torch.from_numpy(np.ascontiguousarray(value_K)) for name, value_K in by_opening.items()},
            "action": rows.action.to(torch.int32),
            "gold_B": torch.from_numpy(gold_B),
        }


def push_all(
    looker: Looker, fresh: Any, train: TextWorld, config: OveroptimisationConfig, run: Run, state: dict[str, Any]
) -> None:
    """Do what is left of the PPO runs, saving after each; `fresh()` loads the base anew with a critic."""
    done: list[str] = state["pushed"]
    todo = [(pushed, seed) for seed in config.seed_numbers for pushed in config.pushed_proxies]
    with run.progress.phase(f"{len(todo)} runs of PPO on proxies", len(todo)) as bar:
        for pushed, seed in todo:
            name = pushed_name(pushed, seed)
            if name not in done:
                push(pushed, seed, looker, fresh(), train, run)
                done.append(name)
                run.save_state(f"pushed {name}", state)
            bar.advance(1, proxy=pushed.name)


def pushed_name(pushed: Pushed, seed: int) -> str:
    """Return what one PPO run is called in files."""
    return f"{pushed.name}_seed{seed}"


def push(pushed: Pushed, seed: int, looker: Looker, policy: LMPolicy, train: TextWorld, run: Run) -> None:
    """Let PPO improve the base on a proxy; keep every look, answers and all, in `checkpoints/looks_NAME-0`."""
    config, how = looker.config, looker.config.push
    reward = read_reward(run, pushed, seed, config)
    reward.check_reference(looker.base.hash())
    settings = PPOLoopConfig(
        seed=seed, updates=how.updates, episodes=how.episodes, lr=how.lr, decay=False,
        ppo=how.ppo, kl=FixedKL(how.kl_coef), scores=ScoreRules(),
    )  # fmt: skip
    optimizer = torch.optim.Adam(policy.module.parameters(), lr=how.lr, eps=settings.adam_eps)
    now = Training(policy, looker.base, optimizer, Position(), how.kl_coef)
    world = TextWorld(train.prompts, policy.tokenizer, seed=seed)
    parts = Parts(policy, world, SyntheticTeacher(run.store, _untold), _none_fitted, QUESTION)
    rewards = WeightedRewards({"proxy": (1.0, reward)})
    looks = [looker.look(policy, reward, seed, 0)]
    for update in range(1, how.updates + 1):
        stats = improve(parts, rewards, now, settings, run)
        now.at.update = update
        run.log(update, f"ppo_{pushed.name}", seed=float(seed), **stats)
        if update % how.every == 0:
            looks.append(looker.look(policy, reward, seed, update))
            means = {name: float(looks[-1][name].mean()) for name in ("gold", "proxy", "kl")}
            run.log(update, f"look_{pushed.name}", seed=float(seed), length_tokens=looks[-1]["length_tokens"], **means)
    run.checkpoint(f"looks_{pushed_name(pushed, seed)}", 0, lambda folder: save_tensors(folder / "looks", looks))
    give_back()


def _untold(item: object) -> float:
    raise AssertionError("nobody is asked while PPO pushes on a proxy")


def _none_fitted(rng: np.random.Generator) -> SequenceRewardModel:
    raise AssertionError("no reward model is fitted while PPO pushes on a proxy")
