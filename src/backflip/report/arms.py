"""The part of a page that looks into a comparison's arms: every run beside the others of its arm, and the way to its own page.

An arm's run is a run folder like any other, `RUN/arms/ARM/seed_K`. Leaves out what the arms mean, which their experiment's estimates say.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from backflip.data import Estimate
from backflip.errors import DataError
from backflip.measures.stats import mean_interval, share_interval
from backflip.report.evidence import Evidence, gather
from backflip.report.marks import Axis, Dots, dot, run_role
from backflip.report.render import Section
from backflip.report.tables import Cell, Table, cell
from backflip.report.wording import show, wording

PAGE = "report.html"
SHOWN = ("true_return", "pair_accuracy")
"""Estimates of an arm's runs that stand in the table; the others are on their own pages."""


def runs_within(run: Path) -> list[Evidence]:
    """Return the runs of a comparison's arms, as far as they have begun, by arm and seed."""
    found: list[Evidence] = []
    for config in run.glob("arms/*/*/config.json"):
        try:
            found.append(gather(config.parent))
        except DataError:  # not yet a run: its process has only made the folder
            continue
    return sorted(found, key=lambda one: (one.path.parent.name, one.record.seed or 0))


def arms_section(run: Path, within: Sequence[Evidence], measures: Sequence[str] = ()) -> Section | None:
    """Return the arms side by side, each number with its spread over seeds, and every run with its page; None without arms.

    `measures` are those of a sweep, which draws its figures itself (`sweep.py`).
    """
    if not within:
        return None
    done = [one for one in within if one.record.status == "done"]
    shared = [name for name in measures or SHOWN if any(name in one.estimates for one in done)]
    figures = () if measures else tuple(_over_seeds(name, done) for name in shared)
    rows = tuple(
        (
            Cell(
                f"{_arm(one)}, {one.name.replace('_', ' ')}",
                link=quote(str(one.path.relative_to(run.resolve()) / PAGE)),
            ),
            Cell(one.record.status),
            *(cell(one.estimates.get(name), name) for name in shared),
            Cell(show(one.spent["seconds_in_all"], "seconds") if "seconds_in_all" in one.spent else "-"),
        )
        for one in within
    )
    columns = ("Run", "status", *(wording(name).label for name in shared), "time")
    caption = "Each is a run of its own, with its clips, questions and answers; its page lies beside it and is linked from its name."
    intro = "" if len(done) == len(within) else f"{len(done)} of {len(within)} runs that have begun are finished."
    table = Table(columns, rows, caption, folded=f"All {len(within)} runs")
    return Section("arms", "The runs of each arm", intro, figures, tables=(table,))


def _arm(one: Evidence) -> str:
    return one.path.parent.name.replace("_", " ")


def _over_seeds(name: str, done: Sequence[Evidence]) -> Dots:
    held: dict[str, list[float]] = {}
    for one in done:
        if name in one.estimates:
            held.setdefault(_arm(one), []).append(one.estimates[name].value)
    words = wording(name)
    spread = {arm: _spread(values, share=words.unit == "share") for arm, values in held.items()}
    rows = tuple(dot(arm, run_role(place), each) for place, (arm, each) in enumerate(spread.items()))
    caption = f"{words.meaning} Mean over the arm's runs, with its 95 % interval over them.".strip()
    return Dots(f"arms-{name}", words.label, caption, Axis(words.label, words.unit), rows)


def _spread(values: Sequence[float], *, share: bool) -> Estimate:
    if len(values) > 1:
        return share_interval(values) if share else mean_interval(values)
    return Estimate(values[0], values[0], values[0], 0)
