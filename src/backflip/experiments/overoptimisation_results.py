"""Curves of gold and proxy against distance, the laws fitted to them, what was predicted and what came of it.

Gains are over the base's answers to the same opening, in standard deviations of the base's answers to one opening: a proxy that were gold itself
would gain as much gold as proxy. Left out: the figures (`overoptimisation_figures`).

Shapes: S seeds, K openings, N answers an opening, D points of a curve, M members.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from backflip.checkpoint import load_tensors
from backflip.data import Estimate
from backflip.experiments.overoptimisation_figures import figures_of
from backflip.experiments.overoptimisation_proxies import Pool, Pushed, read_scores, rule_of
from backflip.experiments.overoptimisation_rl import pushed_name
from backflip.measures.best_of_n import best_of_each, kl_bound_nats
from backflip.measures.crossed import crossed_interval
from backflip.measures.goodhart import FORMULA, Choice, Fall, Gains, Law, compare_forms, fall_of, fit_law
from backflip.worlds.text import TextWorld

if TYPE_CHECKING:
    from backflip.experiments.overoptimisation import OveroptimisationConfig
    from backflip.run import Run

Floats = NDArray[np.float64]
SAMPLES = 12
"""Openings whose answers are put side by side; all of them are in the run's checkpoints."""
BESIDE_N = 16
"""PPO and best-of-n are compared at the distance of best-of-this."""


@dataclass(frozen=True)
class Curve:
    """Gold and proxy of one way to optimise one kind of proxy, with what was made of it."""

    name: str
    title: str
    how: Literal["best_of_n", "ppo"]
    gold: Gains
    proxy: Gains
    laws: tuple[Law, ...]
    choice: Choice
    fall: Fall

    @property
    def law(self) -> Law:
        """The law that this way of optimising is said to follow (Gao et al. 2022)."""
        return self.laws[0] if self.how == "best_of_n" else self.laws[1]

    @classmethod
    def of(cls, name: str, title: str, how: Literal["best_of_n", "ppo"], gold: Gains, proxy: Gains) -> Curve:
        """Fit, compare and look for a fall."""
        laws = tuple(fit_law(gold, form) for form in ("best_of_n", "rl", "straight"))
        return cls(name, title, how, gold, proxy, laws, compare_forms(gold), fall_of(gold))


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


@dataclass(frozen=True)
class Scale:
    """Turns scores into gains: less the base's mean on the same opening, in standard deviations within openings."""

    mean_K: Floats
    std: float

    @classmethod
    def of(cls, score_KN: Floats) -> Scale:
        """Measure it on the pool."""
        mean_K = score_KN.mean(1)
        return cls(mean_K, float(np.sqrt(((score_KN - mean_K[:, None]) ** 2).mean())))

    def gain(self, score_K: Floats) -> Floats:
        """Return the gain of scores (K,) or (K, D)."""
        mean_K = self.mean_K if score_K.ndim == 1 else self.mean_K[:, None]
        return (score_K - mean_K) / self.std


def powers_of_two(largest: int) -> list[int]:
    """Return 2, 4, 8, ... up to `largest`; best of one gains nothing."""
    return [2**place for place in range(1, largest.bit_length())]


def best_of_n_gains(score_SKN: Floats, pool: Pool, largest: int) -> tuple[Gains, Gains]:
    """Return what gold and proxy gain by best-of-n under each seed's proxy; distances are those of the bound on the KL."""
    n_D = powers_of_two(largest)
    d_SD = np.tile(np.sqrt([kl_bound_nats(n) for n in n_D]), (len(score_SKN), 1))
    gold = Scale.of(pool.gold_KN)
    gained_SKD = np.stack([gold.gain(best_of_each(score_KN, pool.gold_KN, n_D)) for score_KN in score_SKN])
    proxy_SKD = np.stack([Scale.of(score_KN).gain(best_of_each(score_KN, score_KN, n_D)) for score_KN in score_SKN])
    return Gains(d_SD, gained_SKD), Gains(d_SD, proxy_SKD)


