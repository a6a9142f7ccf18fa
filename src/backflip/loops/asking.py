"""The step that every recipe begins a round with: sample answers, ask which is better, and take in what was said.

Left out: which judgements count and what they weigh (`answers`), and what is learned from them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from backflip.data import Item, Judgement, Query
from backflip.errors import DataError
from backflip.loops.answers import gather, person_weights, write_asked
from backflip.loops.choosing import Asking, choose
from backflip.loops.parts import Parts, Position, Trained, Training, share, stream
from backflip.measures.stats import wilson
from backflip.overseers.recorded import RecordedOverseer
from backflip.overseers.shown import order_of
from backflip.rewards.comparisons import Comparison, comparisons
from backflip.rewards.ensemble import RewardEnsemble
from backflip.store.lineage import Lineage, judgement_id

if TYPE_CHECKING:
    from backflip.loops.settings import AskSettings, Settings
    from backflip.run import Run

FEWEST = 20
"""Questions from which on a liking for a place is spoken of."""


@dataclass(frozen=True)
class Told:
    """Everything that was asked so far, and what was said to it."""

    questions: list[Query] = field(default_factory=list[Query])
    answers: list[Judgement] = field(default_factory=list[Judgement])
    weight: dict[str, float] = field(default_factory=dict[str, float])
    """What the answers of each person weigh; empty where all weigh the same."""
    pairs: list[Comparison] = field(default_factory=list[Comparison])
    counts: dict[str, int] = field(default_factory=lambda: {"judgements": 0, "unanswered": 0, "ties": 0})

    @property
    def taught(self) -> list[Judgement]:
        """The answers that say something: whoever could not tell taught nothing."""
        return [one for one in self.answers if one.answer is not None]


def ask(parts: Parts, before: Told, config: AskSettings, now: Training, run: Run, asking: Asking | None = None) -> Told:
    """Put this round's questions to the overseer, and return what is known after it; logs the phase `ask`.

    `asking` says which pairs are worth a question; None asks about the first that come.

    Raises:
        DataError: nobody answered a single question.
    """
    at, new = now.at, next_questions(parts, config, now, run, asking)
    # a policy that repeats itself makes the same question twice: it is asked, and counts, once
    questions = list({query.id: query for query in [*before.questions, *new]}.values())
    answers = gather(parts.overseer, questions, config, run)
    judges = {one.judge for one in answers}
    weight = person_weights(run.store, judges, parts.overseer) if config.weigh_people else {}
    pairs, counts = comparisons(questions, answers, weight)
    run.log(at.round, "ask", **{name: float(value) for name, value in counts.items()})
    if not pairs:
        raise DataError(
            "nobody answered a single question, so there is nothing to fit; ask more, or wait longer (--wait-seconds)"
        )
    if said := doubts(questions, answers, counts):
        run.note(f"in round {at.round + 1} {said}")
    at.asked_at += [at.round] * (len(questions) - len(at.asked))
    at.asked, at.heard = [query.id for query in questions], [judgement_id(one) for one in answers]
    at.weights = weight
    return Told(questions, answers, weight, pairs, counts)


def doubts(questions: Sequence[Query], answers: Sequence[Judgement], counts: Mapping[str, int]) -> str | None:
    """Return the words for judgements that tell little or nothing: all are ties, or it is the place that wins; None for others.

    The place is told by Wilson's interval over questions, FEWEST or more; which answer is shown first is drawn half and half, so that a
    liking for a place teaches nothing by itself, but hides what else was meant.
    """
    taught = [one for one in answers if one.answer is not None]
    if counts["ties"] == len(taught):
        return f"all {len(taught)} answers heard are ties: nothing says which answer is better, so a policy that learns from them stays as it is"
    place = {query.id: order_of(query)[0] for query in questions}
    first: dict[str, list[float]] = {}
    for one in taught:
        first.setdefault(one.query_id, []).append((one.answer or ())[place[one.query_id]])
    won = wilson(min(sum(float(np.mean(each)) for each in first.values()), len(first)), len(first))
    if len(first) < FEWEST or won.low <= 0.5 <= won.high:
        return None
    return (
        f"the answer shown first won {won.value:.0%} of {len(first)} questions (95 % interval {won.low:.0%} to {won.high:.0%}): the judge likes "
        "a place, beside or instead of an answer"
    )


def reread(at: Position, run: Run) -> Told:
    """Return what was asked and said before a kill."""
    if not at.asked:
        return Told()
    known, told = run.store.queries_by_id(at.asked), run.store.judgements_by_id(at.heard)
    questions, answers = [known[query_id] for query_id in at.asked], [told[one] for one in at.heard]
    pairs, counts = comparisons(questions, answers, at.weights)
    return Told(questions, answers, at.weights, pairs, counts)


def close(
    told: Told, reward: RewardEnsemble | None, now: Training, parts: Parts, config: Settings, run: Run
) -> Trained:
    """Write down what was asked and what taught the policy, and return what came of it."""
    at = now.at
    if not at.rewards and told.answers:  # taught by the judgements themselves, by way of no reward model
        at.rewards = [Lineage(run.store).add_reward(run.id, "judgements", told.taught, time.time())]
    Lineage(run.store).add_policy(run.id, "policy", at.rewards, time.time())
    run.store.expire(at.asked)  # what is still open would teach nothing any more
    write_asked(run, at.asked, at.asked_at, config.rounds)
    return Trained(
        policy=now.used,
        reward=reward,
        fits=at.fits,
        pairs=told.pairs,
        counts=told.counts,
        reference=now.reference,
        episodes=at.episodes,
        tokens=at.tokens,
        updates=config.updates,
        given=parts.given,
    )


def next_questions(
    parts: Parts, config: AskSettings, now: Training, run: Run, asking: Asking | None = None
) -> list[Query]:
    """Sample answers of the policy and pair them up; in a run that repeats an earlier one, return what was asked there up to this round.

    It samples all the same: which prompts come next, and so what updates see, depends on it. The first round asks about answers of the
    policy that was started from, whatever a method asks its own for: so runs of one seed ask the same, by every method.
    """
    number = now.at.round
    sampled = now.used if number else now.reference
    asked = share(config.questions, config.rounds, number)
    drawn = 2 * asked * (asking.candidates if asking else 1)
    with run.progress.phase("sample answers to compare", total=drawn) as bar:
        rows = now.counted(parts.world.collect(sampled, drawn, stream(config.seed, "sample", number)))
        picked = choose(asking, rows, asked) if asking else [(place, "random") for place in range(asked)]
        items = parts.world.show(rows.select([2 * place + side for place, _ in picked for side in (0, 1)]))
        new = pair_up(items, parts.question, stream(config.seed, "order", number))
        new = [replace(query, reason=why) for query, (_, why) in zip(new, picked, strict=True)]
        bar.advance(drawn)
    return parts.overseer.come_up(number, config.rounds) if isinstance(parts.overseer, RecordedOverseer) else new


def pair_up(items: Sequence[Item], question: str, rng: np.random.Generator) -> list[Query]:
    """Make a question of every two items in a row; which is shown first is drawn, half and half exactly."""
    count = len(items) // 2
    swapped = rng.permutation(np.arange(count) % 2)
    orders = ((0, 1), (1, 0))
    return [
        Query(items=(items[2 * k], items[2 * k + 1]), question=question, order=orders[int(swapped[k])])
        for k in range(count)
    ]
