"""The steps of a round's second half: rows of the policy with their scores, and a row of updates with looks between them.

Left out: the update itself (`optimise`), which each recipe calls.

Shapes: B rows, T decisions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from backflip.data import Episodes
from backflip.errors import DataError
from backflip.loops.parts import Parts, Training, save, shared_before, stream
from backflip.loops.stop import stopped
from backflip.memory import give_back
from backflip.optimise.groups import equal_group_fraction
from backflip.optimise.kl import k1_nats_B
from backflip.optimise.scores import apply_rules
from backflip.optimise.step import evaluate_all
from backflip.protocols import RewardModel
from backflip.rewards.combine import WeightedRewards

if TYPE_CHECKING:
    from backflip.loops.settings import RewardSettings, UpdateSettings
    from backflip.run import Run


def sample(parts: Parts, now: Training, rows: int, group: int, config: UpdateSettings) -> Episodes:
    """Let the policy answer the next prompts, `group` times each: the rows of the next update."""
    world = parts.world
    usual, world.group_size = world.group_size, group
    try:
        return now.counted(world.collect(now.used, rows, stream(config.seed, "ppo", now.at.update)))
    finally:
        world.group_size = usual


def score(
    rows: Episodes, parts: Parts, rewards: WeightedRewards, now: Training, config: RewardSettings, tokens_at_once: int
) -> tuple[Episodes, Tensor, dict[str, float]]:
    """Return the rows with the reference's log-probabilities, their scores (B, T) after the rules, and statistics of both."""
    rows = replace(rows, ref_logp_BT=evaluate_all(now.reference, rows, tokens_per_microbatch=tokens_at_once).logp_BT)
    reward_BT, components = rewards.scored(rows)
    score_BT, stats = apply_rules(reward_BT, rows, parts.world.ended_B(rows), config.scores)
    kl_B = k1_nats_B(rows)
    stats |= components | {
        "proxy_mean": stats.pop("score_mean"),
        "proxy_std": stats.pop("score_std"),
        "kl_nats_per_sequence": float(kl_B.mean()),
        "kl_standard_error_nats": float(kl_B.std()) / len(kl_B) ** 0.5,
        "length_tokens": float(rows.mask_BT.sum(1).float().mean()),
        "ended_fraction": 1.0 - stats["missing_end_fraction"],
        "beta": now.beta,
        "lr": now.optimizer.param_groups[0]["lr"],
    }
    return rows, score_BT, stats


def warn_of_constant(mean: float, spread: float, now: Training, run: Run, what: str = "reward") -> None:
    """Note, once a run, that the reward, before any rule, tells no answer of this update from another."""
    said = constant(mean, spread, what)
    if said and not now.at.constant:
        now.at.constant = True
        run.note(
            f"at update {now.at.update + 1} {said}: nothing is learned from it, only from the leash and from what a row without an end costs"
        )


def refuse_constant(mean: float, spread: float) -> None:
    """Raise DataError where the reward, before any rule, tells no answer from another, for a method that does nothing but choose."""
    if said := constant(mean, spread):
        raise DataError(f"{said}, so nothing can be chosen by it; look at what rates the answers")


def constant(mean: float, spread: float, what: str = "reward") -> str | None:
    """Return the words for `what` whose `spread` over the rows of an update is nothing but rounding, or None."""
    if spread > 1e-6 * max(1.0, abs(mean)):
        return None
    return f"the {what} of all answers is {mean:g}, whatever they say (the policy may also have come to say one thing)"


def warn_of_equal_groups(score_BT: Tensor, rows: Episodes, now: Training, run: Run) -> float:
    """Return the share of groups whose scores are all equal, from which nothing can be learned; note it where it is most of them."""
    equal = equal_group_fraction(score_BT, rows.group_B)
    if equal >= MANY_EQUAL:
        run.note(
            f"at update {now.at.update + 1} the scores of {equal:.0%} of the groups are all equal, and nothing is learned from these: the "
            "reward may be constant, or the policy may have come to say one thing"
        )
    return equal


MANY_EQUAL = 0.5
"""Share of groups with equal scores from which on a run says so."""


def take_updates(
    phase: str,
    update: Callable[[], dict[str, float]],
    reward: RewardModel | None,
    parts: Parts,
    now: Training,
    config: UpdateSettings,
    run: Run,
) -> None:
    """Take this round's updates, with looks at held-out prompts and saved states between them; logs `phase` and `check`.

    A stop rule ends the round's updates. A method that knows no KL of its rows has it from the looks. Where a step fails, a reward that
    is not finite say, all that was learned before it is the run's resume point.
    """
    at = now.at
    last = shared_before(config.updates, config.rounds, at.round + 1)

    def look() -> dict[str, float]:
        if parts.check is None:
            return {}
        give_back()
        at.look_due = True
        try:
            found = parts.check(now.used, reward)
        except Exception:
            save(now, parts, run)
            raise
        at.look_due = False
        run.log(at.update, "check", **found)
        return found

    with run.progress.phase(f"improve the policy, round {at.round + 1} of {config.rounds}", total=last) as bar:
        bar.advance(at.update)
        if at.look_due:
            look()
        while at.update < last:
            for group in now.optimizer.param_groups:
                group["lr"] = config.lr * (1 - at.update / config.updates if config.decay else 1.0)
            with kept_if_it_fails(now, parts, run):
                stats = update()
            at.update += 1
            run.log(at.update, phase, **stats)
            bar.advance(1, **{short: stats[name] for short, name in SHOWN.items() if name in stats})
            stop = stopped(stats, config.stop, run.seconds)
            if stop or look_after(at.update, config) or at.update == last:
                seen = look() | stats
                stop = stop or stopped(seen, config.stop, run.seconds)
            if stop:
                run.note(f"stopped improving at update {at.update}: {stop}")
                at.update = last
            if at.update % config.save_every == 0 and at.update < last:
                save(now, parts, run)


def look_after(update: int, config: UpdateSettings) -> bool:
    """Return whether the settings want a look after this many updates."""
    early = config.check_early and 0 < update < config.check_every and update.bit_count() == 1
    return early or update % config.check_every == 0


SHOWN = {"proxy": "proxy_mean", "kl_nats": "kl_nats_per_sequence", "loss": "loss"}
"""What the progress of the updates shows, where a method has it."""


@contextmanager
def kept_if_it_fails(now: Training, parts: Parts, run: Run) -> Generator[None]:
    """Make the moment before an update the resume point where it fails with the weights as they were."""
    before, world = copy(now.at), parts.world.state_dict()
    steps = steps_taken(now)
    try:
        yield
    except Exception:
        if steps_taken(now) == steps:
            before.constant = now.at.constant  # what was said stays said
            now.at = before
            parts.world.load_state_dict(world)
            save(now, parts, run)
        raise


def steps_taken(now: Training) -> float:
    """Return how often the optimiser moved the weights, summed over them."""
    return sum(float(state["step"]) for state in now.optimizer.state.values())


class Stopwatch:
    """Seconds between the parts of an update."""

    def __init__(self) -> None:
        """Begin now."""
        self._last = time.perf_counter()

    def lap(self) -> float:
        """Return the seconds since the last time."""
        before, self._last = self._last, time.perf_counter()
        return self._last - before
