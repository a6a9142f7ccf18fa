"""Fabricated run folders for the report's tests, written through `Run` as experiments write theirs; nothing is trained."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from backflip.data import Estimate
from backflip.run import Run

OPENINGS = (
    "the film opens with",
    "what a",
    "i went in expecting",
    "the director",
    "as a thriller ,",
    "by the end",
    "her performance is",
)
GOOD = ("a warm and funny", "a quietly moving", "an engaging", "a smart and touching", "one of the year's finest")
BAD = ("a dull and lifeless", "a tedious", "an overlong", "a clumsy", "a lazy and predictable")
NOUNS = ("drama", "comedy", "portrait of a family", "thriller", "tale of two friends", "mess of ideas", "piece of work")
TAILS = (
    "that never lets go .",
    "with nothing new to say .",
    "and the cast is a delight .",
    "but it runs out of steam .",
    "that earns its tears .",
)


def estimate(value: float, half: float, n: int) -> dict[str, float | int]:
    """Return an estimate in the form of `summary.json`."""
    return {"value": value, "low": value - half, "high": value + half, "n": n}


def sentence(rng: np.random.Generator, taste: float) -> tuple[str, float]:
    """Return a made-up sentence, praising with probability `taste`, and how much it praises."""
    praises = rng.random() < taste
    words = (rng.choice(GOOD if praises else BAD), rng.choice(NOUNS), rng.choice(TAILS))
    return " ".join(str(word) for word in words), (1.0 if praises else -1.0) + 0.4 * float(rng.normal())


def sample_rows(rng: np.random.Generator, count: int, gold_follows: bool) -> list[dict[str, Any]]:
    """Return made-up openings with three answers each and their scores."""
    rows: list[dict[str, Any]] = []
    for place in range(count):
        row: dict[str, Any] = {
            "prompt": f"opening {place + 1}: {OPENINGS[place % len(OPENINGS)]}",
            "proxy": {},
            "gold": {},
        }
        for policy, taste in (("base", 0.45), ("best_of_n", 0.8), ("ppo", 0.92)):
            row[policy], praise = sentence(rng, taste)
            row["proxy"][policy] = praise + 0.5 * float(rng.normal())
            row["gold"][policy] = (praise if gold_follows or policy != "ppo" else -praise) + 0.7 * float(rng.normal())
        rows.append(row)
    return rows


def gold_at(kl: float, turn_nats: float) -> float:
    """Return a made-up gold win rate that rises with KL, and falls past the turn."""
    return 0.5 + 0.42 * (1 - math.exp(-kl / 2.5)) - 0.06 * max(0.0, kl - turn_nats)


def log_metrics(run: Run, rng: np.random.Generator, updates: int, turn_nats: float) -> None:
    """Log made-up metrics of a reward model's fit, of PPO, and of checks on held-out openings."""
    near = {"loss": (0.6, 0.09), "accuracy": (0.72, -0.2), "held_out_accuracy": (0.685, -0.17)}
    for member, epoch in product(range(3), range(6)):
        fit = {name: end + gap * 0.6**epoch + 0.006 * float(rng.normal()) for name, (end, gap) in near.items()}
        run.log(6 * member + epoch, "reward", member=member, epoch=epoch, **fit)
    for update in range(updates):
        part = update / max(1, updates - 1)
        kl = 12 * part**0.8

        def noise(size: float) -> float:
            return size * float(rng.normal())

        run.log(
            update,
            "ppo",
            proxy_mean=2.1 * (1 - math.exp(-3 * part)) + noise(0.08),
            proxy_std=1 - 0.4 * part,
            kl_nats_per_sequence=kl + noise(0.2),
            entropy_nats=3.1 - 0.9 * part + noise(0.03),
            length_tokens=21 + noise(0.6),
            ended_fraction=0.9 + noise(0.01),
            ratio_max_error=2e-6 * (1 + float(rng.random())),
            clip_fraction=0.1 + noise(0.02),
            value_loss=0.5 * math.exp(-2 * part) + 0.05 * float(rng.random()),
            policy_loss=-0.02 + noise(0.005),
            grad_norm=1 + 0.2 * float(rng.random()),
            beta=0.05 + 0.02 * part,
            episodes=256 * (update + 1),
            tokens=5400 * (update + 1),
        )
        if update % 3 == 0 or update == updates - 1:
            run.log(
                update,
                "check",
                proxy_mean=2.2 * (1 - math.exp(-kl / 4)),
                gold_win_rate=gold_at(kl, turn_nats),
                n=512,
                kl_nats_per_sequence=kl,
                distinct2=0.62 - 0.1 * part,
                length_tokens=21 + noise(1.0),
            )


