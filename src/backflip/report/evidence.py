"""Turn a run folder into checked, typed evidence for a page, and list what is missing or broken.

A run may be finished, still going, stopped, failed or killed half-way through a line: whatever can be read is
used, and everything that cannot is named in `faults`, so that a gap on the page is never mistaken for a zero.
Leaves out drawing and wording.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backflip.data import Estimate
from backflip.report.wording import policy_key, policy_label
from backflip.run import RunRecord, read_run

MAX_ROWS_A_PHASE = 2000
"""Metric rows embedded for each phase; beyond it rows are thinned evenly, extremes kept, and the page says so."""
TELLING = (
    "gold_win_rate", "win_rate", "kl_nats_per_sequence", "entropy_nats", "distinct2", "repetition", "length_tokens",
)  # fmt: skip
"""The order in which measures are read; others follow as they were written."""
MAX_SAMPLES = 5000
"""Sample rows embedded; the page says how many there were."""


@dataclass(frozen=True)
class Sample:
    """One opening with every policy's answer and their scores; a score nobody computed is absent."""

    prompt: str
    answers: Mapping[str, str]
    proxy: Mapping[str, float]
    gold: Mapping[str, float]


@dataclass(frozen=True)
class Bin:
    """Held-out pairs to which the reward model gave about the same probability."""

    predicted: float
    observed: float
    n: int


@dataclass(frozen=True)
class RewardModelResult:
    """How well the reward model stands in for the overseer, and what trivial models reach."""

    accuracy: Estimate | None = None
    judge: str = "the overseer"
    """Whose choices accuracy and calibration are held against: where people judged, nobody is asked again for it."""
    ceiling: Estimate | None = None
    ece: Estimate | None = None
    """The expected calibration error: less what chance adds where `ece_seen` is recorded, as it was seen otherwise."""
    ece_seen: float | None = None
    ece_of_chance: float | None = None
    """What a perfectly calibrated model would show of the same error, by the luck of a finite sample."""
    bins: tuple[Bin, ...] = ()
    baselines: Mapping[str, Estimate] = field(default_factory=dict[str, Estimate])


@dataclass(frozen=True)
class Evidence:
    """All that a page says about one run comes from here."""

    path: Path
    record: RunRecord
    metrics: Mapping[str, list[dict[str, float]]]
    """Rows by phase, in the order logged."""
    thinned: Mapping[str, int]
    """Phases with more rows than are shown, and how many they had."""
    estimates: Mapping[str, Estimate]
    table: Mapping[str, Mapping[str, Estimate]]
    """policy -> measure -> estimate, in the order of the file."""
    labels: Mapping[str, str]
    """What the table calls its policies, such as `Best of 16`."""
    kl_is_bound: bool
    """True where the KL that the table gives for best-of-n is its upper bound."""
    reward_model: RewardModelResult | None
    best_of_n: tuple[Mapping[str, Any], ...]
    cost: Mapping[str, Any]
    overlay: Mapping[str, list[dict[str, float]]]
    """Curves to lay over each other, by name: points of step and loss."""
    samples: tuple[Sample, ...]
    samples_total: int
    faults: tuple[str, ...]

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def method(self) -> str:
        """The method that trained the policy; its results go by this name."""
        return _method(self.record)

    def label(self, policy: str) -> str:
        """Return what people read for a policy."""
        return self.labels.get(policy, policy_label(policy))

    @property
    def measures(self) -> list[str]:
        """The measures of the result table, the most telling first."""
        held = dict.fromkeys(measure for row in self.table.values() for measure in row)
        return sorted(held, key=lambda name: TELLING.index(name) if name in TELLING else len(TELLING))

    @property
    def partial(self) -> bool:
        """True unless the run says that it finished."""
        return self.record.status != "done"

    @property
    def spent(self) -> dict[str, float]:
        """What the run cost, by name: the ledger, then time in all (the summary's) and memory."""
        ledger = {key: value for key, value in self.cost.items() if key != "seconds"}
        ends = {
            "seconds_in_all": self.record.summary.get("seconds"),
            "peak_rss_mb": self.record.summary.get("peak_rss_mb"),
        }
        return {key: amount for key, value in {**ledger, **ends}.items() if (amount := number(value)) is not None}

    @property
    def command_line(self) -> str:
        """The exact command, quoted for a shell; empty where it was not recorded.

        The program stands as it is called, not as the path that it had on the machine of the run.
        """
        argv = self.record.command.get("argv")
        if not isinstance(argv, list) or not argv:
            return ""
        program, *rest = (str(part) for part in argv)
        called = ["python", "-m", "backflip"] if program.endswith("__main__.py") else [Path(program).name]
        return shlex.join([*called, *rest])

    def is_bound(self, policy: str, measure: str) -> bool:
        """Return whether a number of the results table is an upper bound and no measurement."""
        return policy == "best_of_n" and measure == "kl_nats_per_sequence" and self.kl_is_bound

    @property
    def has_gold(self) -> bool:
        """True where a gold judge scored anything in this run."""
        return (
            any(measure.startswith("gold") for row in self.table.values() for measure in row)
            or any(sample.gold for sample in self.samples)
            or any("gold" in key for row in self.metrics.get("check", []) for key in row)
        )


