"""The figures of over-optimisation: gold and proxy against the square root of the KL, with the laws drawn through the points.

Left out: what the numbers are (`overoptimisation_results`).

Shapes: S seeds, D points of a curve.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from backflip.measures.goodhart import FORMULA, Gains, value_at

if TYPE_CHECKING:
    from backflip.experiments.overoptimisation import OveroptimisationConfig
    from backflip.experiments.overoptimisation_results import Curve

DISTANCE = {"label": "d = square root of the KL from the base, nats"}
GOLD = {"label": "Gold gained, standard deviations of base answers"}
PROXY = {"label": "Proxy gained, standard deviations of base answers"}
POINTS = 61
"""Points of a law that is drawn as a line."""


def figures_of(
    single: Sequence[Curve],
    ruled: Mapping[str, Curve],
    pushed: Mapping[str, Curve],
    ideal: Gains,
    config: OveroptimisationConfig,
) -> dict[str, Any]:
    """Return the figures for `results/lines.json`; `ideal` is what best-of-n gains by gold itself."""
    of = {curve.name: curve for curve in single}
    most, cell = config.labels[-1], config.ensemble_cell
    by_size = [of[f"{size}_{most}"] for size in config.sizes]
    by_labels = [of[f"{cell.size}_{labels}"] for labels in config.labels]
    top = {"name": "gold itself as the proxy", "x": ideal.d_SD[0].tolist(), "y": ideal.mean.tolist(), "colour": 7}
    bound = f"Best-of-n at n = 2 to {config.largest_n:,}, d at the bound ln n - (n - 1) / n."
    found = {
        "sizes_gold": _panel(f"Best-of-n, {most:,} labels: gold", f"{bound} Lines: d (a - b d).", GOLD, by_size, [top]),
        "sizes_proxy": _panel(f"Best-of-n, {most:,} labels: proxy", bound, PROXY, by_size, proxy=True),
        "labels_gold": _panel(f"Best-of-n, {cell.size}: gold", f"{bound} Lines: d (a - b d).", GOLD, by_labels),
        "labels_proxy": _panel(f"Best-of-n, {cell.size}: proxy", bound, PROXY, by_labels, proxy=True),
    }
    others = [size for size in config.sizes if size != cell.size]
    for size in others:
        curves = [of[f"{size}_{labels}"] for labels in config.labels]
        found[f"labels_gold_{size}"] = _panel(f"Best-of-n, {size}: gold", f"{bound} Lines: d (a - b d).", GOLD, curves)
    found["ensembles"] = _panel(
        f"Ensembles against it: {cell.title}",
        f"{bound} {config.members} members on the same labels.",
        GOLD,
        list(ruled.values()),
    )
    if pushed:
        said = f"A point every {config.push.every} updates, d from the exact KL; seeds at their mean d. Lines: d (a - b ln d)."
        found["ppo_gold"] = _panel("PPO without a leash: gold", said, GOLD, list(pushed.values()))
        found["ppo_proxy"] = _panel(
            "PPO without a leash: proxy", said[: said.index(" Lines")], PROXY, list(pushed.values()), proxy=True
        )
    return found


def _panel(
    title: str,
    caption: str,
    y: Mapping[str, str],
    curves: Sequence[Curve],
    more: Sequence[dict[str, Any]] = (),
    proxy: bool = False,
) -> dict[str, Any]:
    series: list[dict[str, Any]] = []
    for place, curve in enumerate(curves):
        gains = curve.proxy if proxy else curve.gold
        points = range(gains.d_SD.shape[1])
        one = {
            "name": curve.title,
            "x": gains.d_SD.mean(0).tolist(),
            "estimates": [gains.at(point).as_json() for point in points],
            "colour": place,
        }
        if proxy:
            series.append({**one, "joined": True})
            continue
        law = curve.law
        d_line = np.linspace(0.0, float(gains.d_SD.mean(0).max()), POINTS)
        drawn = value_at(law.form, d_line, law.a.value, law.b.value if law.b else 0.0)
        name = f"{curve.title}: {FORMULA[law.form]}"
        series += [one, {"name": name, "x": d_line.tolist(), "y": drawn.tolist(), "colour": place}]
    return {"title": title, "caption": caption, "x": DISTANCE, "y": dict(y), "series": [*series, *more]}
