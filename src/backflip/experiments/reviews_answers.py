"""The answers to held-out openings by which a run of the main job is measured, with what gold and the learned reward say of them.

Left out: what is made of them (`reviews_measures`).

Shapes: K openings, N answers an opening, M members of the ensemble, B rows, T decisions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from backflip.data import Episodes, Item
from backflip.loops.parts import Trained, stream
from backflip.measures.gold import gold_scores
from backflip.memory import give_back
from backflip.optimise.best_of_n import choose
from backflip.policies.best_of import BestOfN
from backflip.protocols import Policy
from backflip.rewards.ensemble import RewardEnsemble
from backflip.worlds.text import TextWorld, answer, pad_left

if TYPE_CHECKING:
    from backflip.experiments.reviews import ReviewsTask

Gold = Callable[[Item], NDArray[np.float64]]
"""The gold judge; it answers the teacher and measures alone."""
QUESTION = "Which continuation makes the more favourable review?"
OPPONENTS = 4
"""Answers of the base to every held-out opening against which policies are measured."""
PROMPT_TOKENS = 8
"""Length of an opening, about; plans reckon with it."""


@dataclass(frozen=True)
class Proxy:
    """What the learned reward says of them, and what best-of-n takes by it."""

    base_KN: NDArray[np.float64]
    base_raw_MKN: NDArray[np.float64]
    """Raw scores of every member of the ensemble."""
    chosen: list[int]
    """Which of the first N best-of-n takes."""
    ours_K: NDArray[np.float64]


@dataclass(frozen=True)
class Answers:
    """Answers to held-out openings: the base's N + OPPONENTS an opening, and one of the policy's."""

    base_items: list[list[Item]]
    base_rows: Episodes
    base_gold_KN: NDArray[np.float64]
    items: list[Item]
    rows: Episodes
    gold_K: NDArray[np.float64]
    candidates: int
    proxy: Proxy | None
    """None where no reward was learned."""

    @property
    def opponents_KN(self) -> NDArray[np.float64]:
        """Gold of the base's answers that nobody chooses from."""
        return self.base_gold_KN[:, self.candidates :]


def answers_of(trained: Trained, world: TextWorld, gold: Gold, config: ReviewsTask) -> Answers:
    """Sample and score everything that the measures need."""
    n = config.best_of
    give_back()
    base_rows = held_out_answers(world, trained.reference, n + OPPONENTS, stream(config.seed, "base"))
    shape = (len(base_rows) // (n + OPPONENTS), n + OPPONENTS)
    if isinstance(trained.policy, BestOfN):  # what it takes of the base's answers, of which there are n here
        candidates = base_rows.select(np.arange(len(base_rows)).reshape(shape)[:, :n].ravel().tolist())
        rows = candidates.select(choose(candidates, trained.policy.reward(candidates)))
    else:
        rows = held_out_answers(world, trained.policy, 1, stream(config.seed, "held out"))
    base_items, items = world.show(base_rows), world.show(rows)
    return Answers(
        base_items=[base_items[k * shape[1] : (k + 1) * shape[1]] for k in range(shape[0])],
        base_rows=base_rows,
        base_gold_KN=gold_scores(gold, base_items).reshape(shape),
        items=items,
        rows=rows,
        gold_K=gold_scores(gold, items),
        candidates=n,
        proxy=None if trained.reward is None else _proxy(trained.reward, base_rows, rows, n),
    )


def _proxy(reward: RewardEnsemble, base_rows: Episodes, rows: Episodes, n: int) -> Proxy:
    shape = (len(rows), n + OPPONENTS)
    raw_MB = torch.stack([model.score_B(base_rows) for model in reward.models])
    normalised = [model.normalise(raw_B) for raw_B, model in zip(raw_MB, reward.models, strict=True)]
    proxy_B = reward.rule.of(torch.stack(normalised))
    give_back()
    candidates = np.arange(len(base_rows)).reshape(shape)[:, :n].ravel()
    proxy_BT = torch.zeros(base_rows.mask_BT.shape)
    proxy_BT[:, 0] = proxy_B
    picked = choose(base_rows.select(candidates.tolist()), proxy_BT[candidates])
    return Proxy(
        base_KN=proxy_B.double().numpy().reshape(shape),
        base_raw_MKN=raw_MB.double().numpy().reshape(-1, *shape),
        chosen=[int(row) % n for row in picked],
        ours_K=reward(rows).sum(1).double().numpy(),
    )


def texts(items: list[Item]) -> list[str]:
    """Return what was answered."""
    return [item.content for item in items]


def held_out_answers(
    world: TextWorld, policy: Policy, copies: int, rng: np.random.Generator, limit: int | None = None
) -> Episodes:
    """Answer every opening (or the first `limit`) `copies` times, in order; one group an opening."""
    openings = world.tokens[:limit]
    rows = [tokens for tokens in openings for _ in range(copies)]
    return answer(policy, pad_left(rows), torch.arange(len(openings)).repeat_interleave(copies), rng)
