"""Prompt information: 0 for a deaf policy, ln K for one whose answer betrays the prompt, and the sampled one agrees with the exact one."""

from __future__ import annotations

import math

import numpy as np
import pytest

from backflip.errors import DataError
from backflip.measures.prompt_information import exact_prompt_information, prompt_information

K, C = 5, 12


def drawn(scale: float, seed: int = 0) -> np.ndarray:
    logits_KC = scale * np.random.default_rng(seed).normal(size=(K, C))
    return logits_KC - np.log(np.exp(logits_KC).sum(1, keepdims=True))


def test_deaf_is_0_and_a_betrayer_ln_k() -> None:
    deaf_KC = np.tile(drawn(1.0)[:1], (K, 1))
    assert exact_prompt_information(deaf_KC) == pytest.approx(0, abs=1e-12)
    with np.errstate(divide="ignore"):
        betrays_KC = np.log(np.eye(K, C))
    assert exact_prompt_information(betrays_KC) == pytest.approx(math.log(K))


def test_it_is_the_entropy_of_the_mixture_less_the_mean_entropy() -> None:
    logp_KC = drawn(2.0)
    p_KC = np.exp(logp_KC)
    mixed = p_KC.mean(0)
    expected = -(mixed * np.log(mixed)).sum() + (p_KC * logp_KC).sum(1).mean()
    assert exact_prompt_information(logp_KC) == pytest.approx(expected)
    order = np.random.default_rng(3).permutation(C)
    assert exact_prompt_information(logp_KC[:, order]) == pytest.approx(expected), "names of answers do not matter"


def test_entropy_does_not_see_what_it_sees() -> None:
    """Every prompt with one and the same answer, or each with its own: no entropy either way."""
    with np.errstate(divide="ignore"):
        same, own = np.log(np.tile(np.eye(1, C), (K, 1))), np.log(np.eye(K, C))
    assert exact_prompt_information(same) == pytest.approx(0) and exact_prompt_information(own) > 1


@pytest.mark.parametrize("scale", [0.3, 2.0])
def test_sampled_agrees_with_exact(scale: float) -> None:
    logp_KC, rng, each = drawn(scale), np.random.default_rng(5), 4000
    answer_B = np.concatenate([rng.choice(C, each, p=np.exp(logp_C)) for logp_C in logp_KC])
    asked_B = np.repeat(np.arange(K), each)
    found = prompt_information(logp_KC.T[answer_B], asked_B)
    assert found.value == pytest.approx(exact_prompt_information(logp_KC), abs=0.02) and found.n == K
    assert found.value <= math.log(K)


def test_what_is_no_sample_is_refused() -> None:
    logp_KC = drawn(1.0)
    with pytest.raises(DataError, match="equally many"):
        prompt_information(logp_KC.T[:3], [0, 0, 1])
    with pytest.raises(DataError, match="answers by prompts"):
        prompt_information(logp_KC[0], [0])
    with pytest.raises(DataError, match="impossible"):
        prompt_information(np.full((K, K), -np.inf), np.arange(K))
    with pytest.raises(DataError, match="do not sum to 1"):
        exact_prompt_information(logp_KC + 0.5)
