"""Who beats whom, by how much, and whether this many prompts, episodes or seeds can tell.

A duel is a pair of policies on the same units. Its verdict is a test's, held to more the more duels there are (Holm 1979), never the look
of an interval; where it cannot tell, the number of units that might is named. Left out: where judgements come from.

Shapes: K units (prompts or episodes), N and M values of two policies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from backflip.data import Estimate
from backflip.errors import DataError
from backflip.measures.paired import FEWEST_SEEDS, POWER, holm, sign_flip_test, student_test, units_to_tell
from backflip.measures.stats import Z_95, finite, mean_interval, permutation_test, share_interval, wilson
from backflip.measures.win_rate import wins

LEVEL = 0.05
"""A duel is told apart where its p-value, raised for the number of duels, is at most this."""
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
    """Units that would tell a difference of the size seen, in a duel by itself; None: none was seen."""
    p_of_all: float = 1.0
    """The same, raised for the number of duels."""
    difference: Estimate | None = None
    """first - second in the units of what was measured (a return); None where only wins are known."""
    paired: bool = True
    """False: the two were measured on unlike units."""
    units: int = 0
    """Units that it rests on, where fewer than `fewest` tell nothing."""
    fewest: int = 0
    """Units from which on it can be told."""

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
        found.append(Duel(first, second, share_interval(share_K), ties, p, units_to_tell(gap_K)))
    return _together(found)


def duels_of_values(values: Sequence[ArrayLike], paired: Mapping[Pair, bool], rng: np.random.Generator) -> list[Duel]:
    """Return the duels of policies that were each measured by numbers, such as returns of episodes.

    `paired[a, b]`: whether the two began alike, value by value; then differences are taken so, else Welch's interval and a permutation test.

    Raises:
        DataError: a policy has fewer than two values, or a paired one another number of them.
    """
    measured = [finite(one, "values of a policy") for one in values]
    if min(len(one) for one in measured) < 2:
        raise DataError("a policy was measured once; expected two values or more of each")
    found: list[Duel] = []
    for first, second in combinations(range(len(measured)), 2):
        ours_N, theirs_M = measured[first], measured[second]
        if paired[first, second]:
            gap_K = ours_N - theirs_M if len(ours_N) == len(theirs_M) else finite([], "values in common")
            won_K = wins(ours_N, theirs_M)
            one = Duel(
                first,
                second,
                share_interval(won_K),
                float((won_K == 0.5).mean()),
                sign_flip_test(gap_K, rng),
                units_to_tell(gap_K),
                difference=mean_interval(gap_K),
            )
        else:
            one = _unpaired(first, second, ours_N, theirs_M, rng)
        found.append(one)
    return _together(found)


def duels_of_arms(
    value: Mapping[Pair, float], arms: Sequence[Sequence[int]], seeds: Sequence[int | None], *, share: bool
) -> list[Duel]:  # fmt: skip
    """Return the duels of arms, each a set of runs that differ in the seed alone, over the seeds that two arms share.

    `value[a, b]`: what a won of b, or by how much it was more (`share` False; the win rate is then over seeds). Arms with fewer than
    two seeds in common have no duel, and with fewer than FEWEST_SEEDS none is told. The test is Student's, as the interval is.
    """
    found: list[Duel] = []
    for first, second in combinations(range(len(arms)), 2):
        theirs = {seeds[run]: run for run in arms[second]}
        pairs = [(run, theirs[seeds[run]]) for run in arms[first] if seeds[run] in theirs]
        if len(pairs) < 2:
            continue
        value_K = np.array([_of(value, a, b, share=share) for a, b in pairs])
        gap_K = value_K - 0.5 if share else value_K
        won_K = value_K if share else wins(gap_K, np.zeros(len(gap_K)))
        needed = units_to_tell(gap_K, FEWEST_SEEDS)
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
        )
        found.append(one if share else replace(one, difference=mean_interval(gap_K)))
    return _together(found)


def _of(value: Mapping[Pair, float], a: int, b: int, *, share: bool) -> float:
    if (a, b) in value:
        return value[a, b]
    return 1 - value[b, a] if share else -value[b, a]


def _together(found: list[Duel]) -> list[Duel]:
    raised = holm([one.p for one in found])
    return [replace(one, p_of_all=p) for one, p in zip(found, raised, strict=True)]


def _unpaired(
    first: int, second: int, ours_N: NDArray[np.float64], theirs_M: NDArray[np.float64], rng: np.random.Generator
) -> Duel:
    """Compare independent values: Mann and Whitney's win rate with DeLong's error (1988), Welch's difference, a permutation test."""
    won_NM = wins(ours_N[:, None], theirs_M[None, :])
    n, m = won_NM.shape
    rate = float(won_NM.mean())
    error = math.sqrt(float(won_NM.mean(1).var(ddof=1)) / n + float(won_NM.mean(0).var(ddof=1)) / m)
    reach = float(special.stdtrit(min(n, m) - 1, 0.975)) * error
    win_rate = Estimate(rate, max(0.0, rate - reach), min(1.0, rate + reach), min(n, m))
    if error == 0:  # all alike do not prove that all others are
        win_rate = wilson(rate * min(n, m), min(n, m))
    gap = float(ours_N.mean() - theirs_M.mean())
    parts = float(ours_N.var(ddof=1)) / n, float(theirs_M.var(ddof=1)) / m
    spread = sum(parts)
    freedom = spread**2 / (parts[0] ** 2 / (n - 1) + parts[1] ** 2 / (m - 1)) if spread > 0 else float(n + m - 2)
    wide = float(special.stdtrit(freedom, 0.975)) * math.sqrt(spread)
    total = float(ours_N.var(ddof=1) + theirs_M.var(ddof=1))
    z = Z_95 + float(special.ndtri(POWER))
    return Duel(
        first,
        second,
        win_rate,
        float((won_NM == 0.5).mean()),
        permutation_test(ours_N.tolist(), theirs_M.tolist(), rng, "two-sided", draws=4000),
        None if gap == 0 else max(2, math.ceil(z**2 * total / gap**2)),
        difference=Estimate(gap, gap - wide, gap + wide, min(n, m)),
        paired=False,
    )
