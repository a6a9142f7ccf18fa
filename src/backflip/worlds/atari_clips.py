"""Films of Atari clips in colour: the games are played again from their seeds and actions, and must look as they did.

Whoever judges sees the whole screen, the score too: what is hidden is hidden from the learner. Left out: points.

Shapes: T decisions, H and W pixels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from backflip.data import Item
from backflip.errors import DataError
from backflip.worlds.atari import games_of, unpack_frames
from backflip.worlds.atari_games import DECISIONS_A_SECOND, GAMES, Console, Frames, play_again
from backflip.worlds.clips import write_frames
from backflip.worlds.control import unpack

ENLARGED = 2
"""The console's pixels are small: each is drawn as a square of so many."""


def colour_frames(item: Item) -> Frames:
    """Return the pictures of a clip in colour, (T + 1, 210, 160, 3).

    Raises:
        DataError: the item is no clip of a game, or playing it again gave other pictures.
    """
    game = {game.name: game for game in GAMES.values()}.get(item.prompt)
    if game is None or "played" not in item.payload:
        raise DataError(f"item {item.id} is no clip of a game; expected one that `AtariWorld.show` made")
    scene, recorded = unpack(item.payload["scene"]), unpack_frames(item.payload["frames"])
    colour = dict[tuple[int, int], Frames]()
    grey = dict[tuple[int, int], Frames]()
    for seed, _ in games_of(scene):
        actions = unpack(item.payload["played"][str(seed)]).tolist()
        wanted = {made for other, made in scene.tolist() if other == seed}
        for found, coloured in ((grey, False), (colour, True)):
            console = Console(game, 1, sticky=float(item.payload["sticky"]), threads=1, colour=coloured)
            for made, (frame, _) in enumerate(play_again(console, seed, actions)):
                if made in wanted:
                    found[seed, made] = frame
    places = [(int(seed), int(made)) for seed, made in scene]
    if [place for place in places if place not in grey] or not np.array_equal(
        np.stack([grey[place] for place in places]), recorded
    ):
        raise DataError(
            f"clip {item.id} of {game.name} played again looks otherwise than it was recorded; "
            "film it with the ale-py that played it (constraints.txt)"
        )
    return np.stack([colour[place] for place in places])


class AtariFilms:
    """Films of clips in a folder, each made when it is first asked for."""

    def __init__(self, folder: Path, *, speed: float = 1.0) -> None:
        """Write into `folder`, at `speed` times the game's own."""
        self._folder, self._speed = folder, speed

    def __call__(self, item: Item) -> Path:
        """Return the film of a clip."""
        path = self._folder / f"{item.id}.mp4"
        return path if path.is_file() else write_atari_film([item], path, speed=self._speed)


def write_atari_film(items: list[Item], path: Path, *, speed: float = 1.0) -> Path:
    """Write one clip, or several of equal length side by side, as an mp4 file; return `path`. Raises as `colour_frames`, `write_frames`."""
    shown = np.concatenate([colour_frames(item) for item in items], axis=2)
    large = shown.repeat(ENLARGED, axis=1).repeat(ENLARGED, axis=2)
    return write_frames(large, path, speed * DECISIONS_A_SECOND)
