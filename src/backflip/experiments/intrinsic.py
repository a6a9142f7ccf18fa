"""What people used before preferences: a hand-made score, curiosity, empowerment, and how much optimisation each withstands.

Four rooms, every transition listed, so the frontier between chance and each reward's optimum is exact. Along it what people want (be
in the far room) is measured; beside it stands a reward learned from comparisons of short walks. Then the noisy television, and who
presses the button that disarms an off-switch. docs/intrinsic.md states what was predicted, and what would have refuted it.

Shapes: C cells, S states, A actions, W seeds.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from backflip.data import Estimate
from backflip.errors import ConfigError
from backflip.experiments import experiment
from backflip.experiments.intrinsic_parts import (
    BONUSES,
    PRESSED_POINTS,
    Curves,
    Row,
    arriving_SA,
    ask_about_walks,
    empowerment_reward,
    figures_of,
    frontier,
    learned_point,
    press_chance,
    shape_of,
    spread_frontier,
    state_reward,
    tables_of,
    television,
)
from backflip.loops.control import threads
from backflip.loops.parts import stream
from backflip.loops.rooms import RoomsPPOConfig, around, counting_cover, random_cover
from backflip.measures.empowerment import capacity, channel, closed_form_S
from backflip.measures.rooms_truth import wanted_S
from backflip.measures.stats import mean_interval, share_interval
from backflip.optimise.soft_control import Walk, arrivals_S, optimum, uniform
from backflip.rewards.curiosity import CuriosityConfig
from backflip.worlds.rooms import Rooms, RoomsConfig

if TYPE_CHECKING:
    from backflip.run import Run

Floats = NDArray[np.float64]
PRESS_COST = 20.0
"""Steps in the far room that a step on the button costs in the eyes of an overseer who minds."""
PRICE = 0.2
"""PPO is laid beside the exact frontier where a nat costs this share of a reward's range."""


@dataclass(frozen=True)
class IntrinsicConfig:
    """Settings of the experiment."""

    seed: int = 0
    """Of everything random; the repetitions have seeds that follow it."""
    repetitions: int = 5
    """Seeds over which whatever is random is repeated."""
    rooms: RoomsConfig = field(default_factory=RoomsConfig)
    """The world of the frontiers; television and off-switch are added where they are measured."""
    points: int = 40
    """Points of every frontier between chance and the optimum."""
    empowerment_steps: int = 4
    """Actions ahead of the empowerment that is maximised without an off-switch."""
    off_empowerment_steps: int = 3
    """The same with an off-switch, by Blahut-Arimoto."""
    comparisons: tuple[int, ...] = (30, 300)
    """Numbers of comparisons from which a reward is learned."""
    clip_steps: int = 10
    """Length of the walks that are compared."""
    off_chance: float = 0.02
    """Chance at each step of being switched off, while the switch is armed."""
    curiosity: CuriosityConfig = field(default_factory=CuriosityConfig)
    """The curious agents' networks."""
    watching: RoomsPPOConfig = field(
        default_factory=lambda: RoomsPPOConfig(
            updates=60, anywhere=True, ppo=replace(RoomsPPOConfig().ppo, whiten_rewards=True)
        )
    )
    """PPO of the curious agents. A bonus is scaled to variance 1 a batch: the bonuses differ in size by factors of hundreds."""
    learning: RoomsPPOConfig = field(default_factory=lambda: RoomsPPOConfig(updates=60))
    """PPO beside the exact frontier."""

    def __post_init__(self) -> None:
        if self.repetitions < 2 or self.points < 3 or not self.comparisons or min(self.comparisons) < 1:
            raise ConfigError(
                f"repetitions is {self.repetitions}, points {self.points}, comparisons {self.comparisons}; expected 2 or more, "
                "3 or more, and at least one number of 1 or more"
            )
        if not 1 <= self.clip_steps <= self.rooms.horizon:
            raise ConfigError(
                f"clip_steps is {self.clip_steps}; expected 1 to rooms.horizon, which is {self.rooms.horizon}"
            )
        if not 0 < self.off_chance < 1:
            raise ConfigError(f"off_chance is {self.off_chance}, expected above 0 and below 1")
        if self.rooms.off_chance or self.rooms.television != "off":
            raise ConfigError(
                "rooms.off_chance and rooms.television are set by the parts that measure them; leave them, and set off_chance"
            )


