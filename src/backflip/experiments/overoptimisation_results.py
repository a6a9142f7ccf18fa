"""What was predicted of gold and proxy and what came of it: estimates, laws, samples, cost, and the sentence that sums them up.

Left out: the curves (`overoptimisation_curves`) and their figures (`overoptimisation_figures`).

Shapes: S seeds, K openings, N answers an opening, D points of a curve, M members.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from backflip.checkpoint import load_tensors
from backflip.data import Estimate
from backflip.experiments.overoptimisation_curves import (
    Curve,
    Scale,
    best_of_n_curves,
    best_of_n_gains,
    gain_at,
    ppo_curve,
)
from backflip.experiments.overoptimisation_figures import figures_of
from backflip.experiments.overoptimisation_proxies import Pool, Pushed, read_scores, rule_of
from backflip.experiments.overoptimisation_rl import pushed_name
from backflip.measures.best_of_n import kl_bound_nats
from backflip.measures.crossed import crossed_interval
from backflip.measures.goodhart import FORMULA
from backflip.worlds.text import TextWorld

if TYPE_CHECKING:
    from backflip.experiments.overoptimisation import OveroptimisationConfig
    from backflip.run import Run

Floats = NDArray[np.float64]
SAMPLES = 12
"""Openings whose answers are put side by side; all of them are in the run's checkpoints."""
BY_LUCK = 0.025
"""Share of curves that do not fall whose interval lies above 0 all the same."""
BESIDE_N = 16
"""PPO and best-of-n are compared at the distance of best-of-this."""
PREDICTED = (
    "stated before: gold falls again before n reaches its end for proxies that are small or have few labels; more labels and larger models end with more "
    "gold, ensembles with more than their members, and PPO pays more KL for the same gold; refuted if gold falls for sure nowhere, and each of "
    "the comparisons if its interval lies below 0"
)


@dataclass(frozen=True)
class Claim:
    """Something that was predicted before, and what was measured of it."""

    said: str
    measured: Estimate
    unit: str = "standard deviations of gold"

    @property
    def held(self) -> str:
        """Whether the interval lies above 0 (it held), below (it did not), or holds it."""
        return "held" if self.measured.low > 0 else "did not hold" if self.measured.high < 0 else "cannot be told"


def claims_of(
    single: list[Curve], ruled: Mapping[str, Curve], pushed: Mapping[str, Curve], config: OveroptimisationConfig
) -> dict[str, Claim]:
    """Return what was predicted before, with what was measured of it."""
    last = {curve.name: curve.gold.gain_SKD[:, :, -1] for curve in (*single, *ruled.values())}
    claims: dict[str, Claim] = {}
    few, many = config.labels[0], config.labels[-1]
    for size in config.sizes if few < many else ():
        claims[f"more_labels_{size}"] = Claim(
            f"{size}: at n = {config.largest_n:,}, {many:,} labels gain more gold than {few}",
            crossed_interval(last[f"{size}_{many}"] - last[f"{size}_{few}"]),
        )
    small, large = config.sizes[0], config.sizes[-1]
    if small != large:
        claims["larger"] = Claim(
            f"At n = {config.largest_n:,} and {many:,} labels, {large} gains more gold than {small}",
            crossed_interval(last[f"{large}_{many}"] - last[f"{small}_{many}"]),
        )
    cell = config.ensemble_cell
    for rule in ("mean", "worst", "uncertain"):
        claims[f"ensemble_{rule}"] = Claim(
            f"{cell.title}: at n = {config.largest_n:,} the {rule} of the ensemble gains more gold than its members by themselves",
            crossed_interval(last[f"{cell.name}_{rule}"] - last[f"{cell.name}_members"]),
        )
    at = float(np.sqrt(kl_bound_nats(BESIDE_N)))
    by_name = {curve.name: curve for curve in single}
    for name, curve in pushed.items():
        if name in by_name and at <= curve.gold.d_SD.max(1).min():
            claims[f"ppo_behind_{name}"] = Claim(
                f"{by_name[name].title}: at the KL of best of {BESIDE_N} ({at**2:.2f} nats) PPO has less gold than best-of-n",
                crossed_interval(gain_at(by_name[name].gold, at) - gain_at(curve.gold, at)),
            )
    return claims


