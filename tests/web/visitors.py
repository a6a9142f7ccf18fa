"""A served application, and people before a screen who use nothing but keys; for tests in a real browser."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from playwright.sync_api import BrowserContext, Page, expect

from backflip.store import Store
from backflip.store.keys import ticket_key
from backflip.store.people import People
from backflip.store.study import Study, StudyBook
from backflip.web.app import create_app
from backflip.web.guard import cookie_of

PASSWORD = "correct horse battery"
QUIET = Study(gold_share=0.0, repeat_share=0.0)


class Place:
    """A store, and somebody who serves it at `url`."""

    url: str

    def __init__(self, where: str | Path) -> None:
        self.where = where
        self.store = Store.open(where)
        self.book, self.people = StudyBook(self.store), People(self.store)
        self.cookie = cookie_of(self.store, ticket_key(self.store, time.time()))

    def study(self, study: Study) -> None:
        self.book.change(study, "owner", time.time())


class Served(Place):
    """The application on a port of its own, in a thread."""

    def __init__(self, where: str | Path) -> None:
        super().__init__(where)
        self.silent = ""
        self.unheard = 0
        app = create_app(self.store, "http://127.0.0.1")

        async def answer(scope: Any, receive: Any, send: Any) -> None:
            """Do what is asked, and cut the wire in place of a reply where it is to be lost."""
            if not self.silent or scope.get("path") != self.silent:
                await app(scope, receive, send)
                return

            async def lose(message: Any) -> None:
                pass

            await app(scope, receive, lose)
            self.unheard += 1
            send.__self__.transport.abort()  # uvicorn's own: the protocol between it and us has no word for this

        config = uvicorn.Config(answer, port=0, log_level="critical", timeout_graceful_shutdown=1)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        port = self.server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"

    @contextmanager
    def replies_lost(self, path: str) -> Generator[None]:
        """Take every request to this path, do what it asks, and let no reply through. (Browsers try some requests a second time by themselves.)"""
        self.silent, before = path, self.unheard
        yield
        wait_for(lambda: self.unheard > before)
        self.silent = ""

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join()
        self.store.close()


class Apart(Place):
    """`backflip serve` in a process of its own, which can be killed, starved and started again at the same place."""

    port = 0

    def start(self) -> None:
        command = [sys.executable, "-m", "backflip", "serve", str(self.where), "--port", str(self.port)]
        self.log = Path(tempfile.mkstemp(prefix="bf-serve-")[1])
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        wait_for(lambda: "serving" in self.said() or self.process.poll() is not None)
        assert self.process.poll() is None, self.said()
        self.url = self.said().split(" at ")[-1].split(";")[0]
        self.port = int(self.url.rpartition(":")[2])

    def said(self) -> str:
        """Everything that it wrote into its window."""
        return self.log.read_text()

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self.store.close()
        self.log.unlink()


class Visitor:
    """Somebody before a screen, with keys and nothing else."""

    def __init__(self, context: BrowserContext, served: Place, name: str, *, ready: bool = True) -> None:
        self.context, self.served = context, served
        self.page: Page = context.new_page()
        self.complaints: list[str] = []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        token = served.people.invite("labeler", "", time.time(), 1.0)
        self.join(self.page, served, token, name)
        if ready:
            self.ready()

    @staticmethod
    def join(page: Page, served: Place, token: str, name: str) -> None:
        """Make an account by an invitation, and agree."""
        page.goto(f"{served.url}/join/{token}")
        expect(page.locator("input[name=name]")).to_be_focused()
        page.keyboard.type(name)
        page.keyboard.press("Tab")
        page.keyboard.type(PASSWORD)
        page.keyboard.press("Enter")
        page.wait_for_url("**/judge")
        page.keyboard.press("Tab")
        page.locator("input[name=agree]").focus()
        page.keyboard.press("Space")
        page.keyboard.press("Enter")
        expect(page.locator("#question")).to_be_visible()

    @property
    def judge(self) -> str:
        secret = self.served.people.secret_of(self.name())
        assert secret is not None
        return secret[0].judge

    def name(self) -> str:
        return self.page.locator(".who").inner_text()

    def texts(self) -> list[str]:
        return [self.page.locator(f"#side{k} .text").first.inner_text() for k in (1, 2)]

    def ready(self, milliseconds: int = 15_000) -> None:
        """Wait until a pair can be judged, as a person would."""
        expect(self.page.locator("[data-choice='1'], [data-scale-point='1']").first).to_be_enabled(timeout=milliseconds)

    def press(self, key: str) -> None:
        """Wait for a pair, press a key, and wait until the next pair, or none, is shown."""
        self.ready()
        before = self.page.locator("#pair").inner_html() if self.page.locator("#pair").is_visible() else ""
        self.page.keyboard.press(key)
        self.page.wait_for_function(
            "before => document.querySelector('#pair').hidden || document.querySelector('#pair').innerHTML !== before",
            arg=before,
        )


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait for what the server is about to have; a page's answer takes its way."""
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("it never came")


def film(high: int = 64) -> bytes:
    """Return a film of half a second."""
    import imageio.v2 as imageio

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        shades: list[Any] = [np.full((high, 64, 3), 20 * shade, dtype=np.uint8) for shade in range(10)]
        dense = high % 2 == 1  # colours at half the height need an even one
        imageio.mimwrite(
            path, shades, fps=20, codec="libx264", macro_block_size=1, pixelformat="yuv444p" if dense else "yuv420p"
        )
        return path.read_bytes()
