"""The null baselines find what is there to be found, and nothing else."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from backflip.errors import DataError
from backflip.rewards.baselines import baseline_deltas, fit_bag_of_words, length_delta, majority_delta
from backflip.rewards.comparisons import Comparison

FILLER = "film plot is was cast story and but very a the".split()


def made(answer: Any, count: int, seed: int, words: tuple[str, str] = ("good", "dull")) -> list[Comparison]:
    rng = np.random.default_rng(seed)
    pairs: list[Comparison] = []
    for _ in range(count):
        items = [
            answer("the film", " ".join(rng.permutation([*rng.choice(FILLER, rng.integers(2, 7)), word])))
            for word in words
        ]
        pairs.append(Comparison(items[0], items[1], 1.0) if rng.random() < 0.5 else Comparison(items[1], items[0], 0.0))
    return pairs


def accuracy(delta: np.ndarray, pairs: list[Comparison]) -> float:
    return float(np.mean([(d > 0) == (pair.share > 0.5) for d, pair in zip(delta, pairs, strict=True)]))


def test_bag_of_words_learns_words(answer: Any):
    bag = fit_bag_of_words(made(answer, 200, 0))
    held = made(answer, 100, 1)
    assert accuracy(bag.delta(held), held) > 0.95
    assert bag.weight["good"] > 0.5 > -0.5 > bag.weight["dull"]
    swapped = [replace(pair, first=pair.second, second=pair.first) for pair in held]
    np.testing.assert_allclose(bag.delta(swapped), -bag.delta(held))


def test_bag_of_words_reads_pairs_of_words(answer: Any):
    first, second = answer("p", "not good"), answer("p", "good not")
    bag = fit_bag_of_words([Comparison(first, second, 0.0)] * 20, least=1)
    assert bag.score([second])[0] > bag.score([first])[0]


def test_strength_weighs(answer: Any):
    one, two = answer("p", "good"), answer("p", "dull")
    bag = fit_bag_of_words([Comparison(one, two, 1.0, weight=5.0), Comparison(one, two, 0.0, weight=1.0)], least=1)
    assert bag.score([one])[0] > bag.score([two])[0]


def test_length_takes_the_sign_that_fits(answer: Any):
    short, long = answer("p", "good"), answer("p", "good film and good story")
    for share in (0.0, 1.0):
        pairs = [Comparison(short, long, share)] * 5
        assert accuracy(length_delta(pairs, pairs), pairs) == 1


def test_majority_answers_one_place(answer: Any):
    one, two = answer("p", "good"), answer("p", "dull")
    pairs = [Comparison(one, two, 0.0)] * 3 + [Comparison(one, two, 1.0)] * 2
    assert majority_delta(pairs, pairs).tolist() == [-1.0] * 5


def test_on_coin_flips_no_baseline_learns(answer: Any):
    rng = np.random.default_rng(0)
    pairs = [replace(pair, share=float(rng.integers(0, 2))) for pair in made(answer, 400, 2)]
    deltas = baseline_deltas(pairs[:200], pairs[200:])
    assert set(deltas) == {"length", "majority", "bag_of_words"}
    assert all(0.38 < accuracy(delta, pairs[200:]) < 0.62 for delta in deltas.values())


def test_no_comparisons_is_an_error():
    with pytest.raises(DataError):
        fit_bag_of_words([])
