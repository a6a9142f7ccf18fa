"""Who is there, and may they: sessions, roles, tokens against forged requests, and the headers of every answer.

Every route names one of `nobody`, `anybody`, `owner` among its dependencies (`ROLES`); a test walks all routes. Leaves out
passwords (`passwords`) and how often something may be tried (`limits`).
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import AsyncGenerator, Callable, MutableMapping
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Depends, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders

from backflip.store import Store
from backflip.store.desk import Desk
from backflip.store.people import People, Session
from backflip.store.study import StudyBook
from backflip.web.addresses import host_of
from backflip.web.limits import Limit, Receive, Send, Tries
from backflip.web.tickets import Tickets

SESSION_HOURS = 24 * 14
SAFE = ("GET", "HEAD", "OPTIONS")
CONTENT_SECURITY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self'; connect-src 'self'; "
    "font-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass
class Place:
    """What every route works on."""

    store: Store
    people: People
    desk: Desk
    book: StudyBook
    public_url: str
    """Where people find this server; its scheme decides whether cookies are for TLS alone."""
    tickets: Tickets
    cookie: str
    """What the cookie is called: browsers send it to every port of a machine, so each study has one of its own."""
    clock: Callable[[], float] = time.time
    sign_ins: Tries = None  # type: ignore[assignment]
    joins: Limit = None  # type: ignore[assignment]
    requests: Limit = None  # type: ignore[assignment]

    @property
    def secure(self) -> bool:
        """Whether people come over TLS."""
        return urlsplit(self.public_url).scheme == "https"


class NotSignedIn(Exception):
    """Nobody is signed in, and the page needs somebody."""


def cookie_of(store: Store, key: bytes) -> str:
    """Return what the cookie of the study in a store is called: others in a copy of it, and nothing that tells where it lies."""
    where = str(store.database.path.resolve()) if store.database.path else store.where
    return f"backflip_{hmac.new(key, where.encode(), hashlib.sha256).hexdigest()[:12]}"


def place_of(request: Request) -> Place:
    """Return what the application works on."""
    return request.app.state.place


def session_of(request: Request) -> Session | None:
    """Return who is signed in, None where nobody is."""
    place = place_of(request)
    token = request.cookies.get(place.cookie)
    return None if not token else place.people.session(token, place.clock())


async def nobody(request: Request) -> None:
    """Let anybody in, but take no change from another site."""
    _same_origin(request)


async def anybody(request: Request) -> AsyncGenerator[Session]:
    """Let in whoever is signed in; what they uploaded is closed behind them, also where they are turned away."""
    # Not in the loop that serves everybody: a database that hangs must not hang what needs none.
    session = await run_in_threadpool(session_of, request)
    if session is None:
        raise NotSignedIn
    try:
        await _not_forged(request, session)
        place = place_of(request)
        if not place.requests.allows(session.person.id, time.monotonic()):
            raise HTTPException(429, "too many requests; wait a minute")
        yield session
    finally:
        await request.close()


async def owner(session: Annotated[Session, Depends(anybody)]) -> Session:
    """Let in the owners of the study."""
    if session.person.role != "owner":
        raise HTTPException(403, "this page is for the owner of the study")
    return session


ROLES = {"nobody": nobody, "anybody": anybody, "owner": owner}
"""Who may come; each route depends on one of them."""
Somebody = Annotated[Session, Depends(anybody)]
Owner = Annotated[Session, Depends(owner)]
Here = Annotated[Place, Depends(place_of)]


async def _not_forged(request: Request, session: Session) -> None:
    """Refuse a change that does not carry the session's token: another site cannot know it."""
    if request.method in SAFE:
        return
    _same_origin(request)
    given = request.headers.get("x-csrf-token")
    if given is None and request.headers.get("content-type", "").startswith(
        ("application/x-www-form-urlencoded", "multipart/form-data")
    ):
        given = str((await request.form()).get("csrf", ""))
    if given is None or not hmac.compare_digest(given.encode(), session.csrf.encode()):
        raise HTTPException(403, "this page is out of date; load it again")


def _same_origin(request: Request) -> None:
    if request.method in SAFE:
        return
    origin = request.headers.get("origin")
    if origin is not None:
        # What the proxy, or the browser itself, says the host is: under the scheme of the origin, which says what port goes without saying.
        named = f"{origin.partition('://')[0]}://{request.headers.get('host', '')}"
        if (came := host_of(origin)) is None or came not in {host_of(place_of(request).public_url), host_of(named)}:
            raise HTTPException(403, "this came from another site")


class StrictHeaders:
    """Puts the headers that keep browsers strict on every answer, whoever makes it."""

    def __init__(self, app: Any, secure: bool) -> None:
        """Wrap an application; `secure`: people come over TLS."""
        self._app = app
        self._always = {**HEADERS, **({"Strict-Transport-Security": "max-age=31536000"} if secure else {})}

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Pass on, and look at the head of the answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        wanted = dict(self._always)
        if not scope["path"].startswith(("/static/", "/media/")):
            wanted["Cache-Control"] = "no-store"

        async def headed(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message.setdefault("headers", []))
                for name, value in wanted.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, headed)
