"""What both sides of bench/control.py share: the evaluator, and the ledger whose clock stands still while it works.

Needs gymnasium and numpy alone, so the peer's Python can import it. Returns are Gymnasium's own reward, undiscounted, over
1,000 steps from unseen starts, actions without noise.

Shapes: B environments, F features, A numbers of an action.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Decide = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""From raw observations, (B, F), to actions from -1 to 1, (B, A)."""

EVALUATED_STEPS = 1000
UNSEEN = 1_000_000
"""Seeds of evaluation begin here; no training starts from one."""


class Ledger:
    """Seconds of every update, and returns on the way; evaluations do not count."""

    def __init__(self, task: dict[str, Any]) -> None:
        """Prepare the environments that are evaluated in."""
        import gymnasium

        warnings.simplefilter("ignore")
        self.task = task
        self.seconds: list[float] = []
        self.evaluations: list[dict[str, float]] = []
        self.environments: list[Any] = [
            gymnasium.make(task["env"], terminate_when_unhealthy=False, max_episode_steps=EVALUATED_STEPS)
            for _ in range(task["episodes"])
        ]
        self.spent = 0.0
        self.since = time.perf_counter()

    def start(self) -> None:
        """Set the clock to 0."""
        self.since = time.perf_counter()

    def note(self, decide: Decide) -> bool:
        """Note the end of an update, evaluate when it is due; return whether the run is over."""
        self.spent += time.perf_counter() - self.since
        self.seconds.append(self.spent)
        done, every = len(self.seconds), self.task["evaluate_every"]
        over = done >= self.task["updates"]
        if every and (done % every == 0 or over):
            steps = done * self.task["environments"] * self.task["steps"]
            found = self.returns(decide)
            self.evaluations.append({"seconds": self.spent, "steps": float(steps), "return": float(np.mean(found))})
        self.since = time.perf_counter()
        return over

    def returns(self, decide: Decide) -> list[float]:
        """Return the true return of every unseen episode."""
        obs_BF = np.stack([one.reset(seed=UNSEEN + place)[0] for place, one in enumerate(self.environments)])
        total_B = np.zeros(len(self.environments))
        for _ in range(EVALUATED_STEPS):
            action_BA = decide(obs_BF.astype(np.float32)).clip(-1, 1)
            for place, one in enumerate(self.environments):
                obs_BF[place], reward, _, _, _ = one.step(action_BA[place])
                total_B[place] += float(reward)
        return total_B.tolist()
