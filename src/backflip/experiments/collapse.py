"""Mode collapse across methods and strengths of the KL: entropy, modes covered, distinct answers, and whether the prompt is still heeded.

First where everything is exact: 20 equally good answers, of which the best policy under any KL penalty keeps all. Then on `reviews`, each
method at several strengths of its leash, every arm a whole run. docs/collapse.md has the formulas and what was found.

Shapes: K prompts, C answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from backflip.data import Estimate
from backflip.errors import ConfigError, DataError
from backflip.experiments import collapse_exact as small
from backflip.experiments import experiment
from backflip.experiments.arms import Arm, ArmsConfig, carry_out, planned_runs
from backflip.experiments.collapse_texts import TEXT_MEASURES, Reference, Sampling, base_of, measure_run
from backflip.experiments.method_arms import EXPERIMENT, MethodSettings, arm_of, methods_plan
from backflip.experiments.methods import METHODS
from backflip.loops.control import threads
from backflip.measures.seeds import seed_difference
from backflip.measures.stats import mean_interval, share_interval
from backflip.plan import Plan
from backflip.run_record import read_run

if TYPE_CHECKING:
    from backflip.run import Run

LEASH = {
    "ppo": ("kl.beta", 0.045),
    "reinforce": ("kl.beta", 0.045),
    "rloo": ("kl.beta", 0.045),
    "grpo": ("kl.beta", 0.045),
    "nash_md": ("kl.beta", 0.01),
    "dpo": ("dpo.beta", 0.1),
}
"""The setting that holds a method near the base, and its default; other methods have none."""
PREDICTED_LOOSE, PREDICTED_HELD = 0.3, 0.9
"""Share of the modes that a method is predicted to cover without a KL, at most, and with `tuned_beta`, at least."""

PREDICTED = (
    f"stated before: in the exact world PPO without a KL covers at most {PREDICTED_LOOSE:.0%} of {small.MODES} equally good modes, and at least "
    f"{PREDICTED_HELD:.0%} with a tuned one; refuted if an interval over seeds lies on the other side. Nothing was predicted of reviews"
)


@dataclass(frozen=True)
class CollapseConfig(ArmsConfig, MethodSettings):
    """Settings of the study of collapse."""

    level: Literal["exact", "reviews", "both"] = "both"
    """The world of which all answers are listed, the policies of `reviews`, or both."""
    betas: tuple[float, ...] = (0.0, 0.05, 0.2)
    """Weights of the KL in the exact world, where a good answer scores 1."""
    tuned_beta: float = 0.2
    """The one of them that the prediction speaks of."""
    exact_updates: int = 100
    """Updates of every method in the exact world."""
    exact_rows: int = 128
    """Answers of each of these updates."""
    leashes: tuple[float, ...] = (0.0, 1.0, 4.0)
    """Strengths of the KL on `reviews`, as multiples of each method's default; methods without one have a single arm."""
    of: Path | None = None
    """A finished `frontier`, `collapse` or sweep of reviews whose policies are measured, in place of training any."""
    modes: int = 20
    """On reviews: first words that the base begins with most often."""
    answers_each: int = 4
    """On reviews: answers to each held-out opening from which modes are counted."""
    listened_to: int = 24
    """On reviews: openings between which it is measured how much the answer betrays."""

    def __post_init__(self) -> None:
        ArmsConfig.__post_init__(self)
        MethodSettings.__post_init__(self)
        if not self.betas or min(self.betas) < 0 or self.tuned_beta not in self.betas or self.tuned_beta <= 0:
            raise ConfigError(
                f"betas is {self.betas} and tuned_beta {self.tuned_beta}; expected 0 or more, and tuned_beta one of them, above 0"
            )
        if not self.leashes or min(self.leashes) < 0 or len(set(self.leashes)) < len(self.leashes):
            raise ConfigError(f"leashes is {self.leashes}; expected different numbers of 0 or more")
        if self.exact_rows < 8 or self.exact_rows % small.GROUP or self.exact_updates < 1:
            raise ConfigError(
                f"exact_rows is {self.exact_rows} and exact_updates {self.exact_updates}; expected a multiple of {small.GROUP} of 8 or "
                "more, and 1 or more"
            )
        if min(self.modes, self.listened_to) < 2 or self.answers_each < 1:
            raise ConfigError(
                f"modes {self.modes}, listened_to {self.listened_to}, answers_each {self.answers_each}: expected 2 or more, 2 or more, 1 or more"
            )


