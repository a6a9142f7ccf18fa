"""Diversity by hand on small texts; the jackknife knows how sure it is."""

import numpy as np
import pytest
import torch

from backflip.errors import DataError
from backflip.measures.diversity import distinct_n, distinct_ratio, entropy_nats, length_tokens, ngrams, repetition
from backflip.worlds.enumerable import EnumerableWorld, TabularPolicy

WORDS = [f"w{i}" for i in range(40)]


def texts(count: int, seed: int, words: int = 40) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS[:words], 8)) for _ in range(count)]


def test_distinct_by_hand():
    assert ngrams("A wonderful, WONDERFUL film", 2) == [
        ("a", "wonderful"),
        ("wonderful", "wonderful"),
        ("wonderful", "film"),
    ]
    assert distinct_n(["a b c", "a b"], 2).value == pytest.approx(2 / 3)
    assert distinct_n(["a b c", "a b"], 2, limit=2).value == 1
    assert distinct_n(["a b", "c"], 2).value == 1, "pairs do not cross texts"
    with pytest.raises(DataError, match="2-gram"):
        distinct_n(["a", ""], 2)


def test_jackknife_matches_leaving_out_by_hand_and_covers():
    rows = texts(12, 0)
    left_out = np.array([distinct_n(rows[:i] + rows[i + 1 :], 2).value for i in range(12)])
    error = np.sqrt(11 / 12 * ((left_out - left_out.mean()) ** 2).sum())
    found = distinct_n(rows, 2)
    assert (found.value - found.low) == pytest.approx(2.201 * error, rel=1e-3) and found.n == 12
    assert found.high <= 1
    centre = np.mean([distinct_n(texts(60, s), 1).value for s in range(200)])
    inside = [(e.low <= centre <= e.high) for e in (distinct_n(texts(60, s), 1) for s in range(200, 300))]
    assert np.mean(inside) > 0.85


def test_ratio_compares_equal_amounts():
    base = texts(100, 1)
    assert distinct_ratio(base[:50], base).value == pytest.approx(1, abs=1e-9)
    assert distinct_ratio(texts(200, 2), base).low < 1 < distinct_ratio(texts(200, 2), base).high
    collapsed = distinct_ratio(["a wonderful wonderful film"] * 100, base)
    assert collapsed.value < 0.05 and collapsed.high < 0.75


def test_repetition_sees_what_distinct_pairs_do_not():
    assert repetition(["a b c d", "a a a a"]).value == pytest.approx((0 + 3 / 4) / 2)
    assert repetition(["", "one"]).value == 0
    varied = ["a w w film", "the x x plot"]
    assert distinct_n(varied, 2).value == 1 and repetition(varied).value == pytest.approx(1 / 4)


def test_entropy_and_length_of_an_enumerable_policy():
    world = EnumerableWorld(vocabulary=3, length=3)
    policy = TabularPolicy(world)
    episodes = world.collect(policy, 300, np.random.default_rng(0))
    assert entropy_nats(policy, episodes).value == pytest.approx(np.log(3), abs=1e-5), "a table of zeros is uniform"
    lengths = episodes.mask_BT.sum(1).double()
    assert length_tokens(episodes).value == pytest.approx(lengths.mean().item())
    found = [length_tokens(world.collect(policy, 100, np.random.default_rng(seed))) for seed in range(100)]
    assert np.mean([e.low < 1 + 2 / 3 + 4 / 9 < e.high for e in found]) > 0.88


def test_entropy_is_a_mean_over_decisions_and_ignores_padding():
    world = EnumerableWorld(vocabulary=3, length=3)
    policy = TabularPolicy(world, np.random.default_rng(0))
    with torch.no_grad():
        episodes = world.collect(policy, 200, np.random.default_rng(1))
        entropy_BT = policy.evaluate(episodes).entropy_BT
    expected = entropy_BT[episodes.mask_BT].mean().item()
    assert entropy_nats(policy, episodes).value == pytest.approx(expected, abs=1e-6)
    assert abs(entropy_BT.mean().item() - expected) > 1e-3, "padding would have changed it"