def gather(path: Path) -> Evidence:
    """Read a run folder, running or not.

    Raises DataError where the folder is no run.
    """
    record = read_run(path)
    faults = list(record.faults)
    metrics, thinned = _metrics(record.metrics)
    samples = _samples(record.samples, faults)
    table, labels, bound = _table(record.results.get("table"), _method(record), faults)
    return Evidence(
        path=record.path,
        record=record,
        metrics=metrics,
        thinned=thinned,
        estimates=_estimates(record.summary.get("estimates", {}), "summary.json", faults),
        table=table,
        labels=labels,
        kl_is_bound=bound,
        reward_model=_reward_model(record.results.get("reward_model"), faults),
        best_of_n=_best_of_n(record.results.get("best_of_n"), faults),
        cost=_mapping(record.results.get("cost"), "results/cost.json", faults),
        overlay=_overlay(record.results.get("curve"), faults),
        samples=tuple(samples[:MAX_SAMPLES]),
        samples_total=len(samples),
        faults=tuple(faults),
    )


def number(value: object) -> float | None:
    """Return a finite number as float, and None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def estimate(value: object) -> Estimate | None:
    """Read an estimate written by `Estimate.as_json`, or a plain number (an interval of no width, n 0: not measured)."""
    plain = number(value)
    if plain is not None:
        return Estimate(plain, plain, plain, 0)
    if not isinstance(value, Mapping):
        return None
    parts = [number(value.get(key)) for key in ("value", "low", "high")]
    n = number(value.get("n"))
    if parts[0] is None or parts[1] is None or parts[2] is None or n is None:
        return None
    return Estimate(parts[0], parts[1], parts[2], int(n))


def _mapping(value: object, where: str, faults: list[str]) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        faults.append(f"{where} holds {type(value).__name__}, expected an object; it is left out")
        return {}
    return value


def _rows(value: object, where: str, faults: list[str]) -> list[Mapping[str, Any]]:
    """Return the objects of a list and name what is none."""
    if value is None:
        return []
    if not isinstance(value, Sequence) or isinstance(value, str):
        faults.append(f"{where} holds {type(value).__name__}, expected a list; it is left out")
        return []
    rows = [row for row in value if isinstance(row, Mapping)]
    if len(rows) < len(value):
        faults.append(f"{where}: {len(value) - len(rows)} of {len(value)} rows are no objects and are left out")
    return rows


def _estimates(value: object, where: str, faults: list[str]) -> dict[str, Estimate]:
    found: dict[str, Estimate] = {}
    for name, entry in _mapping(value, f"{where} estimates", faults).items():
        read = estimate(entry)
        if read is None:
            faults.append(f"{where}: estimate {name!r} is no finite value with low, high and n; it is left out")
        else:
            found[str(name)] = read
    return found


def _metrics(rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, list[dict[str, float]]], dict[str, int]]:
    phases: dict[str, list[dict[str, float]]] = {}
    for row in rows:
        numbers = {key: read for key, value in row.items() if (read := number(value)) is not None}
        phases.setdefault(str(row.get("phase", "run")), []).append(numbers)
    thinned = {phase: len(found) for phase, found in phases.items() if len(found) > MAX_ROWS_A_PHASE}
    for row in phases.get("check", []):
        if "proxy_mean" in row:
            row.setdefault("proxy", row.pop("proxy_mean"))
    return {phase: _thin(found) for phase, found in phases.items()}, thinned


def _thin(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    """Keep evenly spaced rows, the last, and the rows that hold a metric's least or greatest value."""
    if len(rows) <= MAX_ROWS_A_PHASE:
        return rows
    stride = math.ceil(len(rows) / MAX_ROWS_A_PHASE)
    keep = {*range(0, len(rows), stride), len(rows) - 1}
    for name in {name for row in rows for name in row}:
        held = [place for place, row in enumerate(rows) if name in row]
        keep.add(min(held, key=lambda place: rows[place][name]))
        keep.add(max(held, key=lambda place: rows[place][name]))
    return [rows[place] for place in sorted(keep)]


