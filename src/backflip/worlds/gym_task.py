"""A Gymnasium environment as a control task: what it is called, what of it is supported, and one copy of it at work.

Observations are flattened to numbers; actions are choices (Discrete) or bounded numbers (Box). Every episode has one length: what
happens where the environment itself would end is said by `ends`, and never reaches a learner as an end. Left out: many copies
(`gym_batch`), the environment's reward (`measures/gym_truth`), pixels as observations.

Shapes: A numbers of an action.
"""

from __future__ import annotations

import difflib
import json
import math
import warnings
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from backflip.errors import BackflipError, ConfigError, DataError, MissingExtra
from backflip.worlds.mujoco_tasks import TASKS, Array

READ = ("Box", "Discrete", "MultiDiscrete", "MultiBinary")
"""Spaces of observations that are read as numbers, alone or within a Dict or a Tuple."""
Ends = Literal["refuse", "go_on", "hold"]
FRAMES_A_SECOND = 30.0
"""Steps a second of an environment that does not say so in its metadata as `render_fps`."""


@dataclass(frozen=True)
class GymTask:
    """An environment and how it is used; made by `gym_task`."""

    name: str
    """Gymnasium's id, with the module that registers it before a colon where needed."""
    options: Mapping[str, Any]
    """What `gymnasium.make` is given besides."""
    horizon: int
    ends: Ends
    seconds_a_step: float
    seen: Any = field(repr=False)
    """The space of observations."""
    acted: Any = field(repr=False)
    """The space of actions."""
    size: int
    """Numbers of a flattened observation."""

    @property
    def id(self) -> str:
        """Return the name as clips carry it: whatever makes it another task is part of it."""
        given = [f"{name}={json.dumps(value)}" for name, value in sorted(self.options.items())]
        given += [f"ends={self.ends}"] if self.ends != "refuse" else []
        return f"{self.name}({', '.join(given)})" if given else self.name

    @property
    def discrete(self) -> bool:
        """Whether an action is a choice."""
        return not hasattr(self.acted, "low")

    @property
    def bounds(self) -> tuple[Array, Array]:
        """Return the lowest and highest action; a choice has a number from -1 to 1 for each that is possible."""
        if self.discrete:
            return -np.ones(int(self.acted.n)), np.ones(int(self.acted.n))
        return self.acted.low.astype(np.float64).ravel(), self.acted.high.astype(np.float64).ravel()

    def features(self, scene: Array) -> NDArray[np.float32]:
        """Return the flattened observations of scenes."""
        return scene[..., : self.size].astype(np.float32)

    def action(self, control_A: NDArray[np.floating[Any]]) -> Any:
        """Return what the environment is given for a control within `bounds`."""
        if self.discrete:
            return np.int64(int(control_A.argmax()) + int(self.acted.start))
        return control_A.astype(self.acted.dtype).reshape(self.acted.shape)

    def flat(self, observation: Any) -> Array:
        """Return an observation as numbers."""
        if type(self.seen).__name__ == "Box":
            return np.array(observation, dtype=np.float64).ravel()  # a copy: environments may go on writing into theirs
        return np.asarray(_gymnasium(self.name).spaces.flatten(self.seen, observation), dtype=np.float64)


