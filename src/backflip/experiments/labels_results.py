"""What the curves of `labels` say: estimates, paired differences, labels for equal accuracy, figures.

No experiment. Left out: how the points were measured (`labels_curves`).

Shapes: C curves, S seeds, N numbers of labels, K seeds that two arms share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from backflip.data import Estimate
from backflip.experiments.labels_curves import QUERIES, Point
from backflip.measures.paired import FEWEST_SEEDS, holm, student_test
from backflip.measures.seeds import over_seeds, seed_difference
from backflip.measures.stats import mean_interval

if TYPE_CHECKING:
    from backflip.run import Run

Floats = NDArray[np.float64]
MARGIN = 0.03
"""Of the prediction P1: accuracy by which choosing does not differ from random."""
PREDICTED = (
    "stated before: P1, at no number of comparisons is the accuracy after disagreement or mixed queries more than 3 points from that after random ones; "
    "refuted if the interval of a paired difference over seeds lies wholly beyond 3 points. P2, a refreshed reward reaches a higher final gold win rate "
    "than a frozen one at equal labels; refuted if the interval of the difference lies wholly below 0"
)
APART = 0.015
"""How far apart points of one number of comparisons are drawn, as a share of it; on top of each other none can be read."""
BESIDE = "Points of one number of comparisons are drawn a little apart."
FIGURES = {
    "accuracy": ("Held-out accuracy by the number of comparisons", "Agreement with the gold judge's choice"),
    "gold": ("Gold of best-of-n by the number of comparisons", "Gold win rate against base"),
}


def by_seed(points: Sequence[Point], how: str, labels: int, measure: str) -> dict[int, float]:
    """Return one measure by seed."""
    return {one.seed: getattr(one, measure) for one in points if (one.queries, one.labels) == (how, labels)}


def counts_of(points: Sequence[Point]) -> list[int]:
    """Return the numbers of labels, rising."""
    return sorted({one.labels for one in points})


@dataclass(frozen=True)
class Asked:
    """One comparison of two arms: what of, and the values of all arms by seed."""

    what: str
    values: Mapping[str, Mapping[int, float]]
    first: str
    other: str


@dataclass(frozen=True)
class Told:
    """What came of one: the paired difference, and whether it is told apart from 0 among all comparisons of its question."""

    asked: Asked
    difference: Estimate
    p_holm: float
    needed: int | None

    @property
    def told(self) -> bool:
        """Whether these seeds tell the two apart, all comparisons of the question taken together."""
        return self.difference.n >= FEWEST_SEEDS and self.p_holm < 0.05


def write_curves(points: Sequence[Point], seeds: int, run: Run) -> str:
    """Write every mean and the differences from random queries; return what became of the prediction P1, in words."""
    run.result("points", [vars(one) for one in points])
    questions: list[Asked] = []
    accuracy: list[tuple[str, Mapping[int, float], Mapping[int, float]]] = []
    for labels in counts_of(points):
        for measure, name in (("accuracy", "accuracy"), ("gold", "best_of_n_gold_win_rate")):
            values = {how: by_seed(points, how, labels, measure) for how in QUERIES}
            for how in QUERIES:
                run.estimate(f"{how}_{labels}_{name}", over_seeds(values[how], name).mean)
            if labels == counts_of(points)[0]:
                continue  # the first are random for all
            for how in QUERIES[1:]:
                questions.append(Asked(f"{name.replace('_', ' ')} with {labels} labels", values, QUERIES[0], how))
                if measure == "accuracy":
                    accuracy.append((f"{how} with {labels} labels", values[QUERIES[0]], values[how]))
    tell_apart(questions, run)
    return first_verdict(accuracy, seeds)


def first_verdict(accuracy: Sequence[tuple[str, Mapping[int, float], Mapping[int, float]]], seeds: int) -> str:
    """Say what became of P1, from (a name, random by seed, another way by seed) for each way and number of labels.

    Refuted where a difference lies beyond MARGIN by an interval and by Holm's p-value of all of them; not refuted where every interval lies within
    it; otherwise these seeds do not decide.
    """
    lead = f"P1, no way to choose is more than {100 * MARGIN:g} points of accuracy from random queries"
    if seeds < FEWEST_SEEDS:
        return f"{lead}: not decided, {seeds} seeds are too few to call anything told"
    names: list[str] = []
    gaps: list[Estimate] = []
    p: list[float] = []
    for name, first, other in accuracy:
        gap_K = np.array([other[seed] - first[seed] for seed in first if seed in other])
        names.append(name)
        gaps.append(mean_interval(gap_K))
        p.append(student_test(gap_K - np.copysign(MARGIN, gap_K.mean())))
    beyond = [
        name
        for name, gap, raised in zip(names, gaps, holm(p), strict=True)
        if (gap.low > MARGIN or gap.high < -MARGIN) and raised < 0.05
    ]
    if beyond:
        return f"{lead}: refuted by {', '.join(beyond)}"
    if all(gap.low >= -MARGIN and gap.high <= MARGIN for gap in gaps):
        return f"{lead}: not refuted, every interval lies within"
    wide = [name for name, gap in zip(names, gaps, strict=True) if max(gap.high, -gap.low) > MARGIN]
    return f"{lead}: not decided, the intervals of {', '.join(wide)} reach beyond that"


def tell_apart(questions: Sequence[Asked], run: Run) -> list[Told]:
    """Write the paired differences of one question's comparisons, and in words whether these seeds tell them apart; return them.

    P-values are raised for all of them together (Holm 1979): of many comparisons some would seem told by luck. Differences are of shares.
    """
    pairs = [(one, seed_difference(one.values[one.first], one.values[one.other])) for one in questions]
    kept = [(one, gap) for one, gap in pairs if gap is not None]
    found: list[Told] = []
    for (one, gap), raised in zip(kept, holm([gap.p for _, gap in kept]), strict=True):
        told = Told(one, within(gap.difference), raised, gap.needed)
        found.append(told)
        name = f"{one.other}_less_{one.first}_{one.what}".replace(",", "").replace(" ", "_")
        run.estimate(name, told.difference)
        run.note(told_words(told, len(kept)))
    return found


def told_words(told: Told, together: int) -> str:
    """Say what came of one comparison, of `together` in its question."""
    one = told.asked
    first, other = (name.replace("_", " ") for name in (one.first, one.other))
    p = f"p {told.p_holm:.2g}" + (f" for all {together} comparisons" if together > 1 else "")
    sizes = f"{_points(told.difference)}, {told.difference.n} seeds, {p}"
    if told.told:
        return f"{one.what}: {other} less {first} {sizes}"
    more = f"; about {told.needed} seeds would alone, if the difference is as large as it looks" if told.needed else ""
    return f"{one.what}: {told.difference.n} seeds cannot tell {other} from {first}: {sizes}{more}"


def within(difference: Estimate) -> Estimate:
    """Cut the interval of a difference of two shares at -1 and 1, beyond which there is none."""
    return replace(difference, low=max(-1.0, difference.low), high=min(1.0, difference.high))


def _points(gap: Estimate) -> str:
    cut = within(gap)
    return f"{100 * cut.value:+.1f} points ({100 * cut.low:+.1f} to {100 * cut.high:+.1f})"


def rising(value_N: Floats) -> Floats:
    """Return the rising curve that is nearest in squares (isotonic regression): stretches that fall become their mean."""
    found_N = np.empty(len(value_N))
    for at in range(len(value_N)):
        found_N[at] = max(
            min(float(value_N[low : high + 1].mean()) for high in range(at, len(value_N))) for low in range(at + 1)
        )
    return found_N


def needed(points: Sequence[Point], how: str, counts: Sequence[int]) -> Estimate | None:
    """Return how many labels a way to choose needs for the mean accuracy that random queries reach with the last count but one.

    Read off the mean curves over seeds, each made to rise (`rising`; a running maximum would count every lucky point), linear in the logarithm of the
    number. The interval is the jackknife's: every seed is left out of both curves in turn. None where the curves, whole or without
    some seed, do not reach the target within the counts or begin above it: the number is beyond the range measured.
    """
    seeds = sorted({one.seed for one in points})
    table_CSN = np.array(
        [
            [[by_seed(points, one, labels, "accuracy")[seed] for labels in counts] for seed in seeds]
            for one in (QUERIES[0], how)
        ]
    )
    if len(seeds) < 2:
        return None
    found: list[float] = []
    for kept in ([*range(len(seeds))], *([s for s in range(len(seeds)) if s != out] for out in range(len(seeds)))):
        random_N, mine_N = (rising(one_SN[kept].mean(0)) for one_SN in table_CSN)
        place = reading(mine_N, float(random_N[-2]), counts)
        if place is None:
            return None
        found.append(place)
    whole, left_S = found[0], np.array(found[1:])
    log = mean_interval(len(seeds) * whole - (len(seeds) - 1) * left_S)
    low, high = (float(np.exp(whole + end - log.value)) for end in (log.low, log.high))
    return Estimate(float(np.exp(whole)), low, high, len(seeds))


def reading(rising_N: Floats, target: float, counts: Sequence[int]) -> float | None:
    """Return the logarithm of the number of labels at which a rising curve reaches the target; None where that is beyond the counts."""
    if not rising_N[0] < target <= rising_N[-1]:
        return None
    place = int(np.argmax(rising_N >= target))
    share = (target - rising_N[place - 1]) / (rising_N[place] - rising_N[place - 1])
    low, high = np.log(counts[place - 1]), np.log(counts[place])
    return float(low + share * (high - low))


def second_verdict(refreshing: Sequence[Told]) -> str:
    """Say what became of P2, from refreshed less frozen at each number of labels: an interval and Holm's p-value decide."""
    lead = "P2, a refreshed reward reaches a higher final gold win rate than a frozen one"
    if any(one.told and one.difference.high < 0 for one in refreshing):
        return f"{lead}: refuted"
    if refreshing and all(one.told and one.difference.low > 0 for one in refreshing):
        return f"{lead}: not refuted, refreshed is ahead at every number of labels"
    sizes = "; ".join(f"{one.asked.what}: {_points(one.difference)}" for one in refreshing)
    return f"{lead}: not decided, these seeds cannot tell ({sizes})"


def beside(count: int, place: int) -> float:
    """Return where the point of the series at `place` is drawn: a little right of its number of comparisons."""
    return count * (1 + APART * place)


def figures_of(points: Sequence[Point]) -> dict[str, Any]:
    """Return the figures: accuracy and gold against the number of labels, one series a way to choose."""
    counts = counts_of(points)
    figures: dict[str, Any] = {}
    for measure, (title, label) in FIGURES.items():
        series: list[dict[str, Any]] = []
        for place, how in enumerate(QUERIES):
            means = [over_seeds(by_seed(points, how, labels, measure), "accuracy").mean for labels in counts]
            series.append(
                {
                    "name": how,
                    "x": [beside(one, place) for one in counts],
                    "estimates": [mean.as_json() for mean in means],
                }
            )
        figures[measure] = {
            "title": title,
            "caption": "Rewards fitted to answers of the base, measured on openings that nobody was asked about; mean over seeds with its "
            "95 % interval. The first comparisons are random for all. " + BESIDE,
            "x": {"label": "Comparisons", "unit": "count"},
            "y": {"label": label, "unit": "share"},
            "series": series,
        }
    return figures