def _method(record: RunRecord) -> str:
    return str(record.config.get("method") or "ppo")


def _table(
    value: object, method: str, faults: list[str]
) -> tuple[dict[str, dict[str, Estimate]], dict[str, str], bool]:
    """Return the table by policy, what its policies are called, and whether best-of-n's KL is a bound."""
    table: dict[str, dict[str, Estimate]] = {}
    labels: dict[str, str] = {}
    bound = False
    for row in _rows(value, "results/table.json", faults):
        name = str(row.get("policy", f"row {len(table) + 1}"))
        policy = method if name.lower().replace(" ", "_") == method else policy_key(name)
        labels[policy] = policy_label(policy) if name == policy else name[:1].upper() + name[1:]
        measures = {
            str(key): entry
            for key, entry in row.items()
            if key != "policy" and entry is not None and not isinstance(entry, bool)
        }
        table[policy] = _estimates(measures, f"results/table.json, {name}", faults)
        bound = bound or (policy == "best_of_n" and row.get("kl_is_bound") is True)
    return table, labels, bound


def _reward_model(value: object, faults: list[str]) -> RewardModelResult | None:
    where = "results/reward_model.json"
    found = _mapping(value, where, faults)
    if not found:
        return None
    bins: list[Bin] = []
    for row in _rows(found.get("bins"), f"{where} bins", faults):
        predicted, observed, n = (number(row.get(key)) for key in ("predicted", "observed", "n"))
        if predicted is not None and observed is not None and n and n >= 1 and 0 <= observed <= 1:
            bins.append(Bin(predicted, observed, int(n)))
    return RewardModelResult(
        accuracy=estimate(found.get("accuracy")),
        judge="the gold judge" if found.get("judge") == "the gold judge" else "the overseer",
        ceiling=estimate(found.get("ceiling")),
        ece=estimate(found.get("ece")),
        ece_seen=number(found.get("ece_seen")),
        ece_of_chance=number(found.get("ece_of_chance")),
        bins=tuple(bins),
        baselines=_estimates(found.get("baselines"), f"{where} baselines", faults),
    )


def _overlay(value: object, faults: list[str]) -> dict[str, list[dict[str, float]]]:
    curves: dict[str, list[dict[str, float]]] = {}
    for name, points in _mapping(value, "results/curve.json", faults).items():
        rows = _rows(points, f"results/curve.json, {name}", faults)
        curves[str(name)] = _thin(
            [{key: read for key, one in row.items() if (read := number(one)) is not None} for row in rows]
        )
    return curves


def _best_of_n(value: object, faults: list[str]) -> tuple[Mapping[str, Any], ...]:
    rows = _rows(value, "results/best_of_n.json", faults)
    return tuple(sorted((row for row in rows if number(row.get("n"))), key=lambda row: float(row["n"])))


def _samples(rows: Sequence[Mapping[str, Any]], faults: list[str]) -> list[Sample]:
    samples: list[Sample] = []
    for row in rows:
        answers = {str(key): text for key, text in row.items() if key != "prompt" and isinstance(text, str)}
        if isinstance(row.get("prompt"), str) and answers:
            samples.append(Sample(row["prompt"], answers, _scores(row.get("proxy")), _scores(row.get("gold"))))
    if len(samples) < len(rows):
        faults.append(f"samples.jsonl: {len(rows) - len(samples)} of {len(rows)} rows hold no prompt and answers")
    return samples


def _scores(value: object) -> dict[str, float]:
    if not isinstance(value, Mapping):
        return {}
    return {str(key): read for key, score in value.items() if (read := number(score)) is not None}
