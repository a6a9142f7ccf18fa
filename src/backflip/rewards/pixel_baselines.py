"""Null baselines for rewards on pictures, fitted on the same comparisons: what needs no network must be beaten.

Shapes: R clips, N comparisons, F features, H and W pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from backflip.data import Episodes
from backflip.rewards.fit import Rows

Array = NDArray[np.float64]
BLOCK = 4
"""Pictures are made so many times smaller, so that there are not many more numbers than comparisons."""
L2 = 1.0


def pixel_baseline_deltas(fitted: Rows, held: Rows) -> dict[str, Array]:
    """Fit the null baselines on `fitted`; return their score differences on `held`.

    majority: the place that won more often. brightness: one number a clip. mean_picture: linear in the clip's mean picture.
    motion: linear in the mean picture of what changed between two pictures.
    """
    lean = float((fitted.weight_B * (fitted.share_B - 0.5)).sum())
    found = {"majority": np.full(len(held.first_B), 1.0 if lean >= 0 else -1.0)}
    for name, features in (("brightness", _brightness), ("mean_picture", _mean_picture), ("motion", _motion)):
        inside_RF, held_RF = features(fitted.episodes), features(held.episodes)
        mean_F, scale = inside_RF.mean(0), inside_RF.std() + 1e-9
        weight_F = _fit(_gaps(fitted, (inside_RF - mean_F) / scale), fitted)
        found[name] = _gaps(held, (held_RF - mean_F) / scale) @ weight_F
    return found


def _fit(gap_NF: Array, rows: Rows) -> Array:
    """Return the Bradley-Terry weights, with `L2` / 2 times their squares against the summed loss."""
    share_N, weight_N = rows.share_B.double().numpy(), rows.weight_B.double().numpy()

    def loss(point: Array) -> tuple[float, Array]:
        delta_N = gap_NF @ point
        nats = weight_N @ (np.logaddexp(0, delta_N) - share_N * delta_N)
        return float(nats + 0.5 * L2 * point @ point), gap_NF.T @ (weight_N * (expit(delta_N) - share_N)) + L2 * point

    found: Any = minimize(loss, np.zeros(gap_NF.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 300})
    return found.x


def _gaps(rows: Rows, features_RF: Array) -> Array:
    return features_RF[rows.first_B.numpy()] - features_RF[rows.second_B.numpy()]


def _brightness(clips: Episodes) -> Array:
    return np.array([[one.mean()] for one in clips.obs.numpy()])


def _mean_picture(clips: Episodes) -> Array:
    return np.stack([_smaller(one.mean(0)) for one in clips.obs.numpy()])


def _motion(clips: Episodes) -> Array:
    return np.stack([_smaller(np.abs(np.diff(one.astype(np.int16), axis=0)).mean(0)) for one in clips.obs.numpy()])


def _smaller(picture: Array) -> Array:
    high, wide = (size // BLOCK for size in picture.shape)
    return picture[: high * BLOCK, : wide * BLOCK].reshape(high, BLOCK, wide, BLOCK).mean((1, 3)).ravel()
