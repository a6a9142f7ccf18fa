"""What talking about a pair changes: agreement of the same people on the same pairs, before they saw each other's answers and after.

Pairs are talked about because people disagreed, so agreement before is low by choice of the pairs: what is said here is about such
pairs and not about all. Leaves out agreement on all pairs (`judges`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from backflip.data import Estimate
from backflip.measures.judges import Said, alpha, together
from backflip.measures.stats import share_difference


@dataclass(frozen=True)
class Talk:
    """Agreement before and after. None: too few to say."""

    pairs: int
    """Pairs on which two people or more answered both before and after."""
    before: Estimate | None
    after: Estimate | None
    gain: Estimate | None
    """After less before, on the same pairs."""
    alpha_before: Estimate | None
    why_no_alpha_before: str
    alpha_after: Estimate | None
    why_no_alpha_after: str


def talk(before: Sequence[Said], after: Sequence[Said]) -> Talk:
    """Compare what the same people chose on the same pairs before and after a talk; who said only one of the two is left out.

    Agreement of a pair is the mean over all two people, ties counted as everywhere; the unit of an interval is the pair.
    """
    both = {(one.pair, one.judge) for one in before} & {(one.pair, one.judge) for one in after}
    kept = {pair for pair, people in Counter(pair for pair, _ in both).items() if people > 1}
    early, late = (
        [one for one in each if one.pair in kept and (one.pair, one.judge) in both] for each in (before, after)
    )
    was, now = together(early), together(late)
    # The spread of the differences alone would leave no width where two people talk: all of their pairs begin at 0.
    gain = None if was is None or now is None else share_difference(now, was, len(kept))
    return Talk(len(kept), was, now, gain, *alpha(early), *alpha(late))
