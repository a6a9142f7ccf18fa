"""`backflip run NAME`: from a command line to a finished run folder.

The experiment does the work; this file settles what surrounds it: settings, the folder, resuming, and an end that is
always recorded as done, stopped or failed. Left out: every setting of the work itself (`config`).
"""

from __future__ import annotations

import signal
import sys
from argparse import Namespace
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backflip.cli.options import Options
from backflip.cli.quiet import without_foreign_bars
from backflip.errors import ConfigError, FunctionFailed
from backflip.experiments import METHOD, Experiment, find, listing
from backflip.experiments.methods import carried

if TYPE_CHECKING:
    from backflip.run import Run


def main(argv: Sequence[str]) -> int:
    """Run or resume an experiment, or print its plan."""
    args = list(argv[1:])
    name = args.pop(0) if args and not args[0].startswith("-") else None
    parser = _options(name or "NAME")
    own, overrides = parser.parse_known_args(args)
    if own.store is not None and not own.store.startswith(("postgresql://", "postgres://", "postgresql+")):
        raise ConfigError("--store takes a postgresql:// address; leave it out, and the run keeps a store of its own")
    wants_help = "-h" in overrides or "--help" in overrides
    if own.resume is not None and not wants_help:
        return _resume(name, own, overrides)
    if own.without and own.again is None:
        raise ConfigError(
            "--without leaves judgements of an earlier run out; say of which: --again RUN --without PERSON"
        )
    if own.again is not None and not wants_help:
        return _again(name, own, overrides, parser)
    if name is None:
        return _help(parser) if wants_help else _no_name()
    spec = find(name)
    from backflip.cli.config import parse, print_help

    kind = spec.config_of(own.method)
    if wants_help:
        _help(parser)
        if spec.methods:
            print(f"methods of {name} (--method NAME, with --help for its settings): {', '.join(spec.methods)}\n")
        print_help(kind, parser.prog)
        return 0
    config = parse(kind, overrides, parser.prog, parser.names())
    if own.plan:
        return _plan(spec, config)
    from backflip.progress import Progress
    from backflip.run import Run

    run = Run.create(
        name, config, root=own.runs, seed=config.seed, trackers=own.trackers, folder=own.folder, store=own.store
    )
    run.progress = Progress(quiet=own.quiet)
    return carry_out(spec, config, run, quiet=own.quiet)


def _options(name: str) -> Options:
    parser = Options(f"run {name}", "Run an experiment; its settings are options too.", add_help=False)
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), metavar="DIR", help="where run folders go (default: runs)"
    )
    parser.add_argument(
        "--folder", type=_named, metavar="DIR", help="this run's folder (default: a new one under --runs)"
    )
    parser.add_argument("--resume", type=Path, metavar="RUN", help="go on with a stopped run, with the settings it has")
    parser.add_argument(
        "--again",
        type=Path,
        metavar="RUN",
        help="train anew on what a finished run asked and heard; its settings are kept where no others are given",
    )
    parser.add_argument(
        "--without",
        action="append",
        default=[],
        metavar="PERSON",
        help="with --again: leave out what this person (or other judge) said; may be given several times",
    )
    parser.add_argument(
        "--method", metavar="NAME", help="how judgements are used, for an experiment that has several methods"
    )
    parser.add_argument("--plan", action="store_true", help="say what it will need (memory, time, judgements) and stop")
    parser.add_argument(
        "--store", metavar="URL", help="postgresql:// address of the store (default: SQLite in the run folder)"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.add_argument("--trackers", metavar="NAME", help="also log to tensorboard, wandb, trackio, ... or all")
    return parser


def _named(text: str) -> Path:
    """Return the folder that a text names; none would be the present one."""
    if not text:
        raise ConfigError("--folder is empty; give the name of a new or empty folder, or leave it out")
    return Path(text)


def _help(parser: Options) -> int:
    parser.print_help()
    print(f"\nexperiments: {', '.join(listing())}\n")
    return 0


def _no_name() -> int:
    raise ConfigError(f"backflip run needs the name of an experiment: {', '.join(listing())}")


def _resume(name: str | None, own: Namespace, overrides: Sequence[str]) -> int:
    """Go on with a run. Its settings are part of it, so none may be given again."""
    of_a_new_run = ("folder", "again", "without", "trackers", "plan", "method")
    given = [*overrides, *(f"--{option}" for option in of_a_new_run if getattr(own, option))]
    if given:
        raise ConfigError(f"a resumed run keeps the settings it has; leave out {given[0]}, or start a new run")
    from backflip.progress import Progress
    from backflip.run import Run, read_run
    from backflip.run_config import config_from_json

    record = read_run(own.resume)
    if name not in (None, record.experiment):
        raise ConfigError(f'{own.resume} is a run of "{record.experiment}", not of "{name}"; leave the name out')
    spec = find(record.experiment)
    config = config_from_json(spec.config_of(record.config.get(METHOD)), record.config)
    run = Run.resume(own.resume, store=own.store)
    run.progress = Progress(quiet=own.quiet)
    return carry_out(spec, config, run, quiet=own.quiet)


def _again(name: str | None, own: Namespace, overrides: Sequence[str], parser: Options) -> int:
    """Train anew on the judgements of an earlier run, or on some of them."""
    from backflip.cli.config import parse
    from backflip.progress import Progress
    from backflip.run import Run
    from backflip.run_again import begin, prepare
    from backflip.run_config import config_from_json

    record, again = prepare(own.again, own.without)
    if name not in (None, record.experiment):
        raise ConfigError(f'{own.again} is a run of "{record.experiment}", not of "{name}"; leave the name out')
    spec = find(record.experiment)
    before = config_from_json(spec.config_of(record.config.get(METHOD)), record.config)
    kind = spec.config_of(own.method or record.config.get(METHOD))
    config = parse(
        kind, overrides, parser.prog, parser.names(), before if isinstance(before, kind) else carried(before, kind)
    )
    if own.plan:
        return _plan(spec, config)
    run = Run.create(
        spec.name, config, root=own.runs, seed=config.seed, trackers=own.trackers, folder=own.folder, store=own.store
    )
    run.progress = Progress(quiet=own.quiet)
    return carry_out(spec, config, run, quiet=own.quiet, begin=lambda: begin(run, record, again))


def _plan(spec: Experiment, config: Any) -> int:
    if spec.plan is None:
        raise ConfigError(
            f'"{spec.name}" has no plan: nobody has written down what it needs; run it with small settings first'
        )
    print("\n".join(spec.plan(config).lines()))
    return 0


def carry_out(spec: Experiment, config: Any, run: Run, *, quiet: bool, begin: Callable[[], None] | None = None) -> int:
    """Do the work, after what must be there before it; the run records how it ended, and can be resumed whatever happened."""
    if quiet:
        from backflip.progress import Progress

        run.progress = Progress(quiet=True)
    without_foreign_bars()
    try:
        with _terminated_like_interrupted(), run:
            if begin is not None:
                begin()
            spec(config, run)
    except KeyboardInterrupt:
        print(f"stopped; go on with: backflip run --resume {run.path}", file=sys.stderr)
        return 130
    except FunctionFailed as error:
        raise FunctionFailed(f"{error}; mend it and go on with: backflip run --resume {run.path}") from error
    print(f"done: {run.path}; see it with: backflip report {run.path}")
    return 0


@contextmanager
def _terminated_like_interrupted() -> Generator[None]:
    """Let SIGTERM, by which clusters end a job, stop a run as cleanly as Ctrl-C does."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
