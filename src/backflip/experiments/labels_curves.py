"""The curves of `labels`: one ensemble after another, fitted to ever more comparisons, chosen at random or by disagreement.

No experiment. What is finished of a seed is kept in the run's state. Left out: what the curves say (`labels_results`).

Shapes: K openings, N answers an opening that a reward chooses from, M with the opponents (members, before B), P pairs, B rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from backflip.data import Episodes, Query
from backflip.experiments.reviews import ReviewsTask, overseer_of
from backflip.experiments.reviews_answers import QUESTION, Gold
from backflip.loops.asking import pair_up
from backflip.loops.choosing import Asking, choose
from backflip.loops.parts import stream
from backflip.measures.best_of_n import best_of_n
from backflip.measures.gold import gold_scores, load_gold
from backflip.measures.win_rate import wins
from backflip.memory import give_back
from backflip.overseers.synthetic import SyntheticTeacher
from backflip.policies.lm import LMConfig, LMPolicy, load_policy
from backflip.rewards.comparisons import Comparison, comparisons
from backflip.rewards.ensemble import RewardEnsemble, fit_ensemble
from backflip.rewards.model import SequenceRewardModel
from backflip.rewards.queries import Choice
from backflip.worlds import reviews
from backflip.worlds.text import TextWorld, answer, pad_left

if TYPE_CHECKING:
    from backflip.experiments.labels import LabelsConfig
    from backflip.run import Run

QUERIES: tuple[Choice, ...] = ("random", "disagreement", "mixed")
"""Ways to choose; the first is the control."""
OPPONENTS = 2
"""Answers of the base to every held-out opening that nobody chooses from."""


@dataclass(frozen=True)
class Point:
    """One fitted reward, measured."""

    seed: int
    queries: Choice
    labels: int
    accuracy: float
    """How often it orders two answers of the base to a held-out opening as the gold judge does."""
    gold: float
    """Gold win rate, against answers that nobody chose, of what it likes best of `best_of`."""


@dataclass(frozen=True)
class Ground:
    """What all points of one seed are measured on, and asked about."""

    base: LMPolicy
    teacher: SyntheticTeacher
    world: TextWorld
    pool: Episodes
    """Answers of the base to training openings, two to a pair."""
    held: Episodes
    """Answers of the base to held-out openings, `best_of` an opening."""
    gold_KN: NDArray[np.float64]
    won_KN: NDArray[np.float64]


def curves(config: LabelsConfig, run: Run) -> list[Point]:
    """Return every point; those that were measured before a kill are not measured again. Logs the phase `labels`."""
    saved = run.load_state()
    points = [Point(**one) for one in saved["points"]] if saved is not None else []
    done = {(point.seed, point.queries) for point in points}
    seeds = range(config.seed, config.seed + config.seeds)
    with run.progress.phase("curves", config.seeds * len(QUERIES)) as bar:
        bar.advance(len(done))
        for seed in seeds:
            missing: list[Choice] = [how for how in QUERIES if (seed, how) not in done]
            ground = ground_of(config, seed, run) if missing else None
            for how in missing:
                assert ground is not None
                for point in curve(config, ground, how, seed):
                    points.append(point)
                    run.log(len(points), "labels", seed=float(seed), labels=float(point.labels), accuracy=point.accuracy, gold_win_rate=point.gold)  # fmt: skip
                run.save_state(f"seed {seed}, {how}", {"points": [asdict(point) for point in points]})
                bar.advance(1, last=f"seed {seed}, {how}")
    return points


def ground_of(config: LabelsConfig, seed: int, run: Run) -> Ground:
    """Sample what one seed asks about and is measured on."""
    policy = load_policy(reviews.assets() / "base", LMConfig(temperature=0.8, max_new_tokens=32, rows=128))
    gold = load_gold(reviews.assets() / "gold.safetensors")
    world = TextWorld(reviews.read_openings("train"), policy.tokenizer, group_size=2, seed=seed)
    task = ReviewsTask(seed=seed, agreement=config.agreement)
    teacher = overseer_of(task, gold, world, policy, run)
    assert isinstance(teacher, SyntheticTeacher)
    pool = world.collect(policy, 2 * config.candidates * config.labels[-1], stream(seed, "pool"))
    held, gold_KM = held_out(config, policy, gold, seed)
    n = config.best_of
    won_KN = wins(gold_KM[:, :n, None], gold_KM[:, None, n:]).mean(-1)
    return Ground(policy, teacher, world, pool, held, gold_KM[:, :n], won_KN)


def held_out(config: LabelsConfig, policy: LMPolicy, gold: Gold, seed: int) -> tuple[Episodes, NDArray[np.float64]]:
    """Return the base's answers to the seed's held-out openings that a reward chooses from, and gold of these and of the opponents."""
    world = TextWorld(reviews.read_openings("test"), policy.tokenizer)
    rng = stream(seed, "held-out openings")
    tokens = [world.tokens[k] for k in rng.permutation(len(world.tokens))[: config.openings]]
    copies = config.best_of + OPPONENTS
    rows = answer(
        policy,
        pad_left([one for one in tokens for _ in range(copies)]),
        torch.arange(len(tokens)).repeat_interleave(copies),
        stream(seed, "held out"),
    )
    gold_KM = gold_scores(gold, world.show(rows)).reshape(len(tokens), copies)
    kept = np.arange(len(rows)).reshape(gold_KM.shape)[:, : config.best_of].ravel()
    return rows.select(kept.tolist()), gold_KM


def curve(config: LabelsConfig, ground: Ground, how: Choice, seed: int) -> list[Point]:
    """Ask, fit and measure at every number of labels, one way to choose."""
    left = list(range(len(ground.pool) // 2))
    asked: list[Query] = []
    found: list[Point] = []
    reward: RewardEnsemble | None = None
    for count in config.labels:
        new = count - len(asked)
        offered = left[: new * config.candidates]
        rows = ground.pool.select([2 * place + side for place in offered for side in (0, 1)])
        asking = Asking(how if reward else "random", config.candidates, reward.models if reward else ())
        taken = [offered[place] for place, _ in choose(asking, rows, new)]
        items = ground.world.show(ground.pool.select([2 * place + side for place in taken for side in (0, 1)]))
        asked += pair_up(items, QUESTION, stream(seed, "order", count))
        left = [place for place in left if place not in set(taken)]
        reward = fitted(config, ground, asked, seed)
        found.append(measured(reward, ground, how, seed, count))
        give_back()
    return found


def fitted(config: LabelsConfig, ground: Ground, asked: Sequence[Query], seed: int) -> RewardEnsemble:
    """Fit a fresh ensemble to what the teacher says of these questions."""
    ground.teacher.read_ahead(asked)
    pairs: list[Comparison] = comparisons(asked, [ground.teacher.judge(query) for query in asked])[0]
    source = ground.base.module.plain
    rngs = [stream(seed, "fit", len(asked), member) for member in range(config.members)]
    made = fit_ensemble(
        lambda rng: SequenceRewardModel.from_causal_lm(source, rng), ground.world, pairs, config.fit, rngs
    )
    return RewardEnsemble([model for model, _ in made])


def measured(reward: RewardEnsemble, ground: Ground, how: Choice, seed: int, labels: int) -> Point:
    """Measure one reward: the members' mean, each on the scale of its own spread over the held-out answers."""
    raw_MB = torch.stack([model.score_B(ground.held) for model in reward.models]).double()
    proxy_B = ((raw_MB - raw_MB.mean(1, keepdim=True)) / raw_MB.std(1, keepdim=True)).mean(0)
    proxy_KN = proxy_B.numpy().reshape(ground.gold_KN.shape)
    n = len(proxy_KN[0])
    even = n // 2 * 2
    ours_KP = proxy_KN[:, 0:even:2] - proxy_KN[:, 1:even:2]
    gold_KP = ground.gold_KN[:, 0:even:2] - ground.gold_KN[:, 1:even:2]
    right_KP = (1 + np.sign(ours_KP) * np.sign(gold_KP)) / 2
    return Point(
        seed=seed,
        queries=how,
        labels=labels,
        accuracy=float(right_KP[gold_KP != 0].mean()),
        gold=best_of_n(proxy_KN, ground.won_KN, n).value,
    )
