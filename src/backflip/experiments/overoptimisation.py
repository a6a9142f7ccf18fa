"""How far may a proxy be pushed? Gold and proxy against the distance from the base, by best-of-n and by PPO, and the laws they follow.

Proxies are reward models of several sizes on several numbers of comparisons, of which a quarter was turned round. One pool of base answers
is scored by gold and by all of them. Predicted before: gold falls again for small or ill-taught proxies before n reaches its end; more labels and a
larger model put the peak off or raise the end; the worst of an ensemble ends higher than its members; PPO pays more KL for the same gold.
Refuter: where no proxy's fall is told from 0, no over-optimisation was found here, and the run says so (docs/overoptimisation.md).

Shapes: K openings, N answers an opening.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from backflip.errors import ConfigError
from backflip.experiments import experiment
from backflip.experiments.overoptimisation_plan import overoptimisation_plan
from backflip.experiments.overoptimisation_proxies import (
    Cell,
    Pushed,
    cell_of,
    fit_all,
    pushed_of,
    read_pool,
)
from backflip.experiments.overoptimisation_results import write_results
from backflip.experiments.overoptimisation_rl import Looker, PushConfig, push_all
from backflip.measures.gold import load_gold, stored_gold
from backflip.overseers.synthetic import SyntheticTeacher, TeacherConfig
from backflip.policies.lm import LMConfig, load_policy
from backflip.policies.smaller import size_of
from backflip.rewards.fit import FitConfig
from backflip.worlds import reviews
from backflip.worlds.text import TextWorld

if TYPE_CHECKING:
    from backflip.run import Run


@dataclass(frozen=True)
class OveroptimisationConfig:
    """Settings of the experiment."""

    seed: int = 0
    """Of everything random; the proxies take seed, seed + 1, ... each with labels of its own."""
    seeds: int = 3
    """Times that every proxy is made anew, labels and all; intervals are over these and over openings."""
    openings: int = 32
    """Held-out openings of the pool."""
    pool: int = 1024
    """Answers of the base to each of them."""
    largest_n: int = 1024
    """n of best-of-n goes up to this in powers of two."""
    sizes: tuple[str, ...] = ("1x64", "1x256", "4x256")
    """LAYERSxWIDTH of the reward models, smallest first. As wide as the base (256): its first layers; narrower: from scratch."""
    labels: tuple[int, ...] = (50, 300, 2000)
    """Comparisons that they are fitted to, fewest first."""
    turned: float = 0.25
    """Share of the labels that are turned round."""
    ensemble: str = "1x256/300"
    """SIZE/LABELS of the proxy that an ensemble is made of."""
    members: int = 4
    """Its members, on the same labels."""
    uncertainty: float = 1.0
    """Weight of the members' variance in the uncertainty-weighted rule."""
    pushed: tuple[str, ...] = ("1x256/300", "1x256/300/worst", "4x256/2000")
    """Proxies that PPO is let loose on: SIZE/LABELS, or SIZE/LABELS/RULE of the ensemble; none: best-of-n alone."""
    push: PushConfig = field(default_factory=PushConfig)
    """How PPO does it."""
    sampling: LMConfig = field(default_factory=lambda: LMConfig(temperature=0.8, max_new_tokens=32, rows=256))
    """How base and policy write."""
    fit: FitConfig = field(
        default_factory=lambda: FitConfig(lr=3e-4, head_lr=3e-4, batch=16, bootstrap=False, held_out=0.0)
    )
    """The fit of every proxy: that of the main job, which does not know how many labels were turned round."""

    def __post_init__(self) -> None:
        if self.seeds < 2:
            raise ConfigError(
                f"seeds is {self.seeds}; expected 2 or more: one set of labels says nothing of the spread"
            )
        if self.openings < 4 or self.largest_n < 8:
            raise ConfigError(
                f"openings is {self.openings} and largest_n {self.largest_n}; expected 4 and 8 or more, or no curve can be fitted"
            )
        if self.largest_n > self.pool:
            raise ConfigError(
                f"best of {self.largest_n} cannot be had from a pool of {self.pool} answers an opening; raise pool, or lower largest_n"
            )
        if not 0 <= self.turned < 0.5:
            raise ConfigError(f"turned is {self.turned}; expected 0 or more and below 0.5, where labels say nothing")
        for name, values in (("sizes", self.sizes), ("labels", self.labels)):
            if not values or len(set(values)) < len(values):
                raise ConfigError(f"{name} is {values}; expected one or more, each once")
        if min(self.labels) < 2 or list(self.labels) != sorted(self.labels):
            raise ConfigError(f"labels is {self.labels}; expected numbers of 2 or more, the fewest first")
        for size in self.sizes:
            size_of(size)
        self._check_ensemble()

    def _check_ensemble(self) -> None:
        if self.members < 2:
            raise ConfigError(f"members is {self.members}; expected 2 or more: an ensemble of one never disagrees")
        if not 0 <= self.uncertainty < float("inf"):
            raise ConfigError(f"uncertainty is {self.uncertainty}; expected 0 or more, and finite")
        for cell in (self.ensemble_cell, *(one.cell for one in self.pushed_proxies)):
            if cell not in self.cells:
                raise ConfigError(
                    f'"{cell.size}/{cell.labels}" is none of the proxies; expected one of sizes with one of labels'
                )
        if wrong := [one for one in self.pushed_proxies if one.rule != "single" and one.cell != self.ensemble_cell]:
            raise ConfigError(
                f'"{wrong[0].name}" has no ensemble; the one there is has the members of "{self.ensemble}"'
            )

    @property
    def seed_numbers(self) -> range:
        """The seeds of the proxies."""
        return range(self.seed, self.seed + self.seeds)

    @property
    def cells(self) -> list[Cell]:
        """Every size with every number of labels."""
        return [Cell(size, labels) for size in self.sizes for labels in self.labels]

    @property
    def ensemble_cell(self) -> Cell:
        """The proxy that an ensemble is made of."""
        return cell_of(self.ensemble)

    @property
    def pushed_proxies(self) -> list[Pushed]:
        """What PPO is let loose on."""
        return [pushed_of(text) for text in self.pushed]

    def train_openings(self) -> list[str]:
        """Return the openings on which labels are asked for and PPO trains."""
        return reviews.read_openings("train")


