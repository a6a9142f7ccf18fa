"""What a language-model policy says about given episodes, against a plain forward pass, for every promised architecture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from backflip.data import PAD, Episodes, concat
from backflip.errors import ConfigError, DataError
from backflip.policies import lm
from backflip.policies.lm import LMConfig, LMPolicy, row_batches

ARCHITECTURES = ("llama", "gpt2", "qwen2", "qwen3", "gemma3", "bloom")
TEMPERATURE = 0.7


def episodes_of(rows: list[tuple[list[int], list[int]]], decided: list[list[bool]] | None = None) -> Episodes:
    """Return rows of (prompt, answer) as episodes."""
    prompt_width, answer_width = (max(len(row[side]) for row in rows) for side in (0, 1))
    obs = torch.tensor([[PAD] * (prompt_width - len(prompt)) + prompt for prompt, _ in rows])
    action = torch.tensor([answer + [PAD] * (answer_width - len(answer)) for _, answer in rows])
    mask = action != PAD
    if decided is not None:
        mask &= torch.tensor([row + [False] * (answer_width - len(row)) for row in decided])
    return Episodes(obs, action, mask, None, torch.zeros(len(rows)), torch.arange(len(rows)))


def random_rows(count: int = 7, seed: int = 0, vocabulary: int = 24) -> list[tuple[list[int], list[int]]]:
    rng = np.random.default_rng(seed)
    return [
        (
            rng.integers(1, vocabulary, rng.integers(1, 6)).tolist(),
            rng.integers(1, vocabulary, rng.integers(1, 12)).tolist(),
        )
        for _ in range(count)
    ]


def plain_logp(policy: LMPolicy, prompt: list[int], answer: list[int]) -> Tensor:
    """Return log-probabilities over the vocabulary before each answer token, by the model's own forward, one row, no padding."""
    with torch.no_grad():
        logits = policy.module.plain(input_ids=torch.tensor([prompt + answer])).logits[0]
    return (logits / policy.config.temperature).log_softmax(-1)[len(prompt) - 1 : -1]


@pytest.fixture
def make_policy(tiny_model: Callable[..., Any]) -> Callable[..., LMPolicy]:
    """Return a function (architecture, seed=0, value=False) -> policy."""

    def make(name: str = "llama", seed: int = 0, value: bool = False, **config: Any) -> LMPolicy:
        head = None
        model = tiny_model(name, seed=seed)
        if value:
            head = nn.Linear(32, 1)
        return LMPolicy(model, None, LMConfig(temperature=TEMPERATURE, max_new_tokens=12, device="cpu", **config), head)

    return make


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_evaluation_equals_a_plain_forward_pass(make_policy: Callable[..., LMPolicy], name: str) -> None:
    policy, rows = make_policy(name, value=True), random_rows()
    with torch.no_grad():
        found = policy.evaluate(episodes_of(rows))
    assert found.value_BT is not None
    for place, (prompt, answer) in enumerate(rows):
        logp_TV = plain_logp(policy, prompt, answer)
        count = len(answer)
        assert torch.allclose(
            found.logp_BT[place, :count], logp_TV[torch.arange(count), torch.tensor(answer)], atol=1e-4
        )
        assert torch.allclose(found.entropy_BT[place, :count], -(logp_TV.exp() * logp_TV).sum(-1), atol=1e-4)
        with torch.no_grad():
            hidden = policy.module.hidden_BLD(torch.tensor([prompt + answer]))[0, len(prompt) - 1 : -1]
            assert torch.allclose(found.value_BT[place, :count], policy.module.values_N(hidden), atol=1e-4)
        for tensor_BT in (found.logp_BT, found.entropy_BT, found.value_BT):
            assert float(tensor_BT[place, count:].abs().sum()) == 0.0


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_padding_and_batch_change_nothing(make_policy: Callable[..., LMPolicy], name: str) -> None:
    policy, rows = make_policy(name), random_rows()
    alone = episodes_of(rows[:1])
    wider = episodes_of([rows[0], ([3] * 9, [4] * 11)])
    together = concat([episodes_of(rows), wider])
    count = len(rows[0][1])
    expected = policy.logp_BT(alone)[0, :count]
    for row, batch in ((0, wider), (0, together), (len(rows), together)):
        assert torch.allclose(policy.logp_BT(batch)[row, :count], expected, atol=1e-5)
        assert torch.allclose(policy.evaluate(batch).logp_BT[row, :count], expected, atol=1e-5)