def best_of_n_curves(pool: Pool, config: OveroptimisationConfig, run: Run) -> tuple[list[Curve], dict[str, Curve]]:
    """Return the curves of all proxies, one member each, and those of the ensemble by rule."""

    def scores(cell: Any, members: int) -> list[torch.Tensor]:
        return [read_scores(run, cell, seed, members) for seed in config.seed_numbers]

    def curve(name: str, title: str, score_SKN: Floats) -> Curve:
        return Curve.of(name, title, "best_of_n", *best_of_n_gains(score_SKN, pool, config.largest_n))

    single = [
        curve(cell.name, cell.title, np.stack([one_MKN[0].double().numpy() for one_MKN in scores(cell, 1)]))
        for cell in config.cells
    ]
    cell = config.ensemble_cell
    found_SMKN = torch.stack(scores(cell, config.members)).double()
    ruled: dict[str, Curve] = {}
    for rule in ("mean", "worst", "uncertain"):
        score_SKN = np.stack([rule_of(rule, config.uncertainty).of(one_MKN).numpy() for one_MKN in found_SMKN])
        ruled[rule] = curve(f"{cell.name}_{rule}", f"{cell.title}: {rule} of {config.members}", score_SKN)
    members = [best_of_n_gains(found_SMKN[:, m].numpy(), pool, config.largest_n) for m in range(config.members)]
    gold, proxy = (
        Gains(parts[0].d_SD, np.mean([part.gain_SKD for part in parts], axis=0)) for parts in zip(*members, strict=True)
    )
    title = f"{cell.title}: its {config.members} members, each by itself"
    ruled["members"] = Curve.of(f"{cell.name}_members", title, "best_of_n", gold, proxy)
    return single, ruled


def ppo_curve(pushed: Pushed, pool: Pool, config: OveroptimisationConfig, run: Run) -> Curve:
    """Return the curve of PPO on one proxy; distances are measured: each seed has its own."""
    gold = Scale.of(pool.gold_KN)
    parts: list[tuple[Floats, Floats, Floats]] = []
    for seed in config.seed_numbers:
        looks = load_tensors(run.checkpoints(f"looks_{pushed_name(pushed, seed)}")[0] / "looks")
        members = 1 if pushed.rule == "single" else config.members
        score_KN = (
            rule_of(pushed.rule, config.uncertainty).of(read_scores(run, pushed.cell, seed, members)).double().numpy()
        )
        kl_DK, gold_DK, proxy_DK = (
            torch.stack([look[name] for look in looks]).numpy() for name in ("kl", "gold", "proxy")
        )
        parts.append((np.sqrt(kl_DK.mean(1)), gold.gain(gold_DK.T), Scale.of(score_KN).gain(proxy_DK.T)))
    d_SD, gold_SKD, proxy_SKD = (np.stack([part[place] for part in parts]) for place in range(3))
    return Curve.of(
        f"ppo_{pushed.name}", f"PPO on {pushed.title}", "ppo", Gains(d_SD, gold_SKD), Gains(d_SD, proxy_SKD)
    )


def gain_at(curve: Gains, d: float) -> Floats:
    """Return each seed's and opening's gain at distance d, between the two nearest points, (S, K); held at the ends."""
    found: list[Floats] = []
    for d_D, gain_KD in zip(curve.d_SD, curve.gain_SKD, strict=True):
        order = np.argsort(d_D, kind="stable")
        found.append(np.array([np.interp(d, d_D[order], gain_D[order]) for gain_D in gain_KD]))
    return np.stack(found)


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
        *_pool_words(pool, config),
        *(f"predicted: {one.said}. It {one.held}." for one in claims.values()),
    ):
        run.note(sentence)
    run.note(sentence_of(single, [*ruled.values(), *pushed.values()], config))


def sentence_of(single: list[Curve], others: list[Curve], config: OveroptimisationConfig) -> str:
    """Say in one sentence whether over-optimisation was found, and where not, how small a fall could have been seen."""
    fell = [curve for curve in (*single, *others) if curve.fall.found]
    if not fell:
        widest = max(curve.fall.fall.high for curve in (*single, *others))
        return (
            f"no over-optimisation was found here: in none of {len(single) + len(others)} curves does gold fall for sure, best-of-n up to "
            f"n = {config.largest_n:,}; a fall of more than {widest:.2f} standard deviations is ruled out in each of them"
        )
    worst = max(fell, key=lambda curve: curve.fall.fall.value)
    by_n = sum(curve.fall.found for curve in single)
    fall = worst.fall.fall
    return (
        f"over-optimisation was found in {len(fell)} of {len(single) + len(others)} curves ({by_n} of {len(single)} proxies by best-of-n up to n = "
        f"{config.largest_n:,}): most in {worst.title}, where gold fell by {fall.value:.2f} ({fall.low:.2f} to {fall.high:.2f}) standard deviations "
        "from its highest point while the proxy rose"
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
        "turns": choice.turns,
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
