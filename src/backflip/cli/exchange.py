"""`backflip export` and `backflip import`: preference pairs between a store and JSONL or Parquet files.

Left out: the formats (`backflip.store.interchange`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from backflip.cli.options import Options
from backflip.errors import ConfigError


def main(argv: Sequence[str]) -> int:
    """Write every judged pair of a store to a file, or read pairs from a file into a store."""
    out = argv[0] == "export"
    parser = Options(argv[0], "Write preference pairs to a file." if out else "Read preference pairs; all or nothing.")
    parser.add_argument("store", metavar="RUN", help="run folder, SQLite file, or postgresql:// URL")
    parser.add_argument("file", type=Path, metavar="FILE", help="ends in .jsonl or .parquet, which chooses the format")
    if not out:
        known = "the file holds known answers, for trials, checks and practice: see docs/labeling.md"
        kind = parser.add_mutually_exclusive_group()
        kind.add_argument("--known", action="store_true", help=known)
        ask = "the file holds pairs that nobody judged yet, to ask people about: see docs/labeling.md"
        kind.add_argument("--ask", action="store_true", help=ask)
    found = parser.read(argv[1:])
    from backflip.store import Store
    from backflip.store.asked_lines import import_asked
    from backflip.store.interchange import export_pairs, import_pairs, undecided_file
    from backflip.store.known_lines import import_known
    from backflip.store.pair_files import check_file

    where = store_of(found.store, must_exist=out)
    if not out:
        check_file(found.file)
    with Store.open(where, mode="read" if out else "write") as store:
        if not out and (found.known or found.ask):
            print(f"read {(import_known if found.known else import_asked)(store, found.file)} into {where}")
            return 0
        done = export_pairs(store, found.file) if out else import_pairs(store, found.file)
    if out:
        apart = f"; ties and what could not be judged are in {undecided_file(found.file)}"
        print(f"wrote {done} to {found.file}{apart if done.ties or done.could_not_judge else ''}")
    else:
        print(f"read {done} into {where}; {done.new:,} are new")
    return 0


def store_of(name: str, *, must_exist: bool) -> str | Path:
    """Return the store that a run folder, a file name or a database URL means.

    Raises:
        DataError: a folder is given that is no run.
        ConfigError: the store must exist and does not.
    """
    if "://" in name:
        return name
    path = Path(name)
    if path.is_dir():
        from backflip.run import read_run

        record = read_run(path)
        if server := record.command.get("store"):
            return str(server)
        path = record.path / "store.sqlite"
    if must_exist and not path.is_file():
        raise ConfigError(
            f"no store at {path}; expected a run folder, a SQLite file or a postgresql:// URL; "
            f"`backflip import {path.name} pairs.jsonl --ask` makes one of pairs that people shall judge"
        )
    return path
