"""The judging pages under load: many labelers at once, on SQLite and on PostgreSQL, with the server killed in the middle.

    python bench/judging.py [--labelers 50] [--judgements 20000] [--queue 100000] [--think 1.0] [--smoke]

`backflip serve` runs in a process of its own; labelers are clients in this one, each with a session, who take the next pairs, think, and
answer. Half-way the server is killed with SIGKILL and started again. At the end the store is read: every acknowledged judgement is
there, none is there twice, and no pair went to more people than asked. `--smoke` takes seconds and writes nothing. Left out: browsers.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import common
import httpx
import numpy as np

from backflip.data import Item, Query
from backflip.store import Store
from backflip.store.desk import standing
from backflip.store.people import People
from backflip.store.study import Study, StudyBook

OVERLAP = 2


@dataclass
class Seen:
    """What the labelers saw."""

    next_seconds: list[float] = field(default_factory=list[float])
    answer_seconds: list[float] = field(default_factory=list[float])
    acknowledged: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """Event and question of every answer that the server said it had."""
    interrupted: int = 0


def fill(where: str | Path, args: argparse.Namespace) -> list[str]:
    """Make a queue, people and their sessions; return the session tokens."""
    with Store.open(where) as store:
        for start in range(0, args.queue, 5000):
            part = range(start, min(start + 5000, args.queue))
            store.add_queries([question(n) for n in part])
        StudyBook(store).change(Study(overlap=OVERLAP, gold_share=0.0, repeat_share=0.05), "bench", time.time())
        people = People(store)
        tokens: list[str] = []
        for n in range(args.labelers):
            invited = people.invite("labeler", "", time.time(), 1.0)
            person = people.join(invited, f"labeler {n}", "no password", time.time())
            people.move(person.id, "passed")
            tokens.append(people.sign_in(person, time.time(), 10.0))
    return tokens


def question(n: int) -> Query:
    """Return the n-th pair of texts of usual length."""
    return Query(
        (Item(f"opening {n}", f"first answer {n} " * 20, {}), Item(f"opening {n}", f"second answer {n} " * 20, {})),
        "Which answer is better?",
    )


class Server:
    """`backflip serve` in a process of its own."""

    def __init__(self, where: str | Path) -> None:
        """Choose a port; `start` starts it."""
        self.where = where
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [sys.executable, "-m", "backflip", "serve", str(self.where), "--port", str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        for _ in range(300):
            with suppress(httpx.TransportError):
                httpx.get(f"{self.url}/sign-in", timeout=1.0)
                return
            time.sleep(0.1)
        raise SystemExit("the server did not start")

    def kill(self) -> None:
        """Kill it as a power cut would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


async def labeler(number: int, token: str, server: Server, seen: Seen, args: argparse.Namespace, many: int) -> None:
    """Judge until there are enough."""
    rng = np.random.default_rng(number)
    limits = httpx.Limits(max_connections=1)
    async with httpx.AsyncClient(
        base_url=server.url, cookies={"backflip": token}, timeout=30.0, limits=limits
    ) as client:
        await asyncio.sleep(float(rng.uniform(0, args.think)))
        page = await again(lambda: client.get("/judge"), seen)
        headers = {"X-CSRF-Token": page.text.split('data-csrf="')[1].split('"')[0]}
        events = 0
        while len(seen.acknowledged) < many:
            began = time.perf_counter()
            found = await again(lambda: client.get("/judge/next?count=3"), seen)
            seen.next_seconds.append(time.perf_counter() - began)
            pairs = found.json()["pairs"]
            if not pairs:
                return
            for pair in pairs:
                await asyncio.sleep(float(rng.exponential(args.think)))
                events += 1
                body = {
                    "query": pair["id"],
                    "event": f"{number:08x}{events:024x}",
                    "choice": "12=s"[int(rng.integers(0, 4))],
                    "timing": {"visible": 1.0, "whole": 1.0, "idle": 0.0},
                }
                began = time.perf_counter()
                told = await again(partial(client.post, "/judge/answer", json=body, headers=headers), seen)
                seen.answer_seconds.append(time.perf_counter() - began)
                if told.status_code == 200:
                    seen.acknowledged.append((str(body["event"]), pair["id"]))
                elif told.status_code != 409:
                    raise SystemExit(f"an answer was refused: {told.status_code} {told.text}")


async def again(ask: Any, seen: Seen) -> httpx.Response:
    """Ask until the server answers: it may be down."""
    while True:
        try:
            found = await ask()
            if found.status_code not in (429, 500, 503):
                return found
        except httpx.TransportError:
            seen.interrupted += 1
        await asyncio.sleep(0.25)


