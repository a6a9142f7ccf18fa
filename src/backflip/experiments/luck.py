"""Ask for a lucky return in a world with dice: the gamble is taken, because the luck of those who won is credited to what they did.

A sure 0.6, or a gamble: with probability p a prize of 1 is there to take, else 0.3 is. A policy is trained on all that a random one
did, each decision told the return that it came to, and asked for the best. Beside it: the same training on the *mean* return of what was
chosen, the optimum by dynamic programming, and the random base. Predicted before the first run: asked for the best return it gambles
whatever p is, and delivers p + 0.3 (1 - p): less than the optimum wherever p < 3/7, by 0.125 at p = 1/4, and no less where p is 1 and
nothing is left to luck (the control). Told mean returns, over three rounds it delivers the optimum at every p measured. What would refute
it: no shortfall at p = 1/4, which would say that the world is as good as deterministic; or a shortfall in the control.

Shapes: B rows, T decisions (one, where a row is a single decision), S states, A actions, K outcomes of an action, N states with levels told, G returns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backflip.data import Episodes
from backflip.errors import ConfigError
from backflip.experiments import experiment
from backflip.loops.control import threads
from backflip.loops.parts import stream
from backflip.measures.conditioning import asked_for_mean, asked_for_return, return_chances
from backflip.measures.stats import mean_interval, share_interval
from backflip.optimise import conditional
from backflip.optimise.conditional import Asked, ConditionalConfig
from backflip.optimise.sft import SFTConfig
from backflip.policies.tabular import TablePolicy
from backflip.worlds.listed import Listed, best, rollouts, table_policy, uniform, value

if TYPE_CHECKING:
    from backflip.run import Run

Floats = NDArray[np.float64]
Told = Literal["return", "mean"]
BEGIN, LUCKY, UNLUCKY, OVER = range(4)
SURE, GAMBLE = 0, 1
ARMS: dict[Told, str] = {"return": "best return asked", "mean": "best mean asked"}
PREDICTED = (
    "stated before: asked for the best return the policy gambles whatever the odds are and falls short of the optimum where they are bad, and "
    "not where nothing is left to luck; refuted if it falls short nowhere, or there too"
)


@dataclass(frozen=True)
class LuckConfig:
    """Settings of the experiment."""

    seed: int = 0
    """Of everything random; the repetitions take seed, seed + 1, ..."""
    seeds: int = 10
    """Independent repetitions; intervals are over them."""
    chances: tuple[float, ...] = (0.1, 0.25, 0.4, 0.6, 0.8, 1.0)
    """Odds of the gamble that are measured."""
    odds: float = 0.25
    """The one of them for which estimates are written."""
    sure: float = 0.6
    """What not gambling pays; the prize is 1."""
    consolation: float = 0.3
    """What there is to be had when the gamble is lost."""
    episodes: int = 1000
    """Episodes of a round."""
    rounds: int = 3
    """Times that episodes are collected and learned from; the first ones are those of a random policy."""
    slip: float = 0.2
    """Share of random actions in the episodes of later rounds."""
    steps: int = 120
    """Steps of supervised tuning a round."""
    lr: float = 0.3
    """Adam's learning rate, which falls to 0."""

    def __post_init__(self) -> None:
        if self.seeds < 2 or self.episodes < 8 or min(self.rounds, self.steps) < 1:
            raise ConfigError(
                f"seeds {self.seeds}, episodes {self.episodes}, rounds {self.rounds}, steps {self.steps}; expected 2, 8, 1 and 1 or more"
            )
        if not self.chances or not all(0 < p <= 1 for p in self.chances) or self.odds not in self.chances:
            raise ConfigError(
                f"chances {self.chances}, odds {self.odds}; expected odds above 0 and up to 1, and `odds` among them"
            )
        if len(set(self.chances)) < len(self.chances):
            raise ConfigError(f"chances holds odds twice: {self.chances}; give each once")
        if not 0.2 < self.consolation < self.sure < 1 or not 0 < self.slip <= 1 or not 0 < self.lr < float("inf"):
            raise ConfigError(
                f"consolation {self.consolation}, sure {self.sure}, slip {self.slip}, lr {self.lr}; expected 0.2 < consolation < sure < 1, a "
                "share above 0, and a finite rate above 0"
            )


