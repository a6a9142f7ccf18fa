"""What the training process does just now, as far as the store knows: the queue, answers, the latest numbers of every phase.

Sent as server-sent events, one as soon as something changed. Leaves out pictures of whole runs: that is the report.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from backflip.web.guard import Here, Owner, Place
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


@router.get("/live")
def live_page(request: Request, session: Owner) -> Response:
    """Show the page; its script fills it."""
    return show(request, "live.html", session)


@router.get("/live/events")
async def events(request: Request, here: Here, session: Owner) -> StreamingResponse:
    """Send what is going on, again and again, until the page is closed."""

    async def told() -> AsyncIterator[str]:
        before, quiet = "", 0.0
        while not await request.is_disconnected() and not request.app.state.stopping:
            found = json.dumps(await run_in_threadpool(picture, here), sort_keys=True)
            if found != before:
                before, quiet = found, 0.0
                yield f"data: {found}\n\n"
            elif (quiet := quiet + LOOK_SECONDS) >= KEEP_ALIVE_SECONDS:
                quiet = 0.0
                yield ": still here\n\n"
            await asyncio.sleep(LOOK_SECONDS)

    return StreamingResponse(told(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


def picture(here: Place) -> dict[str, Any]:
    """Return what the page shows."""
    counts = here.store.counts()
    now = here.clock()
    recent = here.store.answered_between(now - 600, now)
    return {
        "counts": {
            name: counts[name] for name in ("open", "answered", "expired", "waiting for aid", "could_not_judge")
        },
        "per_minute": round(recent / 10, 2),
        "curves": [curve for run in here.store.runs_with_metrics() for curve in _curves(here, run)],
        "at": int(time.time() // 10),
    }


def _curves(here: Place, run: str) -> list[dict[str, Any]]:
    rows, _ = here.store.metrics(run)
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in rows:
        for name in SHOWN:
            if name in row:
                found.setdefault((name, row["phase"]), []).append((row["step"], row[name]))
    order = sorted(found, key=lambda key: (SHOWN.index(key[0]), key[1]))
    return [{"name": name, "phase": phase, "points": _thin(found[name, phase])} for name, phase in order]


def _thin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    stride = max(1, -(-len(points) // POINTS))
    return [*points[:-1:stride], points[-1]]
