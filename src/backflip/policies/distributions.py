"""What an actor draws its actions from: a normal distribution, or a choice among a few.

Each has the same four functions: `draw` with numpy, as it acts; log-probability, entropy and KL with torch, as it learns. An action
is a vector in both: that of a choice has 1 at the one taken and 0 elsewhere, so clips, PPO and reward models see no difference.

Shapes: B rows, T decisions, A numbers of an action.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
MOST_STD = 1.0
"""No deviation grows beyond this. Actions are cut at -1 and 1, so a larger one is no more varied, but an entropy bonus pays for it without end: a
Hopper's ankle was left at a deviation of 54, which is a coin."""
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Gaussian:
    """A mean for every observation, and a deviation between 0 and `MOST_STD` that does not depend on it."""

    free_A: nn.Parameter
    """The log of the deviation is -softplus(-free) + log(MOST_STD): it can always come down again."""

    @staticmethod
    def of(actions: int, std: float) -> Gaussian:
        """Return one whose deviations are `std`, below `MOST_STD`, for every number of an action."""
        return Gaussian(nn.Parameter(torch.full((actions,), -math.log(MOST_STD / std - 1))))

    @property
    def log_std_A(self) -> Tensor:
        """Return the logs of the deviations, with gradients."""
        return math.log(MOST_STD) + logsigmoid(self.free_A)

    def draw(self, mean_BA: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """Return actions, (B, A), and their log-probabilities, (B,)."""
        log_std_A = self.log_std_now_A()
        noise_BA = rng.standard_normal(mean_BA.shape, dtype=np.float32)
        return mean_BA + np.exp(log_std_A) * noise_BA, log_normal(noise_BA, log_std_A)

    def log_std_now_A(self) -> Floats:
        """Return the logs of the deviations, without gradients."""
        log_std_A = math.log(MOST_STD) - np.logaddexp(np.float32(0), -self.free_A.detach().numpy())
        return np.asarray(log_std_A, dtype=np.float32)

    def logp_BT(self, mean_BTA: Tensor, action_BTA: Tensor) -> Tensor:
        """Return the log-probability of actions, nats."""
        log_std_A = self.log_std_A
        noise_BTA = (action_BTA - mean_BTA) * torch.exp(-log_std_A)
        return -(0.5 * noise_BTA * noise_BTA + log_std_A + HALF_LOG_2PI).sum(-1)

    def entropy(self, mean_BTA: Tensor) -> Tensor:
        """Return the entropy, nats: one number, as it is the same everywhere."""
        return (self.log_std_A + 0.5 + HALF_LOG_2PI).sum()

    def kl_BT(self, ours_BTA: Tensor, other: Any, theirs_BTA: Tensor) -> Tensor:
        """Return the KL to another normal distribution, nats."""
        gap_A = self.log_std_A - other.log_std_A
        apart_BTA = ((ours_BTA - theirs_BTA) * torch.exp(-other.log_std_A)) ** 2
        return (0.5 * (torch.exp(2 * gap_A) + apart_BTA - 1) - gap_A).sum(-1)


def log_normal(noise: Floats, log_std_A: Floats) -> Floats:
    """Return the log-probability, nats, of mean + deviation * noise, the last axis being the numbers of an action."""
    return -(0.5 * noise * noise + log_std_A + HALF_LOG_2PI).sum(-1)


@dataclass(frozen=True)
class Categorical:
    """A logit for every choice."""

    def draw(self, logit_BA: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """Return choices, (B, A) with one 1 a row, and their log-probabilities, (B,)."""
        high_BA = logit_BA - logit_BA.max(1, keepdims=True)
        logp_BA = high_BA - np.log(np.exp(high_BA).sum(1, keepdims=True))
        below_BA = np.cumsum(np.exp(logp_BA, dtype=np.float64), axis=1)
        # The largest possible draw is below 1, and rounding may leave the last sum there too.
        drawn = (rng.random(len(logit_BA))[:, None] >= below_BA[:, :-1]).sum(1)
        rows = np.arange(len(logit_BA))
        action_BA = np.zeros_like(logit_BA)
        action_BA[rows, drawn] = 1
        return action_BA, logp_BA[rows, drawn]

    def logp_BT(self, logit_BTA: Tensor, action_BTA: Tensor) -> Tensor:
        """Return the log-probability of choices, nats."""
        return (torch.log_softmax(logit_BTA, -1) * action_BTA).sum(-1)

    def entropy(self, logit_BTA: Tensor) -> Tensor:
        """Return the entropy of every decision, nats."""
        logp_BTA = torch.log_softmax(logit_BTA, -1)
        return -(logp_BTA.exp() * logp_BTA).sum(-1)

    def kl_BT(self, ours_BTA: Tensor, other: Any, theirs_BTA: Tensor) -> Tensor:
        """Return the KL to another choice among the same, nats."""
        logp_BTA = torch.log_softmax(ours_BTA, -1)
        return (logp_BTA.exp() * (logp_BTA - torch.log_softmax(theirs_BTA, -1))).sum(-1)
