"""`backflip list`: the experiments, from their source, importing none of them."""

from __future__ import annotations

from collections.abc import Sequence

from backflip.cli.options import Options
from backflip.experiments import listing


def main(argv: Sequence[str]) -> int:
    """Print name and first line of every experiment."""
    Options("list", "Show the experiments that can be run.").read(argv[1:])
    found = listing()
    width = max(map(len, found), default=0)
    for name, summary in found.items():
        print(f"{name:<{width}}  {summary}")
    return 0
