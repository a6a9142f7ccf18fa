"""Curiosity: the published formula on fixed tensors, bonuses that fade, and noise that only some of them can leave alone."""

import numpy as np
import pytest
import torch

from backflip.errors import ConfigError
from backflip.policies.rooms_policy import StatePolicy
from backflip.protocols import RewardModel
from backflip.rewards.curiosity import (
    CountBonus,
    CuriosityConfig,
    Disagreement,
    ForwardError,
    forward_error,
    joint_loss,
)
from backflip.testing import check_reward_model
from backflip.worlds.rooms import PRESS, Rooms, RoomsConfig

CONFIG = CuriosityConfig(hidden=32, steps=8)
SMALL = "#####\n#ST.#\n#..G#\n#####"


def world() -> Rooms:
    return Rooms(RoomsConfig(plan=SMALL, television="remote", horizon=20))


def rows_of(rooms: Rooms, seed: int, count: int = 16):
    policy = StatePolicy(rooms.states, rooms.actions, rooms.config.horizon)
    return rooms.collect(policy, count, np.random.default_rng(seed), anywhere=True)


def test_the_published_loss_and_bonus_on_fixed_tensors() -> None:
    """predloss = (0.8 inverse + 0.2 forward) * 10; forward = 288 / 2 * mean square over 288 features; bonus 0.01 of it."""
    guess, came = torch.full((2, 288), 0.5), torch.zeros(2, 288)
    error_N = forward_error(guess, came)
    assert torch.allclose(error_N, 288 * 0.5 * torch.mean((guess - came) ** 2, -1)) and error_N.tolist() == [36.0, 36.0]
    total = joint_loss(torch.tensor(1.5), error_N.mean(), CuriosityConfig())
    assert float(total) == pytest.approx((0.8 * 1.5 + 0.2 * 36.0) * 10)
    assert CuriosityConfig().bonus == 0.01


def test_the_bonus_of_a_forward_error_is_computed_as_by_hand() -> None:
    rooms = world()
    icm = ForwardError(rooms.features, (rooms.cells + 8, 5), CONFIG, np.random.default_rng(0))
    rows = rows_of(rooms, 0)
    seen = rooms.features(rows.obs)

    def layer(x: torch.Tensor, net: torch.nn.ParameterList) -> torch.Tensor:
        return torch.relu(x @ net[0] + net[1]) @ net[2] + net[3]

    code = layer(seen, icm.encoder)
    taken = torch.nn.functional.one_hot(rows.action, 5).float()
    guess = layer(torch.cat([code[:, :-1], taken], -1), icm.forward_model)
    by_hand = 0.01 * 0.5 * ((guess - code[:, 1:]) ** 2).sum(-1)
    torch.testing.assert_close(icm(rows), by_hand.detach())


@pytest.mark.parametrize("kind", ["icm", "disagreement", "cells", "observations"])
def test_each_is_a_reward_model_and_its_bonus_fades(kind: str) -> None:
    rooms = world()
    sizes, rng = (rooms.cells + 8, 5), np.random.default_rng(0)
    reward = {
        "icm": lambda: ForwardError(rooms.features, sizes, CONFIG, rng),
        "disagreement": lambda: Disagreement(rooms.features, sizes, CONFIG, rng),
        "cells": lambda: CountBonus(rooms),
        "observations": lambda: CountBonus(rooms, "observations"),
    }[kind]()
    assert isinstance(reward, RewardModel)
    rows = rows_of(rooms, 0)
    check_reward_model(reward, rows)
    before = float(reward(rows).mean())
    for turn in range(12):
        reward.learn(rows_of(rooms, turn + 1), rng)
    assert float(reward(rows).mean()) < 0.8 * before


def test_pressing_the_remote_stays_new_to_forward_errors_and_gets_old_for_the_others() -> None:
    """The mechanism of the trap: what is left of the bonus on presses, beside everything else, after learning."""
    rooms = world()
    sizes, rng = (rooms.cells + 8, 5), np.random.default_rng(0)
    rewards = {
        "icm": ForwardError(rooms.features, sizes, CONFIG, rng),
        "disagreement": Disagreement(rooms.features, sizes, CONFIG, rng),
        "cells": CountBonus(rooms),
    }
    for turn in range(100):
        rows = rows_of(rooms, turn)
        for reward in rewards.values():
            reward.learn(rows, rng)
    rows = rows_of(rooms, 1000, 64)
    pressed = (rows.obs[:, :-1, 0] == rooms.marked("T")[0]) & (rows.action == PRESS)
    known = ~(torch.isin(rows.obs[:, 1:, 0], torch.tensor(rooms.marked("T"))))
    ratio = {name: float(one(rows)[pressed].mean() / one(rows)[known].mean()) for name, one in rewards.items()}
    assert ratio["icm"] > 3, ratio
    assert ratio["cells"] < 1.5 and ratio["disagreement"] < ratio["icm"], ratio


def test_counts_pay_one_over_the_root_of_visits() -> None:
    rooms = world()
    bonus, rows = CountBonus(rooms), rows_of(rooms, 0, 4)
    assert (bonus(rows) == 1).all()
    stats = bonus.learn(rows, np.random.default_rng(0))
    seen = np.bincount(rows.obs[:, 1:, 0].numpy().ravel(), minlength=rooms.states)
    assert stats["states_seen"] == (seen > 0).sum()
    assert np.allclose(bonus(rows).numpy(), 1 / np.sqrt(1 + seen[rows.obs[:, 1:, 0].numpy()]))


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="members"):
        CuriosityConfig(members=0)
    with pytest.raises(ConfigError, match="share"):
        CuriosityConfig(forward_weight=1.5)
