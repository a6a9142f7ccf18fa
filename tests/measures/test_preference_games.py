"""The 3-cycle: what a score must lose, who wins, and how far single answers can be beaten."""

import numpy as np
import pytest

from backflip.errors import DataError
from backflip.measures import preference_games as games


def cycle(p: float, q: float | None = None) -> np.ndarray:
    """0 beats 1 beats 2 beats 0, each with probability p, the last with q."""
    q = p if q is None else q
    return np.array([[0.5, p, 1 - q], [1 - p, 0.5, p], [q, 1 - p, 0.5]])


def test_a_score_loses_0368_nats_on_the_cycle_and_the_winner_is_the_uniform_mixture() -> None:
    for p, lost in ((0.9, 0.368), (0.7, 0.082)):
        np.testing.assert_allclose(games.bradley_terry(cycle(p)), 0, atol=1e-7)
        assert games.irreducible_nats(cycle(p)) == pytest.approx(lost, abs=5e-4)
        np.testing.assert_allclose(games.nash(cycle(p)), 1 / 3, atol=1e-9)
    assert games.exploitability(cycle(0.9), games.nash(cycle(0.9))) == pytest.approx(0, abs=1e-9)
    for answer in np.eye(3):
        assert games.exploitability(cycle(0.9), answer) == pytest.approx(0.4)


def test_the_best_by_score_is_beaten_on_an_unbalanced_cycle() -> None:
    """Counts 100, 100, 50 at 0.9, or 0.9, 0.9, 0.8 at equal counts: the argmax of the fitted score loses 0.9 and 0.8."""
    count_AA = np.array([[0, 100, 50], [100, 0, 100], [50, 100, 0]])
    for table_AA, counts, beaten in ((cycle(0.9), count_AA, 0.4), (cycle(0.9, 0.8), None, 0.3)):
        best = np.eye(3)[int(games.bradley_terry(table_AA, counts).argmax())]
        assert games.exploitability(table_AA, best) == pytest.approx(beaten)
        assert games.exploitability(table_AA, games.nash(table_AA)) == pytest.approx(0, abs=1e-9)


def test_what_a_score_can_express_costs_nothing_and_is_recovered() -> None:
    score_A = np.array([-1.0, 0.2, 0.8])
    table_AA = 1 / (1 + np.exp(score_A[None, :] - score_A[:, None]))
    np.testing.assert_allclose(games.bradley_terry(table_AA), score_A, atol=1e-5)
    assert games.irreducible_nats(table_AA) == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(games.nash(table_AA), [0, 0, 1], atol=1e-9)


def test_the_regularised_equilibrium_is_its_own_best_reply_and_comes_to_nash() -> None:
    base_A = np.array([0.6, 0.3, 0.1])
    for tau in (1.0, 0.3, 0.05):
        found_A = games.regularised_nash(cycle(0.9), base_A, tau)
        reply_A = base_A * np.exp(cycle(0.9) @ found_A / tau)
        np.testing.assert_allclose(found_A, reply_A / reply_A.sum(), atol=1e-7)
    assert games.exploitability(cycle(0.9), found_A) < 0.1
    np.testing.assert_allclose(games.regularised_nash(cycle(0.9), np.full(3, 1 / 3), 0.3), 1 / 3, atol=1e-9)


def test_no_table_of_preferences_is_refused() -> None:
    for wrong in ([[0.5, 0.9], [0.9, 0.5]], [[0.5, 1.2], [-0.2, 0.5]], [[0.5, 0.5, 0.5]]):
        with pytest.raises(DataError, match="preference table"):
            games.nash(wrong)
    with pytest.raises(DataError, match="win or lose"):
        games.bradley_terry([[0.5, 1.0], [0.0, 0.5]])
    with pytest.raises(DataError, match="symmetric"):
        games.bradley_terry(cycle(0.9), [[0, 1, 1], [2, 0, 1], [1, 1, 0]])
