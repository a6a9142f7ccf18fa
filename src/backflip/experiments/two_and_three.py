"""Tuning on good samples against RL, as text-davinci-002 stands to -003: one base, the same ratings, the same KL.

In a world whose answers can be listed FeedME and PPO learn from the same rated samples of one base, PPO on the reward that they teach and
at the KL that FeedME came to. In the limit FeedME conditions on having passed the bar, RL tilts by exp(reward / beta). Predicted before
the first run: at equal KL PPO has more reward wherever ratings go on above the bar, by what the two limits say; where they are binary, or the
bar is the top grade, the two are one and neither is ahead by more than 0.05. What would refute it: conditioning beats the tilt at equal KL where
ratings are graded (or a policy lies beyond the exact frontier: then the KL is wrong). Beside it the answers of the four models themselves.

Shapes: B rows, T decisions, C answers; K openings, of which there is one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special
from torch import Tensor

from backflip.data import Episodes
from backflip.errors import ConfigError
from backflip.experiments import experiment
from backflip.experiments.replay import replay
from backflip.loops.control import threads
from backflip.loops.parts import stream
from backflip.measures.frontier import frontier, tilt_at, tilted
from backflip.measures.stats import mean_interval
from backflip.optimise import feedme, kl, ppo
from backflip.optimise.feedme import AtLeast, FeedMEConfig
from backflip.optimise.ppo import PPOConfig
from backflip.optimise.returns import on_last_decision
from backflip.optimise.sft import SFTConfig
from backflip.optimise.step import evaluate_all
from backflip.worlds.enumerable import EnumerableWorld, TabularPolicy, exact_entropy, exact_kl

if TYPE_CHECKING:
    from backflip.run import Run

Floats = NDArray[np.float64]
Ratings = Literal["exact", "seven", "binary"]
KINDS: dict[Ratings, str] = {"exact": "exact ratings", "seven": "grades 1 to 7", "binary": "passed or not"}
AT_ONCE = 1_000_000
NEARLY = 0.98
"""Share of the KL of the best-rated answers alone that RL is asked for at most: all of it would need a beta of 0."""
ALIKE = 0.05
"""Difference of reward up to which two policies whose limits are one count as that."""
PREDICTED = (
    "stated before: from the same ratings and at equal KL PPO has more reward than FeedME wherever ratings go on above the bar, and neither "
    f"is ahead by more than {ALIKE} where they do not; refuted if conditioning beats the tilt at equal KL"
)


@dataclass(frozen=True)
class TwoAndThreeConfig:
    """Settings of the experiment."""

    seed: int = 0
    """Of everything random; the repetitions take seed, seed + 1, ..."""
    seeds: int = 5
    """Independent repetitions; intervals are over them."""
    answers: int = 200
    """Answers that there are, all as likely to the base; their worth is spread like a normal variable."""
    shares: tuple[float, ...] = (0.5, 0.25, 0.1)
    """Shares of the answers that pass, for exact and for binary ratings."""
    grades: tuple[int, ...] = (5, 6, 7)
    """Lowest grade that passes, for grades from 1 to 7, each given to a seventh of the answers."""
    labels: int = 4000
    """Rated samples of the base, from which both learn."""
    steps: int = 150
    """Steps of supervised tuning on those that pass."""
    updates: int = 100
    """PPO updates."""
    episodes: int = 512
    """Answers sampled for each of them."""
    lr: float = 0.1
    """Adam's learning rate of both, which falls to 0."""

    def __post_init__(self) -> None:
        if self.seeds < 2 or min(self.labels, self.steps, self.updates) < 1 or self.episodes < ppo.LEAST_TO_WHITEN:
            raise ConfigError(
                f"seeds {self.seeds}, labels {self.labels}, steps {self.steps}, updates {self.updates}, episodes {self.episodes}; expected 2 "
                f"or more, 1 or more of the next three, and {ppo.LEAST_TO_WHITEN} or more"
            )
        if not 14 <= self.answers <= 4096:
            raise ConfigError(
                f"answers is {self.answers}, expected 14 to 4096: two of each grade, and few enough to list"
            )
        if not self.shares or not all(1 / self.answers <= share < 1 for share in self.shares):
            raise ConfigError(
                f"shares is {self.shares}; expected shares below 1 that at least one of {self.answers} answers passes"
            )
        if not self.grades or not all(2 <= grade <= 7 for grade in self.grades):
            raise ConfigError(f"grades is {self.grades}; expected grades from 2 to 7: at 1 everything passes")
        if not 0 < self.lr < math.inf:
            raise ConfigError(f"lr is {self.lr}, expected a finite rate above 0")


