"""The peer's side of bench/ppo.py: PPO of TRL 1.12 on the task file, run by the Python of `.venv-trl112`.

    .venv-trl112/bin/python bench/peers/trl112_ppo.py TASK.json SEED

Its configuration is here in full; corrections are welcome. What both sides can have alike is alike: model, prompts,
reward, episodes an update, epochs, learning rate (constant), Adam's betas and epsilon, KL weight, gamma, lambda, clips,
temperature, lengths, fp32, threads. What TRL needs and we do not: a second model as critic. What it lacks: gradient
clipping. Prints one JSON line last.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

START = time.perf_counter()
TASK: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
SEED = int(sys.argv[2])
os.environ.update(
    HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TRL_EXPERIMENTAL_SILENCE="1", TOKENIZERS_PARALLELISM="false"
)
sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "src")]

import torch  # noqa: E402

torch.set_num_threads(TASK["threads"])

from datasets import Dataset  # noqa: E402  # pyright: ignore[reportMissingImports]
from ppo_task import Scorer  # noqa: E402
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer  # noqa: E402
from trl.experimental.ppo import PPOConfig, PPOTrainer  # noqa: E402  # pyright: ignore[reportMissingImports]


class OutOfTime(Exception):
    """The seconds of the task are over."""


class TokenIds(torch.nn.Module):
    """A backbone that hands the token ids through as hidden states, since TRL wants a model as reward."""

    def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
        """Return ids as (B, T, 1)."""
        return SimpleNamespace(hidden_states=[input_ids.unsqueeze(-1).float()])


class JudgeReward(torch.nn.Module):
    """The gold judge's normalised score in the shape that TRL's `get_reward` expects: the same at every position."""

    base_model_prefix = "backbone"

    def __init__(self, scorer: Scorer) -> None:
        super().__init__()
        self.backbone, self.scorer = TokenIds(), scorer

    def score(self, hidden: torch.Tensor) -> torch.Tensor:
        """Score whole rows and note the time; raises OutOfTime when the task's seconds are over."""
        ids_BT = hidden.squeeze(-1).long()
        width = TASK["prompt_width"]
        pad, end = self.scorer.tokenizer.pad_token_id, self.scorer.tokenizer.eos_token_id
        answers: list[list[int]] = []
        for row in ids_BT[:, width:].tolist():
            answers.append([token for token in row[: row.index(end) + 1 if end in row else None] if token != pad])
        prompts = [tuple(token for token in row if token != pad) for row in ids_BT[:, :width].tolist()]
        score_B = torch.tensor(self.scorer(prompts, answers), device=hidden.device)
        if self.scorer.seconds() > TASK["seconds"]:
            raise OutOfTime
        return score_B.view(-1, 1, 1).expand(-1, ids_BT.shape[1], 1)


def main() -> None:
    """Train for the task's seconds and print what happened."""
    tokenizer = AutoTokenizer.from_pretrained(TASK["model"], padding_side="left")
    scorer = Scorer(TASK, tokenizer)
    rows = [[tokenizer.pad_token_id] * (TASK["prompt_width"] - len(p["tokens"])) + p["tokens"] for p in TASK["prompts"]]
    config = {
        "learning_rate": TASK["learning_rate"],
        "adam_epsilon": 1e-5,
        "optim": "adamw_torch",
        "lr_scheduler_type": "constant",
        "per_device_train_batch_size": TASK["rows"],
        "gradient_accumulation_steps": 1,
        "num_mini_batches": 1,
        "num_ppo_epochs": TASK["epochs"],
        "local_rollout_forward_batch_size": TASK["rows"],
        "total_episodes": 10**7,
        "response_length": TASK["response"],
        "stop_token": "eos",
        "missing_eos_penalty": None,
        "kl_coef": TASK["beta"],
        "temperature": 1.0,
        "gamma": 1.0,
        "lam": 0.95,
        "cliprange": 0.2,
        "cliprange_value": 0.2,
        "vf_coef": 0.1,
        "whiten_rewards": False,
        "num_sample_generations": 0,
        "use_cpu": TASK["device"] == "cpu",
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1000,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "seed": SEED,
    }
    trainer = PPOTrainer(
        args=PPOConfig(output_dir=TASK["scratch"], **config),
        processing_class=tokenizer,
        model=AutoModelForCausalLM.from_pretrained(TASK["model"], dtype=torch.float32),
        ref_model=AutoModelForCausalLM.from_pretrained(TASK["model"], dtype=torch.float32),
        reward_model=JudgeReward(scorer),
        value_model=AutoModelForSequenceClassification.from_pretrained(
            TASK["model"], num_labels=1, dtype=torch.float32
        ),
        train_dataset=Dataset.from_dict({"input_ids": rows}),
        eval_dataset=Dataset.from_dict({"input_ids": rows[:8]}),
    )
    construct_seconds = time.perf_counter() - START
    scorer.start()
    with contextlib.suppress(OutOfTime):
        trainer.train()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        json.dumps(
            {"updates": scorer.updates, "construct_seconds": construct_seconds, "peak_rss_mb": peak, "config": config}
        )
    )


if __name__ == "__main__":
    main()
