"""The part of a page that sums a sweep up over seeds; the terminal prints the same rows.

Leaves out the runs themselves (`arms.py`) and how the numbers come about (`experiments.sweep`, `measures.seeds`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from backflip.data import Estimate
from backflip.measures.seeds import varying
from backflip.report.evidence import estimate
from backflip.report.marks import Axis, Dots, dot, run_role
from backflip.report.render import Section
from backflip.report.tables import Cell, Table
from backflip.report.wording import Unit, show, show_gap, show_interval, wording

COLUMNS = ("measure", "arm", "mean of seeds", "worst", "best", "less the first arm, seed by seed", "told apart?")
FIGURES = 6
"""Measures that are drawn; the table holds all."""


def rows_of(result: Mapping[str, Any]) -> dict[str, list[tuple[str, ...]]]:
    """Return, for every measure that is not the same in all runs, a row for each arm as it is read: all of COLUMNS but the first."""
    found: dict[str, list[tuple[str, ...]]] = {}
    for name in varying(result["measures"]):
        words = wording(name)
        by_arm: Mapping[str, Any] = result["measures"][name]
        found[words.label] = [(arm, *_cells(by_arm[arm], words.unit)) for arm in result["settings"] if arm in by_arm]
    return found


def sweep_section(record_results: Mapping[str, Any]) -> Section | None:
    """Return what the arms came to over their seeds; None where the run is no sweep."""
    result = record_results.get("arms")
    if not isinstance(result, Mapping) or "measures" not in result:
        return None
    rows: list[tuple[Cell, ...]] = []
    for measure, lines in rows_of(result).items():
        for place, (arm, *cells) in enumerate(lines):
            rows.append((Cell(measure if place == 0 else "", ""), Cell(arm), *map(_cell, cells)))
    names = varying(result["measures"])
    figures = tuple(_figure(name, result) for name in names[:FIGURES])
    seeds = len(result["seeds"])
    intro = f"{seeds} seeds of each arm, the same for all. Intervals are over seeds; worst and best are the ends of {seeds} seeds."
    if failed := result.get("failed"):
        intro += f" {len(failed)} runs failed and are left out: {'; '.join(one['run'] for one in failed)}."
    return Section(
        "seeds",
        "What it came to, over seeds",
        intro,
        figures,
        tables=(Table(COLUMNS, tuple(rows), how_told(result), wide=True),),
    )


def how_told(result: Mapping[str, Any]) -> str:
    """Say what the verdicts of a sweep's table rest on, and what they are raised for and what not."""
    others = len(result["settings"]) - 1
    said = "Differences are from the first arm, seed by seed; interval and p are Student's."
    if others > 1:
        said += (
            f" p and verdict are raised for the {others} arms that are held against the first (Holm), not for the number of measures; each "
            "interval is of its difference by itself."
        )
    elif others:
        said += " Verdicts are not raised for the number of measures."
    return f"{said} Fewer than five seeds tell nothing, whatever their interval. What no setting touches is left out."


def sweep_measures(results: Mapping[str, Any]) -> list[str]:
    """Return the measures of a sweep that are read first; none where the run is no sweep."""
    result = results.get("arms")
    return varying(result["measures"])[:FIGURES] if isinstance(result, Mapping) and "measures" in result else []


def _cells(row: Mapping[str, Any], unit: Unit) -> tuple[str, str, str, str, str]:
    mean = _read(row["mean"])
    ends = ("worst", "best") if "worst" in row else ("lowest", "highest")
    said = [show(float(row[name]), unit, bare=True) + (f" ({name})" if "worst" not in row else "") for name in ends]
    interval = f" ({show_interval(mean, unit)})" if mean.n else ""
    gap, told = "-", ""
    if "difference" in row:
        gap = show_gap(_read(row["difference"]), unit)
        told = (
            "yes" if row["told"] else cannot_tell(row["needed"], "seeds")
        ) + f" (p {show_p(row.get('p_of_all', row['p']))})"
    return f"{show(mean.value, unit, bare=True)}{interval}", said[0], said[1], gap, told


def cannot_tell(needed: int | None, units: str) -> str:
    """Say that a number of units does not tell two apart, and which number might."""
    if needed is None:
        return "no: no difference was seen"
    whole = needed if needed < 100 else math.ceil(needed / 10 ** (len(str(needed)) - 2)) * 10 ** (len(str(needed)) - 2)
    return f"no: for one this size about {whole:,} {units}"


def show_p(p: float) -> str:
    """Write a p-value as far as it is known: draws cannot tell one below 0.001 from another."""
    return "below 0.001" if p < 0.001 else f"{p:.2g}"


def _cell(text: str) -> Cell:
    head, bracket, rest = text.partition(" (")
    return Cell(head, f"{rest}".replace(")", "", 1) if bracket else "")


def _figure(name: str, result: Mapping[str, Any]) -> Dots:
    words = wording(name)
    by_arm: Mapping[str, Any] = result["measures"][name]
    rows = tuple(
        dot(arm, run_role(place), _read(by_arm[arm]["mean"]))
        for place, arm in enumerate(result["settings"])
        if arm in by_arm
    )
    caption = f"{words.meaning} Mean over seeds, with its 95 % interval.".strip()
    reference = (0.5, "no better than base") if name.endswith("win_rate") else None
    return Dots(f"seeds-{name}", words.label, caption, Axis(words.label, words.unit), rows, reference)


def _read(value: Any) -> Estimate:
    found = estimate(value)
    return found if found is not None else Estimate(float("nan"), float("nan"), float("nan"), 0)
