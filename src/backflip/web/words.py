"""What people type or paste into a field: nothing in it that cannot be seen, so that pages show it and every database keeps it.

A pasted text may hold such signs without anybody knowing, so they are taken out and nothing is refused. Leaves out names
(`backflip.store.names`), and files, which are kept as they are.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_HALF = re.compile("[\ud800-\udfff]")


def plain(text: Any) -> Any:
    """Return a text with one kind of line end, no control characters, and U+FFFD for half a character; anything else as it is."""
    if not isinstance(text, str):
        return text
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _HALF.sub("\ufffd", _CONTROL.sub("", text))


Words = Annotated[str, BeforeValidator(plain)]
"""A text that somebody typed, as it is kept."""
