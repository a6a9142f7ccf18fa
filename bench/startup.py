"""Start-up time of the command line: `backflip --help` and `backflip list`, beside TRL's `trl --help`.

    python bench/startup.py [--repeats 15]

Fresh processes, one at a time; the median counts, because the first reads files from the disk. The peer is measured
where its environment exists (`make bench` makes it). Left out: commands that compute, whose start is that of torch.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from common import ROOT, machine, record, spread

BACKFLIP = Path(sys.executable).with_name("backflip")
PEER = ROOT / ".venv-trl112" / "bin" / "trl"


def seconds_to_run(command: list[str], repeats: int) -> list[float]:
    """Run a command in fresh processes; return how long each took. Raises CalledProcessError where it fails."""
    found: list[float] = []
    for _ in range(repeats):
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        found.append(time.perf_counter() - began)
    return found


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description="Start-up time of the command line.")
    parser.add_argument("--repeats", type=int, default=15, help="processes of each kind")
    args = parser.parse_args()
    ours = seconds_to_run([str(BACKFLIP), "--help"], args.repeats)
    listing = seconds_to_run([str(BACKFLIP), "list"], args.repeats)
    empty = seconds_to_run([sys.executable, "-c", "pass"], args.repeats)
    peer = seconds_to_run([str(PEER), "--help"], max(3, args.repeats // 5)) if PEER.exists() else None
    record(
        "startup",
        statistics.median(ours),
        None if peer is None else statistics.median(peer),
        "seconds to `--help`",
        {
            "help_seconds": spread(ours),
            "list_seconds": spread(listing),
            "python_alone_seconds": spread(empty),
            "peer": "trl --help, TRL 1.12" if peer else "not measured: no .venv-trl112 here",
            "peer_seconds": None if peer is None else spread(peer),
            "aim_seconds": 0.3,
        },
        on=machine(),
        lower=True,
    )


if __name__ == "__main__":
    main()
