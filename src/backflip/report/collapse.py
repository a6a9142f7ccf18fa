"""The part of a page about `collapse`: what each method left of the variety, exact and on reviews.

Leaves out the runs of the arms (`arms.py`) and how the numbers come about (`experiments.collapse`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from backflip.report.evidence import estimate
from backflip.report.frontier import name_of, value_of
from backflip.report.marks import Axis, Dots, Lines, Series, dot, run_role
from backflip.report.render import Section
from backflip.report.tables import Cell, Table, cell
from backflip.report.wording import wording

EXACT = (
    "modes_covered",
    "effective_modes",
    "entropy_nats",
    "distinct_share",
    "prompt_information_nats",
    "kl_nats",
    "score",
)
TEXTS = ("modes_covered", "effective_modes", "modes_share", "entropy_nats", "distinct2_ratio", "prompt_information_nats", "kl_nats_per_sequence")  # fmt: skip


def collapse_section(results: Mapping[str, Any], faults: list[str]) -> Section | None:
    """Return what each method left of the variety; None where the run did not measure that. What cannot be read is named in `faults`."""
    figures: list[Lines | Dots] = []
    tables: list[Table] = []
    for name, read in (("collapse_exact", _exact), ("collapse", _texts)):
        if results.get(name) is None:
            continue
        try:
            drawn, table = read(results[name])
        except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
            faults.append(f"results/{name}.json cannot be drawn ({error!r}); it is left out")
            continue
        figures += drawn
        tables.append(table)
    if not tables:
        return None
    intro = (
        "Entropy says how undecided a policy is, modes covered how many of several equally good things it still says, prompt information whether "
        "the answer depends on the prompt. The best policy under any KL penalty keeps every mode."
    )
    return Section("collapse", "What is left of the variety", intro, tuple(figures), tables=tuple(tables))


def _exact(found: Mapping[str, Any]) -> tuple[list[Lines | Dots], Table]:
    rows: Sequence[Mapping[str, Any]] = found["rows"]
    named = [(name_of(row["method"]) + ("" if row["beta"] is None else f", beta {row['beta']:g}"), row) for row in rows]
    modes, seeds = int(found["modes"]), len(found["seeds"])
    figures = [
        _dots(f"collapse-exact-{name}", f"{wording(name).label}, where all is exact", caption, name, named)
        for name, caption in (
            ("modes_covered", f"Of {modes} equally good answers, mean over prompts and {seeds} seeds."),
            ("prompt_information_nats", "0: every prompt is answered alike."),
        )
    ]
    caption = f"{modes} equally good answers of 85; exact measures, mean over {seeds} seeds."
    return [*figures], _table(EXACT, named, caption, folded="Every measure of the exact world")


def _texts(found: Mapping[str, Any]) -> tuple[list[Lines | Dots], Table]:
    rows: Sequence[Mapping[str, Any]] = found["rows"]
    named = [(name_of(row["arm"]), row) for row in rows]
    kinds = list(dict.fromkeys(_kind(row) for row in rows))
    points = [
        (label, _kind(row), value_of(row["kl_nats_per_sequence"]), value_of(row["modes_covered"]))
        for label, row in named
    ]
    against_kl = Lines(
        "collapse-modes-kl",
        "Modes covered against KL",
        f"First words that the base begins with most often, {int(found['modes'])} of them; on reviews.",
        Axis("KL from the unprompted base, nats an answer", "nats", low=0.0, root_choice=True),
        Axis("Modes covered"),
        tuple(
            Series(label, run_role(kinds.index(kind)), (kl.value,), (modes.value,), (modes.low,), (modes.high,), (f"n = {modes.n} seeds",), "points", True)
            for label, kind, kl, modes in points
        ),
        nearest="point",
    )  # fmt: skip
    entropy = _dots("collapse-entropy", "Entropy, nats a token, on reviews", "Mean over seeds.", "entropy_nats", named)
    return [against_kl, entropy], _table(TEXTS, named, "On held-out openings of reviews; mean over seeds.")


def _kind(row: Mapping[str, Any]) -> str:
    """Return the method of a row, whose colour all strengths of its leash share."""
    return str(row.get("method", row.get("arm"))).partition("_leash_")[0]


def _dots(name: str, title: str, caption: str, measure: str, named: Sequence[tuple[str, Mapping[str, Any]]]) -> Dots:
    kinds = list(dict.fromkeys(_kind(row) for _, row in named))
    rows = tuple(dot(label, run_role(kinds.index(_kind(row))), value_of(row[measure])) for label, row in named)
    return Dots(name, title, caption, Axis(wording(measure).label, wording(measure).unit), rows)


def _table(
    measures: Sequence[str], named: Sequence[tuple[str, Mapping[str, Any]]], caption: str, folded: str = ""
) -> Table:
    rows = tuple((Cell(label), *(cell(estimate(row.get(name)), name) for name in measures)) for label, row in named)
    return Table(("", *(wording(name).label for name in measures)), rows, caption, wide=True, folded=folded)
