"""`backflip report RUN...`: write the page about one run, or comparing several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from backflip.cli.options import Options


def main(argv: Sequence[str]) -> int:
    """Write the page and say where it is."""
    parser = Options("report", "Write one offline HTML page about a run, or comparing several.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder, such as runs/latest")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the page (default: report.html in the run)")
    found = parser.read(argv[1:])
    from backflip.report import write_report

    print(f"wrote {write_report(found.runs, found.out)}")
    return 0
