"""What the weights of people changed, and what came of leaving somebody's judgements out.

Left out: how a weight is estimated (`measures.judges`), and the run that leaves somebody out (`backflip.run_again`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from backflip.errors import DataError
from backflip.report.evidence import Evidence, estimate, number
from backflip.report.render import Section
from backflip.report.tables import Cell, Table, cell
from backflip.report.wording import wording
from backflip.run_again import Again, read_again


def weighting_section(evidence: Evidence) -> Section | None:
    """Return who weighed how much in the fit, and how a reward on which everybody weighs the same differs; None for no people."""
    found = evidence.record.results.get("weighting")
    if not isinstance(found, Mapping):
        return None
    held = cast(Mapping[str, Any], found)
    people = [one for one in held.get("people", ()) if isinstance(one, Mapping)]
    rows = tuple(
        (
            Cell(str(one.get("judge"))),
            Cell(f"{number(one.get('answers')) or 0:,.0f}"),
            Cell(f"{number(one.get('weight')) or 0:.2f}"),
        )
        for one in cast(list[Mapping[str, Any]], people)
    )
    return Section(
        "weighting",
        "Whose answers weighed how much",
        _changed(held),
        tables=(Table(("Person", "Answers learned from", "Weight in the fit"), rows),),
    )


def _changed(held: Mapping[str, Any]) -> str:
    known = {name: number(held.get(name)) for name in ("correlation", "turned", "comparisons")}
    weighted, equal = (number(held.get(f"held_out_accuracy_{name}")) for name in ("weighted", "equal"))
    said = (
        "People weigh by how often they agree with known answers and with each other; nobody is dropped. Two rewards were "
        "fitted to the same answers, alike but for the weights."
    )
    if None not in known.values():
        said += (
            f" Over {known['comparisons']:,.0f} comparisons the two rewards correlate by {known['correlation']:.3f}, and prefer different "
            f"items in {100 * (known['turned'] or 0):.1f} % of them."
        )
    if weighted is not None and equal is not None:
        said += f" Held-out accuracy: {100 * weighted:.1f} % weighted, {100 * equal:.1f} % alike (one fit each, so no interval)."
    return said


def again_section(evidence: Evidence) -> Section | None:
    """Return what a run that was trained again came to, beside the earlier one; None for any other run."""
    try:
        again = read_again(evidence.path)
    except DataError as error:
        return Section("again", "Trained again", str(error))
    if again is None:
        return None
    rows = tuple(
        (Cell(wording(name).label), cell(estimate(value), name), cell(evidence.estimates.get(name), name))
        for name, value in again.estimates.items()
    )
    columns = ("", "Before", "Without them" if again.without else "Again")
    tables = (Table(columns, rows),) if rows else ()
    return Section("again", "Trained again", _left_out(again), tables=tables)


def _left_out(again: Again) -> str:
    if not again.without:
        return f"This run asked nobody: it learned from the {again.judgements:,} judgements of {again.path}."
    return (
        f"This run asked nobody: it learned from what {again.path} had asked, without {' and '.join(again.without)}. "
        f"{again.left_out:,} of {again.left_out + again.judgements:,} judgements are left out, and {again.unanswered:,} questions have no "
        "answer left. One run beside one run: the intervals are each run's own, and say nothing of another seed."
    )