def arms_of(config: CollapseConfig) -> list[Arm]:
    """Return an arm for each method at each strength of its leash."""
    arms: list[Arm] = []
    for method in config.methods:
        if method not in LEASH:
            arms.append(arm_of(method, config))
            continue
        name, usual = LEASH[method]
        for times in config.leashes:
            if times or method != "dpo":  # a DPO without beta has no loss
                arms.append(arm_of(method, config, f"{method}_leash_{times:g}", {name: f"{times * usual:g}"}))
    return arms


def plan(config: CollapseConfig) -> Plan:
    """Add up what the runs on `reviews` need; the exact world takes a minute or two."""
    if config.level == "exact" or config.of is not None:
        raise ConfigError("nothing is trained on reviews with these settings, and the rest takes minutes: just run it")
    return methods_plan(arms_of(config), config)


@experiment(config=CollapseConfig, plan=plan)
def main(config: CollapseConfig, run: Run) -> None:
    """Measure mode collapse: entropy, modes covered, distinct answers and prompt sensitivity, across methods and KL strengths.

    Prediction (docs/collapse.md): in the exact world PPO without a KL covers at most 30 % of 20 equally good modes, and at least 90 % with a
    tuned one. Refuted by an interval over seeds on the other side. The control is the best policy at each weight, which keeps all 20.
    """
    if config.level != "reviews":
        with threads(1):
            exact(config, run)
    else:
        run.note("stated before: nothing; the prediction is of the exact world, which these settings leave out")
    if config.level != "exact":
        texts(config, run)


def exact(config: CollapseConfig, run: Run) -> None:
    """Train every method at every weight of the KL in the exact world, and write what is left of the modes."""
    cases = [
        (method, beta)
        for method in config.methods
        for beta in ((None,) if method in small.FREE else tuple(b for b in config.betas if b or method != "dpo"))
    ]
    seeds = range(config.seed, config.seed + config.seeds)
    rows: list[dict[str, Any]] = []
    with run.progress.phase("20 good answers", len(cases) * config.seeds) as bar:
        for method, beta in cases:
            found: list[dict[str, float]] = []
            for seed in seeds:
                given, logp_KC = small.trained(method, beta, config.exact_updates, config.exact_rows, seed)
                found.append(small.describe(given, logp_KC))
                bar.advance(1, last=method)
            rows.append({"method": method, "beta": beta, **_over_seeds(found, small.MODES)})
    for beta in config.betas:
        found = [small.best(small.problem(seed), beta) for seed in seeds]
        rows.append({"method": "best", "beta": beta, **_over_seeds(found, small.MODES)})
    found = [small.describe(given, given.base_KC) for given in map(small.problem, seeds)]
    rows.append({"method": "base", "beta": None, **_over_seeds(found, small.MODES)})
    run.result("collapse_exact", {"modes": small.MODES, "seeds": list(seeds), "rows": rows})
    for row in rows:
        if row["method"] not in ("best", "base"):
            held = "" if row["beta"] is None else f", beta {row['beta']:g}"
            run.estimate(f"exact {row['method']}{held}: modes_covered", row["modes_covered"])
    for sentence in (PREDICTED, *exact_verdict(rows, config.tuned_beta, config.seeds)):
        run.note(sentence)


def exact_verdict(rows: Sequence[Mapping[str, Any]], tuned: float, seeds: int) -> list[str]:
    """Say how the prediction on the exact world came out, for PPO, and beside it what the other methods did."""
    said, missing = list[str](), list[str]()
    for beta, limit, below in ((0.0, PREDICTED_LOOSE, True), (tuned, PREDICTED_HELD, False)):
        cover = {
            row["method"]: row["modes_covered"] for row in rows if row["beta"] == beta and row["method"] in small.HELD
        }
        if "ppo" not in cover:
            missing.append(f"{beta:g}")
            continue
        found: Estimate = cover["ppo"]
        bar = limit * small.MODES
        held, refuted = (found.high <= bar, found.low > bar) if below else (found.low >= bar, found.high < bar)
        how = "held" if held else "refuted" if refuted else f"not decided, {seeds} seeds cannot tell"
        others = ", ".join(f"{name} {one.value:.1f}" for name, one in cover.items() if name != "ppo")
        said.append(
            f"with beta {beta:g} PPO covers {found.value:.1f} of {small.MODES} equally good modes ({found.low:.1f} to {found.high:.1f}, "
            f"{found.n} seeds); predicted {'at most' if below else 'at least'} {bar:g}: {how}"
            + (f"; {others}" if others else "")
        )
    if missing:
        said.append(f"without ppo at beta {' and '.join(missing)} nothing is decided of what was predicted of it there")
    return said


