"""Fit the scalar head alone on frozen features, before anything else moves.

A head drawn from noise sends noise into a pretrained model: fine-tuning then spends its few comparisons on undoing it, and
bends features that were good (Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features", section 3: LP-FT).
The problem is convex, so it is solved, not stepped.

Shapes: C comparisons, R rows, D features.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit
from torch import Tensor

from backflip.data import Episodes


@runtime_checkable
class Probed(Protocol):
    """A scorer whose last layer is linear in features that it can show."""

    def features_BD(self, episodes: Episodes) -> Tensor:
        """Return the features of every row, without gradient."""
        ...

    def set_head(self, weight_D: Tensor) -> None:
        """Replace the weights of the last layer."""
        ...


def probe_head(
    model: Probed, episodes: Episodes, first_C: Tensor, second_C: Tensor, share_C: Tensor, weight_C: Tensor, l2: float
) -> float:
    """Set the head to the Bradley-Terry optimum on the model's features as they are; return its mean loss, nats.

    Comparison c is between rows `first_C[c]` and `second_C[c]` of `episodes`. Features are scaled so that their mean square
    over rows and features is 1 / D, and `l2 / 2` times the squared weights on them is added to the mean loss.
    """
    features_RD = model.features_BD(episodes).double().numpy()
    scale = float(features_RD.std()) * np.sqrt(features_RD.shape[1])
    gap_CD = (features_RD[first_C.cpu().numpy()] - features_RD[second_C.cpu().numpy()]) / scale
    share, weight = share_C.double().cpu().numpy(), weight_C.double().cpu().numpy()
    weight = weight / weight.sum()

    def loss(point: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        delta = gap_CD @ point
        value = np.logaddexp(0, delta) - share * delta
        slope = gap_CD.T @ (weight * (expit(delta) - share))
        return float(weight @ value + 0.5 * l2 * point @ point), slope + l2 * point

    found: Any = minimize(loss, np.zeros(gap_CD.shape[1]), jac=True, method="L-BFGS-B")
    model.set_head(torch.from_numpy(found.x / scale).float())
    return float(found.fun)
