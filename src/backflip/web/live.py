"""What the training process does just now, as far as the store knows: queue, answers, curves, proxy against KL, what it asks, its cost.

Sent as server-sent events, one as soon as something changed; a page reads each logged line once. Leaves out pictures of whole runs:
that is the report.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from backflip.data import Item
from backflip.store.judged import latest_questions, people_seconds, study_answers, study_counts
from backflip.web.guard import Here, Owner, Place, session_of
from backflip.web.pages import show

router = APIRouter()
LOOK_SECONDS = 1.0
KEEP_ALIVE_SECONDS = 15.0
POINTS = 200
"""Points of a curve that are sent; older ones are thinned."""
SHOWN = (
    "held_out_accuracy", "answers", "answered", "asked", "gold_win_rate", "kl_nats_per_sequence", "proxy_mean", "true_return", "loss",
)  # fmt: skip
"""Numbers that are drawn where a phase logs them, in this order."""
AGAINST = ("kl_nats_per_sequence", "proxy_mean")
"""Drawn against each other where a line has both: over-optimisation shows there first."""
LATEST = 3
"""Questions asked last whose items are shown."""
LETTERS = 600
"""Letters of a text that are shown of it."""


@router.get("/live")
def live_page(request: Request, session: Owner) -> Response:
    """Show the page; its script fills it."""
    return show(request, "live.html", session)


@router.get("/live/events")
async def events(request: Request, here: Here, session: Owner) -> StreamingResponse:
    """Send what is going on, again and again, until the page is closed or its reader is signed out."""

    async def told() -> AsyncIterator[str]:
        watch, before, quiet = Watch(here), "", 0.0
        while not await request.is_disconnected() and not request.app.state.stopping:
            # Again each round: who signed out or was erased since may see no more, however long the page stays open.
            now = await run_in_threadpool(session_of, request)
            if now is None or now.person.role != "owner":
                return
            found = json.dumps(await run_in_threadpool(watch.picture), sort_keys=True)
            if found != before:
                before, quiet = found, 0.0
                yield f"data: {found}\n\n"
            elif (quiet := quiet + LOOK_SECONDS) >= KEEP_ALIVE_SECONDS:
                quiet = 0.0
                yield ": still here\n\n"
            await asyncio.sleep(LOOK_SECONDS)

    return StreamingResponse(told(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


@dataclass
class Watch:
    """One page's view of a store: what was logged is read once and kept, by step, so a resumed run's lines replace those it repeats."""

    here: Place
    cursors: dict[str, int] = field(default_factory=dict[str, int])
    curves: dict[tuple[str, str, str], dict[float, float]] = field(
        default_factory=dict[tuple[str, str, str], dict[float, float]]
    )
    """Points by run, number and phase."""
    against: dict[str, dict[float, tuple[float, float]]] = field(
        default_factory=dict[str, dict[float, tuple[float, float]]]
    )
    """KL and proxy by run and step."""
    seconds: dict[str, float] = field(default_factory=dict[str, float])
    """How long each run has been going on, as its last line says."""

    def picture(self) -> dict[str, Any]:
        """Return what the page shows."""
        store, now = self.here.store, self.here.clock()
        for run in store.runs_with_metrics():
            self._read(run)
        counts = study_counts(store)
        return {
            "counts": {
                name: counts[name] for name in ("open", "answered", "expired", "waiting for aid", "could_not_judge")
            },
            "per_minute": round(study_answers(store, now - 600, now) / 10, 2),
            "cost": {
                "judgements": counts["judgements"],
                "people_seconds": round(people_seconds(store)),
                "training_seconds": round(sum(self.seconds.values())),
            },
            "curves": self._drawn(),
            "against": [
                {"name": "proxy against KL", "phase": "", "points": _thin([held[step] for step in sorted(held)])}
                for held in self.against.values()
                if len(held) > 1
            ],
            "latest": [
                {"question": query.question, "reason": query.reason, "items": [self._shown(one) for one in query.items]}
                for query in latest_questions(store, LATEST)
            ],
        }

    def _read(self, run: str) -> None:
        rows, self.cursors[run] = self.here.store.metrics(run, self.cursors.get(run, 0))
        for row in rows:
            self.seconds[run] = max(self.seconds.get(run, 0.0), row["seconds"])
            for name in SHOWN:
                if name in row:
                    self.curves.setdefault((run, name, row["phase"]), {})[row["step"]] = row[name]
            if all(name in row for name in AGAINST):
                self.against.setdefault(run, {})[row["step"]] = (row[AGAINST[0]], row[AGAINST[1]])

    def _drawn(self) -> list[dict[str, Any]]:
        order = sorted(self.curves, key=lambda key: (key[0], SHOWN.index(key[1]), key[2]))
        return [{"name": key[1], "phase": key[2], "points": _thin(sorted(self.curves[key].items()))} for key in order]

    def _shown(self, item: Item) -> dict[str, Any]:
        if item.media == "clip":
            return {"clip": f"/media/{item.id}" if self.here.store.has_media(item.id) else ""}
        return {"prompt": item.prompt[-LETTERS:], "text": item.content[:LETTERS]}


def _thin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    stride = max(1, -(-len(points) // POINTS))
    return [*points[:-1:stride], points[-1]]
