"""The figures of over-optimisation: gold and proxy against the square root of the KL, with the laws drawn through the points.

Left out: what the numbers are (`overoptimisation_results`).

Shapes: S seeds, D points of a curve.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from backflip.measures.goodhart import Gains, value_at

if TYPE_CHECKING:
    from backflip.experiments.overoptimisation import OveroptimisationConfig
    from backflip.experiments.overoptimisation_curves import Curve

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
    by_size = {size: of[f"{size}_{most}"] for size in config.sizes}
    top = {"name": "gold itself", "x": ideal.d_SD[0].tolist(), "y": ideal.mean.tolist(), "colour": 7}
    bound = f"n = 2 to {config.largest_n:,}; d at the bound ln n - (n - 1) / n."
    law = f"{bound} Lines: d (a - b d)."
    found = {
        "sizes_gold": _panel(f"Best-of-n, {most:,} labels: gold", law, GOLD, by_size, [top]),
        "sizes_proxy": _panel(f"Best-of-n, {most:,} labels: proxy", bound, PROXY, by_size, proxy=True),
    }
    for size in config.sizes:
        by_labels = {f"{labels:,} labels": of[f"{size}_{labels}"] for labels in config.labels}
        found[f"labels_gold_{size}"] = _panel(f"Best-of-n, {size}: gold", law, GOLD, by_labels)
        if size == cell.size:
            found[f"labels_proxy_{size}"] = _panel(f"Best-of-n, {size}: proxy", bound, PROXY, by_labels, proxy=True)
    said = f"{law} {config.members} members on the same labels."
    found["ensembles"] = _panel(f"Ensembles of {cell.title}: gold", said, GOLD, ruled)
    if pushed:
        said = f"A point every {config.push.every} updates, d from the exact KL; seeds at their mean d."
        titles = {curve.title.removeprefix("PPO on "): curve for curve in pushed.values()}
        found["ppo_gold"] = _panel("PPO without a leash: gold", f"{said} Lines: d (a - b ln d).", GOLD, titles)
        found["ppo_proxy"] = _panel("PPO without a leash: proxy", said, PROXY, titles, proxy=True)
    return found


def _panel(
    title: str,
    caption: str,
    y: Mapping[str, str],
    curves: Mapping[str, Curve],
    more: Sequence[dict[str, Any]] = (),
    proxy: bool = False,
) -> dict[str, Any]:
    series: list[dict[str, Any]] = []
    for place, (name, curve) in enumerate(curves.items()):
        gains = curve.proxy if proxy else curve.gold
        points = range(gains.d_SD.shape[1])
        one = {
            "name": name,
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
        series += [one, {"name": f"{name}, law", "x": d_line.tolist(), "y": drawn.tolist(), "colour": place}]
    return {"title": title, "caption": caption, "x": DISTANCE, "y": dict(y), "series": [*series, *more]}
