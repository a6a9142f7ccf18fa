"""The forward pass for whole rows equals the model's own, in value and in every gradient, or steps aside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from backflip.policies import llama_forward
from backflip.policies.llama_forward import can_forward, forward_BLD
from backflip.policies.score import ScoredLM

IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11], [4, 3, 2, 0, 0, 0, 0], [9, 9, 0, 0, 0, 0, 0]])
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("llama", {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1}),
    ("llama", {"head_dim": 16, "num_key_value_heads": 4}),
    (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 1e4,
                "factor": 4.0,
                "original_max_position_embeddings": 16,
            }
        },
    ),
    ("qwen2", {}),
    ("qwen3", {}),
]


def read_tokens(hidden_BLD: Tensor) -> Tensor:
    """Return what is read: everything but the padding on the right."""
    return torch.cat([hidden_BLD[0], hidden_BLD[1, :3], hidden_BLD[2, :2]])


LENGTHS = torch.tensor([7, 3, 2])


@pytest.mark.parametrize("length_B", [None, LENGTHS], ids=["padded", "padding left out"])
@pytest.mark.parametrize(("name", "changes"), VARIANTS, ids=str)
def test_value_and_gradients_are_the_models_own(
    tiny_model: Callable[..., Any], name: str, changes: dict[str, Any], length_B: Tensor | None
) -> None:
    decoder = tiny_model(name, **changes).base_model
    assert can_forward(decoder, IDS)
    cotangent = torch.randn(12, 32, generator=torch.Generator().manual_seed(0))
    ours, theirs = (
        read_tokens(forward_BLD(decoder, IDS, length_B)),
        read_tokens(decoder(input_ids=IDS).last_hidden_state),
    )
    assert torch.allclose(ours, theirs, atol=1e-5)
    parameters = dict(decoder.named_parameters())
    found, wanted = (torch.autograd.grad((x * cotangent).sum(), list(parameters.values())) for x in (ours, theirs))
    for parameter, a, b in zip(parameters, found, wanted, strict=True):
        assert torch.allclose(a, b, atol=1e-4 * float(b.abs().max()) + 1e-6), parameter


def test_much_padding_is_left_out_and_little_is_not(tiny_model: Callable[..., Any]) -> None:
    """12 tokens of 21 are computed; with 18 of 21 nothing changes, to the bit."""
    decoder = tiny_model("llama").base_model
    seen: list[int] = []
    real = decoder.layers[0].mlp.up_proj.forward

    def watch(x: Tensor) -> Tensor:
        seen.append(len(x))
        return real(x)

    decoder.layers[0].mlp.up_proj.forward = watch
    with torch.no_grad():
        left_out = forward_BLD(decoder, IDS, LENGTHS)
        dense, told = forward_BLD(decoder, IDS), forward_BLD(decoder, IDS, torch.tensor([7, 6, 5]))
    assert seen == [12, 21, 21] and torch.equal(dense, told)
    assert float(left_out[1, 3:].abs().max()) == 0 and torch.allclose(
        read_tokens(left_out), read_tokens(dense), atol=1e-5
    )


def test_frozen_norms_still_pass_gradients_on(tiny_model: Callable[..., Any]) -> None:
    decoder = tiny_model("llama").base_model
    for name, parameter in decoder.named_parameters():
        parameter.requires_grad_("embed" in name)
    embedding = decoder.embed_tokens.weight
    ours, theirs = (read_tokens(x).sum() for x in (forward_BLD(decoder, IDS), decoder(input_ids=IDS).last_hidden_state))
    found, wanted = torch.autograd.grad(ours, embedding)[0], torch.autograd.grad(theirs, embedding)[0]
    assert torch.allclose(found, wanted, atol=1e-4)


def test_under_autocast_it_stays_close(tiny_model: Callable[..., Any]) -> None:
    decoder = tiny_model("llama", initializer_range=0.1).base_model
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        ours, theirs = forward_BLD(decoder, IDS), decoder(input_ids=IDS).last_hidden_state
    gap = (read_tokens(ours) - read_tokens(theirs)).float().abs()
    assert float(gap.mean()) < 0.02


def test_it_steps_aside_where_it_would_differ(tiny_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = tiny_model("llama").base_model
    assert not can_forward(decoder, IDS[:, :0])
    for other in ("gpt2", "gemma3", "bloom"):
        assert not can_forward(tiny_model(other).base_model, IDS)
    window = tiny_model("qwen2", use_sliding_window=True, sliding_window=3, max_window_layers=0)
    assert not can_forward(window.base_model, IDS)
    handle = decoder.layers[0].mlp.register_forward_hook(lambda module, given, output: output * 2)
    assert not can_forward(decoder, IDS)
    handle.remove()
    assert can_forward(decoder, IDS)
    monkeypatch.setattr(llama_forward, "LONGEST", 6)
    assert not can_forward(decoder, IDS)


def test_scores_take_it(tiny_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = tiny_model("llama"), []
    scored = ScoredLM(model)
    monkeypatch.setattr(
        "backflip.policies.score.forward_BLD", lambda *given: calls.append(given) or forward_BLD(*given)
    )
    scored.hidden_BLD(IDS, use_cache=False)
    assert calls
    scored.hidden_BLD(IDS, attention_mask=torch.ones_like(IDS))
    assert len(calls) == 1, "with a mask the model's own pass is taken"
