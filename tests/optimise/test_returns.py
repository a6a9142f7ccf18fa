"""Laws of advantages and returns."""

import numpy as np
import pytest
import torch
from torch import Tensor

from backflip.data import Episodes
from backflip.errors import ConfigError, DataError
from backflip.optimise import returns


def ragged(seed: int = 0, rows: int = 5, width: int = 7) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rewards, values, a mask with holes (others' tokens), and a bootstrap value for rows 0 and 1."""
    rng = np.random.default_rng(seed)
    mask_BT = torch.tensor(rng.random((rows, width)) < 0.6)
    mask_BT[:, 0] = True
    reward_BT = torch.tensor(rng.normal(size=(rows, width))) * mask_BT
    value_BT = torch.tensor(rng.normal(size=(rows, width))) * mask_BT
    bootstrap_B = torch.tensor(rng.normal(size=rows)) * (torch.arange(rows) < 2)
    return reward_BT, value_BT, mask_BT, bootstrap_B


def textbook(rewards: list[float], values: list[float], bootstrap: float, gamma: float, lam: float) -> list[float]:
    """Schulman et al. 2016, eq. 16, as the double sum it is: A_t = sum_l (gamma lam)^l delta_{t+l}."""
    values = [*values, bootstrap]
    delta = [rewards[t] + gamma * values[t + 1] - values[t] for t in range(len(rewards))]
    return [sum((gamma * lam) ** k * delta[t + k] for k in range(len(delta) - t)) for t in range(len(delta))]


def test_gae_equals_the_textbook_sum_over_decisions() -> None:
    reward_BT, value_BT, mask_BT, bootstrap_B = ragged()
    for gamma, lam in ((1.0, 0.95), (0.9, 0.8), (0.97, 0.0), (0.9, 1.0)):
        advantage_BT, return_BT = returns.gae(reward_BT, value_BT, mask_BT, bootstrap_B, gamma, lam)
        for b in range(len(mask_BT)):
            mask = mask_BT[b]
            expected = textbook(
                reward_BT[b][mask].tolist(), value_BT[b][mask].tolist(), float(bootstrap_B[b]), gamma, lam
            )
            assert advantage_BT[b][mask].tolist() == pytest.approx(expected, abs=1e-12)
        assert (advantage_BT[~mask_BT] == 0).all() and (return_BT[~mask_BT] == 0).all()
        torch.testing.assert_close(return_BT, torch.where(mask_BT, advantage_BT + value_BT, 0.0))


def test_lambda_one_is_the_discounted_return_and_lambda_zero_one_step() -> None:
    reward_BT, value_BT, mask_BT, bootstrap_B = ragged()
    _, return_BT = returns.gae(reward_BT, value_BT, mask_BT, bootstrap_B, 0.9, 1.0)
    for b in range(len(mask_BT)):
        rewards = [*reward_BT[b][mask_BT[b]].tolist(), float(bootstrap_B[b])]
        expected = [sum(0.9 ** (k - t) * rewards[k] for k in range(t, len(rewards))) for t in range(len(rewards) - 1)]
        assert return_BT[b][mask_BT[b]].tolist() == pytest.approx(expected, abs=1e-12)


def test_what_lies_on_masked_positions_never_matters() -> None:
    reward_BT, value_BT, mask_BT, bootstrap_B = ragged()
    clean = returns.gae(reward_BT, value_BT, mask_BT, bootstrap_B, 0.9, 0.8)
    dirty_BT = torch.where(mask_BT, value_BT, 1e6)
    noisy_BT = torch.where(mask_BT, reward_BT, -1e6)
    for one, other in zip(clean, returns.gae(noisy_BT, dirty_BT, mask_BT, bootstrap_B, 0.9, 0.8), strict=True):
        torch.testing.assert_close(one, other)


def episodes_of(mask_BT: Tensor, bootstrap_B: Tensor) -> Episodes:
    rows = len(mask_BT)
    zeros = torch.zeros(rows, dtype=torch.long)
    return Episodes(zeros.unsqueeze(1), mask_BT.long(), mask_BT, None, bootstrap_B, zeros)


def test_centred_advantages_do_not_notice_a_constant_in_the_score() -> None:
    _, value_BT, mask_BT, _ = ragged()
    episodes = episodes_of(mask_BT, torch.zeros(len(mask_BT), dtype=torch.float64))
    last_BT = torch.nn.functional.one_hot((mask_BT * torch.arange(1, 8)).argmax(1), 7)
    score_B = torch.linspace(-1, 2, len(mask_BT), dtype=torch.float64)
    plain = returns.advantages(last_BT * score_B[:, None], value_BT, episodes, 1.0, 0.95, center=True)
    shifted = returns.advantages(last_BT * (score_B[:, None] + 100), value_BT, episodes, 1.0, 0.95, center=True)
    torch.testing.assert_close(plain[0], shifted[0])
    torch.testing.assert_close(plain[1], shifted[1])
    assert shifted[2]["value_offset"] - plain[2]["value_offset"] == pytest.approx(100)
    moved = returns.advantages(last_BT * (score_B[:, None] + 100), value_BT, episodes, 1.0, 0.95, center=False)
    assert not torch.allclose(plain[0], moved[0])


def test_without_centring_advantages_are_gae() -> None:
    reward_BT, value_BT, mask_BT, bootstrap_B = ragged()
    got = returns.advantages(reward_BT, value_BT, episodes_of(mask_BT, bootstrap_B), 0.9, 0.8, center=False)
    expected = returns.gae(reward_BT, value_BT, mask_BT, bootstrap_B, 0.9, 0.8)
    torch.testing.assert_close(got[0], expected[0])
    torch.testing.assert_close(got[1], expected[1])


def test_centring_is_refused_where_rows_were_cut() -> None:
    reward_BT, value_BT, mask_BT, bootstrap_B = ragged()
    with pytest.raises(ConfigError, match=r"2 of .* rows were cut.*center_values=False"):
        returns.advantages(reward_BT, value_BT, episodes_of(mask_BT, bootstrap_B), 1.0, 0.9, center=True)


def test_stray_and_infinite_rewards_are_refused() -> None:
    reward_BT, _, mask_BT, _ = ragged()
    returns.check_reward(reward_BT, mask_BT)
    stray_BT = reward_BT + (~mask_BT).double()
    with pytest.raises(DataError, match="decided nothing"):
        returns.check_reward(stray_BT, mask_BT)
    broken_BT = reward_BT.clone()
    broken_BT[2, 0] = float("nan")
    with pytest.raises(DataError, match="row 2 is not finite"):
        returns.check_reward(broken_BT, mask_BT)
    with pytest.raises(DataError, match="shape"):
        returns.check_reward(reward_BT[:, :-1], mask_BT)
