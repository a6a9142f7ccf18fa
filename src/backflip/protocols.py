"""The four protocols of the loop. Everything else is a plain function or a frozen dataclass.

An optimiser is `update(policy, optimizer, episodes, reward_BT, config) -> dict[str, float]`;
a measure returns an `Estimate`. `backflip.testing` ships a contract check for each protocol.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from backflip.data import Act, Episodes, Evaluation, Item, Judgement, Query


@runtime_checkable
class Policy(Protocol):
    """Whoever acts."""

    def act(self, obs: Tensor, rng: np.random.Generator) -> Act:
        """Decide until control returns to the world: one step in control, one whole turn in text."""
        ...

    def evaluate(self, episodes: Episodes) -> Evaluation:
        """Log-probability (at the sampling temperature), entropy and value of every decision, with gradients."""
        ...

    def kl_BT(self, reference: Policy, episodes: Episodes) -> Tensor:
        """Full-distribution KL(self || reference) at every decision, nats, 0 where masked; no gradient."""
        ...


@runtime_checkable
class World(Protocol):
    """Where a policy acts. The only place that samples."""

    def collect(self, policy: Policy, n: int, rng: np.random.Generator) -> Episodes:
        """Return exactly n rows; a row never crosses the end of an episode."""
        ...

    def show(self, episodes: Episodes) -> list[Item]:
        """Return one item a row, as a judge sees it."""
        ...

    def load(self, items: Sequence[Item]) -> Episodes:
        """Rebuild episodes from items. Law: a reward model scores `load(show(e))` as it scores `e`."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return all that `collect` depends on besides its arguments; JSON-able."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state_dict` was taken."""
        ...


@runtime_checkable
class RewardModel(Protocol):
    """The learned stand-in for the overseer."""

    def __call__(self, episodes: Episodes) -> Tensor:
        """Return reward_BT, no gradient; for text non-zero only on the last decision."""
        ...


@runtime_checkable
class Overseer(Protocol):
    """Whoever judges: a person, a synthetic teacher, a model, or an arrangement of these."""

    def ask(self, queries: Sequence[Query]) -> None:
        """Take the queries and return at once; idempotent by query id."""
        ...

    def answers(self, since: int, wait: float = 0.0) -> tuple[list[Judgement], int]:
        """Return judgements that came after cursor `since`, in order, and the new cursor.

        `wait` is the number of seconds to wait for the first new judgement; 0 returns at once.
        """
        ...
