"""A file that the owner sends by the browser. Leaves out what is in it, and how large a request may be (`limits`)."""

from __future__ import annotations

from typing import BinaryIO

from fastapi import Request
from starlette.datastructures import UploadFile

from backflip.errors import DataError

UPLOAD_BYTES = 10_000_000
"""A larger file goes by the command line."""
LONGEST_NAME = 80


async def uploaded(request: Request) -> tuple[BinaryIO, str]:
    """Return the file of a form, and what it is called in messages.

    Read by hand: the owner's token was checked on this very form, before anything was believed of it.

    Raises:
        DataError: none was chosen.
    """
    file = (await request.form()).get("file")
    if not isinstance(file, UploadFile) or not file.filename:
        raise DataError("no file came; choose a file of JSON lines first")
    return file.file, file.filename[-LONGEST_NAME:]
