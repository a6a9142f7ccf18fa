"""Q-learning finds the optimal worth of every action, from whole rows and from pieces alike."""

from __future__ import annotations

import numpy as np
import pytest

from backflip.errors import ConfigError, DataError
from backflip.experiments.credit import GO, S1, S2, S3, steps_world
from backflip.optimise import q_learning
from backflip.optimise.q_learning import QConfig
from backflip.worlds.listed import action_values, best, rollouts, table_policy

WORLD = steps_world(3, 0.5, 0.5)


def learned(cut: int | None, config: QConfig, rows: int = 2000) -> np.ndarray:
    q_SA = np.zeros((4, 3))
    episodes = rollouts(WORLD, table_policy(WORLD), rows, np.random.default_rng(0), cut)
    assert episodes.reward_BT is not None
    q_learning.update(q_SA, episodes, episodes.reward_BT, WORLD.over_S, config)
    return q_SA


@pytest.mark.parametrize("cut", [None, 1])
@pytest.mark.parametrize("rate", [1.0, 0.2])
def test_it_finds_the_optimal_values_whole_or_in_pieces(cut: int | None, rate: float) -> None:
    assert learned(cut, QConfig(rate=rate)) == pytest.approx(action_values(WORLD, best(WORLD)), abs=1e-6)


def test_without_what_comes_after_it_thinks_that_leaving_is_best() -> None:
    q_SA = learned(1, QConfig(gamma=0.0))
    assert q_SA[S1].tolist() == [0.0, 0.5, 0.5] and q_SA[S2, GO] == 1


def test_credit_needs_two_episodes_in_the_order_of_steps() -> None:
    """The first to go all the way teaches what s2 is worth, only the next one what s1 is."""
    rows = rollouts(WORLD, table_policy(WORLD, np.eye(3)[[GO] * 4]), 20, np.random.default_rng(0))
    whole = rows.select([row for row in range(20) if int(rows.obs[row, 0, 0]) == S1][:2])
    assert whole.reward_BT is not None and whole.obs[0, -1, 0] == S3
    q_SA = np.zeros((4, 3))
    for row, worth in ((0, 0.0), (1, 1.0)):
        q_learning.update(q_SA, whole.select([row]), whole.reward_BT[row : row + 1], WORLD.over_S, QConfig())
        assert (q_SA[S1, GO], q_SA[S2, GO]) == (worth, 1.0)


def test_what_it_cannot_learn_from_is_refused() -> None:
    rows = rollouts(WORLD, table_policy(WORLD), 8, np.random.default_rng(0))
    assert rows.reward_BT is not None
    with pytest.raises(DataError, match="not finite"):
        q_learning.update(np.zeros((4, 3)), rows, rows.reward_BT * float("nan"), WORLD.over_S, QConfig())
    with pytest.raises(DataError, match="outside of the table"):
        q_learning.update(np.zeros((2, 3)), rows, rows.reward_BT, WORLD.over_S, QConfig())
    for change in ({"rate": 0.0}, {"rate": 1.5}, {"gamma": -0.1}):
        with pytest.raises(ConfigError, match="rate is"):
            QConfig(**change)