def write_results(
    pool: Pool, world: TextWorld, fitted: Mapping[str, Mapping[str, float]], config: OveroptimisationConfig, run: Run
) -> None:
    """Write curves, laws, claims, figures, samples, cost and the sentence that sums them up."""
    single, ruled = best_of_n_curves(pool, config, run)
    pushed = {one.name: ppo_curve(one, pool, config, run) for one in config.pushed_proxies}
    curves = [*single, *ruled.values(), *pushed.values()]
    for curve in curves:
        way = "" if curve.how == "ppo" else "best_of_n_"
        run.estimate(f"{way}{curve.name}_highest_gold", curve.gold.at(curve.fall.point))
        run.estimate(f"{way}{curve.name}_last_gold", curve.gold.at(-1))
        run.estimate(f"{way}{curve.name}_fall", curve.fall.fall)
    claims = claims_of(single, ruled, pushed, config)
    for name, claim in claims.items():
        run.estimate(f"difference_{name}", claim.measured)
    run.result("laws", [_row(curve) for curve in curves])
    run.result(
        "claims",
        [{"said": one.said, "held": one.held, "measured": one.measured, "unit": one.unit} for one in claims.values()],
    )
    run.result(
        "lines",
        figures_of(single, ruled, pushed, best_of_n_gains(pool.gold_KN[None], pool, config.largest_n)[0], config),
    )
    asked = sum(one.get("judgements", 0) for one in _logged(run, "ask"))
    run.result(
        "cost",
        {
            "comparisons": asked,
            "judge": f"synthetic teacher, who turns {config.turned:.0%} of the labels round",
            "answers_sampled": pool.gold_KN.size + 2 * asked,
            "reward_models": len(fitted),
            "seconds": run.seconds,
            "seconds_by_phase": run.progress.seconds_by_phase,
        },
    )
    _write_samples(pool, world, config, run)
    for sentence in (
        PREDICTED,
        *_pool_words(pool, config),
        *(f"predicted: {one.said}. It {one.held}." for one in claims.values()),
    ):
        run.note(sentence)
    run.note(sentence_of(single, [*ruled.values(), *pushed.values()], config))


def sentence_of(single: list[Curve], others: list[Curve], config: OveroptimisationConfig) -> str:
    """Say in one sentence whether over-optimisation was found, and where not, how small a fall could have been seen."""
    fell = [curve for curve in (*single, *others) if curve.gamed]
    if not fell:
        widest = max(0.0, *(curve.fall.fall.high for curve in (*single, *others)))
        return (
            f"no over-optimisation was found here: in none of {len(single) + len(others)} curves does gold fall for sure while the proxy rises, best-of-n up to "
            f"n = {config.largest_n:,}; a fall of more than {widest:.2f} standard deviations is ruled out in each of them"
        )
    worst = max(fell, key=lambda curve: curve.fall.fall.value)
    by_n, chance = sum(curve.gamed for curve in single), BY_LUCK * (len(single) + len(others))
    fall = worst.fall.fall
    return (
        f"over-optimisation was found in {len(fell)} of {len(single) + len(others)} curves ({by_n} of {len(single)} proxies by best-of-n up to n = "
        f"{config.largest_n:,}): most in {worst.title}, where gold fell by {fall.value:.2f} ({fall.low:.2f} to {fall.high:.2f}) standard deviations "
        f"from its highest point while the proxy rose. By luck alone about {chance:.1f} of the curves would seem to"
    )