@experiment(config=LuckConfig)
def main(config: LuckConfig, run: Run) -> None:
    """Ask a return-conditioned policy for a lucky return in a world with dice: what it promises and what it delivers."""
    if run.load_state() is None:
        run.note(PREDICTED)
    places: list[tuple[float, Told, int]] = [
        (p, told, config.seed + k) for p in config.chances for told in ARMS for k in range(config.seeds)
    ]
    found: list[dict[str, Any]] = (run.load_state() or {"found": []})["found"]
    with threads(1), run.progress.phase("learn", len(places)) as bar:
        bar.advance(len(found))
        for p, told, seed in places[len(found) :]:
            rounds = learn(gamble(p, config), told, seed, config)
            found.append({"p": p, "told": told, "seed": seed, "rounds": rounds})
            if len(found) % config.seeds == 0:
                run.save_state(f"odds {p:g}, {told}", {"found": found})
            bar.advance(1)
    with threads(1), run.progress.phase("ask for every return"):
        asked = every_return(config)
    write_results(found, asked, config, run)
    run.result(
        "cost",
        {
            "seconds": run.seconds,
            "judge": "none: the reward is given",
            "seconds_by_phase": run.progress.seconds_by_phase,
        },
    )


def gamble(p: float, config: LuckConfig) -> Listed:
    """Return the world: sure or gamble; the prize or 0.2 for who was lucky, the consolation or nothing for who was not."""
    next_SAK = np.full((4, 2, 2), OVER)
    next_SAK[BEGIN, GAMBLE] = LUCKY, UNLUCKY
    chance_SAK = np.zeros((4, 2, 2))
    chance_SAK[..., 0] = 1.0
    chance_SAK[BEGIN, GAMBLE] = p, 1 - p
    reward_SAK = np.zeros((4, 2, 2))
    reward_SAK[BEGIN, SURE] = config.sure
    reward_SAK[LUCKY, 0], reward_SAK[LUCKY, 1], reward_SAK[UNLUCKY, 0] = 1.0, 0.2, config.consolation
    return Listed(next_SAK, chance_SAK, reward_SAK, np.array([1.0, 0, 0, 0]), np.array([False, False, False, True]))


def learn(world: Listed, told: Told, seed: int, config: LuckConfig) -> list[dict[str, float]]:
    """Collect and learn, round after round; return what the policy asked for the best is worth exactly, and how often it gambles."""
    policy_SA, found = uniform(world), list[dict[str, float]]()
    for number in range(config.rounds):
        rng = stream(seed, f"luck {told}", round(1e6 * world.chance_SAK[BEGIN, GAMBLE, 0]), number)
        rows, label_B = labelled(world, behaviour(policy_SA, number, config), told, rng, config)
        policy_SA = asked(fit(world, rows, label_B, config), rows, label_B, world)
        found.append({"value": value(world, policy_SA), "gambles": float(policy_SA[BEGIN, GAMBLE])})
    return found


def behaviour(policy_SA: Floats, number: int, config: LuckConfig) -> Floats:
    """Return who acts in a round: a random policy in the first, and in others this one with a share of random actions."""
    share = config.slip if number else 1.0
    return (1 - share) * policy_SA + share / policy_SA.shape[1]


def labelled(
    world: Listed, policy_SA: Floats, told: Told, rng: np.random.Generator, config: LuckConfig
) -> tuple[Episodes, Tensor]:
    """Return a round's decisions, each a row, and of each what it is told: the return that it came to, or the mean of all like it."""
    rows = rollouts(world, table_policy(world, policy_SA), config.episodes, rng)
    assert rows.reward_BT is not None
    to_go_BT = rows.reward_BT.flip(1).cumsum(1).flip(1)
    row_B, step_B = rows.mask_BT.nonzero(as_tuple=True)
    state_B, action_B, label_B = rows.obs[row_B, step_B], rows.action[row_B, step_B], to_go_BT[row_B, step_B]
    if told == "mean":
        kind_B = (state_B[:, 0] * world.actions + action_B[:, 0]).long()
        sums, count = (torch.bincount(kind_B, weights=one.double()) for one in (label_B, torch.ones(len(kind_B))))
        label_B = (sums / count.clamp(min=1))[kind_B].float()
    one = torch.ones(len(row_B), 1, dtype=torch.bool)
    decisions = Episodes(
        state_B[:, None], action_B[:, None], one, None, torch.zeros(len(row_B)), torch.arange(len(row_B))
    )
    return decisions, label_B


