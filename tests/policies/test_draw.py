"""Drawing a token: the right frequencies, at every size of vocabulary, and never an impossible token."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from backflip.policies import draw as draw_module
from backflip.policies.draw import draw, logits_to_logp


def frequencies_p_value(vocabulary: int, warp: float = 1.0) -> float:
    """Chi-square p-value of 20,000 draws from one random distribution; `warp` plants a bias in the uniform numbers."""
    logits_1V = 1.5 * torch.randn(1, vocabulary, generator=torch.Generator().manual_seed(vocabulary))
    logp_1V = logits_to_logp(logits_1V, 0.8)
    uniform_R = torch.from_numpy(np.random.default_rng(1).random(20_000)) ** warp
    token_R, logp_R = draw(logp_1V.expand(20_000, vocabulary), uniform_R)
    assert torch.equal(logp_R, logp_1V[0, token_R])
    counts = np.bincount(token_R.numpy(), minlength=vocabulary)
    expected = logp_1V[0].double().exp().numpy()
    return float(stats.chisquare(counts, 20_000 * expected / expected.sum()).pvalue)


@pytest.mark.parametrize("vocabulary", [2, 3, 16, 17, 50, 65])
def test_frequencies_match_the_distribution(vocabulary: int) -> None:
    assert frequencies_p_value(vocabulary) > 1e-3


def test_a_biased_draw_is_seen() -> None:
    assert frequencies_p_value(16, warp=1.1) < 1e-6


def test_one_token_vocabulary() -> None:
    token_R, logp_R = draw(torch.zeros(2, 1), torch.tensor([0.0, 0.999]))
    assert token_R.tolist() == [0, 0]
    assert logp_R.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("uniform", [0.0, 0.5, float(np.nextafter(1.0, 0.0)), 1.0])
def test_an_impossible_token_is_never_drawn(uniform: float) -> None:
    vocabulary = 40
    for possible in (0, 5, 6, 7, 20, 39):
        logits = torch.full((1, vocabulary), -torch.inf)
        logits[0, possible] = 3.0
        token_R, logp_R = draw(logits_to_logp(logits, 1.0), torch.tensor([uniform], dtype=torch.float64))
        assert token_R.item() == possible
        assert logp_R.item() == 0.0


def test_both_ends_of_a_large_vocabulary_are_reached() -> None:
    logp = torch.full((2, 151_000), -float(np.log(151_000)))
    token_R, _ = draw(logp, torch.tensor([0.0, 1 - 1e-12], dtype=torch.float64))
    assert token_R.tolist() == [0, 150_999]


def test_order_follows_the_uniform_number() -> None:
    logp = logits_to_logp(torch.tensor([[0.0, 1.0, -2.0, 0.5, 0.1]]), 1.0)
    edges = logp[0].double().exp().cumsum(0)
    for token in range(5):
        low = 0.0 if token == 0 else float(edges[token - 1])
        middle = torch.tensor([(low + float(edges[token])) / 2], dtype=torch.float64)
        assert draw(logp, middle)[0].item() == token


def test_temperature_divides_logits() -> None:
    logits = torch.tensor([[1.0, 2.0, 4.0]])
    assert torch.allclose(logits_to_logp(logits, 2.0), torch.log_softmax(logits / 2, -1))
    assert logits_to_logp(logits.bfloat16(), 1.0).dtype == torch.float32


def test_every_log_probability_goes_through_one_function() -> None:
    # A log_softmax elsewhere in the language-model parts could leave the temperature out unseen.
    from pathlib import Path

    folder = Path(draw_module.__file__).parent
    others = {
        "draw.py",
        "distributions.py",
        "tabular.py",
        "rooms_policy.py",
    }  # the last three choose without a temperature
    offenders = [
        p.name for p in folder.glob("*.py") if p.name not in others and "log_softmax" in p.read_text(encoding="utf-8")
    ]
    offenders = [name for name in offenders if "`log_softmax`" not in (folder / name).read_text(encoding="utf-8")]
    assert offenders == []
