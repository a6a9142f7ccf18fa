"""Many copies of a Gymnasium environment that step together, and episodes that happen again from seed and actions.

A scene is the flattened observation, the seed of its episode, and how many steps came before: with the actions, which the
item of a clip carries from the beginning of the episode, everything can be had again. The environment's reward is thrown away here.

Shapes: E environments, C of a crew, S numbers of a scene (observation, seed, steps so far), A numbers of an action,
L states of a clip, G numbers given to the environment as an action.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backflip.data import Item
from backflip.errors import ConfigError, DataError
from backflip.worlds.gym_task import GymEpisode, GymTask
from backflip.worlds.mujoco_tasks import Array
from backflip.worlds.packed import pack, unpack
from backflip.worlds.simulated import EVERYBODY

KEPT = 1000
"""Episodes whose actions are remembered, so that their clips can be shown; the latest ones."""
SEEDS = 2**30
SEED, AT = -2, -1
"""Where a scene holds the seed of its episode, and the steps so far."""


class GymBatch:
    """E copies of one environment."""

    def __init__(self, task: GymTask, count: int) -> None:
        """Make `count` copies."""
        if count < 1:
            raise ConfigError(f"a batch of {count} simulations; expected 1 or more")
        self.task, self.count = task, count
        self.low_A, self.high_A = task.bounds
        self.discrete = task.discrete
        self.crews = [slice(0, count)]  # one: nobody knows what of an environment of somebody's can be sent elsewhere
        self.scene_ES: Array = np.zeros((count, task.size + 2))
        self._copies = [GymEpisode(task) for _ in range(count)]
        self._first_seed, self._begun = -1, 0
        self._past: dict[int, list[Any]] = {}
        self._read: dict[int, list[Any]] = {}

    def reset(self, which: list[int], rng: np.random.Generator) -> None:
        """Begin new episodes, each with a seed of its own; the first of all draws where their seeds begin."""
        if self._first_seed < 0:
            self._first_seed = int(rng.integers(SEEDS))
        for place in which:
            copy = self._copies[place]
            if copy.given:
                _keep(self._past, copy.seed, copy.given)
            self._begin(place, self._first_seed + self._begun)
            self._begun += 1

    def step(self, action_CA: NDArray[np.floating[Any]], crew: slice = EVERYBODY) -> Array:
        """Take one decision in every environment of a crew and return their scenes, (C, S): a view that the next step overwrites.

        Raises:
            DataError: an environment ended where none may, or gave an observation that is not finite; which one is said.
        """
        for place, action_A in zip(range(self.count)[crew], action_CA, strict=True):
            try:
                self._copies[place].step(self.task.action(action_A))
            except DataError as error:
                raise DataError(f"environment {place} of {error}") from error
            self._look(place)
        return self.scene_ES[crew]

    def state(self) -> Array:
        """Return seeds and actions of the episodes that go on, and their scenes, one row an environment."""
        longest = max(len(copy.given) for copy in self._copies)
        width = self.low_A.size if not self.discrete else 1
        found = np.zeros((self.count, 2 + self.scene_ES.shape[1] + longest * width))
        for row, copy, scene in zip(found, self._copies, self.scene_ES, strict=True):
            given = np.asarray(copy.given, dtype=np.float64).ravel()
            row[: 2 + len(scene) + len(given)] = [self._first_seed, self._begun, *scene, *given]
        return found

    def restore(self, state: Array, crew: slice = EVERYBODY) -> None:
        """Go on where `state` was taken, all together: every unfinished episode happens again.

        Raises:
            DataError: it is of another number of environments or another environment, or an episode went otherwise this time.
        """
        size = self.scene_ES.shape[1]
        width = self.low_A.size if not self.discrete else 1
        if len(state) != self.count or state.shape[1] < 2 + size or (state.shape[1] - 2 - size) % width:
            raise DataError(
                f"the saved simulations are {state.shape}, this world has {self.count} of {size} numbers; "
                "resume with the environment and the number of copies of the run"
            )
        self._first_seed, self._begun = int(state[0, 0]), int(state[0, 1])
        for place, row in enumerate(state):
            scene, actions = row[2 : 2 + size], row[2 + size :].reshape(-1, width)
            self._begin(place, int(scene[SEED]))
            for given in actions[: int(scene[AT])]:
                self._copies[place].step(_as_given(self.task, given))
            self._look(place)
            check_same(self.task, self._copies[place].seen, scene)

    def origin(self, scene: Array) -> dict[str, Any]:
        """Return environment, seed, and the actions from the episode's beginning to the end of the clip.

        Raises:
            DataError: the clip is not of this world, or of long ago.
        """
        seed, end = int(scene[0, SEED]), int(scene[-1, AT])
        live = {copy.seed: copy.given for copy in self._copies}
        given = next((one[seed] for one in (live, self._past, self._read) if seed in one), [])
        if len(given) < end:
            raise DataError(
                "this world no longer knows how these rows came about; show rows that it has just collected"
            )
        return {"episode": {**described(self.task), "seed": seed, "given": pack(np.asarray(given[:end]))}}

    def remember(self, payload: Any) -> None:
        """Know again how a loaded clip came about."""
        episode = payload["episode"]
        given = list(unpack(episode["given"]))
        if len(given) > len(self._read.get(episode["seed"], ())):
            _keep(self._read, episode["seed"], given)

    def _begin(self, place: int, seed: int) -> None:
        try:
            self._copies[place].begin(seed)
        except DataError as error:
            raise DataError(f"environment {place} of {error}") from error
        self._look(place)

    def _look(self, place: int) -> None:
        copy = self._copies[place]
        self.scene_ES[place, :SEED] = copy.seen
        self.scene_ES[place, SEED], self.scene_ES[place, AT] = copy.seed, len(copy.given)


class Replays:
    """Clips of one environment that happen again."""

    def __init__(self, task: GymTask, *, drawn: bool = False) -> None:
        """Prepare a copy of the environment of its own; `drawn` if pictures will be asked for."""
        self.task = task
        self._copy = GymEpisode(task, drawn=drawn)

    def __call__(self, item: Item) -> Iterator[tuple[int, GymEpisode, float]]:
        """Yield every state of the episode up to the clip's end: its place in the clip, below 0 before it; the episode; what was paid.

        Raises:
            DataError: it is no clip of this environment, or it went otherwise this time.
        """
        copy = self._copy
        seed, given, scene = self.read(item)
        copy.begin(seed)
        start = len(given) - (len(scene) - 1)
        paid = 0.0
        for place, action in enumerate([*given, None], -start):
            if place >= 0:
                check_same(self.task, copy.seen, scene[place])
            yield place, copy, paid
            paid = 0.0 if action is None else copy.step(action)

    def read(self, item: Item) -> tuple[int, NDArray[Any], Array]:
        """Return the seed of a clip's episode, its actions up to the clip's end, and the clip's scene.

        Raises:
            DataError: it is no clip of this environment.
        """
        episode = item.payload.get("episode")
        if not isinstance(episode, dict) or any(episode.get(k) != v for k, v in described(self.task).items()):
            raise DataError(f"item {item.id} is no clip of {self.task.id}; expected one that its world showed")
        return int(episode["seed"]), unpack(episode["given"]), unpack(item.payload["scene"])

    def pictures(self, item: Item, every: int) -> NDArray[np.uint8]:
        """Return pictures of every `every`-th state of a clip, (frames, H, W, 3).

        Raises:
            ConfigError: as `GymEpisode.picture` does, or they are not of one size.
        """
        drawn = [copy.picture() for place, copy, _ in self(item) if place >= 0 and place % every == 0]
        if len(sizes := {one.shape[:2] for one in drawn}) > 1:
            raise ConfigError(
                f"{self.task.name} draws pictures of {len(sizes)} sizes; expected one, or no film can be made"
            )
        return np.stack(drawn)


def described(task: GymTask) -> dict[str, Any]:
    """Return what names a task completely; JSON-able."""
    return {"env": task.name, "options": dict(task.options), "horizon": task.horizon, "ends": task.ends}


def check_same(task: GymTask, seen: Array, scene: Array) -> None:
    """Raise DataError where an episode that happens again, with these observations, was another one the first time."""
    if not np.array_equal(seen, scene[..., :SEED]):
        raise DataError(
            f"{task.id} gave another episode for the same seed and actions, so no clip of it can be judged or seen again; make it "
            "draw from self.np_random alone, and forget everything at a reset"
        )


def _as_given(task: GymTask, numbers: Array) -> Any:
    return np.int64(numbers[0]) if task.discrete else numbers.astype(task.acted.dtype).reshape(task.acted.shape)


def _keep(known: dict[int, list[Any]], seed: int, given: list[Any]) -> None:
    """Remember an episode as the latest, and forget the oldest beyond `KEPT`."""
    known.pop(seed, None)
    known[seed] = given
    if len(known) > KEPT:
        del known[next(iter(known))]
