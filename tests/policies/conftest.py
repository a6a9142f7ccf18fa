"""Tiny random models of every architecture that is promised, and tokenizers for them.

Weights are drawn wide, so that distributions are far from uniform and an error in positions or masks shows in the numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

ARCHITECTURES = ("llama", "gpt2", "qwen2", "qwen3", "gemma3", "bloom")
"""Every architecture that is promised; Gemma 3 here has a sliding window of 3, shorter than any answer in these tests."""

BOS, EOS, PAD_ID = 1, 2, 0


def tiny_config(name: str, vocabulary: int, **changes: Any) -> Any:
    shared: dict[str, Any] = {
        "vocab_size": vocabulary,
        "pad_token_id": PAD_ID,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
    }
    rotary: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 64,
        "initializer_range": 0.3,
    }
    kinds: dict[str, Any] = {
        "llama": LlamaConfig,
        "gpt2": GPT2Config,
        "qwen2": Qwen2Config,
        "qwen3": Qwen3Config,
        "gemma3": Gemma3TextConfig,
        "bloom": BloomConfig,
    }
    if name == "gpt2":
        return kinds[name](
            **shared | {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.3} | changes
        )
    if name == "bloom":
        return kinds[name](
            **shared | {"hidden_size": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.3} | changes
        )
    if name == "gemma3":
        window = {
            "sliding_window": 3,
            "layer_types": ["sliding_attention", "full_attention"],
            "query_pre_attn_scalar": 8,
        }
        return kinds[name](**shared | rotary | window | changes)
    return kinds[name](**shared | rotary | changes)


@pytest.fixture
def tiny_model() -> Callable[..., Any]:
    """Return a function (architecture, vocabulary=24, seed=0, **config changes) -> a tiny random model."""

    def make(name: str, vocabulary: int = 24, seed: int = 0, **changes: Any) -> Any:
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(
            tiny_config(name, vocabulary, **changes), attn_implementation="eager"
        ).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 1:  # norms and biases start at constants, which would hide a mistake in them
                    parameter.add_(0.3 * torch.randn_like(parameter))
        return model

    return make


@pytest.fixture
def tiny_tokenizer() -> Callable[..., Any]:
    """Return a function (vocabulary=24, **special tokens) -> a word-level tokenizer over w0, w1, ..."""

    def make(vocabulary: int = 24, **special: Any) -> Any:
        names = ["<pad>", "<s>", "</s>", *(f"w{index}" for index in range(3, vocabulary))]
        inner = Tokenizer(models.WordLevel({name: index for index, name in enumerate(names)}, unk_token="w3"))
        inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        given = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"} | special
        return PreTrainedTokenizerFast(
            tokenizer_object=inner, **{key: value for key, value in given.items() if value is not None}
        )

    return make
