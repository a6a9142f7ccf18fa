"""Put the application together: its routes, its pages, its strictness. `backflip serve` runs it.

Leaves out what each page does: `sign_in`, `judging`, `owning`, `live`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from backflip.errors import BackflipError, DataError, StoreError
from backflip.store import Store
from backflip.store.desk import Desk
from backflip.store.keys import ticket_key
from backflip.store.people import People
from backflip.store.study import StudyBook
from backflip.web import adjudicating, judging, knowing, lineage, live, owning, practising, quality, sign_in
from backflip.web.guard import NotSignedIn, Place, StrictHeaders, cookie_of
from backflip.web.limits import Limit, PlainAddresses, SmallRequests, Tries
from backflip.web.pages import show
from backflip.web.tickets import Tickets
from backflip.web.uploads import UPLOAD_BYTES

STATIC = Path(__file__).parent / "static"
USUAL_BYTES = 64_000
ANSWER_BYTES = 256_000
"""An answer with every sub-question answered at its longest, in any script."""
STORE_FAILED = "the server cannot reach or write its store just now; what it confirmed is safe, and why it failed is in the window in which it runs"


def create_app(store: Store, public_url: str, clock: Callable[[], float] = time.time) -> FastAPI:
    """Return the application over an open store; the caller closes the store."""

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncGenerator[None]:
        yield
        app.state.stopping = True

    # No redirects for a slash too many: they would lead to whatever host the request names.
    app = FastAPI(
        title="Backflip", docs_url=None, redoc_url=None, openapi_url=None, lifespan=life, redirect_slashes=False
    )
    app.state.stopping = False
    key = ticket_key(store, clock())
    app.state.place = Place(
        store,
        People(store),
        Desk(store),
        StudyBook(store),
        public_url,
        Tickets(key),
        cookie_of(store, key),
        clock,
        sign_ins=Tries(burst=10, per_minute=6),
        joins=Limit(burst=10, per_minute=6),
        requests=Limit(burst=120, per_minute=600),
    )
    for part in (sign_in, judging, practising, adjudicating, owning, knowing, quality, live, lineage):
        app.include_router(part.router)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    large = {knowing.UPLOAD: UPLOAD_BYTES, owning.ASK: UPLOAD_BYTES, "/judge/answer": ANSWER_BYTES}
    app.add_middleware(SmallRequests, usual=USUAL_BYTES, large=large)
    app.add_middleware(PlainAddresses)
    app.add_middleware(StrictHeaders, secure=app.state.place.secure)
    app.exception_handler(NotSignedIn)(_to_sign_in)
    app.exception_handler(HTTPException)(_refused)
    app.exception_handler(RequestValidationError)(_unreadable)
    app.exception_handler(BackflipError)(_ours)
    return app


def wants_json(request: Request) -> bool:
    """Return whether a script asked, not a browser that opens a page."""
    return request.headers.get("x-csrf-token") is not None or "application/json" in request.headers.get("accept", "")


def _said(request: Request, status: int, text: str) -> Response:
    if wants_json(request):
        return JSONResponse({"error": text}, status)
    return show(request, "message.html", status=status, title="This did not work", text=text)


async def _to_sign_in(request: Request, error: Exception) -> Response:
    if wants_json(request):
        return JSONResponse({"error": "you are signed out; sign in again"}, 401)
    return RedirectResponse("/sign-in", 303)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    text = "there is no such page" if error.status_code == 404 else str(error.detail)
    said = _said(request, error.status_code, text)
    said.headers.update(error.headers or {})
    return said


async def _unreadable(request: Request, error: Exception) -> Response:
    return _said(request, 422, "the server could not read what was sent; load the page again")


async def _ours(request: Request, error: Exception) -> Response:
    """Show our own errors as what they are: the caller's data (409), what is not there (404), or the store (503).

    Why the store failed names its place, so it is told to whoever started the server alone.
    """
    if isinstance(error, StoreError) and error.__cause__ is not None:  # the database itself failed
        logging.getLogger("uvicorn.error").error("%s %s: %s", request.method, request.url.path, error)
        return _said(request, 503, STORE_FAILED)
    status = 409 if isinstance(error, DataError) else 404 if isinstance(error, StoreError) else 400
    return _said(request, status, str(error))