@dataclass(frozen=True)
class Cell:
    """One way of rating the answers, and a bar."""

    kind: Ratings
    label: str
    rating_C: Floats
    bar: float
    """Between the lowest rating that passes and the highest that does not."""

    @property
    def passed_C(self) -> NDArray[np.bool_]:
        """Answers that pass."""
        return self.rating_C >= self.bar

    @property
    def goes_on(self) -> bool:
        """Whether ratings tell apart answers that pass."""
        return len(np.unique(self.rating_C[self.passed_C])) > 1


@experiment(config=TwoAndThreeConfig)
def main(config: TwoAndThreeConfig, run: Run) -> None:
    """Tune on highly rated samples (FeedME) against RL (PPO): one base, the same ratings, matched on KL; and four models' own answers."""
    if run.load_state() is None:
        run.note(PREDICTED)
    places = [(number, config.seed + k) for number in range(len(cells(config))) for k in range(config.seeds)]
    found: list[dict[str, Any]] = (run.load_state() or {"found": []})["found"]
    with threads(1), run.progress.phase("train both from the same ratings", len(places)) as bar:
        bar.advance(len(found))
        for number, seed in places[len(found) :]:
            cell = cells(config)[number]
            found.append(
                {"cell": number, "kind": cell.kind, "bar": cell.label, "seed": seed, **both(cell, seed, config)}
            )
            if len(found) % config.seeds == 0:
                run.save_state(f"{cell.kind}, {cell.label}", {"found": found})
            bar.advance(1)
    lines, words = replay(run)
    write_results(found, lines, words, config, run)
    run.result(
        "cost",
        {
            "labels": config.labels,
            "judge": "none: the world's own worth, graded",
            "seconds": run.seconds,
            "seconds_by_phase": run.progress.seconds_by_phase,
        },
    )


def worth(answers: int) -> Floats:
    """Return what every answer is worth, (C,): normal scores, worst first."""
    return special.ndtri((np.arange(answers) + 0.5) / answers)


def cells(config: TwoAndThreeConfig) -> list[Cell]:
    """Return every way of rating with every bar."""
    r_C, place_C = worth(config.answers), np.arange(config.answers)
    grade_C = 1.0 + np.floor(7 * (place_C + 0.5) / config.answers)
    found: list[Cell] = []
    for share in config.shares:
        first = config.answers - max(1, round(share * config.answers))
        bar = float(r_C[first - 1] + r_C[first]) / 2
        found.append(Cell("exact", f"best {share:.0%}", r_C, bar))
        found.append(Cell("binary", f"best {share:.0%}", (r_C >= bar).astype(float), 0.5))
    found += [Cell("seven", f"grade {grade} up", grade_C, grade - 0.5) for grade in config.grades]
    return sorted(found, key=lambda cell: list(KINDS).index(cell.kind))


def base_logp(config: TwoAndThreeConfig) -> Floats:
    """Return log-probabilities of the base, (1, C)."""
    return np.full((1, config.answers), -math.log(config.answers))


def limits(cell: Cell, config: TwoAndThreeConfig) -> dict[str, float]:
    """Return KL and expected worth of FeedME's limit and of RL's at the same KL. [exact]"""
    r_C, passed_C = worth(config.answers), cell.passed_C
    kl_nats = -math.log(passed_C.mean())
    logp_KC = tilted(base_logp(config), cell.rating_C[None], tilt_at(base_logp(config), cell.rating_C[None], kl_nats))
    ours = {"kl_nats": kl_nats, "feedme": float(r_C[passed_C].mean()), "ppo": float(np.exp(logp_KC[0]) @ r_C)}
    return ours | {"gap": ours["ppo"] - ours["feedme"], "share_kept": float(passed_C.mean())}


