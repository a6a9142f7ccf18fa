"""The peer's side of bench/pairs.py: reward model, DPO or SFT of TRL 1.16, run by the Python of `.venv-trl116`.

    .venv-trl116/bin/python bench/peers/trl116_pairs.py TASK.json NAME SEED ROWS ATTENTION:ORDER ...

Its configuration is here in full; corrections are welcome. Alike: model, rows, batch, Adam's settings, learning rate (constant; of
the reward model falling to 0), clipping of the gradient, fp32, threads. Prints one JSON line last.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

START = time.perf_counter()
TASK: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
CLOCK = {"wall": time.perf_counter, "processor": time.process_time}[TASK["clock"]]
NAME, SEED = sys.argv[2], int(sys.argv[3])
GIVEN: list[dict[str, str]] = TASK["samples" if NAME == "sft" else "pairs"][: int(sys.argv[4])]
os.environ.update(
    HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TRL_EXPERIMENTAL_SILENCE="1", TOKENIZERS_PARALLELISM="false"
)

import torch  # noqa: E402

torch.set_num_threads(TASK["threads"])

from datasets import Dataset, disable_caching  # noqa: E402  # pyright: ignore[reportMissingImports]
from transformers import AutoTokenizer, TrainerCallback  # noqa: E402
from trl import (  # noqa: E402  # pyright: ignore[reportMissingImports]
    DPOConfig,
    DPOTrainer,
    RewardConfig,
    RewardTrainer,
    SFTConfig,
    SFTTrainer,
)

disable_caching()  # a second run would otherwise find its tokens on the disk


class Clock(TrainerCallback):
    """Notes the time at every step, of the reward model at every epoch."""

    def __init__(self, rows: int) -> None:
        self.rows, self.marks = rows, list[dict[str, Any]]()

    def start(self) -> None:
        """Set the clock to 0."""
        self.began = CLOCK()

    def _mark(self, units: int) -> None:
        done = units * (len(self.marks) + 1)
        self.marks.append({"seconds": CLOCK() - self.began, "units": float(done), "loss": None})

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note a step."""
        if NAME != "reward":
            self._mark(TASK["batch"])

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note an epoch."""
        if NAME == "reward":
            self._mark(self.rows)


def settings(attention: str, order: str) -> dict[str, Any]:
    """Return what the three trainers are told alike."""
    return {
        "learning_rate": TASK["learning_rate"][NAME],
        "adam_epsilon": 1e-8 if NAME == "reward" else TASK["adam_eps"],  # ours there is AdamW's own
        "optim": "adamw_torch",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "lr_scheduler_type": "linear" if NAME == "reward" else "constant",
        "per_device_train_batch_size": TASK["batch"],
        "gradient_accumulation_steps": 1,
        "num_train_epochs": TASK["epochs"] if NAME == "reward" else 1,
        "dataloader_drop_last": NAME != "reward",
        "train_sampling_strategy": "random" if NAME == "reward" and order == "sequential" else order,
        "remove_unused_columns": NAME == "sft" or order != "group_by_length",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1 if NAME != "reward" else max(1, len(GIVEN) // TASK["batch"]),
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "seed": SEED,
        "model_init_kwargs": {"attn_implementation": attention, "dtype": "float32"},
    }


def built(config: dict[str, Any], clock: Clock, tokenizer: Any) -> Any:
    """Return the trainer."""
    # Of a pair the trainer does not find the length by itself.
    given = GIVEN if NAME == "sft" else [{**row, "length": sum(map(len, row.values()))} for row in GIVEN]
    rows = Dataset.from_list(given)
    shared = {"train_dataset": rows, "processing_class": tokenizer, "callbacks": [clock]}
    folder = TASK["scratch"]
    if NAME == "reward":
        return RewardTrainer(model=TASK["reward"], args=RewardConfig(output_dir=folder, **config), **shared)
    if NAME == "dpo":
        args = DPOConfig(output_dir=folder, beta=TASK["beta"], loss_type=["sigmoid"], **config)
        return DPOTrainer(model=TASK["model"], args=args, **shared)
    args = SFTConfig(output_dir=folder, packing=False, shuffle_dataset=False, **config)
    return SFTTrainer(model=TASK["model"], args=args, **shared)


def accuracy(trainer: Any, tokenizer: Any) -> float:
    """Return the share of held-out pairs whose better answer the trained reward model likes better."""
    scores: list[torch.Tensor] = []
    for side in ("chosen", "rejected"):
        texts = [p["prompt"] + p[side] + tokenizer.eos_token for p in TASK["held"]]
        with torch.no_grad():
            scores.append(trainer.model(**tokenizer(texts, return_tensors="pt", padding=True)).logits[:, 0])
    return float((scores[0] > scores[1]).float().mean())


def tokens(rows: Any) -> float:
    """Count the tokens of all rows, prompts among them."""
    found = {"sft": ("input_ids",), "reward": ("chosen_ids", "rejected_ids")}.get(NAME)
    if found is None:
        return sum(2.0 * len(r["prompt_ids"]) + len(r["chosen_ids"]) + len(r["rejected_ids"]) for r in rows)
    return float(sum(len(row[column]) for row in rows for column in found))


def run(attention: str, order: str) -> dict[str, Any]:
    """Train once, and return what happened."""
    began = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained(TASK["model"], padding_side="right")
    config, clock = settings(attention, order), Clock(len(GIVEN))
    trainer = built(config, clock, tokenizer)
    construct_seconds = time.perf_counter() - began + IMPORT_SECONDS
    clock.start()
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    for mark, entry in zip(clock.marks, logged, strict=True):
        mark["loss"] = entry["loss"]
    found = {"tokens": tokens(trainer.train_dataset)}
    if NAME == "reward":
        found["held_out_accuracy"] = accuracy(trainer, tokenizer)
    if NAME == "dpo":
        late = [entry["rewards/accuracies"] for entry in logged][-len(logged) // 4 :]
        found["accuracy_at_the_end"] = sum(late) / len(late)
    return {
        "marks": clock.marks,
        "construct_seconds": construct_seconds,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "found": found,
        "config": config,
    }


if __name__ == "__main__":
    IMPORT_SECONDS = time.perf_counter() - START
    print(json.dumps([run(*way.split(":")) for way in sys.argv[5:]]))