@experiment(config=OveroptimisationConfig, plan=overoptimisation_plan)
def main(config: OveroptimisationConfig, run: Run) -> None:
    """Push on proxies by best-of-n and PPO until gold falls, or say that it did not: laws, ensembles, and how far one may go."""
    fresh = partial(load_policy, reviews.assets() / "base", config.sampling, value_head=True)
    base = fresh().reference()
    gold_file = reviews.assets() / "gold.safetensors"
    gold = load_gold(gold_file)
    openings = reviews.read_openings("test")
    if config.openings > len(openings):
        raise ConfigError(f"openings is {config.openings}, and there are {len(openings)} held-out ones; lower it")
    held_out = TextWorld(openings, base.tokenizer)
    state: dict[str, Any] = run.load_state() or {"asked": {}, "fitted": {}, "pushed": []}

    def teacher_of(seed: int) -> SyntheticTeacher:
        return SyntheticTeacher(
            run.store, stored_gold(gold_file, run.store), TeacherConfig(mistake=config.turned, seed=seed)
        )

    pool = read_pool(base, held_out, gold, config, run)
    if run.load_state() is None:
        run.save_state("pool", state)
    fit_all(base, pool, teacher_of, config, run, state)
    looker = Looker(base, held_out, gold, pool, config)
    push_all(looker, fresh, TextWorld(config.train_openings(), base.tokenizer), config, run, state)
    with run.progress.phase("curves and laws"):
        write_results(pool, held_out, state["fitted"], config, run)