def test_a_forward_pass_that_sees_padding_is_caught(
    make_policy: Callable[..., LMPolicy], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The planted fault: rows are not closed up, so prompts stand behind padding and at the wrong positions.
    policy, rows = make_policy("gpt2"), random_rows()
    original = policy._decisions  # pyright: ignore[reportPrivateUsage]

    def unclosed(episodes: Episodes) -> Any:
        return original(replace(episodes, obs=episodes.obs.clamp(min=0)))

    expected = policy.logp_BT(episodes_of(rows[:1]))[0, 0]
    monkeypatch.setattr(policy, "_decisions", unclosed)
    padded = episodes_of([rows[0], ([3] * 9, [4])])
    assert abs(float(policy.logp_BT(padded)[0, 0] - expected)) > 1e-3


def test_others_tokens_are_read_and_not_scored(make_policy: Callable[..., LMPolicy]) -> None:
    policy = make_policy()
    prompt, answer = [5, 6], [7, 8, 9, 10]
    found = policy.evaluate(episodes_of([(prompt, answer)], [[True, False, False, True]]))
    whole = policy.evaluate(episodes_of([(prompt, answer)]))
    assert torch.equal(found.logp_BT != 0, torch.tensor([[True, False, False, True]]))
    assert torch.allclose(found.logp_BT[0, [0, 3]], whole.logp_BT[0, [0, 3]], atol=1e-6)


def test_decisions_must_follow_a_token(make_policy: Callable[..., LMPolicy]) -> None:
    episodes = episodes_of([([5], [6, 7])])
    with pytest.raises(DataError, match="no token before it"):
        make_policy().evaluate(replace(episodes, obs=torch.tensor([[PAD]])))
    with pytest.raises(DataError, match="padding"):
        make_policy().evaluate(replace(episodes, action=torch.tensor([[6, PAD]])))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_gradients_are_those_of_the_plain_forward_pass(make_policy: Callable[..., LMPolicy], name: str) -> None:
    policy, rows = make_policy(name), random_rows(3)
    parameters = list(policy.module.parameters())
    found = policy.evaluate(episodes_of(rows))
    ours = torch.autograd.grad(found.logp_BT.sum(), parameters)
    total = torch.zeros(())
    for prompt, answer in rows:
        logits = policy.module.plain(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        total = total + (logits / TEMPERATURE).log_softmax(-1)[torch.arange(len(answer)), torch.tensor(answer)].sum()
    for a, b in zip(ours, torch.autograd.grad(total, parameters), strict=True):
        assert torch.allclose(a, b, atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_kl_is_the_full_sum_and_zero_with_itself(make_policy: Callable[..., LMPolicy], name: str) -> None:
    policy, other, rows = make_policy(name), make_policy(name, seed=1), random_rows()
    episodes = episodes_of(rows)
    assert float(policy.kl_BT(policy.reference(), episodes).abs().max()) < 1e-6
    kl_BT = policy.kl_BT(other, episodes)
    for place, (prompt, answer) in enumerate(rows):
        ours, theirs = plain_logp(policy, prompt, answer), plain_logp(other, prompt, answer)
        expected = (ours.exp() * (ours - theirs)).sum(-1)
        assert torch.allclose(kl_BT[place, : len(answer)], expected, atol=1e-3)
        assert float(kl_BT[place, len(answer) :].abs().sum()) == 0.0


def test_kl_needs_a_comparable_reference(make_policy: Callable[..., LMPolicy], tiny_model: Callable[..., Any]) -> None:
    episodes = episodes_of(random_rows())
    with pytest.raises(ConfigError, match="one vocabulary"):
        make_policy().kl_BT(LMPolicy(tiny_model("llama", vocabulary=30), None, LMConfig(device="cpu")), episodes)
    with pytest.raises(ConfigError, match="LMPolicy"):
        make_policy().kl_BT(object(), episodes)


def test_batches_inside_change_nothing(make_policy: Callable[..., LMPolicy], monkeypatch: pytest.MonkeyPatch) -> None:
    policy, other, episodes = make_policy(), make_policy(seed=1), episodes_of(random_rows(12))
    whole, kl = policy.logp_BT(episodes), policy.kl_BT(other, episodes)
    monkeypatch.setattr(lm, "TOKENS_AT_ONCE", 20)
    assert torch.allclose(policy.logp_BT(episodes), whole, atol=1e-5)
    assert torch.allclose(policy.kl_BT(other, episodes), kl, atol=1e-4)
    batches = row_batches(episodes, 20)
    assert len(batches) > 3
    assert sorted(torch.cat(batches).tolist()) == list(range(12))


def test_the_reference_is_frozen_and_stays(make_policy: Callable[..., LMPolicy]) -> None:
    policy, episodes = make_policy(value=True), episodes_of(random_rows())
    reference, before = policy.reference(), policy.logp_BT(episodes)
    assert reference.hash() == policy.hash()
    assert not any(parameter.requires_grad for parameter in reference.module.parameters())
    assert reference.evaluate(episodes).value_BT is None
    with torch.no_grad():
        for parameter in policy.module.parameters():
            parameter.add_(0.05)
    assert reference.hash() != policy.hash()
    assert torch.equal(reference.logp_BT(episodes), before)
    assert float(policy.kl_BT(reference, episodes).sum()) > 0.01


def test_first_ratio_is_one_for_sampled_answers(make_policy: Callable[..., LMPolicy]) -> None:
    # The best single check of a policy: what it says of its own samples is what the sampler said (docs/ppo.md, rule 21).
    for name in ARCHITECTURES:
        policy = make_policy(name, value=True)
        obs = episodes_of(random_rows(20)).obs
        act = policy.act(obs, np.random.default_rng(0))
        episodes = Episodes(obs, act.action, act.mask_BT, act.logp_BT, torch.zeros(20), torch.arange(20), act.value_BT)
        found = policy.evaluate(episodes)
        assert act.value_BT is not None and found.value_BT is not None
        assert float(((found.logp_BT - act.logp_BT).detach().exp() - 1).abs().max()) < 1e-4, name
        assert torch.allclose(found.value_BT, act.value_BT, atol=1e-4), name


def test_bfloat16_updates_stay_close_and_keep_weights(make_policy: Callable[..., LMPolicy]) -> None:
    exact, rough, episodes = make_policy(), make_policy(updates="bfloat16"), episodes_of(random_rows())
    found = rough.evaluate(episodes)
    gap_BT = (found.logp_BT - exact.evaluate(episodes).logp_BT).detach().abs()
    assert 0 < float(gap_BT.mean()) < 0.1
    found.logp_BT.sum().backward()
    grads = [parameter.grad for parameter in rough.module.parameters()]
    assert all(grad is not None and grad.dtype == torch.float32 and bool(torch.isfinite(grad).all()) for grad in grads)


def test_what_does_not_fit_the_context_is_refused(make_policy: Callable[..., LMPolicy]) -> None:
    policy = make_policy()
    with pytest.raises(ConfigError, match="the model reads 64"):
        policy.act(torch.full((1, 60), 5), np.random.default_rng(0))
    with pytest.raises(ConfigError, match="the model reads 64"):
        policy.evaluate(episodes_of([([5] * 40, [6] * 30)]))


@pytest.mark.parametrize("bad", [{"temperature": 0.0}, {"max_new_tokens": 0}, {"rows": 0}])
def test_settings_out_of_range(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="above 0"):
        LMConfig(**bad)
