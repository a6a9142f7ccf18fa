"""The tables and figures about people and about every two of them, on the page of a labeling study.

Leaves out the measures (`backflip.measures.judges`).
"""

from __future__ import annotations

from backflip.data import Estimate
from backflip.measures.judges import Worth
from backflip.report.marks import Axis, Dots, dot
from backflip.report.render import Section
from backflip.report.study_tables import TOO_FEW, Read, cell_of, gap_of
from backflip.report.tables import Cell, Table
from backflip.store.desk import PRACTICE

MOST_DRAWN = 40
"""People in one figure; the table has all."""
COLUMNS = (
    ("known_right", "Agrees with known answers", "agreement_share"),
    ("attention", "of these, easy ones", "agreement_share"),
    ("with_others", "with others", "agreement_share"),
    ("with_themselves", "with themselves", "agreement_share"),
    ("left", "Chose the left", "left_share"),
    ("longer", "Chose the longer", "longer_share"),
    ("seconds", "Median seconds", "median_seconds"),
)
DRAWN = (
    ("with_others", "Agreement with others", "Agreement", None),
    ("known_right", "Agreement with known answers", "Agreement", None),
    ("with_themselves", "Agreement with themselves, sides swapped", "Agreement", None),
    ("left", "How often the left was chosen", "Share of decided choices", (0.5, "no bias")),
    ("longer", "How often the longer text was chosen", "Share of decided choices", (0.5, "no bias")),
)


def people_section(read: Read) -> Section:
    """Return each person's measures, as a table and, where there is enough to say, as figures."""
    skipped, taken = dict[str, int](), dict[str, int]()
    for one in read.totals.standing:
        if one.details.get("purpose") != PRACTICE:
            taken[one.judge] = taken.get(one.judge, 0) + 1
            skipped[one.judge] = skipped.get(one.judge, 0) + (one.answer is None)
    rows = tuple(
        (
            read.label(worth.judge),
            Cell(f"{worth.judgements:,}", f"{skipped[worth.judge]:,} of {taken[worth.judge]:,} can't tell"),
            *(cell_of(_of(worth, name), unit) for name, _, unit in COLUMNS),
            gap_of(worth.drift),
        )
        for worth, _ in in_order(read)
    )
    chose = {worth.judge for worth, _ in read.quality.people}
    rows += tuple(
        (
            read.label(judge),
            Cell("0", f"{skipped[judge]:,} of {count:,} can't tell"),
            *([Cell(TOO_FEW)] * (len(COLUMNS) + 1)),
        )
        for judge, count in sorted(taken.items(), key=lambda one: read.people[one[0]].number)
        if judge not in chose
    )
    caption = (
        "Choices that came by themselves, repetitions apart; beneath: all askings but practice. Known: checks and trial against answers that were "
        "known. With themselves: the same pair again, sides swapped. Somebody without bias chooses the left in half of the pairs; the longer "
        "too, unless longer is better here. Drift: agreement in the later half less that in the earlier. Speed: time in view, idle cut off."
    )
    table = Table(("Person", "Choices", *(label for _, label, _ in COLUMNS), "Drift"), rows, caption, wide=True)
    return Section("people", "Each person", figures=_figures(read), tables=(table,))


def _figures(read: Read) -> tuple[Dots, ...]:
    figures: list[Dots] = []
    for name, title, axis, reference in DRAWN:
        dots = [
            dot(read.people[worth.judge].label, "run0", found)
            for worth, _ in in_order(read)
            if (found := _of(worth, name)) is not None
        ]
        if dots:
            more = f" The first {MOST_DRAWN} of {len(dots)} people." if len(dots) > MOST_DRAWN else ""
            figures.append(
                Dots(
                    f"people-{name}",
                    title,
                    f"95 % intervals.{more}",
                    Axis(axis, "share"),
                    tuple(dots[:MOST_DRAWN]),
                    reference,
                )
            )
    return tuple(figures)


def between_section(read: Read) -> Section | None:
    """Return each two people's agreement and kappa; None where one person judged alone."""
    found = read.quality
    if not found.between:
        return None
    told = [one for one in found.between if one[2]["agreement"] or one[2]["kappa"]]
    rows = tuple(
        (
            Cell(
                " and ".join(
                    f"{one.number}" for one in sorted((read.people[a], read.people[b]), key=lambda one: one.number)
                )
            ),
            cell_of(each["agreement"], "agreement_share"),
            cell_of(each["kappa"], "kappa"),
        )
        for a, b, each in sorted(told, key=lambda one: sorted(read.people[judge].number for judge in one[:2]))
    )
    silent = len(found.between) - len(told)
    parts = [
        "n is the pairs that both judged, checks and repetitions apart. Kappa is Cohen's, over first, second and equal; it is not defined "
        "where both always made one choice."
    ]
    parts += [f"Of {silent:,} other two people there are too few to say."] if silent else []
    parts += [f"{found.cut:,} further two people are not shown."] if found.cut else []
    tables = (Table(("Persons", "Agreement", "Cohen's kappa"), rows),) if rows else ()
    return Section("between", "Each two people", " ".join(parts), tables=tables)


def in_order(read: Read) -> list[tuple[Worth, float]]:
    """Return people's worth and weight by their numbers."""
    return sorted(read.quality.people, key=lambda one: read.people[one[0].judge].number)


def _of(worth: Worth, name: str) -> Estimate | None:
    return getattr(worth, name)
