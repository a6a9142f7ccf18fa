"""Options of a command: a parser whose complaints are ours, in one line, with the nearest name suggested.

Left out: settings of experiments, which come from typed dataclasses (`config`).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NoReturn

from backflip.errors import ConfigError
from backflip.experiments import nearest


class Options(argparse.ArgumentParser):
    """An argument parser that raises ConfigError where argparse would print its usage, and never guesses from a prefix."""

    def __init__(self, prog: str, description: str, *, add_help: bool = True) -> None:
        super().__init__(prog=f"backflip {prog}", description=description, allow_abbrev=False, add_help=add_help)

    def error(self, message: str) -> NoReturn:
        """Raise what argparse has to say."""
        raise ConfigError(f"{self.prog}: {message}; see `{self.prog} --help`")

    def names(self) -> list[str]:
        """Return the option strings that this parser knows, such as `--out`."""
        return [name for action in self._actions for name in action.option_strings]

    def read(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse everything.

        Raises:
            ConfigError: an option is unknown (the nearest is suggested), lacks its value, or has one it cannot take.
        """
        found, rest = self.parse_known_args(argv)
        if rest:
            hint = nearest(rest[0].partition("=")[0], self.names()) or f"see `{self.prog} --help`"
            raise ConfigError(f'{self.prog} does not know "{rest[0]}"; {hint}')
        return found
