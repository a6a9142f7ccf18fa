"""From rewards and values to advantages and returns.

Left out: whitening (`backflip.masked`) and the KL penalty (`backflip.optimise.kl`), which come after and before.

Shapes: B rows, T decisions.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from backflip.data import Episodes
from backflip.errors import ConfigError, DataError
from backflip.masked import masked_mean


def check_reward(reward_BT: Tensor, mask_BT: Tensor) -> None:
    """Refuse rewards that nobody decided for: they would be lost without a sound.

    Raises:
        DataError: shapes differ, a reward is not finite, or a reward other than 0 lies on a masked position (the
            usual cause is a score placed one token after the last, on padding).
    """
    if reward_BT.shape != mask_BT.shape:
        raise DataError(f"reward_BT has shape {tuple(reward_BT.shape)}, expected {tuple(mask_BT.shape)} as mask_BT")
    if not torch.isfinite(reward_BT).all():
        row = int((~torch.isfinite(reward_BT)).any(1).nonzero()[0])
        raise DataError(f"the reward of row {row} is not finite; look at what the reward returned for it")
    stray_B = ((reward_BT != 0) & ~mask_BT).any(1)
    if stray_B.any():
        row = int(stray_B.nonzero()[0])
        raise DataError(
            f"row {row} has a reward on a position where the policy decided nothing; put a score on the last decision"
        )


def on_last_decision(value_B: Tensor, mask_BT: Tensor) -> Tensor:
    """Return reward_BT with every row's value on its last decision, 0 elsewhere: where a score on a whole row belongs.

    Raises:
        DataError: a row without a decision, so its value has no place.
    """
    if (empty_B := ~mask_BT.any(1)).any():
        raise DataError(f"row {int(empty_B.nonzero()[0])} holds no decision, so its score has no place; leave it out")
    position_T = torch.arange(mask_BT.shape[1], device=mask_BT.device)
    last_B = torch.where(mask_BT, position_T, -1).amax(1)
    reward_BT = torch.zeros(mask_BT.shape, device=mask_BT.device)
    reward_BT[torch.arange(len(last_B), device=last_B.device), last_B] = value_B.float().to(mask_BT.device)
    return reward_BT


def gae(
    reward_BT: Tensor, value_BT: Tensor, mask_BT: Tensor, bootstrap_B: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Compute advantages and returns by generalised advantage estimation (Schulman et al. 2016, eq. 16).

    delta_t = r_t + gamma * V_next - V_t and A_t = delta_t + gamma * lam * A_next, where "next" is the row's next
    *decision*: value and advantage are carried unchanged across masked positions (others' tokens in a dialogue), and
    gamma counts decisions, not positions. After the last decision V_next is `bootstrap_B`: 0 for a row that ended.

    Returns `(advantage_BT, return_BT)`, 0 where masked, without gradient; return = advantage + value, before whitening.
    """
    reward_TB, value_TB = (one.detach().to(value_BT.dtype).cpu().numpy().T for one in (reward_BT, value_BT))
    decided_TB = mask_BT.cpu().numpy().T
    advantage_TB = np.zeros_like(value_TB)
    next_value_B = bootstrap_B.detach().to(value_BT.dtype).cpu().numpy()
    next_advantage_B = np.zeros_like(next_value_B)
    # A step is a few numbers a row: numpy does in half a microsecond what costs a tensor five, on any device.
    for t in reversed(range(len(value_TB))):
        decided_B = decided_TB[t]
        delta_B = reward_TB[t] + gamma * next_value_B - value_TB[t]
        advantage_B = delta_B + gamma * lam * next_advantage_B
        next_advantage_B = np.where(decided_B, advantage_B, next_advantage_B)
        next_value_B = np.where(decided_B, value_TB[t], next_value_B)
        advantage_TB[t] = np.where(decided_B, advantage_B, 0)
    advantage_BT = torch.from_numpy(np.ascontiguousarray(advantage_TB.T)).to(value_BT.device)
    return advantage_BT, torch.where(mask_BT, advantage_BT + value_BT.detach(), torch.zeros_like(value_BT))


def advantages(
    reward_BT: Tensor, value_BT: Tensor, episodes: Episodes, gamma: float, lam: float, *, center: bool
) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Return advantages before whitening, what the critic should have said, and statistics of both.

    With `center` the critic's mean over the batch is replaced by that of the sampled returns, and its targets are
    centred at 0: a constant added to every score changes neither, and a critic that starts at 0 needs no warm-up.
    That is right only where every row ended: the value of a next state would have to move with the rest, and nobody knows by
    how much. Without `center` these are `gae`'s. docs/ppo.md explains `reward_sum_mean`, `return_mean`, `value_mean`, `value_offset`,
    `advantage_mean`, `advantage_std` and `explained_variance`.

    Raises:
        ConfigError: `center`, and a row was cut and goes on in its bootstrap value.
    """
    mask_BT, bootstrap_B = episodes.mask_BT, episodes.bootstrap_B
    if center and (cut := int((bootstrap_B != 0).sum())):
        raise ConfigError(
            f"{cut} of {len(bootstrap_B)} rows were cut and go on in the critic's value, which centring would shift; set "
            "center_values=False"
        )
    _, sampled_BT = gae(reward_BT, value_BT, mask_BT, bootstrap_B, gamma, 1.0)
    return_mean, return_variance = _moments(sampled_BT, mask_BT)
    value_mean = masked_mean(value_BT, mask_BT)
    offset = return_mean - value_mean if center else torch.zeros_like(value_mean)
    shifted_BT = torch.where(mask_BT, value_BT + offset, 0.0)
    advantage_BT, target_BT = gae(reward_BT, shifted_BT, mask_BT, bootstrap_B, gamma, lam)
    if center:
        target_BT = torch.where(mask_BT, target_BT - return_mean, 0.0)
    advantage_mean, advantage_variance = _moments(advantage_BT, mask_BT)
    _, error = _moments(sampled_BT - value_BT, mask_BT)
    return (
        advantage_BT,
        target_BT,
        {
            "reward_sum_mean": float(reward_BT.sum(1).mean()),
            "return_mean": float(return_mean),
            "value_mean": float(value_mean),
            "value_offset": float(offset),
            "advantage_mean": float(advantage_mean),
            "advantage_std": float(advantage_variance) ** 0.5,
            "explained_variance": float(1 - error / return_variance) if return_variance > 0 else 0.0,
        },
    )


def _moments(x_BT: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and population variance over the mask."""
    mean = masked_mean(x_BT, mask_BT)
    return mean, masked_mean((x_BT - mean) ** 2, mask_BT)
