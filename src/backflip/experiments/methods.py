"""The methods that an experiment can be run with (`backflip run EXPERIMENT --method NAME`): one file in `loops` and one line here each.

A method's file is imported when it is chosen, so that naming them all costs nothing. Left out: the methods.
"""

from __future__ import annotations

import difflib
import functools
import importlib
from collections.abc import Callable
from dataclasses import field, fields, make_dataclass
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

from backflip.errors import ConfigError

if TYPE_CHECKING:
    from backflip.loops.parts import Method

METHODS = {
    "ppo": "backflip.loops.ppo",
    "reinforce": "backflip.loops.reinforce",
    "rloo": "backflip.loops.rloo",
    "grpo": "backflip.loops.grpo",
    "dpo": "backflip.loops.dpo",
    "feedme": "backflip.loops.feedme",
    "conditional": "backflip.loops.conditional",
    "sft": "backflip.loops.sft",
    "nash_md": "backflip.loops.nash_md",
    "best_of_n": "backflip.loops.best_of_n",
    "imitate": "backflip.loops.imitate",
}
"""Name -> the module whose `METHOD` it is."""
CALLED = {"ipo": "--method dpo --dpo.loss ipo"}
"""What people call a method and is a setting of another: how it is asked for."""


def load(name: str) -> Method:
    """Import a method.

    Raises:
        ConfigError: there is none of this name.
    """
    if name not in METHODS:
        if name in CALLED:
            raise ConfigError(f'there is no method "{name}", it is a setting of another: give {CALLED[name]}')
        close = difflib.get_close_matches(name, METHODS, n=1, cutoff=0.5)
        hint = f'; did you mean "{close[0]}"?' if close else ""
        raise ConfigError(f'there is no method "{name}"; expected one of {", ".join(METHODS)}{hint}')
    return importlib.import_module(METHODS[name]).METHOD


@functools.cache
def joined(own: type[Any], name: str) -> type[Any]:
    """Return the settings of an experiment run with this method: the method's, and the experiment's `own` beside them.

    Raises:
        ConfigError: there is no method of this name.
    """
    parts = (own, load(name).config)

    def check(self: object) -> None:
        for part in parts:
            after: Callable[[object], None] | None = getattr(part, "__post_init__", None)
            if after is not None:
                after(self)

    return make_dataclass(
        f"{own.__name__}_{name}",
        [("method", Literal[name], field(default=name))],  # pyright: ignore[reportInvalidTypeForm] the name is known now
        bases=parts,
        frozen=True,
        namespace={"__post_init__": check, "__doc__": f"Settings of {own.__name__} with the method {name}."},
    )


def carried(before: object, kind: type[Any]) -> Any:
    """Return settings of `kind` with what another method's config was told; what it left at its default is left at the new one's."""
    usual, theirs, ours = type(before)(), get_type_hints(type(before)), get_type_hints(kind)
    told = {
        name: getattr(before, name)
        for name in (spec.name for spec in fields(kind) if spec.name != "method")
        if ours[name] == theirs.get(name) and getattr(before, name) != getattr(usual, name)
    }
    return kind(**told)
