"""Laws of over-optimisation: what gold gains as a proxy is optimised, how the gain bends, and whether it turns.

Distance is d = sqrt(KL from the base, nats). Gao, Schulman and Hilton 2022, "Scaling laws for reward model overoptimization", section 3.1, found
d (a - b d) for best-of-n and d (a - b ln d) for reinforcement learning. Both bend whatever is fitted to them, so they are laid beside two forms
that never turn: a straight line, and one that levels off. Left out: the estimator of best-of-n (`best_of_n`), and who is measured.

Shapes: S seeds, K openings, D points of a curve, R rows (seeds by points), P parameters, C values of c that are tried.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from backflip.data import Estimate
from backflip.errors import DataError
from backflip.measures.crossed import crossed_interval

Floats = NDArray[np.float64]
Form = Literal["best_of_n", "rl", "straight", "levelling"]
FORMS: tuple[Form, ...] = get_args(Form)
FORMULA: dict[Form, str] = {
    "best_of_n": "d (a - b d)",
    "rl": "d (a - b ln d)",
    "straight": "a d",
    "levelling": "a (1 - exp(-d / c))",
}
TURNS: tuple[Form, ...] = ("best_of_n", "rl")
"""Forms that turn down somewhere, for b above 0."""
SCALES = np.geomspace(0.05, 50.0, 121)
"""Values of c that are tried, in units of the largest d; at the upper end the curve is a straight line."""
FARTHEST = 1e3
"""How many times the largest d an end of a peak's interval may lie away before it counts as unbounded."""


@dataclass(frozen=True)
class Gains:
    """What gold gained over the base's own answers to the same openings, at each point of a curve, under every seed."""

    d_SD: Floats
    gain_SKD: Floats

    def __post_init__(self) -> None:
        seeds, points = self.d_SD.shape
        if self.gain_SKD.shape[::2] != (seeds, points) or not np.isfinite(self.gain_SKD).all():
            raise DataError(
                f"distances {self.d_SD.shape} and gains {self.gain_SKD.shape}; expected (S, D) and (S, K, D), all finite"
            )
        if not np.isfinite(self.d_SD).all() or (self.d_SD < 0).any() or not (self.d_SD > 0).any():
            raise DataError("distances must be finite, 0 or more, and some of them above 0")

    @property
    def mean(self) -> Floats:
        """Gain at each point, (D,)."""
        return self.gain_SKD.mean((0, 1))

    def at(self, point: int) -> Estimate:
        """Return the gain at one point, with its interval over seeds and openings."""
        return crossed_interval(self.gain_SKD[:, :, point])


@dataclass(frozen=True)
class Law:
    """One form fitted to a curve."""

    form: Form
    a: Estimate
    b: Estimate | None
    """None for the straight line."""
    peak_d: Estimate | None
    """Where the fit turns: None where b's interval does not leave 0 below it, so that nothing says there is a turn. `high` may be inf."""
    peak_gain: Estimate | None
    rmse: float
    """Of the mean curve about the fit, in the gain's unit."""
    within: bool
    """Whether the peak lies inside the distances that were measured; beyond them it is an extrapolation."""


@dataclass(frozen=True)
class Choice:
    """How well each form foretells the gain of a seed on an opening, neither of which it was fitted to."""

    error: dict[Form, Estimate]
    """Mean squared error on what is left out."""
    excess: dict[Form, Estimate]
    """The same less the best form's, seed by seed and opening by opening."""
    best: Form
    rivals: tuple[Form, ...]
    """Forms that these seeds and openings cannot tell from the best."""

    @property
    def told(self) -> bool:
        """Whether the best is told from all others."""
        return not self.rivals

    @property
    def turns(self) -> bool | None:
        """Whether the curve is one that turns: None where a form of either kind is among the best and its rivals."""
        kinds = {form in TURNS for form in (self.best, *self.rivals)}
        return kinds.pop() if len(kinds) == 1 else None


@dataclass(frozen=True)
class Fall:
    """How far gold fell from its highest point before the last to the last one; no form is assumed."""

    point: int
    """Place of the highest point of the mean curve."""
    fall: Estimate
    """Measured where other openings under other seeds are highest: luck does not count. Below 0: gold rose to the end."""

    @property
    def found(self) -> bool:
        """Whether gold fell for sure: the interval leaves 0 out."""
        return self.fall.low > 0


