"""A study in a store, people who are signed in, and a clock that tests set."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from argon2 import PasswordHasher
from fastapi import FastAPI
from fastapi.testclient import TestClient
from playwright.sync_api import Browser, BrowserContext

from backflip.data import Item, Query
from backflip.store import Store
from backflip.store.people import People, Person
from backflip.store.study import Known, StudyBook
from backflip.web import passwords, sign_in
from backflip.web.app import create_app
from backflip.web.limits import Limit

from .visitors import PASSWORD, QUIET, Served, Visitor

URL = "http://testserver"
HASHER = passwords._HASHER
"""What hashes passwords where nobody waits for tests."""


@pytest.fixture(scope="session", autouse=True)
def quick_passwords() -> Iterator[None]:
    """Hash in a thousandth of the time: everybody who comes in in these tests has a password."""
    quick = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passwords, "_HASHER", quick)
        patch.setattr(passwords, "_NOBODYS", quick.hash("a password that nobody has"))
        yield


@dataclass
class Clock:
    """Seconds since 1970, as tests say."""

    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def pair(n: int, media: Any = "text") -> Query:
    """Return the n-th question; the longer text is stored first and second in turn."""
    items = [Item(f"opening {n}", f"answer {n} {'good ' * (k + 1)}", {"n": [n, k]}, media=media) for k in (0, 1)]
    return Query(tuple(items if n % 2 else items[::-1]), "Which is better?", reason="random")


@dataclass
class Somebody:
    """A person with a browser of their own, without a screen."""

    person: Person
    browser: TestClient
    csrf: str
    events: list[int] = field(default_factory=lambda: [0])

    def next(self, count: int = 1) -> list[dict[str, Any]]:
        found = self.browser.get(f"/judge/next?count={count}")
        assert found.status_code == 200, found.text
        return found.json()["pairs"]

    def event(self) -> str:
        self.events[0] += 1
        return f"{self.person.id}{self.events[0]:016x}"

    def send(self, query: str, choice: str | None = "1", **more: Any) -> Any:
        body = {
            "query": query,
            "event": self.event(),
            "choice": choice,
            "timing": {"visible": 2.0, "whole": 2.5, "idle": 0.0},
            **more,
        }
        # As browsers write it: half a character as an escape, which httpx would not send.
        headers = {"X-CSRF-Token": self.csrf, "Content-Type": "application/json"}
        return self.browser.post("/judge/answer", content=json.dumps(body), headers=headers)

    def agree(self, version: int = 0) -> Any:
        return self.post("/consent", agree="yes", version=version)

    def post(self, where: str, **form: Any) -> Any:
        return self.browser.post(where, data={"csrf": self.csrf, **form})


@dataclass
class Site:
    """A running application and what lies behind it."""

    app: FastAPI
    store: Store
    clock: Clock
    people: People
    book: StudyBook

    def come(self, name: str, role: Any = "labeler", *, ready: bool = True) -> Somebody:
        """Invite somebody and let them join; `ready`: they have agreed and may judge."""
        browser = TestClient(self.app, base_url=URL, follow_redirects=False)
        token = self.people.invite(role, "", self.clock(), 1.0)
        joined = browser.post(f"/join/{token}", data={"name": name, "password": PASSWORD})
        assert joined.status_code == 303, joined.text
        secret = self.people.secret_of(name)
        assert secret is not None
        page = browser.get("/judge").text
        somebody = Somebody(secret[0], browser, page.split('data-csrf="')[1].split('"')[0])
        if ready and role == "labeler":
            assert somebody.agree().status_code == 303
        return somebody


ON_BOTH = pytest.mark.parametrize("where", ["sqlite", "postgres"], indirect=True)
"""Mark of the tests that run on both kinds of database; the others run on SQLite."""


@pytest.fixture
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str | Path:
    """Where an empty store may be made."""
    kind = getattr(request, "param", "sqlite")
    return tmp_path / "store.sqlite" if kind == "sqlite" else request.getfixturevalue("postgres_url")


@pytest.fixture
def site(where: str | Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A site with ten open questions, where no attempt to come in is given back, however long a test takes."""
    clock = Clock()
    monkeypatch.setattr(sign_in, "time", SimpleNamespace(monotonic=lambda: 0.0))
    with Store.open(where) as store:
        store.add_queries([pair(n) for n in range(10)])
        app = create_app(store, URL, clock)
        app.state.place.requests = Limit(burst=100_000, per_minute=1.0)  # tests are faster than people
        yield Site(app, store, clock, People(store), StudyBook(store))


@pytest.fixture
def known() -> Callable[[int], list[Known]]:
    """Make questions whose answers are known: the longer text is better."""

    def make(count: int) -> list[Known]:
        found: list[Known] = []
        for n in range(100, 100 + count):
            query = pair(n)
            longer = len(query.items[0].content) > len(query.items[1].content)
            found.append(Known(query, (1.0, 0.0) if longer else (0.0, 1.0), "It says more."))
        return found

    return make


@pytest.fixture
def served(where: str | Path) -> Iterator[Served]:
    one = Served(where)
    one.study(QUIET)
    yield one
    one.stop()


@pytest.fixture
def come(chromium: Browser, served: Served) -> Iterator[Callable[..., Visitor]]:
    contexts: list[BrowserContext] = []

    def visit(name: str, *, ready: bool = True, **options: Any) -> Visitor:
        contexts.append(chromium.new_context(viewport={"width": 1280, "height": 800}, **options))
        return Visitor(contexts[-1], served, name, ready=ready)

    yield visit
    for context in contexts:
        context.close()
