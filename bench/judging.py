"""The judging pages under load: many labelers at once, on SQLite and on PostgreSQL, with the server killed in the middle.

    python bench/judging.py [--labelers 50] [--judgements 20000] [--queue 100000] [--think 1.0] [--smoke]

`backflip serve` runs in a process of its own; labelers are clients in this one, each with a session, who take the next pairs, think, and
answer. Half-way the server is killed with SIGKILL and started again. Each labeler notes what the server confirmed: at the end that is
compared with the store one by one, and no pair may have gone to more people than asked. Times are the clients': from asking to having
the whole answer, for each request that was answered (what failed while the server was down is counted, not timed). Clients and server
share the machine, so the processor time of each is told, and how late the clients' own loop was: their delay is in every time.
`--smoke` takes seconds and writes nothing. Left out: browsers.
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
from typing import Any, NamedTuple

import common
import httpx
import numpy as np
from sqlalchemy import func, select

from backflip.data import Item, Judgement, Query
from backflip.store import Store, schema
from backflip.store.desk import standing
from backflip.store.keys import ticket_key
from backflip.store.people import CONSENT, People
from backflip.store.study import Study, StudyBook
from backflip.web.guard import cookie_of

OVERLAP = 2


class Confirmed(NamedTuple):
    """An answer of which the server said that it is on the disk."""

    event: str
    query: str
    judge: str
    choice: str


@dataclass
class Seen:
    """What the labelers saw."""

    next_seconds: list[float] = field(default_factory=list[float])
    answer_seconds: list[float] = field(default_factory=list[float])
    page_seconds: list[float] = field(default_factory=list[float])
    """Pages of the owner's queue, opened while everybody judged."""
    late_seconds: list[float] = field(default_factory=list[float])
    """How late this process's loop was when it should have woken."""
    acknowledged: list[Confirmed] = field(default_factory=list[Confirmed])
    """Every answer that the server said it had."""
    interrupted: int = 0
    """Requests that found no server."""
    put_off: Counter[int] = field(default_factory=Counter[int])
    """Requests that were answered 429, 500 or 503, by number: asked again."""


def fill(where: str | Path, args: argparse.Namespace) -> list[tuple[str, str]]:
    """Make a queue, people and their sessions; return who judges with which token, the owner last."""
    with Store.open(where) as store:
        for start in range(0, args.queue, 5000):
            part = range(start, min(start + 5000, args.queue))
            store.add_queries([question(n) for n in part])
        StudyBook(store).change(Study(overlap=OVERLAP, gold_share=0.0, repeat_share=0.05), "bench", time.time())
        people = People(store)
        tokens: list[tuple[str, str]] = []
        for n in range(args.labelers + 1):
            invited = people.invite("owner" if n == args.labelers else "labeler", "", time.time(), 1.0)
            person = people.join(invited, f"person {n}", "no password", time.time())
            people.note_act(person.id, CONSENT, {"version": 0}, time.time())
            people.move(person.id, "passed")
            tokens.append((person.judge, people.sign_in(person, time.time(), 10.0)))
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
        with Store.open(where) as store:
            self.cookie = cookie_of(store, ticket_key(store, time.time()))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.spent = 0.0

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
        self.spent += cpu_seconds(self.process.pid)
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def cpu_seconds(process: int) -> float:
    """Return the processor time that another process has used; 0 where the system does not say."""
    try:
        parts = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(parts[11]) + int(parts[12])) / os.sysconf("SC_CLK_TCK")


async def labeler(
    number: int, who: tuple[str, str], server: Server, seen: Seen, args: argparse.Namespace, many: int
) -> None:
    """Judge until there are enough."""
    rng = np.random.default_rng(number)
    limits = httpx.Limits(max_connections=1)
    async with httpx.AsyncClient(
        base_url=server.url, cookies={server.cookie: who[1]}, timeout=30.0, limits=limits
    ) as client:
        await asyncio.sleep(float(rng.uniform(0, args.think)))
        page = await again(lambda: client.get("/judge"), seen, [])
        headers = {"X-CSRF-Token": page.text.split('data-csrf="')[1].split('"')[0]}
        events = 0
        while len(seen.acknowledged) < many:
            found = await again(lambda: client.get("/judge/next?count=3"), seen, seen.next_seconds)
            pairs = found.json()["pairs"]
            if not pairs:
                return
            for pair in pairs:
                await asyncio.sleep(float(rng.exponential(args.think)))
                events += 1
                choice = "12=s"[int(rng.integers(0, 4))]
                body = {
                    "query": pair["id"],
                    "event": f"{number:08x}{events:024x}",
                    "choice": choice,
                    "timing": {"visible": 1.0, "whole": 1.0, "idle": 0.0},
                }
                post = partial(client.post, "/judge/answer", json=body, headers=headers)
                told = await again(post, seen, seen.answer_seconds)
                if told.status_code == 200:
                    seen.acknowledged.append(Confirmed(str(body["event"]), pair["id"], who[0], choice))
                else:
                    raise SystemExit(f"an answer was refused: {told.status_code} {told.text}")


