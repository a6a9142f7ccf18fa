"""Rounds of sample, rate, imitate: the overseer grades single answers itself, and those graded well enough are learned by heart.

This is what FeedME was: samples rated by people, and tuning on those with the best grade. No reward model stands between; a grade is used
once, for the answer it was given to, and an answer that nobody graded teaches nothing. Every round asks about fresh answers of the policy so
far and learns from all that passed since the beginning. Left out: the bar (`optimise.feedme`), and FeedME by a reward model (`feedme`).

Shapes: B rows, N answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from backflip.data import Item, Judgement, Query
from backflip.errors import ConfigError, DataError
from backflip.loops.answers import gather
from backflip.loops.asking import Told, close
from backflip.loops.dealing import deal
from backflip.loops.improving import Stopwatch, take_updates
from backflip.loops.parts import Parts, Trained, Training, begin, end_round, save, share, shared_before, stream
from backflip.optimise import sft
from backflip.optimise.feedme import AtLeast, Keep, chosen
from backflip.overseers.people import PeopleOverseer
from backflip.overseers.recorded import RecordedOverseer
from backflip.overseers.terminal import TerminalOverseer
from backflip.rewards.model import on_last_decision
from backflip.store.lineage import judgement_id

if TYPE_CHECKING:
    from backflip.loops.feedme import FeedMELoopConfig
    from backflip.loops.parts import Position
    from backflip.run import Run

QUESTION = "How good is this answer, from 1 (bad) to 7 (very good)?"
GRADES = 7


@dataclass(frozen=True)
class ByOverseer:
    """The overseer grades each answer itself; `comparisons` counts grades."""

    keep: Keep = field(default_factory=AtLeast)
    """Which answers are learned from; a grade g of 7 is a rating of (g - 1) / 6, so 1 is grade 7 alone."""
    answers: int = 32
    """Answers of each update, dealt out in shuffled passes over those kept."""

    def __post_init__(self) -> None:
        if self.answers < 1:
            raise ConfigError(f"rating.answers is {self.answers}, expected 1 or more")
        if isinstance(self.keep, AtLeast) and not 0 < self.keep.rating <= 1:
            raise ConfigError(
                f"rating.keep.rating is {self.keep.rating}; an overseer's ratings lie in [0, 1], so expected above 0 and up to 1"
            )


@dataclass(frozen=True)
class Rated:
    """An answer and what it was rated, 0 to 1."""

    item: Item
    rating: float
    weight: float = 1.0
    """All are dealt alike."""


def train(parts: Parts, config: FeedMELoopConfig, rule: ByOverseer, run: Run) -> Trained:
    """Carry out the recipe, or what is left of it after a kill; logs phases `ask`, `feedme`, `check`.

    Raises:
        ConfigError: the overseer cannot grade, or a reward is given.
        DataError: nobody graded a single answer, none is good enough, or all are graded alike.
    """
    if isinstance(parts.overseer, PeopleOverseer | TerminalOverseer) or parts.given is not None:
        raise ConfigError(
            "rating:by_overseer needs an overseer who grades single answers: the synthetic teacher or a Python function; people here "
            "compare, and a reward that is given needs nobody: leave the setting out"
        )
    now = begin(parts, config, run)
    at, told = now.at, reread(now.at, run)
    for _ in range(at.round, config.rounds):
        if not at.fitted:
            told = ask(parts, told, config, now, run)
            at.fitted = True
            save(now, parts, run)
        kept, stats = keep(ratings(told), rule.keep)
        update = partial(imitate, parts, kept, stats, now, config, rule)
        take_updates("feedme", update, None, parts, now, config, run)
        end_round(now, config.rounds, parts, run)
    return replace(close(told, None, now, parts, config, run), judged="ratings")


def ask(parts: Parts, before: Told, config: FeedMELoopConfig, now: Training, run: Run) -> Told:
    """Sample this round's answers and have each graded; return what is known after it; logs the phase `ask`.

    Raises:
        DataError: nobody graded a single answer.
    """
    at, number = now.at, now.at.round
    asked = share(config.questions, config.rounds, number)
    with run.progress.phase("sample answers to rate", total=asked) as bar:
        rows = now.counted(parts.world.collect(now.used, asked, stream(config.seed, "sample", number)))
        new = [Query((item,), QUESTION, kind="rate") for item in parts.world.show(rows)]
        bar.advance(asked)
    if isinstance(parts.overseer, RecordedOverseer):
        new = parts.overseer.come_up(number, config.rounds)
    questions = list({query.id: query for query in [*before.questions, *new]}.values())
    told = joined(questions, gather(parts.overseer, questions, config, run))
    run.log(at.round, "ask", **{name: float(value) for name, value in told.counts.items()})
    if not told.taught:
        raise DataError("nobody graded a single answer, so there is nothing to choose from; ask more, or wait longer")
    at.asked_at += [at.round] * (len(questions) - len(at.asked))
    at.asked, at.heard = [query.id for query in questions], [judgement_id(one) for one in told.answers]
    return told


def joined(questions: Sequence[Query], answers: Sequence[Judgement]) -> Told:
    """Return questions and answers with their counts.

    Raises:
        DataError: a question is no rating of one answer, as those of a run that compared are none.
    """
    for query in questions:
        if query.kind != "rate" or len(query.items) != 1:
            raise DataError(
                f"query {query.id} is {query.kind} of {len(query.items)} items; expected ratings of one: a run that compared cannot "
                "be trained again on ratings"
            )
    unanswered = sum(one.answer is None for one in answers)
    counts = {"judgements": len(answers), "unanswered": unanswered, "ties": 0}
    return Told(list(questions), list(answers), counts=counts)


def reread(at: Position, run: Run) -> Told:
    """Return what was asked and said before a kill."""
    if not at.asked:
        return Told()
    known, told = run.store.queries_by_id(at.asked), run.store.judgements_by_id(at.heard)
    return joined([known[query_id] for query_id in at.asked], [told[one] for one in at.heard])


def ratings(told: Told) -> list[Rated]:
    """Return every answer that somebody graded, with the mean of its grades, in the order of the questions."""
    found: dict[str, list[float]] = {}
    for one in told.taught:
        found.setdefault(one.query_id, []).append((one.answer or (0.0,))[0])
    return [Rated(query.items[0], float(np.mean(found[query.id]))) for query in told.questions if query.id in found]


def keep(rated: Sequence[Rated], rule: Keep) -> tuple[list[Rated], dict[str, float]]:
    """Return the answers that are good enough, and what was chosen in numbers.

    Raises:
        DataError: none is, or all are rated alike.
    """
    place = {prompt: number for number, prompt in enumerate(dict.fromkeys(one.item.prompt for one in rated))}
    rating_N = torch.tensor([one.rating for one in rated], dtype=torch.float64)
    kept_N, stats = chosen(rating_N, torch.tensor([place[one.item.prompt] for one in rated]), rule)
    return [one for one, good in zip(rated, kept_N.tolist(), strict=True) if good], stats


def imitate(
    parts: Parts,
    kept: Sequence[Rated],
    stats: dict[str, float],
    now: Training,
    config: FeedMELoopConfig,
    rule: ByOverseer,
) -> dict[str, float]:
    """Deal answers that were kept and learn them by heart; return the statistics."""
    watch, at = Stopwatch(), now.at
    turn = at.update - shared_before(config.updates, config.rounds, at.round)
    dealt = deal(kept, rule.answers, turn, config.seed, at.round)
    rows = parts.world.load([one.item for one in dealt]).to(now.policy.device)
    weight_B = torch.ones(len(dealt), device=now.policy.device)
    rng = stream(config.seed, "minibatches", at.update)
    found = sft.update(now.policy, now.optimizer, rows, on_last_decision(weight_B, rows), config.feedme.sft, rng)
    return stats | found | {"lr": now.optimizer.param_groups[0]["lr"], "seconds_update": watch.lap()}