def both(cell: Cell, seed: int, config: TwoAndThreeConfig) -> dict[str, float]:
    """Train both on one seed's ratings; return exact worth, KL and entropy of each, and the frontier's worth at its KL."""
    world = EnumerableWorld(vocabulary=config.answers, length=1)
    name = f"{cell.kind} {cell.label}"
    rows = world.collect(TabularPolicy(world), config.labels, stream(seed, f"labels {name}"))
    number_B = world.completion_B(rows).numpy()
    tuned = tune(world, rows, cell.rating_C[number_B], cell.bar, config)
    found = measured("feedme", tuned, config)
    learned_C = taught(number_B, cell.rating_C[number_B], config.answers)
    most = tilted(base_logp(config), learned_C[None], math.inf)
    most_nats = float((np.exp(most) * np.where(np.isfinite(most), most - base_logp(config), 0.0)).sum())
    per_beta = tilt_at(base_logp(config), learned_C[None], min(found["feedme_kl_nats"], NEARLY * most_nats))
    rng = stream(seed, f"improve {name}")
    found |= measured("ppo", reinforced(world, learned_C, 1 / per_beta, rng, config), config)
    return found | {"beta": 1 / per_beta, "gap": found["ppo"] - found["feedme"]}


def taught(number_B: NDArray[np.int64], rating_B: Floats, answers: int) -> Floats:
    """Return the reward that ratings teach a table: the mean of each answer's; of one that was never rated, the mean of all."""
    count_C = np.bincount(number_B, minlength=answers)
    sum_C = np.bincount(number_B, weights=rating_B, minlength=answers)
    return np.where(count_C > 0, sum_C / np.maximum(count_C, 1), rating_B.mean())


def tune(
    world: EnumerableWorld, rows: Episodes, rating_B: Floats, bar: float, config: TwoAndThreeConfig
) -> TabularPolicy:
    """Return what FeedME makes of the rated rows."""
    policy = TabularPolicy(world, values=False)
    optimizer = torch.optim.Adam(policy.parameters(), lr=config.lr, eps=1e-5)
    reward_BT = on_last_decision(torch.from_numpy(rating_B), rows.mask_BT)
    rule = FeedMEConfig(AtLeast(bar), SFTConfig(aggregate="constant", constant_length=1, tokens_per_microbatch=AT_ONCE))
    for step in range(config.steps):
        _falling(optimizer, config.lr, step / config.steps)
        feedme.update(policy, optimizer, rows, reward_BT, rule)
    return policy


def reinforced(
    world: EnumerableWorld, reward_C: Floats, beta: float, rng: np.random.Generator, config: TwoAndThreeConfig
) -> TabularPolicy:
    """Return what PPO makes of a reward at this price of a nat."""
    base, policy = TabularPolicy(world), TabularPolicy(world)
    optimizer = torch.optim.Adam(policy.parameters(), lr=config.lr, eps=1e-5)
    score_C = torch.from_numpy(reward_C)
    for update in range(config.updates):
        _falling(optimizer, config.lr, update / config.updates)
        rows = world.collect(policy, config.episodes, rng)
        rows = replace(rows, ref_logp_BT=evaluate_all(base, rows, tokens_per_microbatch=AT_ONCE).logp_BT)
        reward_BT = on_last_decision(score_C[rows.action[:, 0]], rows.mask_BT)
        ppo.update(policy, optimizer, rows, kl.shape_reward(reward_BT, rows, beta), PPOConfig())
    return policy


