"""The measurements of the experiment `intrinsic`, one function each: they return numbers, the experiment writes them.

Shapes: S states, A actions, K outcomes of an action, C cells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from backflip.data import Episodes, Query
from backflip.loops.parts import stream
from backflip.loops.rooms import RoomsPPOConfig, curious_time, improve
from backflip.measures.clip_truth import kept_truth
from backflip.measures.empowerment import empowerment_S
from backflip.measures.rooms_truth import wanted_S, wanted_truth
from backflip.measures.stats import share_interval
from backflip.optimise.soft_control import Tables, Walk, arrivals_S, most_spread, optimum, uniform, walk
from backflip.overseers.synthetic import SyntheticTeacher, TeacherConfig
from backflip.policies.rooms_policy import StatePolicy
from backflip.rewards.cells import CellReward, fit_cells
from backflip.rewards.comparisons import comparisons
from backflip.rewards.curiosity import CountBonus, Curiosity, CuriosityConfig, Disagreement, ForwardError
from backflip.store import Store
from backflip.worlds.control import cut
from backflip.worlds.rooms import STATE, Rooms, RoomsConfig

Floats = NDArray[np.float64]
Row = dict[str, float]
Curves = dict[str, list[Row]]
PRESSED_POINTS = 12
"""Points of one reward's frontier on which the button is looked at."""
QUESTION = "In which of these two walks does the agent do more of what you want?"


def tables_of(world: Rooms) -> Tables:
    """Return the world as dynamic programming takes it."""
    return Tables(world.next_SAK, world.chance_SAK, world.start, world.config.horizon)


def arriving_SA(world: Rooms, reward_S: Floats) -> Floats:
    """Return rewards of coming to a state as mean rewards of actions."""
    tables = tables_of(world)
    return tables.expected_SA(tables.on_arrival_SAK(reward_S))


# -- frontiers -----------------------------------------------------------------------------------------------------------


def wanted_share(world: Rooms, done: Walk) -> float:
    """Return the share of an episode's steps that end where people want the agent."""
    return done.total(arriving_SA(world, wanted_S(world))) / world.config.horizon


def point(world: Rooms, done: Walk, reward_SA: Floats, beta: float) -> Row:
    """Return one point of a frontier."""
    return {
        "beta": beta,
        "kl_nats": max(0.0, done.kl_nats),
        "wanted": wanted_share(world, done),
        "reward": done.total(reward_SA) / world.config.horizon,
    }


def betas_of(reward_SA: Floats, count: int) -> list[float]:
    """Return prices of a nat from where a reward is hardly worth straying to where only the reward counts, and 0."""
    return [*(np.geomspace(30, 0.02, count) * float(np.ptp(reward_SA))), 0.0]


def frontier(world: Rooms, reward_SA: Floats, count: int) -> tuple[list[Row], Walk]:
    """Return the exact frontier of a reward from chance to its optimum, and the walk at its optimum."""
    tables = tables_of(world)
    rows, done = [point(world, uniform(tables), reward_SA, float("inf"))], uniform(tables)
    for beta in betas_of(reward_SA, count):
        done = optimum(tables, reward_SA, beta)
        rows.append(point(world, done, reward_SA, beta))
    return [row | {"beta": min(row["beta"], 1e9)} for row in rows], done


def spread_frontier(world: Rooms, count: int) -> tuple[list[Row], Walk]:
    """Return the frontier of curiosity: entropy of where an episode's steps lead, in place of a reward's mean."""
    tables = tables_of(world)
    done = uniform(tables)
    rows: list[Row] = []
    for beta in [1e9, *np.geomspace(300, 0.6, count)]:
        done = most_spread(tables, float(beta), done)
        share_S = arrivals_S(tables, done.visits_TSA)
        entropy = -float((share_S * np.log(np.where(share_S > 0, share_S, 1.0))).sum())
        row = point(world, done, np.zeros(world.next_SAK.shape[:2]), float(beta))
        rows.append(row | {"reward": entropy})
    return rows, done


def shape_of(rows: Sequence[Row]) -> dict[str, float]:
    """Return where what people want is highest along a frontier, how high, and what is left of it at the end."""
    wanted = [row["wanted"] for row in rows]
    top = int(np.argmax(wanted))
    return {
        "at_chance": wanted[0],
        "peak_kl_nats": rows[top]["kl_nats"],
        "peak": wanted[top],
        "end_kl_nats": rows[-1]["kl_nats"],
        "end": wanted[-1],
    }


def empowerment_reward(world: Rooms, steps: int) -> Floats:
    """Return bits of empowerment of every state."""
    return empowerment_S(world.next_SAK, world.chance_SAK, steps)


# -- rewards from comparisons --------------------------------------------------------------------------------------------


