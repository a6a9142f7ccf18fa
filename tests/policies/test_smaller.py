"""Smaller models: a shallower one is the base's beginning, a narrower one is new and of its own seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from backflip.errors import ConfigError
from backflip.policies.smaller import size_of, smaller


@pytest.fixture(scope="module")
def lm() -> Any:
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "vocab_size": 40, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 32, "tie_word_embeddings": True,
    }  # fmt: skip
    return LlamaForCausalLM(LlamaConfig(**shape)).eval()


def test_a_shallower_one_computes_what_the_base_does_up_to_there(lm: Any) -> None:
    ids = torch.tensor([[3, 9, 27, 5]])
    two = smaller(lm, 2, 64, np.random.default_rng(0)).eval()
    with torch.no_grad():
        whole = lm(ids, output_hidden_states=True).hidden_states[2]
        ours = two(ids, output_hidden_states=True)
        # The last hidden state has been through the final norm, the base's own.
        assert torch.allclose(ours.hidden_states[-1], lm.model.norm(whole), atol=1e-6)
        all_of_it = smaller(lm, 3, 64, np.random.default_rng(0)).eval()
        assert torch.equal(all_of_it(ids).logits, lm(ids).logits)


def test_it_is_a_copy(lm: Any) -> None:
    one = smaller(lm, 1, 64, np.random.default_rng(0))
    with torch.no_grad():
        one.get_input_embeddings().weight.zero_()
    assert bool(lm.get_input_embeddings().weight.any())


@pytest.mark.parametrize("width", [8, 32])
def test_a_narrower_one_is_a_function_of_its_generator_alone(lm: Any, width: int) -> None:
    torch.manual_seed(1)
    one = smaller(lm, 1, width, np.random.default_rng(5))
    torch.manual_seed(2)
    same, other = (smaller(lm, 1, width, np.random.default_rng(seed)) for seed in (5, 6))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.get_input_embeddings().weight, other.get_input_embeddings().weight)
    assert one.config.hidden_size == width and one.config.vocab_size == 40
    assert float(one.get_input_embeddings().weight.detach().std()) == pytest.approx(0.02, rel=0.2)
    assert bool(torch.isfinite(one(torch.tensor([[1, 2]])).logits).all())


@pytest.mark.parametrize("text", ["", "64", "1x", "x64", "0x64", "1x64x2", "1 x 64", "-1x64"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="LAYERSxWIDTH"):
        size_of(text)


def test_what_is_not_smaller_or_has_no_heads_is_refused(lm: Any) -> None:
    assert size_of("2x64") == (2, 64)
    for layers, width in ((4, 64), (1, 96), (1, 7), (1, 48)):
        with pytest.raises(ConfigError):
            smaller(lm, layers, width, np.random.default_rng(0))
