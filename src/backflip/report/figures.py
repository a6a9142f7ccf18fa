"""Choose and fill every figure of a one-run page: which series, which intervals, which words and reference lines.

A figure whose data a run did not write is left out, never drawn empty. Leaves out drawing (the script in the page).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from backflip.report.evidence import Evidence, number
from backflip.report.intervals import interval_of
from backflip.report.marks import Axis, Dots, Lines, Reference, Series, dot, run_role
from backflip.report.wording import POLICIES, show, wording

TRAINED = "ppo"
"""The colour role of the policy that a run trained, whatever the method."""


def role_of(policy: str, place: int = 0) -> str:
    """Return the colour role of a policy; a policy without one of its own takes the next free run colour."""
    return policy if policy in POLICIES else run_role(place)


def column(rows: Sequence[Mapping[str, float]], x: str, y: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the (x, y) pairs of the rows that hold both."""
    pairs = [(row[x], row[y]) for row in rows if x in row and y in row]
    return tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs)


def path_series(rows: Sequence[Mapping[str, float]], measure: str, name: str, role: str) -> Series | None:
    """Return one measure of the checks against KL, in the order of training."""
    kl = "kl_nats_per_sequence"
    held = [row for row in rows if kl in row and measure in row]
    if not held:
        return None
    ends = [interval_of(row, measure) for row in held]
    whole = [end for end in ends if end is not None]
    complete = len(whole) == len(held)
    return Series(
        name,
        role,
        tuple(row[kl] for row in held),
        tuple(row[measure] for row in held),
        tuple(end[0] for end in whole) if complete else (),
        tuple(end[1] for end in whole) if complete else (),
        tuple(f"check at update {row.get('step', place):.0f}" for place, row in enumerate(held)),
        mark="both",
    )


def _best_of_n_series(rows: Sequence[Mapping[str, Any]], measure: str) -> Series | None:
    """Return one measure of best-of-n against its KL: exact where written, else the bound."""
    points: list[tuple[float, float, float, float, str]] = []
    for row in rows:
        kl = number(row.get("kl_nats_per_sequence"))
        kl = number(row.get("kl_bound_nats")) if kl is None else kl
        entry = row.get(measure)
        value = number(entry.get("value")) if isinstance(entry, Mapping) else number(entry)
        if kl is None or value is None:
            continue
        low, high = (
            (number(entry.get("low")), number(entry.get("high"))) if isinstance(entry, Mapping) else (None, None)
        )
        exact = "exact KL" if number(row.get("kl_nats_per_sequence")) is not None else "KL is its upper bound"
        points.append(
            (kl, value, value if low is None else low, value if high is None else high, f"n = {row['n']:.0f}, {exact}")
        )
    if not points:
        return None
    kl, value, low, high, notes = zip(*points, strict=True)
    measured = any(point[2] < point[3] for point in points)
    name = POLICIES["best_of_n"]
    return Series(name, "best_of_n", kl, value, low if measured else (), high if measured else (), notes, mark="both")


AGAINST_KL = ("gold_win_rate", "win_rate", "proxy", "gold")
"""Measures drawn against KL; a check that logs one of them gets a panel."""


def _ends(evidence: Evidence, measure: str) -> list[Series]:
    """Return where the path begins and ends: the base, and the final measurement with its interval."""
    ours = evidence.method
    kl = evidence.table.get(ours, {}).get("kl_nats_per_sequence")
    base = evidence.table.get("base", {}).get(measure)
    final = evidence.table.get(ours, {}).get(measure) or evidence.estimates.get(f"{ours}_{measure}")
    ends = [("Base", "base", 0.0, base)] if base else []
    ends += [(f"{evidence.label(ours)}, final", TRAINED, kl.value, final)] if kl and final else []
    return [
        Series(name, role, (nats,), (one.value,), (one.low,), (one.high,), (f"n = {one.n:,}",), mark="points")
        for name, role, nats, one in ends
    ]


def kl_figures(evidence: Evidence) -> list[Lines]:
    """Describe proxy and gold against KL, one panel each on the same x: where they part, the proxy is being gamed."""
    checks = evidence.metrics.get("check", [])
    figures: list[Lines] = []
    for measure in AGAINST_KL:
        found = (
            path_series(checks, measure, evidence.label(evidence.method), TRAINED),
            _best_of_n_series(evidence.best_of_n, measure),
        )
        series = tuple(one for one in found if one is not None)
        if not series or (measure == "gold" and any(figure.id == "kl-gold_win_rate" for figure in figures)):
            continue
        series += tuple(_ends(evidence, measure))
        words = wording(measure)
        rate = words.unit == "share"
        figures.append(
            Lines(
                f"kl-{measure}",
                words.label,
                words.meaning,
                Axis("KL from base, nats per answer", "nats", low=0.0, root_choice=True),
                Axis(words.label, words.unit),
                series,
                (Reference("no better than base", 0.5),) if rate else (),
                nearest="point",
            )
        )
    return figures


_TRAINING = ("proxy_mean", "kl_nats_per_sequence", "entropy_nats", "length_tokens", "value_loss", "clip_fraction")