def results(final: float, kl: float) -> dict[str, Any]:
    """Return made-up result files."""
    names = ("entropy_nats", "distinct2", "repetition", "length_tokens")
    spread = {"base": (3.1, 0.62, 0.04, 21.3), "best of 16": (3.0, 0.6, 0.04, 20.8), "PPO": (2.2, 0.53, 0.06, 20.1)}
    table: list[dict[str, Any]] = [
        {"policy": policy} | {name: estimate(value, 0.02 * value, 512) for name, value in zip(names, row, strict=True)}
        for policy, row in spread.items()
    ]
    moved = (estimate(0, 0, 512), estimate(math.log(16) - 15 / 16, 0, 512), estimate(kl, 0.31, 512))
    for row, nats, won in zip(
        table, moved, (None, estimate(0.79, 0.033, 512), estimate(final, 0.027, 512)), strict=True
    ):
        row["kl_nats_per_sequence"] = nats
        row |= {} if won is None else {"gold_win_rate": won}
    table[1]["kl_is_bound"] = True
    pairs = ((0.08, 31), (0.2, 42), (0.35, 60), (0.5, 71), (0.65, 58), (0.8, 45), (0.93, 28))
    reward_model = {
        "accuracy": estimate(0.69, 0.02, 2012),
        "ceiling": estimate(0.752, 0.02, 2012),
        "ece": estimate(0.04, 0.02, 2012),
        "ece_of_chance": 0.03,
        "bins": [{"predicted": p, "observed": 0.5 + 0.8 * (p - 0.5), "n": n} for p, n in pairs],
        "baselines": {
            "length": estimate(0.52, 0.022, 2012),
            "majority": estimate(0.5, 0.022, 2012),
            "bag_of_words": estimate(0.645, 0.021, 2012),
        },
    }
    cost = {
        "judge": "nobody",
        "comparisons": 2000,
        "unanswered": 37,
        "judge_seconds": 0.9,
        "episodes": 25600,
        "tokens_sampled": 540000,
    }
    seconds = {"sample pairs": 9.4, "ask": 1.1, "fit reward model": 28.0, "optimise": 71.5, "evaluate": 14.2}
    best = ((2, 0.62, 0.45), (4, 0.70, 0.8), (8, 0.755, 1.1), (16, 0.79, 1.35), (64, 0.83, 1.75))
    best_of_n = [
        {
            "n": n,
            "kl_bound_nats": math.log(n) - (n - 1) / n,
            "gold_win_rate": estimate(won, 0.035, 512),
            "gold_win_rate_mean": estimate(0.5, 0.02, 512),
            "gold_win_rate_worst": estimate(1 - won, 0.035, 512),
            "proxy": estimate(proxy, 0.08, 512),
        }
        for n, won, proxy in best
    ]
    return {
        "table": table,
        "reward_model": reward_model,
        "cost": {**cost, "seconds_by_phase": seconds},
        "best_of_n": best_of_n,
    }


@dataclass(frozen=True)
class FabricatedPPO:
    """Settings of an optimiser that never ran."""

    clip: float = 0.2
    learning_rate: float = 3e-4
    target_kl_nats_per_sequence: float = 8.0


@dataclass(frozen=True)
class FabricatedConfig:
    """Settings of a run that never ran."""

    seed: int = 0
    comparisons: int = 2000
    ppo: FabricatedPPO = field(default_factory=FabricatedPPO)
    samples: int = 40
    updates: int = 30
    turn_nats: float = 30.0
    """KL at which gold turns down; below 12 the fabricated policy games its proxy."""


def start_fabricated_run(folder: Path, config: FabricatedConfig) -> Run:
    """Return an open run whose files look like those of `reviews`. FABRICATED: no number in it was measured."""
    rng = np.random.default_rng(config.seed)
    run = Run.create("reviews", config, root=folder.parent, folder=folder, seed=config.seed)
    run.note("Fabricated for the report's own tests: nothing was trained, no number here was measured.")
    gamed = config.turn_nats <= 12
    kl = 12.0 if gamed else 8.4
    final = gold_at(kl, config.turn_nats) + 0.005 * float(rng.normal())
    for name, value in results(final, kl).items():
        run.result(name, value)
    log_metrics(run, rng, config.updates, config.turn_nats)
    run.samples(sample_rows(rng, config.samples, gold_follows=not gamed))
    run.estimate("ppo_gold_win_rate", Estimate(final, final - 0.027, final + 0.027, 512))
    run.estimate("bon_gold_win_rate", Estimate(0.79, 0.757, 0.823, 512))
    run.estimate("ppo_kl_nats_per_sequence", Estimate(kl, kl - 0.31, kl + 0.31, 512))
    run.estimate("ppo_distinct2_ratio", Estimate(0.86, 0.83, 0.89, 512))
    run.estimate("ppo_entropy_nats", Estimate(2.2, 2.156, 2.244, 512))
    run.estimate("reward_model_accuracy", Estimate(0.69, 0.67, 0.71, 2012))
    run.estimate("reward_model_ceiling", Estimate(0.752, 0.732, 0.772, 2012))
    return run


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one fabricated, finished run with many samples, which tests read and do not change."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    start_fabricated_run(folder, FabricatedConfig(samples=230)).finish()
    return folder


@pytest.fixture
def fabricate(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a fabricated run, by default a finished one, and returns its folder."""

    def make(name: str = "fabricated", status: Literal["done", "stopped", "failed"] = "done", **settings: Any) -> Path:
        start_fabricated_run(tmp_path / name, FabricatedConfig(**settings)).finish(status)
        return tmp_path / name

    return make
