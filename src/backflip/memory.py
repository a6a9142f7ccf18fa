"""Memory that was freed goes back to the system: the C library of Linux keeps it otherwise, and a run's peak adds up its phases."""

from __future__ import annotations

import ctypes
import sys


def give_back() -> None:
    """Return what is free to the system, where the C library can (glibc's malloc_trim); elsewhere do nothing. Takes milliseconds."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
