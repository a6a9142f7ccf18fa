"""Figures that a run describes itself: exact lines, measured points, and what is wrong named."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from backflip.report.curves import read_lines
from backflip.report.evidence import gather
from backflip.report.page import run_page
from backflip.report.render import render
from backflip.run import Run

FIGURE: dict[str, Any] = {
    "title": "Fooling",
    "caption": "Where it ends.",
    "x": {"label": "p", "unit": "share"},
    "y": {"label": "Episodes", "unit": "share"},
    "series": [
        {"name": "exact", "x": [0, 0.5, 0.5, 1], "y": [1, 1, 0, 0]},
        {"name": "learned", "x": [0.2], "estimates": [{"value": 0.9, "low": 0.8, "high": 1.0, "n": 5}]},
    ],
}


def test_a_line_is_drawn_as_a_line_and_estimates_as_points_with_intervals() -> None:
    faults: list[str] = []
    (figure,) = read_lines({"fooling": FIGURE}, faults)
    exact, learned = figure.series
    assert not faults and figure.id == "lines-fooling" and figure.y.unit == "share"
    assert (exact.mark, exact.low, exact.x) == ("line", (), (0, 0.5, 0.5, 1))
    assert (learned.mark, learned.low, learned.high, learned.notes) == ("points", (0.8,), (1.0,), ("n = 5",))


def test_the_page_shows_them_in_a_section_of_their_own(tmp_path: Path) -> None:
    run = Run.create("camera", {"seed": 0}, root=tmp_path, folder=tmp_path / "run", seed=0)
    run.result("lines", {"fooling": FIGURE, "broken": {"title": "x"}})
    run.finish()
    page = run_page(gather(tmp_path / "run"))
    (section,) = [one for one in page.sections if one.id == "lines"]
    assert [one.id for one in section.figures] == ["lines-fooling"]
    assert any("figure 'broken' cannot be drawn (it lacks 'series')" in line for line in page.warnings)
    assert "Where it ends." in render(page)


def wrong(path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """Return the figure with one part of it replaced."""
    figure = deepcopy(FIGURE)
    part: Any = figure
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return figure


@pytest.mark.parametrize(
    ("figure", "words"),
    [
        (wrong(("series",), []), "no series"),
        (wrong(("series", 0, "y"), [1]), "4 x and 1 y"),
        (wrong(("series", 0, "y"), [1, 1, None, 0]), "no finite number"),
        (wrong(("series", 1, "estimates"), [{"value": 1.0}]), "an estimate lacks"),
        (wrong(("series", 1, "x"), [0.1, 0.2]), "2 x and 1 estimates"),
        (wrong(("x", "unit"), "furlong"), "furlong"),
        (wrong(("y",), None), "NoneType"),
        ([1], "list"),
    ],
)
def test_what_cannot_be_drawn_is_named_and_left_out(figure: Any, words: str) -> None:
    faults: list[str] = []
    assert [one.id for one in read_lines({"bad": figure, "good": FIGURE}, faults)] == ["lines-good"]
    assert len(faults) == 1 and "'bad'" in faults[0] and words in faults[0]


def test_what_is_no_object_is_named() -> None:
    faults: list[str] = []
    assert read_lines([FIGURE], faults) == () and "expected an object" in faults[0]
    assert read_lines(None, faults) == () and len(faults) == 1
