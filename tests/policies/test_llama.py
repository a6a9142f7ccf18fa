"""The fast path computes what the model's own forward pass computes, or says that it does not apply."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, MistralConfig

from backflip.policies import llama
from backflip.policies.hf_engine import HFEngine
from backflip.policies.llama import LlamaEngine, is_plain_llama
from backflip.policies.sampler import SampleSettings, sample
from backflip.policies.score import ScoredLM

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft's own

PROMPTS = torch.tensor([[-1, -1, 5, 6], [7, 8, 9, 10], [-1, 3, 4, 5], [-1, -1, -1, 11], [7, 8, 9, 10]])


def assert_same_as_plain(scored: ScoredLM, dtype: torch.dtype = torch.float32) -> None:
    assert is_plain_llama(scored)
    settings = SampleSettings(0.9, 20, (2, 5, 9), 3)
    fast, slow = (
        sample(engine, PROMPTS, settings, np.random.default_rng(1))
        for engine in (LlamaEngine(scored, dtype), HFEngine(scored))
    )
    assert torch.equal(fast.action, slow.action)
    assert torch.allclose(fast.logp_BT, slow.logp_BT, atol=1e-4)


SCALED = {"rope_theta": 1e4, "factor": 4.0}
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("llama", {}),
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        ("llama", {"tie_word_embeddings": True}),
        ("llama", {"num_key_value_heads": 4}),
        ("llama", {"num_key_value_heads": 1}),
        ("llama", {"head_dim": 16}),
        ("llama", {"rope_parameters": SCALED | {"rope_type": "linear"}}),
        ("llama", {"rope_parameters": SCALED | LLAMA3 | {"rope_type": "llama3"}}),
        ("llama", {"rope_parameters": SCALED | {"rope_type": "yarn", "original_max_position_embeddings": 16}}),
        ("qwen2", {}),
        ("qwen3", {}),
        ("qwen3", {"attention_bias": True}),
    ],
    ids=str,
)
def test_it_equals_the_forward_pass(tiny_model: Callable[..., Any], name: str, changes: dict[str, Any]) -> None:
    assert_same_as_plain(ScoredLM(tiny_model(name, **changes)))


def mistral(**changes: Any) -> Any:
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=24,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=64,
        initializer_range=0.3,
        **changes,
    )
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


def test_mistral_without_a_window() -> None:
    assert_same_as_plain(ScoredLM(mistral(sliding_window=None)))


def adapted(model: Any, **settings: Any) -> Any:
    torch.manual_seed(1)
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False, **settings)
    return get_peft_model(model, config)


def test_adapters_act_and_can_be_off(tiny_model: Callable[..., Any]) -> None:
    base = ScoredLM(tiny_model("llama"))
    scored = ScoredLM(adapted(tiny_model("llama"), lora_dropout=0.3))
    assert_same_as_plain(scored)

    def hidden(of: ScoredLM) -> Tensor:
        return LlamaEngine(of, torch.float32).prefill(PROMPTS[1:2], torch.tensor([4]))[0]

    with torch.no_grad():
        assert not torch.allclose(hidden(scored), hidden(base), atol=1e-2)
        with scored.adapters_off():
            assert torch.allclose(hidden(scored), hidden(base), atol=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda make: make("gpt2"),
        lambda make: make("gemma3"),
        lambda make: make("llama", hidden_act="gelu"),
        lambda make: make(
            "llama", rope_parameters=SCALED | {"rope_type": "dynamic", "original_max_position_embeddings": 16}
        ),
        lambda make: make("qwen2", use_sliding_window=True, sliding_window=3, max_window_layers=0),
        lambda make: mistral(sliding_window=3),
        lambda make: adapted(make("llama"), use_dora=True),
        lambda make: get_peft_model(make("llama"), LoraConfig(r=2, target_modules=["q_proj", "embed_tokens"])),
    ],
    ids=["gpt2", "gemma3", "gelu", "dynamic rotary", "qwen2 window", "mistral window", "dora", "adapted embedding"],
)
def test_what_it_would_compute_wrongly_is_left_to_the_model(
    tiny_model: Callable[..., Any], make: Callable[..., Any]
) -> None:
    scored = ScoredLM(make(tiny_model))
    assert not is_plain_llama(scored)
    act = sample(HFEngine(scored), PROMPTS, SampleSettings(0.9, 12, (2,), 3), np.random.default_rng(1))
    row = int(act.mask_BT.sum(1).argmax())
    prompt, answer = PROMPTS[row][PROMPTS[row] >= 0], act.action[row][act.mask_BT[row]]
    with torch.no_grad():
        logits = scored.plain(input_ids=torch.cat([prompt, answer])[None]).logits[0, len(prompt) - 1 : -1]
    logp = (logits / 0.9).log_softmax(-1).gather(1, answer[:, None])[:, 0]
    assert torch.allclose(act.logp_BT[row, : len(answer)], logp, atol=1e-4)


def test_large_models_are_not_copied(tiny_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama, "LARGEST_COPY", 100)
    assert not is_plain_llama(ScoredLM(tiny_model("llama")))


def test_an_engine_keeps_the_weights_it_was_made_with(tiny_model: Callable[..., Any]) -> None:
    scored = ScoredLM(tiny_model("llama"))
    engine = LlamaEngine(scored, torch.float32)
    with torch.no_grad():
        before = engine.prefill(PROMPTS[1:2], torch.tensor([4]))[0]
        for layer in scored.plain.model.layers:
            layer.mlp.down_proj.weight.add_(1.0)
        assert torch.equal(engine.prefill(PROMPTS[1:2], torch.tensor([4]))[0], before)
        fresh = LlamaEngine(scored, torch.float32).prefill(PROMPTS[1:2], torch.tensor([4]))[0]
    assert not torch.allclose(fresh, before, atol=1e-2)
