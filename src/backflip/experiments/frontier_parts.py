"""The paths of a frontier, read from the run folders of its arms, and what they say of methods at equal KL.

No experiment. Left out: the arms (`method_arms`), and the measure of one path (`measures.along_kl`).
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from backflip.errors import DataError
from backflip.measures.along_kl import value_at_kl
from backflip.measures.paired import FEWEST_SEEDS, holm
from backflip.measures.seeds import seed_difference
from backflip.measures.stats import mean_interval, share_interval
from backflip.run_record import read_run

MEASURES = ("gold_win_rate", "gold")
MARGIN = 0.03
"""Gold win rate by which a method had to be above the first one, to refute the prediction."""
UNTRAINED = 0.01
"""KL, nats, above which a first look is not at the base itself: an untrained policy that is asked for something."""
PREDICTED_BELOW = ("sft", "feedme")


@dataclass(frozen=True)
class Path:
    """Where one run went: KL and gold at each of its looks, in the order of training; or best-of-n as n doubles."""

    kl_nats: list[float]
    gold_win_rate: list[float]
    gold: list[float]

    def as_json(self) -> dict[str, list[float]]:
        """Return plain data."""
        return asdict(self)


def path_of(folder: pathlib.Path) -> Path:
    """Return the path of a finished run.

    Raises:
        DataError: it was never looked at.
    """
    looks = [row for row in read_run(folder).metrics if row.get("phase") == "check"]
    if not looks:
        raise DataError(f"{folder} has no look at held-out openings; expected rows of the phase check in metrics.jsonl")
    # A frozen policy's KL to itself is 0 up to rounding.
    return Path(
        [max(0.0, float(row["kl_nats_per_sequence"])) for row in looks],
        [float(row["gold_win_rate"]) for row in looks],
        [float(row["gold"]) for row in looks],
    )


def best_of_n_path(folder: pathlib.Path) -> Path:
    """Return best-of-n for n = 1, 2, 4, ... by the reward of a finished run, each at the upper bound of its KL.

    Raises:
        DataError: the run learned no reward.
    """
    rows = read_run(folder).results.get("best_of_n")
    if not rows:
        raise DataError(f"{folder} has no results/best_of_n.json; expected a run that learned a reward")
    return Path(
        [float(row["kl_bound_nats"]) for row in rows],
        [float(row["gold_win_rate"]["value"]) for row in rows],
        [float(row["gold"]["value"]) for row in rows],
    )


def mean_path(paths: Sequence[Path]) -> dict[str, list[Any]]:
    """Return the mean over seeds of every look that all paths have, gold with its interval over seeds."""
    looks = min(len(one.kl_nats) for one in paths)
    return {
        "kl_nats": [mean_interval([one.kl_nats[look] for one in paths]) for look in range(looks)],
        "gold_win_rate": [share_interval([one.gold_win_rate[look] for one in paths]) for look in range(looks)],
        "gold": [mean_interval([one.gold[look] for one in paths]) for look in range(looks)],
    }


def compare_at_equal_kl(
    paths: Mapping[str, Mapping[int, Path]], against: str, nats: Sequence[float]
) -> list[dict[str, Any]]:
    """Compare every method with `against`, on the seeds in which both pass a KL; p-values are raised for all comparisons of one measure together.

    A row has `method`, `nats`, `measure`, `seeds`; where two seeds or more pass it, `difference`, `p`, `p_holm`, `needed`, and `told`:
    whether FEWEST_SEEDS or more tell the two apart after Holm.
    """
    rows: list[dict[str, Any]] = []
    for method in (name for name in paths if name != against):
        for kl in nats:
            for measure in MEASURES:
                ours, theirs = (_at(paths[name], measure, kl) for name in (method, against))
                gap = seed_difference(theirs, ours)
                row: dict[str, Any] = {"method": method, "nats": kl, "measure": measure}
                row["seeds"] = len(set(ours) & set(theirs))
                if gap is not None:
                    row |= {"difference": gap.difference, "p": gap.p, "needed": gap.needed, "told": gap.told}
                rows.append(row)
    for measure in MEASURES:
        tested = [row for row in rows if row["measure"] == measure and "p" in row]
        for row, raised in zip(tested, holm([row["p"] for row in tested]), strict=True):
            row |= {"p_holm": raised, "told": row["told"] and raised < 0.05}
    return rows


def _at(paths: Mapping[int, Path], measure: str, nats: float) -> dict[int, float]:
    """Return the value of each seed that passes a KL; a policy that stands away from the base before its first update has not come there by learning."""
    found: dict[int, float | None] = {}
    for seed, one in paths.items():
        first = int(one.kl_nats[0] > UNTRAINED)
        found[seed] = value_at_kl(one.kl_nats[first:], getattr(one, measure)[first:], nats)
    return {seed: value for seed, value in found.items() if value is not None}


def verdict(compared: Sequence[Mapping[str, Any]], against: str, seeds: int) -> list[str]:
    """Say how the predictions came out; the last sentence is the one to be read first."""
    rows = [row for row in compared if row["measure"] == "gold_win_rate" and "difference" in row]
    said = _told(rows, against)
    for method in PREDICTED_BELOW:
        own = [row for row in rows if row["method"] == method]
        if not own:
            continue
        below = [row for row in own if row["told"] and row["difference"].high < 0]
        turned = [row for row in own if row["told"] and row["difference"].low > 0]
        where = " and ".join(f"{row['nats']:g}" for row in below)
        how = "refuted" if turned else "held" if len(below) == len(own) else "not decided, this n cannot tell"
        how += f" at every KL, though it held at {where} nats" if below and not turned and len(below) < len(own) else ""
        said.append(f'prediction "{method} is below {against} at equal KL": {how}')
    above = [row for row in rows if row["told"] and row["difference"].low > MARGIN]
    within = [row for row in rows if row["difference"].high < MARGIN]
    few = f"{seeds} seeds are fewer than the {FEWEST_SEEDS} that may tell methods apart"
    title = f'"at equal KL no method is above {against} by more than {100 * MARGIN:.0f} points"'
    if above:
        said.append(f"prediction {title}: refuted by {'; '.join(_words(row) for row in above)}")
    elif rows and len(within) == len(rows) and seeds >= FEWEST_SEEDS:
        said.append(f"prediction {title}: held at all {len(rows)} comparisons")
    else:
        why = few if seeds < FEWEST_SEEDS else f"{len(rows) - len(within)} of {len(rows)} intervals reach beyond it"
        said.append(f"prediction {title}: not decided, this n cannot tell ({why})")
    return said


def _words(row: Mapping[str, Any]) -> str:
    gap = row["difference"]
    return (
        f"{row['method']} at {row['nats']:g} nats {100 * gap.value:+.1f} points ({100 * gap.low:+.1f} to {100 * gap.high:+.1f}, "
        f"{gap.n} seeds)"
    )


def _told(rows: Sequence[Mapping[str, Any]], against: str) -> list[str]:
    """Name what is told apart, and what only seems to be: among many comparisons some intervals leave 0 out by chance."""
    told = [row for row in rows if row["told"]]
    enough = [row for row in rows if row["difference"].n >= FEWEST_SEEDS]
    seem = [row for row in enough if not row["told"] and not row["difference"].low <= 0 <= row["difference"].high]
    said = [f"told apart from {against}: {'; '.join(map(_words, told))}"] if told else []
    if seem:
        said.append(
            f"apart from {against} by themselves, but not among {len(rows)} comparisons (Holm): {'; '.join(map(_words, seem))}"
        )
    if rest := len(rows) - len(told) - len(seem):
        said.append(f"{rest} of {len(rows)} comparisons with {against} at equal KL: this n cannot tell them apart")
    return said
