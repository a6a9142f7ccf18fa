"""How often something may be tried, how large a request may be, and what its address may hold. Counts live in this process alone.

Times are seconds of any clock that does not go back.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from ipaddress import IPv4Address, IPv6Network, ip_address
from threading import Lock
from typing import Any

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
MOST_KEYS = 10_000
"""Callers remembered; the one that was quiet for longest is forgotten first."""


def caller_of(address: str) -> str:
    """Return whose attempts are counted together: an IPv4 address; of IPv6 its /64, which one connection has whole to itself."""
    try:
        found = ip_address(address)
    except ValueError:  # no address: what a socket of another kind says
        return address
    if isinstance(found, IPv4Address):
        return str(found)
    # A listener for both kinds sees IPv4 as ::ffff:192.0.2.1; all of those share one /64.
    return str(found.ipv4_mapped or IPv6Network((int(found), 64), strict=False))


class Limit:
    """A bucket of tokens for each caller: `burst` at once, `per_minute` in the long run."""

    def __init__(self, burst: int, per_minute: float) -> None:
        """Allow so much."""
        self._burst, self._rate = float(burst), per_minute / 60
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._alone = Lock()  # routes run in many threads

    def allows(self, key: str, now: float) -> bool:
        """Take a token of `key`, if there is one."""
        with self._alone:
            left = self._now(key, now)
            self._keep(key, left - 1 if left >= 1 else left, now)
        return left >= 1

    def full(self, key: str, now: float) -> bool:
        """Return whether nothing of the bucket of `key` is missing."""
        return self._now(key, now) >= self._burst

    def give_back(self, key: str, now: float) -> None:
        """Put back a token that was taken for what turned out not to count."""
        with self._alone:
            self._keep(key, min(self._burst, self._now(key, now) + 1), now)

    def _now(self, key: str, now: float) -> float:
        left, before = self._left.get(key, (self._burst, now))
        return min(self._burst, left + self._rate * max(0.0, now - before))

    def _keep(self, key: str, left: float, now: float) -> None:
        self._left[key] = (left, now)
        self._left.move_to_end(key)
        if len(self._left) > MOST_KEYS:
            self._left.popitem(last=False)


class Tries:
    """How often somebody may fail to come in; what succeeds does not count, so people behind one address do not use up each other's.

    An address is refused alone: it takes nothing from the names it tries. A name that fails from everywhere is guarded, not shut: then
    an address may try it only while it has not failed at it lately, so that its owner, who knows the password, still comes in.
    """

    def __init__(self, burst: int, per_minute: float) -> None:
        """Let an address fail so often; a name, over all addresses, twice as often at once and no more in the long run."""
        self._addresses, self._pairs = Limit(burst, per_minute), Limit(burst, per_minute)
        self._names = Limit(2 * burst, per_minute)

    def begin(self, address: str, name: str, now: float) -> bool:
        """Count an attempt as failed for the time being; return whether it may be made."""
        if not self._addresses.allows(address, now):
            return False
        pair = f"{name} from {address}"
        fresh = self._pairs.full(pair, now)
        self._pairs.allows(pair, now)
        return self._names.allows(name, now) or fresh

    def succeed(self, address: str, name: str, now: float) -> None:
        """Take back the count of an attempt that was made."""
        self._addresses.give_back(address, now)
        self._pairs.give_back(f"{name} from {address}", now)
        self._names.give_back(name, now)


class SmallRequests:
    """Refuse a request whose body is larger than it may be, while it comes, whatever length it states."""

    def __init__(self, app: Any, usual: int, large: dict[str, int]) -> None:
        """Allow `usual` bytes, and on the paths of `large` so many."""
        self._app, self._usual, self._large = app, usual, large

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Pass on what is small enough."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most = self._large.get(scope["path"], self._usual)
        came, refused, begun = 0, False, False

        async def counted() -> MutableMapping[str, Any]:
            nonlocal came, refused
            message = await receive()
            came += len(message.get("body", b""))
            if came > most:
                refused = True
                return {"type": "http.disconnect"}
            return message

        async def watched(message: MutableMapping[str, Any]) -> None:
            nonlocal begun
            if not refused:
                begun = begun or message["type"] == "http.response.start"
                await send(message)

        stated = dict(scope["headers"]).get(b"content-length", b"0")
        if not stated.isdigit() or int(stated) > most:
            await _say(send, 413, _TOO_LARGE.format(most))
            return
        try:
            await self._app(scope, counted, watched)
        except Exception:
            if not refused:
                raise
        if refused and not begun:
            await _say(send, 413, _TOO_LARGE.format(most))


class PlainAddresses:
    """Refuse an address with a NUL in it, which nothing here has: PostgreSQL and the file system fail on it in ways of their own."""

    def __init__(self, app: Any) -> None:
        """Wrap an application."""
        self._app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Pass on what has none."""
        if scope["type"] == "http" and ("\x00" in scope["path"] or b"%00" in scope["query_string"]):
            await _say(send, 404, "there is no such page")
            return
        await self._app(scope, receive, send)


_TOO_LARGE = "this request is larger than the {:,} bytes that are allowed here"


async def _say(send: Send, status: int, words: str) -> None:
    text = words.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text})
