"""Accuracy, its ceiling, and calibration, against known answers."""

import math

import numpy as np
import pytest
from scipy.special import expit

from backflip.data import Estimate
from backflip.errors import DataError
from backflip.measures.agreement import accuracy, ceiling, ceiling_from_repeats
from backflip.measures.calibration import calibration
from backflip.measures.stats import wilson


def test_accuracy_leaves_ties_out_and_halves_equal_scores():
    found = accuracy([2.0, -1.0, 0.0, 5.0], [1.0, 1.0, 0.0, 0.5])
    assert found == wilson(1.5, 3)
    assert accuracy([1.0, -1.0], [0.7, 0.4]).value == 1
    with pytest.raises(DataError, match="decisive"):
        accuracy([1.0], [0.5])


def test_swapping_every_pair_changes_nothing():
    rng = np.random.default_rng(0)
    delta, share = rng.normal(size=50), rng.random(50)
    assert accuracy(delta, share) == accuracy(-delta, 1 - share)


def test_grouped_accuracy_is_clustered():
    rng = np.random.default_rng(1)
    delta, share = rng.normal(size=40), rng.integers(0, 2, 40).astype(float)
    alone = accuracy(delta, share, groups=np.arange(40))
    copied = accuracy(np.repeat(delta, 3), np.repeat(share, 3), groups=np.repeat(np.arange(40), 3))
    assert (copied.low, copied.high, copied.n) == pytest.approx((alone.low, alone.high, 40))


def test_ceiling_is_what_knowing_the_chances_gives():
    rng = np.random.default_rng(2)
    chance = rng.beta(2, 2, 20_000)
    said = (rng.random(20_000) < chance).astype(float)
    best = accuracy(chance - 0.5, said)
    found = ceiling(chance)
    assert best.low < found.value < best.high
    assert ceiling([0.9, 0.1, 0.5]).value == pytest.approx((0.9 + 0.9 + 0.5) / 3)
    with pytest.raises(DataError, match="chances"):
        ceiling([1.2])


def test_ceiling_from_repeats_undoes_a_flip_rate():
    for flips in (0.0, 0.1, 0.3):
        agree = 1 - 2 * flips * (1 - flips)
        found = ceiling_from_repeats(Estimate(agree, agree - 0.01, min(1.0, agree + 0.01), 100))
        assert found.value == pytest.approx(1 - flips) and found.low <= found.value <= found.high
    assert ceiling_from_repeats(Estimate(0.4, 0.3, 0.5, 10)).value == 0.5


def test_a_calibrated_model_has_the_error_of_chance():
    rng = np.random.default_rng(3)
    chance = rng.random(3000)
    said = (rng.random(3000) < chance).astype(float)
    found = calibration(chance, said, rng)
    assert abs(found.seen - found.chance) < 0.01 and found.error.low == 0 and found.error.value < found.seen
    assert sum(row["n"] for row in found.bins) == 3000
    assert all(abs(row["predicted"] - row["observed"]) < 0.08 for row in found.bins)
    assert math.isclose(calibration(1 - chance, 1 - said, np.random.default_rng(0)).error.value, found.error.value)


def test_overconfidence_is_measured_and_seen():
    rng = np.random.default_rng(4)
    said = (rng.random(2000) < 0.7).astype(float)
    found = calibration(np.full(2000, 0.95), said, rng)
    assert found.error.value == pytest.approx(0.25, abs=0.04) and found.error.low > 3 * found.chance
    assert len(found.bins) == 1 and found.bins[0]["predicted"] == pytest.approx(0.95)


def test_what_chance_adds_to_the_calibration_error_is_taken_away():
    """As it is seen it is too large: a perfect model's interval would leave 0 out in four of ten data sets."""
    rng = np.random.default_rng(5)
    odds = rng.normal(size=(40, 200))
    said = (rng.random(odds.shape) < expit(odds)).astype(float)
    perfect = [calibration(expit(each), told, rng) for each, told in zip(odds, said, strict=True)]
    assert sum(each.error.low > 0 for each in perfect) <= 2
    sure = [calibration(expit(2 * each), told, rng) for each, told in zip(odds, said, strict=True)]
    truth = 0.1033  # of two million answers
    assert float(np.mean([each.error.value for each in sure])) == pytest.approx(truth, abs=0.012)
    assert float(np.mean([each.seen for each in sure])) > truth + 0.012
    assert sum(each.error.low <= truth <= each.error.high for each in sure) >= 34
    silent = calibration(expit(odds[0]), expit(odds[0]), rng)
    assert (silent.error.value, silent.error.low) == (0.0, 0.0), "shares that are the very probabilities"


def test_ties_count_one_half():
    assert calibration([0.9] * 10, [0.5] * 10, np.random.default_rng(0)).bins[0]["observed"] == 0.5


def test_no_probability_is_refused():
    with pytest.raises(DataError, match="probability"):
        calibration([1.5], [1.0], np.random.default_rng(0))