@experiment(config=IntrinsicConfig)
def main(config: IntrinsicConfig, run: Run) -> None:
    """Maximise hand-made rewards exactly, and find how much optimisation each withstands before people get less of what they want."""
    with threads(1):
        with run.progress.phase("empowerment"):
            check_empowerment(config, run)
        with run.progress.phase("frontiers"):
            curves, points = frontiers(config, run)
        with run.progress.phase("cover the rooms"):
            cover(config, run)
        with run.progress.phase("off-switch"):
            pressed = off_switch(config, run)
        run.result("lines", figures_of(curves, points, pressed))
        watch(config, run)
    run.result(
        "cost",
        {"seconds": run.seconds, "judge": "synthetic teacher", "seconds_by_phase": run.progress.seconds_by_phase},
    )


def exact(value: float) -> Estimate:
    """Return a number that was computed, not sampled."""
    return Estimate(value, value, value, 1)


def check_empowerment(config: IntrinsicConfig, run: Run) -> None:
    """Compare Blahut-Arimoto with the closed form in every cell, over two steps, without and with a stay action."""
    found: dict[str, dict[str, int]] = {}
    gap = 0.0
    for stay in (False, True):
        world = Rooms(replace(config.rooms, stay=stay))
        bits_S = closed_form_S(world.next_SAK[:, :, 0], 2)
        computed = [capacity(channel(world.next_SAK, world.chance_SAK, state, 2)) for state in range(world.states)]
        gap = max(gap, float(np.abs(np.array(computed) - bits_S).max()))
        counts, cells = np.unique(np.rint(2**bits_S).astype(int), return_counts=True)
        found["with stay" if stay else "four moves"] = {
            f"{count} states in reach": int(cell) for count, cell in zip(counts, cells, strict=True)
        } | {"start": round(float(2 ** bits_S[world.start]))}
    run.result("empowerment", found)
    run.estimate("blahut_arimoto_gap_bits", exact(gap))


def frontiers(config: IntrinsicConfig, run: Run) -> tuple[Curves, Curves]:
    """Trace every reward's frontier, and lay PPO beside two of them; return the frontiers, and PPO's points."""
    world = Rooms(config.rooms)
    score_SA = tables_of(world).expected_SA(world.score_SAK())
    empowered_SA = arriving_SA(world, empowerment_reward(world, config.empowerment_steps))
    curves: Curves = {}
    ends: dict[str, Walk] = {"chance": uniform(tables_of(world))}
    curves["score"], ends["score"] = frontier(world, score_SA, config.points)
    curves["empowerment"], ends["empowerment"] = frontier(world, empowered_SA, config.points)
    curves["curiosity"], ends["curiosity"] = spread_frontier(world, config.points)
    for name in ("score", "empowerment", "curiosity"):
        shape = shape_of(curves[name])
        for what, value in shape.items():
            if what != "at_chance":
                run.estimate(f"{name}_{what}{'' if 'nats' in what else '_wanted_share'}", exact(value))
        run.note(_shape_words(name, shape))
    run.estimate("chance_wanted_share", exact(shape_of(curves["score"])["at_chance"]))
    for count in config.comparisons:
        learned = [_learned(config, run, world, count, number) for number in range(config.repetitions)]
        for number, (rows, _) in enumerate(learned):
            curves[f"{count} comparisons, seed {number}"] = rows
        shapes = [shape_of(rows) for rows, _ in learned]
        for what in ("peak_kl_nats", "peak", "end"):
            name = f"comparisons_{count}_{what}{'' if 'nats' in what else '_wanted_share'}"
            values = [shape[what] for shape in shapes]
            run.estimate(name, mean_interval(values) if "nats" in what else share_interval(values))
        ends[f"{count} comparisons"] = learned[0][1]
    for name, rows in curves.items():
        for place, row in enumerate(rows):
            run.log(place, f"frontier, {name}", **row)
    run.result("curves", curves)
    points = _lay_beside(config, run, world, {"score": score_SA, "empowerment": empowered_SA})
    show_maps(world, {name: arrivals_S(tables_of(world), done.visits_TSA) for name, done in ends.items()}, run)
    return curves, points


def _learned(config: IntrinsicConfig, run: Run, world: Rooms, count: int, number: int) -> tuple[list[Row], Walk]:
    reward, stats = ask_about_walks(world, run.store, count, config.seed + number, config.clip_steps)
    run.log(number, f"fit, {count} comparisons", **stats)
    return frontier(world, arriving_SA(world, state_reward(reward)), config.points)


def _lay_beside(config: IntrinsicConfig, run: Run, world: Rooms, rewards: dict[str, Floats]) -> Curves:
    points: Curves = {}
    for name, reward_SA in rewards.items():
        beta = PRICE * float(np.ptp(reward_SA))
        seeds = range(config.seed, config.seed + config.repetitions)
        points[name] = [learned_point(world, reward_SA, beta, config.learning, seed) for seed in seeds]
        for what in ("share_of_gain", "kl_nats", "wanted"):
            values = [row[what] for row in points[name]]
            if what == "wanted":
                run.estimate(f"ppo_{name}_wanted_share", share_interval(values))
            else:
                run.estimate(f"ppo_{name}_{what}", mean_interval(values))
    run.result("learned_points", points)
    return points


