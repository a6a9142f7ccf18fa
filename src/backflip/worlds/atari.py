"""The world of Atari games: rows of grey pictures with the score blacked out, and no sign of a lost life or of a game's end.

When a game is over the next begins at once, in the same row: its first picture stands where the last one of the old game would. To whoever
learns there is one episode without an end, so a row never crosses one and always goes on in the critic's value (Christiano et al.
2017, A.2). Points are dropped here; who may know them plays the games again (`measures/atari_truth`).
A row's `scene` says which game each picture is from and how many decisions had been made in it.
Left out: the emulator (`atari_games`), films (`atari_clips`).

Shapes: E games at once, B rows, T steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from backflip.data import Episodes, Item, concat
from backflip.errors import ConfigError, DataError
from backflip.protocols import Policy
from backflip.worlds.atari_games import PIXELS, Console, Frames, find_game
from backflip.worlds.control import pack, unpack

SEEN = 4
"""Pictures that a policy is given at once, at most: the last ones of the row."""
SEEDS = 2**31 - 1


class AtariWorld:
    """One of the games, several times at once; `collect` goes on where the last one stopped."""

    def __init__(
        self, rom: str, *, environments: int, steps: int, seed: int = 0, sticky: float = 0.0, threads: int = 0
    ) -> None:
        """Start `environments` games; a row has `steps` decisions of four frames. `threads`: 0 leaves their number to the emulator.

        Raises:
            ConfigError: an unknown game, or a number out of range.
            MissingExtra: ale-py is not installed.
        """
        if steps < 1:
            raise ConfigError(f"rows of {steps} steps; expected 1 or more")
        self.game, self.steps, self.sticky = find_game(rom), steps, sticky
        self.console = Console(self.game, environments, sticky=sticky, threads=threads)
        self.actions = len(self.console.actions)
        self.starts = np.random.default_rng([seed, 0])
        self.rows = 0
        self.seed_E = self.starts.integers(0, SEEDS, environments)
        self.played = {int(one): bytearray() for one in self.seed_E}
        """The actions of every game so far, by its seed: one byte a decision."""
        self._told: dict[int, bytearray] = {}  # the same of games in loaded clips, which may be further on than ours
        self.frame_E = self.console.begin(np.ones(environments, dtype=bool), self.seed_E)

    # -- the World protocol ------------------------------------------------------------------------------------------

    def collect(self, policy: Policy, n: int, rng: np.random.Generator) -> Episodes:
        """Return a row of `steps` decisions from every game; n must be a multiple of their number.

        The policy is given the last pictures of the row so far, (B, up to 4, 84, 84) uint8.

        Raises:
            ConfigError: n is no multiple of the games, or the policy did what the joystick cannot.
        """
        count = self.console.count
        if n < 1 or n % count:
            raise ConfigError(f"{n} rows from {count} games; expected a multiple")
        return concat([self._rows(policy, rng) for _ in range(n // count)])

    def show(self, episodes: Episodes) -> list[Item]:
        """Return one clip a row, from which `load` makes the row again and `atari_clips` a film in colour.

        Raises:
            DataError: the rows carry no scene, or are from games that this world knows nothing of.
        """
        if episodes.scene is None:
            raise DataError("these rows carry no scene, so nobody can be shown what happened; collect them in a world")
        rows = zip(episodes.obs.numpy(), episodes.action.numpy(), episodes.scene.numpy(), strict=True)
        words = f"{episodes.mask_BT.shape[1]} decisions of {self.game.name}"
        return [
            Item(
                self.game.name,
                words,
                {
                    "frames": pack_frames(frames),
                    "action": pack(action.astype(np.uint8)),
                    "scene": pack(scene),
                    "played": self._played(scene),
                    "sticky": self.sticky,
                },
                media="clip",
            )
            for frames, action, scene in rows
        ]

    def load(self, items: Sequence[Item]) -> Episodes:
        """Rebuild rows of equal length from clips, without log-probabilities.

        Raises:
            DataError: there are none, one is no clip of this game, or their lengths differ.
        """
        if not items:
            raise DataError("no items to load; expected at least one")
        for item in items:
            self._own(item)
        frames = [unpack_frames(item.payload["frames"]) for item in items]
        action = [unpack(item.payload["action"]).astype(np.int64) for item in items]
        if len({one.shape for one in action}) > 1:
            raise DataError(
                f"clips of {sorted({len(one) for one in action})} decisions in one load; expected one length"
            )
        for item in items:
            for seed, actions in item.payload["played"].items():
                said = bytearray(unpack(actions).astype(np.uint8).tobytes())
                self._told[int(seed)] = max(self._told.get(int(seed), bytearray()), said, key=len)
        return Episodes(
            obs=torch.from_numpy(np.stack(frames)),
            action=torch.from_numpy(np.stack(action)),
            mask_BT=torch.ones(len(items), len(action[0]), dtype=torch.bool),
            logp_BT=None,
            bootstrap_B=torch.zeros(len(items)),
            group_B=torch.arange(len(items)),
            scene=torch.from_numpy(np.stack([unpack(item.payload["scene"]) for item in items])),
            item_B=tuple(item.id for item in items),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return all that `collect` depends on: the games that are going on are played again from their actions."""
        return {
            "game": self.game.rom,
            "steps": self.steps,
            "sticky": self.sticky,
            "rows": self.rows,
            "starts": self.starts.bit_generator.state,
            "games": [
                {"seed": int(seed), "played": pack(np.frombuffer(self.played[int(seed)], np.uint8))}
                for seed in self.seed_E
            ],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken. Raises DataError when it was taken in another world."""
        saved = (state["game"], state["steps"], state["sticky"], len(state["games"]))
        if saved != (self.game.rom, self.steps, self.sticky, self.console.count):
            raise DataError(
                f"the saved world is {saved[3]} games of {saved[0]} in rows of {saved[1]} (sticky {saved[2]}), this one "
                f"{self.console.count} of {self.game.rom} in rows of {self.steps} (sticky {self.sticky}); "
                "resume with the same settings"
            )
        self.rows = int(state["rows"])
        self.starts.bit_generator.state = state["starts"]
        for place, one in enumerate(state["games"]):
            self.seed_E[place] = one["seed"]
            self.played[int(one["seed"])] = bytearray(unpack(one["played"]).astype(np.uint8).tobytes())
        self._play_again()

    # -- rows --------------------------------------------------------------------------------------------------------

    def _rows(self, policy: Policy, rng: np.random.Generator) -> Episodes:
        count, steps = self.console.count, self.steps
        obs = np.empty((count, steps + 1, PIXELS, PIXELS), dtype=np.uint8)
        scene = np.empty((count, steps + 1, 2), dtype=np.int64)
        action_BT = np.empty((count, steps), dtype=np.int64)
        logp_BT, value_BT = np.empty((2, count, steps), dtype=np.float32)
        obs[:, 0], scene[:, 0] = self.frame_E, self._where()
        for step in range(steps):
            act = policy.act(torch.from_numpy(obs[:, max(0, step + 1 - SEEN) : step + 1]), rng)
            action_BT[:, step], logp_BT[:, step] = act.action[:, 0].numpy(), act.logp_BT[:, 0].numpy()
            if act.value_BT is not None:
                value_BT[:, step] = act.value_BT[:, 0].numpy()
            self._step(action_BT[:, step])
            obs[:, step + 1], scene[:, step + 1] = self.frame_E, self._where()
        self.rows += count
        last = policy.act(torch.from_numpy(obs[:, -SEEN:]), np.random.default_rng(0)).value_BT
        return Episodes(
            obs=torch.from_numpy(obs),
            action=torch.from_numpy(action_BT),
            mask_BT=torch.ones(count, steps, dtype=torch.bool),
            logp_BT=torch.from_numpy(logp_BT),
            bootstrap_B=torch.zeros(count) if last is None else last[:, 0].clone(),
            group_B=torch.arange(self.rows - count, self.rows),
            value_BT=None if last is None else torch.from_numpy(value_BT),
            scene=torch.from_numpy(scene),
        )

    def _step(self, action_E: NDArray[np.int64]) -> None:
        if action_E.min() < 0 or action_E.max() >= self.actions:
            raise ConfigError(
                f"the policy chose action {action_E.max()} of {self.game.name}; expected 0 to {self.actions - 1}"
            )
        for seed, action in zip(self.seed_E.tolist(), action_E.tolist(), strict=True):
            self.played[seed].append(action)
        self.frame_E, _, over_E = self.console.step(action_E)
        if over_E.any():
            fresh = self.starts.integers(0, SEEDS, int(over_E.sum()))
            self.seed_E[over_E] = fresh
            self.played |= {int(seed): bytearray() for seed in fresh}
            self.frame_E = self.console.begin(over_E, fresh)

    def _where(self) -> NDArray[np.int64]:
        """Return each game's seed and how many decisions have been made in it."""
        return np.array([(seed, len(self.played[seed])) for seed in self.seed_E.tolist()], dtype=np.int64)

    def _play_again(self) -> None:
        """Bring every console to where the actions of its game lead; whoever is there waits."""
        games = [self.played[seed] for seed in self.seed_E.tolist()]
        length_E = np.array([len(game) for game in games])
        idle_E = length_E.max() - length_E  # consoles go in step, so a shorter game begins later
        for step in range(int(length_E.max()) + 1):
            if (begins_E := idle_E == step).any():
                self.frame_E = self.console.begin(begins_E, self.seed_E[begins_E])
            if step < length_E.max():
                action_E = [game[step - idle] if step >= idle else 0 for game, idle in zip(games, idle_E, strict=True)]
                self.frame_E, _, _ = self.console.step(np.array(action_E))

    # -- items -------------------------------------------------------------------------------------------------------

    def _played(self, scene: NDArray[np.int64]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for seed, count in games_of(scene):
            known = max((games.get(seed, bytearray()) for games in (self.played, self._told)), key=len)
            if len(known) < count:
                raise DataError(
                    f"this world did not play game {seed} of {self.game.name} to the clip's end; show rows in the world they are from"
                )
            found[str(seed)] = pack(np.frombuffer(known[:count], np.uint8))
        return found

    def _own(self, item: Item) -> None:
        wanted = {"frames", "action", "scene", "played", "sticky"}
        if item.media != "clip" or item.prompt != self.game.name or not wanted <= set(item.payload):
            raise DataError(f"item {item.id} is no clip of {self.game.name}; expected one that `show` made")


def games_of(scene: NDArray[np.int64]) -> Iterable[tuple[int, int]]:
    """Yield the seed of each game in a clip, in order, and how many of its actions are needed to see the clip's part."""
    seeds = scene[:, 0].tolist()
    for seed in dict.fromkeys(seeds):
        last = len(seeds) - 1 - seeds[::-1].index(seed)
        # the game's last picture but one in the clip is followed by an action, unless the clip ends there
        yield seed, int(scene[last, 1]) + (last < len(seeds) - 1)


def pack_frames(frames: Frames) -> dict[str, Any]:
    """Return pictures as JSON: what changes from one to the next, compressed."""
    return pack(np.diff(frames, axis=0, prepend=np.zeros_like(frames[:1])))


def unpack_frames(packed: Any) -> Frames:
    """Return the pictures that `pack_frames` wrote. Raises DataError where they are broken."""
    changes = unpack(packed)
    if changes.dtype != np.uint8 or changes.ndim != 3:
        raise DataError(
            f"pictures of kind {changes.dtype} and shape {changes.shape}; expected bytes, (pictures, 84, 84)"
        )
    return np.cumsum(changes, axis=0, dtype=np.uint8)
