"""The Atari games, what of their screens is hidden, and the emulator as everybody here sets it up.

The picture is that of Christiano et al. (2017, A.2): every decision lasts four frames, the brighter of the last two is seen, grey, 84 by 84,
with the score blacked out. A game is a function of its seed and the actions since its beginning, and so can be played again to the bit.
Left out: rows and clips (`atari`), colours (`atari_clips`), and the score (`measures/atari_truth`).

Shapes: E games at once, H and W pixels.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backflip.errors import ConfigError, MissingExtra

PIXELS = 84
SCREEN = (210, 160)
"""Lines and columns of the console's own screen."""
FRAMES_A_DECISION = 4
DECISIONS_A_SECOND = 60 / FRAMES_A_DECISION
IDLE_AT_MOST = 30
"""A game begins with 1 to this many frames in which nothing is done; its seed says how many."""
LONGEST = 108_000
"""Frames after which a game is cut: half an hour."""
Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class Game:
    """A game, and the lines of the console's screen that tell the score."""

    name: str
    rom: str
    hidden: tuple[tuple[int, int], ...]
    """From a line, to a line (not included), of the 210; whole lines."""

    @property
    def hidden_lines(self) -> tuple[slice, ...]:
        """Lines of the small picture that show anything of the hidden ones: rounded outwards."""
        scale = PIXELS / SCREEN[0]
        return tuple(slice(int(top * scale), int(-(-bottom * scale // 1))) for top, bottom in self.hidden)

    def hide(self, frames: Frames) -> Frames:
        """Black out the score in small pictures, in place; return them."""
        for lines in self.hidden_lines:
            frames[..., lines, :] = 0
        return frames


GAMES: Mapping[str, Game] = {
    game.rom: game
    for game in (
        Game("Pong", "pong", ((0, 22),)),
        # the panel with cars to pass, day and distance: the distance is a speedometer to whoever sees two pictures
        Game("Enduro", "enduro", ((157, 210),)),
        # score, sector, enemies left; ships left
        Game("BeamRider", "beam_rider", ((0, 43), (182, 192))),
        Game("Breakout", "breakout", ((0, 17),)),
        Game("Qbert", "qbert", ((0, 16),)),
        Game("Seaquest", "seaquest", ((0, 20),)),
        Game("SpaceInvaders", "space_invaders", ((0, 22),)),
    )
}


def find_game(rom: str) -> Game:
    """Return a game by the name of its cartridge.

    Raises:
        ConfigError: it is none of those whose score is known to be hidden.
    """
    if rom not in GAMES:
        near = difflib.get_close_matches(rom, GAMES, n=1)
        hint = f'did you mean "{near[0]}"?' if near else f"expected one of {', '.join(GAMES)}"
        raise ConfigError(f'no game is called "{rom}"; {hint}')
    return GAMES[rom]


class Console:
    """Games played at once; each is begun with a seed of its own, and nothing begins by itself."""

    def __init__(self, game: Game, count: int, *, sticky: float = 0.0, threads: int = 0, colour: bool = False) -> None:
        """Switch on `count` consoles. `sticky`: chance that a frame repeats the action before. `colour`: whole pictures in colour.

        Raises:
            ConfigError: count or sticky is out of range.
            MissingExtra: ale-py is not installed.
        """
        if count < 1 or not 0 <= sticky < 1:
            raise ConfigError(f"{count} games with sticky {sticky}; expected 1 or more, and a share below 1")
        self.game, self.count, self.colour = game, count, colour
        high, wide = SCREEN if colour else (PIXELS, PIXELS)
        self._games: Any = _vector_env()(
            game.rom,
            count,
            num_threads=threads,
            repeat_action_probability=sticky,
            img_height=high,
            img_width=wide,
            grayscale=not colour,
            stack_num=1,
            frameskip=FRAMES_A_DECISION,
            maxpool=True,
            noop_max=IDLE_AT_MOST,
            use_fire_reset=False,
            episodic_life=False,
            life_loss_info=False,
            reward_clipping=False,
            max_num_frames_per_episode=LONGEST,
        )
        self._fresh = True
        self.actions = tuple(str(action.name) for action in self._games.ale.get_action_set())

    def begin(self, place_E: NDArray[np.bool_], seeds: NDArray[np.int64]) -> Frames:
        """Begin new games at the places that are marked; return the pictures of all. The first call must mark all."""
        options = None if self._fresh else {"reset_mask": place_E}
        obs, _ = self._games.reset(seed=seeds, options=options)
        self._fresh = False
        return self._seen(obs)

    def step(self, action_E: NDArray[np.int64]) -> tuple[Frames, NDArray[np.float64], NDArray[np.bool_]]:
        """Play four frames of every game; return pictures, points, and which games are over. Whoever learns drops the points."""
        obs, points, ended, cut, _ = self._games.step(action_E)
        return self._seen(obs), points.astype(np.float64), ended | cut

    def _seen(self, obs: Frames) -> Frames:
        frames = obs[:, 0].copy()
        return frames if self.colour else self.game.hide(frames)


def play_again(console: Console, seed: int, actions: Iterable[int]) -> Iterator[tuple[Frames, float]]:
    """Yield the pictures of one game from its first, and the points of the action before each (0 for the first).

    `console` must be of one game.
    """
    yield console.begin(np.ones(1, dtype=bool), np.array([seed]))[0], 0.0
    for action in actions:
        frame_E, points_E, _ = console.step(np.array([action]))
        yield frame_E[0], float(points_E[0])


def _vector_env() -> Any:
    try:
        from ale_py import vector_env
    except ImportError as error:
        raise MissingExtra(f"Atari games need ale-py ({error}); run: pip install 'backflip[atari]'") from error
    return vector_env.AtariVectorEnv
