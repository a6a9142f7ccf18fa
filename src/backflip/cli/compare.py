"""`backflip compare RUN RUN ...`: who beats whom, by a judge of your choice; a table, and a page.

A comparison is a run: its questions and answers are kept in its folder. Left out: the work (`experiments.compare`).
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backflip.cli.options import Options
from backflip.cli.run import carry_out
from backflip.errors import ConfigError
from backflip.experiments import find

if TYPE_CHECKING:
    from backflip.run import Run

NAME = "compare"


def main(argv: Sequence[str]) -> int:
    """Compare, or go on with a comparison; print the table or JSON, and write the page."""
    found = _options().read(argv[1:])
    spec = find(NAME)
    run = _resumed(found) if found.resume is not None else _begun(found, spec.config)
    from backflip.progress import Progress

    run.progress = Progress(quiet=found.quiet or found.json)
    config = run.config_as(spec.config)
    with redirect_stdout(sys.stderr):
        code = carry_out(spec, config, run, quiet=found.quiet or found.json)
    if code:
        return code
    from backflip.report import write_report
    from backflip.run_record import read_run

    page = write_report([run.path], found.out)
    result = read_run(run.path).results["head_to_head"]
    if found.json:
        print(json.dumps(result, indent=2, ensure_ascii=False))
        return 0
    print_result(result)
    print(f"wrote {page}")
    return 0


def _options() -> Options:
    parser = Options("compare", "Let an overseer compare the policies of finished runs, head to head.")
    parser.add_argument("of", nargs="*", type=Path, metavar="RUN", help="folders of finished runs of one experiment")
    parser.add_argument(
        "--overseer", default="", metavar="WHO", help="synthetic (the gold judge), people, terminal, or FILE.py:FUNCTION; not for control runs"
    )  # fmt: skip
    parser.add_argument("--question", default="", metavar="TEXT", help="what is asked (default: what the runs asked)")
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="all answer these anew (default: held-out ones)")
    parser.add_argument(
        "--limit", type=int, default=0, metavar="N", help="prompts at most, drawn by lot (default: all)"
    )
    parser.add_argument("--orders", choices=("half", "both"), default="half", help="see docs/comparing.md")
    parser.add_argument("--base", action="store_true", help="the policy that the first run began with takes part")
    parser.add_argument("--seed", type=int, default=0, metavar="INT", help="of orders and of what is drawn")
    parser.add_argument("--json", action="store_true", help="print the result as JSON instead of a table")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the page (default: report.html in its folder)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where it goes (default: runs)")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="its folder (default: a new one under --runs)")
    parser.add_argument("--resume", type=Path, metavar="RUN", help="go on with a stopped comparison")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    return parser


def _begun(found: Namespace, kind: type[Any]) -> Run:
    """Check what is compared, and begin; a folder is made only for what can be compared."""
    from backflip.experiments.compare_parts import contestants, unread
    from backflip.run import Run

    compared = contestants(found.of, base=found.base)
    for said in unread(compared):
        print(f"warning: {said}", file=sys.stderr)
    paths = tuple(one.record.path for one in compared if one.series != "base")
    config = kind(
        of=paths,
        overseer=_absolute(found.overseer),
        question=found.question,
        prompts=None if found.prompts is None else found.prompts.absolute(),
        limit=found.limit,
        orders=found.orders,
        base=found.base,
        seed=found.seed,
    )
    return Run.create(NAME, config, root=found.runs, seed=found.seed, folder=found.folder)


def _resumed(found: Namespace) -> Run:
    from backflip.run import Run, read_run

    if found.of or found.overseer:
        raise ConfigError("a resumed comparison keeps the settings it has; leave out all but --resume")
    record = read_run(found.resume)
    if record.experiment != NAME:
        raise ConfigError(
            f"{found.resume} is a run of {record.experiment}, no comparison; go on with it by: backflip run --resume"
        )
    return Run.resume(found.resume)


def _absolute(overseer: str) -> str:
    """Return FILE.py:FUNCTION with its whole path, so that the comparison can be gone on with from elsewhere."""
    file, colon, name = overseer.rpartition(":")
    return f"{Path(file).absolute()}:{name}" if colon else overseer


def print_result(result: dict[str, Any]) -> None:
    """Print policies, duels and what to think of them."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from backflip.report.head_to_head import duel_columns, duel_rows, findings, headline, policy_rows

    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 160, highlight=False)
    columns, policies = policy_rows(result)
    parts = [("policies", columns, policies), ("duels", duel_columns(result), duel_rows(result))]
    if result["arm_duels"]:
        parts.append(("over seeds", duel_columns(result, arms=True), duel_rows(result, arms=True)))
    for title, names, rows in parts:
        table = Table(*names, title=title)
        for row in rows:
            table.add_row(*(Text(" ".join(text.split("\n"))) for text in row.texts()))
        console.print(table)
    console.print(Text(headline(result)))
    for one in findings(result):
        console.print(Text(f"{one.title}: {one.text}"))
