"""Settings of an experiment: from dotted options to a frozen dataclass.

tyro does the parsing and writes the help from the strings under the fields; names are checked here first, because
a mistyped one must end in one line with the nearest name. Left out: options of `backflip run` itself (`run`), and how
a config is kept in a run folder (`backflip.run_config`).
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, get_args, get_type_hints

from backflip.errors import ConfigError
from backflip.experiments import nearest
from backflip.run_config import check_numbers

SIDES, RULES = "│| ", "╭╮╰╯─+- "
C = TypeVar("C")


def parse(config: type[C], args: Sequence[str], prog: str, others: Iterable[str] = (), before: C | None = None) -> C:
    """Return the config with these overrides of `before` (None: of the defaults); `others` are further option names to suggest from.

    Raises:
        ConfigError: an option names no field, its value does not fit, or is no number.
    """
    import tyro

    _check_names(config, args, [name.lstrip("-") for name in others])
    complaint = io.StringIO()
    try:
        with redirect_stderr(complaint), redirect_stdout(complaint):
            found = tyro.cli(
                config, args=list(args), prog=prog, use_underscores=True, config=_markers(), **_default(before)
            )
    except SystemExit as stop:
        raise ConfigError(f"{_first_part(complaint.getvalue())}; see `{prog} --help`") from stop
    check_numbers(found)
    return found


def print_help(config: type[Any], prog: str) -> None:
    """Print every setting with its default and help."""
    import tyro

    try:
        tyro.cli(config, args=["--help"], prog=prog, use_underscores=True, config=_markers())
    except SystemExit:
        return


def _default(before: object) -> dict[str, Any]:
    return {} if before is None else {"default": before}


def _markers() -> tuple[Any, ...]:
    """Let the settings of a chosen type (`kl:fixed_kl --kl.beta 0.1`) stand anywhere on the line."""
    import tyro

    return (tyro.conf.CascadeSubcommandArgs,)


def option_names(config: type[Any], prefix: str = "") -> set[str]:
    """Return every dotted field name of a config; where a field is a union of types, the fields of each."""
    found: set[str] = set()
    hints = get_type_hints(config)
    for spec in fields(config):
        parts = [part for part in (hints[spec.name], *get_args(hints[spec.name])) if is_dataclass(part)]
        found |= {prefix + spec.name} if not parts else set()
        for part in parts:
            found |= option_names(part, f"{prefix}{spec.name}.")  # pyright: ignore[reportArgumentType] a type, not an instance
    return found


def _check_names(config: type[Any], args: Sequence[str], others: Sequence[str]) -> None:
    known = option_names(config)
    for arg in args:
        if not arg.startswith("--") or arg == "--":
            continue
        name = arg[2:].partition("=")[0].replace("-", "_")
        group, dot, last = name.rpartition(".")
        if name in known or group + dot + last.removeprefix("no_") in known:
            continue
        inside = sorted(option for option in known if option.startswith(name + "."))
        if inside:
            raise ConfigError(
                f'"{name}" of {config.__name__} is a group of settings; give one of them, such as "{inside[0]}"'
            )
        hint = nearest(name, [*sorted(known), *others]) or "see --help for all of them"
        raise ConfigError(f'no field "{name}" in {config.__name__}; {hint}')


def _first_part(box: str) -> str:
    """Return what a framed message says between its title and its first rule, in one line."""
    said: list[str] = []
    for line in box.splitlines()[1:]:
        text = line.strip(SIDES)
        if said and not text.strip(RULES):
            break
        said += [text] if text.strip(RULES) else []
    return " ".join(said).rstrip(".")
