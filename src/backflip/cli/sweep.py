"""`backflip sweep EXPERIMENT`: every combination of some settings over the same seeds, side by side, summed up over seeds.

Every setting is tried on the experiment's own options before anything runs. The same command again goes on with what is left.
Left out: the work (`experiments.sweep`).
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backflip.cli.options import Options
from backflip.cli.run import carry_out
from backflip.errors import ConfigError
from backflip.experiments import METHOD, find, listing

if TYPE_CHECKING:
    from backflip.experiments.sweep import SweepConfig
    from backflip.plan import Plan

SWEEP = "sweep"


def main(argv: Sequence[str]) -> int:
    """Do or go on with a sweep, or print its plan."""
    parser = _options()
    found = parser.read(argv[1:])
    if found.resume is not None:
        if found.experiment or found.set or found.seeds is not None:
            raise ConfigError("a resumed sweep keeps the settings it has; leave out all but --resume")
        from backflip.cli.run import main as run

        try:
            return run(["run", "--resume", str(found.resume), *(["--quiet"] if found.quiet else [])])
        finally:
            print_summary(found.resume)
    if not found.experiment:
        raise ConfigError(f"backflip sweep needs the name of an experiment: {', '.join(listing())}")
    if found.seeds is None:
        raise ConfigError("say how many seeds: --seeds 3; one seed alone says nothing of the spread (`backflip run`)")
    config, plans = prepared(found)
    if found.plan:
        return _print_plan(config, plans)
    from backflip.progress import Progress
    from backflip.run import Run

    spec = find(SWEEP)
    if found.folder is not None and (found.folder / "config.json").is_file():
        run = _same_sweep(found.folder, config)
    else:
        run = Run.create(SWEEP, config, root=found.runs, seed=config.seed, folder=found.folder)
    run.progress = Progress(quiet=found.quiet)
    try:
        return carry_out(spec, run.config_as(spec.config), run, quiet=found.quiet)
    finally:
        print_summary(run.path)


def _options() -> Options:
    parser = Options("sweep", "Run an experiment under every combination of some settings, each over the same seeds.")
    parser.add_argument("experiment", nargs="?", metavar="EXPERIMENT", help="what to run, such as reviews")
    parser.add_argument("--seeds", type=int, metavar="N", help="seeds of each arm; all arms have the same ones")
    parser.add_argument("--seed", type=int, default=0, metavar="INT", help="the first of them (default: 0)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE,...", help="values of a setting, as kl.beta=0.02,0.05; may be given again"
    )  # fmt: skip
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="runs at once (default: one a processor)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where it goes (default: runs)")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="its folder; the same sweep in it is gone on with")
    parser.add_argument("--resume", type=Path, metavar="RUN", help="go on with a stopped sweep")
    parser.add_argument("--plan", action="store_true", help="say what it will need and stop")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    return parser


def prepared(found: Namespace) -> tuple[SweepConfig, dict[str, Plan]]:
    """Return the sweep that a command line means, and the plan of one run of each arm, where the experiment has plans.

    Raises:
        ConfigError: a setting does not exist, a value does not fit it, or the two do not go together; nothing has run then.
    """
    from dataclasses import replace

    from backflip.cli.config import parse
    from backflip.experiments.arms import processors
    from backflip.experiments.sweep import SweepConfig, arms_of

    spec = find(found.experiment)
    config = SweepConfig(
        of=found.experiment, settings=tuple(found.set), seeds=found.seeds, seed=found.seed, workers=found.workers
    )  # fmt: skip
    arms = arms_of(config)
    settings: dict[str, Any] = {
        arm.name: parse(
            spec.config_of(arm.options.get(METHOD)),
            ["--seed", str(config.seed), *arm.words()],
            f"backflip run {found.experiment}",
        )
        for arm in arms
    }
    at_once = min(len(processors(config.workers)), len(arms) * config.seeds)
    plans: dict[str, Plan] = {}
    if spec.plan is not None and (found.plan or at_once > 1):
        plans = {name: spec.plan(one) for name, one in settings.items()}
        config = replace(config, memory_mib=max(round(sum(one.memory_mib.values())) for one in plans.values()))
    return config, plans


def _print_plan(config: SweepConfig, plans: dict[str, Plan]) -> int:
    from backflip.experiments.arms_plan import added_up
    from backflip.experiments.sweep import shares_of

    if not plans:
        raise ConfigError(f'"{config.of}" has no plan: nobody has written down what it needs')
    print("\n".join(added_up(plans, config, len(shares_of(config))).lines()))
    return 0


def _same_sweep(folder: Path, config: SweepConfig) -> Any:
    """Go on with the sweep in a folder.

    Raises:
        ConfigError: it holds another run, another sweep, or a finished one.
    """
    from backflip.run import Run, read_run
    from backflip.run_config import TYPE, config_to_json

    record = read_run(folder)
    if record.experiment != SWEEP:
        raise ConfigError(f"{folder} holds a run of {record.experiment}; give the name of a new or empty folder")
    mine = {name: value for name, value in config_to_json(config).items() if name not in (TYPE, "memory_mib")}
    other = [name for name, value in mine.items() if record.config.get(name) != value and name != "workers"]
    if other:
        raise ConfigError(
            f"{folder} holds another sweep: its {other[0]} is {_words(record.config.get(other[0]))}, not {_words(mine[other[0]])}; give "
            f"another --folder, or go on with that one: backflip sweep --resume {folder}"
        )
    return Run.resume(folder)


def _words(value: Any) -> str:
    return " ".join(map(str, value)) or "nothing" if isinstance(value, list) else str(value)


def print_summary(folder: Path) -> None:
    """Print the table over seeds, as far as there is one."""
    import sys

    from rich.console import Console
    from rich.table import Table

    from backflip.report.sweep import COLUMNS, how_told, rows_of
    from backflip.run_record import read_run

    result = read_run(folder).results.get("arms") if (folder / "config.json").is_file() else None
    if result is None:
        return
    table = Table(
        *COLUMNS,
        title=f"over seeds {', '.join(map(str, result['seeds']))} (95 % intervals)",
        caption=how_told(result),
        caption_justify="left",
    )
    for measure, rows in rows_of(result).items():
        for place, row in enumerate(rows):
            table.add_row(measure if place == 0 else "", *row, end_section=place == len(rows) - 1)
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else 160).print(table)