def value_at(form: Form, d: ArrayLike, a: float, b: float = 0.0) -> Floats:
    """Return the gain by a law at distances `d`; `b` of the levelling form is its scale c. The law is 0 at d = 0."""
    d_D = np.asarray(d, dtype=np.float64)
    if form == "levelling":
        return a * -np.expm1(-d_D / b)
    return _columns(form, d_D) @ np.array([a, b][: _parameters(form)])


def peak_of(form: Form, a: float, b: float) -> tuple[float, float]:
    """Return (d*, R*) of a law that turns, a and b above 0: a / 2b and a^2 / 4b for best-of-n, exp(a / b - 1) and b d* for RL.

    Raises:
        DataError: the form or its parameters have no peak.
    """
    if form not in TURNS or not (a > 0 and b > 0):
        raise DataError(f"{FORMULA[form]} with a = {a:.3g}, b = {b:.3g} has no peak; expected a and b above 0")
    if form == "best_of_n":
        return a / (2 * b), a * a / (4 * b)
    d = math.exp(min(a / b - 1, 700.0))
    return d, b * d


def fit_law(curve: Gains, form: Form) -> Law:
    """Fit a form that is linear in its parameters by least squares over the points, with intervals over seeds and openings.

    Every parameter is a weighted sum of gains, so it has a value for each seed and opening, and the interval of their mean is exact for
    independent seeds and openings however the points of one curve hang together (they do: all are of one pool). The peak's interval
    holds each d at which the slope is not told from 0 (Fieller 1954); that of R* takes d* as known, which it is to first order.

    Raises:
        DataError: fewer points above d = 0 than parameters, or the levelling form, which is not linear.
    """
    if form == "levelling":
        raise DataError("the levelling form is only compared (compare_forms): it has no peak to estimate")
    part_SKP = np.stack([_solve(form, d_D, gain_KD) for d_D, gain_KD in zip(curve.d_SD, curve.gain_SKD, strict=True)])
    a = crossed_interval(part_SKP[..., 0])
    b = crossed_interval(part_SKP[..., 1]) if part_SKP.shape[-1] > 1 else None
    fitted_SD = np.stack([_columns(form, d_D) @ part_SKP.mean((0, 1)) for d_D in curve.d_SD])
    rmse = float(np.sqrt(((curve.gain_SKD.mean(1) - fitted_SD) ** 2).mean()))
    if b is None or b.low <= 0 or a.value <= 0:
        return Law(form, a, b, None, None, rmse, within=False)
    d_peak, _ = peak_of(form, a.value, b.value)
    farthest = float(curve.d_SD.max())
    ends = [_end_of_peak(form, part_SKP, d_peak, step, farthest) for step in (1 / 1.02, 1.02)]
    height = crossed_interval(part_SKP @ _columns(form, np.array([d_peak]))[0])
    return Law(form, a, b, Estimate(d_peak, *ends, n=b.n), height, rmse, within=d_peak < farthest)


def compare_forms(curve: Gains) -> Choice:
    """Leave each seed and each opening out in turn, fit every form to the others' mean curves, and see how well it foretells what is left out.

    A form is a rival of the best where the interval of its excess error, over seeds and openings, holds 0: it is the form of another seed's
    curve that is asked for. With one seed, which then is in every fold, the answer is of that seed alone.

    Raises:
        DataError: there are fewer than three openings.
    """
    seeds, openings, _ = curve.gain_SKD.shape
    if openings < 3:
        raise DataError(f"{openings} openings; expected 3 or more, since each is left out in turn")
    others_SKD = (curve.gain_SKD.sum(1, keepdims=True) - curve.gain_SKD) / (openings - 1)
    error_SK: dict[Form, Floats] = {form: np.empty((seeds, openings)) for form in FORMS}
    for seed in range(seeds):
        rest = [other for other in range(seeds) if other != seed or seeds == 1]
        d_R = curve.d_SD[rest].ravel()
        fitted_KR = others_SKD[rest].transpose(1, 0, 2).reshape(openings, -1)
        for form in FORMS:
            foretell = _levelling if form == "levelling" else partial(_linear, form)
            foretold_KD = foretell(d_R, fitted_KR, curve.d_SD[seed])
            error_SK[form][seed] = ((curve.gain_SKD[seed] - foretold_KD) ** 2).mean(1)
    best: Form = min(FORMS, key=lambda form: float(error_SK[form].mean()))
    excess: dict[Form, Estimate] = {form: crossed_interval(error_SK[form] - error_SK[best]) for form in FORMS}
    rivals: tuple[Form, ...] = tuple(form for form in FORMS if form != best and excess[form].low <= 0)
    return Choice({form: crossed_interval(error_SK[form]) for form in FORMS}, excess, best, rivals)


