"""Ties are halves, swapping turns a win rate round, and rows of one opening are one unit."""

import numpy as np
import pytest

from backflip.errors import DataError
from backflip.measures.stats import wilson
from backflip.measures.win_rate import win_rate, wins


def test_ties_count_one_half():
    assert win_rate([2, 1, 1, 0], [1, 1, 2, 0]) == wilson(2, 4)
    assert wins([2, 1, 0], 1).tolist() == [1, 0.5, 0]


def test_swapping_turns_it_round():
    rng = np.random.default_rng(0)
    ours, theirs = rng.integers(0, 4, (2, 200))
    one, other = win_rate(ours, theirs), win_rate(theirs, ours)
    assert (one.value, one.low, one.high) == pytest.approx((1 - other.value, 1 - other.high, 1 - other.low))


def test_copies_of_an_opening_do_not_narrow_the_interval():
    rng = np.random.default_rng(1)
    ours, theirs = rng.normal(size=(2, 60))
    alone = win_rate(ours, theirs, groups=np.arange(60))
    copied = win_rate(np.repeat(ours, 4), np.repeat(theirs, 4), groups=np.repeat(np.arange(60), 4))
    assert (copied.value, copied.low, copied.high, copied.n) == pytest.approx((alone.value, alone.low, alone.high, 60))


def test_unlike_lengths_are_refused():
    with pytest.raises(DataError, match="same openings"):
        win_rate([1, 2], [1])
