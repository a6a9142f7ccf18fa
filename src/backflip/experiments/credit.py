"""Credit assignment: s1 -> s2 -> s3, where s3 pays and some learners never see anybody go the whole way.

From s1 one action of several goes on to s2 and every other leaves for a small sure reward; from s2 one goes on to s3, which pays 1. Q-learning,
an actor with a critic, REINFORCE and supervised tuning on high-reward episodes learn from the same experience, whole or in pieces of one
decision. Predicted before the first run: in pieces Q-learning and the actor-critic learn to go s1 -> s2 -> s3, because what s2 is worth
was learned from other pieces; REINFORCE learns to leave, tuning learns nothing at s1, and so does Q-learning that looks at nothing after an
action (the control). Whole, all but the control learn it, and Q-learning needs fewer episodes than pass until somebody first goes the whole way.
What would refute it: REINFORCE, tuning or the control learn it from pieces in any seed; Q-learning or the actor-critic do not in some.

Shapes: B rows, T decisions, S states, A actions, K outcomes of an action, N things that a policy can see (the states), U updates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from backflip.data import Episodes, Estimate
from backflip.errors import ConfigError
from backflip.experiments import experiment
from backflip.loops.control import threads
from backflip.loops.parts import stream
from backflip.measures.stats import mean_interval, share_interval, wilson
from backflip.optimise import feedme, ppo, q_learning, reinforce
from backflip.optimise.feedme import AtLeast, FeedMEConfig
from backflip.optimise.ppo import PPOConfig
from backflip.optimise.q_learning import QConfig
from backflip.optimise.reinforce import ReinforceConfig
from backflip.optimise.sft import SFTConfig
from backflip.policies.tabular import TablePolicy
from backflip.worlds.listed import Listed, greedy, reach, rollouts, table_policy

if TYPE_CHECKING:
    from backflip.run import Run

S1, S2, S3, LEFT = range(4)
GO = 0
"""The action that goes on, in s1 and in s2."""
ARMS = {
    "q_learning": "Q-learning",
    "actor_critic": "actor-critic",
    "reinforce": "REINFORCE",
    "sft": "SFT on high reward",
    "myopic": "Q-learning, nothing after (control)",
}
TUNED = ("actor_critic", "reinforce", "sft")
"""Arms that have a learning rate."""
SEEN = {"pieces": 1, "whole": None}
"""What is seen of an episode -> decisions after which a row is cut."""
PREDICTED = (
    "stated before: from pieces Q-learning and the actor-critic learn s1 -> s2 -> s3, REINFORCE, SFT on high reward and the control do not; "
    "refuted if any of these three learns it in any seed, or one of the first two fails in some"
)


@dataclass(frozen=True)
class CreditConfig:
    """Settings of the experiment."""

    seed: int = 0
    """Of everything random; the repetitions take seed, seed + 1, ..."""
    seeds: int = 20
    """Independent repetitions of every arm; intervals are over them."""
    actions: int = 4
    """Actions in s1 and in s2, of which one goes on."""
    safe: float = 0.5
    """What leaving s1 pays; s3 pays 1, leaving s2 nothing."""
    start_at_s2: float = 0.5
    """Share of the episodes that begin in s2; the others begin in s1."""
    updates: int = 200
    """Updates of every arm."""
    episodes: int = 16
    """Episodes an update."""
    learned_at: float = 0.9
    """Chance of going from s1 to s3 from which on it counts as learned."""
    lrs: tuple[float, ...] = (0.03, 0.1, 0.3)
    """Adam's learning rates that are tried for each arm that has one, on seeds of their own and whole episodes; the quickest is taken."""
    tuning_seeds: int = 5
    """Seeds on which they are tried."""
    worlds: tuple[int, ...] = (2, 3, 4, 6, 8)
    """Numbers of actions for which Q-learning's episodes are laid beside the closed form."""

    def __post_init__(self) -> None:
        if (
            min(self.seeds, self.actions, *self.worlds, 2) < 2
            or min(self.updates, self.episodes, self.tuning_seeds) < 1
        ):
            raise ConfigError(
                f"seeds {self.seeds}, actions {self.actions}, worlds {self.worlds}, updates {self.updates}, episodes {self.episodes}, "
                f"tuning_seeds {self.tuning_seeds}; expected 2 or more of the first three, and 1 or more"
            )
        if self.episodes < ppo.LEAST_TO_WHITEN:
            raise ConfigError(
                f"episodes is {self.episodes}; the critic's advantages are scaled over {ppo.LEAST_TO_WHITEN} or more"
            )
        if not 0 <= self.safe < 1 or not 0 < self.start_at_s2 < 1 or not 1 / self.actions < self.learned_at < 1:
            raise ConfigError(
                f"safe {self.safe}, start_at_s2 {self.start_at_s2}, learned_at {self.learned_at}; expected 0 or more and below the 1 of "
                "s3, a share between 0 and 1, and one between chance and 1"
            )
        if not self.lrs or not all(0 < lr < math.inf for lr in self.lrs):
            raise ConfigError(f"lrs is {self.lrs}; expected one or more finite rates above 0")


