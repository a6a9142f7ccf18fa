"""Come in: by an invitation once, by name and password after, by a link with a new password where that is forgotten.

Leaves out what one may do then.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Annotated

from fastapi import APIRouter, Depends, Form, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse

from backflip.errors import DataError
from backflip.store.names import folded
from backflip.store.people import Person, Role, digest_of
from backflip.store.resets import Resets
from backflip.web.guard import SESSION_HOURS, Here, Place, Somebody, nobody, session_of
from backflip.web.limits import caller_of
from backflip.web.pages import show
from backflip.web.passwords import Crowded, fits, hashed, in_turn

router = APIRouter()
open_to_all = [Depends(nobody)]


@router.get("/", dependencies=open_to_all)
def start(request: Request) -> Response:
    """Lead everybody to where they belong."""
    session = session_of(request)
    if session is None:
        return RedirectResponse("/sign-in", 303)
    return RedirectResponse("/study" if session.person.role == "owner" else "/judge", 303)


@router.get("/sign-in", dependencies=open_to_all)
def sign_in_page(request: Request) -> Response:
    """Ask for name and password."""
    return show(request, "sign_in.html", error="", name="")


@router.post("/sign-in", dependencies=open_to_all)
async def sign_in(
    request: Request, here: Here, name: Annotated[str, Form()] = "", password: Annotated[str, Form()] = ""
) -> Response:
    """Begin a session."""
    tried = _caller(request), folded(name)[:100]
    if not here.sign_ins.begin(*tried, time.monotonic()):
        raise _too_many()
    found = await run_in_threadpool(here.people.secret_of, name)
    try:
        right = await in_turn(fits, password, None if found is None else found[1])
    except Crowded:
        here.sign_ins.succeed(*tried, time.monotonic())  # it was not tried
        raise
    if not right or found is None:
        return show(request, "sign_in.html", status=401, error="Name and password do not fit.", name=name)
    here.sign_ins.succeed(*tried, time.monotonic())
    return await run_in_threadpool(_signed_in, here, found[0])


@router.get("/join/{token}", dependencies=open_to_all)
def join_page(request: Request, here: Here, token: str) -> Response:
    """Show what an invitation is for."""
    role = _role_of(request, here, token)
    return show(request, "join.html", token=token, role=role, error="", name="")


@router.post("/join/{token}", dependencies=open_to_all)
async def join(
    request: Request,
    here: Here,
    token: str,
    name: Annotated[str, Form()] = "",
    password: Annotated[str, Form()] = "",
) -> Response:
    """Make an account."""
    role = await run_in_threadpool(_role_of, request, here, token)
    if not here.joins.allows(f"by {digest_of(token)}", time.monotonic()):
        raise _too_many()
    try:
        secret = await in_turn(hashed, password)
        person = await run_in_threadpool(here.people.join, token, name, secret, here.clock())
    except DataError as error:
        return show(request, "join.html", status=409, token=token, role=role, error=str(error), name=name)
    return await run_in_threadpool(_signed_in, here, person)


@router.get("/reset/{token}", dependencies=open_to_all)
def reset_page(request: Request, here: Here, token: str) -> Response:
    """Ask for a new password, by a link that was made for one person."""
    return show(request, "reset.html", token=token, person=_whose(request, here, token), error="")


@router.post("/reset/{token}", dependencies=open_to_all)
async def reset(request: Request, here: Here, token: str, password: Annotated[str, Form()] = "") -> Response:
    """Put a new password in force; whoever was signed in under the old one is signed out."""
    person = await run_in_threadpool(_whose, request, here, token)
    if not here.joins.allows(f"by {digest_of(token)}", time.monotonic()):
        raise _too_many()
    try:
        secret = await in_turn(hashed, password)
    except DataError as error:
        return show(request, "reset.html", status=409, token=token, person=person, error=str(error))
    person = await run_in_threadpool(Resets(here.store).use, token, secret, here.clock())
    return await run_in_threadpool(_signed_in, here, person)


@router.post("/sign-out")
def sign_out(request: Request, here: Here, session: Somebody) -> Response:
    """End the session."""
    here.people.sign_out(request.cookies[here.cookie])
    response = RedirectResponse("/sign-in", 303)
    response.delete_cookie(here.cookie)
    return response


def _signed_in(here: Place, person: Person) -> Response:
    token = here.people.sign_in(person, here.clock(), SESSION_HOURS)
    response = RedirectResponse("/", 303)
    response.set_cookie(
        here.cookie, token, max_age=3600 * SESSION_HOURS, httponly=True, secure=here.secure, samesite="lax", path="/"
    )
    return response


def _caller(request: Request) -> str:
    return caller_of(request.client.host) if request.client else "?"


def _too_many() -> HTTPException:
    return HTTPException(429, "too many attempts; wait a minute and try again")


def _role_of(request: Request, here: Place, token: str) -> Role:
    """Return the role of an invitation."""
    with _guesses(request, here):
        return here.people.invited_as(token, here.clock())


def _whose(request: Request, here: Place, token: str) -> Person:
    """Return who may choose a new password by a link."""
    with _guesses(request, here):
        return Resets(here.store).person_of(token, here.clock())


@contextmanager
def _guesses(request: Request, here: Place) -> Generator[None]:
    """Count links that are not good, and those alone: nobody's guesses shut out who was sent a good one."""
    try:
        yield
    except DataError:
        if not here.joins.allows(f"guesses from {_caller(request)}", time.monotonic()):
            raise _too_many() from None
        raise
