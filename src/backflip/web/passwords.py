"""Hash passwords and check them, by argon2-cffi with its own settings. Leaves out who has one."""

from __future__ import annotations

from threading import BoundedSemaphore

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from backflip.errors import DataError

SHORTEST = 10
LONGEST = 200
_HASHER = PasswordHasher()
_TURNS = BoundedSemaphore(2)
"""Each hash takes 64 MiB for its time: many at once would take the machine's memory."""
_NOBODYS = _HASHER.hash("a password that nobody has")


def hashed(password: str) -> str:
    """Return what to store of a password.

    Raises:
        DataError: it is too short or too long.
    """
    if not SHORTEST <= len(password) <= LONGEST:
        raise DataError(f"a password has {SHORTEST} to {LONGEST} letters; please choose another")
    with _TURNS:
        return _HASHER.hash(password)


def fits(password: str, stored: str | None) -> bool:
    """Return whether a password is the stored one; takes as long where there is none, so that names cannot be guessed by time."""
    try:
        with _TURNS:
            return _HASHER.verify(stored or _NOBODYS, password[: LONGEST + 1]) and stored is not None
    except (VerificationError, InvalidHashError):
        return False
