"""A plan is arithmetic: more work takes longer, by as much as it is more, and nothing is counted twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from backflip.errors import DataError
from backflip.plan import MIB, Plan, Shape, Speeds, Work, measure_flops, plan, shape_of

SHAPE = Shape(parameters=3_000_000, trained=3_000_000, layers=4, hidden=256, key_width=64, vocabulary=4096)
WORK = Work(
    sampled=10_000,
    updated=8_000,
    passes=4,
    prompt_tokens=8,
    answer_tokens=24,
    rows=64,
    longest_tokens=48,
    tokens_per_microbatch=4096,
    comparisons=2000,
    measured=1000,
    reward_models=3,
    reward_epochs=2,
)
SPEEDS = Speeds(sampled_tokens_per_second=8000, scored_tokens_per_second=20_000, updated_tokens_per_second=8000)


def total(found: Plan) -> float:
    return sum(found.seconds.values())


def test_seconds_by_hand() -> None:
    found = plan(SHAPE, WORK, SPEEDS).seconds
    assert found["sample"] == pytest.approx((10_000 + 1000) * 24 / 8000)
    assert found["update"] == pytest.approx(8_000 * 32 * 4 / 8000)
    assert found["fit"] == pytest.approx(2 * 2000 * 32 * 2 * 3 / 8000)
    assert found["score (reward models, reference)"] == pytest.approx((8_000 + 1000) * 32 * 4 / 20_000)


def test_memory_by_hand() -> None:
    found = plan(SHAPE, WORK, SPEEDS).memory_mib
    assert found["policy"] == pytest.approx(3_000_000 * 4 / MIB)
    assert found["keys and values while sampling"] == pytest.approx(2 * 64 * 48 * 4 * 64 * 4 / MIB)
    assert found["gradients and Adam's state"] == pytest.approx(3 * 3_000_000 * 4 / MIB)


@pytest.mark.parametrize(
    "more",
    [
        {"sampled": 20_000},
        {"updated": 16_000},
        {"passes": 8},
        {"comparisons": 4000},
        {"measured": 4000},
        {"reward_models": 6},
    ],
    ids=lambda more: next(iter(more)),
)
def test_more_work_takes_longer(more: dict[str, int]) -> None:
    assert total(plan(SHAPE, replace(WORK, **more), SPEEDS)) > total(plan(SHAPE, WORK, SPEEDS))


def test_adapters_need_no_copy_and_little_state() -> None:
    adapted = plan(replace(SHAPE, trained=30_000), replace(WORK, reference_copy=False, reward_models=0), SPEEDS)
    assert adapted.memory_mib["reference"] == 0
    assert adapted.memory_mib["gradients and Adam's state"] == pytest.approx(3 * 30_000 * 4 / MIB)


def test_a_person_costs_time_and_a_function_does_not() -> None:
    person = plan(SHAPE, replace(WORK, seconds_per_judgement=20.0), SPEEDS)
    assert person.judge_seconds == 40_000
    assert "2,000, about 11.1 h of somebody's time" in person.lines()[-1]
    assert plan(SHAPE, WORK, SPEEDS).lines()[-1] == "judgements  2,000"


def test_what_is_printed_adds_up() -> None:
    found = plan(SHAPE, WORK, SPEEDS)
    text = "\n".join(found.lines())
    assert f"about {sum(found.memory_mib.values()):,.0f} MiB" in text
    assert all(name in text for name in (*found.memory_mib, *found.seconds))
    assert np.isfinite(total(found))


def tiny_llama() -> LlamaForCausalLM:
    shape: Any = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64}
    return LlamaForCausalLM(LlamaConfig(vocab_size=50, hidden_size=32, tie_word_embeddings=True, **shape))


def tiny_gpt2() -> GPT2LMHeadModel:
    return GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=32, n_embd=32, n_layer=3, n_head=4))


@pytest.mark.parametrize(("make", "layers", "key_width"), [(tiny_llama, 2, 16), (tiny_gpt2, 3, 32)])
def test_the_size_is_that_of_the_model_itself(
    tmp_path: Path, make: Callable[[], Any], layers: int, key_width: int
) -> None:
    model = make()
    model.config.save_pretrained(tmp_path)
    found = shape_of(tmp_path)
    assert found.parameters == found.trained == sum(weight.numel() for weight in model.parameters())
    assert (found.layers, found.hidden, found.key_width, found.vocabulary) == (layers, 32, key_width, 50)


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")
def test_adapters_are_counted_as_peft_makes_them(tmp_path: Path, make: Callable[[], Any]) -> None:
    from peft import LoraConfig, get_peft_model

    model = make()
    model.config.save_pretrained(tmp_path)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    trained = sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)
    assert shape_of(tmp_path, lora_rank=4).trained == trained


def test_no_model_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read the size of the model") as caught:
        shape_of(tmp_path)
    assert "\n" not in str(caught.value)


def test_speeds_follow_from_the_machine() -> None:
    slow, fast = (Speeds.of(SHAPE, flops, rows=64) for flops in (1e10, 1e12))
    assert fast.updated_tokens_per_second == pytest.approx(100 * slow.updated_tokens_per_second)
    assert slow.sampled_tokens_per_second < fast.sampled_tokens_per_second < 100 * slow.sampled_tokens_per_second
    assert measure_flops(torch.device("cpu")) > 1e6
