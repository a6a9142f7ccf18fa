"""Figures on the reward model: its fit, its calibration, and its accuracy between null baselines and ceiling.

Leaves out what the reward model did to the policy (figures.py).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from backflip.measures.stats import wilson
from backflip.report.evidence import Evidence
from backflip.report.figures import column
from backflip.report.marks import Axis, Dot, Dots, Figure, Lines, Reference, Series, dot, run_role
from backflip.report.wording import wording


def fit_figures(evidence: Evidence) -> list[Figure]:
    """Describe the reward model's fit: a curve for each member, or, after a single epoch, a dot."""
    rows = evidence.metrics.get("reward", [])
    figures: list[Figure] = []
    for measure in ("loss", "accuracy", "held_out_accuracy"):
        series = by_member(rows, measure)
        words = wording(measure)
        if not series:
            continue
        if all(len(one.x) == 1 for one in series):
            if measure != "held_out_accuracy":
                continue
            dots = tuple(_member_dot(one, rows) for one in series)
            figures.append(Dots(f"reward-{measure}", words.label, words.meaning, Axis(words.label, words.unit), dots))
            continue
        figures.append(
            Lines(
                f"reward-{measure}",
                words.label,
                words.meaning,
                Axis(_fit_axis(rows)),
                Axis(words.label, words.unit),
                series,
            )
        )
    return figures


def _member_dot(one: Series, rows: Sequence[Mapping[str, float]]) -> Dot:
    """Return the end of one fit; its interval is Wilson's where the rows say how many pairs were held out."""
    n = int(next((row.get("held_out_n", 0) for row in rows if row.get("held_out_accuracy") == one.y[-1]), 0))
    if n < 1:
        return Dot(one.name, one.role, one.y[-1], one.y[-1], one.y[-1], 0)
    return dot(one.name, one.role, wilson(one.y[-1] * n, n))


def _fit_axis(rows: Sequence[Mapping[str, float]]) -> str:
    return "Epoch" if any("epoch" in row for row in rows) else "Step"


def by_member(rows: Sequence[Mapping[str, float]], measure: str) -> tuple[Series, ...]:
    """Split one measure of the fit by round and ensemble member; one fit is one curve."""
    fits: dict[tuple[float, float], list[Mapping[str, float]]] = {}
    for row in rows:
        if measure in row:
            fits.setdefault((row.get("round", 0.0), row.get("member", 0.0)), []).append(row)
    series: list[Series] = []
    for place, ((turn, member), held) in enumerate(fits.items()):
        x, y = column(held, "epoch" if "epoch" in held[0] else "step", measure)
        name = f"Member {member:.0f}" if len({key[1] for key in fits}) > 1 else "Reward model"
        name += f", round {turn:.0f}" if len({key[0] for key in fits}) > 1 else ""
        series.append(Series(name, run_role(place), x, y, mark="both" if len(x) < 20 else "line"))
    return tuple(series)


def reward_model_figures(evidence: Evidence) -> list[Figure]:
    """Describe calibration, and accuracy beside its ceiling and the null baselines."""
    result = evidence.reward_model
    if result is None:
        return []
    figures: list[Figure] = []
    if result.bins:
        ends = [wilson(held.observed * held.n, held.n) for held in result.bins]
        # Bins of the answer that the model prefers start at one half.
        start = 0.5 if all(held.predicted >= 0.5 for held in result.bins) else 0.0
        foot = math.floor(10 * min(start, *(end.low for end in ends))) / 10
        figures.append(
            Lines(
                "calibration",
                "Calibration on held-out pairs",
                f"Where the model says 80 %, {result.judge} should have chosen that answer in 80 % of pairs. "
                "Below the diagonal on the right: too sure of itself.",
                Axis("Probability the reward model gives", "share", start, 1.0),
                Axis(f"Share {result.judge} chose", "share", foot, 1.0),
                (
                    Series(
                        "Reward model", "ppo", tuple(held.predicted for held in result.bins),
                        tuple(held.observed for held in result.bins), tuple(end.low for end in ends),
                        tuple(end.high for end in ends), tuple(f"{held.n:,} pairs" for held in result.bins), mark="both", apart=True,
                    ),
                ),
                (Reference("perfect calibration"),),
                nearest="point",
            )
        )  # fmt: skip
    rows: list[Dot] = [dot("Reward model", "ppo", result.accuracy)] if result.accuracy else []
    ordered = sorted(result.baselines.items(), key=lambda entry: -entry[1].value)
    rows += [dot(_baseline_label(name), "base", measured) for name, measured in ordered]
    rows += [dot("Ceiling", "best_of_n", result.ceiling)] if result.ceiling else []
    if rows:
        figures.append(
            Dots(
                "reward-agreement",
                f"Agreement with {result.judge} on held-out pairs",
                _agreement_meaning(bool(result.ceiling), result.baselines),
                Axis("Agreement", "share"),
                tuple(rows),
                (0.5, "coin"),
            )
        )
    return figures


def _agreement_meaning(ceiling: bool, baselines: Collection[str]) -> str:
    meaning = (
        "The ceiling is what a perfect model would reach, given how often the overseer contradicts itself. "
        if ceiling
        else ""
    )
    if "bag_of_words" in baselines:
        return meaning + "A reward model no better than the bag of words has learned words, not taste."
    if baselines:
        return (
            meaning
            + "The others are fitted to, or guess from, something simpler; a reward model no better than they may have learned no more."
        )
    return meaning


def _baseline_label(name: str) -> str:
    return {"length": "Longer answer wins", "majority": "Majority", "bag_of_words": "Bag of words"}.get(
        name, name.replace("_", " ").capitalize()
    )