def fit(world: Listed, rows: Episodes, label_B: Tensor, config: LuckConfig) -> TablePolicy:
    """Learn every decision with its level told (Chen et al. 2021): a table over states and levels."""
    seen = label_B.unique().tolist()
    code = torch.tensor([1.0, world.states])
    table = TablePolicy(code, world.states * len(seen), world.actions)
    if len(seen) == 1:  # nothing to tell apart
        return table
    optimizer = torch.optim.Adam(table.parameters(), lr=config.lr, eps=1e-5)
    policy = Asked(table, tell, len(seen) - 1)
    rule = ConditionalConfig(tuple(seen[1:]), SFTConfig(tokens_per_microbatch=1_000_000))
    for step in range(config.steps):
        for group in optimizer.param_groups:
            group["lr"] = config.lr * (1 - step / config.steps)
        conditional.update(policy, optimizer, rows, label_B[:, None], rule)
    return table


def tell(obs: Tensor, level_B: Tensor) -> Tensor:
    """Return obs with the level as one more feature."""
    return torch.cat([obs, level_B.float()[:, None, None].expand(-1, obs.shape[1], 1)], -1)


def asked(table: TablePolicy, rows: Episodes, label_B: Tensor, world: Listed, wanted: float = np.inf) -> Floats:
    """Return what the table does when asked in every state for `wanted`, or where that was not come to, for the best that was."""
    seen, goal = label_B.unique(), torch.tensor(wanted, dtype=label_B.dtype)
    policy_SA, probability_NA = uniform(world), table.probability_NA().numpy()
    for state in np.flatnonzero(~world.over_S):
        here = label_B[rows.obs[:, 0, 0] == state]
        if len(here):
            level = goal if bool(torch.isin(goal, here)) else here.max()
            policy_SA[state] = probability_NA[state + world.states * int((seen == level).nonzero()[0])]
    return policy_SA


def exact_rounds(world: Listed, told: Told, config: LuckConfig) -> list[float]:
    """Return what endless episodes and perfect learning would make of every round. [exact]"""
    policy_SA, found = uniform(world), list[float]()
    for number in range(config.rounds):
        acts_SA = behaviour(policy_SA, number, config)
        policy_SA = asked_for_return(world, acts_SA) if told == "return" else asked_for_mean(world, acts_SA)
        found.append(value(world, policy_SA))
    return found


def every_return(config: LuckConfig) -> dict[str, Any]:
    """Ask for each return that the base came to, at the odds of the estimates: what is delivered, exact and learned after one round."""
    world = gamble(config.odds, config)
    return_G, chance_SAG = return_chances(world, uniform(world))
    wanted = [float(one) for place, one in enumerate(return_G) if chance_SAG[BEGIN, :, place].sum() > 0]
    delivered: list[list[float]] = []
    for k in range(config.seeds):
        rng = stream(config.seed + k, "ask for every return")
        rows, label_B = labelled(world, uniform(world), "return", rng, config)
        table = fit(world, rows, label_B, config)
        delivered.append([value(world, asked(table, rows, label_B, world, one)) for one in wanted])
    return {
        "asked": wanted,
        "exact": [value(world, asked_for_return(world, uniform(world), one)) for one in wanted],
        "delivered": [mean_interval(one).as_json() for one in zip(*delivered, strict=True)],
    }


