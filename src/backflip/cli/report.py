"""`backflip report RUN... | STORE`: write the page about one run, comparing several, or about a labeling study."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from backflip.cli.options import Options
from backflip.errors import ConfigError

ENDINGS = (".sqlite", ".sqlite3", ".db")
"""Of what must be meant as a store, though it is not there."""


def main(argv: Sequence[str]) -> int:
    """Write the page and say where it is."""
    parser = Options("report", "Write one offline HTML page about a run, comparing several, or about a labeling study.")
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="run folder, such as runs/latest; or a store in which people judged: a SQLite file or postgresql:// URL",
    )
    parser.add_argument("--study", action="store_true", help="about the people who judged for this run, not the run")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the page (default: report.html in the run)")
    found = parser.read(argv[1:])
    stores = [one for one in found.runs if found.study or _is_store(one)]
    if not stores:
        from backflip.report import write_report

        print(f"wrote {write_report([Path(one) for one in found.runs], found.out)}")
        return 0
    if len(found.runs) > 1:
        raise ConfigError(f"{stores[0]} is a labeling study, of which a page has one; give it alone")
    from backflip.cli.exchange import store_of
    from backflip.report.study import write_study_report

    print(f"wrote {write_study_report(store_of(stores[0], must_exist=True), found.out)}")
    return 0


def _is_store(name: str) -> bool:
    path = Path(name)
    return "://" in name or path.is_file() or (path.suffix in ENDINGS and not path.is_dir())
