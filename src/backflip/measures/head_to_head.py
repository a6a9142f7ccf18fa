"""Who beats whom, by how much, and whether this many prompts, episodes or seeds can tell.

A duel is a pair of policies on the same units. Its verdict is a test's, held to more the more duels there are (Holm 1979), never the look
of an interval; where it cannot tell, the number of units that might is named, for a test held to as much. Left out: where judgements come from.

Shapes: K units (prompts or episodes).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike

from backflip.data import Estimate
from backflip.errors import DataError
from backflip.measures.paired import FEWEST_SEEDS, LEVEL, holm, sign_flip_test, student_test, units_to_tell
from backflip.measures.stats import finite, mean_interval, share_interval
from backflip.measures.unpaired import share_above, welch
from backflip.measures.win_rate import wins

Pair = tuple[int, int]


@dataclass(frozen=True)
class Duel:
    """One pair of policies."""

    first: int
    second: int
    win_rate: Estimate
    """Share that the first won, ties one half."""
    ties: float
    """Share of units that were a tie."""
    p: float
    """Two-sided, of this duel alone."""
    needed: int | None
    """Units that would tell a difference of the size seen as the hardest to be told of all duels (Bonferroni); None: none was seen."""
    p_of_all: float = 1.0
    """The same, raised for the number of duels."""
    difference: Estimate | None = None
    """first - second in the units of what was measured (a return); None where only wins are known."""
    paired: bool = True
    """False: the two were measured on unlike units."""
    units: int = 0
    """Units that it rests on; of two measured on unlike ones, those of the one with fewer."""
    fewest: int = 0
    """Units from which on it can be told."""
    lowest: float | None = None
    """Of the seeds, in a duel of arms: the least that the first won, or by which it was more."""
    highest: float | None = None
    """The most."""

    @property
    def told(self) -> bool:
        """Whether the two are told apart."""
        return self.p_of_all <= LEVEL and self.units >= self.fewest


def duels_of_shares(shares: Mapping[Pair, ArrayLike], rng: np.random.Generator) -> list[Duel]:
    """Return a duel for each pair from what its first won on every unit, in [0, 1]; a unit that nobody could judge is NaN.

    Raises:
        DataError: a pair has no unit that somebody judged.
    """
    found: list[Duel] = []
    for (first, second), share in shares.items():
        all_K = np.asarray(share, dtype=np.float64)
        share_K = finite(all_K[~np.isnan(all_K)], f"judged units of the pair {first}, {second}")
        gap_K = share_K - 0.5
        ties = float((share_K == 0.5).mean())
        p = sign_flip_test(gap_K, rng)
        needed = units_to_tell(gap_K, level=LEVEL / len(shares))
        found.append(Duel(first, second, share_interval(share_K), ties, p, needed, units=len(share_K)))
    return _together(found)


def duels_of_values(values: Sequence[ArrayLike], paired: Mapping[Pair, bool], rng: np.random.Generator) -> list[Duel]:
    """Return the duels of policies that were each measured by numbers, such as returns of episodes.

    `paired[a, b]`: whether the two began alike, value by value; then differences are taken so, else as `unpaired.welch` does.

    Raises:
        DataError: a policy has fewer than two values, or a paired one another number of them.
    """
    measured = [finite(one, "values of a policy") for one in values]
    if min(len(one) for one in measured) < 2:
        raise DataError("a policy was measured once; expected two values or more of each")
    found: list[Duel] = []
    pairs = list(combinations(range(len(measured)), 2))
    level = LEVEL / max(1, len(pairs))
    for first, second in pairs:
        ours, theirs = measured[first], measured[second]
        if paired[first, second]:
            gap_K = ours - theirs if len(ours) == len(theirs) else finite([], "values in common")
            won_K = wins(ours, theirs)
            one = Duel(
                first,
                second,
                share_interval(won_K),
                float((won_K == 0.5).mean()),
                sign_flip_test(gap_K, rng),
                units_to_tell(gap_K, level=level),
                difference=mean_interval(gap_K),
                units=len(gap_K),
            )
        else:
            test, ties = welch(ours, theirs, rng, level), float((ours[:, None] == theirs[None, :]).mean())
            one = Duel(
                first,
                second,
                share_above(ours, theirs),
                ties,
                test.p,
                test.needed,
                difference=test.difference,
                paired=False,
                units=test.difference.n,
            )
        found.append(one)
    return _together(found)


def duels_of_arms(
    value: Mapping[Pair, float], arms: Sequence[Sequence[int]], seeds: Sequence[int | None], *, share: bool
) -> list[Duel]:  # fmt: skip
    """Return the duels of arms, each a set of runs that differ in the seed alone, over the seeds that two arms share.

    `value[a, b]`: what a won of b, or by how much it was more (`share` False; the win rate is then over seeds). Arms with fewer than
    two seeds in common have no duel, and with fewer than FEWEST_SEEDS none is told. The test is Student's, as the interval is.
    """
    shared: dict[Pair, list[Pair]] = {}
    for first, second in combinations(range(len(arms)), 2):
        theirs = {seeds[run]: run for run in arms[second]}
        pairs = [(run, theirs[seeds[run]]) for run in arms[first] if seeds[run] in theirs]
        if len(pairs) >= 2:
            shared[first, second] = pairs
    found: list[Duel] = []
    for (first, second), pairs in shared.items():
        value_K = np.array([_of(value, a, b, share=share) for a, b in pairs])
        gap_K = value_K - 0.5 if share else value_K
        won_K = value_K if share else wins(gap_K, np.zeros(len(gap_K)))
        needed = units_to_tell(gap_K, FEWEST_SEEDS, LEVEL / len(shared))
        ties = float((gap_K == 0).mean())
        one = Duel(
            first,
            second,
            share_interval(won_K),
            ties,
            student_test(gap_K),
            needed,
            fewest=FEWEST_SEEDS,
            units=len(pairs),
            lowest=float(value_K.min()),
            highest=float(value_K.max()),
        )
        found.append(one if share else replace(one, difference=mean_interval(gap_K)))
    return _together(found)


def _of(value: Mapping[Pair, float], a: int, b: int, *, share: bool) -> float:
    if (a, b) in value:
        return value[a, b]
    return 1 - value[b, a] if share else -value[b, a]


def _together(found: list[Duel]) -> list[Duel]:
    raised = holm([one.p for one in found])
    return [_more(replace(one, p_of_all=p)) for one, p in zip(found, raised, strict=True)]


def _more(one: Duel) -> Duel:
    """Ask for more units than did not tell: a test that draws lots may need a few more than the formula says."""
    return one if one.told or one.needed is None else replace(one, needed=max(one.needed, one.units + 1))
