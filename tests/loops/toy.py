"""What tests of methods share: a tiny policy over a few words, judges of it, and a run whose process stops at a chosen step."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from backflip.experiments.methods import load
from backflip.loops.parts import Parts, Trained
from backflip.optimise.scores import ScoreRules
from backflip.overseers.function import FunctionOverseer
from backflip.policies.lm import LMConfig, LMPolicy
from backflip.progress import Progress
from backflip.protocols import Policy, RewardModel
from backflip.rewards.fit import FitConfig
from backflip.rewards.model import SequenceRewardModel
from backflip.run import Run
from backflip.worlds.text import TextWorld

WORDS = "<pad> <s> </s> the film was good bad long dull bright . and very".split()
PROMPTS = [f"the film was {word}" for word in WORDS[6:]]
GOOD = {"good", "bright", "very", "and"}
REWARDED: dict[str, Any] = {
    "members": 1, "fit": FitConfig(epochs=2, batch=16, lr=3e-3, head_lr=3e-3), "normalise_on": 16, "episodes": 32,
    "scores": ScoreRules(),
}  # fmt: skip
SMALL: dict[str, dict[str, Any]] = {
    "ppo": {"lr": 5e-3, **REWARDED},
    "reinforce": {"lr": 5e-3, **REWARDED},
    "rloo": {"lr": 5e-3, **REWARDED},
    "grpo": {"lr": 5e-3, **REWARDED},
    "dpo": {"lr": 5e-3, "pairs": 24, "updates": 12},
    "feedme": {"lr": 5e-3, **REWARDED},
    "conditional": {"lr": 1e-2, "updates": 16, **REWARDED},
    "sft": {"lr": 1e-2, "answers": 24, "updates": 12},
    "nash_md": {"lr": 5e-3, **{name: REWARDED[name] for name in ("members", "fit", "episodes", "scores")}},
    "best_of_n": {"best_of": 8, **{name: REWARDED[name] for name in ("members", "fit", "normalise_on")}},
}
"""What each method is told here beside what all are told."""
UPDATED = [name for name in SMALL if name != "best_of_n"]
"""Those that train the policy and ask somebody."""
Judge = Callable[..., float | None]


def config_of(method: str, **more: Any) -> Any:
    told: dict[str, Any] = {"comparisons": 64}
    if method in UPDATED:
        told |= {"updates": 8, "save_every": 1, "check_every": 4}
    return load(method).config(**(told | SMALL[method] | more))


def tiny_policy() -> LMPolicy:
    """A fresh random Llama over a few words."""
    inner = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="film"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special: dict[str, Any] = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, **special)
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "vocab_size": len(WORDS), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 32,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "attn_implementation": "eager",
    }  # fmt: skip
    head = torch.nn.Linear(32, 1)
    return LMPolicy(LlamaForCausalLM(LlamaConfig(**shape)), tokenizer, LMConfig(max_new_tokens=6, rows=32), head)


def goodness(prompt: str, text: str) -> float:
    return float(sum(word in GOOD for word in text.split()))


def likes_good(prompt: str, a: str, b: str) -> float:
    return (np.sign(goodness("", a) - goodness("", b)) + 1) / 2


def new_run(folder: Path, config: Any) -> Run:
    run = Run.create("toy", config, root=folder.parent, seed=config.seed, folder=folder)
    run.progress = Progress(quiet=True)
    return run


def parts_of(run: Run, judge: Judge = likes_good, given: RewardModel | None = None) -> Parts:
    policy = tiny_policy()
    start = policy.reference()
    return Parts(
        policy=policy,
        world=TextWorld(PROMPTS, policy.tokenizer, group_size=2),
        overseer=FunctionOverseer(run.store, judge),
        start_reward=lambda rng: SequenceRewardModel.from_causal_lm(start.module.plain, rng),
        question="Which is better?",
        given=given,
        check=lambda policy, reward: {"looked": 1.0},
    )


def lines(run: Run, phase: str | None = None) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    kept = [row for row in rows if phase in (None, row["phase"])]
    return [{key: value for key, value in row.items() if not key.startswith("seconds")} for row in kept]


def outcome(run: Run, trained: Trained) -> tuple[Any, ...]:
    weights = {name: tensor.clone() for name, tensor in trained.policy.module.state_dict().items()}
    pairs = [(pair.first.id, pair.second.id, pair.share, pair.weight) for pair in trained.pairs]
    return weights, lines(run), pairs, trained.counts, trained.fits, trained.episodes, trained.tokens


def worth(policy: Policy) -> float:
    """Return the mean goodness of many fresh answers."""
    world = TextWorld(PROMPTS, tiny_policy().tokenizer, seed=99)
    rows = world.collect(policy, 200, np.random.default_rng(1))
    return float(np.mean([goodness("", item.content) for item in world.show(rows)]))


class Crash(Exception):
    """Stands for a kill: nothing after it runs."""


def crashing(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, times: int) -> None:
    """Let a step of the recipe fail the given time it is entered."""
    true, entered = getattr(module, name), 0

    def step(*args: Any, **more: Any) -> Any:
        nonlocal entered
        entered += 1
        if entered == times:
            raise Crash
        return true(*args, **more)

    monkeypatch.setattr(module, name, step)
