"""What the curves of `labels` say: estimates, paired differences, labels for equal accuracy, figures.

No experiment. Left out: how the points were measured (`labels_curves`).

Shapes: none of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from backflip.data import Estimate
from backflip.experiments.labels_curves import QUERIES, Point
from backflip.measures.paired import FEWEST_SEEDS
from backflip.measures.seeds import over_seeds, seed_difference
from backflip.measures.stats import mean_interval

if TYPE_CHECKING:
    from backflip.run import Run

MARGIN = 0.03
"""Of the prediction P1: accuracy by which choosing does not differ from random."""
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


def write_curves(points: Sequence[Point], seeds: int, run: Run) -> None:
    """Write every mean, the differences from random queries, and what became of the prediction P1."""
    run.result("points", [vars(one) for one in points])
    beyond: list[str] = []
    for labels in counts_of(points):
        for measure, name in (("accuracy", "accuracy"), ("gold", "best_of_n_gold_win_rate")):
            values = {how: by_seed(points, how, labels, measure) for how in QUERIES}
            for how in QUERIES:
                run.estimate(f"{how}_{labels}_{name}", over_seeds(values[how], name).mean)
            if labels == counts_of(points)[0]:
                continue  # the first are random for all
            for how in QUERIES[1:]:
                gap = told_apart(f"{name.replace('_', ' ')} with {labels} labels", values, QUERIES[0], how, run)
                if measure == "accuracy" and gap is not None and (gap.low > MARGIN or gap.high < -MARGIN):
                    beyond.append(f"{how} with {labels} labels")
    said = f"refuted by {', '.join(beyond)}" if beyond else "not refuted"
    few = f"; {seeds} seeds are too few to call anything told" if seeds < FEWEST_SEEDS else ""
    run.note(f"P1, no way to choose is more than {MARGIN:.0%} of accuracy from random queries: {said}{few}")


def told_apart(
    what: str, values: Mapping[str, Mapping[int, float]], first: str, other: str, run: Run
) -> Estimate | None:
    """Write the paired difference of two arms, and in words whether these seeds tell them apart; return it."""
    found = seed_difference(values[first], values[other])
    if found is None:
        return None
    gap = found.difference
    name = f"{other}_less_{first}_{what}".replace(",", "").replace(" ", "_")
    run.estimate(name, gap)
    sizes = f"{100 * gap.value:+.1f} points ({100 * gap.low:+.1f} to {100 * gap.high:+.1f}, {gap.n} seeds)"
    if found.told:
        run.note(f"{what}: {other.replace('_', ' ')} less {first.replace('_', ' ')} {sizes}")
    else:
        more = f"; about {found.needed} seeds would, if the difference is as large as it looks" if found.needed else ""
        run.note(
            f"{what}: {gap.n} seeds cannot tell {other.replace('_', ' ')} from {first.replace('_', ' ')}: {sizes}{more}"
        )
    return gap


def needed(points: Sequence[Point], how: str, counts: Sequence[int]) -> Estimate | None:
    """Return how many labels a way to choose needs for the mean accuracy that random queries reach with the last count but one.

    Between counts accuracy is taken as linear in the logarithm of the number, and as its best so far. None where a seed does not reach it
    within the counts, or begins above it: the number is beyond the range measured.
    """
    target = float(np.mean(list(by_seed(points, QUERIES[0], counts[-2], "accuracy").values())))
    found: list[float] = []
    for seed in sorted({one.seed for one in points}):
        reached = [by_seed(points, how, labels, "accuracy")[seed] for labels in counts]
        best = np.maximum.accumulate(reached)
        if not best[0] <= target <= best[-1]:
            return None
        place = int(np.argmax(best >= target))
        if place == 0:
            found.append(float(counts[0]))
            continue
        share = (target - best[place - 1]) / (best[place] - best[place - 1])
        low, high = np.log(counts[place - 1]), np.log(counts[place])
        found.append(float(np.exp(low + share * (high - low))))
    return mean_interval(found)


def figures_of(points: Sequence[Point]) -> dict[str, Any]:
    """Return the figures: accuracy and gold against the number of labels, one series a way to choose."""
    counts = counts_of(points)
    figures: dict[str, Any] = {}
    for measure, (title, label) in FIGURES.items():
        series: list[dict[str, Any]] = []
        for how in QUERIES:
            means = [over_seeds(by_seed(points, how, labels, measure), "accuracy").mean for labels in counts]
            series.append(
                {"name": how, "x": [float(one) for one in counts], "estimates": [mean.as_json() for mean in means]}
            )
        figures[measure] = {
            "title": title,
            "caption": "Rewards fitted to answers of the base, measured on openings that nobody was asked about; mean over seeds with its "
            "95 % interval. The first comparisons are random for all.",
            "x": {"label": "Comparisons", "unit": "count"},
            "y": {"label": label, "unit": "share"},
            "series": series,
        }
    return figures
