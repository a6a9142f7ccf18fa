"""The curves of gold and proxy: best-of-n of every proxy and of the ensemble, and PPO, with the laws fitted to each.

Gains are over the base's answers to the same opening, in standard deviations of the base's answers to one opening: a proxy that were gold itself
would gain as much gold as proxy. Left out: what is said of them (`overoptimisation_results`).

Shapes: S seeds, K openings, N answers an opening, D points of a curve, M members.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from backflip.checkpoint import load_tensors
from backflip.experiments.overoptimisation_proxies import Cell, Pool, Pushed, read_scores, rule_of
from backflip.experiments.overoptimisation_rl import pushed_name
from backflip.measures.best_of_n import best_of_each, kl_bound_nats
from backflip.measures.crossed import crossed_interval
from backflip.measures.goodhart import Choice, Fall, Gains, Law, compare_forms, fall_of, fit_law

if TYPE_CHECKING:
    from backflip.experiments.overoptimisation import OveroptimisationConfig
    from backflip.run import Run

Floats = NDArray[np.float64]


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

    @property
    def gamed(self) -> bool:
        """Whether gold fell for sure while the proxy rose: over-optimisation, whatever the law is."""
        rise = crossed_interval(self.proxy.gain_SKD[:, :, -1] - self.proxy.gain_SKD[:, :, self.fall.point])
        return self.fall.found and rise.low > 0

    @property
    def turns(self) -> bool | None:
        """Whether gold turned: True where it fell for sure and each form left turns, False where it did not and none left does, else None."""
        return self.choice.turns if self.choice.turns is self.fall.found else None

    @classmethod
    def of(cls, name: str, title: str, how: Literal["best_of_n", "ppo"], gold: Gains, proxy: Gains) -> Curve:
        """Fit, compare and look for a fall."""
        laws = tuple(fit_law(gold, form) for form in ("best_of_n", "rl", "straight"))
        return cls(name, title, how, gold, proxy, laws, compare_forms(gold), fall_of(gold))


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

    def scores(cell: Cell, members: int) -> list[torch.Tensor]:
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