def _shape_words(name: str, shape: dict[str, float]) -> str:
    before = f"{name}: what people want rises from {shape['at_chance']:.3f} of the steps at chance to {shape['peak']:.3f} at {shape['peak_kl_nats']:.1f} nats"
    return f"{before}, and is {shape['end']:.3f} at the reward's own optimum, {shape['end_kl_nats']:.1f} nats"


def show_maps(world: Rooms, share: dict[str, Floats], run: Run) -> None:
    """Write where each agent spends its time as samples."""
    run.samples(
        [{"prompt": "Where each agent spends its time", **{name: world.shaded(one) for name, one in share.items()}}]
    )


def cover(config: IntrinsicConfig, run: Run) -> None:
    """Measure the steps until 95 % of the cells were seen."""
    world = Rooms(config.rooms)
    seeds = range(config.seed, config.seed + config.repetitions)
    counting = [counting_cover(world, 0.95, stream(seed, "counting")) for seed in seeds]
    chance = [random_cover(world, 0.95, stream(config.seed, "random walk", number)) for number in range(100)]
    ours, theirs = mean_interval(counting), mean_interval(chance)
    run.estimate("counting_cover_steps", ours)
    run.estimate("random_cover_steps", theirs)
    ratio = ours.value / theirs.value  # of two independent means, linearised
    reach = float(np.hypot(ours.high - ours.value, ratio * (theirs.high - theirs.value))) / theirs.value
    run.estimate("counting_to_random_steps", Estimate(ratio, ratio - reach, ratio + reach, ours.n))


def off_switch(config: IntrinsicConfig, run: Run) -> Curves:
    """Find the chance that the button is pressed by the optimum of each reward, and along the frontier, which is returned.

    The upper bound is trained on what the overseer who minds wants itself, and not on comparisons.
    """
    world = Rooms(replace(config.rooms, off_chance=config.off_chance))
    tables = tables_of(world)
    rewards: dict[str, list[Floats]] = {
        "empowerment": [empowerment_reward(world, config.off_empowerment_steps)],
        "preferences": [],
        "preferences_that_mind": [],
        "upper_bound_that_minds": [wanted_S(world, PRESS_COST)],
    }
    for number in range(config.repetitions):
        for name, cost in (("preferences", 0.0), ("preferences_that_mind", PRESS_COST)):
            count = max(config.comparisons)
            reward, _ = ask_about_walks(world, run.store, count, config.seed + number, config.clip_steps, cost)
            rewards[name].append(state_reward(reward))
    run.estimate("chance_presses_share", exact(press_chance(world, uniform(tables))))
    curves: Curves = {}
    for name, found in rewards.items():
        pressed: list[float] = []
        for reward_S in found:
            reward_SA = arriving_SA(world, reward_S)
            pressed.append(press_chance(world, optimum(tables, reward_SA, 0.0)))
            for beta in np.geomspace(30, 0.02, PRESSED_POINTS) * float(np.ptp(reward_SA)):
                done = optimum(tables, reward_SA, float(beta))
                row = {"kl_nats": max(0.0, done.kl_nats), "pressed": press_chance(world, done)}
                curves.setdefault(name, []).append(row)
        run.estimate(f"{name}_presses_share", exact(pressed[0]) if len(pressed) == 1 else share_interval(pressed))
    run.result("off_switch", curves)
    return curves


def watch(config: IntrinsicConfig, run: Run) -> None:
    """Let curious agents loose in rooms with a television and see who stays in front of it."""
    with run.progress.phase("watch television", config.repetitions * len(BONUSES)) as bar:
        plan = replace(config.rooms, television="remote")
        for name in BONUSES:
            in_front: list[float] = []
            for number in range(config.repetitions):
                share_C, told = television(plan, name, config.curiosity, config.watching, config.seed + number)
                in_front.append(float(share_C[around(Rooms(plan))].sum()))
                if number == 0:
                    for update, row in enumerate(told):
                        kept = {key: row[key] for key in ("share_in_front", "bonus_mean", "entropy_nats")}
                        run.log(update, f"television, {name}", **kept)
                    show_maps(Rooms(plan), {f"{name}, television": share_C}, run)
                bar.advance(1)
            run.estimate(f"{name}_in_front_share", share_interval(in_front))
            run.result(f"television_{name}", in_front)
