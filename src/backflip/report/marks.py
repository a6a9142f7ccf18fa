"""The two kinds of figure a page can hold, as plain data: curves or points, and dots with intervals.

A figure is decided in Python, where it can be tested without a browser; the script in the page only draws it.
Leaves out pixels and colours: a series names its role (`base`, `ppo`, `run2`), and the style sheet gives that role
a colour that people with any colour vision can tell from the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from backflip.data import Estimate
from backflip.report.wording import Unit

RUN_ROLES = 9
"""Roles `run0`, `run1`, ... that the style sheet has a colour for."""


def run_role(place: int) -> str:
    """Return the role of the series at this place among others of its kind; they come round again after RUN_ROLES."""
    return f"run{place % RUN_ROLES}"


@dataclass(frozen=True)
class Axis:
    """One axis: what it shows and in which unit."""

    label: str
    unit: Unit = "number"
    low: float | None = None
    high: float | None = None
    root_choice: bool = False
    """Offer the square root as a scale, on which over-optimisation curves are read (Gao et al. 2022)."""
    rooted: bool = False
    """Begin on that scale."""


@dataclass(frozen=True)
class Series:
    """One curve or cloud of points; `low` and `high` are the ends of 95 % intervals or empty."""

    name: str
    role: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()
    """Said beside each point when it is pointed at."""
    mark: Literal["line", "points", "both"] = "line"
    apart: bool = False
    """The points are estimates of different things: intervals as whiskers, not joined to a band."""


@dataclass(frozen=True)
class Reference:
    """A line to compare with: at a height, or the diagonal."""

    label: str
    y: float | None = None
    """None: the diagonal."""


@dataclass(frozen=True)
class Lines:
    """Curves or points against a common x axis."""

    id: str
    title: str
    caption: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    references: tuple[Reference, ...] = ()
    nearest: Literal["x", "point"] = "x"
    """Whether pointing reads every series at one x, or the single nearest point."""
    wide: bool = False
    """Give it the whole width of the page: many curves."""
    kind: Literal["lines"] = "lines"

    def as_json(self) -> dict[str, Any]:
        """Return plain data with numbers cut to six digits, which no eye can tell from the full ones."""
        return rounded(asdict(self))


@dataclass(frozen=True)
class Dot:
    """One estimate in a dot plot; without an interval `n` is 0."""

    label: str
    role: str
    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Dots:
    """Estimates under each other on one axis, each with its interval, value and n."""

    id: str
    title: str
    caption: str
    x: Axis
    rows: tuple[Dot, ...]
    reference: tuple[float, str] | None = None
    bars: bool = False
    """Draw a bar from zero: for amounts that add up, never for estimates."""
    kind: Literal["dots"] = "dots"

    def as_json(self) -> dict[str, Any]:
        """Return plain data."""
        return rounded(asdict(self))


Figure = Lines | Dots


def rounded(value: Any) -> Any:
    """Cut every float inside plain data to six significant digits."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: rounded(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(entry) for entry in value]
    return value


def dot(label: str, role: str, measured: Estimate) -> Dot:
    """Return an estimate as a row of a dot plot."""
    return Dot(label, role, measured.value, measured.low, measured.high, measured.n)
