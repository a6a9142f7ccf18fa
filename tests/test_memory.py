"""Freed memory is given back where the system can."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from backflip.memory import give_back


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says here what is resident")
def test_freed_blocks_between_kept_ones_go_back() -> None:
    kept: list[bytearray] = []
    freed: list[bytearray] = []
    for _ in range(4000):  # blocks too small to be mapped on their own, freed between others that stay
        freed.append(bytearray(32 * 1024))
        kept.append(bytearray(64))
    full = resident_mib()
    freed.clear()
    give_back()
    assert resident_mib() < full - 60, "125 MiB were freed"
    assert len(kept) == 4000