def texts(config: CollapseConfig, run: Run) -> None:
    """Train, or take from `of`, policies of reviews; measure each and write them by arm, over seeds."""
    runs = _runs_in(config.of) if config.of is not None else _trained(config, run)
    how, bases = Sampling(config.modes, config.answers_each, config.listened_to), dict[tuple[int, int], Reference]()
    found: dict[str, list[dict[str, float]]] = {}
    with run.progress.phase("sample and measure", sum(map(len, runs.values()))) as bar:
        for arm, folders in runs.items():
            for folder in folders:
                record = read_run(folder)
                key = (int(record.seed or 0), int(record.config.get("held_out") or 0))
                if key not in bases:  # runs of one seed have one base, sampled with the same draws
                    bases[key] = base_of(folder, how)
                found.setdefault(arm, []).append(measure_run(folder, bases[key], how))
                bar.advance(1, last=arm)
    by_arm = {"base": [base.measures for base in bases.values()], **found}
    rows = {arm: _over_seeds(each, config.modes) for arm, each in by_arm.items()}
    run.result(
        "collapse",
        {
            "modes": config.modes,
            "listened_to": config.listened_to,
            "rows": [{"arm": arm, **row} for arm, row in rows.items()],
        },
    )
    for arm, row in rows.items():
        for name in TEXT_MEASURES:
            run.estimate(f"{arm}: {name}", row[name])
    run.note(text_verdict({arm: [one["modes_covered"] for one in each] for arm, each in by_arm.items()}, config.modes))


def text_verdict(covered: Mapping[str, Sequence[float]], modes: int) -> str:
    """Say in a sentence which policies cover fewer modes than the base, as far as the seeds tell."""
    said: list[str] = []
    base = dict(enumerate(covered["base"]))
    for arm, values in covered.items():
        gap = seed_difference(base, dict(enumerate(values))) if arm != "base" else None
        apart = "" if gap is None else ", fewer" if gap.told and gap.difference.high < 0 else ", this n cannot tell"
        said.append(f"{arm} {sum(values) / len(values):.1f}{apart}")
    return f"of the base's {modes} commonest first words are covered ({len(base)} seeds): {'; '.join(said)}"


def _trained(config: CollapseConfig, run: Run) -> dict[str, list[Path]]:
    arms = arms_of(config)
    carry_out(arms, config, run)
    return _by_arm([one.folder for one in planned_runs(arms, config, run)])


def _runs_in(where: Path) -> dict[str, list[Path]]:
    """Return the finished runs of a comparison of arms on reviews.

    Raises:
        DataError: it has no arms, or one is not finished or of another experiment.
    """
    folders = sorted(config.parent for config in where.glob("arms/*/*/config.json"))
    if not folders:
        raise DataError(
            f"{where} holds no arms/ARM/seed_K; expected a run of frontier, collapse, or a sweep of reviews"
        )
    for folder in folders:
        record = read_run(folder)
        if record.experiment != EXPERIMENT or record.status != "done" or record.config.get("method") not in METHODS:
            raise DataError(
                f"{folder} is a run of {record.experiment}, {record.status}; expected finished runs of {EXPERIMENT}"
            )
    return _by_arm(folders)


def _by_arm(folders: Sequence[Path]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for folder in folders:
        found.setdefault(folder.parent.name, []).append(folder)
    return found


def _over_seeds(found: Sequence[Mapping[str, float]], modes: int) -> dict[str, Estimate]:
    rows = {
        name: (share_interval if name.endswith("_share") else mean_interval)([one[name] for one in found])
        for name in found[0]
    }
    cover = rows["modes_covered"]  # nobody covers more than there are, whatever Student's interval says
    return rows | {"modes_covered": replace(cover, low=max(0.0, cover.low), high=min(float(modes), cover.high))}