@dataclass(frozen=True)
class Learned:
    """What one arm did with one seed."""

    success_U: list[float]
    """Exact chance of s1 -> s2 -> s3 before the first update and after each."""
    episodes: float | None
    """Episodes until it was learned; None where it was not."""

    def within(self, budget: float) -> float:
        """Return the episodes, or the budget where it was not learned."""
        return budget if self.episodes is None else self.episodes


@experiment(config=CreditConfig)
def main(config: CreditConfig, run: Run) -> None:
    """Learn s1 -> s2 -> s3 from whole episodes and from pieces: Q-learning, actor-critic, REINFORCE, SFT on high reward."""
    if run.load_state() is None:
        run.note(PREDICTED)
    with threads(1):  # a table of sixteen numbers: more threads only wait for each other
        state, counted = experience(config, run)
    write_results(state["found"], counted, config, run)
    run.result("learning_rates", state["lrs"])
    run.result(
        "cost",
        {
            "seconds": run.seconds,
            "judge": "none: the reward is given",
            "seconds_by_phase": run.progress.seconds_by_phase,
        },
    )


def experience(config: CreditConfig, run: Run) -> tuple[dict[str, Any], dict[str, list[Estimate]]]:
    """Let every arm learn with every seed, or what is left of it after a kill; return what came of it, and of Q-learning's episodes."""
    state: dict[str, Any] = run.load_state() or {"lrs": {}, "found": []}
    with run.progress.phase("choose learning rates", len(TUNED)) as bar:
        for arm in TUNED:
            if arm not in state["lrs"]:
                state["lrs"][arm] = quickest(arm, config)
                run.save_state(f"rate of {arm}", state)
            bar.advance(1)
    places = [(seen, arm, config.seed + k) for seen in SEEN for arm in ARMS for k in range(config.seeds)]
    with run.progress.phase("learn", len(places)) as bar:
        bar.advance(len(state["found"]))
        for seen, arm, seed in places[len(state["found"]) :]:
            one = learn(arm, SEEN[seen], state["lrs"].get(arm, 0.0), stream(seed, arm, SEEN[seen] or 0), config)
            state["found"].append({"seen": seen, "arm": arm, "seed": seed, **vars(one)})
            if len(state["found"]) % config.seeds == 0:
                run.save_state(f"{seen}, {arm}", state)
            bar.advance(1)
    with run.progress.phase("count episodes"):
        return state, count_episodes(config)


