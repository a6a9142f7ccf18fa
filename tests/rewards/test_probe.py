"""The head is set to the optimum of a convex problem on the model's own features."""

from typing import Any

import numpy as np
import pytest
import torch

from backflip.data import Episodes
from backflip.rewards.comparisons import Comparison
from backflip.rewards.fit import FitConfig, Rows, bradley_terry_loss, fit
from backflip.rewards.model import SequenceRewardModel
from backflip.rewards.probe import Probed, probe_head


class Features:
    """Rows whose features are given."""

    def __init__(self, features_BD: torch.Tensor) -> None:
        self.features, self.head = features_BD, torch.zeros(features_BD.shape[1])

    def features_BD(self, episodes: Episodes) -> torch.Tensor:
        return self.features

    def set_head(self, weight_D: torch.Tensor) -> None:
        self.head = weight_D


def test_finds_the_optimum_and_weighs(world: Any, answer: Any):
    generator = torch.Generator().manual_seed(0)
    model = Features(3.0 * torch.randn(200, 4, generator=generator))
    nothing = world.load([answer("the film", "good")])
    first, second = torch.arange(0, 200, 2), torch.arange(1, 200, 2)
    truth = torch.tensor([1.0, -0.5, 0.0, 2.0])
    share = torch.bernoulli(
        torch.sigmoid((model.features[first] - model.features[second]) @ truth), generator=generator
    )
    weight = torch.ones(100)
    loss = probe_head(model, nothing, first, second, share, weight, 1e-6)
    head = model.head.clone().requires_grad_(True)
    delta = (model.features[first] - model.features[second]) @ head
    found = bradley_terry_loss(delta, share, weight, noise=0.0)
    found.backward()
    assert head.grad is not None and head.grad.abs().max() < 1e-3, "no direction lowers the loss"
    assert loss == pytest.approx(found.item(), abs=1e-3)
    loose = model.head.norm()
    probe_head(model, nothing, first, second, share, weight, 1.0)
    assert model.head.norm() < 0.5 * loose
    probe_head(model, nothing, first, second, share, torch.tensor([1.0] * 50 + [0.0] * 50), 1e-3)
    half = model.head
    probe_head(model, nothing, first[:50], second[:50], share[:50], torch.ones(50), 1e-3)
    torch.testing.assert_close(half, model.head, atol=2e-3, rtol=2e-2)


def test_features_are_what_the_head_reads(language_model: Any, world: Any, answer: Any):
    model = SequenceRewardModel.from_causal_lm(language_model, np.random.default_rng(0))
    assert isinstance(model, Probed)
    rows = world.load([answer("the film", text) for text in ("good", "was very dull and long", "is fun")])
    by_hand = model.features_BD(rows) @ model.module.score.weight[0].detach()
    torch.testing.assert_close(by_hand, model.score_B(rows), atol=1e-5, rtol=0)


def test_a_fit_starts_from_it(language_model: Any, world: Any, answer: Any):
    """With so low a learning rate that nothing else moves, the probe alone orders what it was told."""
    model = SequenceRewardModel.from_causal_lm(language_model, np.random.default_rng(0))
    pairs = [
        Comparison(answer("the film", f"{word} good"), answer("the film", f"{word} dull"), 1.0)
        for word in "film plot is was cast story and but".split()
    ]
    fit(model, world, pairs, FitConfig(lr=1e-9, head_lr=1e-9, held_out=0.0), np.random.default_rng(0))
    assert bool((Rows.of(world, pairs).delta_B(model) > 0).all())
