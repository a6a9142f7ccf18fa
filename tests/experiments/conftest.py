"""A tiny language model on the disk, and judges in files of their own, as a user would bring them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from backflip.experiments import Experiment
from backflip.run import Run, RunRecord, read_run

WORDS = "<pad> <s> </s> user assistant the film was good bad long dull bright . and very".split()
TEMPLATE = "<s> {% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}assistant"
JUDGE = """
def wordy(prompt, a, b):
    return 0.5 if len(a) == len(b) else float(len(a) > len(b))

def shy(prompt, a, b):
    return None if "bad" in a + b else wordy(prompt, a, b)

def broken(prompt, a, b):
    raise KeyError("no such film")

def shouting(prompt, a, b):
    return 2

def goods(prompt, answer):
    return answer.split().count("good")

def short(prompt, answer):
    return -len(answer.split())

def fails(prompt, answer):
    raise ValueError("cannot read it")
"""


def save_tiny(folder: Path, template: str | None = None) -> Path:
    """Write a random Llama of two layers over a few words."""
    inner = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="film"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special: dict[str, Any] = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, **special)
    if template is not None:
        tokenizer.chat_template = template
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "vocab_size": len(WORDS), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.2,
    }  # fmt: skip
    LlamaForCausalLM(LlamaConfig(**shape)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_chat_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("chat"), TEMPLATE)


@pytest.fixture(scope="module")
def arms_here() -> Iterator[None]:
    """Do the runs of arms in this process: what a process of its own costs is paid for in `test_arms`."""
    from backflip.cli import main
    from backflip.experiments import arms
    from backflip.experiments.arms import Planned

    def go_through(planned: list[Planned], *_: object) -> list[Planned]:
        for one in planned:
            argv = [one.arm.experiment, "--folder", str(one.folder), "--quiet", "--seed", str(one.seed)]
            assert main(["run", *argv, *one.arm.words()]) == 0
        return []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arms, "go_through", go_through)
        yield


@pytest.fixture
def whole_and_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[RunRecord, RunRecord]]:
    """Return a function that does a run twice, undisturbed and stopped after so many saved states and then resumed, and gives both."""

    def both(experiment: Experiment, config: Any, states: int = 1) -> tuple[RunRecord, RunRecord]:
        with Run.create(experiment.name, config, root=tmp_path, folder=tmp_path / "whole", seed=0) as run:
            experiment(config, run)
        saved, left = Run.save_state, [None] * states

        def dies(self: Run, name: str, tree: Any) -> None:
            saved(self, name, tree)
            left.pop()
            if not left:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Run, "save_state", dies)
            with Run.create(experiment.name, config, root=tmp_path, folder=tmp_path / "cut", seed=0) as run:
                experiment(config, run)
        with Run.resume(tmp_path / "cut") as run:
            experiment(config, run)
        return read_run(tmp_path / "whole"), read_run(tmp_path / "cut")

    return both


@pytest.fixture
def judges(tmp_path: Path) -> Path:
    path = tmp_path / "judges.py"
    path.write_text(JUDGE)
    return path


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("".join(f"the film was {a} and {b}\n" for a in WORDS[8:13] for b in WORDS[8:13]))
    return path


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    path = tmp_path / "chats.jsonl"
    rows = [
        {"messages": [{"role": "user", "content": f"the film was {a} and {b}"}]}
        for a in WORDS[8:13]
        for b in WORDS[8:13]
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def failure(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return a function that runs a command line, and gives the one line with which it failed with exit code 2."""
    from backflip.cli import main

    def run(*argv: object) -> str:
        assert main([str(arg) for arg in argv]) == 2
        said = capsys.readouterr().err.strip().splitlines()
        own = [
            line
            for line in said
            if line.partition(":")[0] in ("ConfigError", "DataError", "StoreError", "MissingExtra")
        ]
        assert len(own) == 1 and said[-1] == own[0], said
        return own[0]

    return run
