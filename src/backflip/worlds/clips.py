"""Pictures of clips: a planar body from the side, drawn from joint positions, without display or graphics card.

Only clips that somebody will look at are drawn. The camera follows the body; marks on the ground show how far it went. Left
out: what is worth looking at, and bodies whose motion is not in one plane.

Shapes: L states, H and W pixels, G capsules.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backflip.data import Item
from backflip.errors import ConfigError, MissingExtra
from backflip.worlds.control import unpack
from backflip.worlds.mujoco_tasks import Array, Task, find_task, read_body, simulator

FRAMES_A_SECOND = 30
SKY, GROUND, MARK = (246, 247, 249), (214, 217, 222), (170, 175, 184)
BODY = ((0, 103, 177), (66, 142, 202), (120, 176, 220), (194, 78, 0), (240, 150, 84), (250, 190, 140))
"""Colours of the parts in their order in the body, the first ones again after the last."""


class Painter:
    """Draws one task's body."""

    def __init__(self, task: Task, *, pixels: int = 160, metres: float = 2.6) -> None:
        """Draw squares of `pixels` that show `metres`. Raises ConfigError for a body that does not move in one plane."""
        mujoco, _ = simulator(task)
        if task.id in ("Ant-v5", "Reacher-v5", "Swimmer-v5"):
            raise ConfigError(
                f"{task.id} cannot be drawn from the side; judge another task, or use a renderer of your own"
            )
        self.task, self.pixels, self.metres = task, pixels, metres
        self._model: Any = read_body(task)
        self._data: Any = mujoco.MjData(self._model)
        self._kinematics = mujoco.mj_kinematics
        capsule = int(mujoco.mjtGeom.mjGEOM_CAPSULE)
        self._capsules = [k for k in range(self._model.ngeom) if self._model.geom_type[k] == capsule]
        self._radius_G = self._model.geom_size[self._capsules, 0]
        self._half_G = self._model.geom_size[self._capsules, 1]

    def frames(self, scene: Array, every: int) -> NDArray[np.uint8]:
        """Return pictures of every `every`-th state, (frames, H, W, 3)."""
        return np.stack([self._draw(qpos) for qpos in self.task.qpos(scene)[::every]])

    def _draw(self, qpos: Array) -> NDArray[np.uint8]:
        self._data.qpos[:] = qpos
        self._kinematics(self._model, self._data)
        centre = self._data.geom_xpos[self._capsules][:, [0, 2]]
        axis = self._data.geom_xmat[self._capsules].reshape(-1, 3, 3)[:, [0, 2], 2] * self._half_G[:, None]
        left = centre[0, 0] - self.metres / 2
        scale = self.metres / self.pixels
        x_W: Any = left + (np.arange(self.pixels) + 0.5) * scale
        z_H: Any = self.metres - 0.3 - (np.arange(self.pixels) + 0.5) * scale
        picture = np.empty((self.pixels, self.pixels, 3), dtype=np.uint8)
        picture[:] = SKY
        picture[z_H <= 0] = GROUND
        marks_W = np.abs(x_W - np.round(x_W * 2) / 2) < scale
        picture[np.ix_((z_H <= 0) & (z_H > -0.08), marks_W)] = MARK
        for number, (middle, reach, radius) in enumerate(zip(centre, axis, self._radius_G, strict=True)):
            near = _distance(x_W[None, :], z_H[:, None], middle - reach, middle + reach)
            picture[near <= radius] = BODY[number % len(BODY)]
        return picture


def _distance(x: Array, z: Array, start: Array, end: Array) -> Array:
    """Return the distance of points to a segment."""
    along = end - start
    share = ((x - start[0]) * along[0] + (z - start[1]) * along[1]) / max(float(along @ along), 1e-12)
    share = share.clip(0, 1)
    return np.hypot(x - start[0] - share * along[0], z - start[1] - share * along[1])


def write_video(scenes: Sequence[Array], task: Task, path: Path, *, speed: float) -> Path:
    """Write an mp4 file of one or several scenes side by side, `speed` times as fast as it happened; return `path`.

    Raises:
        ConfigError: the body cannot be drawn, or the speed is not above 0.
        MissingExtra: imageio with ffmpeg is not installed.
    """
    if speed <= 0:
        raise ConfigError(f"a video at speed {speed}; expected above 0, 0.5 being half as fast as it happened")
    painter = Painter(task)
    every = max(1, round(speed / (task.seconds_a_step * FRAMES_A_SECOND)))
    shown = np.concatenate([painter.frames(scene, every) for scene in scenes], axis=2)
    return write_film(shown, path, rate=speed / (task.seconds_a_step * every))


def write_film(frames: NDArray[np.uint8], path: Path, *, rate: float) -> Path:
    """Write pictures, (frames, H, W, 3), as an mp4 file with `rate` of them a second; return `path`.

    Raises:
        MissingExtra: imageio with ffmpeg is not installed.
    """
    try:
        import imageio.v2 as imageio
    except ImportError as error:
        raise MissingExtra(f"videos need imageio ({error}); run: pip install 'backflip[control]'") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.part.mp4")
    writer: Any = imageio.get_writer(
        unfinished, fps=rate, codec="libx264", macro_block_size=None, output_params=["-crf", "28"]
    )
    try:
        for frame in frames:
            writer.append_data(frame)
    finally:
        writer.close()
    unfinished.replace(path)
    return path


class ClipFiles:
    """Videos of clips in a folder, each drawn when it is first asked for."""

    def __init__(self, folder: Path, *, speed: float) -> None:
        """Write into `folder`, at `speed` times the body's own."""
        self._folder, self._speed = folder, speed

    def __call__(self, item: Item) -> Path:
        """Return the video of a clip."""
        path = self._folder / f"{item.id}.mp4"
        if not path.is_file():
            scene = unpack(item.payload["scene"])
            write_video([scene], find_task(item.prompt), path, speed=self._speed)
        return path
