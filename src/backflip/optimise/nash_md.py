"""Nash-MD: improve against a mixture of oneself and the reference, on preferences that no score can express.

A preference is a function `(episodes, rivals) -> prob_B`. The reward of a row is how likely it is preferred to a rival, less a
half; the rival comes from the geometric mixture policy^(1 - mixture) * reference^mixture of whole rows, which is drawn by weighing
the group's other rows, so nothing more is sampled. Left out: the KL penalty (`kl.shape_reward`, with tau as its beta).

Shapes: B rows, T decisions, N duels, A answers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backflip.data import Episodes
from backflip.errors import ConfigError, DataError
from backflip.optimise import reinforce
from backflip.optimise.kl import log_ratio_BT
from backflip.optimise.reinforce import ReinforceConfig
from backflip.optimise.returns import on_last_decision
from backflip.protocols import Policy

Preference = Callable[[Episodes, Episodes], Tensor]
"""From rows and as many rivals, row by row to the same prompt, to the probability that the row is preferred, (B,)."""


@dataclass(frozen=True)
class NashMDConfig:
    """Settings of one Nash-MD update."""

    mixture: float = 0.125
    """Weight of the reference in the rival: 0 is self-play, 1 a best reply to the reference (Munos et al. 2024, section 7)."""
    rivals: Literal["drawn", "all"] = "all"
    """all: every other row of the group, weighed, group size - 1 preferences a row. drawn: one of them; needs `rng`."""
    step: ReinforceConfig = field(default_factory=ReinforceConfig)
    """The policy-gradient step on the resulting rewards."""

    def __post_init__(self) -> None:
        if not 0 <= self.mixture <= 1:
            raise ConfigError(f"mixture is {self.mixture}, expected 0 (self-play) to 1 (the reference alone)")


def update(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    episodes: Episodes,
    reward_BT: Tensor,
    config: NashMDConfig,
    rng: np.random.Generator | None = None,
) -> dict[str, float]:
    """Take one policy-gradient step (Munos et al. 2024, section 7.1); statistics and errors are those of `reinforce.update`.

    `reward_BT` is `duel_rewards`, with the KL to the reference taken off: `kl.shape_reward(duel_rewards(...), episodes, tau)`.
    """
    return reinforce.update(policy, optimizer, episodes, reward_BT, config.step, rng)


def duel_rewards(
    episodes: Episodes, preference: Preference, config: NashMDConfig, rng: np.random.Generator | None = None
) -> tuple[Tensor, dict[str, float]]:
    """Return reward_BT, P(row preferred to its rival) - 1/2 on each last decision; and `win_rate_over_rival_mean`, `duels`.

    Rivals are rows of the same group, weighed by (reference / policy)^mixture: as the group grows, draws from the
    geometric mixture of whole rows. `episodes` need `logp_BT`, and `ref_logp_BT` unless the mixture is 0.

    Raises:
        ConfigError: a group of one row; rivals=drawn without `rng`.
        DataError: a preference that is no probability, with its row.
    """
    row_N, rival_N, weight_N = _duels(episodes, config)
    if config.rivals == "drawn":
        row_N, rival_N, weight_N = _draw(row_N, rival_N, weight_N, rng)
    prob_N = preference(episodes.select(row_N), episodes.select(rival_N)).detach().cpu().double()
    if prob_N.shape != row_N.shape or not ((prob_N >= 0) & (prob_N <= 1)).all():
        wrong = 0 if prob_N.shape != row_N.shape else int((~((prob_N >= 0) & (prob_N <= 1))).nonzero()[0])
        raise DataError(
            f"the preference gave {tuple(prob_N.shape)} numbers for {len(row_N)} duels, and for row {int(row_N[wrong])} against "
            f"row {int(rival_N[wrong])} no probability; expected one in [0, 1] a duel"
        )
    win_B = torch.zeros(len(episodes), dtype=torch.float64).index_add_(0, row_N, weight_N * prob_N)
    return on_last_decision(win_B - 0.5, episodes.mask_BT), {
        "win_rate_over_rival_mean": float(win_B.mean()),
        "duels": float(len(row_N)),
    }


def mirror_step(logp_A: Tensor, base_logp_A: Tensor, prob_AA: Tensor, eta: float, tau: float) -> Tensor:
    """Return log-probabilities after one exact step of Nash-MD on answers that are listed (Munos et al. 2024, section 5).

    pi' ~ mixture * exp(eta * P(. preferred to mixture)), mixture ~ pi^(1 - eta tau) * base^(eta tau). With
    eta = 2 / (tau (t + 2)) at step t the last policy comes to the regularised equilibrium, its KL falling as 1 / t at least.
    """
    if not 0 <= eta * tau <= 1:
        raise ConfigError(f"eta * tau is {eta * tau:g}, expected 0 to 1: it is the reference's weight in the mixture")
    mixture_A = torch.log_softmax((1 - eta * tau) * logp_A + eta * tau * base_logp_A, -1)
    return torch.log_softmax(mixture_A + eta * (prob_AA @ mixture_A.exp()), -1)


def _duels(episodes: Episodes, config: NashMDConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Return every ordered pair of rows of a group, and the rival's weight among the row's rivals; on the CPU."""
    group_B = episodes.group_B.cpu()
    row_N, rival_N = ((group_B.unsqueeze(1) == group_B) & ~torch.eye(len(group_B), dtype=torch.bool)).nonzero(
        as_tuple=True
    )
    if len(row_N.unique()) < len(group_B):
        raise ConfigError(
            "Nash-MD takes rivals from a row's group, and a group holds one row; sample groups of 2 or more"
        )
    lead_B = np.zeros(len(group_B))
    if config.mixture:
        lead_B = -config.mixture * log_ratio_BT(episodes).cpu().double().sum(1).numpy()
    lead_N = lead_B[rival_N.numpy()] - _most(lead_B[rival_N.numpy()], row_N)[row_N.numpy()]
    weight_N = torch.from_numpy(lead_N).exp()
    total_B = torch.zeros(len(group_B), dtype=torch.float64).index_add_(0, row_N, weight_N)
    return row_N, rival_N, weight_N / total_B[row_N]


def _draw(
    row_N: Tensor, rival_N: Tensor, weight_N: Tensor, rng: np.random.Generator | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Keep one rival a row, drawn by weight; `row_N` is in order."""
    if rng is None:
        raise ConfigError("rivals=drawn needs a numpy Generator; pass rng=, or set rivals=all")
    # Gumbel noise turns a draw by weight into a maximum.
    key_N = weight_N.log().numpy() + rng.gumbel(size=len(weight_N))
    drawn = torch.from_numpy(key_N == _most(key_N, row_N)[row_N.numpy()]).nonzero().flatten()
    return row_N[drawn], rival_N[drawn], torch.ones(len(drawn), dtype=torch.float64)


def _most(x_N: NDArray[np.float64], row_N: Tensor) -> NDArray[np.float64]:
    """Return the largest of each row's numbers, (B,)."""
    most_B = np.full(int(row_N.max()) + 1, -np.inf)
    np.maximum.at(most_B, row_N.numpy(), x_N)
    return most_B
