"""A dot on a square that may go four ways or stay, and is paid for coming nearer to the centre: a toy in which learning takes seconds.

After the moving dot with which reproductions of Christiano et al. 2017 began; there it was seen as pixels, here as (x, y).
`gymnasium.make("backflip.worlds.moving_dot:MovingDot-v0")` makes it; it needs gymnasium alone, and draws itself with numpy.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

ID = "MovingDot-v0"
NAME = f"{__name__}:{ID}"
HORIZON = 50
STEP = 0.1
WAYS = ((0.0, 0.0), (STEP, 0.0), (-STEP, 0.0), (0.0, STEP), (0.0, -STEP))
PIXELS, RADIUS = 96, 5.0
PAPER, CENTRE, DOT = (246, 247, 249), (214, 217, 222), (0, 103, 177)


class MovingDot(gymnasium.Env[NDArray[np.float32], np.int64]):
    """The square is from -1 to 1 both ways; a step nearer to the centre pays 1, one further away -1, any other 0."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 Gymnasium's own attribute

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(len(WAYS))
        self._x = self._y = 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Put the dot anywhere on the square."""
        super().reset(seed=seed)
        self._x, self._y = self.np_random.uniform(-1, 1, 2).tolist()
        return self._seen(), {}

    def step(self, action: np.int64) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Move the dot, never beyond the border."""
        before = self._x**2 + self._y**2
        dx, dy = WAYS[int(action)]
        self._x, self._y = min(1.0, max(-1.0, self._x + dx)), min(1.0, max(-1.0, self._y + dy))
        after = self._x**2 + self._y**2
        return self._seen(), float((after < before) - (after > before)), False, False, {}

    def render(self) -> NDArray[np.uint8]:  # pyright: ignore[reportIncompatibleMethodOverride] narrower than Gymnasium's
        """Return the square with the dot, (96, 96, 3)."""
        place = (np.arange(PIXELS) + 0.5) / PIXELS * 2.4 - 1.2
        x, y = place[None, :], -place[:, None]
        size = RADIUS * 2.4 / PIXELS
        picture = np.empty((PIXELS, PIXELS, 3), dtype=np.uint8)
        picture[:] = PAPER
        picture[np.hypot(x, y) <= size] = CENTRE
        picture[np.hypot(x - self._x, y - self._y) <= size] = DOT
        return picture

    def _seen(self) -> NDArray[np.float32]:
        return np.array((self._x, self._y), dtype=np.float32)


if ID not in gymnasium.registry:
    gymnasium.register(ID, entry_point=f"{__name__}:MovingDot", max_episode_steps=HORIZON)