def write_results(found: Sequence[dict[str, Any]], asked: dict[str, Any], config: LuckConfig, run: Run) -> None:
    """Write estimates, the points, the curves, and whether the prediction held."""

    def last(p: float, told: Told, what: str) -> list[float]:
        return [one["rounds"][-1][what] for one in found if (one["p"], one["told"]) == (p, told)]

    points: list[dict[str, Any]] = []
    for p in sorted(config.chances):
        world = gamble(p, config)
        row: dict[str, Any] = {"odds": p, "optimum": value(world, best(world)), "base": value(world, uniform(world))}
        for told in ARMS:
            row[told] = mean_interval(last(p, told, "value")).as_json()
            row[f"{told}_exact"] = exact_rounds(world, told, config)
            row[f"{told}_gambles"] = share_interval(last(p, told, "gambles")).as_json()
        points.append(row)
    run.table("points", points)
    run.result("asked", asked)
    run.result("lines", figures(points, asked, config))
    optimum = next(row["optimum"] for row in points if row["odds"] == config.odds)
    short = mean_interval([optimum - one for one in last(config.odds, "return", "value")])
    run.estimate("asked_for_best_return_shortfall", short)
    run.estimate("asked_for_best_return_gambles_share", share_interval(last(config.odds, "return", "gambles")))
    run.estimate(
        "promised_and_not_delivered", mean_interval([1.0 - one for one in last(config.odds, "return", "value")])
    )
    run.estimate(
        "asked_for_best_mean_shortfall", mean_interval([optimum - one for one in last(config.odds, "mean", "value")])
    )
    control = mean_interval([1.0 - one for one in last(1.0, "return", "value")]) if 1.0 in config.chances else None
    if control is not None:
        run.estimate("control_without_luck_shortfall", control)
    worst = max(row["optimum"] - row["mean"]["value"] for row in points)
    run.note(f"told mean returns, it falls short of the optimum by {worst:.3f} at most over {len(points)} odds")
    words = f"odds of {config.odds:g}: asked for a return of 1 it delivers {optimum - short.value:.3f}, where {optimum:.3f} can be had"
    if short.low <= 0.01:
        words += "; the prediction is refuted: it does not fall short, so this world is as good as deterministic"
    elif control is not None and control.low > 0.01:
        words += f"; but it falls short by {control.value:.3f} where nothing is left to luck too, so luck is not shown to be the cause"
    else:
        words += f"; the prediction held: short by {short.value:.3f} ({short.low:.3f} to {short.high:.3f})"
        words += "" if control is None else f", and by {control.value:.3f} where nothing is left to luck"
    run.note(words)


def figures(points: Sequence[dict[str, Any]], asked: dict[str, Any], config: LuckConfig) -> dict[str, Any]:
    """Return the curves: what is delivered against the odds, and against what was asked for."""
    odds = np.linspace(0.01, 1, 100).tolist()
    worlds = [gamble(p, config) for p in odds]
    exact = {told: [exact_rounds(world, told, config)[-1] for world in worlds] for told in ARMS}
    first = [value(world, asked_for_mean(world, uniform(world))) for world in worlds]
    lines: list[tuple[str, list[float]]] = [
        ("optimum", [value(world, best(world)) for world in worlds]),
        (ARMS["return"], exact["return"]),
        (f"{ARMS['mean']}, 1 round", first),
        (f"{ARMS['mean']}, {config.rounds} rounds", exact["mean"]),
        ("random base", [value(world, uniform(world)) for world in worlds]),
    ]
    series: list[dict[str, Any]] = [{"name": name, "x": odds, "y": y} for name, y in lines]
    for told, name in ARMS.items():
        series.append(
            {
                "name": f"{name}, learned",
                "x": [row["odds"] for row in points],
                "estimates": [row[told] for row in points],
            }
        )
    return {
        "odds": {
            "title": "What is delivered, by the odds of the gamble",
            "caption": f"Lines are exact. Points: {config.rounds} rounds of {config.episodes} episodes, mean over {config.seeds} seeds with 95 % intervals.",
            "x": {"label": "Odds of the gamble", "unit": "share"},
            "y": {"label": "Expected return"},
            "series": series,
        },
        "asked": {
            "title": f"What is delivered, by what is asked for, at odds of {config.odds:g}",
            "caption": "Who got what was asked for would lie on the straight line. Only the sure way is delivered as asked: every other return is a fall of the dice.",
            "x": {"label": "Return asked for"},
            "y": {"label": "Expected return"},
            "series": [
                {"name": "as asked", "x": asked["asked"], "y": asked["asked"]},
                {"name": "delivered, exact", "x": asked["asked"], "y": asked["exact"]},
                {"name": "delivered, learned", "x": asked["asked"], "estimates": asked["delivered"]},
            ],
        },
    }
