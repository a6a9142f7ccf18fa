"""What the weights of people change where no run was made: the simplest reward, a bag of words, fitted to the judgements of a store with
the weights and with everybody alike, and held against answers that neither fit saw.

A study of texts alone can be told so without a model; of clips a run says it (`results/weighting.json`). Leaves out how the weights are
estimated (`judges`), and the fit (`rewards.baselines`).

Shapes: N held-out comparisons, P comparisons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from backflip.data import Estimate
from backflip.measures.agreement import accuracy
from backflip.measures.judges import ENOUGH, noise, weights
from backflip.measures.people import said_of
from backflip.measures.stats import mean_interval
from backflip.rewards.baselines import fit_bag_of_words
from backflip.rewards.comparisons import Comparison
from backflip.store import Store
from backflip.store.desk import STUDY
from backflip.store.judged import Judged, choice_of, judged_by_people, purpose_of
from backflip.store.pair_lines import is_pair
from backflip.store.study import StudyBook

FOLDS = 5
LEAST_ANSWERS = 50
"""Decided answers below which no reward is fitted."""


@dataclass(frozen=True)
class Versus:
    """Accuracy, on the same answers, of a reward that was fitted with the weights and of one on which all weigh the same."""

    weighted: Estimate
    equal: Estimate
    gain: Estimate | None
    """Weighted less equal; None: both order every one of them alike."""


@dataclass(frozen=True)
class Weighting:
    """What the weights changed."""

    answers: int
    """Answers of the study to which both were fitted, each in all folds but one."""
    held: Versus
    """On the study's own answers to prompts that were kept from the fit. They all count alike, so what careless people said there is
    held against the better reward too."""
    known: Versus | None
    """On known answers, after a fit to all other prompts; None: too few of them."""
    changed: dict[str, float]
    """As `what_weighting_changed`, over the answers of `held`."""


def weighting_of_study(store: Store) -> Weighting | str:
    """Fit a bag of words twice, on all prompts but a fifth in turn, and test it on that fifth; in words where it cannot be said.

    Weights are estimated anew without the answers to the prompts that a fold holds out, so that nothing of these reaches a fit. Known
    answers are tested after a fit to all prompts but theirs. Intervals are clustered by prompt.
    """
    judged = [one for one in judged_by_people(store) if one.judgement.answer is not None and is_pair(one.query)]
    study = [one for one in judged if purpose_of(one.judgement) == STUDY]
    if not study:
        return "no two texts that answer one prompt were judged; of clips a run's own report says it"
    if len({one.judgement.judge for one in study}) < 2:
        return "one person judged: there is nobody to weigh them against"
    decided, prompts = _decided(study), sorted({_prompt(one) for one in study})
    if decided < LEAST_ANSWERS or len(prompts) < ENOUGH:
        few = f"{decided} decided answers on {len(prompts)} prompts"
        return f"too few to say: {few}; {LEAST_ANSWERS} on {ENOUGH} are needed"
    order = np.random.default_rng(0).permutation(len(prompts))
    held, weighted_N, equal_N = list[Comparison](), list[float](), list[float]()
    for fold in range(FOLDS):
        out = {prompts[number] for number in order[fold::FOLDS]}
        test = _pairs([one for one in study if _prompt(one) in out])
        one_N, other_N = _leads([one for one in judged if _prompt(one) not in out], test)
        held, weighted_N, equal_N = held + test, weighted_N + one_N, equal_N + other_N
    return Weighting(
        len(study),
        _versus(held, weighted_N, equal_N),
        _on_known(store, judged),
        what_weighting_changed(weighted_N, equal_N),
    )


def what_weighting_changed(weighted_P: ArrayLike, equal_P: ArrayLike) -> dict[str, float]:
    """Return how two rewards differ that were fitted alike but for the weights, on the same comparisons.

    `weighted_P`, `equal_P`: by how much each prefers the first item. `correlation` of the two (0 where one says the same of all);
    `turned`, the share of comparisons of which they prefer different items; `comparisons`, how many there are.
    """
    a_P, b_P = (np.asarray(part, dtype=np.float64) for part in (weighted_P, equal_P))
    spread = float(a_P.std() * b_P.std())
    together = float(((a_P - a_P.mean()) * (b_P - b_P.mean())).mean())
    return {
        "correlation": together / spread if spread > 0 else 0.0,
        "turned": float((np.sign(a_P) != np.sign(b_P)).mean()),
        "comparisons": float(len(a_P)),
    }


def _on_known(store: Store, judged: Sequence[Judged]) -> Versus | None:
    known = [one for one in StudyBook(store).known() if is_pair(one.query) and choice_of(one.answer)]
    prompts = {one.query.items[0].prompt for one in known}
    fitted = [one for one in judged if _prompt(one) not in prompts]
    if len(prompts) < ENOUGH or _decided([one for one in fitted if purpose_of(one.judgement) == STUDY]) < LEAST_ANSWERS:
        return None
    test = [Comparison(one.query.items[0], one.query.items[1], one.answer[0]) for one in known]
    # The checks themselves say who is often right: the weights may know them, the fit does not.
    return _versus(test, *_leads(fitted, test, judged))


def _leads(
    inside: Sequence[Judged], test: Sequence[Comparison], known: Sequence[Judged] = ()
) -> tuple[list[float], list[float]]:
    """Return by how much a reward prefers the first of each of `test`, fitted with weights and without, to what is `inside` for the study.

    Weights come from `known`, from all that is inside where it is empty.
    """
    weight = weights(noise([said_of(one) for one in known or inside]))
    fitted = [one for one in inside if purpose_of(one.judgement) == STUDY]
    first, second = (fit_bag_of_words(_pairs(fitted, each)).delta(test).tolist() for each in (weight, {}))
    return first, second


def _versus(test: Sequence[Comparison], weighted_N: Sequence[float], equal_N: Sequence[float]) -> Versus:
    """Hold two rewards against the same answers; of two scores that are equal half counts as right."""
    prompts = {prompt: number for number, prompt in enumerate(dict.fromkeys(one.first.prompt for one in test))}
    group_N, share_N = [prompts[one.first.prompt] for one in test], [one.share for one in test]
    side_N = np.sign(np.asarray(share_N) - 0.5)
    gap_N = (np.sign(weighted_N) - np.sign(equal_N)) * side_N / 2
    gain = mean_interval(gap_N[side_N != 0], np.asarray(group_N)[side_N != 0]) if gap_N.any() else None
    return Versus(accuracy(weighted_N, share_N, group_N), accuracy(equal_N, share_N, group_N), gain)


def _decided(judged: Sequence[Judged]) -> int:
    return sum(choice_of(one.judgement.answer) != 0 for one in judged if one.judgement.answer)


def _prompt(one: Judged) -> str:
    return one.query.items[0].prompt


def _pairs(judged: Sequence[Judged], weight: dict[str, float] | None = None) -> list[Comparison]:
    found: list[Comparison] = []
    for one in judged:
        told, items = one.judgement, one.query.items
        assert told.answer is not None
        strength = told.strength * (weight or {}).get(told.judge, 1.0)
        found.append(Comparison(items[0], items[1], told.answer[0], strength))
    return found
