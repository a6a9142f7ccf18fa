"""Read the figures that an experiment itself describes: exact curves, and measured points with intervals over them.

`results/lines.json` maps an id to a title, a caption, two axes and series. A series holds `x` and either `y`, a curve that is drawn
as a line (exact, computed), or `estimates` as in `summary.json`, drawn as points with their intervals (measured), and with `"joined": true` as a
line in a band. `colour`, a number from 0, gives two series one colour, a curve and the points it was fitted to. What cannot be read is named and left out. Leaves out figures that the page works out from metrics and tables (`figures`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from backflip.data import Estimate
from backflip.report.evidence import estimate, number
from backflip.report.marks import Axis, Lines, Series, run_role
from backflip.report.wording import Unit

WHERE = "results/lines.json"


def read_lines(value: object, faults: list[str]) -> tuple[Lines, ...]:
    """Return the figures of a run's `results/lines.json`; append to `faults` what is none."""
    if value is None:
        return ()
    if not isinstance(value, Mapping):
        faults.append(f"{WHERE} holds {type(value).__name__}, expected an object; it is left out")
        return ()
    found: list[Lines] = []
    for name, entry in value.items():
        try:
            found.append(_figure(str(name), entry))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
            faults.append(f"{WHERE}: figure {str(name)!r} cannot be drawn ({reason}); it is left out")
    return tuple(found)


def _figure(name: str, entry: Mapping[str, Any]) -> Lines:
    series = tuple(_series(one, place) for place, one in enumerate(entry["series"]))
    if not series:
        raise ValueError("it has no series")
    return Lines(
        f"lines-{name}",
        str(entry["title"]),
        str(entry.get("caption", "")),
        _axis(entry["x"]),
        _axis(entry["y"]),
        series,
        nearest="point",
    )


def _axis(entry: Mapping[str, Any]) -> Axis:
    unit: Unit = entry.get("unit", "number")
    if unit not in get_args(Unit):
        raise ValueError(f"unit {unit!r} is none of {', '.join(get_args(Unit))}")
    return Axis(str(entry["label"]), unit)


def _series(entry: Mapping[str, Any], place: int) -> Series:
    name, role, x = str(entry["name"]), run_role(int(entry.get("colour", place))), _numbers(entry["x"])
    if "estimates" not in entry:
        y = _numbers(entry["y"])
        if len(x) != len(y) or not x:
            raise ValueError(f"series {name!r} has {len(x)} x and {len(y)} y")
        return Series(name, role, x, y)
    measured = [_estimate(one) for one in entry["estimates"]]
    if len(x) != len(measured) or not x:
        raise ValueError(f"series {name!r} has {len(x)} x and {len(measured)} estimates")
    return Series(
        name,
        role,
        x,
        tuple(one.value for one in measured),
        tuple(one.low for one in measured),
        tuple(one.high for one in measured),
        tuple(f"n = {one.n:,}" for one in measured),
        mark="both" if entry.get("joined") else "points",
        apart=not entry.get("joined"),
    )


def _numbers(values: Sequence[Any]) -> tuple[float, ...]:
    found = [number(value) for value in values]
    if any(value is None for value in found):
        raise ValueError("a coordinate is no finite number")
    return tuple(value for value in found if value is not None)


def _estimate(value: Any) -> Estimate:
    found = estimate(value)
    if found is None:
        raise ValueError("an estimate lacks a finite value, low, high or n")
    return found
