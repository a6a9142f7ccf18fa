"""Questions by id, kept in memory for as long as they are likely to be shown again. Leaves out before whom they lie (`desk`)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from threading import Lock

from backflip.data import Query
from backflip.store import waiting
from backflip.store.store import Store

KEPT_QUERIES, KEPT_LETTERS, ALL_LETTERS = 3000, 20_000, 20_000_000
"""Questions that are kept in memory, the letters that one of them may have, and those that all of them may have together."""
AHEAD = 60
"""Questions that are read at once: four statements for one cost nearly as much as for all of them."""


class ReadAhead:
    """The questions of one store, those that are given next read with those asked for. For many threads."""

    def __init__(self, store: Store) -> None:
        """Read from `store`."""
        self._store = store
        self._kept, self._lock, self._letters = OrderedDict[str, Query](), Lock(), 0
        self._reads_ahead = True

    def by_id(self, ids: Iterable[str], *, ahead: bool = False) -> dict[str, Query]:
        """Return questions by id; `ahead`: read those that come next with them, where any must be read.

        What was read lately is not read again: it was just shown, and never changes. What was never asked is absent.
        """
        wanted = list(ids)
        found = self._remembered(wanted)
        if len(found) == len(wanted):
            return found
        with self._lock:  # whoever waits here finds what somebody else reads ahead
            found = self._remembered(wanted)
            missing = [one for one in wanted if one not in found]
            if not missing:
                return found
            following = self._following() if ahead and self._reads_ahead else []
            new = self._store.queries_by_id([*missing, *(one for one in following if one not in missing)])
            letters = {one: _letters(query) for one, query in new.items()}
            short = {one: query for one, query in new.items() if letters[one] <= KEPT_LETTERS}
            self._letters += sum(letters[one] for one in short.keys() - self._kept.keys())
            self._kept.update(short)
            self._reads_ahead = len(short) == len(new)  # what is not kept would be read ahead in vain, every time
            while len(self._kept) > KEPT_QUERIES or self._letters > ALL_LETTERS:
                self._letters -= _letters(self._kept.popitem(last=False)[1])
        return found | {one: new[one] for one in missing if one in new}

    def _remembered(self, ids: Sequence[str]) -> dict[str, Query]:
        return {one: query for one in ids if (query := self._kept.get(one)) is not None}

    def _following(self) -> list[str]:
        """Return ids of the questions that are given next to whoever asks, but for those that are in memory."""
        with self._store.database.transaction("read") as connection:
            ids = connection.execute(waiting.FOLLOWING, {"level": 0, "most": AHEAD}).scalars().all()
        return [one for one in ids if one not in self._kept]


def _letters(query: Query) -> int:
    items = sum(len(item.prompt) + len(item.content) + len(repr(item.payload)) for item in query.items)
    return items + sum(len(aid.text) for aid in query.aids)
