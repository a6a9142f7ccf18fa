"""What the PPO loop counts, shares out and orders."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from backflip.data import Item, Judgement, Query
from backflip.errors import ConfigError
from backflip.loops.answers import answers_to
from backflip.loops.asking import pair_up
from backflip.loops.parts import Parts, share, stream
from backflip.loops.ppo import PPOLoopConfig
from backflip.loops.stop import StopRules
from backflip.overseers.function import FunctionOverseer
from backflip.policies.lm import LMConfig, LMPolicy
from backflip.progress import Progress
from backflip.rewards.fit import FitConfig
from backflip.rewards.model import SequenceRewardModel
from backflip.run import Run
from backflip.worlds.text import TextWorld

WORDS = "<pad> <s> </s> the film was good bad long dull bright . and very".split()
PROMPTS = [f"the film was {word}" for word in WORDS[6:]]
GOOD = {"good", "bright", "very", "and"}
TINY = PPOLoopConfig(
    comparisons=12,
    members=1,
    fit=FitConfig(batch=8, held_out=0.2),
    normalise_on=12,
    updates=4,
    episodes=8,
    lr=3e-3,
    save_every=1,
    check_every=2,
)
Judge = Callable[[str, str, str], float | None]


def tiny_policy(seed: int = 0) -> LMPolicy:
    """A fresh random Llama over a few words; the same for the same seed."""
    inner = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="film"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special: dict[str, Any] = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, **special)
    torch.manual_seed(seed)
    shape: dict[str, Any] = {
        "vocab_size": len(WORDS), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 32,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "attn_implementation": "eager",
    }  # fmt: skip
    head = torch.nn.Linear(32, 1)
    return LMPolicy(LlamaForCausalLM(LlamaConfig(**shape)), tokenizer, LMConfig(max_new_tokens=6, rows=16), head)


def goodness(text: str) -> int:
    return sum(word in GOOD for word in text.split())


def likes_good(prompt: str, a: str, b: str) -> float:
    return (np.sign(goodness(a) - goodness(b)) + 1) / 2


def new_run(folder: Path, config: PPOLoopConfig = TINY) -> Run:
    run = Run.create("toy", config, root=folder.parent, seed=config.seed, folder=folder)
    run.progress = Progress(quiet=True)
    return run


def parts_of(run: Run, judge: Judge = likes_good, check: Any = None, overseer: Any = None) -> Parts:
    policy = tiny_policy()
    start = policy.reference()
    return Parts(
        policy=policy,
        world=TextWorld(PROMPTS, policy.tokenizer, group_size=2),
        overseer=overseer or FunctionOverseer(run.store, judge),
        start_reward=lambda rng: SequenceRewardModel.from_causal_lm(start.module.plain, rng),
        question="Which is better?",
        check=check,
    )


def lines(run: Run, phase: str | None = None) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    kept = [row for row in rows if phase in (None, row["phase"])]
    return [{key: value for key, value in row.items() if not key.startswith("seconds")} for row in kept]


def questions_of(count: int) -> list[Query]:
    items = [Item("the film", f"answer {k}", {"answer_text": f"answer {k}"}) for k in range(2 * count)]
    return pair_up(items, "Which is better?", np.random.default_rng(0))


# -- bookkeeping ------------------------------------------------------------------------------------------------------


@given(total=st.integers(0, 5000), rounds=st.integers(1, 40))
def test_shares_add_up_and_differ_by_one_at_most(total: int, rounds: int) -> None:
    shares = [share(total, rounds, number) for number in range(rounds)]
    assert sum(shares) == total
    assert max(shares) - min(shares) <= 1


def test_a_stream_is_the_same_in_every_process_and_apart_from_all_others() -> None:
    program = "from backflip.loops.parts import stream; print(stream(3, 'ppo', 1, 2).integers(1 << 62))"
    environment = os.environ | {"PYTHONHASHSEED": "12345"}
    found = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True)
    assert int(found.stdout) == int(stream(3, "ppo", 1, 2).integers(1 << 62))
    places: list[Any] = [
        (3, "ppo", 1, 2),
        (4, "ppo", 1, 2),
        (3, "fit", 1, 2),
        (3, "ppo", 2, 1),
        (3, "ppo", 1),
        (3, "ppo"),
    ]
    assert len({int(stream(*place).integers(1 << 62)) for place in places}) == len(places)


@given(count=st.integers(0, 60), seed=st.integers(0, 99))
def test_which_answer_is_shown_first_is_half_and_half(count: int, seed: int) -> None:
    items = [Item("p", f"answer {k}", {}) for k in range(2 * count)]
    pairs = pair_up(items, "Which?", np.random.default_rng(seed))
    assert [pair.items for pair in pairs] == [(items[2 * k], items[2 * k + 1]) for k in range(count)]
    orders = Counter(pair.order for pair in pairs)
    assert set(orders) <= {(0, 1), (1, 0)}
    assert abs(orders[0, 1] - orders[1, 0]) == count % 2


def test_the_order_of_showing_is_drawn() -> None:
    orders = {tuple(query.order for query in questions_of_seed) for questions_of_seed in map(_shuffled, range(8))}
    assert len(orders) > 4


def _shuffled(seed: int) -> list[Query]:
    items = [Item("p", f"answer {k}", {}) for k in range(24)]
    return pair_up(items, "Which?", np.random.default_rng(seed))


def test_the_first_answer_to_a_question_counts() -> None:
    asked = questions_of(3)
    said = [
        Judgement(asked[2].id, "a", (1.0, 0.0)),
        Judgement("another run's", "a", (1.0, 0.0)),
        Judgement(asked[0].id, "a", None, note="skipped"),
        Judgement(asked[2].id, "b", (0.0, 1.0)),
    ]
    assert answers_to(asked, said) == [said[2], said[0]]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rounds": 0}, "rounds is 0, expected 1 or more"),
        ({"rounds": 5}, "5 rounds need as many comparisons and updates"),
        ({"rounds": 3, "stop": StopRules(judgements=2)}, "3 rounds need as many comparisons and updates"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        replace(TINY, **settings)


def test_no_judgements_at_all_cannot_be_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"stop\.judgements is 0"):
        StopRules(judgements=0)