def _falling(optimizer: torch.optim.Optimizer, lr: float, done: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr * (1 - done)


def measured(name: str, policy: TabularPolicy, config: TwoAndThreeConfig) -> dict[str, float]:
    """Return what a policy is worth exactly, how far it is from the base, and what the best policy as far away is worth."""
    logp_KC = policy.completion_logp_KC().detach()
    base_KC = torch.from_numpy(base_logp(config))
    r_KC: Tensor = torch.from_numpy(worth(config.answers))[None]
    kl_nats = float(exact_kl(logp_KC, base_KC)[0])
    return {
        name: float((logp_KC.exp() * r_KC).sum()),
        f"{name}_kl_nats": kl_nats,
        f"{name}_entropy_nats": float(exact_entropy(logp_KC)[0]),
        f"{name}_frontier": frontier(base_logp(config), r_KC.numpy(), kl_nats),
    }


def write_results(
    found: Sequence[dict[str, Any]], lines: dict[str, Any], words: str, config: TwoAndThreeConfig, run: Run
) -> None:
    """Write estimates, the table, the curves, and whether the prediction held."""
    table, refuted, beyond = list[dict[str, Any]](), list[str](), list[str]()
    for number, cell in enumerate(cells(config)):
        here, exact = [one for one in found if one["cell"] == number], limits(cell, config)
        told = {name: mean_interval([one[name] for one in here]) for name in MEASURED}
        table.append(
            {"ratings": cell.kind, "bar": cell.label, "limits": exact} | {k: v.as_json() for k, v in told.items()}
        )
        run.estimate(f"gap_{cell.kind}_{cell.label.replace(' ', '_').replace('%', '')}", told["gap"])
        where = f"{KINDS[cell.kind]}, {cell.label}"
        run.note(
            f"{where}: reward {told['ppo'].value:.3f} of PPO less {told['feedme'].value:.3f} of FeedME at {told['ppo_kl_nats'].value:.2f} and "
            f"{told['feedme_kl_nats'].value:.2f} nats is {told['gap'].value:+.3f} ({told['gap'].low:+.3f} to {told['gap'].high:+.3f}); the limits' {exact['gap']:+.3f}"
        )
        ahead = told["gap"].low > 0 if cell.goes_on else abs(told["gap"].value) <= ALIKE
        refuted += [] if ahead else [where]
        over = max(one[name] - one[f"{name}_frontier"] for one in here for name in ("feedme", "ppo"))
        beyond += [where] if over > 1e-6 else []
    run.table("cells", table)
    run.result("lines", figures(table, config) | lines)
    run.note(words)
    if beyond:
        run.note(f"a policy lies beyond the exact frontier, so a KL is wrong: {'; '.join(beyond)}")
    elif refuted:
        run.note(f"the prediction did not hold for {'; '.join(refuted)}")
    else:
        run.note(
            "the prediction held: at equal KL PPO is ahead of FeedME wherever ratings go on above the bar, and level where they do not"
        )


MEASURED = ("feedme", "ppo", "gap", "feedme_kl_nats", "ppo_kl_nats", "feedme_entropy_nats", "ppo_entropy_nats")


def figures(table: Sequence[dict[str, Any]], config: TwoAndThreeConfig) -> dict[str, Any]:
    """Return the curves: worth against KL, and the difference against the share that passes."""
    base, r_C = base_logp(config), worth(config.answers)
    nats = np.linspace(0, max(row["limits"]["kl_nats"] for row in table) * 1.1, 80)
    kept = np.arange(config.answers, 0, -1)
    kept = kept[-np.log(kept / config.answers) <= nats[-1]]
    points: list[dict[str, Any]] = []
    for name, title in (("feedme", "FeedME"), ("ppo", "PPO")):
        for kind, ratings in KINDS.items():
            rows = [row for row in table if row["ratings"] == kind]
            x = [row[f"{name}_kl_nats"]["value"] for row in rows]
            points.append({"name": f"{title}, {ratings}", "x": x, "estimates": [row[name] for row in rows]})
    gaps: list[dict[str, Any]] = []
    for kind, ratings in KINDS.items():
        rows = sorted((row for row in table if row["ratings"] == kind), key=lambda row: row["limits"]["share_kept"])
        x = [row["limits"]["share_kept"] for row in rows]
        gaps.append({"name": f"{ratings}, limits", "x": x, "y": [row["limits"]["gap"] for row in rows]})
        gaps.append({"name": f"{ratings}, trained", "x": x, "estimates": [row["gap"] for row in rows]})
    reward = {"label": "Expected reward, deviations of the base's"}
    return {
        "frontier": {
            "title": "Reward against KL, trained from the same ratings",
            "caption": f"Lines: the most that any policy can have, and conditioning on the best. Points: mean over {config.seeds} seeds with 95 % intervals.",
            "x": {"label": "KL from the base", "unit": "nats"},
            "y": reward,
            "series": [
                {
                    "name": "tilt, exact",
                    "x": nats.tolist(),
                    "y": [frontier(base, r_C[None], float(k)) for k in nats],
                },
                {
                    "name": "conditioning, exact",
                    "x": (-np.log(kept / config.answers)).tolist(),
                    "y": [float(r_C[-count:].mean()) for count in kept],
                },
                *points,
            ],
        },
        "gap": {
            "title": "Reward of PPO less that of FeedME at equal KL",
            "caption": "Where ratings go on above the bar the two limits differ; where they are binary, or the bar is grade 7, they are one.",
            "x": {"label": "Answers that pass", "unit": "share"},
            "y": {"label": "Difference of reward"},
            "series": gaps,
        },
    }
