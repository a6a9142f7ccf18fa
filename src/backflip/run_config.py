"""Write a config of frozen dataclasses as JSON and read it back, so that a resumed run has the settings it began with.

Where a field admits several dataclasses, the one meant is named by `"type"`. Leaves out the command line.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from backflip.errors import ConfigError

Config = TypeVar("Config")
TYPE = "type"
NOT_FINITE = ("inf", "-inf", "nan")


def config_to_json(config: object) -> Any:
    """Return plain JSON for a config: dataclasses become objects with their class name under `type`, paths become text.

    Raises ConfigError naming a value that is none of: dataclass, mapping, sequence, path, enum, text, number, None.
    """
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        fields = {spec.name: config_to_json(getattr(config, spec.name)) for spec in dataclasses.fields(config)}
        return {TYPE: type(config).__name__, **fields}
    if isinstance(config, Mapping):
        return {str(key): config_to_json(value) for key, value in cast(Mapping[object, object], config).items()}
    if isinstance(config, list | tuple):
        return [config_to_json(value) for value in cast(list[object], config)]
    if isinstance(config, Path):
        return str(config)
    if isinstance(config, Enum):
        return config.name
    if isinstance(config, float) and not math.isfinite(config):
        return str(config)  # one of NOT_FINITE: JSON has no numbers for them
    if config is None or isinstance(config, bool | int | float | str):
        return config
    raise ConfigError(
        f"a config cannot hold a {type(config).__name__} ({config!r}); expected dataclasses and plain values"
    )


def check_numbers(config: object, where: str = "") -> None:
    """Refuse what no setting can mean: a number that is none, or a seed below 0.

    Raises ConfigError naming the field.
    """
    if not dataclasses.is_dataclass(config):
        return
    for spec in dataclasses.fields(config):
        value = getattr(config, spec.name)
        name = f"{where}{spec.name}"
        if isinstance(value, float) and math.isnan(value):
            raise ConfigError(f"{name} is nan; expected a number")
        if spec.name == "seed" and isinstance(value, int) and value < 0:
            raise ConfigError(f"{name} is {value}; expected 0 or more")
        check_numbers(value, f"{name}.")


def config_from_json(kind: type[Config], data: Mapping[str, Any]) -> Config:
    """Return the config that `config_to_json` wrote, as a `kind`.

    Fields added since keep their defaults. Raises ConfigError naming a field that no longer exists or does not fit.
    """
    return cast(Config, _read(kind, data, kind.__name__))


def _read(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        return _read_union(arguments, value, where)
    if origin is Literal:
        if value not in arguments:
            raise ConfigError(f"{where} is {value!r}; expected one of {', '.join(map(repr, arguments))}")
        return value
    if dataclasses.is_dataclass(kind):
        return _read_dataclass(cast(type, kind), value, where)
    if isinstance(origin, type) and issubclass(origin, Mapping | list | tuple):
        return _read_many(origin, arguments, value, where)
    return _read_plain(kind, value, where)


def _read_many(origin: type, arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    """Read a list, a tuple or a mapping, each part as its kind says."""
    if issubclass(origin, Mapping):
        if not isinstance(value, dict):
            raise ConfigError(f"{where} is {value!r}; expected an object")
        return {key: _read(arguments[1], part, f"{where}.{key}") for key, part in cast(dict[str, Any], value).items()}
    if not isinstance(value, list):
        raise ConfigError(f"{where} is {value!r}; expected a list")
    parts = cast(list[Any], value)
    kinds = arguments if issubclass(origin, tuple) and Ellipsis not in arguments else arguments[:1] * len(parts)
    if len(kinds) != len(parts):
        raise ConfigError(f"{where} is {value!r}; expected {len(kinds)} values")
    read = [_read(kind, part, f"{where}[{i}]") for i, (kind, part) in enumerate(zip(kinds, parts, strict=True))]
    return tuple(read) if issubclass(origin, tuple) else read


def _read_plain(kind: Any, value: Any, where: str) -> Any:
    """Read text, a number, a path, a name out of an enum, or nothing."""
    if isinstance(kind, type) and issubclass(kind, Enum):
        if value not in kind.__members__:
            raise ConfigError(f"{where} is {value!r}; expected one of {', '.join(kind.__members__)}")
        return kind[value]
    if kind is float and (type(value) is int or value in NOT_FINITE):
        return float(value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    if type(value) is not kind:
        raise ConfigError(f"{where} is {value!r}; expected {getattr(kind, '__name__', kind)}")
    return value


def _read_union(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    named = value.get(TYPE) if isinstance(value, dict) else None
    for kind in kinds:
        if dataclasses.is_dataclass(kind) and (named is None or cast(type, kind).__name__ != named):
            continue
        try:
            return _read(kind, value, where)
        except ConfigError:
            if named is not None:
                raise
    expected = ", ".join(getattr(kind, "__name__", str(kind)) for kind in kinds)
    raise ConfigError(f"{where} is {named or value!r}; expected one of {expected}")


def _read_dataclass(kind: type, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise ConfigError(f"{where} is {value!r}; expected an object with the fields of {kind.__name__}")
    hints = get_type_hints(kind)
    names = [spec.name for spec in dataclasses.fields(kind) if spec.init]
    given = {key: part for key, part in cast(dict[str, Any], value).items() if key != TYPE or TYPE in names}
    for key in given:
        if key not in names:
            near = difflib.get_close_matches(key, names, 1)
            hint = f"; did you mean {near[0]!r}?" if near else "; it was saved by another version of this experiment"
            raise ConfigError(f"no field {where}.{key}{hint}")
    missing = [s.name for s in dataclasses.fields(kind) if s.init and s.name not in given and _required(s)]
    if missing:
        raise ConfigError(
            f"{where}.{missing[0]} is missing and has no default: another version of this experiment saved it"
        )
    return kind(**{key: _read(hints[key], part, f"{where}.{key}") for key, part in given.items()})


def _required(spec: dataclasses.Field[Any]) -> bool:
    return spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING
