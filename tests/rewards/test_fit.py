"""The loss is Bradley and Terry's with the 10 % rule; a fit learns what was answered and repeats with its seed."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from backflip.data import Judgement, Query
from backflip.errors import ConfigError, DataError
from backflip.rewards.comparisons import Comparison, bootstrap, comparisons, split
from backflip.rewards.fit import FitConfig, Rows, batches, bradley_terry_loss, fit, length_correlation, measure
from backflip.rewards.model import SequenceRewardModel

PROMPTS = ["the film", "the plot is", "a story", "the cast was very"]


def loss_at(delta: float, share: float, noise: float = 0.1) -> float:
    return bradley_terry_loss(
        torch.tensor([delta], dtype=torch.float64), torch.tensor([share]), torch.ones(1), noise
    ).item()


def slope_at(delta: float, share: float, noise: float = 0.1) -> float:
    delta_B = torch.tensor([delta], dtype=torch.float64, requires_grad=True)
    bradley_terry_loss(delta_B, torch.tensor([share]), torch.ones(1), noise).backward()
    assert delta_B.grad is not None
    return delta_B.grad.item()


@pytest.fixture
def pairs(answer: Any) -> list[Comparison]:
    """Answers with a good word beat those with a bad one."""
    rng = np.random.default_rng(0)
    filler = "film plot is was cast story and but long very".split()
    found: list[Comparison] = []
    for i in range(160):
        texts = [
            " ".join(rng.permutation([*rng.choice(filler, rng.integers(2, 6)), word])) for word in ("good", "dull")
        ]
        items = [answer(PROMPTS[i % 4] + " " * (i // 4 % 10), text) for text in texts]
        found.append(Comparison(items[0], items[1], 1.0) if rng.random() < 0.5 else Comparison(items[1], items[0], 0.0))
    return found


def start(language_model: Any, seed: int = 0) -> SequenceRewardModel:
    return SequenceRewardModel.from_causal_lm(language_model, np.random.default_rng(seed))


CONFIG = FitConfig(epochs=4, lr=3e-3, head_lr=3e-3, batch=16, held_out=0.25)


def test_ten_percent_rule_has_its_published_values():
    assert loss_at(50, 1) == pytest.approx(-math.log(0.95)) and loss_at(-50, 1) == pytest.approx(-math.log(0.05))
    assert loss_at(-1e4, 1) == pytest.approx(-math.log(0.05)), "no overflow"
    assert loss_at(0, 0.5) == pytest.approx(math.log(2))
    assert min(loss_at(d, 0.5) for d in np.linspace(-8, 8, 161)) == pytest.approx(math.log(2))
    grid = np.linspace(-6, 6, 2401)
    slopes = np.array([slope_at(d, 1.0) for d in grid])
    assert grid[np.abs(slopes).argmax()] == pytest.approx(-1.47, abs=0.01) and np.abs(slopes).max() == pytest.approx(
        0.627, abs=1e-3
    )


@pytest.mark.parametrize("delta", [-3.0, -0.4, 0.0, 2.0])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.8, 1.0])
def test_gradient_is_the_derived_one(delta: float, share: float):
    sigma = 1 / (1 + math.exp(-delta))
    p = 0.9 * sigma + 0.05
    assert slope_at(delta, share) == pytest.approx(0.9 * sigma * (1 - sigma) * (p - share) / (p * (1 - p)))
    assert slope_at(delta, share, noise=0.0) == pytest.approx(sigma - share)


def test_swapping_a_pair_flips_the_answer():
    rng = np.random.default_rng(0)
    delta_B, share_B, weight_B = (torch.from_numpy(rng.random(20)) for _ in range(3))
    for noise in (0.0, 0.1):
        torch.testing.assert_close(
            bradley_terry_loss(delta_B, share_B, weight_B, noise),
            bradley_terry_loss(-delta_B, 1 - share_B, weight_B, noise),
        )


def test_strength_is_a_weight():
    delta_B, share_B = torch.tensor([1.0, -2.0]), torch.tensor([1.0, 1.0])
    three = bradley_terry_loss(torch.tensor([1.0, 1.0, 1.0, -2.0]), torch.ones(4), torch.ones(4))
    torch.testing.assert_close(bradley_terry_loss(delta_B, share_B, torch.tensor([3.0, 1.0])), three)


def test_comparisons_count_what_could_not_be_judged(pairs: list[Comparison]):
    queries = [Query((pair.first, pair.second), "which?") for pair in pairs[:4]]
    answers = [(1.0, 0.0), None, (0.5, 0.5), (0.2, 0.8)]
    judgements = [
        Judgement(q.id, "me", a, "skipped" if a is None else "", strength=2.0)
        for q, a in zip(queries, answers, strict=True)
    ]
    found, counts = comparisons(queries, judgements)
    assert counts == {"judgements": 4, "unanswered": 1, "ties": 1}
    assert [(c.share, c.weight) for c in found] == [(1.0, 2.0), (0.5, 2.0), (0.2, 2.0)]
    assert found[1].first == pairs[2].first
    with pytest.raises(DataError, match="was not given"):
        comparisons(queries[1:], judgements)
    with pytest.raises(DataError, match="rate of 1 items"):
        single = Query((pairs[0].first,), "how good?", kind="rate")
        comparisons([single], [Judgement(single.id, "me", (0.5,))])


def test_split_shares_no_prompt(pairs: list[Comparison]):
    inside, held = split(pairs, 0.3, np.random.default_rng(0))
    assert not {p.first.prompt for p in inside} & {p.first.prompt for p in held}
    assert len(inside) + len(held) == len(pairs) and held
    assert split(pairs, 0.0, np.random.default_rng(0)) == (pairs, [])


def test_bootstrap_keeps_the_amount_of_evidence(pairs: list[Comparison]):
    drawn = bootstrap(pairs, np.random.default_rng(0))
    assert sum(pair.weight for pair in drawn) == len(pairs)
    assert 0.55 < len(drawn) / len(pairs) < 0.72, "about 1 - 1/e are drawn"


def test_batches_hold_every_comparison_once_and_like_lengths(world: Any, pairs: list[Comparison]):
    rows = Rows.of(world, pairs)
    parts = list(batches(rows, 16, np.random.default_rng(0)))
    assert sorted(torch.cat(parts).tolist()) == list(range(160))
    length_R = rows.episodes.mask_BT.sum(1)
    spread = np.mean([(length_R[rows.first_B[p]]).float().std().item() for p in parts])
    assert spread < 0.8 * length_R[rows.first_B].float().std().item()


def test_items_that_occur_twice_are_one_row(world: Any, pairs: list[Comparison]):
    again = replace(pairs[0], second=pairs[1].first)
    assert len(Rows.of(world, [pairs[0], pairs[1], again]).episodes) == 4


def test_learns_and_repeats_with_its_seed(language_model: Any, world: Any, pairs: list[Comparison]):
    seen: list[dict[str, float]] = []
    model = start(language_model)
    last = fit(model, world, pairs, CONFIG, np.random.default_rng(1), each_epoch=seen.append)
    assert last["held_out_accuracy"] > 0.9 and last["held_out_n"] == 40
    assert last["loss"] < seen[0]["loss"] and [s["epoch"] for s in seen] == [1, 2, 3, 4]
    again = start(language_model)
    assert fit(again, world, pairs, CONFIG, np.random.default_rng(1)) == last
    for one, two in zip(model.module.parameters(), again.module.parameters(), strict=True):
        assert torch.equal(one, two)


def test_wrong_answers_are_learned_as_well(language_model: Any, world: Any, pairs: list[Comparison]):
    """The fit follows the overseer, not the words: with all answers turned round the order turns round."""
    flipped = [replace(pair, share=1 - pair.share) for pair in pairs]
    model = start(language_model)
    fit(model, world, flipped[:120], CONFIG, np.random.default_rng(1))
    assert measure(model, Rows.of(world, pairs[120:]), 0.1)["held_out_accuracy"] < 0.1


def test_ties_pull_together(language_model: Any, world: Any, pairs: list[Comparison]):
    model = start(language_model)
    before = Rows.of(world, pairs).delta_B(model).abs().mean()
    tied = [replace(pair, share=0.5) for pair in pairs]
    stats = fit(model, world, tied, replace(CONFIG, epochs=2), np.random.default_rng(0))
    assert Rows.of(world, pairs).delta_B(model).abs().mean() < 0.3 * before
    assert "accuracy" not in stats and "held_out_accuracy" not in stats, "ties alone have no accuracy"


def test_keep_best_returns_to_the_best_epoch(language_model: Any, world: Any, pairs: list[Comparison]):
    noisy = [replace(pair, share=float(np.random.default_rng(i).integers(0, 2))) for i, pair in enumerate(pairs[:60])]
    config = replace(CONFIG, epochs=6, keep="best", noise=0.0)
    seen: list[dict[str, float]] = []
    model = start(language_model)
    found = fit(model, world, noisy, config, np.random.default_rng(0), held=pairs[100:], each_epoch=seen.append)
    assert found["held_out_loss"] == min(s["held_out_loss"] for s in seen) < seen[-1]["held_out_loss"]
    assert measure(model, Rows.of(world, pairs[100:]), 0.0)["held_out_loss"] == pytest.approx(
        found["held_out_loss"], abs=1e-6
    )


def test_anchor_holds_the_start(language_model: Any, world: Any, pairs: list[Comparison]):
    def moved(anchor: float) -> float:
        model, origin = start(language_model), start(language_model)
        fit(model, world, pairs, replace(CONFIG, anchor=anchor, weight_decay=0.0), np.random.default_rng(0))
        return sum(
            float((a - b).detach().norm())
            for a, b in zip(model.module.model.parameters(), origin.module.model.parameters(), strict=True)
        )

    assert moved(100.0) < 0.5 * moved(0.0)


def test_length_penalty_takes_length_out(language_model: Any, world: Any, answer: Any):
    rng = np.random.default_rng(0)
    texts = [
        " ".join(rng.choice("film plot is was cast story and but very".split(), rng.integers(1, 9))) for _ in range(240)
    ]
    items = [answer(PROMPTS[i % 4], text) for i, text in enumerate(texts)]
    longer = [
        Comparison(a, b, float(len(a.content) > len(b.content))) for a, b in zip(items[::2], items[1::2], strict=True)
    ]

    def correlation(penalty: float) -> float:
        model = start(language_model)
        fit(model, world, longer, replace(CONFIG, length_penalty=penalty), np.random.default_rng(0))
        rows = Rows.of(world, longer)
        return float(length_correlation(rows, torch.arange(len(longer)), rows.delta_B(model)))

    assert correlation(0.0) > 0.8 > 0.4 > correlation(20.0)


def test_bfloat16_fits_too(language_model: Any, world: Any, pairs: list[Comparison]):
    model = start(language_model)
    assert (
        fit(model, world, pairs, replace(CONFIG, precision="bfloat16"), np.random.default_rng(1))["held_out_accuracy"]
        > 0.9
    )
    assert {p.dtype for p in model.module.parameters()} == {torch.float32}


def test_what_cannot_be_fitted_is_refused(language_model: Any, world: Any, pairs: list[Comparison]):
    rng = np.random.default_rng(0)
    with pytest.raises(DataError, match="ask an overseer"):
        fit(start(language_model), world, [], CONFIG, rng)
    with pytest.raises(ConfigError, match="held-out"):
        fit(start(language_model), world, pairs, replace(CONFIG, held_out=0.0, keep="best"), rng)
    with pytest.raises(ConfigError, match="shares"):
        FitConfig(noise=1.0)
    model = start(language_model)
    with torch.no_grad():
        model.module.score.weight.fill_(float("nan"))
    origin = model.module.model.norm.weight.clone()
    with pytest.raises(DataError, match="not finite"):
        fit(model, world, pairs, replace(CONFIG, probe_l2=0.0), rng)
    assert torch.equal(origin, model.module.model.norm.weight)
