"""The part of a page about `frontier`: gold against KL, method by method, and what they differ in at equal KL.

Curves carry no bands: nine of them would hide each other. Their spread stands in the figures under them and in the tables. Leaves out the
runs of the arms (`arms.py`) and how the numbers come about (`experiments.frontier`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from backflip.data import Estimate
from backflip.measures.paired import FEWEST_SEEDS
from backflip.report.evidence import estimate, number
from backflip.report.marks import Axis, Dots, Lines, Reference, Series, dot, run_role
from backflip.report.render import Section
from backflip.report.sweep import cannot_tell, show_p
from backflip.report.tables import Cell, Table, cell
from backflip.report.wording import show, show_gap, wording

BEST = "best_of_n"
ENDS = ("gold_win_rate", "gold", "kl_nats_per_sequence", "distinct2_ratio", "length_ratio", "entropy_nats")
FAR = 4.0
"""How many times as far as the middle one a path goes where all are shown on a square-root scale: on a plain one it presses them together."""
BUDGET = ("labels", "updates", "tokens_trained", "answers_sampled", "tokens_sampled", "seconds")


def frontier_section(results: Mapping[str, Any], faults: list[str]) -> Section | None:
    """Return gold against KL for every method; None where the run drew no frontier. What cannot be read is named in `faults`."""
    found = results.get("frontier")
    if found is None:
        return None
    try:
        return _frontier(found)
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        faults.append(f"results/frontier.json cannot be drawn ({error!r}); it is left out")
        return None


def _frontier(found: Mapping[str, Any]) -> Section:
    paths: Mapping[str, Any] = found["paths"]
    roles = {name: BEST if name == BEST else run_role(place) for place, name in enumerate(paths)}
    figures = tuple(_paths(measure, paths, roles) for measure in ("gold", "gold_win_rate"))
    compared = [row for row in found["compared"] if row["measure"] == "gold_win_rate"]
    against, seeds = str(found["against"]), len(found["seeds"])
    intro = (
        f"{seeds} seeds of each method, the same questions and labels for all of a seed, equally many answers to learn from. Each line is the "
        f"mean over seeds of the looks along the way. Best-of-n has no token distribution: it stands at ln n - (n-1)/n, the most that its KL "
        f"can be. The table says where {against} and another were compared at equal KL, seed by seed."
    )
    ends: Mapping[str, Any] = found["ends"]
    rows = tuple(
        (Cell(name_of(arm)), *(cell(estimate(row.get(name)), name) for name in ENDS)) for arm, row in ends.items()
    )
    spent = tuple(
        (Cell(name_of(arm)), *(Cell(show(number(row.get(name)) or 0.0, wording(name).unit if name == "seconds" else "count")) for name in BUDGET))
        for arm, row in found["budget"].items()
    )  # fmt: skip
    return Section(
        "frontier",
        "Gold against KL, method by method",
        intro,
        (*figures, *_gaps(compared, against, roles)),
        tables=(
            Table(("", *(wording(name).label for name in ENDS)), rows, "Where each method ended; mean over seeds.", wide=True),
            _compared(compared, against),
            Table(("", *(wording("seconds_in_all" if name == "seconds" else name).label for name in BUDGET)), spent, "Mean over seeds.", wide=True,
                  folded="What a run of each method heard, learned from and sampled"),
        ),
    )  # fmt: skip


def _paths(measure: str, paths: Mapping[str, Any], roles: Mapping[str, str]) -> Lines:
    words = wording(measure)
    series: list[Series] = []
    for name, path in paths.items():
        x = tuple(value_of(one).value for one in path["kl_nats"])
        y = tuple(value_of(one).value for one in path[measure])
        notes = tuple(
            f"n = {2**place}, KL is its upper bound" if name == BEST else f"look {place}" for place in range(len(x))
        )
        series.append(Series(name_of(name), roles[name], x, y, notes=notes, mark="both"))
    references = (Reference("no better than base", 0.5),) if words.unit == "share" else ()
    ends = sorted(one.x[-1] for one in series if one.x)
    far = bool(ends) and ends[-1] > FAR * ends[len(ends) // 2]
    return Lines(
        f"frontier-{measure}",
        f"{words.label} against KL",
        words.meaning,
        Axis("KL from the unprompted base, nats an answer", "nats", low=0.0, root_choice=True, rooted=far),
        Axis(words.label, words.unit),
        tuple(series),
        references,
        nearest="point",
        wide=True,
    )  # fmt: skip


def _gaps(compared: Sequence[Mapping[str, Any]], against: str, roles: Mapping[str, str]) -> list[Dots]:
    """Return one figure for each KL: how far every method stands above or below the first, points of win rate."""
    figures: list[Dots] = []
    for nats in dict.fromkeys(row["nats"] for row in compared):
        rows = tuple(
            dot(name_of(row["method"]), roles[row["method"]], _scaled(value_of(row["difference"]), 100.0))
            for row in compared
            if row["nats"] == nats and "difference" in row
        )
        if rows:
            title = f"At {nats:g} nats: gold win rate less {name_of(against)}'s, points"
            caption = "Seed by seed, with Student's 95 % interval over seeds. Fewer than five seeds tell nothing."
            figures.append(
                Dots(
                    f"gap-{str(nats).replace('.', '-')}",
                    title,
                    caption,
                    Axis("points"),
                    rows,
                    (0.0, f"{name_of(against)}"),
                )
            )
    return figures  # fmt: skip


def _compared(compared: Sequence[Mapping[str, Any]], against: str) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for row in compared:
        if "difference" not in row:
            gap, told = f"{row['seeds']} seeds pass it in both", "-"
        else:
            gap = show_gap(value_of(row["difference"]), "share")
            found = value_of(row["difference"])
            alone = found.n >= FEWEST_SEEDS and not found.low <= 0 <= found.high
            told = "yes" if row["told"] else "only by itself" if alone else cannot_tell(row["needed"], "seeds")
            told += f" (p {show_p(row['p'])}, {show_p(row['p_holm'])} for all)"
        rows.append((Cell(name_of(row["method"])), Cell(f"{row['nats']:g}"), Cell(gap), Cell(told)))
    columns = ("", "at KL, nats", f"gold win rate less {name_of(against)}'s", "told apart?")
    return Table(
        columns, tuple(rows), "p of Student's paired test; for all: after Holm over the whole table.", wide=True
    )


def value_of(entry: Any) -> Estimate:
    """Return an estimate that must be there. Raises ValueError where it is none."""
    found = estimate(entry)
    if found is None:
        raise ValueError("an estimate lacks a finite value, low, high or n")
    return found


def _scaled(one: Estimate, factor: float) -> Estimate:
    return Estimate(factor * one.value, factor * one.low, factor * one.high, one.n)


def name_of(method: str) -> str:
    """Return what people read for a method, or for an arm of it."""
    if method == BEST:
        return "Best of n (KL at most)"
    head, underscore, rest = method.partition("_leash_")
    return head + (f", leash x {rest}" if underscore else "")
