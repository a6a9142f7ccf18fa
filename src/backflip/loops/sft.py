"""Rounds of sample, ask, imitate: supervised tuning on the answers that the overseer preferred, the plainest use of a comparison.

With several rounds every one asks about fresh answers of the policy so far, and learns from all that were preferred since the beginning,
as DAgger does (Ross et al. 2011). What it leaves out: any use of the answer that lost.

Shapes: B rows, T decisions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import torch

from backflip.errors import DataError
from backflip.loops.asking import ask, close, reread
from backflip.loops.dealing import deal
from backflip.loops.improving import Stopwatch, take_updates
from backflip.loops.parts import Method, Parts, Trained, Training, begin, end_round, save, shared_before, stream
from backflip.loops.settings import LearningConfig, one_or_more
from backflip.optimise import sft
from backflip.optimise.sft import SFTConfig
from backflip.plan import MethodWork
from backflip.rewards.comparisons import Comparison
from backflip.rewards.model import on_last_decision

if TYPE_CHECKING:
    from backflip.run import Run


@dataclass(frozen=True)
class SFTLoopConfig(LearningConfig):
    """Settings of the recipe."""

    updates: int = 60
    """Updates of the policy, over all rounds."""
    answers: int = 32
    """Preferred answers of each update, dealt out in shuffled passes."""
    lr: float = 3e-4
    """Adam's learning rate."""
    sft: SFTConfig = field(default_factory=SFTConfig)
    """The update."""

    def __post_init__(self) -> None:
        LearningConfig.__post_init__(self)
        one_or_more(self, ("answers",))

    @property
    def work(self) -> MethodWork:
        """What the run will do."""
        return MethodWork(0, self.answers * self.updates, self.sft.epochs, self.sft.tokens_per_microbatch)


def train(parts: Parts, config: SFTLoopConfig, run: Run) -> Trained:
    """Carry out the recipe, or what is left of it after a kill; logs phases `ask`, `sft`, `check`.

    Raises:
        DataError: a loss is not finite, nobody answered a single question, or every answer was a tie.
    """
    now = begin(parts, config, run)
    at, told = now.at, reread(now.at, run)
    for _ in range(at.round, config.rounds):
        if not at.fitted:
            told = ask(parts, told, config, now, run)
            at.fitted = True
            save(now, parts, run)
        update = partial(imitate, parts, decisive(told.pairs), now, config)
        take_updates("sft", update, None, parts, now, config, run)
        end_round(now, config.rounds, parts, run)
    return close(told, None, now, parts, config, run)


def decisive(pairs: Sequence[Comparison]) -> list[Comparison]:
    """Return the pairs of which one answer was preferred.

    Raises:
        DataError: there is none.
    """
    found = [pair for pair in pairs if pair.share != 0.5]
    if not found:
        raise DataError(
            f"all {len(pairs)} answers are ties, so no answer was preferred and there is nothing to imitate"
        )
    return found


def imitate(parts: Parts, pairs: Sequence[Comparison], now: Training, config: SFTLoopConfig) -> dict[str, float]:
    """Deal preferred answers and update once, each weighing by how clearly it was preferred; return the statistics."""
    watch, at = Stopwatch(), now.at
    turn = at.update - shared_before(config.updates, config.rounds, at.round)
    dealt = deal(pairs, config.answers, turn, config.seed, at.round)
    rows = parts.world.load([pair.first if pair.share > 0.5 else pair.second for pair in dealt]).to(now.policy.device)
    weight_B = torch.tensor([abs(2 * pair.share - 1) for pair in dealt], device=now.policy.device)
    rng = stream(config.seed, "minibatches", at.update)
    stats = sft.update(now.policy, now.optimizer, rows, on_last_decision(weight_B, rows), config.sft, rng)
    return stats | {"lr": now.optimizer.param_groups[0]["lr"], "seconds_update": watch.lap()}


METHOD = Method("SFT", SFTLoopConfig, train, rewarded=False)
