"""Which checkpoints of a run stay on the disk: the newest few and the best few of each series.

Leaves out writing and removing them: see `backflip.run`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class KeepRule:
    """Which checkpoints of a series stay on the disk; all others are removed as soon as a newer one is whole."""

    last: int = 2
    """How many of the newest; at least the one just written stays."""
    best: int = 1
    """How many of those with the highest score, besides."""


@dataclass(frozen=True)
class Kept:
    """One checkpoint that is on the disk."""

    series: str
    step: int
    score: float | None

    @property
    def name(self) -> str:
        """The folder's name."""
        return f"{self.series}-{self.step}"


def keep_after(kept: Sequence[Kept], new: Kept, rule: KeepRule) -> tuple[list[Kept], list[Kept]]:
    """Return what stays and what goes once `new` is whole; other series are left alone, an equal step is replaced."""
    others = [one for one in kept if one.series != new.series]
    series = [one for one in kept if one.series == new.series and one.step != new.step]
    series = sorted([*series, new], key=lambda one: one.step)
    best = sorted((one for one in series if one.score is not None), key=lambda one: (-(one.score or 0.0), one.step))
    stay = {one.step for one in [new, *series[max(0, len(series) - rule.last) :], *best[: rule.best]]}
    return others + [one for one in series if one.step in stay], [one for one in series if one.step not in stay]
