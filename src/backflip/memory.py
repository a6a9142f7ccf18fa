"""Memory that was freed goes back to the system: the C library of Linux keeps it otherwise, and a run's peak adds up its phases.

And how much of it is free for others to take.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

MIB = 2**20
SYSTEM = Path("/")


def give_back() -> None:
    """Return what is free to the system, where the C library can (glibc's malloc_trim); elsewhere do nothing. Takes milliseconds."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def available_mib(root: Path = SYSTEM) -> float | None:
    """Return what processes may still take before the system or the container is full; None where the system does not say (not Linux)."""
    found: list[float] = []
    meminfo, group = root / "proc/meminfo", root / "sys/fs/cgroup"
    if meminfo.is_file():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024 / MIB)
    limit, used = group / "memory.max", group / "memory.current"
    if limit.is_file() and used.is_file() and (text := limit.read_text().strip()).isdigit():
        held = [row.split() for row in _lines(group / "memory.stat")]
        freed = sum(int(row[1]) for row in held if row[0] == "inactive_file")  # pages of files, given up when needed
        found.append(max(0, int(text) - int(used.read_text()) + freed) / MIB)
    return min(found, default=None)


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.is_file() else []