class GymEpisode:
    """One copy of an environment, one episode after the other; an episode is a function of its seed and actions."""

    def __init__(self, task: GymTask, *, drawn: bool = False) -> None:
        """Make the environment; `drawn` if pictures will be asked for. Raises ConfigError where it cannot draw itself."""
        self.task = task
        self.seed = 0
        self.given: list[Any] = []
        """Actions since the beginning."""
        self.over = False
        """Whether the environment would have ended."""
        self.seen: Array = np.zeros(task.size)
        self._env = _open(task.name, task.options, task.horizon, drawn=drawn)

    def begin(self, seed: int) -> None:
        """Begin the episode of this seed."""
        self.seed, self.given, self.over = seed, [], False
        with self._theirs("reset"):
            observation, _ = self._env.reset(seed=seed)
        self._look(observation)

    def step(self, action: Any) -> float:
        """Take one decision; return what the environment pays, which is 0 after its own end. Worlds throw that away.

        Raises:
            DataError: the environment ended and `ends` is "refuse", failed, or gave an observation or a reward that is not finite.
        """
        self.given.append(action)
        if not self.over:
            with self._theirs("step"):
                observation, paid, ended, cut, _ = self._env.step(action)
                paid = float(paid)
            self._look(observation)
            if not math.isfinite(paid):
                raise DataError(
                    f"{self.task.id} paid {paid}, which is no finite reward, {self._place()}; mend the environment"
                )
            self.over = bool(ended or cut)
            if self.over and self.task.ends == "refuse" and len(self.given) < self.task.horizon:
                raise DataError(self._ended())
            return paid
        if self.task.ends == "go_on":
            with warnings.catch_warnings(), self._theirs("step after its own end", "; ends=hold does not step on"):
                warnings.simplefilter("ignore")  # that somebody steps on after an end is what was asked for
                observation = self._env.step(action)[0]
            self._look(observation)
        return 0.0

    def picture(self) -> NDArray[np.uint8]:
        """Return what the environment draws of itself now, (H, W, 3).

        Raises:
            ConfigError: it draws no picture.
            MissingExtra: it needs a library to draw that is not installed.
        """
        with self._theirs("render"):
            try:
                found = self._env.render()
            except _gymnasium(self.task.name).error.DependencyNotInstalled as error:
                raise MissingExtra(f"{self.task.name} cannot be drawn: {_one_line(error)}") from error
        if not isinstance(found, np.ndarray) or found.ndim != 3 or found.shape[2] != 3 or not found.size:
            raise ConfigError(f"{self.task.name} draws no picture of (height, width, 3); {NO_PICTURES}")
        return found.astype(np.uint8)

    def _look(self, observation: Any) -> None:
        with self._theirs("observe"):
            seen = self.task.flat(observation)
        if seen.size != self.task.size:
            raise DataError(
                f"{self.task.id} gave an observation of {seen.size} numbers {self._place()}, where its space has {self.task.size}; "
                "mend the environment"
            )
        if not np.isfinite(seen).all():
            raise DataError(
                f"{self.task.id} gave an observation that is not finite {self._place()}; mend the environment, or bound its actions"
            )
        self.seen = seen

    def _place(self) -> str:
        return f"after {len(self.given)} steps of the episode with seed {self.seed}"

    @contextmanager
    def _theirs(self, what: str, hint: str = "") -> Generator[None]:
        """Say which environment failed, and where: what is raised in it is a fault of its own, or of how it was made."""
        try:
            yield
        except BackflipError:
            raise
        except (Exception, SystemExit) as error:
            raise DataError(f"{self.task.id} failed to {what} {self._place()}: {_named(error)}{hint}") from error

    def _ended(self) -> str:
        return (
            f"{self.task.id} ended after {len(self.given)} of {self.task.horizon} steps, and an end tells a learner what nobody said; switch ends "
            "off in the environment (options such as terminate_when_unhealthy=false), or say what comes after one: ends=go_on "
            "(it is stepped on) or ends=hold (its last state stays until the horizon)"
        )


OWN = {"id", "max_episode_steps", "disable_env_checker", "render_mode"}
"""What `gymnasium.make` is given by us."""
NO_PICTURES = "judge with overseer=synthetic, or give the environment a render_mode rgb_array"


def gym_task(
    name: str, *, options: Mapping[str, Any] | None = None, horizon: int | None = None, ends: Ends = "refuse"
) -> GymTask:
    """Look at an environment and return it as a task. `horizon` None: the environment's own time limit.

    Raises:
        ConfigError: no environment has that id, it does not take the options, has no time limit, or spaces that are not supported.
        MissingExtra: gymnasium, or what the environment needs, is not installed.
    """
    options = dict(options or {})
    env = _open(name, options, horizon)
    try:
        limit = None if env.spec is None else env.spec.max_episode_steps
        if env.spec is not None and env.spec.nondeterministic:
            raise ConfigError(
                f"{name} says that it is not a function of its seed and actions, so no clip of it can be seen again; "
                "use a version without sticky actions or other hidden draws"
            )
        if not limit:
            raise ConfigError(f"{name} has no time limit, and all episodes must have one length; give a horizon")
        _check_actions(name, env.action_space)
        rate = _rate(name, env.metadata.get("render_fps") or FRAMES_A_SECOND)
        size = _numbers_seen(name, env.observation_space)
        return GymTask(name, options, limit, ends, 1 / rate, env.observation_space, env.action_space, size)
    finally:
        env.close()