def fall_of(curve: Gains) -> Fall:
    """Return by how much gold fell to the last point from the highest one before it; less than 0: it rose to the end.

    The highest of several noisy points is highest by luck too, that of the seed and that of the openings; chosen on others it is not: each half of
    the openings is measured, under each seed, at the highest point of the other half under the other seeds. An interval above 0 is
    over-optimisation whatever the law is.

    Raises:
        DataError: there are fewer than four openings, or fewer than two points.
    """
    seeds, openings, points = curve.gain_SKD.shape
    if openings < 4 or points < 2:
        raise DataError(f"{openings} openings and {points} points; expected 4 or more, two in each half, and 2 or more")
    fall_SK = np.empty((seeds, openings))
    for seed in range(seeds):
        rest = [other for other in range(seeds) if other != seed or seeds == 1]
        for half in (0, 1):
            mine_K = np.arange(openings) % 2 == half
            top = int(curve.gain_SKD[rest][:, ~mine_K, :-1].mean((0, 1)).argmax())
            fall_SK[seed, mine_K] = curve.gain_SKD[seed, mine_K, top] - curve.gain_SKD[seed, mine_K, -1]
    return Fall(int(curve.mean.argmax()), crossed_interval(fall_SK))


def _parameters(form: Form) -> int:
    return 1 if form == "straight" else 2


def _columns(form: Form, d_D: Floats) -> Floats:
    """Return what the parameters of a linear form are multiplied by, (D, P)."""
    if form == "straight":
        return d_D[:, None]
    bend_D = d_D * d_D if form == "best_of_n" else d_D * np.log(np.where(d_D > 0, d_D, 1.0))
    return np.stack([d_D, -bend_D], axis=-1)


def _solve(form: Form, d_D: Floats, gain_KD: Floats) -> Floats:
    """Return each opening's least-squares parameters, (K, P).

    Raises:
        DataError: the points do not determine them.
    """
    columns_DP = _columns(form, d_D)
    if np.linalg.matrix_rank(columns_DP) < columns_DP.shape[1]:
        raise DataError(
            f"{len(np.unique(d_D[d_D > 0]))} distinct distances above 0 do not determine {FORMULA[form]}; measure more points"
        )
    return gain_KD @ np.linalg.pinv(columns_DP).T


def _linear(form: Form, d_R: Floats, gain_KR: Floats, d_D: Floats) -> Floats:
    """Return what a linear form, fitted to each row, foretells at the distances `d_D`, (K, D)."""
    return _solve(form, d_R, gain_KR) @ _columns(form, d_D).T


def _levelling(d_R: Floats, gain_KR: Floats, d_D: Floats) -> Floats:
    """Return what the levelling form, fitted to each row, foretells at the distances `d_D`, (K, D): c by trying, a in closed form."""
    scale_C = SCALES * d_R.max()
    shape_CR = -np.expm1(-d_R / scale_C[:, None])
    a_KC = gain_KR @ shape_CR.T / (shape_CR**2).sum(1)
    # The squared error is least where what the shape explains is most.
    best_K = (a_KC**2 * (shape_CR**2).sum(1)).argmax(1)
    return a_KC[np.arange(len(gain_KR)), best_K][:, None] * -np.expm1(-d_D / scale_C[best_K][:, None])


def _slope(form: Form, part_SKP: Floats, d: float) -> Estimate:
    """Return the law's slope at d, with its interval."""
    bend = 2 * d if form == "best_of_n" else 1 + math.log(d)
    return crossed_interval(part_SKP @ np.array([1.0, -bend]))


def _end_of_peak(form: Form, part_SKP: Floats, d: float, step: float, farthest: float) -> float:
    """Return the first d, going by factors of `step`, at which the slope is told from 0; 0 or inf where there is none."""
    while farthest / FARTHEST < d < farthest * FARTHEST:
        d *= step
        slope = _slope(form, part_SKP, d)
        if slope.low > 0 or slope.high < 0:
            return d
    return math.inf if step > 1 else 0.0
