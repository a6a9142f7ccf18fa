"""Experiments: decorated functions `(config, run)`, one a file, found by their decorator.

Listing reads the source with `ast` and imports nothing, so `backflip list` is quick and works where torch does not.
A file without the decorator (a config shared by two experiments, say) is no experiment. Left out: parsing options
and making the run folder (`backflip.cli`).
"""

from __future__ import annotations

import ast
import difflib
import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from backflip.errors import ConfigError
from backflip.experiments.methods import METHODS, joined

if TYPE_CHECKING:
    from backflip.plan import Plan
    from backflip.run import Run

DECORATOR = "experiment"
RESERVED = ("resume", "plan", "runs", "folder", "store", "quiet", "trackers", "help")
"""Options of `backflip run` itself, which no setting may be called."""
METHOD = "method"
"""The setting that says with which method an experiment is run, where it can be run with several; an option of `backflip run` too."""


@dataclass(frozen=True)
class Experiment:
    """A function that does the work of a run, with the type of its settings; called as the function was."""

    name: str
    """The name of its file."""
    config: type[Any]
    """Frozen dataclass with a field `seed`; every field has a default and its help as a string under it."""
    function: Callable[[Any, Run], None]
    plan: Callable[[Any], Plan] | None
    """What the run will need, from the config alone; None where nobody can say."""
    own: type[Any] | None = None
    """Settings that are there with any method, for an experiment that can be run with each of `experiments.methods`."""

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods it can be run with; empty where it has but its own."""
        return () if self.own is None else tuple(METHODS)

    def config_of(self, method: str | None) -> type[Any]:
        """Return the type of its settings with this method, or without one being named.

        Raises:
            ConfigError: it cannot be run with that.
        """
        if self.own is None and method is not None:
            raise ConfigError(f'"{self.name}" has one method, its own; leave --method out')
        if self.own is None or method in (None, getattr(self.config(), METHOD)):
            return self.config
        return joined(self.own, method)

    def __call__(self, config: Any, run: Run) -> None:
        """Do the work."""
        self.function(config, run)


def experiment(
    config: type[Any], plan: Callable[[Any], Plan] | None = None, own: type[Any] | None = None
) -> Callable[[Callable[[Any, Run], None]], Experiment]:
    """Make a function `(config, run)` an experiment that `backflip run` finds by its file's name.

    `own`: the part of the config that is no method's, for an experiment that can be run with other methods than `config` is for.

    Raises:
        TypeError: the config is not a frozen dataclass with an int field `seed` and a default for everything.
    """
    settings = getattr(config, "__dataclass_params__", None)
    if not is_dataclass(config) or settings is None or not settings.frozen:
        raise TypeError(f"{config.__name__} must be a frozen dataclass to be the config of an experiment")
    if get_type_hints(config).get("seed") is not int:
        raise TypeError(f"{config.__name__} needs a field `seed: int`: a run without a seed cannot be repeated")
    reserved = {*RESERVED, *((METHOD,) if own is None else ())}
    if taken := sorted({spec.name for spec in fields(config)} & reserved):
        raise TypeError(f"{config.__name__}.{taken[0]} would hide the option --{taken[0]} of `backflip run`; rename it")
    try:
        config()
    except TypeError as error:
        raise TypeError(f"every field of {config.__name__} needs a default: {error}") from error

    def decorate(function: Callable[[Any, Run], None]) -> Experiment:
        return Experiment(function.__module__.rpartition(".")[2], config, function, plan, own)

    return decorate


def listing(folder: Path | None = None) -> dict[str, str]:
    """Return the name of every experiment and the first line of its docstring, sorted, without importing any.

    Raises:
        ConfigError: a file holds two experiments, or one without a docstring.
    """
    found: dict[str, str] = {}
    for path in sorted((folder or Path(__file__).parent).glob("*.py")):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        marked = [node for node in body if isinstance(node, ast.FunctionDef) and _is_experiment(node)]
        if not marked:
            continue
        summary = ast.get_docstring(marked[0])
        if len(marked) > 1 or not summary:
            raise ConfigError(f"{path.name} must hold one experiment with a docstring; found {len(marked)}")
        found[path.stem] = summary.splitlines()[0]
    return found


def find(name: str) -> Experiment:
    """Import the experiment of this name.

    Raises:
        ConfigError: there is none; the message names the nearest one.
    """
    known = listing()
    if name not in known:
        raise ConfigError(f'no experiment "{name}"; {nearest(name, known) or "run `backflip list` to see them all"}')
    module = importlib.import_module(f"{__name__}.{name}")
    return next(value for value in vars(module).values() if isinstance(value, Experiment) and value.name == name)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `did you mean "..."?` with the nearest of the known names, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f'did you mean "{close[0]}"?' if close else ""


def _is_experiment(node: ast.FunctionDef) -> bool:
    calls = (mark.func if isinstance(mark, ast.Call) else mark for mark in node.decorator_list)
    return any(isinstance(call, ast.Name) and call.id == DECORATOR for call in calls)
