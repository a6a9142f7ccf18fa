"""`backflip run overoptimisation --plan`: what it counts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from backflip.experiments import overoptimisation_plan
from backflip.experiments.overoptimisation import OveroptimisationConfig
from backflip.experiments.overoptimisation_plan import multiplied
from backflip.experiments.overoptimisation_proxies import Cell
from backflip.plan import PRODUCT_SHARE, shape_of
from backflip.policies.lm import load_policy
from backflip.policies.smaller import smaller
from backflip.rewards.model import SequenceRewardModel
from backflip.worlds import reviews

FLOPS = 1e10
BASE = shape_of(reviews.assets() / "base")
BY_LABELS = OveroptimisationConfig(sizes=("1x64", "4x256"), labels=(50, 200), ensemble="1x64/50", pushed=())


@pytest.fixture(autouse=True)
def _known_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overoptimisation_plan, "measure_flops", lambda device: FLOPS)


@pytest.mark.parametrize("size", ["1x64", "1x256", "4x256"])
def test_the_weights_of_a_proxy_are_those_of_the_model_that_is_made(size: str) -> None:
    layers, width = (int(part) for part in size.split("x"))
    base = load_policy(reviews.assets() / "base", OveroptimisationConfig().sampling)
    lm = smaller(base.module.plain, layers, width, np.random.default_rng(0))
    model = SequenceRewardModel.from_causal_lm(lm, np.random.default_rng(0))
    inside = sum(one.numel() for name, one in model.module.named_parameters() if "layers" in name and one.ndim == 2)
    assert multiplied(Cell(size, 50), BASE) == pytest.approx(inside, rel=0.1)


def test_fits_and_scores_are_counted_by_members_seeds_and_sizes() -> None:
    found = overoptimisation_plan.overoptimisation_plan(BY_LABELS)
    # Four members of 1x64 on 50 labels, one on 200; one of 4x256 on 50 and on 200; three seeds; 8 + 32 tokens a row.
    small, large = multiplied(Cell("1x64", 50), BASE), multiplied(Cell("4x256", 50), BASE)
    forward = 2 / (FLOPS * PRODUCT_SHARE)
    scored = 3 * (5 * small + 2 * large) * 32 * 1024 * 40 * forward
    fitted = 3 * 2 * (small * (4 * 50 + 200) + large * (50 + 200)) * 40 * 3 * forward
    assert found.seconds["score the pool by each"] == pytest.approx(scored)
    assert found.seconds["fit 21 proxies"] == pytest.approx(fitted)
    assert found.comparisons == 3 * 200 and not any("PPO" in name for name in found.seconds)


def test_what_ppo_is_let_loose_on_is_counted() -> None:
    one = overoptimisation_plan.overoptimisation_plan(replace(BY_LABELS, pushed=("1x64/50",)))
    two = overoptimisation_plan.overoptimisation_plan(replace(BY_LABELS, pushed=("1x64/50", "4x256/200")))
    assert two.seconds["PPO: update"] == pytest.approx(2 * one.seconds["PPO: update"])
