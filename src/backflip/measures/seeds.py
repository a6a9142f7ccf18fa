"""What several seeds of a method came to: the mean with its interval, the worst and the best of them, and differences seed by seed.

Users differ in which matters: who may choose among n runs has the best, who must take what comes has the mean, and who cannot afford
a failure has the worst. Arms share their seeds, so differences are paired; where several arms are held against the first, verdicts are
raised for their number. Left out: what the arms mean.

Shapes: K seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from backflip.data import Estimate
from backflip.errors import DataError
from backflip.measures.paired import FEWEST_SEEDS, LEVEL, holm, student_test, units_to_tell
from backflip.measures.stats import mean_interval, share_interval

WIN_RATES = ("win_rate", "win_rate_by_overseer", "win_rate_by_preference")
HIGHER = (
    *(*WIN_RATES, "return", "accuracy", "agreement", "agreement_with_gold", "correlation_with_truth", "lead"),
    *("distinct2_ratio", "distinct2", "rating", "gold"),
)
LOWER = ("loss", "ece", "nats_per_token", "repetition")
LEADING = ("gold_win_rate", *WIN_RATES, "true_return", "kl_nats_per_sequence", "distinct2_ratio")
"""Endings of the measures that are read first, in this order."""
SHARES = (
    *WIN_RATES,
    "accuracy",
    "agreement",
    "agreement_with_gold",
    "ceiling",
    "repetition",
    "distinct2",
    "share",
    "fraction",
)
"""Endings of measures that are shares of one: their intervals end at 0 and 1."""
NOT_BELOW_0 = (
    "kl_nats_per_sequence",
    "kl_nats",
    "kl_bound_nats",
    "entropy_nats",
    "nats_per_token",
    "length_tokens",
    "distinct2_ratio",
)
"""Endings of measures that nothing is below 0 in: neither are their intervals."""


@dataclass(frozen=True)
class OverSeeds:
    """One measure of one arm over its seeds."""

    mean: Estimate
    """With n 0 and no interval where there is one seed."""
    lowest: float
    highest: float
    values: Mapping[int, float]
    """By seed."""


@dataclass(frozen=True)
class SeedDifference:
    """An arm less the first one, on the seeds that both have."""

    difference: Estimate
    p: float
    """Two-sided, Student's, as the interval is."""
    needed: int | None
    """Seeds that would tell a difference of this size, held to as much as the hardest of all arms (Bonferroni); None: no number would."""
    p_of_all: float
    """The same p, raised for the number of arms that are held against the first (Holm 1979)."""

    @property
    def told(self) -> bool:
        """Whether these seeds tell the two apart: they are FEWEST_SEEDS or more, and p, raised for the number of arms, is at most LEVEL."""
        return self.difference.n >= FEWEST_SEEDS and self.p_of_all <= LEVEL


def over_seeds(values: Mapping[int, float], name: str) -> OverSeeds:
    """Return what an arm's seeds came to; `name` says whether the measure is a share, whose interval ends at 0 and 1.

    Raises:
        DataError: there is no seed, or a value is not finite.
    """
    if not values:
        raise DataError(f'no seed measured "{name}"; expected at least one')
    value_K = np.array(list(values.values()), dtype=np.float64)
    if len(value_K) == 1:
        mean = Estimate(float(value_K[0]), float(value_K[0]), float(value_K[0]), 0)
    elif name.endswith(SHARES) and value_K.min() >= 0 and value_K.max() <= 1:
        mean = share_interval(value_K)
    else:
        mean = mean_interval(value_K)
        if name.endswith(NOT_BELOW_0) and value_K.min() >= 0:
            mean = replace(mean, low=max(0.0, mean.low))
    return OverSeeds(mean, float(value_K.min()), float(value_K.max()), dict(values))


def seed_difference(first: Mapping[int, float], other: Mapping[int, float]) -> SeedDifference | None:
    """Return other - first over the seeds that both have, a comparison by itself; None for fewer than two."""
    return arm_differences(first, {"": other}).get("")


def arm_differences(first: Mapping[int, float], others: Mapping[str, Mapping[int, float]]) -> dict[str, SeedDifference]:
    """Return every other arm less the first, over the seeds that the two share; an arm with fewer than two of them is left out.

    They are one family: p is raised for their number (Holm 1979), and so is what is needed.
    """
    gaps = {
        name: np.array([other[seed] - first[seed] for seed in first if seed in other]) for name, other in others.items()
    }
    gaps = {name: gap_K for name, gap_K in gaps.items() if len(gap_K) >= 2}
    p = [student_test(gap_K) for gap_K in gaps.values()]
    found: dict[str, SeedDifference] = {}
    for (name, gap_K), alone, raised in zip(gaps.items(), p, holm(p), strict=True):
        needed = units_to_tell(gap_K, FEWEST_SEEDS, LEVEL / len(gaps))
        found[name] = SeedDifference(mean_interval(gap_K), alone, needed, raised)
    return found


def varying(measures: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """Return the measures (by name, then arm, each with its `values` by seed) that arms differ in, or seeds where there is one arm.

    The leading ones come first. What a setting does not touch, such as the base that all began with, is left out.
    """
    differs = [name for name, by_arm in measures.items() if _differs([row["values"] for row in by_arm.values()])]
    return sorted(differs, key=lambda name: (_lead(name), not name.startswith(("ppo", "policy"))))


def _differs(by_arm: Sequence[Mapping[str, float]]) -> bool:
    if len(by_arm) == 1:
        return len(set(by_arm[0].values())) > 1
    return any(len({values[seed] for values in by_arm if seed in values}) > 1 for values in by_arm for seed in values)


def _lead(name: str) -> int:
    return next((place for place, end in enumerate(LEADING) if name.endswith(end)), len(LEADING))


def higher_is_better(name: str) -> bool | None:
    """Return whether more of a measure is better, or less (False); None where neither is by itself, as with KL."""
    if name.endswith(HIGHER):
        return True
    return False if name.endswith(LOWER) else None
