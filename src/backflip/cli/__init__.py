"""The command line: which command, its options, and how errors come out.

Commands are imported when they are called, so `backflip --help` and `backflip list` import neither torch nor tyro.
Ours and mistyped options are one line on standard error with exit code 2; any other error keeps its traceback,
because it is a fault of ours. Left out: the work itself; each command is a thin file that calls the library.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from backflip import __version__
from backflip.errors import BackflipError, ConfigError, DataError
from backflip.experiments import nearest

COMMANDS = {
    "list": ("listing", "show the experiments that can be run"),
    "run": ("run", "run an experiment:  backflip run reviews --ppo.clip 0.1"),
    "report": ("report", "write one offline page about a run, or comparing several"),
    "compare": ("compare", "let an overseer compare the policies of finished runs, head to head"),
    "sweep": (
        "sweep",
        "run an experiment under several settings and seeds:  backflip sweep reviews --seeds 3 --set kl.beta=0.02,0.05",
    ),
    "serve": ("serve", "serve the pages on which people judge, and the study's owner's"),
    "sample": ("sample", "talk to a trained policy; reward and KL stand beside each answer"),
    "export": ("exchange", "write preference pairs to JSONL or Parquet"),
    "import": ("exchange", "read preference pairs from JSONL or Parquet"),
    "doctor": ("doctor", "check the invariants that training rests on, on our parts or on your model"),
}
"""Name -> (module of this package whose `main(argv)` does it, one line of help)."""

HELP = """usage: backflip COMMAND [options]

Learn from expensive evaluations, and know how far to trust the result.

commands:
{commands}

  backflip COMMAND --help    the options of a command
  backflip --version         the version

Start here:  backflip run reviews && backflip report runs/latest"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code: 0 well, 1 a check failed, 2 something the user can mend, 130 stopped."""
    try:
        code = _dispatch(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        return code
    except SystemExit as stop:  # argparse has printed a help page
        return int(stop.code or 0)
    except BackflipError as error:
        kind = DataError if isinstance(error, DataError) else type(error)
        print(f"{kind.__name__}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of a pipe has gone (`backflip list | head`); leave nothing for the interpreter to flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(HELP.format(commands="\n".join(f"  {name:<8} {text}" for name, (_, text) in COMMANDS.items())))
        return 0
    if argv[0] in ("-V", "--version"):
        print(f"backflip {__version__}")
        return 0
    if argv[0] not in COMMANDS:
        hint = nearest(argv[0], COMMANDS) or f"expected one of {', '.join(COMMANDS)}"
        raise ConfigError(f'no command "{argv[0]}"; {hint}')
    return importlib.import_module(f"backflip.cli.{COMMANDS[argv[0]][0]}").main(argv)
