"""Parts of a film: Safari plays none that it cannot ask for in parts. Leaves out where films come from."""

from __future__ import annotations

import hashlib
import re

from fastapi import Response

_ONE = re.compile(r"bytes=[ \t]*(\d{0,18})-(\d{0,18})[ \t]*", re.IGNORECASE | re.ASCII)


def in_parts(content: bytes, kind: str, headers: dict[str, str], asked: str | None, if_range: str | None) -> Response:
    """Return what was asked for of a content: a part (206), all of it (200), or that there is no such part (416); RFC 9110, section 14.

    `asked` and `if_range` are the headers Range and If-Range. Several parts at once, another unit, and what cannot be read are answered
    with all of it, and so is a part of a content that is not what the browser has.
    """
    mark = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {**headers, "Accept-Ranges": "bytes", "ETag": mark}
    one = None if asked is None or if_range not in (None, mark) else _ONE.fullmatch(asked)
    if one is None or one.groups() == ("", ""):
        return Response(content, media_type=kind, headers=headers)
    size = len(content)
    if one[1]:
        first, last = int(one[1]), min(int(one[2]), size - 1) if one[2] else size - 1
        if one[2] and int(one[2]) < int(one[1]):  # no range at all, by the RFC, and not one beyond the end
            return Response(content, media_type=kind, headers=headers)
    else:
        first, last = max(0, size - int(one[2])), size - 1
    if first > last:
        return Response(status_code=416, headers={"Content-Range": f"bytes */{size}", "Cache-Control": "no-store"})
    headers["Content-Range"] = f"bytes {first}-{last}/{size}"
    return Response(content[first : last + 1], 206, headers=headers, media_type=kind)
