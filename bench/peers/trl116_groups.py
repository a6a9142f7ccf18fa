"""The peer's side of bench/groups.py: GRPO or RLOO of TRL 1.16, run by the Python of `.venv-trl116`.

    .venv-trl116/bin/python bench/peers/trl116_groups.py TASK.json METHOD SEED SECONDS ATTENTION:PARTS ...

Its configuration is here in full; corrections are welcome. What both sides can have alike is alike: model, prompts,
reward, episodes an update, answers a prompt, passes, learning rate (constant), Adam's betas and epsilon, KL weight and where the
KL is put, clip, clipping of the gradient, temperature, lengths, fp32, threads. Not alike: GRPO's KL in the loss is k3 here, half the
squared log-ratio with us; RLOO weighs decisions alike unless ours is told its own default (`--aggregate token`). Prints one JSON line last.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

START = time.perf_counter()
TASK: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
METHOD, SEED, SECONDS = sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
os.environ.update(
    HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TRL_EXPERIMENTAL_SILENCE="1", TOKENIZERS_PARALLELISM="false"
)
sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "src")]

import torch  # noqa: E402

torch.set_num_threads(TASK["threads"])

from datasets import Dataset  # noqa: E402  # pyright: ignore[reportMissingImports]
from ppo_task import Scorer  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer  # noqa: E402  # pyright: ignore[reportMissingImports]


class OutOfTime(Exception):
    """The seconds of the task are over."""


def settings(attention: str, parts: int) -> dict[str, Any]:
    """Return what the trainer is told."""
    shared = {
        "learning_rate": TASK["learning_rate"],
        "adam_epsilon": 1e-5,
        "optim": "adamw_torch",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "lr_scheduler_type": "constant",
        "per_device_train_batch_size": TASK["rows"] // parts,
        "gradient_accumulation_steps": parts,
        "num_generations": TASK["group"],
        "num_iterations": TASK["passes"][METHOD],
        "max_completion_length": TASK["response"],
        "temperature": 1.0,
        "beta": TASK["beta"],
        "epsilon": 0.2,
        "disable_dropout": True,
        "max_steps": 10**6,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1000,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "seed": SEED,
        "model_init_kwargs": {"attn_implementation": attention, "dtype": "float32"},
    }
    return shared | ({"loss_type": "grpo", "scale_rewards": "group"} if METHOD == "grpo" else {})


def run(attention: str, parts: int) -> dict[str, Any]:
    """Train for the seconds given and return what happened."""
    began = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained(TASK["model"], padding_side="left")
    scorer = Scorer(TASK, tokenizer)

    def reward(completion_ids: list[list[int]], tokens: list[list[int]], **_: Any) -> list[float]:
        scores = scorer([tuple(prompt) for prompt in tokens], completion_ids)
        if scorer.seconds() > SECONDS:
            raise OutOfTime
        return scores

    rows = [{"prompt": p["text"], "tokens": p["tokens"]} for p in TASK["prompts"]]
    config, trainers = (
        settings(attention, parts),
        {"grpo": (GRPOConfig, GRPOTrainer), "rloo": (RLOOConfig, RLOOTrainer)},
    )
    make, trainer_of = trainers[METHOD]
    trainer = trainer_of(
        model=TASK["model"],
        reward_funcs=reward,
        args=make(output_dir=TASK["scratch"], **config),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    construct_seconds = time.perf_counter() - began + IMPORT_SECONDS
    scorer.start()
    with contextlib.suppress(OutOfTime):
        trainer.train()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"updates": scorer.updates, "construct_seconds": construct_seconds, "peak_rss_mb": peak, "config": config}


if __name__ == "__main__":
    IMPORT_SECONDS = time.perf_counter() - START
    pairs = [way.split(":") for way in sys.argv[5:]]
    print(json.dumps([run(attention, int(parts)) for attention, parts in pairs]))
