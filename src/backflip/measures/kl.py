"""How far a policy has moved from its reference, in nats a sequence.

The exact measure sums, along each sampled answer, the full-vocabulary KL at every decision: its expectation is the KL of
the answers' distributions, with less variance than log-ratios have. Left out: KL as a penalty (`optimise/kl`).

Shapes: B rows, T decisions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from backflip.data import Episodes, Estimate
from backflip.measures.stats import mean_interval
from backflip.protocols import Policy

ROWS_A_PASS = 128


def kl_nats_per_sequence(policy: Policy, reference: Policy, episodes: Episodes) -> Estimate:
    """Return KL(policy || reference) of whole answers, nats, mean over openings.

    `episodes` must be the policy's own samples at its sampling temperature. Rows of one group (opening) are averaged
    first: the interval and n count openings.
    """
    return _over_openings(kl_B(policy, reference, episodes), episodes)


def kl_columns(policy: Any, reference: Policy, episodes: Episodes) -> dict[str, Any]:
    """Return a table's `kl_nats_per_sequence`: measured, or for best of n, which has no tokens' distribution, its bound with `kl_is_bound`."""
    bound: float | None = getattr(policy, "kl_bound_nats", None)
    if bound is None:
        return {"kl_nats_per_sequence": kl_nats_per_sequence(policy, reference, episodes)}
    openings = len(np.unique(episodes.group_B.cpu().numpy()))
    return {"kl_nats_per_sequence": Estimate(bound, bound, bound, openings), "kl_is_bound": True}


def k1_nats_per_sequence(policy: Policy, reference: Policy, episodes: Episodes) -> Estimate:
    """Return the mean log-ratio of whole answers (k1), nats: the same expectation as the exact one, more variance."""
    found: list[NDArray[np.float64]] = []
    with torch.no_grad():
        for part in _parts(episodes):
            ratio_BT = policy.evaluate(part).logp_BT - reference.evaluate(part).logp_BT
            found.append(torch.where(part.mask_BT.to(ratio_BT.device), ratio_BT, 0.0).double().sum(1).cpu().numpy())
    return _over_openings(np.concatenate(found), episodes)


def kl_B(policy: Policy, reference: Policy, episodes: Episodes) -> NDArray[np.float64]:
    """Return each row's sum of full-distribution KLs along its decisions, nats."""
    found: list[NDArray[np.float64]] = []
    for part in _parts(episodes):
        kl_BT = policy.kl_BT(reference, part)
        found.append(torch.where(part.mask_BT.to(kl_BT.device), kl_BT, 0.0).double().sum(1).cpu().numpy())
    return np.concatenate(found)


def _parts(episodes: Episodes) -> list[Episodes]:
    return [
        episodes.select(range(i, min(i + ROWS_A_PASS, len(episodes)))) for i in range(0, len(episodes), ROWS_A_PASS)
    ]


def _over_openings(nats_B: NDArray[np.float64], episodes: Episodes) -> Estimate:
    _, group_B = np.unique(episodes.group_B.cpu().numpy(), return_inverse=True)
    return mean_interval(np.bincount(group_B, weights=nats_B) / np.bincount(group_B))
