"""What the numbers of a labeling study say about how far to trust it: sentences decided by rules over intervals.

| finding | rule |
|---|---|
| people agree beyond chance | the interval of Krippendorff's alpha lies above 0 |
| somebody misses known answers | the interval of their agreement with known answers lies below the trial's pass rule |
| somebody prefers a side | the interval of how often they chose the left leaves out one half |
| somebody drifts | the interval of their drift leaves out 0 |
| skipped | more than one judgement in twenty is "can't tell" |
| overlap | as many people as the study asks for judged every question |

Leaves out the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from backflip.measures.judges import Worth, together
from backflip.report.headline import Finding
from backflip.report.study_tables import Read
from backflip.report.wording import show, show_interval
from backflip.store.desk import STUDY

MANY_SKIPPED = 0.05
BY_LUCK = 20
"""One 95 % interval in so many leaves the truth out."""


def headline(read: Read) -> str:
    """Return what was judged and how people agree, in a sentence or two."""
    count = len({one.judge for one in read.totals.standing})
    pairs = len({one.query_id for one in read.totals.standing})
    said = f"{count:,} {'person' if count == 1 else 'people'} gave {len(read.totals.standing):,} judgements to {pairs:,} askings."
    found = together(read.quality.said)
    if found is None:
        return f"{said} Too few pairs were judged by two people to say how they agree."
    return f"{said} Two people agree on {show(found.value, 'share')} of a pair ({show_interval(found, 'share')}, n = {found.n:,} pairs)."


def study_findings(read: Read) -> Iterator[Finding]:
    """Yield every reason to trust or to doubt the judgements."""
    yield _beyond_chance(read)
    yield _known(read)
    yield _people(
        read,
        "a side is preferred",
        "nobody is shown to prefer a side",
        "choose the left more or less often than in half of the pairs",
        lambda one: None if one.left is None else not one.left.low <= 0.5 <= one.left.high,
    )
    yield _people(
        read,
        "agreement drifts",
        "nobody is shown to drift",
        "agree more or less in the later half than in the earlier",
        lambda one: None if one.drift is None else not one.drift.low <= 0 <= one.drift.high,
    )
    yield _skipped(read)
    yield _overlap(read)


def _beyond_chance(read: Read) -> Finding:
    alpha = read.quality.alpha
    if alpha is None:
        return Finding("unmeasured", "agreement beyond chance", f"{read.quality.why_no_alpha}.".capitalize())
    said = f"Krippendorff's alpha is {alpha.value:.2f} ({alpha.low:.2f} to {alpha.high:.2f})."
    if alpha.low > 0:
        return Finding("good", "people agree beyond chance", said)
    return Finding("caution", "people are not shown to agree beyond chance", said)


def _known(read: Read) -> Finding:
    rule = read.study.trial_accuracy
    bar = show(rule, "share")
    held = [one for one, _ in read.quality.people if one.known_right is not None]
    if not held:
        return Finding(
            "unmeasured", "known answers", "Too few of them were given to anybody to say how often people are right."
        )
    low = [one for one in held if one.known_right and one.known_right.high < rule]
    if low:
        return Finding(
            "bad",
            "known answers are missed",
            f"{_names(read, low)}: agreement with known answers lies below {bar} with its whole interval. Their answers weigh less; nobody is dropped.",
        )
    return Finding(
        "good",
        "nobody is shown to miss known answers",
        f"Of {len(held):,} people with enough of them, nobody's agreement is shown to lie below {bar}.",
    )


def _people(read: Read, title: str, none: str, what: str, doubt: Callable[[Worth], bool | None]) -> Finding:
    """Return whom a measure gives doubt of: `doubt` says so, or None where there is too little to say."""
    told = [(one, found) for one, _ in read.quality.people if (found := doubt(one)) is not None]
    if not told:
        return Finding("unmeasured", none, "Too few judgements of anybody to say.")
    doubted = [one for one, found in told if found]
    luck = f"of {len(told):,} with enough judgements; by luck alone one in {BY_LUCK} would seem to."
    if doubted:
        return Finding("caution", title, f"{_names(read, doubted)} {what}, {luck}")
    return Finding("good", none, f"None {luck}")


def _skipped(read: Read) -> Finding:
    asked, skipped = read.totals.by_purpose[STUDY], read.totals.cannot_tell[STUDY]
    if not asked:
        return Finding("unmeasured", "skipped pairs", "No question of the study itself was judged.")
    said = f"{skipped:,} of {asked:,} answers to the study's questions are \u201ccan't tell\u201d."
    many = skipped > MANY_SKIPPED * asked
    return Finding("caution" if many else "good", "many pairs were skipped" if many else "few pairs were skipped", said)


def _overlap(read: Read) -> Finding:
    found, wanted = read.totals.overlap, read.study.overlap
    short = sum(count for people, count in found.items() if people < wanted)
    whom = f"{wanted} {'person' if wanted == 1 else 'people'}"
    if short:
        said = f"{short:,} of {sum(found.values()):,} questions were judged by fewer than the {whom} that the study asks for."
        return Finding("caution", "not every question is judged", said)
    return Finding("good", "every question is judged", f"By {whom} or more, as the study asks.")


def _names(read: Read, people: list[Worth]) -> str:
    return ", ".join(read.people[one.judge].label for one in people)
