"""A config written into a run folder comes back as it was."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import pytest

from backflip.errors import ConfigError
from backflip.run_config import check_numbers, config_from_json, config_to_json


class Colour(Enum):
    RED = 1
    BLUE = 2


@dataclass(frozen=True)
class Fixed:
    beta: float = 0.1


@dataclass(frozen=True)
class Adaptive:
    target_nats: float = 6.0
    beta: float = 0.1


@dataclass(frozen=True)
class Whole:
    lr: float = 1e-3
    steps: int = 3
    name: str | None = None
    path: Path = Path("x")
    maybe: Path | None = None
    kind: Literal["a", "b"] = "a"
    sizes: tuple[int, ...] = (1, 2)
    pair: tuple[int, float] = (1, 2.0)
    names: list[str] = field(default_factory=list[str])
    weights: dict[str, float] = field(default_factory=dict[str, float])
    kl: Fixed | Adaptive = Fixed()
    loud: bool = False
    colour: Colour = Colour.RED
    extra: Any = None


@pytest.mark.parametrize(
    "config",
    [
        Whole(),
        Whole(lr=2, kl=Adaptive(3.0), path=Path("/y"), maybe=Path("z"), sizes=(), name="n", colour=Colour.BLUE),
        Whole(names=["a"], weights={"x": 1.5}, kind="b", loud=True, pair=(3, 4.5), extra={"free": [1]}),
    ],
)
def test_a_config_comes_back_equal_through_json(config: Whole) -> None:
    import json

    back = config_from_json(Whole, json.loads(json.dumps(config_to_json(config))))
    assert back == config and type(back.kl) is type(config.kl) and isinstance(back.lr, float)


def test_fields_added_since_keep_their_defaults() -> None:
    assert config_from_json(Whole, {"steps": 5}) == Whole(steps=5)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"stepz": 5}, "no field Whole.stepz; did you mean 'steps'"),
        ({"kl": {"type": "Fixed", "betta": 1}}, "no field Whole.kl.betta; did you mean 'beta'"),
        ({"kl": {"type": "Gone", "beta": 1.0}}, "Whole.kl is 'Gone'; expected one of Fixed, Adaptive"),
        ({"steps": "many"}, "Whole.steps is 'many'; expected int"),
        ({"steps": 1.5}, "Whole.steps is 1.5; expected int"),
        ({"loud": 1}, "Whole.loud is 1; expected bool"),
        ({"steps": True}, "Whole.steps is True; expected int"),
        ({"kind": "c"}, "Whole.kind is 'c'; expected one of 'a', 'b'"),
        ({"sizes": [1, "x"]}, r"Whole.sizes\[1\] is 'x'; expected int"),
        ({"name": 3}, "Whole.name is 3; expected one of str, NoneType"),
        ({"colour": "GREEN"}, "Whole.colour is 'GREEN'; expected one of RED, BLUE"),
        ({"pair": [1]}, r"Whole.pair is \[1\]; expected 2 values"),
        ({"names": "abc"}, "Whole.names is 'abc'; expected a list"),
        ({"weights": [1]}, r"Whole.weights is \[1\]; expected an object"),
    ],
)
def test_what_does_not_fit_is_named(data: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config_from_json(Whole, data)


def test_what_is_no_setting_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot hold a set"):
        config_to_json({"x": {1}})


@dataclass(frozen=True)
class Holder:
    outer: object


@dataclass(frozen=True)
class Seeded:
    seed: int = 0


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (Whole(lr=float("nan")), "lr is nan"),
        (Seeded(-1), "seed is -1; expected 0 or more"),
    ],
)
def test_numbers_that_no_setting_can_mean(config: object, says: str) -> None:
    check_numbers(Whole())
    with pytest.raises(ConfigError, match=says):
        check_numbers(config)
    with pytest.raises(ConfigError, match=r"outer\." + says):
        check_numbers(Holder(config))
