"""What a run of the control loop will need: one row, one update and a few steps of the fit are done, and timed.

No experiment, and nothing is kept. Left out: what texts need (`backflip.plan`).

Shapes: B rows, T steps.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from backflip.data import Judgement, Query
from backflip.loops.control import ControlLoopConfig, ControlParts, threads
from backflip.optimise import ppo
from backflip.plan import MIB, Plan
from backflip.rewards.clip_answers import load
from backflip.rewards.clips import ClipFit
from backflip.rewards.comparisons import Comparison
from backflip.run_facts import peak_rss_mb
from backflip.worlds.control import cut, pieces

FIT_STEPS = 5
HELPER_MIB = 260
"""Of a process that simulates beside the run's own, measured on Hopper-v5: most of it is torch."""
COPIES = 3
"""Times that the clips of all questions are in memory at the peak: loaded, selected, and as the questions that hold them."""
SECONDS_A_CLIP_PAIR = 4.0
"""What a person takes for a pair of clips of a second or two (Christiano et al. 2017: 3 to 5)."""


class Nobody:
    """An overseer that is never asked anything: a plan needs no answers."""

    name = "nobody"

    def ask(self, queries: Sequence[Query]) -> None:
        """Forget the questions."""

    def answers(self, since: int, wait: float = 0.0) -> tuple[list[Judgement], int]:
        """Return nothing."""
        return [], since


def control_plan(parts: ControlParts, config: ControlLoopConfig, *, measured_steps: int, by_a_person: bool) -> Plan:
    """Estimate a run of `loops.control` by doing a little of it; takes a few seconds.

    `measured_steps` are those of the unseen episodes at the end. Time is within a factor of two where the machine stays as busy as
    it is now: updates of a policy that moves slower are as dear, and the fit's share grows with the answers.
    """
    rng = np.random.default_rng(config.seed)
    learned = parts.given is None
    with threads(1):
        helping = parts.world.crews.wait_for_helpers()
        rows = parts.world.collect(parts.policy, config.environments, rng)
        act = _seconds(lambda: parts.world.collect(parts.policy, config.environments, rng))
        optimizer = torch.optim.Adam(parts.policy.parameters(), lr=0.0, fused=True)
        small = pieces(rows, config.piece_steps)
        reward_BT = torch.from_numpy(rng.standard_normal(small.mask_BT.shape)).float()
        update = _seconds(lambda: ppo.update(parts.policy, optimizer, small, reward_BT, config.ppo, rng))
    seconds = {"act": config.updates * act, "update": config.updates * update}
    kept = 0.0
    if learned:
        pairs = config.fit.batch
        items = parts.world.show(cut(rows, parts.clip_steps, 2 * pairs, rng))
        answers = [Comparison(items[2 * k], items[2 * k + 1], float(k % 2)) for k in range(pairs)]
        loaded = load(parts.world, answers)
        reading = _seconds(lambda: load(parts.world, answers)) / pairs
        settings = replace(config.fit, first_steps=FIT_STEPS, steps=FIT_STEPS)
        fit = ClipFit(parts.reward, settings)
        fit(parts.world, answers, [], rng)
        step = max(0.0, _seconds(lambda: fit(parts.world, answers, [], rng)) - reading * pairs) / FIT_STEPS
        first = max(1, round(config.first_share * config.comparisons))
        later = min(config.updates, math.ceil((config.comparisons - first) / config.ask_at_once))
        steps = config.fit.first_steps + later * config.fit.steps
        seconds["fit"] = steps * step + later * reading * config.comparisons / 2
        one = sum(tensor.nbytes for tensor in (loaded.episodes.obs, loaded.episodes.action)) / len(loaded.episodes)
        kept = 2 * config.comparisons * one * COPIES / MIB
    seconds["unseen episodes"] = measured_steps * act / (config.environments * config.row_steps)
    asked = config.comparisons if learned else 0
    others = {"helping processes": helping * HELPER_MIB} if helping else {}
    return Plan(
        memory_mib={
            "this process, with one row and one update done": peak_rss_mb(),
            **others,
            "clips of all questions": kept,
        },
        seconds=seconds,
        comparisons=asked,
        judge_seconds=asked * SECONDS_A_CLIP_PAIR if by_a_person else 0.0,
    )


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