def training_figures(evidence: Evidence) -> list[Lines]:
    """Describe the curves of policy optimisation, one small panel each."""
    rows = evidence.metrics.get(evidence.method, [])
    figures: list[Lines] = []
    for measure in _TRAINING:
        x, y = column(rows, "step", measure)
        if len(x) < 2:
            continue
        words = wording(measure)
        figures.append(
            Lines(
                f"ppo-{measure}", words.label, words.meaning, Axis("Update"), Axis(words.label, words.unit),
                (Series(evidence.label(evidence.method), TRAINED, x, y),),
            )
        )  # fmt: skip
    return figures


def other_figures(evidence: Evidence) -> dict[str, list[Lines]]:
    """Describe the curves of every phase that has no part of its own on the page, by phase."""
    found: dict[str, list[Lines]] = {}
    own = (evidence.method, "reward", "check")
    for phase, rows in evidence.metrics.items():
        names = dict.fromkeys(key for row in rows for key in row if key not in ("step", "seconds", "epoch", "member"))
        curves = [(name, *column(rows, "step", name)) for name in names if phase not in own]
        found[phase] = [
            Lines(
                f"{phase}-{name}", wording(name).label, wording(name).meaning, Axis("Step"),
                Axis(wording(name).label, wording(name).unit), (Series(phase, "run0", x, y),),
            )
            for name, x, y in curves
            if len(x) > 1
        ]  # fmt: skip
    return {phase: figures for phase, figures in found.items() if figures}


def overlay_figure(evidence: Evidence) -> Lines | None:
    """Describe loss curves that the run laid over each other (results/curve.json: name -> points of step and loss)."""
    series = [
        Series(name, run_role(place), *column(rows, "step", "loss"))
        for place, (name, rows) in enumerate(evidence.overlay.items())
        if len(rows) > 1
    ]
    if not series:
        return None
    caption = "Where two curves meet, the shorter run does what the longer one did."
    return Lines("overlay", "Loss curves", caption, Axis("Step"), Axis("Loss"), tuple(series))


def table_figures(evidence: Evidence) -> list[Dots]:
    """Describe each measure of the results table as dots with intervals, one panel a measure."""
    figures: list[Dots] = []
    for measure in evidence.measures:
        rows = [
            dot(
                evidence.label(policy) + (", at most" if evidence.is_bound(policy, measure) else ""),
                role_of(policy, place),
                row[measure],
            )
            for place, (policy, row) in enumerate(evidence.table.items())
            if measure in row
        ]
        words = wording(measure)
        rate = measure.endswith("win_rate")
        figures.append(
            Dots(
                f"table-{measure}", words.label, words.meaning, Axis(words.label, words.unit), tuple(rows),
                (0.5, "no better than base") if rate else None,
            )
        )  # fmt: skip
    return figures


def scatter_figure(evidence: Evidence) -> Lines | None:
    """Describe gold against proxy, one point an answer: a proxy that means anything leans upwards."""
    names = list(dict.fromkeys(name for sample in evidence.samples for name in sample.answers))
    series: list[Series] = []
    for place, name in enumerate(names):
        pairs = [
            (s.proxy[name], s.gold[name], i)
            for i, s in enumerate(evidence.samples)
            if name in s.proxy and name in s.gold
        ]
        if len(pairs) < 3:
            continue
        x, y, index = zip(*pairs[:500], strict=True)
        label = f"{evidence.label(name)}, r = {_correlation(pairs)}"
        notes = tuple(f"sample {i + 1}" for i in index)
        series.append(Series(label, role_of(name, place), x, y, notes=notes, mark="points"))
    if not series:
        return None
    return Lines(
        "scatter",
        "Gold against proxy, answer by answer",
        f"At most 500 answers of each policy. r is Pearson's correlation over all {len(evidence.samples):,} samples: "
        f"where it falls from base to {evidence.label(evidence.method)}, the reward model means less on the answers that it was used to find.",
        Axis(wording("proxy").label),
        Axis(wording("gold").label),
        tuple(series),
        nearest="point",
    )


def _correlation(pairs: Sequence[tuple[float, float, int]]) -> str:
    n = len(pairs)
    mean_x, mean_y = sum(p[0] for p in pairs) / n, sum(p[1] for p in pairs) / n
    both = sum((p[0] - mean_x) * (p[1] - mean_y) for p in pairs)
    spread = math.sqrt(sum((p[0] - mean_x) ** 2 for p in pairs) * sum((p[1] - mean_y) ** 2 for p in pairs))
    return show(both / spread, bare=True) if spread > 0 else "undefined"


def check_figures(evidence: Evidence) -> list[Lines]:
    """Describe what the checks on held-out openings say of diversity and length while training goes on."""
    rows = evidence.metrics.get("check", [])
    figures: list[Lines] = []
    for measure in ("distinct2", "distinct2_ratio", "repetition", "entropy_nats", "length_tokens", "length"):
        x, y = column(rows, "step", measure)
        if len(x) < 2:
            continue
        words = wording(measure)
        series = (Series(evidence.label(evidence.method), TRAINED, x, y, mark="both"),)
        title = f"{words.label} while training"
        figures.append(Lines(f"check-{measure}", title, "", Axis("Update"), Axis(words.label, words.unit), series))
    return figures
