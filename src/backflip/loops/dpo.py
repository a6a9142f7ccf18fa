"""Rounds of sample, ask, improve: the policy is fitted to the comparisons themselves, without a reward model (DPO, or IPO).

One round is the offline recipe, on pairs of the policy that was started from. With more the pairs of each round are fresh answers of the
policy so far, and every round learns from all pairs: the online one. What it leaves out: the loss (`optimise.dpo`).

Shapes: B rows, T decisions.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from backflip.loops.asking import Told, ask, close, reread
from backflip.loops.dealing import deal
from backflip.loops.improving import Stopwatch, take_updates
from backflip.loops.parts import Method, Parts, Trained, Training, begin, end_round, save, shared_before, stream
from backflip.loops.settings import LearningConfig, one_or_more
from backflip.optimise import dpo
from backflip.optimise.dpo import DPOConfig
from backflip.optimise.step import evaluate_all
from backflip.plan import MethodWork

if TYPE_CHECKING:
    from backflip.run import Run


@dataclass(frozen=True)
class DPOLoopConfig(LearningConfig):
    """Settings of the recipe."""

    updates: int = 60
    """Updates of the policy, over all rounds."""
    pairs: int = 32
    """Compared pairs of each update, dealt out in shuffled passes."""
    lr: float = 3e-4
    """Adam's learning rate."""
    dpo: DPOConfig = field(default_factory=DPOConfig)
    """The update; `--dpo.loss ipo` is IPO."""

    def __post_init__(self) -> None:
        LearningConfig.__post_init__(self)
        one_or_more(self, ("pairs",))

    @property
    def work(self) -> MethodWork:
        """What the run will do."""
        rows = 2 * self.pairs * self.updates
        return MethodWork(0, rows, self.dpo.epochs, self.dpo.tokens_per_microbatch)


def train(parts: Parts, config: DPOLoopConfig, run: Run) -> Trained:
    """Carry out the recipe, or what is left of it after a kill; logs phases `ask`, `dpo`, `check`.

    Raises:
        DataError: a loss is not finite, or nobody answered a single question.
    """
    now = begin(parts, config, run)
    at, told = now.at, reread(now.at, run)
    for _ in range(at.round, config.rounds):
        if not at.fitted:
            told = ask(parts, told, config, now, run)
            at.fitted = True
            save(now, parts, run)
        take_updates("dpo", partial(improve, parts, told, now, config), None, parts, now, config, run)
        end_round(now, config.rounds, parts, run)
    return close(told, None, now, parts, config, run)


def improve(parts: Parts, told: Told, now: Training, config: DPOLoopConfig) -> dict[str, float]:
    """Deal pairs, score them by the reference, and update once; return the statistics."""
    watch, at = Stopwatch(), now.at
    turn = at.update - shared_before(config.updates, config.rounds, at.round)
    pairs = deal(told.pairs, config.pairs, turn, config.seed, at.round)
    rows = parts.world.load([item for pair in pairs for item in (pair.first, pair.second)])
    rows = replace(rows, group_B=torch.arange(len(pairs)).repeat_interleave(2)).to(now.policy.device)
    tokens_at_once = config.dpo.tokens_per_microbatch
    rows = replace(rows, ref_logp_BT=evaluate_all(now.reference, rows, tokens_per_microbatch=tokens_at_once).logp_BT)
    answer_BT = dpo.answer_rewards(rows, [part for pair in pairs for part in (pair.share, 1 - pair.share)])
    scored = watch.lap()
    rng = stream(config.seed, "minibatches", at.update)
    stats = dpo.update(now.policy, now.optimizer, rows, answer_BT, config.dpo, rng)
    stats |= {"lr": now.optimizer.param_groups[0]["lr"], "seconds_score": scored, "seconds_update": watch.lap()}
    return stats


METHOD = Method("DPO", DPOLoopConfig, train, rewarded=False)
