"""What rows of one group say about each other, by hand, and whatever the order of rows and the constant in their scores."""

import numpy as np
import pytest
import torch

from backflip.errors import DataError
from backflip.optimise.groups import equal_group_fraction, mean_of_others, moments, pair_rows

GROUP_B = torch.tensor([7, 3, 7, 3, 7, 9])


def test_mean_of_others_by_hand_column_by_column() -> None:
    x_BT = torch.tensor([[1.0, 5.0], [10.0, 2.0], [3.0, 7.0], [20.0, 4.0], [5.0, 9.0], [8.0, 8.0]])
    mask_BT = torch.ones_like(x_BT, dtype=torch.bool)
    mask_BT[2, 1] = False
    found_BT = mean_of_others(x_BT, mask_BT, GROUP_B)
    assert found_BT[:, 0].tolist() == [4.0, 20.0, 3.0, 10.0, 2.0, 0.0]
    assert found_BT[[0, 4], 1].tolist() == [9.0, 5.0], "a masked value says nothing about the others"


def test_a_rows_own_value_never_enters_its_baseline() -> None:
    rng = np.random.default_rng(0)
    x_BT, mask_BT = torch.tensor(rng.normal(size=(6, 3))), torch.tensor(rng.random((6, 3)) < 0.8)
    before_BT = mean_of_others(x_BT, mask_BT, GROUP_B)
    x_BT[2] += 100
    torch.testing.assert_close(mean_of_others(x_BT, mask_BT, GROUP_B)[2], before_BT[2])


def test_moments_by_hand_and_equal_scores_have_no_spread() -> None:
    score_B = torch.tensor([1.0, 0.1, 2.0, 0.1, 3.0, 5.0])
    for added in (0.0, 100.0):
        mean_B, std_B = moments(score_B + added, GROUP_B)
        assert mean_B.tolist() == pytest.approx([2 + added, 0.1 + added, 2 + added, 0.1 + added, 2 + added, 5 + added])
        assert std_B.tolist() == pytest.approx([(2 / 3) ** 0.5, 0, (2 / 3) ** 0.5, 0, (2 / 3) ** 0.5, 0], rel=1e-4)
        assert std_B[1] == std_B[3] == std_B[5] == 0
    assert equal_group_fraction(score_B.unsqueeze(1), GROUP_B) == pytest.approx(2 / 3)


def test_pairs_are_found_wherever_their_rows_stand() -> None:
    assert pair_rows(torch.tensor([5, 2, 2, 5])).tolist() == [[1, 2], [0, 3]]
    with pytest.raises(DataError, match="group 7 has 3 rows"):
        pair_rows(GROUP_B)