def _pool_words(pool: Pool, config: OveroptimisationConfig) -> list[str]:
    kept = pool.rows.action.reshape(*pool.shape, -1)
    distinct = float(np.mean([len(torch.unique(rows, dim=0)) / pool.shape[1] for rows in kept]))
    return [
        f"distances of best-of-n are square roots of the bound ln n - (n - 1) / n on the KL, reached where no answer is likely to be drawn twice: "
        f"{distinct:.1%} of the answers to an opening differ",
        f"gains are over the base's answers to the same opening, in standard deviations of those; gold's is {Scale.of(pool.gold_KN).std:.2f} of "
        f"log-odds. Intervals are over {config.seeds} seeds (labels, fits and all) and {config.openings} openings at once",
    ]


def _row(curve: Curve) -> dict[str, Any]:
    """Return a curve as JSON: its points, its laws, and which form foretells it."""
    law, choice = curve.law, curve.choice
    points = range(curve.gold.d_SD.shape[1])
    return {
        "name": curve.name,
        "title": curve.title,
        "how": curve.how,
        "d": curve.gold.d_SD.tolist(),
        "gold": [curve.gold.at(point) for point in points],
        "proxy": [curve.proxy.at(point) for point in points],
        "highest_at_d": float(curve.gold.d_SD[:, curve.fall.point].mean()),
        "highest": curve.gold.at(curve.fall.point),
        "last": curve.gold.at(-1),
        "fall": curve.fall.fall,
        "formula": FORMULA[law.form],
        "a": law.a,
        "b": law.b,
        # JSON has no infinity: an end that is not bounded is null
        "peak_d": law.peak_d
        and {"value": law.peak_d.value, "low": law.peak_d.low, "high": _bounded(law.peak_d.high), "n": law.peak_d.n},
        "peak_gain": law.peak_gain,
        "peak_within": law.within,
        "rmse": {FORMULA[one.form]: one.rmse for one in curve.laws},
        "forms": {FORMULA[form]: {"error": choice.error[form], "excess": choice.excess[form]} for form in choice.error},
        "best_form": FORMULA[choice.best],
        "not_told_from": [FORMULA[form] for form in choice.rivals],
        "turns": curve.turns,
    }


def _bounded(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _logged(run: Run, phase: str) -> list[dict[str, float]]:
    from backflip.run_record import read_run

    return [dict(row) for row in read_run(run.path).metrics if row["phase"] == phase]


def _write_samples(pool: Pool, world: TextWorld, config: OveroptimisationConfig, run: Run) -> None:
    """Put the base's answer, best-of-n's and the pushed policies' last ones side by side, chosen by the first seed's proxies."""
    items = world.show(
        pool.rows.select(
            [k * config.pool + i for k in range(min(SAMPLES, config.openings)) for i in range(config.pool)]
        )
    )
    seed, rows = config.seed, []
    shown = {one.name: one for one in config.pushed_proxies} or {
        config.ensemble_cell.name: Pushed(config.ensemble_cell)
    }
    for k in range(min(SAMPLES, config.openings)):
        mine = items[k * config.pool : (k + 1) * config.pool]
        row: dict[str, Any] = {
            "prompt": pool.openings[k],
            "base": mine[0].content,
            "gold": {"base": float(pool.gold_KN[k, 0])},
        }
        for name, one in shown.items():
            members = 1 if one.rule == "single" else config.members
            score_KN = rule_of(one.rule, config.uncertainty).of(read_scores(run, one.cell, seed, members))
            best = int(score_KN[k, : config.largest_n].argmax())
            row[f"best of {config.largest_n}: {name}"] = mine[best].content
            row["gold"][f"best of {config.largest_n}: {name}"] = float(pool.gold_KN[k, best])
        for one in config.pushed_proxies:
            look = load_tensors(run.checkpoints(f"looks_{pushed_name(one, seed)}")[0] / "looks")[-1]
            place = k * config.push.copies
            row[f"PPO: {one.name}"] = world.answer_text(
                [token for token in look["action"][place].tolist() if token >= 0]
            )
            row["gold"][f"PPO: {one.name}"] = float(look["gold_B"][place])
        rows.append(row)
    run.samples(rows)
