"""Laws of over-optimisation: known parameters are recovered, peaks are where they must be, and forms are told apart only where they can be."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from backflip.errors import DataError
from backflip.measures.goodhart import (
    FORMS,
    Form,
    Gains,
    compare_forms,
    fall_of,
    fit_law,
    peak_of,
    value_at,
)

D = np.sqrt([math.log(2**k) - (2**k - 1) / 2**k for k in range(1, 11)])
TRUE: dict[Form, tuple[float, float]] = {
    "best_of_n": (1.2, 0.4),
    "rl": (0.6, 0.5),
    "straight": (0.7, 0.0),
    "levelling": (1.0, 0.8),
}


def curve(form: Form, noise: float, rng: np.random.Generator, openings: int = 32, seeds: int = 3) -> Gains:
    """A curve of a form, every opening and every seed with parameters of its own about the true ones, and noise at every point."""
    a, b = TRUE[form]
    gain_SKD = np.empty((seeds, openings, len(D)))
    shift_S, shift_K = rng.normal(0, noise, seeds), rng.normal(0, noise, openings)
    for s in range(seeds):
        for k in range(openings):
            gain_SKD[s, k] = value_at(form, D, a * (1 + shift_S[s] / 4 + shift_K[k] / 4), b)
    return Gains(np.tile(D, (seeds, 1)), gain_SKD + noise * rng.normal(size=gain_SKD.shape))


# -- identity 7 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "a", "b"), [("best_of_n", 1.2, 0.4), ("best_of_n", 0.3, 0.9), ("rl", 0.6, 0.5), ("rl", 1.1, 0.7)]
)
def test_the_peak_is_where_the_law_is_highest(form: Form, a: float, b: float) -> None:
    d, height = peak_of(form, a, b)
    found: Any = minimize_scalar(lambda x: -float(value_at(form, [x], a, b)[0]), bounds=(1e-3, 50), method="bounded")
    assert d == pytest.approx(found.x, abs=1e-4) and height == pytest.approx(-found.fun, abs=1e-8)
    assert float(value_at(form, [d], a, b)[0]) == pytest.approx(height)


def test_the_closed_forms_of_the_peaks() -> None:
    assert peak_of("best_of_n", 1.2, 0.4) == pytest.approx((1.2 / 0.8, 1.2**2 / 1.6))
    d, height = peak_of("rl", 0.6, 0.5)
    assert (d, height) == pytest.approx((math.exp(0.6 / 0.5 - 1), 0.5 * d))
    flat: tuple[tuple[Form, float, float], ...] = (
        *(("straight", 1, 1), ("levelling", 1, 1)),
        *(("best_of_n", 1, 0), ("rl", 1, -0.1), ("best_of_n", -1, 1)),
    )
    for form, a, b in flat:
        with pytest.raises(DataError, match="no peak"):
            peak_of(form, a, b)


@pytest.mark.parametrize("form", FORMS)
def test_nothing_is_gained_at_no_distance(form: Form) -> None:
    assert float(value_at(form, [0.0], 1.3, 0.7)[0]) == 0.0


# -- fits ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["best_of_n", "rl"])
def test_a_curve_without_noise_gives_its_parameters_back(form: Form) -> None:
    law = fit_law(curve(form, 0.0, np.random.default_rng(0)), form)
    assert law.b is not None and law.peak_d is not None and law.peak_gain is not None
    assert (law.a.value, law.b.value) == pytest.approx(TRUE[form]) and law.rmse < 1e-12
    assert (law.peak_d.value, law.peak_gain.value) == pytest.approx(peak_of(form, *TRUE[form]))


@pytest.mark.parametrize("form", ["best_of_n", "rl"])
def test_intervals_hold_the_true_parameters_and_the_true_peak(form: Form) -> None:
    hits, rng, tries = np.zeros(3), np.random.default_rng(1), 150
    for _ in range(tries):
        law = fit_law(curve(form, 0.3, rng), form)
        assert law.b is not None and law.peak_d is not None
        for place, (one, true) in enumerate(
            zip((law.a, law.b, law.peak_d), (*TRUE[form], peak_of(form, *TRUE[form])[0]), strict=True)
        ):
            hits[place] += one.low <= true <= one.high
    assert (hits / tries > 0.9).all(), hits / tries


def test_seeds_with_distances_of_their_own() -> None:
    d_SD = np.stack([D, 1.5 * D[::-1], D**2 + 0.1])
    gain_SKD = np.stack([np.tile(value_at("rl", d_D, 0.6, 0.5), (5, 1)) for d_D in d_SD])
    law = fit_law(Gains(d_SD, gain_SKD), "rl")
    assert law.b is not None and (law.a.value, law.b.value) == pytest.approx((0.6, 0.5)) and law.rmse < 1e-12


def test_where_b_is_not_told_from_0_there_is_no_peak() -> None:
    law = fit_law(curve("straight", 0.5, np.random.default_rng(2)), "best_of_n")
    assert law.b is not None and law.b.low <= 0 and law.peak_d is None and law.peak_gain is None and not law.within


def test_a_peak_beyond_what_was_measured_is_called_one() -> None:
    gain_D = value_at("best_of_n", D, 1.0, 0.1)  # peaks at 5, measured up to 2.4
    law = fit_law(Gains(np.tile(D, (2, 1)), np.tile(gain_D, (2, 6, 1))), "best_of_n")
    assert law.peak_d is not None and law.peak_d.value == pytest.approx(5.0) and not law.within


def test_an_end_of_a_peak_that_nothing_bounds_is_infinite() -> None:
    rng = np.random.default_rng(3)
    found = [fit_law(curve("rl", 1.6, rng, openings=12), "rl") for _ in range(40)]
    ends = [law.peak_d for law in found if law.peak_d is not None]
    assert ends and all(one.low <= one.value <= one.high for one in ends)
    assert all(math.isfinite(one.low) for one in ends)


# -- which form ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["best_of_n", "rl", "levelling"])
def test_at_low_noise_the_form_that_made_the_curve_is_chosen_and_told_from_all_others(form: Form) -> None:
    found = [compare_forms(curve(form, 0.02, np.random.default_rng(seed))) for seed in range(8)]
    assert all(one.best == form for one in found) and sum(one.told for one in found) >= 6
    assert all(one.turns in (form != "levelling", None) for one in found)


def test_of_a_straight_line_the_line_is_never_refuted() -> None:
    found = [compare_forms(curve("straight", 0.1, np.random.default_rng(seed))) for seed in range(40)]
    kept = [one for one in found if one.best == "straight" or "straight" in one.rivals]
    assert len(kept) >= 35
    assert sum(one.turns is True for one in found) <= 2


@pytest.mark.parametrize("form", ["best_of_n", "rl", "straight", "levelling"])
def test_at_high_noise_nothing_can_be_told(form: Form) -> None:
    found = [compare_forms(curve(form, 6.0, np.random.default_rng(seed), openings=8)) for seed in range(20)]
    assert sum(one.told for one in found) <= 2
    assert sum(one.turns is None for one in found) >= 16


def test_seeds_that_bend_each_its_own_way_do_not_exclude_the_true_form() -> None:
    """With the seeds in every fold the straight line was excluded in 30 of 100."""
    rng, excluded = np.random.default_rng(1), 0
    for _ in range(40):
        own_S = 0.3 * rng.normal(size=(2, 3, 1, 1))
        base_D = value_at("straight", D, 0.5)
        gain_SKD = base_D * (1 + 0.3 * rng.normal(size=(1, 32, 1)))
        gain_SKD = gain_SKD + base_D.max() * (own_S[0] * (D / D.max()) ** 2 + own_S[1] * D / D.max())
        found = compare_forms(Gains(np.tile(D, (3, 1)), gain_SKD + 0.05 * rng.normal(size=gain_SKD.shape)))
        excluded += "straight" not in (found.best, *found.rivals)
    assert excluded <= 3


def test_one_seed_is_in_its_own_fold() -> None:
    found = compare_forms(curve("best_of_n", 0.02, np.random.default_rng(0), seeds=1))
    assert found.best == "best_of_n"


# -- a fall without a form ----------------------------------------------------------------------------------------------


def test_a_fall_is_found_where_there_is_one() -> None:
    a, b = TRUE["best_of_n"]
    gain_SKD = np.stack([np.tile(value_at("best_of_n", 1.4 * D, a, b), (20, 1)) for _ in range(3)])
    gain_SKD += 0.1 * np.random.default_rng(0).normal(size=gain_SKD.shape)
    found = fall_of(Gains(np.tile(1.4 * D, (3, 1)), gain_SKD))
    true = value_at("best_of_n", 1.4 * D, a, b)
    assert found.found and found.fall.low < true.max() - true[-1] < found.fall.high
    assert abs(found.point - int(true.argmax())) <= 1


def test_noise_on_a_curve_that_only_rises_or_is_flat_is_seldom_a_fall() -> None:
    rng, wrong = np.random.default_rng(5), 0
    for _ in range(200):
        flat_SKD = rng.normal(size=(3, 20, 1)) + rng.normal(size=(1, 20, 1)) + 0.5 * rng.normal(size=(3, 20, len(D)))
        wrong += fall_of(Gains(np.tile(D, (3, 1)), flat_SKD)).found
    assert wrong <= 10  # an interval of 95 % is wrong upwards in 2.5 %
    rising = fall_of(curve("straight", 0.05, rng))
    assert rising.point == len(D) - 1 and not rising.found
    assert rising.fall.low < rising.fall.value < rising.fall.high < 0, "it rose to the end, and by how much has a width"


def test_a_point_that_one_seed_has_high_by_luck_is_not_chosen_by_that_seed() -> None:
    gain_SKD = np.zeros((2, 8, 4))
    gain_SKD[0, :, 1], gain_SKD[1, :, 2] = 5.0, 4.0
    assert fall_of(Gains(np.tile(D[:4], (2, 1)), gain_SKD)).fall.value == 0.0


# -- what is refused ----------------------------------------------------------------------------------------------------


def test_what_is_no_curve_is_refused() -> None:
    good = np.zeros((2, 5, len(D)))
    for d_SD, gain_SKD in (
        (np.tile(D, (3, 1)), good),
        (np.tile(-D, (2, 1)), good),
        (np.zeros((2, len(D))), good),
        (np.tile(D, (2, 1)), np.full_like(good, np.nan)),
    ):
        with pytest.raises(DataError):
            Gains(d_SD, gain_SKD)
    with pytest.raises(DataError, match="do not determine"):
        fit_law(Gains(np.array([[1.0], [1.0]]), np.zeros((2, 5, 1))), "rl")
    with pytest.raises(DataError, match="only compared"):
        fit_law(Gains(np.tile(D, (2, 1)), good), "levelling")
    few = Gains(np.tile(D, (2, 1)), good[:, :2])
    for measure in (compare_forms, fall_of):
        with pytest.raises(DataError, match="openings"):
            measure(few)
