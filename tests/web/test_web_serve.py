"""How the pages are served: to whom, behind what, and without any other server."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi.testclient import TestClient

import backflip.web
from backflip.cli import main
from backflip.store import Store

ELSEWHERE = re.compile(r"""(?:src|href|action|from|import|url|fetch)\s*[=(]?\s*["'(]\s*(?:https?:)?//""")
"""What would ask another server: an address in a page, a style or a script."""


def served(monkeypatch: pytest.MonkeyPatch, where: Path, look: Callable[[Any], None], *options: str) -> None:
    """Let `backflip serve` start, and look at the application as it would be served instead of serving it."""

    def run(server: uvicorn.Server, sockets: Any) -> None:
        address = sockets[0].getsockname()
        assert address[0] == "127.0.0.1", "this machine only, unless somebody says otherwise"
        server.config.load()
        look(server.config.loaded_app)

    monkeypatch.setattr(uvicorn.Server, "run", run)
    assert main(["serve", str(where), "--port", "0", *options]) == 0


def sends_at_once(listener: socket.socket) -> bool:
    """Return whether what is sent over a connection to this listener, as a server accepts it, leaves at once, however little."""

    async def look() -> bool:
        told: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        def came(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            told.set_result(bool(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)))
            writer.close()

        server = await asyncio.start_server(came, sock=listener)
        _, writer = await asyncio.open_connection(*listener.getsockname()[:2])
        found = await told
        writer.close()
        server.close()
        return found

    return asyncio.run(look())


def failing(app: Any, count: int = 14) -> list[int]:
    """Try to sign in, each time as somebody whom a proxy says comes from another address."""
    browser = TestClient(app, client=("127.0.0.1", 5000), follow_redirects=False)
    return [
        browser.post(
            "/sign-in",
            data={"name": f"n{k}", "password": "x" * 12},
            headers={"X-Forwarded-For": f"192.0.2.{k}", "X-Forwarded-Proto": "https"},
        ).status_code
        for k in range(count)
    ]


@pytest.fixture
def where(tmp_path: Path) -> Path:
    Store.open(tmp_path / "store.sqlite").close()
    return tmp_path / "store.sqlite"


def test_an_answer_does_not_wait_for_the_other_side_between_its_head_and_its_body(
    monkeypatch: pytest.MonkeyPatch, where: Path
) -> None:
    plain = socket.create_server(("127.0.0.1", 0))
    assert not sends_at_once(plain), "a socket that does not say which protocol it is for"
    found: list[bool] = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda server, sockets: found.append(sends_at_once(sockets[0])))
    assert main(["serve", str(where), "--port", "0"]) == 0
    assert found == [True]


def test_a_forged_address_is_not_believed(monkeypatch: pytest.MonkeyPatch, where: Path) -> None:
    found: list[int] = []
    served(monkeypatch, where, lambda app: found.extend(failing(app)))
    assert found[0] == 401 and found[-1] == 429, "all of them come from one address"


def test_a_proxy_that_is_trusted_says_who_comes(monkeypatch: pytest.MonkeyPatch, where: Path) -> None:
    found: list[int] = []
    options = ("--public-url", "https://judge.example", "--trust-proxy", "127.0.0.1")
    served(monkeypatch, where, lambda app: found.extend(failing(app)), *options)
    assert set(found) == {401}


def test_pages_need_no_other_server() -> None:
    assert ELSEWHERE.search('<script src="https://cdn.example/htmx.js">') and ELSEWHERE.search("import x from '//a'")
    folder = Path(backflip.web.__file__).parent
    files = [one for part in ("templates", "static") for one in (folder / part).iterdir()]
    assert len(files) > 25
    assert [one.name for one in files if ELSEWHERE.search(one.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize("url", ["https://", "judge.example", "ftp://judge.example", "http://a:b", "https://a?b=c", ""])
def test_a_public_address_must_be_one(where: Path, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(where), "--port", "0", "--public-url", url]) == 2
    said = capsys.readouterr().err
    assert "no web address; expected https://" in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("url", "plain"),
    [
        ("https://Judge.Example.org", "https://judge.example.org"),
        ("HTTPS://judge.example.org:443/", "https://judge.example.org"),
        ("http://judge.example.org:80", "http://judge.example.org"),
        ("http://judge.example.org:443", "http://judge.example.org:443"),
        ("https://[2001:DB8::1]:8443/", "https://[2001:db8::1]:8443"),
        ("https://jüdge.example", "https://xn--jdge-0ra.example"),
    ],
)
def test_a_public_address_is_spelled_as_browsers_do(
    monkeypatch: pytest.MonkeyPatch, where: Path, url: str, plain: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Behind a proxy that puts another host in its requests, the public address alone says where a browser may come from."""
    codes: list[int] = []

    def come(app: Any) -> None:
        link = capsys.readouterr().out.split("for a day): ")[1].split()[0]
        assert link.startswith(f"{plain}/join/")
        browser = TestClient(app, base_url="http://inside:8000", follow_redirects=False)
        for origin in ("https://evil.example", f"{plain}.evil.example", "null", "http://[", plain):
            form = {"name": "Olga", "password": "correct horse battery"}
            codes.append(browser.post(link.removeprefix(plain), data=form, headers={"Origin": origin}).status_code)

    served(monkeypatch, where, come, "--public-url", url)
    assert codes == [403, 403, 403, 403, 303]


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("https://user:pw@judge.example", "a name or a password"),
        ("https://judge.example/label", "expected https://judge.example"),
    ],
)
def test_a_public_address_holds_nothing_but_a_host(
    where: Path, url: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", str(where), "--port", "0", "--public-url", url]) == 2
    said = capsys.readouterr().err
    assert why in said and "pw" not in said and said.count("\n") == 1