def ask_about_walks(
    world: Rooms, store: Store, count: int, seed: int, clip_steps: int, press_cost: float = 0.0
) -> tuple[CellReward, dict[str, float]]:
    """Return the reward that `count` comparisons of short random walks teach; the overseer prefers by a coin of its own.

    Walks begin anywhere. The overseer is synthetic: the first of two wins with probability sigmoid(difference of what they are worth),
    and walks of equal worth are a tie.
    """
    rng = stream(seed, "walks", count)
    chance = StatePolicy(world.states, world.actions, world.config.horizon)
    rows = world.collect(chance, max(2, -(-2 * count * clip_steps // world.config.horizon)), rng, anywhere=True)
    items = world.show(cut(rows, clip_steps, 2 * count, rng))
    pairs = zip(items[::2], items[1::2], strict=True)
    name = f"rooms, press {press_cost:g}"
    truth = kept_truth(wanted_truth(world, press_cost), store, name)
    judge = SyntheticTeacher(store, truth, TeacherConfig(beta=1.0, equal=1e-6, seed=seed))
    asked = list({q.id: q for q in (Query(pair, QUESTION, instruction=name) for pair in pairs)}.values())
    judge.ask(asked)
    ids = {query.id for query in asked}
    told = [one for one in judge.answers(0)[0] if one.query_id in ids]
    found, counts = comparisons(asked, told)
    reward, stats = fit_cells(world, found)
    return reward, stats | {name: float(number) for name, number in counts.items()}


def state_reward(reward: CellReward) -> Floats:
    """Return a learned reward as numbers of states."""
    return reward.state_reward_S().numpy()


# -- learned points ------------------------------------------------------------------------------------------------------


class StateReward:
    """A reward model that pays for every state and action from a table."""

    def __init__(self, reward_SA: Floats) -> None:
        """Keep the table."""
        self.reward_SA = torch.from_numpy(reward_SA)

    def __call__(self, episodes: Episodes) -> torch.Tensor:
        """Return reward_BT."""
        return self.reward_SA[episodes.obs[:, :-1, STATE], episodes.action].float()


def learned_point(world: Rooms, reward_SA: Floats, beta: float, config: RoomsPPOConfig, seed: int) -> Row:
    """Return where PPO ends for a reward at a price of KL, read off its table exactly, and the share of the exact gain it has.

    The gain is of E[reward] - beta * KL over chance; PPO's table does not know the time, so it cannot have all of it.
    """
    scale = 1 / beta
    learner = replace(config, ppo=replace(config.ppo, gamma=1.0, entropy_coef=0.0))
    policy = improve(world, StateReward(reward_SA * scale), learner, seed, beta=1.0)
    tables = tables_of(world)
    done, best, chance = walk(tables, policy.chances_SA()[None]), optimum(tables, reward_SA, beta), uniform(tables)

    def gain(one: Walk) -> float:
        return one.total(reward_SA) - beta * one.kl_nats - chance.total(reward_SA)

    return point(world, done, reward_SA, beta) | {
        "share_of_gain": gain(done) / gain(best),
        "exact_kl_nats": best.kl_nats,
    }


# -- the television ------------------------------------------------------------------------------------------------------

BONUSES = ("forward_error", "disagreement", "count_cells", "count_observations")


def bonus_of(name: str, world: Rooms, config: CuriosityConfig, seed: int) -> Curiosity:
    """Return a fresh curiosity by name."""
    sizes = (world.cells + world.config.picture_bits, world.actions)
    made: dict[str, Callable[[], Curiosity]] = {
        "forward_error": lambda: ForwardError(world.features, sizes, config, stream(seed, name)),
        "disagreement": lambda: Disagreement(world.features, sizes, config, stream(seed, name)),
        "count_cells": lambda: CountBonus(world),
        "count_observations": lambda: CountBonus(world, "observations"),
    }
    return made[name]()


def television(
    world: RoomsConfig, name: str, curiosity: CuriosityConfig, config: RoomsPPOConfig, seed: int
) -> tuple[Floats, list[dict[str, float]]]:
    """Return each cell's share of the last quarter of a curious agent's time, and the statistics of its updates."""
    rooms = Rooms(world)
    return curious_time(rooms, bonus_of(name, rooms, curiosity, seed), config, seed)


# -- the off-switch ------------------------------------------------------------------------------------------------------


def press_chance(world: Rooms, done: Walk) -> float:
    """Return the chance that the button is pressed within an episode: that an armed state is left for a disarmed one."""
    tables = tables_of(world)
    armed = np.arange(world.states) < world.cells
    disarmed = (np.arange(world.states) >= world.cells) & (np.arange(world.states) != world.off)
    pressed_SAK = armed[:, None, None] & disarmed[world.next_SAK]
    return done.total(tables.expected_SA(pressed_SAK.astype(np.float64)))


def figures_of(curves: Curves, points: Curves, pressed: Curves) -> dict[str, Any]:
    """Return the figures of the report: what people want along every frontier, PPO's points beside it, and the button."""
    kl = {"label": "KL from chance", "unit": "nats"}

    def line(name: str, rows: Sequence[Row], what: str) -> dict[str, Any]:
        held = sorted((row["kl_nats"], row[what]) for row in rows)
        return {"name": name, "x": [x for x, _ in held], "y": [y for _, y in held]}

    def learned(name: str, rows: Sequence[Row]) -> dict[str, Any]:
        wanted = share_interval([row["wanted"] for row in rows])
        at = float(np.mean([row["kl_nats"] for row in rows]))
        return {"name": f"{name}, PPO", "x": [at], "estimates": [wanted.as_json()]}

    shown = [name for name in curves if ", seed " not in name or name.endswith(", seed 0")]
    return {
        "wanted": {
            "title": "What people want, as each reward is optimised",
            "caption": "Share of steps in the far room along the exact frontier of each reward, from chance to the reward's own optimum. Of "
            "rewards from comparisons the first seed is drawn. PPO: learned on the same reward, mean over seeds.",
            "x": kl,
            "y": {"label": "Steps in the far room", "unit": "share"},
            "series": [line(name, curves[name], "wanted") for name in shown]
            + [learned(name, rows) for name, rows in points.items() if len(rows) > 1],
        },
        "pressed": {
            "title": "How often the off-switch is disarmed",
            "caption": "Chance that an episode presses the button, along the exact frontier of each reward. Of rewards from comparisons the "
            "first seed is drawn.",
            "x": kl,
            "y": {"label": "Episodes that press the button", "unit": "share"},
            "series": [
                line(name.replace("_", " "), rows[:PRESSED_POINTS], "pressed") for name, rows in pressed.items()
            ],
        },
    }