def steps_world(actions: int, safe: float, start_at_s2: float) -> Listed:
    """Return s1 -> s2 -> s3, and where one is when one has left."""
    next_SAK = np.full((4, actions, 1), LEFT)
    next_SAK[S1, GO], next_SAK[S2, GO] = S2, S3
    reward_SAK = np.zeros((4, actions, 1))
    reward_SAK[S1], reward_SAK[S1, GO], reward_SAK[S2, GO] = safe, 0.0, 1.0
    start_S = np.array([1 - start_at_s2, start_at_s2, 0.0, 0.0])
    return Listed(next_SAK, np.ones((4, actions, 1)), reward_SAK, start_S, np.array([False, False, True, True]))


def quickest(arm: str, config: CreditConfig) -> float:
    """Return the learning rate with which an arm learns from the fewest whole episodes; seeds of its own, never those reported."""
    budget = float(config.updates * config.episodes)

    def needed(lr: float) -> float:
        rngs = [stream(config.seed, f"tune {arm}", k) for k in range(config.tuning_seeds)]
        found = [learn(arm, None, lr, rng, config, stop=True) for rng in rngs]
        return float(np.mean([one.within(budget) for one in found]))

    return min(config.lrs, key=needed)


def learn(
    arm: str, cut: int | None, lr: float, rng: np.random.Generator, config: CreditConfig, *, stop: bool = False
) -> Learned:
    """Let one arm learn on its own experience; with `stop` no further than until it is learned."""
    world = steps_world(config.actions, config.safe, config.start_at_s2)
    if arm not in TUNED:
        return by_table(world, cut, QConfig(gamma=float(arm == "q_learning")), rng, config, stop=stop)
    policy = table_policy(world)
    optimizer = torch.optim.Adam(policy.parameters(), lr=lr, eps=1e-5)
    success_U, first = [reach(world, policy.probability_NA().numpy(), S1, S3)], None
    for update in range(config.updates):
        step(arm, policy, optimizer, rollouts(world, policy, config.episodes, rng, cut), rng)
        success_U.append(reach(world, policy.probability_NA().numpy(), S1, S3))
        if first is None and success_U[-1] >= config.learned_at:
            first = (update + 1.0) * config.episodes
            if stop:
                break
    return Learned(success_U, first)


def by_table(
    world: Listed, cut: int | None, rule: QConfig, rng: np.random.Generator, config: CreditConfig, *, stop: bool
) -> Learned:
    """Learn the worth of actions from random ones; what is measured is the policy that takes the best, equally good ones alike."""
    chance, q_SA = table_policy(world), np.zeros((world.states, world.actions))
    success_U, known = [reach(world, greedy(q_SA), S1, S3)], None
    for update in range(config.updates):
        rows = rollouts(world, chance, config.episodes, rng, cut)
        assert rows.reward_BT is not None
        before_SA = q_SA.copy()
        q_learning.update(q_SA, rows, rows.reward_BT, world.over_S, rule)
        success_U.append(reach(world, greedy(q_SA), S1, S3))
        if known is None and success_U[-1] >= config.learned_at:  # in which of the batch's episodes it happened
            for row in range(len(rows)):
                one = rows.select([row])
                q_learning.update(before_SA, one, rows.reward_BT[row : row + 1], world.over_S, rule)
                if reach(world, greedy(before_SA), S1, S3) >= config.learned_at:
                    known = float(update * config.episodes + row + 1)
                    break
            if stop:
                break
    return Learned(success_U, known)


def step(
    arm: str, policy: TablePolicy, optimizer: torch.optim.Optimizer, rows: Episodes, rng: np.random.Generator
) -> None:
    """Take one update with the optimisers as they are shipped. Tuning waits where no episode, or every episode, has high reward: then nothing is chosen."""
    reward_BT = rows.reward_BT
    assert reward_BT is not None
    if arm == "actor_critic":
        critic = PPOConfig(center_values=False, value_coef=0.5, value_clip=math.inf)
        ppo.update(policy, optimizer, rows, reward_BT, critic, rng)
    elif arm == "reinforce":
        plain = ReinforceConfig(credit="to_go", aggregate="constant", constant_length=1)
        reinforce.update(policy, optimizer, rows, reward_BT, plain, rng)
    else:
        high_B = reward_BT.sum(1) >= 1
        if high_B.any() and not high_B.all():
            tuning = FeedMEConfig(AtLeast(1.0), SFTConfig(aggregate="constant", constant_length=1))
            feedme.update(policy, optimizer, rows, reward_BT, tuning, rng)


