"""Functions that a user brings in a Python file: a reward `(prompt, answer) -> number`, a judge `(prompt, a, b) -> probability`.

Left out: what is made of them (`rewards.combine`, `overseers.function`).
"""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from backflip.errors import ConfigError
from backflip.protocols import RewardModel
from backflip.rewards.combine import FunctionReward
from backflip.worlds.text import TextWorld


def components_of(texts: Sequence[str], world: TextWorld) -> dict[str, tuple[float, RewardModel]]:
    """Read every component.

    Raises:
        ConfigError: one is written otherwise than `component` reads it, or a name is taken.
    """
    found: dict[str, tuple[float, RewardModel]] = {}
    for text in texts:
        name, part = component(text, world)
        if name in found or name == "learned":
            raise ConfigError(f'two rewards are called "{name}" ("learned" is the learned one); give each its own name')
        found[name] = part
    return found


def component(text: str, world: TextWorld) -> tuple[str, tuple[float, RewardModel]]:
    """Read NAME=WEIGHT*FILE.py:FUNCTION.

    Raises:
        ConfigError: it is written otherwise.
    """
    name, _, rest = text.partition("=")
    weight, star, where = rest.partition("*")
    try:
        number = float(weight)
    except ValueError:
        number = float("nan")
    if not name.isidentifier() or not star or not np.isfinite(number):
        raise ConfigError(
            f'cannot read the reward "{text}"; expected NAME=WEIGHT*FILE.py:FUNCTION, e.g. short=0.5*mine.py:short'
        )
    return name, (number, FunctionReward(function_of(where, f"the reward {name}"), world, name))


def higher(score: Callable[[str, str], float | None]) -> Callable[[str, str, str], float]:
    """Return the judge that prefers the answer with the higher score; equal ones are a tie.

    The judge raises ValueError where a score is no finite number: nothing is a 0 that is none.
    """

    def judge(prompt: str, a: str, b: str) -> float:
        found = [score(prompt, text) for text in (a, b)]
        for text, one in zip((a, b), found, strict=True):
            if not isinstance(one, Real) or not math.isfinite(one):
                raise ValueError(f"the reward gave {one!r} for {text[:80]!r}, expected a finite number")
        return float(np.sign(float(found[0] or 0) - float(found[1] or 0)) + 1) / 2

    return judge


def function_of(text: str, what: str, others: str = "") -> Callable[..., Any]:
    """Load FILE.py:FUNCTION; `others` says what else might have stood there.

    Raises:
        ConfigError: there is no such file or function, or the file does not run.
    """
    file, colon, name = text.rpartition(":")
    path = Path(file)
    if not colon or path.suffix != ".py" or not path.is_file():
        raise ConfigError(f'{what} is "{text}"; expected {others}FILE.py:FUNCTION with a file that exists')
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} cannot be loaded as Python; expected a .py file")
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{path} failed while it was loaded ({type(error).__name__}: {error}); mend it") from error
    found = getattr(module, name, None)
    if not callable(found):
        defined: Mapping[str, Any] = {
            key: value for key, value in vars(module).items() if callable(value) and not key.startswith("_")
        }
        raise ConfigError(f'{path} has no function "{name}"; it has {", ".join(defined) or "none"}')
    return found
