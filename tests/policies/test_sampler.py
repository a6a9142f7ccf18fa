"""Sampling with refilled slots: equal to a plain forward pass, equal to the distribution, independent of the schedule."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from backflip.data import PAD, Act
from backflip.errors import ConfigError, DataError
from backflip.policies import sampler
from backflip.policies.hf_engine import HFEngine
from backflip.policies.llama import LlamaEngine
from backflip.policies.sampler import SampleSettings, sample
from backflip.policies.score import ScoredLM

ARCHITECTURES = ("llama", "gpt2", "qwen2", "qwen3", "gemma3", "bloom")
FAST = ("llama", "qwen2", "qwen3")
EOS = 2
MANY_ENDS = (2, 5, 9, 13, 17)
"""With so many end tokens rows end at ragged lengths, and slots are refilled often."""


def ragged_prompts(count: int, longest: int = 7, seed: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    rows = [rng.integers(3, 24, rng.integers(1, longest + 1)).tolist() for _ in range(count)]
    width = max(map(len, rows))
    return torch.tensor([[PAD] * (width - len(row)) + row for row in rows])


def settings(
    slots: int, max_new_tokens: int = 14, temperature: float = 0.9, end: tuple[int, ...] = MANY_ENDS
) -> SampleSettings:
    return SampleSettings(temperature, max_new_tokens, end, slots)


def engines(scored: ScoredLM, name: str) -> list[Any]:
    return [HFEngine(scored)] + ([LlamaEngine(scored, torch.float32)] if name in FAST else [])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_refilled_rows_equal_a_plain_forward_pass(tiny_model: Callable[..., Any], name: str) -> None:
    scored = ScoredLM(tiny_model(name))
    prompts_BP = ragged_prompts(40)
    for engine in engines(scored, name):
        act = sample(engine, prompts_BP, settings(slots=5), np.random.default_rng(3))
        lengths = act.mask_BT.sum(1)
        assert 1 <= int(lengths.min()) < int(lengths.max()), (
            "rows must end at unlike lengths for refilling to be tested"
        )
        for row in range(40):
            prompt = [token for token in prompts_BP[row].tolist() if token != PAD]
            answer = act.action[row][act.mask_BT[row]].tolist()
            with torch.no_grad():
                logits = scored.plain(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
            logp = (logits / 0.9).log_softmax(-1)[torch.arange(len(answer)), torch.tensor(answer)]
            assert torch.allclose(act.logp_BT[row, : len(answer)], logp, atol=1e-4), (name, type(engine).__name__, row)


@pytest.mark.parametrize("name", ["llama", "gemma3", "bloom"])
def test_the_schedule_changes_nothing(tiny_model: Callable[..., Any], name: str) -> None:
    scored = ScoredLM(tiny_model(name))
    prompts_BP = ragged_prompts(30)
    acts = [
        sample(engine, prompts_BP, settings(slots), np.random.default_rng(3))
        for slots in (1, 4, 30, 100)
        for engine in engines(scored, name)
    ]
    for act in acts[1:]:
        assert torch.equal(act.action, acts[0].action)
        assert torch.allclose(act.logp_BT, acts[0].logp_BT, atol=1e-4)


def test_equal_generators_give_equal_bits(tiny_model: Callable[..., Any]) -> None:
    scored = ScoredLM(tiny_model("llama"))
    first, second, other = (
        sample(LlamaEngine(scored, torch.float32), ragged_prompts(30), settings(4), np.random.default_rng(seed))
        for seed in (3, 3, 4)
    )
    assert torch.equal(first.action, second.action)
    assert torch.equal(first.logp_BT, second.logp_BT)
    assert not torch.equal(first.action[:, :1], other.action[:, :1])


def enumerated(
    scored: ScoredLM, prompt: list[int], vocabulary: int, length: int, temperature: float
) -> dict[tuple[int, ...], float]:
    """Return the probability of every answer of at most `length` tokens, by plain forward passes."""
    found: dict[tuple[int, ...], float] = {}
    open_answers: dict[tuple[int, ...], float] = {(): 1.0}
    for step in range(length):
        rows = list(open_answers)
        with torch.no_grad():
            logits = scored.plain(input_ids=torch.tensor([prompt + list(row) for row in rows])).logits[:, -1]
        p_RV = (logits / temperature).softmax(-1).double().tolist()
        grown: dict[tuple[int, ...], float] = {}
        for row, p_V in zip(rows, p_RV, strict=True):
            for token in range(vocabulary):
                done = token == EOS or step + 1 == length
                (found if done else grown)[(*row, token)] = open_answers[row] * p_V[token]
        open_answers = grown
    return found


def chi_square_p(scored: ScoredLM, engine: Any, rows: int = 4000, length: int = 4) -> float:
    vocabulary, prompt = 5, [3, 4, 3]
    expected = enumerated(scored, prompt, vocabulary, length, 0.9)
    assert abs(sum(expected.values()) - 1) < 1e-5
    act = sample(engine, torch.tensor([prompt] * rows), settings(64, length, end=(EOS,)), np.random.default_rng(11))
    counts = dict.fromkeys(expected, 0)
    for row, count in zip(act.action.tolist(), act.mask_BT.sum(1).tolist(), strict=True):
        counts[tuple(row[:count])] += 1
    # Cells of fewer than five expected answers are put together, as the test wants.
    rare = {answer for answer, p in expected.items() if p * rows < 5}
    observed = [counts[a] for a in expected if a not in rare] + [sum(counts[a] for a in rare)]
    wanted = [expected[a] * rows for a in expected if a not in rare] + [sum(expected[a] for a in rare) * rows]
    scale = rows / sum(wanted)
    kept = [(o, w * scale) for o, w in zip(observed, wanted, strict=True) if w > 0]
    assert len(kept) > 15, "the distribution must be spread for the test to say something"
    return float(stats.chisquare([o for o, _ in kept], [w for _, w in kept]).pvalue)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_sampled_frequencies_match_the_enumerated_distribution(tiny_model: Callable[..., Any], name: str) -> None:
    scored = ScoredLM(tiny_model(name, vocabulary=5, initializer_range=0.08))
    for engine in engines(scored, name):
        assert chi_square_p(scored, engine) > 1e-3, type(engine).__name__


def test_a_biased_sampler_is_seen(tiny_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    original = sampler.draw
    monkeypatch.setattr(sampler, "draw", lambda logp, uniform: original(logp, uniform**1.15))
    scored = ScoredLM(tiny_model("llama", vocabulary=5, initializer_range=0.08))
    assert chi_square_p(scored, LlamaEngine(scored, torch.float32)) < 1e-6


def test_rows_of_one_prompt_are_independent(tiny_model: Callable[..., Any]) -> None:
    scored = ScoredLM(tiny_model("llama", initializer_range=0.05))
    prompts_BP = torch.tensor([[5, 6, 7], [8, 9, 10]]).repeat_interleave(50, 0)
    act = sample(LlamaEngine(scored, torch.float32), prompts_BP, settings(16), np.random.default_rng(0))
    assert len({tuple(row) for row in act.action[:50].tolist()}) > 40


def check_shape(act: Act, end: tuple[int, ...], longest: int) -> None:
    lengths = act.mask_BT.sum(1)
    assert act.action.shape[1] == int(lengths.max()) <= longest
    for row, ended, length in zip(act.action.tolist(), act.ended_B.tolist(), lengths.tolist(), strict=True):
        answer = row[:length]
        assert all(token != PAD for token in answer)
        assert all(token == PAD for token in row[length:])
        assert not any(token in end for token in answer[:-1])
        assert ended == (answer[-1] in end)
        assert ended or length == longest
    assert torch.equal(act.mask_BT, act.action != PAD)
    assert float(act.logp_BT[~act.mask_BT].abs().sum()) == 0.0


@pytest.mark.parametrize("longest", [1, 2, 9])
@pytest.mark.parametrize("end", [(), (EOS,), (EOS, 7, 11)])
@pytest.mark.parametrize("slots", [3, 50])
def test_answers_end_where_they_should(
    tiny_model: Callable[..., Any], longest: int, end: tuple[int, ...], slots: int
) -> None:
    scored = ScoredLM(tiny_model("llama"))
    for engine in engines(scored, "llama"):
        check_shape(
            sample(engine, ragged_prompts(20), settings(slots, longest, end=end), np.random.default_rng(0)),
            end,
            longest,
        )


def test_columns_are_moved_many_times(tiny_model: Callable[..., Any]) -> None:
    # A long run through few slots wraps the shared columns over and over; a short window and alibi are the hard cases.
    for name, slots in itertools.product(("llama", "gemma3", "bloom"), (1, 2)):
        scored = ScoredLM(tiny_model(name))
        prompts_BP = ragged_prompts(25, longest=4)
        whole, few = (
            sample(engines(scored, name)[-1], prompts_BP, settings(s), np.random.default_rng(5)) for s in (25, slots)
        )
        assert torch.equal(whole.action, few.action)
        assert torch.allclose(whole.logp_BT, few.logp_BT, atol=1e-4)


def test_values_are_those_of_the_state_before_the_token(tiny_model: Callable[..., Any]) -> None:
    torch.manual_seed(1)
    scored = ScoredLM(tiny_model("llama"), nn.Linear(32, 1))
    prompts_BP = ragged_prompts(12)
    for engine in engines(scored, "llama"):
        act = sample(engine, prompts_BP, settings(3), np.random.default_rng(0))
        assert act.value_BT is not None
        for row in range(12):
            prompt = [token for token in prompts_BP[row].tolist() if token != PAD]
            answer = act.action[row][act.mask_BT[row]].tolist()
            with torch.no_grad():
                hidden = scored.hidden_BLD(torch.tensor([prompt + answer]))[0, len(prompt) - 1 : -1]
                assert torch.allclose(act.value_BT[row, : len(answer)], scored.values_N(hidden), atol=1e-4)
        assert float(act.value_BT[~act.mask_BT].abs().sum()) == 0.0


def test_what_is_returned_can_take_part_in_a_gradient(tiny_model: Callable[..., Any]) -> None:
    scored = ScoredLM(tiny_model("llama"))
    act = sample(LlamaEngine(scored, torch.float32), ragged_prompts(4), settings(4), np.random.default_rng(0))
    weight = torch.ones_like(act.logp_BT, requires_grad=True)
    (weight * act.logp_BT).sum().backward()
    assert weight.grad is not None


def test_bfloat16_sampling_stays_close(tiny_model: Callable[..., Any]) -> None:
    for name in ("llama", "gpt2"):
        scored = ScoredLM(tiny_model(name))
        exact = engines(scored, name)[-1]
        rough: Any = LlamaEngine(scored, torch.bfloat16) if name == "llama" else HFEngine(scored, torch.bfloat16)
        a, b = (
            sample(engine, ragged_prompts(10), settings(4, 1), np.random.default_rng(0)) for engine in (exact, rough)
        )
        same = a.action == b.action
        assert float(same.float().mean()) > 0.5
        gap = (a.logp_BT - b.logp_BT)[same].abs().max()
        assert 0 < float(gap) < 0.3, name


def test_bad_requests(tiny_model: Callable[..., Any]) -> None:
    scored = ScoredLM(tiny_model("llama"))
    engine, rng = LlamaEngine(scored, torch.float32), np.random.default_rng(0)
    with pytest.raises(DataError, match="prompt 1 has no tokens"):
        sample(engine, torch.tensor([[5, 6], [PAD, PAD]]), settings(2), rng)
    with pytest.raises(DataError, match="no prompts"):
        sample(engine, torch.zeros((0, 3), dtype=torch.long), settings(2), rng)
    with pytest.raises(ConfigError, match="above 0"):
        sample(engine, torch.tensor([[5]]), settings(2, temperature=0.0), rng)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_logits_that_are_not_finite_are_said(tiny_model: Callable[..., Any], name: str) -> None:
    scored = ScoredLM(tiny_model(name))
    with torch.no_grad():
        next(scored.plain.parameters())[6] = float("nan")
    engine = engines(scored, name)[-1]
    with pytest.raises(DataError, match="not finite"):
        sample(engine, torch.tensor([[5, 6]]), settings(2), np.random.default_rng(0))