async def again(ask: Any, seen: Seen, seconds: list[float]) -> httpx.Response:
    """Ask until the server answers: it may be down. Note how long the answer took."""
    while True:
        began = time.perf_counter()
        try:
            found = await ask()
            if found.status_code not in (429, 500, 503):
                seconds.append(time.perf_counter() - began)
                return found
            seen.put_off[found.status_code] += 1
        except httpx.TransportError:
            seen.interrupted += 1
        await asyncio.sleep(0.25)


async def watch(server: Server, token: str, seen: Seen, args: argparse.Namespace) -> None:
    """Open pages of the queue as the owner does, now and then, and note how late this loop is."""
    async with httpx.AsyncClient(base_url=server.url, cookies={server.cookie: token}, timeout=30.0) as client:
        while len(seen.acknowledged) < args.judgements:
            for _ in range(20):
                began = time.perf_counter()
                await asyncio.sleep(0.1)
                seen.late_seconds.append(time.perf_counter() - began - 0.1)
            after = (len(seen.page_seconds) % 10) * args.queue // 10
            await again(lambda after=after: client.get(f"/study?after={after}"), seen, seen.page_seconds)


async def load(server: Server, tokens: list[tuple[str, str]], args: argparse.Namespace) -> tuple[Seen, float]:
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
        accident(),
        watch(server, tokens[-1][1], seen, args),
        *(labeler(n, who, server, seen, args, args.judgements) for n, who in enumerate(tokens[:-1])),
    )
    return seen, time.perf_counter() - began


def check(where: str | Path, seen: Seen) -> dict[str, int]:
    """Compare what is in the store with what was confirmed, one by one."""
    with Store.open(where) as store:
        events = standing(store.judgements(0)[0])
        queries = store.queries_by_id({one.query_id for one in events})
        held = schema.claims.c
        wanted = select(held.query_id).where(held.state != "returned", held.purpose == "study")
        wanted = wanted.group_by(held.query_id).having(func.count() > OVERLAP)
        with store.database.transaction("read") as connection:
            crowded = len(connection.execute(wanted).all())
    recorded = {str(one.details["event"]): one for one in events}
    by_pair = Counter((one.query_id, one.judge) for one in events)
    lost = altered = 0
    for one in seen.acknowledged:
        found = recorded.get(one.event)
        lost += found is None
        altered += found is not None and one != as_confirmed(found, one.event, queries[found.query_id])
    return {
        "acknowledged": len(seen.acknowledged),
        "recorded": len(events),
        "lost": lost,
        "altered": altered,
        "doubled": len(events) - len(recorded) + sum(count - 1 for count in by_pair.values()),
        "pairs_given_to_too_many": crowded
        + sum(count > OVERLAP for count in Counter(one.query_id for one in events).values()),
    }


def as_confirmed(found: Judgement, event: str, query: Query) -> Confirmed:
    """Return a stored judgement as its labeler said it: by the places on the screen."""
    if found.answer is None:
        return Confirmed(event, query.id, found.judge, "s")
    first = found.answer[found.details["shown"][0]]
    return Confirmed(event, query.id, found.judge, "1" if first == 1.0 else "2" if first == 0.0 else "=")


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
        mine = time.process_time()
        seen, seconds = asyncio.run(load(server, tokens, args))
        mine = time.process_time() - mine
        server.spent += cpu_seconds(server.process.pid)
    finally:
        server.process.terminate()
        server.process.wait()
    told = {
        "next": seen.next_seconds,
        "answer": seen.answer_seconds,
        "page_of_the_queue": seen.page_seconds,
        "clients_late": seen.late_seconds,
    }
    quantiles = {
        name: {f"p{q}": float(np.percentile(values, q)) for q in (50, 95, 99, 100)} | {"n": len(values)}
        for name, values in told.items()
    }
    return {
        **check(where, seen),
        "judgements_a_second": len(seen.acknowledged) / seconds,
        "interrupted": seen.interrupted,
        "put_off": dict(seen.put_off),
        "server_cpu_ms_a_judgement": 1000 * server.spent / len(seen.acknowledged),
        "clients_cpu_ms_a_judgement": 1000 * mine / len(seen.acknowledged),
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
    faults = ("lost", "altered", "doubled", "pairs_given_to_too_many")
    bad = [f"{kind}: {one[fault]} {fault}" for kind, one in found.items() for fault in faults if one[fault]]
    if bad:
        raise SystemExit(f"what was confirmed is not what is stored: {', '.join(bad)}")
    if args.smoke:
        print("smoke: nothing was written")
        return
    slowest = max(one["next"]["p95"] for one in found.values())
    detail = {"stores": found, "settings": vars(args), "aim_seconds": 0.1}
    unit = "seconds, p95 of the next pairs, the slower store"
    name = "judging" if len(found) > 1 else f"judging_{args.stores}"
    common.record(name, slowest, None, unit, detail, on=common.machine(), lower=True)


if __name__ == "__main__":
    main()
