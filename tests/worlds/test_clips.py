"""Pictures of clips: the body is where it is, films can be read, and what cannot be drawn is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backflip.data import Item
from backflip.errors import ConfigError
from backflip.worlds.clips import GROUND, SKY, ClipFiles, Painter, write_video
from backflip.worlds.control import pack
from backflip.worlds.mujoco_tasks import TASKS, find_task

HOPPER = find_task("Hopper-v5")


def standing(steps: int = 50, x: float = 0.0) -> np.ndarray:
    scene = np.zeros((steps + 1, 12))
    scene[:, 0], scene[:, 1] = x, 1.25
    return scene


def body(picture: np.ndarray) -> np.ndarray:
    """Return where the body is drawn: what is blue, orange or lighter shades of them."""
    return np.abs(picture.astype(int) - picture.astype(int).mean(-1, keepdims=True)).max(-1) > 20


def test_a_standing_body_is_drawn_upright_on_the_ground() -> None:
    picture = Painter(HOPPER).frames(standing(), 10)[0]
    assert picture.shape == (160, 160, 3) and tuple(picture[0, 0]) == SKY and tuple(picture[-1, 3]) == GROUND
    rows, columns = np.nonzero(body(picture))
    metres = 2.6 / 160
    assert (rows.max() - rows.min()) * metres == pytest.approx(1.25 + 0.2 + 0.05, abs=0.1)  # from the ground to its top
    assert abs(columns.mean() - 80) * metres < 0.15
    ground = int(np.argmax((picture == GROUND).all(-1).any(1)))
    assert 0 <= ground - rows.max() <= 4  # the foot hangs 4 cm above the ground


def test_upside_down_looks_otherwise_and_the_camera_follows() -> None:
    painter = Painter(HOPPER)
    turned = standing()
    turned[:, 2] = -np.pi / 2
    upright, lying, far = (painter.frames(scene, 100)[0] for scene in (standing(), turned, standing(x=100.0)))
    assert not np.array_equal(upright, lying)
    assert (body(upright) == body(far)).all()


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_film_can_be_read_and_lasts_as_long_as_it_says(tmp_path: Path) -> None:
    imageio: Any = pytest.importorskip("imageio.v2")
    path = write_video([standing(125), standing(125)], HOPPER, tmp_path / "two" / "film.mp4", speed=0.5)
    assert list(path.parent.iterdir()) == [path]
    reader = imageio.get_reader(path)  # it leaves its pipes to the garbage collector, which says so
    frames, rate = [np.asarray(frame) for frame in reader], reader.get_meta_data()["fps"]
    reader.close()
    assert frames[0].shape == (160, 320, 3)
    assert len(frames) / rate == pytest.approx(2.0, rel=0.1)  # one second, slowed to two


def test_a_clip_is_drawn_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    item = Item("Hopper-v5", "", {"scene": pack(standing(20))}, media="clip")
    films = ClipFiles(tmp_path, speed=1.0)
    path = films(item)
    monkeypatch.setattr(Painter, "frames", None)
    assert films(item) == path == tmp_path / f"{item.id}.mp4"


def test_what_cannot_be_drawn_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Ant-v5 cannot be drawn from the side"):
        Painter(TASKS["Ant-v5"])
    with pytest.raises(ConfigError, match="speed 0"):
        write_video([standing()], HOPPER, tmp_path / "x.mp4", speed=0.0)
    for name in ("Walker2d-v5", "HalfCheetah-v5", "InvertedPendulum-v5", "InvertedDoublePendulum-v5"):
        task = TASKS[name]
        scene = np.zeros((3, task.nq + task.nv))
        scene[:, 1] = 1.25 if name == "Walker2d-v5" else 0.0
        assert body(Painter(task).frames(scene, 1)[0]).sum() > 50
