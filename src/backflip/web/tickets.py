"""Proof that a question was put before somebody, which travels with the question and comes back with the answer.

That a question lies before somebody is written without waiting for the disk, so a database that crashes may have forgotten it; an
answer to it is no less worth. A ticket shows that this server gave it, and says nothing of what for. Leaves out how a question is held
(`backflip.store.desk`).
"""

from __future__ import annotations

import hashlib
import hmac

from backflip.store.desk import PURPOSES

LETTERS = 32


class Tickets:
    """Makes and reads tickets with one key, which stays here."""

    def __init__(self, key: bytes) -> None:
        """Sign with `key`."""
        self._key = key

    def of(self, person_id: str, query_id: str, purpose: str) -> str:
        """Return the ticket of a question that is put before somebody."""
        said = "\n".join((person_id, query_id, purpose)).encode()
        return hmac.new(self._key, said, hashlib.sha256).hexdigest()[:LETTERS]

    def purpose(self, person_id: str, query_id: str, ticket: str) -> str | None:
        """Return what this question was put before this person for, None where the ticket is not ours."""
        mine = (one for one in PURPOSES if hmac.compare_digest(self.of(person_id, query_id, one), ticket))
        return next(mine, None)
