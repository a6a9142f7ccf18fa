"""Scores of given tokens: the written-out gradient equals autograd's, and output heads are understood or refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, Cohere2Config, Gemma2Config, GraniteConfig

from backflip.errors import ConfigError
from backflip.policies import score
from backflip.policies.score import FusedScores, ScoredLM


def reference_scores(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    logp = ((hidden @ weight.T + (0 if bias is None else bias)) / temperature).log_softmax(-1)
    return logp.gather(1, target[:, None])[:, 0], -(logp.exp() * logp).sum(-1)


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("parts", [(1.0, 0.0), (0.0, 1.0), (1.0, -0.7)])
def test_the_gradient_is_autograds(
    monkeypatch: pytest.MonkeyPatch, keep: bool, with_bias: bool, parts: tuple[float, float]
) -> None:
    monkeypatch.setattr(score, "BLOCK_ELEMENTS", {"cpu": 3 * 13})  # several blocks, the last not full
    monkeypatch.setattr(score, "KEEP_ELEMENTS", 10**6 if keep else 0)
    torch.manual_seed(0)
    hidden = torch.randn(10, 6, requires_grad=True)
    weight, bias = torch.randn(13, 6, requires_grad=True), torch.randn(13, requires_grad=True) if with_bias else None
    target, cotangent = torch.randint(13, (10,)), torch.randn(2, 10)
    wanted = [x for x in (hidden, weight, bias) if x is not None]

    def gradients(scores: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        loss = sum(part * (c * s).sum() for part, c, s in zip(parts, cotangent, scores, strict=True) if part)
        return torch.autograd.grad(loss, wanted)  # pyright: ignore[reportArgumentType, reportCallIssue]

    fused: Any = FusedScores.apply(hidden, weight, bias, target, 0.7)
    plain = reference_scores(hidden, weight, bias, target, 0.7)
    for a, b in zip(fused, plain, strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    for a, b in zip(gradients(fused), gradients(plain), strict=True):
        assert torch.allclose(a, b, atol=1e-4)


def test_no_decisions_give_no_numbers_and_no_gradient() -> None:
    hidden, weight = torch.randn(0, 6, requires_grad=True), torch.randn(13, 6, requires_grad=True)
    fused: Any = FusedScores.apply(hidden, weight, None, torch.zeros(0, dtype=torch.long), 1.0)
    fused[0].sum().backward()
    assert weight.grad is not None
    assert float(weight.grad.abs().sum()) == 0.0


SMALL: dict[str, Any] = {
    "vocab_size": 24,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@pytest.mark.parametrize(
    "config",
    [
        Gemma2Config(**SMALL, final_logit_softcapping=2.0, sliding_window=4),
        GraniteConfig(**{k: v for k, v in SMALL.items() if k != "head_dim"}, logits_scaling=8.0),
        Cohere2Config(**SMALL, logit_scale=0.25),
    ],
    ids=["soft cap", "divided", "multiplied"],
)
def test_scaled_and_capped_heads_are_understood(config: Any) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    ids = torch.randint(24, (3, 7))
    logp = model(input_ids=ids).logits.div(0.6).log_softmax(-1)
    rows, columns = torch.arange(3).repeat_interleave(6), torch.arange(6).repeat(3)
    target = ids[rows, columns + 1]
    logp_N, entropy_N, value_N = ScoredLM(model)(ids, rows, columns, target, 0.6)
    assert torch.allclose(logp_N, logp[rows, columns, target], atol=1e-5)
    assert torch.allclose(entropy_N, -(logp.exp() * logp).sum(-1)[rows, columns], atol=1e-5)
    assert value_N is None
    grad = torch.autograd.grad(logp_N.sum() + entropy_N.sum(), list(model.parameters()), allow_unused=True)
    plain = logp[rows, columns, target].sum() - (logp.exp() * logp).sum(-1)[rows, columns].sum()
    for a, b in zip(grad, torch.autograd.grad(plain, list(model.parameters()), allow_unused=True), strict=True):
        assert (a is None) == (b is None)
        assert a is None or b is None or torch.allclose(a, b, atol=1e-3)


def test_an_unknown_head_is_refused(tiny_model: Callable[..., Any]) -> None:
    model = tiny_model("llama")
    original = model.forward

    def shifted(*arguments: Any, **named: Any) -> Any:
        output = original(*arguments, **named)
        output.logits = output.logits.square()
        return output

    model.forward = shifted
    with pytest.raises(ConfigError, match="output head"):
        ScoredLM(model)


def test_dropout_stays_off(tiny_model: Callable[..., Any]) -> None:
    scored = ScoredLM(tiny_model("gpt2", resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5))
    scored.train()
    assert not any(module.training for module in scored.modules())
    ids = torch.randint(24, (2, 5))
    assert torch.equal(scored.hidden_BLD(ids), scored.hidden_BLD(ids))


def test_no_value_head_is_said(tiny_model: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="value_head=True"):
        ScoredLM(tiny_model("llama")).values_N(torch.zeros(1, 32))