def episodes_until_known(actions: int, start_at_s2: float, *, whole: bool) -> float:
    """Return the expected number of episodes after which Q-learning knows the way, acting at random with a rate of 1.

    Somebody must go s2 -> s3, and after that in another episode s1 -> s2: the sum of two geometric waits. [exact]
    """
    goal = start_at_s2 / actions + (whole and (1 - start_at_s2) / actions**2)
    return 1 / goal + actions / (1 - start_at_s2)


def episodes_until_whole(actions: int, start_at_s2: float) -> float:
    """Return the expected number of episodes until a random one first goes s1 -> s2 -> s3, which pieces never show. [exact]"""
    return actions**2 / (1 - start_at_s2)


def known_by(episodes: NDArray[np.int64], actions: int, start_at_s2: float, *, whole: bool) -> NDArray[np.float64]:
    """Return the chance that Q-learning knows the way after so many episodes: the distribution of `episodes_until_known`. [exact]"""
    goal = start_at_s2 / actions + (whole and (1 - start_at_s2) / actions**2)
    then = (1 - start_at_s2) / actions
    count = np.arange(int(episodes.max()) + 1)
    first, second = (np.where(count > 0, p * (1 - p) ** (count - 1.0), 0.0) for p in (goal, then))
    return np.convolve(first, second)[: len(count)].cumsum()[episodes]


def count_episodes(config: CreditConfig) -> dict[str, list[Estimate]]:
    """Measure Q-learning's episodes for several numbers of actions, as many seeds each as the arms have."""
    found: dict[str, list[Estimate]] = {}
    for seen, cut in SEEN.items():
        for actions in config.worlds:
            needed = episodes_until_known(actions, config.start_at_s2, whole=cut is None)
            here = replace(config, actions=actions, updates=math.ceil(12 * needed / config.episodes), learned_at=0.9)
            rngs = [stream(config.seed + k, "count", actions, cut or 0) for k in range(config.seeds)]
            budget = float(here.updates * here.episodes)
            known = [learn("q_learning", cut, 0.0, rng, here, stop=True).within(budget) for rng in rngs]
            found.setdefault(seen, []).append(mean_interval(known))
    return found


def write_results(
    found: Sequence[dict[str, Any]], counted: dict[str, list[Estimate]], config: CreditConfig, run: Run
) -> None:
    """Write estimates, the table, the curves, and whether the prediction held."""
    rows, learned = list[dict[str, Any]](), dict[tuple[str, str], int]()
    for seen in SEEN:
        for arm in ARMS:
            here = [one for one in found if (one["seen"], one["arm"]) == (seen, arm)]
            counts = sorted(float(one["episodes"]) for one in here if one["episodes"] is not None)
            learned[seen, arm] = len(counts)
            success = share_interval([one["success_U"][-1] for one in here])
            run.estimate(f"{seen}_{arm}_success_share", success)
            run.estimate(f"{seen}_{arm}_learned_share", wilson(len(counts), config.seeds))
            if len(counts) == config.seeds:
                run.estimate(f"{seen}_{arm}_episodes", mean_interval(counts))
            rows.append(
                {"seen": seen, "arm": arm, "seeds": config.seeds, "success": success.as_json(), "episodes": counts}
            )
    run.result("arms_over_seeds", rows)
    run.result("lines", figures(found, counted, config))
    for sentence in verdicts(learned, found, config):
        run.note(sentence)


