"""Modes: all for the base and for any tilt that scores them alike, one for a point mass; distinct answers against a draw."""

from __future__ import annotations

import numpy as np
import pytest

from backflip.errors import DataError
from backflip.measures.modes import commonest, effective_modes, entropy_bits, expected_distinct_share, modes_covered

BASE = np.array([0.4, 0.3, 0.15, 0.1, 0.05])


def test_uniform_covers_all_and_a_point_mass_one() -> None:
    uniform, point = np.full(20, 0.05), np.eye(20)[7]
    assert modes_covered(uniform, uniform) == 20 and effective_modes(uniform) == pytest.approx(20)
    assert modes_covered(point, uniform) == 1 and effective_modes(point) == pytest.approx(1)
    assert entropy_bits(np.full(8, 3)) == pytest.approx(3)


def test_what_keeps_the_bases_proportions_covers_all_of_them_whatever_its_mass() -> None:
    """The optimum under a KL penalty that scores modes alike; counts and probabilities say the same."""
    for mass in (1e-9, 1.0, 5000.0):
        assert modes_covered(mass * BASE, BASE) == 5
        assert effective_modes(mass * BASE) == pytest.approx(effective_modes(BASE))


def test_a_mode_is_lost_where_less_than_the_floor_of_its_share_is_left() -> None:
    share = BASE.copy()
    share[4] *= 0.09
    assert modes_covered(share / share.sum(), BASE) == 4
    assert modes_covered(share / share.sum(), BASE, floor=0.05) == 5
    assert modes_covered(BASE, np.array([0.5, 0.5, 0.0, 0.0, 0.0])) == 2, "a mode that the base never gives is none"


def test_more_undecided_is_more_modes() -> None:
    sharp = BASE**2
    assert 1 < effective_modes(sharp) < effective_modes(BASE) < 5


def test_expected_distinct_answers_are_those_of_a_draw() -> None:
    rng = np.random.default_rng(1)
    drawn = [len(set(rng.choice(5, 6, p=BASE))) / 6 for _ in range(20_000)]
    assert expected_distinct_share(BASE, 6) == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / 20_000**0.5)
    assert expected_distinct_share(BASE, 1) == pytest.approx(1.0)
    assert expected_distinct_share([1.0, 0.0], 10) == pytest.approx(0.1)


def test_the_commonest_kinds_in_order() -> None:
    assert commonest(list("bbaacb"), 2) == ["b", "a"] and commonest(list("aab"), 5) == ["a", "b"]


def test_what_is_no_share_is_refused() -> None:
    for wrong in ([], [0.0, 0.0], [-0.1, 1.0], [np.nan, 1.0]):
        with pytest.raises(DataError, match="shares of"):
            effective_modes(wrong)
    with pytest.raises(DataError, match="the same modes"):
        modes_covered([1.0], BASE)
    with pytest.raises(DataError, match="n = 0"):
        expected_distinct_share(BASE, 0)
    with pytest.raises(DataError, match="sum to"):
        expected_distinct_share([0.5, 0.1], 3)
    with pytest.raises(DataError, match="at least one answer"):
        commonest([], 3)
