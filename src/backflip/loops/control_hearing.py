"""What the control loop has heard: answers as they come, what each weighs, and which of them taught what came out.

An overseer may answer late, in any order, or not at all. Left out: what is asked (`control_asking`), and the fit.

Shapes: M members, R clips.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from backflip.data import Judgement
from backflip.loops.answers import (
    awaited,
    person_weights,
    take_in,
    weighed,
    write_weighting,
)
from backflip.loops.parts import stream
from backflip.measures.weighting import what_weighting_changed
from backflip.overseers.recorded import RecordedOverseer
from backflip.protocols import Overseer
from backflip.rewards.clip_answers import Answer, scores
from backflip.rewards.clips import ClipFit, ClipRewards
from backflip.rewards.comparisons import Comparison, comparisons
from backflip.rewards.fit import Rows
from backflip.store.lineage import Lineage, judgement_id
from backflip.worlds.control import ControlWorld

if TYPE_CHECKING:
    from backflip.loops.control import ControlLoopConfig, Position
    from backflip.run import Run

GROWN = 1.1
"""People are weighed anew when there are so many times as many answers."""


@dataclass(frozen=True)
class Taught:
    """An answer that can be learned from, to which question, and of whom."""

    query: str
    judge: str
    answer: Answer


@dataclass
class Heard:
    """What an overseer has said so far. After a kill it may have answered what is yet to be asked again."""

    weigh_people: bool
    cursor: int = 0
    answers: dict[str, list[Judgement]] = field(default_factory=dict[str, list[Judgement]])
    """The judgements of each question that count."""
    taught: dict[str, Taught] = field(default_factory=dict[str, Taught])
    """Those that were taken and can be learned from, by the judgement's id, in the order of taking."""

    def take(self, overseer: Overseer, wait_seconds: float, at: Position, run: Run) -> int:
        """Take the answers that have come, in the order of asking; return how many of them can be learned from."""
        known = set(at.heard)
        end = time.monotonic() + (0.0 if isinstance(overseer, RecordedOverseer) else wait_seconds)
        self._listen(overseer, 0.0)
        waited_for = set(at.asked) - set(at.expired)
        while (left := end - time.monotonic()) > 0 and awaited(overseer, waited_for, self.answers):
            self._listen(overseer, min(1.0, left))
            if getattr(overseer, "stopped", False):
                break
        if getattr(overseer, "stopped", False):  # the person went away: what is open stays in the store
            raise KeyboardInterrupt
        told = {judgement_id(one): one for query in at.asked for one in self.answers.get(query, ())}
        fresh = {key: one for key, one in told.items() if key not in known}
        at.heard = [*at.heard, *fresh]
        unanswered, ties = self._join(fresh, run)
        at.unanswered, at.ties = at.unanswered + unanswered, at.ties + ties
        return len(fresh) - unanswered

    def read_again(self, at: Position, run: Run) -> None:
        """Read what was taken before a kill, in the same order."""
        told = run.store.judgements_by_id(at.heard)
        self._join({key: told[key] for key in at.heard}, run)

    def apart(self, overseer: Overseer, at: Position, run: Run) -> tuple[list[Answer], list[Answer]]:
        """Return what is learned from, and what is only measured, each answer with its judge's weight."""
        if self.weigh_people and len(self.taught) >= GROWN * at.weighed_at:
            at.weight = person_weights(run.store, {one.judge for one in self.taught.values()}, overseer)
            at.weighed_at = len(self.taught)
        return self._parts(at, at.weight)

    def remember(self, at: Position, run: Run) -> None:
        """Record which judgements taught the last reward, and through it the policy."""
        held = set(at.held)
        taught = [key for key, one in self.taught.items() if one.query not in held]
        lineage = Lineage(run.store)
        made = lineage.add_reward(run.id, "reward", run.store.judgements_by_id(taught).values(), time.time())
        lineage.add_policy(run.id, f"policy-{at.update}", [made], time.time())

    def write_weighting(
        self, untaught: ClipRewards, world: ControlWorld, config: ControlLoopConfig, at: Position, run: Run
    ) -> None:
        """Fit two fresh rewards, alike but for the weights, and write how they differ on all comparisons."""
        found: dict[str, float] = {}
        deltas = list[NDArray[np.float32]]()
        for name, weight in (("weighted", at.weight), ("equal", dict[str, float]())):
            inside, held = self._parts(at, weight)
            if not inside or not all(isinstance(one, Comparison) for one in inside):
                return
            reward = copy.deepcopy(untaught)
            stats = ClipFit(reward, config.fit)(world, inside, held, stream(config.seed, "weigh"))
            if "held_out_accuracy" in stats:
                found[f"held_out_accuracy_{name}"] = stats["held_out_accuracy"]
            rows = Rows.of(world, [one for one in inside if isinstance(one, Comparison)])
            score_R = reward.raw_MBT(rows.episodes).detach().mean(0).sum(-1)
            deltas.append((score_R[rows.first_B] - score_R[rows.second_B]).numpy())
        judges = [one.judge for one in self.taught.values()]
        write_weighting(run, at.weight, judges, found | what_weighting_changed(*deltas))

    def _parts(self, at: Position, weight: Mapping[str, float]) -> tuple[list[Answer], list[Answer]]:
        held = set(at.held)
        each = [(one.query in held, weighed(one.answer, one.judge, weight)) for one in self.taught.values()]
        return [answer for apart, answer in each if not apart], [answer for apart, answer in each if apart]

    def _listen(self, overseer: Overseer, wait: float) -> None:
        judgements, self.cursor = overseer.answers(self.cursor, wait=wait)
        for one in judgements:
            take_in(self.answers, one)

    def _join(self, fresh: Mapping[str, Judgement], run: Run) -> tuple[int, int]:
        """Put judgements that can be learned from with the others; return how many could not, and how many are ties."""
        queries = run.store.queries_by_id({one.query_id for one in fresh.values()})
        unanswered = ties = 0
        for key, one in fresh.items():
            query = queries[one.query_id]
            found, counts = (scores if query.kind == "rate" else comparisons)([query], [one])
            for answer in found:
                self.taught[key] = Taught(query.id, one.judge, answer)
            unanswered, ties = unanswered + counts["unanswered"], ties + counts["ties"]
        return unanswered, ties