def verdicts(learned: dict[tuple[str, str], int], found: Sequence[dict[str, Any]], config: CreditConfig) -> list[str]:
    """Say what came of the prediction, the most telling sentence last."""
    said = [
        f"{ARMS[arm]}: {learned['pieces', arm]} of {config.seeds} seeds from pieces, {learned['whole', arm]} from whole episodes"
        for arm in ARMS
    ]
    leaked = [ARMS[arm] for arm in ("reinforce", "sft", "myopic") if learned["pieces", arm]]
    failed = [ARMS[arm] for arm in ("q_learning", "actor_critic") if learned["pieces", arm] < config.seeds]
    counts = [
        one["episodes"] for one in found if (one["seen"], one["arm"]) == ("whole", "q_learning") and one["episodes"]
    ]
    quick, first = float(np.mean(counts or [math.nan])), episodes_until_whole(config.actions, config.start_at_s2)
    said.append(
        f"whole episodes: Q-learning knew the way after {quick:.1f} on average (exact {episodes_until_known(config.actions, config.start_at_s2, whole=True):.1f}); "
        f"until a random one first goes the whole way {first:.0f} pass"
    )
    words = "the prediction for pieces held in every seed: what bootstraps puts the pieces together, what waits for a whole episode does not"
    if leaked or failed:
        words = "the prediction for pieces is refuted: " + "; ".join(
            [f"{name} learned it in some seed" for name in leaked] + [f"{name} failed in some seed" for name in failed]
        )
    return [*said, words]


def figures(
    found: Sequence[dict[str, Any]], counted: dict[str, list[Estimate]], config: CreditConfig
) -> dict[str, Any]:
    """Return the curves of both kinds of experience, and episodes against actions."""
    shown = sorted(
        {0, 1, 2, 4, *np.linspace(0, config.updates, 11).round().astype(int).tolist()} & set(range(config.updates + 1))
    )
    grid = np.arange(0, config.updates * config.episodes + 1)
    result: dict[str, Any] = {}
    for seen, cut in SEEN.items():
        by_chance = known_by(grid, config.actions, config.start_at_s2, whole=cut is None)
        series: list[dict[str, Any]] = [{"name": "Q-learning, exact", "x": grid.tolist(), "y": by_chance.tolist()}]
        for arm, name in ARMS.items():
            curves = np.array([one["success_U"] for one in found if (one["seen"], one["arm"]) == (seen, arm)])
            estimates = [share_interval(curves[:, place]).as_json() for place in shown]
            series.append({"name": name, "x": [place * config.episodes for place in shown], "estimates": estimates})
        result[seen] = {
            "title": {"pieces": "Seen in pieces of one decision", "whole": "Seen whole"}[seen],
            "caption": f"Chance of s1 -> s2 -> s3 from s1, mean over {config.seeds} seeds with 95 % intervals; exact: the chance that Q-learning knows the way. At random it is {1 / config.actions**2:.3f}.",
            "x": {"label": "Episodes", "unit": "count"},
            "y": {"label": "s1 -> s2 -> s3", "unit": "share"},
            "series": series,
        }
    worlds, share = list(config.worlds), config.start_at_s2
    exact = {seen: [episodes_until_known(a, share, whole=cut is None) for a in worlds] for seen, cut in SEEN.items()}
    waits: list[dict[str, Any]] = [
        {
            "name": "first whole way, exact",
            "x": worlds,
            "y": [episodes_until_whole(a, share) for a in worlds],
        }
    ]
    for seen in SEEN:
        waits.append({"name": f"Q-learning, {seen}, exact", "x": worlds, "y": exact[seen]})
        waits.append(
            {"name": f"Q-learning, {seen}", "x": worlds, "estimates": [one.as_json() for one in counted[seen]]}
        )
    result["waits"] = {
        "title": "Episodes until it is known",
        "caption": "Putting pieces together takes a wait that grows with the number of actions, going the whole way by luck one that grows with its square.",
        "x": {"label": "Actions in each state", "unit": "count"},
        "y": {"label": "Episodes", "unit": "count"},
        "series": waits,
    }
    return result
