"""The leash: a KL penalty in the reward, and the two rules that set its weight.

The penalty is k1 per decision, log pi - log reference of what was sampled, taken from the reward. That is the only
placement whose optimum on whole answers is the closed form pi0 * exp(r / beta) / Z (docs/ppo.md says why a KL in the
loss is another objective). Measuring the KL exactly is `backflip.measures.kl`.

Shapes: B rows, T decisions. All KL in nats.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from backflip.data import Episodes
from backflip.errors import ConfigError, DataError


def log_ratio_BT(episodes: Episodes) -> Tensor:
    """Return log pi - log reference of every decision, nats, 0 where masked.

    Its mean over samples is KL(pi || reference). Single values may be negative; a persistently negative mean says that
    sampling and scoring differ.

    Raises:
        DataError: the episodes carry no `logp_BT` or no `ref_logp_BT`.
    """
    if episodes.logp_BT is None or episodes.ref_logp_BT is None:
        missing = "logp_BT" if episodes.logp_BT is None else "ref_logp_BT"
        raise DataError(f"the episodes carry no {missing}; fill it before asking for a KL penalty")
    ratio_BT = (episodes.logp_BT - episodes.ref_logp_BT).detach()
    return torch.where(episodes.mask_BT, ratio_BT, torch.zeros_like(ratio_BT))


def k1_nats_B(episodes: Episodes) -> Tensor:
    """Return the k1 estimate of each row's KL, summed along the row, nats."""
    return log_ratio_BT(episodes).sum(1)


def shape_reward(reward_BT: Tensor, episodes: Episodes, beta: float) -> Tensor:
    """Subtract beta * (log pi - log reference) from the reward of every decision.

    Law: the sum over a row is its score - beta * its summed log-ratio, exactly.

    Raises:
        DataError: as `log_ratio_BT`.
    """
    return reward_BT - beta * log_ratio_BT(episodes)


@dataclass(frozen=True)
class FixedKL:
    """A KL weight that stays (Huang et al. 2024, "The N+ implementation details")."""

    beta: float = 0.05
    """Reward units a nat."""

    def __post_init__(self) -> None:
        if not 0 <= self.beta < float("inf"):
            raise ConfigError(
                f"kl.beta is {self.beta}, expected 0 or more, and finite; a negative KL weight rewards drifting away"
            )

    def after(self, kl_nats_per_sequence: float, episodes: int) -> FixedKL:
        """Return the controller for the next update: itself."""
        return self


@dataclass(frozen=True)
class AdaptiveKL:
    """A KL weight steered towards a target (Ziegler et al. 2019, section 2.2).

    error = clip(KL / target - 1, -0.2, 0.2); beta <- beta * (1 + error * episodes / horizon). All the state is `beta`.
    """

    beta: float = 0.15
    """Reward units a nat, at the start."""
    target_kl_nats_per_sequence: float = 6.0
    """Nats summed over a whole answer. Libraries that mean nats per token need other values."""
    horizon_episodes: int = 10_000
    """Episodes over which the weight may change by about 20 %."""

    def __post_init__(self) -> None:
        if self.beta <= 0 or self.target_kl_nats_per_sequence <= 0 or self.horizon_episodes <= 0:
            raise ConfigError(
                f"beta, target_kl_nats_per_sequence and horizon_episodes must be above 0, got {self.beta}, "
                f"{self.target_kl_nats_per_sequence} and {self.horizon_episodes}; for no KL penalty use FixedKL(0)"
            )

    def after(self, kl_nats_per_sequence: float, episodes: int) -> AdaptiveKL:
        """Return the controller for the next update, having seen a mean KL over this many episodes."""
        error = min(max(kl_nats_per_sequence / self.target_kl_nats_per_sequence - 1.0, -0.2), 0.2)
        return replace(self, beta=self.beta * (1.0 + error * min(1.0, episodes / self.horizon_episodes)))


KLControl = FixedKL | AdaptiveKL
"""Either rule; a config holds one of them, a loop calls `after` once an update and saves `beta`."""
