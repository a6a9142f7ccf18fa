"""What people said in a store, as the measures of `judges` want it, and what each person's answers weigh in a fit.

The page of qualities and the fit of a reward read the same numbers here. Left out: the measures themselves.
"""

from __future__ import annotations

from collections.abc import Collection

from backflip.measures.judges import Said, noise, weights
from backflip.store import Store
from backflip.store.judged import Judged, judged_by_people


def said_of(one: Judged) -> Said:
    """Return what a measure needs of a judgement."""
    assert one.judgement.answer is not None
    lengths = [len(item.content) for item in one.query.items]
    gap = lengths[one.first] - lengths[1 - one.first]
    texts = all(item.media == "text" for item in one.query.items)
    return Said(
        judge=one.judgement.judge,
        pair=one.pair,
        choice=one.choice(one.judgement.answer),
        left_is_first=one.shown[0] == one.first,
        seconds=one.judgement.seconds,
        at=one.judgement.created,
        known=None if one.known is None else one.choice(one.known),
        easy=one.easy,
        again=one.again,
        longer=0 if not texts or gap == 0 else 1 if gap > 0 else -1,
    )


def weights_of_people(store: Store, without: Collection[str] = ()) -> dict[str, float]:
    """Return what everybody's answers weigh in a fit, from all that people said in this store by themselves, but those in `without`."""
    told = [one for one in judged_by_people(store) if one.judgement.judge not in without]
    return weights(noise([said_of(one) for one in told if one.judgement.answer is not None]))
