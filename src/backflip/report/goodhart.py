"""The part of a page about over-optimisation: what was predicted and what came of it, and the law of every curve.

Reads `results/claims.json` and `results/laws.json`. Left out: the curves themselves, which are figures of `results/lines.json` (`curves`), and
how the numbers come about (`measures.goodhart`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from backflip.report.evidence import estimate, number
from backflip.report.render import Section
from backflip.report.tables import Cell, Table
from backflip.report.wording import show, show_interval

TITLE = "Gold and proxy against the distance"
INTRO = (
    "Points are measured, with 95 % intervals over seeds and openings at once; a line beside points is the law fitted to them. As long as gold "
    "climbs, the proxy is being used; where it turns while the proxy climbs on, it is being gamed."
)
COLUMNS = (
    *("curve", "highest gold", "at d", "gold at the end", "fall from the highest", "proxy at the end"),
    *("law", "a", "b", "d* of the law", "R* of the law", "foretells gold best", "turns?"),
)


def has_laws(results: Mapping[str, Any]) -> bool:
    """Return whether a run measured laws of over-optimisation."""
    return isinstance(results.get("laws"), list) and isinstance(results.get("claims"), list)


def goodhart_section(results: Mapping[str, Any], faults: list[str]) -> Section | None:
    """Return the tables of claims and laws; None where the run has none. What cannot be read is named in `faults`."""
    if not has_laws(results):
        return None
    tables: list[Table] = []
    for name, read, columns, caption in (
        ("claims", _claim, ("Predicted beforehand", "measured difference", ""), _CLAIMS_CAPTION),
        ("laws", _law, COLUMNS, _LAWS_CAPTION),
    ):
        rows: list[tuple[Cell, ...]] = []
        for place, row in enumerate(results[name]):
            try:
                rows.append(read(row))
            except (KeyError, TypeError, AttributeError, ValueError) as error:
                faults.append(f"results/{name}.json, row {place + 1}: {type(error).__name__} {error}; it is left out")
        tables.append(Table(columns, tuple(rows), caption, wide=name == "laws"))
    return Section("laws", "What was predicted, and the laws", tables=tuple(tables))


_CLAIMS_CAPTION = "Held: the interval lies above 0; refuted where it lies below. Refuter of the whole: gold that nowhere falls for sure."
_LAWS_CAPTION = (
    "Gains in standard deviations of the base's answers to one opening. The fall is that from the highest point before the last to the last one, "
    "measured where other seeds and openings are highest, and assumes no law; below 0 gold rose to the end. d* and R* stand only where b's interval "
    "lies above 0; beyond the measured distances they are extrapolated. What foretells gold best is found by leaving each seed and each opening out; "
    "forms that these seeds and openings cannot tell from it stand beneath. Turns: yes where the fall's interval lies above 0 and all of these turn, no "
    "where it does not and none of these does."
)


def _claim(row: Mapping[str, Any]) -> tuple[Cell, ...]:
    return Cell(str(row["said"])), _cell(row["measured"]), Cell(str(row["held"]))


def _law(row: Mapping[str, Any]) -> tuple[Cell, ...]:
    peak = row["peak_d"]
    beyond = "" if peak is None or row["peak_within"] else ", extrapolated"
    rivals: Sequence[str] = row["not_told_from"]
    fall = estimate(row["fall"])
    turns = {True: "yes", False: "no", None: "cannot be told"}[row["turns"]]
    if row["turns"] and (fall is None or fall.low <= 0):  # runs made before said so of the forms alone
        turns = "cannot be told"
    return (
        Cell(str(row["title"])),
        _cell(row["highest"]),
        Cell(show(float(row["highest_at_d"]))),
        _cell(row["last"]),
        _fall(row["fall"]),
        _cell(row["proxy"][-1]),
        Cell(str(row["formula"])),
        _cell(row["a"]),
        _cell(row["b"]),
        Cell("-") if peak is None else Cell(show(float(peak["value"])), _ends(peak) + beyond),
        Cell("-") if row["peak_gain"] is None else _cell(row["peak_gain"]),
        Cell(str(row["best_form"]), f"or {', '.join(rivals)}" if rivals else "told from all others"),
        Cell(turns),
    )


def _cell(value: Any) -> Cell:
    found = estimate(value)
    return Cell("-") if found is None else Cell(show(found.value), show_interval(found))


def _fall(value: Any) -> Cell:
    """Write a fall; older runs wrote 0 without a spread where gold was highest at the end, which measures no fall."""
    found = estimate(value)
    if found is not None and found.low == found.high == 0:
        return Cell("not measured", "highest at the end")
    return _cell(value)


def _ends(peak: Mapping[str, Any]) -> str:
    """Write a peak's interval, whose upper end may not be bounded."""
    high = number(peak["high"])
    return f"{show(float(peak['low']))}\u2013{'no bound' if high is None else show(high)}"
