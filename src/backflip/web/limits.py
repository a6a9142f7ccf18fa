"""How often something may be tried, and how large a request may be. Counts live in this process alone.

Times are seconds of any clock that does not go back.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
MOST_KEYS = 10_000
"""Callers remembered; the one that was quiet for longest is forgotten first."""


class Limit:
    """A bucket of tokens for each caller: `burst` at once, `per_minute` in the long run."""

    def __init__(self, burst: int, per_minute: float) -> None:
        """Allow so much."""
        self._burst, self._rate = float(burst), per_minute / 60
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allows(self, key: str, now: float) -> bool:
        """Take a token of `key`, if there is one."""
        left, before = self._left.pop(key, (self._burst, now))
        left = min(self._burst, left + self._rate * max(0.0, now - before))
        self._left[key] = (left - 1 if left >= 1 else left, now)
        if len(self._left) > MOST_KEYS:
            self._left.popitem(last=False)
        return left >= 1


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
            await _too_large(send, most)
            return
        try:
            await self._app(scope, counted, watched)
        except Exception:
            if not refused:
                raise
        if refused and not begun:
            await _too_large(send, most)


async def _too_large(send: Send, most: int) -> None:
    text = f"this request is larger than the {most:,} bytes that are allowed here".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": text})
