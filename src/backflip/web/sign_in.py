"""Come in: by an invitation once, by name and password after. Leaves out what one may do then."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Depends, Form, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse

from backflip.errors import DataError
from backflip.store.people import Person
from backflip.web.guard import COOKIE, SESSION_HOURS, Here, Place, Somebody, nobody, session_of
from backflip.web.pages import show
from backflip.web.passwords import fits, hashed

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
    _slowly(request, here, name)
    found = await run_in_threadpool(here.people.secret_of, name)
    if not await run_in_threadpool(fits, password, None if found is None else found[1]) or found is None:
        return show(request, "sign_in.html", status=401, error="Name and password do not fit.", name=name)
    return await run_in_threadpool(_signed_in, here, found[0])


@router.get("/join/{token}", dependencies=open_to_all)
def join_page(request: Request, here: Here, token: str) -> Response:
    """Show what an invitation is for."""
    _slowly(request, here, "join")
    role = here.people.invited_as(token, here.clock())
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
    _slowly(request, here, "join")
    role = await run_in_threadpool(here.people.invited_as, token, here.clock())
    try:
        secret = await run_in_threadpool(hashed, password)
        person = await run_in_threadpool(here.people.join, token, name, secret, here.clock())
    except DataError as error:
        return show(request, "join.html", status=409, token=token, role=role, error=str(error), name=name)
    return await run_in_threadpool(_signed_in, here, person)


@router.post("/sign-out")
def sign_out(request: Request, here: Here, session: Somebody) -> Response:
    """End the session."""
    here.people.sign_out(request.cookies[COOKIE])
    response = RedirectResponse("/sign-in", 303)
    response.delete_cookie(COOKIE)
    return response


def _signed_in(here: Place, person: Person) -> Response:
    token = here.people.sign_in(person, here.clock(), SESSION_HOURS)
    response = RedirectResponse("/", 303)
    response.set_cookie(
        COOKIE, token, max_age=3600 * SESSION_HOURS, httponly=True, secure=here.secure, samesite="lax", path="/"
    )
    return response


def _slowly(request: Request, here: Place, name: str) -> None:
    """Let a caller try only so often: by address and by name, since either can be changed."""
    caller = request.client.host if request.client else "?"
    now = time.monotonic()
    if not all([here.sign_ins.allows(f"from {caller}", now), here.sign_ins.allows(f"as {name.lower()[:100]}", now)]):
        raise HTTPException(429, "too many attempts; wait a minute and try again")