def read_options(pairs: Iterable[str]) -> dict[str, Any]:
    """Read options for `gymnasium.make` from NAME=VALUE, a value as JSON, or as text where it is none.

    Raises:
        ConfigError: one has no name.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign or not name.isidentifier():
            raise ConfigError(f'"{pair}" is no option of an environment; expected NAME=VALUE, such as g=9.81')
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            found[name] = value
    return found


def check_drawn(task: GymTask) -> None:
    """Draw the beginning of an episode once. Raises ConfigError or MissingExtra where nothing can be drawn."""
    episode = GymEpisode(task, drawn=True)
    episode.begin(0)
    episode.picture()


def _rate(name: str, said: Any) -> float:
    if isinstance(said, bool) or not isinstance(said, int | float | np.number) or not 0 < said < math.inf:
        raise ConfigError(f"{name} says render_fps {said!r} in its metadata; expected steps a second, above 0")
    return float(said)


def _check_actions(name: str, space: Any) -> None:
    kind = type(space).__name__
    if kind == "Discrete":
        return
    if kind == "Box" and not np.prod(space.shape):
        raise ConfigError(f"actions of {name} are {space}, which hold no number, so there is nothing to learn")
    if kind != "Box" or space.dtype.kind != "f":
        raise ConfigError(f"actions of {name} are {space}; expected Discrete, or a Box of floats: wrap the environment")
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise ConfigError(
            f"actions of {name} are not bounded; expected a Box with finite low and high: wrap it, as with ClipAction's bounds"
        )


def _numbers_seen(name: str, space: Any) -> int:
    """Return the size of a flattened observation."""
    inside = _parts(space)
    if any(type(one).__name__ == "Box" and one.dtype == np.uint8 and len(one.shape) > 1 for one in inside):
        raise ConfigError(f"{name} shows pictures, and this world reads numbers; wrap it so that it gives its state")
    if not all(type(one).__name__ in READ for one in inside):
        raise ConfigError(
            f"observations of {name} are {space}; expected Box, Discrete, MultiDiscrete, MultiBinary, or a Dict or Tuple of these"
        )
    size = int(_gymnasium(name).spaces.flatdim(space))
    if not size:
        raise ConfigError(f"observations of {name} are {space}, which hold no number; give at least one, if only a 0")
    return size


def _parts(space: Any) -> list[Any]:
    inside = getattr(space, "spaces", None)
    if inside is None:
        return [space]
    return [part for one in (inside.values() if isinstance(inside, Mapping) else inside) for part in _parts(one)]


def _open(name: str, options: Mapping[str, Any], horizon: int | None, *, drawn: bool = False) -> Any:
    gymnasium = _gymnasium(name)
    error = gymnasium.error
    module, sign, known = name.partition(":")
    if not name or (sign and not (module and known)) or ":" in known:
        raise ConfigError(f'"{name}" names no environment; expected an id such as Pendulum-v1, or MODULE:ID')
    if taken := sorted(set(options) & OWN):
        raise ConfigError(
            f"{taken[0]} is not an option of an environment here; episodes get their length by horizons, pictures are asked for as needed"
        )
    mode: dict[str, Any] = {"render_mode": "rgb_array"} if drawn else {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            env = gymnasium.make(name, max_episode_steps=horizon, disable_env_checker=True, **mode, **options)
    except error.DependencyNotInstalled as missing:
        raise MissingExtra(f"{name} cannot be made: {_one_line(missing)}") from missing
    except (error.UnregisteredEnv, error.DeprecatedEnv) as unknown:
        raise ConfigError(f'no environment is called "{name}"; {_hint(name)}') from unknown
    except (Exception, SystemExit) as refused:
        missing = _missing_module(refused)
        if missing and f"{module}.".startswith(f"{missing}."):
            raise ConfigError(
                f'no environment is called "{name}"; there is no module {missing} that could register it'
            ) from refused
        if missing:
            raise ConfigError(f"{name} cannot be made so: it imports {missing}, which is not installed") from refused
        if drawn and "'render_mode'" in str(refused):
            raise ConfigError(f"{name} cannot draw itself, so nobody can watch it; {NO_PICTURES}") from refused
        said = _one_line(refused) if isinstance(refused, error.Error | TypeError) else _named(refused)
        raise ConfigError(f"{name} cannot be made so: {said}; look at its options, and at its module") from refused
    if drawn and "rgb_array" not in (env.metadata.get("render_modes") or ()):
        raise ConfigError(f"{name} cannot draw itself, so nobody can watch it; {NO_PICTURES}")
    return env


def _hint(name: str) -> str:
    module, sign, given = name.rpartition(":")
    known = [*_gymnasium(name).registry, *TASKS]
    if near := difflib.get_close_matches(given, known, n=1, cutoff=0.6):
        return f'did you mean "{module}{sign}{near[0]}"?'
    return "expected an id that Gymnasium knows, or MODULE:ID where a module of yours registers it"


def _gymnasium(name: str) -> ModuleType:
    try:
        import gymnasium
    except ImportError as error:
        raise MissingExtra(f"{name} needs gymnasium ({error}); run: pip install 'backflip[control]'") from error
    return gymnasium


def _missing_module(error: BaseException) -> str | None:
    if not isinstance(error, ModuleNotFoundError):
        return None
    inner = error.__cause__  # Gymnasium tells it again, without the name
    return error.name or (inner.name if isinstance(inner, ModuleNotFoundError) else None)


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {_one_line(error)}"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".")
