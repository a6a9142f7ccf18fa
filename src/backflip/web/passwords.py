"""Hash passwords and check them, by argon2-cffi with its own settings, a few at a time. Leaves out who has one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import BoundedSemaphore
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from fastapi import HTTPException

from backflip.errors import DataError

SHORTEST = 10
LONGEST = 200
_HASHER = PasswordHasher()
AT_ONCE, MOST = 2, 32
"""Each hash takes 64 MiB for its time: many at once would take the machine's memory. And how many may be at work or wait."""
_AT_WORK = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="password")
_PLACES = BoundedSemaphore(MOST)
Found = TypeVar("Found")
_NOBODYS = _HASHER.hash("a password that nobody has")


class Crowded(HTTPException):
    """Too many passwords wait already; the answer says when to come again."""

    def __init__(self) -> None:
        """Say so."""
        text = "too many people are signing in just now; try again in a few seconds"
        super().__init__(503, text, {"Retry-After": "5"})


async def in_turn(work: Callable[..., Found], *given: object) -> Found:
    """Do what takes long with a password, in a thread kept for that: those that serve everybody else stay free.

    Raises:
        Crowded: too many wait.
    """
    if not _PLACES.acquire(blocking=False):
        raise Crowded
    try:
        task = _AT_WORK.submit(work, *given)
    except BaseException:
        _PLACES.release()
        raise
    task.add_done_callback(lambda _: _PLACES.release())
    return await asyncio.wrap_future(task)


def hashed(password: str) -> str:
    """Return what to store of a password.

    Raises:
        DataError: it is too short or too long.
    """
    if not SHORTEST <= len(password) <= LONGEST:
        raise DataError(f"a password has {SHORTEST} to {LONGEST} letters; please choose another")
    return _HASHER.hash(password)


def fits(password: str, stored: str | None) -> bool:
    """Return whether a password is the stored one; takes as long where there is none, so that names cannot be guessed by time."""
    try:
        return _HASHER.verify(stored or _NOBODYS, password[: LONGEST + 1]) and stored is not None
    except (VerificationError, InvalidHashError):
        return False
