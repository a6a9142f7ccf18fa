"""What comparisons of methods on `reviews` share: an arm for each method, with equal labels and equally many answers to learn from.

Labels are equal because every arm asks the same number of questions, and with one seed the very same ones: they are drawn before any
method begins. Update tokens are equal by answers: the number of updates follows from how many answers one update learns from, every pass
counted. FeedME learns from the quarter that it keeps, four times over. Answers differ in length, so tokens differ a little; they are
counted and reported. No experiment. Left out: what is asked of the arms (`frontier`, `collapse`).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backflip.errors import ConfigError
from backflip.experiments import Experiment, find
from backflip.experiments.arms import Arm, ArmsConfig, processors
from backflip.experiments.arms_plan import added_up, config_of
from backflip.experiments.methods import load
from backflip.plan import Plan
from backflip.run_config import config_from_json
from backflip.run_record import read_run
from backflip.worlds import reviews

EXPERIMENT = "reviews"
COMPARED = ("ppo", "reinforce", "rloo", "grpo", "dpo", "feedme", "conditional", "sft", "nash_md")
"""Methods that ask for labels and take updates: `best_of_n` takes none, `imitate` asks nobody."""
KEPT = {"feedme": 0.25}
"""Share of the sampled answers that a method learns from, where it is not all."""
OWN = {"feedme": {"feedme.sft.epochs": "4"}}
"""What a method is told beside its defaults."""


@dataclass(frozen=True)
class MethodSettings:
    """Settings of every comparison of methods, beside those of its arms."""

    methods: tuple[str, ...] = COMPARED
    """Methods that are compared; the first is the one that others are held against."""
    policy: Path | None = None
    """Causal language model to start from; none: the base that ships."""
    comparisons: int = 2000
    """Questions put to the overseer in every run."""
    learned_from: int = 11520
    """Answers that the updates of a run learn from, every pass counted: 36 updates of PPO."""
    episodes: int = 160
    """Answers sampled for each update, by methods that sample."""
    members: int = 3
    """Reward models in the ensemble of a method that learns a reward."""
    normalise_on: int = 512
    """Answers on which rewards get mean 0 and deviation 1."""
    best_of: int = 16
    """n of best-of-n."""
    max_new_tokens: int = 32
    """Longest answer."""
    looks: int = 8
    """Looks at held-out openings along each run: the points of its path. Methods without a leash get some more at its beginning."""
    held_out: int = 0
    """Held-out openings of every look and of the end; 0: all."""

    def __post_init__(self) -> None:
        if not self.methods:
            raise ConfigError(f"methods is empty; expected some of {', '.join(COMPARED)}")
        for name in self.methods:
            load(name)
            if name not in COMPARED:
                raise ConfigError(
                    f'"{name}" is none of the methods whose labels and update tokens can be made equal; expected some of {", ".join(COMPARED)}'
                )
        if len(set(self.methods)) < len(self.methods):
            raise ConfigError(f"methods names one twice: {' '.join(self.methods)}; give each once")
        if min(self.learned_from, self.looks, self.members, self.best_of, self.max_new_tokens) < 1:
            raise ConfigError(
                f"learned_from {self.learned_from}, looks {self.looks}, members {self.members}, best_of {self.best_of}, max_new_tokens "
                f"{self.max_new_tokens}: expected 1 or more of each"
            )
        for name in self.methods:
            arm_of(name, self)


@functools.cache
def _spec() -> Experiment:
    """Return the experiment of every arm; finding it reads the source of all experiments, so it is found once."""
    return find(EXPERIMENT)


def arm_of(method: str, config: MethodSettings, name: str = "", more: Mapping[str, str] | None = None) -> Arm:
    """Return the arm of a method, called after it unless `name` is given; `more` are options that this arm alone has.

    Raises:
        ConfigError: a setting does not go with the method.
    """
    options = {
        "method": method,
        "comparisons": str(config.comparisons),
        "best_of": str(config.best_of),
        "held_out": str(config.held_out),
        "look_at": str(config.held_out or len(reviews.read_openings("test"))),
        "sampling.max_new_tokens": str(config.max_new_tokens),
        **OWN.get(method, {}),
        **(more or {}),
    }
    if config.policy is not None:
        options["policy"] = str(config.policy)
    spec = _spec()
    taken = spec.config_of(method).__dataclass_fields__
    options |= {name: str(getattr(config, name)) for name in ("episodes", "members", "normalise_on") if name in taken}
    settings = config_of(Arm(method, EXPERIMENT, options), spec.config_of(method))
    an_update = settings.work.updated * settings.work.passes * KEPT.get(method, 1.0) / settings.updates
    updates = max(1, round(config.learned_from / an_update))
    every = max(1, updates // config.looks)
    return Arm(
        name or method,
        EXPERIMENT,
        options
        | {"updates": str(updates), "check_every": str(every), "save_every": str(max(10, every))}
        | ({} if "kl" in taken else {"check_early": ""}),  # nothing holds it: its first step is the longest
    )


def methods_plan(arms: Sequence[Arm], config: ArmsConfig) -> Plan:
    """Add up the plans of all runs of `arms`."""
    spec = _spec()
    assert spec.plan is not None
    plans = {arm.name: spec.plan(config_of(arm, spec.config_of(arm.options["method"]))) for arm in arms}
    return added_up(plans, config, len(processors(config.workers)))


def spent(folder: Path) -> dict[str, float]:
    """Return what a finished run really cost: labels heard, tokens that updates learned from (every pass counted), tokens sampled, seconds."""
    record = read_run(folder)
    method = str(record.config["method"])
    settings: Any = config_from_json(_spec().config_of(method), record.config)
    decisions = sum(float(row["decisions"]) for row in record.metrics if row["phase"] == method)
    cost = record.results["cost"]
    return {
        "labels": float(cost["comparisons"]),
        "updates": float(sum(row["phase"] == method for row in record.metrics)),
        "tokens_trained": decisions * settings.work.passes,
        "answers_sampled": float(cost["episodes"]),
        "tokens_sampled": float(cost["tokens_sampled"]),
        "seconds": float(cost["seconds"]),
    }
