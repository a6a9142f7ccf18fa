"""Finished runs against each other: whose answers an overseer prefers, ratings, a paired test, and whether so many prompts can tell.

A comparison is a run as well: what was asked and answered is in its store, people judge by `backflip serve` on its folder, and a stopped
one is gone on with. Control runs are compared by the true return of the unseen episodes that they recorded; nobody is asked then.

Shapes: K prompts, N judgements.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from backflip.data import Estimate, Item, Judgement, Query
from backflip.errors import ConfigError, DataError
from backflip.experiments import experiment
from backflip.experiments.compare_parts import (
    BASE,
    Answered,
    Contestant,
    answered,
    arm_names,
    arms_of,
    contestants,
    unread,
)
from backflip.experiments.reviews_measures import QUESTION
from backflip.experiments.text import function_of
from backflip.loops.answers import gather
from backflip.loops.parts import stream
from backflip.measures.bradley_terry import Ratings, bradley_terry, cycles
from backflip.measures.diversity import distinct_n, ngrams, repetition
from backflip.measures.gold import stored_gold
from backflip.measures.head_to_head import Duel, Pair, duels_of_arms, duels_of_shares, duels_of_values
from backflip.measures.stats import mean_interval, share_interval
from backflip.overseers.function import FunctionOverseer
from backflip.overseers.people import PeopleOverseer
from backflip.overseers.synthetic import SyntheticTeacher, TeacherConfig
from backflip.overseers.terminal import TerminalOverseer
from backflip.protocols import Overseer
from backflip.worlds import reviews

if TYPE_CHECKING:
    from backflip.run import Run

RESULT = "head_to_head"
GOLD = {"reviews": lambda: reviews.assets() / "gold.safetensors"}
"""Experiments whose answers a gold judge can compare, and where it is."""
TIE_BELOW = 1e-9
"""Gold scores closer than this are a tie."""
SYNTHETIC, PEOPLE, TERMINAL = "synthetic", "people", "terminal"


@dataclass(frozen=True)
class CompareConfig:
    """Settings of a comparison."""

    of: tuple[Path, ...] = ()
    """Finished runs. Required: two or more."""
    overseer: str = ""
    """Who compares answers: synthetic (the gold judge of the runs' experiment, which errs in nothing), people, terminal, or
    FILE.py:FUNCTION, a function (prompt, a, b) -> probability that a is better, or None. Required but for control runs."""
    question: str = ""
    """What the overseer is asked; empty: what the first run asked."""
    prompts: Path | None = None
    """Prompts that all answer anew; none: those that no run was trained on, with the answers that the runs stored."""
    limit: int = 0
    """Prompts at most, drawn by lot; 0: all."""
    orders: Literal["half", "both"] = "half"
    """half: of each pair one half of the prompts is shown in one order, one in the other. both: every question is asked in both orders."""
    base: bool = False
    """The policy that the first run was trained from takes part too."""
    wait_seconds: float = float("inf")
    """How long answers are waited for; pairs that nobody judged by then count for nothing."""
    seed: int = 0
    """Of orders, of the prompts that are drawn, and of answers that are sampled anew."""

    def __post_init__(self) -> None:
        if self.limit < 0 or self.limit == 1 or not self.wait_seconds >= 0:
            raise ConfigError(
                f"limit {self.limit}, wait_seconds {self.wait_seconds}: expected 0 or two prompts and more, and 0 or more"
            )


@dataclass(frozen=True)
class Judged:
    """What came of asking."""

    share: dict[Pair, NDArray[np.float64]]
    """For each pair what the first won on every prompt; NaN where nobody could judge."""
    facts: dict[str, Any]


@experiment(config=CompareConfig)
def main(config: CompareConfig, run: Run) -> None:
    """Compare the policies of finished runs head to head, by an overseer of your choice (`backflip compare`)."""
    found = contestants(config.of, base=config.base)
    returns = [one.returns() for one in found]
    rng = stream(config.seed, "tests")
    if all(returns):
        if config.overseer not in ("", SYNTHETIC) or config.prompts is not None:
            raise ConfigError(
                "control runs are compared by the true return that they recorded; leave --overseer and --prompts out"
            )
        alike = {(a, b): _began_alike(found[a], found[b]) for a, b in combinations(range(len(found)), 2)}
        duels = duels_of_values(returns, alike, rng)
        value = {(one.first, one.second): one.difference.value for one in duels if one.difference is not None}
        means = [{"true_return": mean_interval(each)} for each in returns]
        facts: dict[str, Any] = {
            "judge": "the true return of unseen episodes",
            "unit": "episodes",
            "units": len(returns[0]),
        }
        write(found, duels, value, None, means, facts, run)
        return
    if any(returns):
        raise ConfigError(
            "some of these runs recorded true returns and some did not; compare runs that nothing but a setting tells apart"
        )
    overseer = overseer_of(config, found[0], run)
    said = _answers(config, found, run)
    judged = ask(found, said, overseer, config, run)
    duels = duels_of_shares(judged.share, rng)
    value = {(one.first, one.second): one.win_rate.value for one in duels}
    ratings = rate(judged.share, [one.name for one in found], run)
    write(found, duels, value, ratings, policies(found, said), judged.facts, run)
    run.samples(
        [{"prompt": text, **{one.name: said.answers[k][text] for k, one in enumerate(found)}} for text in said.prompts]
    )


def overseer_of(config: CompareConfig, first: Contestant, run: Run) -> Overseer:
    """Return who compares. There is no default judge.

    Raises:
        ConfigError: nobody is named, or no gold judge is known for the runs' experiment.
    """
    if not config.overseer:
        raise ConfigError(
            "say who compares: --overseer synthetic (the gold judge), people, terminal, or FILE.py:FUNCTION"
        )
    if config.overseer == SYNTHETIC:
        place = GOLD.get(first.record.experiment)
        if place is None:
            raise ConfigError(
                f"no gold judge is known for runs of {first.record.experiment}; give --overseer people, terminal or FILE.py:FUNCTION"
            )
        return SyntheticTeacher(run.store, stored_gold(place(), run.store), TeacherConfig(equal=TIE_BELOW))
    if config.overseer == PEOPLE:
        return PeopleOverseer(run.store)
    if config.overseer == TERMINAL:
        return TerminalOverseer(run.store)
    judge: Callable[..., Any] = function_of(config.overseer, "--overseer", "synthetic, people, terminal or ")
    return FunctionOverseer(run.store, judge, name=config.overseer)


def ask(found: Sequence[Contestant], said: Answered, overseer: Overseer, config: CompareConfig, run: Run) -> Judged:
    """Ask about every pair on every prompt, blind and with the orders in balance; equal answers are ties, and nobody is asked."""
    question = config.question or str(found[0].record.config.get("question") or QUESTION)
    items = [
        {text: Item(text, answers[text], {"prompt_text": text, "answer_text": answers[text]}, author=one.author) for text in said.prompts}
        for one, answers in zip(found, said.answers, strict=True)
    ]  # fmt: skip
    questions: list[Query] = []
    place: dict[str, tuple[Pair, int]] = {}
    identical = 0
    share = {pair: np.full(len(said.prompts), np.nan) for pair in combinations(range(len(found)), 2)}
    for first, second in share:
        swapped = stream(config.seed, f"order {first} {second}").permutation(np.arange(len(said.prompts)) % 2)
        for k, text in enumerate(said.prompts):
            if items[first][text].content.strip() == items[second][text].content.strip():
                share[first, second][k] = 0.5
                identical += 1
                continue
            orders = ((0, 1), (1, 0)) if config.orders == "both" else (((0, 1), (1, 0))[int(swapped[k])],)
            for repeat, order in enumerate(orders):
                pair = items[first][text], items[second][text]
                questions.append(Query(pair, question, order=order, repeat=repeat, reason="compare"))
                place[questions[-1].id] = (first, second), k
    if config.overseer == PEOPLE:
        run.progress.say(f"{len(questions):,} questions; people answer them at: backflip serve {run.path}")
    judgements = gather(overseer, questions, config, run)
    heard = _fill(share, place, judgements)
    answers = [one for one in judgements if one.answer is not None]
    if questions and not answers:
        alike = f" beyond {identical:,} pairs of equal answers" if identical else ""
        raise DataError(
            f"nobody judged any of {len(questions):,} questions, so nothing can be compared{alike}; ask again with: backflip run --resume {run.path}"
        )
    shown = {query.id: query.order for query in questions}
    first_shown = share_interval(
        [one.answer[shown[one.query_id][0]] for one in answers if one.answer is not None],
        [place[one.query_id][1] for one in answers],
    ) if answers else None  # fmt: skip
    facts = {
        "judge": _judge_words(config, found[0]),
        "question": question,
        "unit": "prompts",
        "units": len(said.prompts),
        "orders": config.orders,
        "asked": len(questions),
        "answered": heard,
        "could_not_judge": len({one.query_id for one in judgements if one.answer is None}),
        "identical": identical,
        "first_shown": first_shown,
    }
    return Judged(share, facts)


def rate(share: Mapping[Pair, NDArray[np.float64]], names: Sequence[str], run: Run) -> Ratings | None:
    """Return Bradley-Terry ratings over all pairs; None, with a note that says why, where there are none."""
    rows = [
        (a, b, k, float(s)) for (a, b), share_K in share.items() for k, s in enumerate(share_K) if not math.isnan(s)
    ]
    try:
        return bradley_terry(
            [row[0] for row in rows],
            [row[1] for row in rows],
            [row[3] for row in rows],
            names,
            [row[2] for row in rows],
        )
    except DataError as error:
        run.note(f"no ratings: {error}")
        return None


def policies(found: Sequence[Contestant], said: Answered) -> list[dict[str, Estimate]]:
    """Return KL, diversity and length of every policy: KL as its run measured it, diversity on these answers, on as many words of each."""
    texts = [[answers[text] for text in said.prompts] for answers in said.answers]
    limit = min(sum(len(ngrams(text, 2)) for text in each) for each in texts)
    rows: list[dict[str, Estimate]] = []
    for one, each, anew in zip(found, texts, said.measured or [{} for _ in found], strict=True):
        kept = {name: one.row().get(name) for name in ("kl_nats_per_sequence", "length_tokens")}
        row = {
            name: anew.get(name) or (Estimate(**value) if isinstance(value, dict) else None)
            for name, value in kept.items()
        }
        row |= {"distinct2": distinct_n(each, limit=limit) if limit else None, "repetition": repetition(each)}
        rows.append({name: value for name, value in row.items() if value is not None})
    return rows


def write(
    found: Sequence[Contestant],
    duels: Sequence[Duel],
    value: Mapping[Pair, float],
    ratings: Ratings | None,
    measured: Sequence[Mapping[str, Estimate]],
    facts: Mapping[str, Any],
    run: Run,
) -> None:
    """Write the result, its estimates, and what a reader must know."""
    for said in unread(found):
        run.note(said)
    names = [one.name for one in found]
    arms = arms_of(found)
    share = facts["unit"] == "prompts"
    over = duels_of_arms(value, arms, [one.seed for one in found], share=share)
    beats = np.zeros((len(found), len(found)), dtype=bool)
    for one in duels:
        won = one.win_rate.value > 0.5 if one.difference is None else one.difference.value > 0
        beats[(one.first, one.second) if won else (one.second, one.first)] = one.told
    rated = None if ratings is None else [ratings.of(k) for k in range(len(found))]
    run.result(
        RESULT,
        {
            **facts,
            "policies": [
                {
                    "name": one.name,
                    "run": str(one.record.path),
                    "series": one.series,
                    "seed": one.seed,
                    "measured": dict(row),
                }
                for one, row in zip(found, measured, strict=True)
            ],
            "duels": [
                {**_plain(one), "by_ratings": None if ratings is None else ratings.chance(one.first, one.second)}
                for one in duels
            ],
            "ratings": rated,
            "cycles": [[names[k] for k in each] for each in cycles(beats)],
            "arms": [{"name": name, "policies": arm} for name, arm in zip(arm_names(found, arms), arms, strict=True)],
            "arm_duels": [_plain(one) for one in over],
            "different_bases": _different_bases(found),
        },
    )
    for one in duels:
        said = f"{names[one.first]} against {names[one.second]}"
        run.estimate(f"{said}: win_rate", one.win_rate)
        if one.difference is not None:
            run.estimate(f"{said}: difference of true_return", one.difference)
    for name, one in zip(names, rated or [], strict=False):
        if math.isfinite(one.low):
            run.estimate(f"{name}: rating", one)


def _answers(config: CompareConfig, found: Sequence[Contestant], run: Run) -> Answered:
    """Return all answers; those of a comparison that is gone on with are the ones that it began with."""
    kept = run.load_state()
    if kept is not None:
        measured = [{name: Estimate(*value) for name, value in row.items()} for row in kept["measured"]]
        return Answered(kept["prompts"], kept["answers"], kept["sampled"], measured)
    with run.progress.phase("read stored answers, sample the others"):
        said = answered(found, config.prompts, config.limit, config.seed)
    rows = [{name: [one.value, one.low, one.high, one.n] for name, one in row.items()} for row in said.measured]
    state = {"prompts": said.prompts, "answers": said.answers, "sampled": said.sampled, "measured": rows}
    run.save_state("answers", state)
    return said


def _fill(
    share: Mapping[Pair, NDArray[np.float64]], place: Mapping[str, tuple[Pair, int]], judgements: Sequence[Judgement]
) -> int:
    """Put in what was judged: the mean over orders, and over people within an order; return how many questions were."""
    heard: dict[str, list[float]] = {}
    for one in judgements:
        if one.answer is not None:
            heard.setdefault(one.query_id, []).append(one.answer[0])
    by_prompt: dict[tuple[Pair, int], list[float]] = {}
    for query, answers in heard.items():
        by_prompt.setdefault(place[query], []).append(float(np.mean(answers)))
    for (pair, k), each in by_prompt.items():
        share[pair][k] = float(np.mean(each))
    return len(heard)


def _began_alike(one: Contestant, other: Contestant) -> bool:
    return one.seed == other.seed and len(one.returns()) == len(other.returns())


def _judge_words(config: CompareConfig, first: Contestant) -> str:
    words = {
        SYNTHETIC: f"the gold judge of {first.record.experiment}, which errs in nothing",
        PEOPLE: "people",
        TERMINAL: "a person",
    }
    return words.get(config.overseer, f"the function {config.overseer}")


def _different_bases(found: Sequence[Contestant]) -> bool:
    return len({str(one.record.config.get("policy")) for one in found if one.series != BASE}) > 1


def _plain(one: Duel) -> dict[str, Any]:
    return {**asdict(one), "win_rate": one.win_rate, "difference": one.difference, "told": one.told}