async def load(server: Server, tokens: list[str], args: argparse.Namespace) -> tuple[Seen, float]:
    """Let everybody judge, and kill the server half-way; return what was seen and how long it took."""
    seen = Seen()

    async def accident() -> None:
        while len(seen.acknowledged) < args.judgements // 2:
            await asyncio.sleep(0.05)
        server.kill()
        await asyncio.sleep(1.0)
        await asyncio.to_thread(server.start)

    began = time.perf_counter()
    await asyncio.gather(
        accident(), *(labeler(n, token, server, seen, args, args.judgements) for n, token in enumerate(tokens))
    )
    return seen, time.perf_counter() - began


def check(where: str | Path, seen: Seen) -> dict[str, int]:
    """Count what is in the store against what was acknowledged."""
    with Store.open(where) as store:
        events = standing(store.judgements(0)[0])
        given = Counter(one.query_id for one in events)
    recorded = Counter(str(one.details["event"]) for one in events)
    return {
        "acknowledged": len(seen.acknowledged),
        "recorded": len(events),
        "lost": len([event for event, _ in seen.acknowledged if event not in recorded]),
        "doubled": sum(count - 1 for count in recorded.values()),
        "pairs_given_to_too_many": sum(count > OVERLAP for count in given.values()),
    }


@contextmanager
def postgres() -> Generator[str]:
    """Run a PostgreSQL server of its own, as durable as it is by default."""
    home = Path("/usr/lib/postgresql")
    programs = sorted(home.glob("*/bin"))[-1]
    with tempfile.TemporaryDirectory(prefix="bf-pg-") as folder:
        user: dict[str, Any] = (
            {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
        )
        if user:
            subprocess.run(["chown", "postgres", folder], check=True)
        place = Path(folder)
        run: dict[str, Any] = {"check": True, "capture_output": True, "cwd": place, **user}
        subprocess.run(
            [programs / "initdb", "-D", place / "data", "-U", "backflip", "-A", "trust", "-E", "UTF8"], **run
        )
        options = f"-k {place} -c listen_addresses="
        control = [programs / "pg_ctl", "-D", place / "data", "-w"]
        subprocess.run([*control, "-o", options, "-l", place / "log", "start"], **run)
        try:
            yield f"postgresql://backflip@/postgres?host={place}"
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], **run)


def measure(where: str | Path, args: argparse.Namespace) -> dict[str, Any]:
    """Fill, load, kill, count."""
    tokens = fill(where, args)
    server = Server(where)
    server.start()
    try:
        seen, seconds = asyncio.run(load(server, tokens, args))
        began = time.perf_counter()
        with Store.open(where) as store:
            store.queries("open", after=args.queue // 2, limit=50)
        page_seconds = time.perf_counter() - began
    finally:
        server.process.terminate()
        server.process.wait()
    quantiles = {
        name: {f"p{q}": float(np.percentile(values, q)) for q in (50, 95, 99)}
        for name, values in (("next", seen.next_seconds), ("answer", seen.answer_seconds))
    }
    return {
        **check(where, seen),
        "judgements_a_second": len(seen.acknowledged) / seconds,
        "interrupted": seen.interrupted,
        "page_of_the_queue_seconds": page_seconds,
        **quantiles,
    }


def main() -> None:
    """Measure both kinds of store."""
    parser = argparse.ArgumentParser(description="The judging pages under load.")
    parser.add_argument("--labelers", type=int, default=50)
    parser.add_argument("--judgements", type=int, default=20_000)
    parser.add_argument("--queue", type=int, default=100_000)
    parser.add_argument("--think", type=float, default=1.0, help="mean seconds between pair and answer")
    parser.add_argument("--stores", default="sqlite,postgres")
    parser.add_argument("--smoke", action="store_true", help="a short run that writes nothing")
    args = parser.parse_args()
    if args.smoke:
        args.labelers, args.judgements, args.queue, args.think = 5, 60, 200, 0.02
    found: dict[str, dict[str, Any]] = {}
    for kind in args.stores.split(","):
        if kind == "sqlite":
            with tempfile.TemporaryDirectory() as folder:
                found[kind] = measure(Path(folder) / "store.sqlite", args)
        else:
            with postgres() as url:
                found[kind] = measure(url, args)
        print(kind, found[kind], flush=True)
    bad = [kind for kind, one in found.items() if one["lost"] or one["doubled"] or one["pairs_given_to_too_many"]]
    if bad:
        raise SystemExit(f"judgements were lost, doubled, or given to too many on {', '.join(bad)}")
    if args.smoke:
        print("smoke: nothing was written")
        return
    slowest = max(one["next"]["p95"] for one in found.values())
    detail = {"stores": found, "settings": vars(args), "aim_seconds": 0.1}
    unit = "seconds, p95 of the next pairs, the slower store"
    common.record("judging", slowest, None, unit, detail, on=common.machine(), lower=True)


if __name__ == "__main__":
    main()
