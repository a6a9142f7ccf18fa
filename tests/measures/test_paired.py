"""Paired differences: a test that keeps its level, and the number of units that would tell."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from backflip.errors import DataError
from backflip.measures.paired import holm, sign_flip_test, student_test, units_to_tell
from backflip.measures.stats import mean_interval

RNG = np.random.default_rng


def test_few_units_are_counted_out() -> None:
    values = np.array([0.3, -0.1, 0.2, 0.05, 0.4])
    every = [abs(float(np.dot(signs, values))) for signs in product((1, -1), repeat=5)]
    assert sign_flip_test(values, RNG(0)) == np.mean([value >= abs(values.sum()) - 1e-12 for value in every])
    assert sign_flip_test([1.0] * 5, RNG(0)) == 2 / 32
    assert sign_flip_test([1.0] * 6, RNG(0)) == 2 / 64
    assert sign_flip_test([0.0, 0.0], RNG(0)) == 1.0
    assert sign_flip_test([1.0, 1.0, 0.0, 0.0, 0.0], RNG(0)) == 0.5  # what does not differ says nothing


def test_many_units_are_drawn_and_agree_with_the_normal_limit() -> None:
    values = RNG(1).normal(0.2, 1.0, 100)
    z = values.sum() / np.sqrt((values**2).sum())
    from scipy.stats import norm

    assert sign_flip_test(values, RNG(2)) == pytest.approx(2 * norm.sf(abs(z)), abs=0.01)
    assert sign_flip_test(-values, RNG(2)) == pytest.approx(sign_flip_test(values, RNG(2)), abs=0.01)
    assert 0 < sign_flip_test([1.0] * 100, RNG(3)) < 1e-3


def test_nothing_is_told_from_nothing_once_in_twenty() -> None:
    rng = RNG(4)
    p = [sign_flip_test(rng.standard_t(3, 30), rng, 400) for _ in range(400)]
    assert 0.02 <= np.mean(np.array(p) <= 0.05) <= 0.08


def test_the_units_that_are_named_tell_four_times_in_five() -> None:
    n = units_to_tell([0.5 - 1, 0.5, 0.5 + 1])  # mean 0.5, standard deviation 1
    assert n == 34  # ((2.035 + 0.853) / 0.5)^2 = 33.4 at 33 degrees of freedom; by the normal distribution 31.4
    rng = RNG(6)
    told = [sign_flip_test(rng.normal(0.5, 1.0, n), rng, 400) <= 0.05 for _ in range(300)]
    assert 0.72 <= np.mean(told) <= 0.88
    assert units_to_tell([0.5, -0.5]) is None and units_to_tell([1.0]) is None
    assert units_to_tell([1.0, 1.0, 1.0]) == 6 and units_to_tell([1.0, 1.0, 1.1], fewest=5) == 5


def test_several_tests_together_are_held_to_more() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([0.02]) == [0.02]


def test_a_difference_that_is_no_number_is_refused() -> None:
    with pytest.raises(DataError):
        sign_flip_test([0.1, float("nan")], RNG(0))


def test_students_test_is_that_of_the_interval() -> None:
    rng = RNG(7)
    for _ in range(20):
        values = rng.normal(0.8, 1.0, 5)
        found = mean_interval(values)
        assert (student_test(values) <= 0.05) == (found.low > 0 or found.high < 0)
    assert student_test([1.0]) == 1.0 and student_test([0.0, 0.0]) == 1.0 and student_test([2.0, 2.0]) == 0.5
    assert student_test([0.1] * 5) == 0.0625, "equal ones say nothing of chance; a sign flip's floor does"
