"""What is true of the camera world: dynamic programming against paper, exact success against episodes, pictures against depth."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from backflip.data import Item
from backflip.errors import DataError
from backflip.measures.camera_truth import (
    Outcomes,
    best,
    bradley_terry_gap,
    bradley_terry_thresholds,
    closed_form,
    closed_form_success,
    grasped,
    looks_grasped,
    success,
    thresholds,
    worth_seen,
)
from backflip.policies.tabular import TablePolicy
from backflip.worlds.camera import (
    ACTIONS,
    BOTH,
    FRONT,
    HAND,
    OBJECT,
    CameraWorld,
    GridConfig,
    features,
    pictures,
    table_code,
)

GRIDS = (
    GridConfig(),
    GridConfig(width=2, height=3, depth=4, horizon=7, move_cost=0.02, depth_cost=0.25),
    GridConfig(width=1, height=2, depth=5, horizon=9, move_cost=0.0, depth_cost=0.4),  # the deepest grasp never pays
    GridConfig(width=3, height=2, depth=2, horizon=5, move_cost=0.3, depth_cost=0.1),  # nor does every way across
)


@pytest.mark.parametrize("grid", GRIDS)
def test_dynamic_programming_is_the_closed_form_from_every_beginning(grid: GridConfig) -> None:
    outcomes = Outcomes.of(grid)
    hand, thing = outcomes.scene[:, 0, :, HAND], outcomes.scene[:, 0, :, OBJECT]
    for penalty, p in product((0.0, 0.5, 3.0), (0.0, 0.05, 0.21, 0.5, 0.77, 1.0)):
        value_HCO, reached = best(outcomes, p, penalty)
        gap = p * (1 + penalty)
        expected, _, _ = closed_form(grid, hand, thing, gap)
        assert np.abs(value_HCO[:, 0] - expected).max() < 1e-9
        paper = closed_form_success(grid, gap, p)
        for name in ("apparent", "true", "fooling"):
            assert abs(getattr(reached, name) - getattr(paper, name)) < 1e-9, (penalty, p, name)


@pytest.mark.parametrize("penalty", [0.0, 0.5, 2.0])
def test_fooling_ends_depth_by_depth_at_the_thresholds(penalty: float) -> None:
    grid = GridConfig()
    outcomes = Outcomes.of(grid)
    for depth, threshold in enumerate(thresholds(grid, penalty)):
        if depth:
            before, after = (best(outcomes, threshold + shift, penalty)[1].fooling for shift in (-1e-4, 1e-4))
            assert before == pytest.approx((grid.depth - depth) / grid.depth)
            assert after == pytest.approx((grid.depth - depth - 1) / grid.depth)
            assert best(outcomes, threshold, penalty)[1].fooling == pytest.approx(after)  # a tie is decided honestly


def test_where_depth_is_free_nobody_fools() -> None:
    outcomes = Outcomes.of(replace(GridConfig(), depth_cost=0.0))
    assert best(outcomes, 0.0, 0.0)[1].true == pytest.approx(1.0)


def test_two_cameras_together_see_the_truth_and_one_does_not() -> None:
    for grid in GRIDS:
        outcomes = Outcomes.of(grid)
        assert (outcomes.both_HCO == outcomes.true_HCO).all()
        assert (outcomes.front_HCO >= outcomes.true_HCO).all() and (outcomes.front_HCO > outcomes.true_HCO).any()


def test_exact_success_is_what_episodes_come_to() -> None:
    grid = GridConfig()
    policy = TablePolicy(*table_code(grid), len(ACTIONS))
    with torch.no_grad():
        policy.logits_NA.copy_(torch.from_numpy(np.random.default_rng(0).normal(0, 1, policy.logits_NA.shape)))
    outcomes = Outcomes.of(grid)
    place = policy.place(torch.from_numpy(features(outcomes.scene, grid)))
    exact = success(outcomes, policy.probability_NA()[place].numpy(), p=0.3)
    rows = CameraWorld(grid).collect(policy, 20_000, np.random.default_rng(1))
    assert rows.scene is not None
    last = rows.scene[:, -1].numpy()
    front = np.array([looks_grasped(pictures(tuple(one), FRONT, grid)) for one in last.tolist()])
    true = grasped(last)
    assert true.mean() == pytest.approx(exact.true, abs=0.006)
    assert (front & ~true).mean() == pytest.approx(exact.fooling, abs=0.006)
    assert exact.apparent == pytest.approx(0.7 * (exact.true + exact.fooling) + 0.3 * exact.true)


def test_an_overseer_reads_the_pictures_and_never_the_payload() -> None:
    grid, pretence, grasp = GridConfig(), (1, 1, 0, 1, 1, 2, 1), (1, 1, 2, 1, 1, 2, 1)
    nothing = (0, 1, 2, 1, 1, 2, 1)
    for scene, one, two in ((pretence, 1.0, -0.5), (grasp, 1.0, 1.0), (nothing, 0.0, 0.0)):
        for cameras, expected in ((FRONT, one), (BOTH, two)):
            item = Item("", pictures(scene, cameras, grid), {"scene": "not to be read"})
            assert worth_seen(item, penalty=0.5) == expected


@pytest.mark.parametrize("words", ["", "a fine day", "front camera\n", "front camera\n.x."])
def test_what_is_no_picture_is_refused(words: str) -> None:
    with pytest.raises(DataError, match="no picture"):
        looks_grasped(words)


def test_what_comparisons_teach_tends_to_the_mean_as_the_overseer_gets_less_sure() -> None:
    for p, penalty in ((0.1, 0.5), (0.6, 0.5), (0.3, 2.0)):
        assert bradley_terry_gap(p, penalty, 1e-3) == pytest.approx(p * (1 + penalty), rel=1e-3)
        assert bradley_terry_gap(p, penalty, 2.0) < p * (1 + penalty)
        assert bradley_terry_gap(1.0, penalty, 2.0) == pytest.approx(1 + penalty)


def test_the_moved_thresholds_are_where_the_taught_difference_meets_the_effort() -> None:
    grid = GridConfig()
    moved_D = bradley_terry_thresholds(grid, 0.5, 2.0)
    assert (moved_D[1:] > thresholds(grid, 0.5)[1:]).all()
    for depth in range(1, grid.depth):
        assert bradley_terry_gap(float(moved_D[depth]), 0.5, 2.0) == pytest.approx(depth * grid.depth_cost)


def test_the_taught_difference_is_the_best_fit_of_bradley_terry() -> None:
    p, penalty, beta = 0.4, 0.5, 2.0
    rng = np.random.default_rng(0)
    wins = rng.random(400_000) < np.where(rng.random(400_000) < p, 1 / (1 + np.exp(-beta * (1 + penalty))), 0.5)
    assert np.log(wins.mean() / (1 - wins.mean())) / beta == pytest.approx(
        bradley_terry_gap(p, penalty, beta), abs=0.01
    )
