"""What a run will need before it starts: memory, time and judgements, from counts and measured speeds.

`plan` is a pure function of three small records: the size of the model, the work, and speeds that follow from how fast
this machine multiplies matrices. Answers count at their longest, so time is rather too long than too short; expect
it within a factor of three. Left out: disk.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from backflip.errors import DataError

if TYPE_CHECKING:
    import torch

    from backflip.policies.lm import LMConfig

MIB = 2**20
FLOAT_BYTES = 4
PROCESS_MIB = 450.0
"""The interpreter with torch and transformers loaded."""
ACTIVATION_FLOATS = 34
"""Numbers kept for the backward pass for each token, layer and unit of width (Korthikanti et al. 2022, section 4.1)."""
COPIES = 5.0
"""Times these numbers that are really held at the peak, gradients, temporary tensors and the allocator's free blocks counted: the main job
takes 2.1 GB (five seeds, two cores)."""
LOGITS_KEPT_MIB = 256.0
"""Logits beyond this are computed again in the backward pass (policies/score)."""
PRODUCT_SHARE = 0.35
"""Of the speed of one large matrix product, what a small model reaches with everything around its products."""
LAYER_SECONDS = 3e-4
"""What a layer takes to decode a token of each row, however small it is."""
SECONDS_BY_A_PERSON = 15.0
"""What a person takes to compare two short texts; long ones take longer."""
HOUR, MINUTE = 3600.0, 60.0


class TextSettings(Protocol):
    """What a run on texts is asked for: the settings of a recipe in `loops`, with how the policy writes."""

    @property
    def sampling(self) -> LMConfig:
        """How the policy writes."""
        ...

    @property
    def work(self) -> MethodWork:
        """What the recipe does with it."""
        ...


@dataclass(frozen=True)
class MethodWork:
    """What a recipe does beside sampling answers to compare, as its settings say."""

    sampled: int
    """Answers sampled for updates, and to normalise rewards."""
    updated: int
    """Answers that updates learn from."""
    passes: int
    """Times an update goes over its answers."""
    tokens_per_microbatch: int
    """Tokens of one forward and backward pass."""
    reward_models: int = 0
    """Members of the ensemble; 0 for a recipe that learns no reward."""
    reward_epochs: float = 0.0
    """Passes of each over the comparisons, over all rounds."""


@dataclass(frozen=True)
class Shape:
    """The size of a language model."""

    parameters: int
    """All of its weights."""
    trained: int
    """Those that are trained; fewer with adapters."""
    layers: int
    """Transformer layers."""
    hidden: int
    """Width."""
    key_width: int
    """Numbers in one key of one layer: heads that keep keys, times their width."""
    vocabulary: int
    """Tokens it knows."""


@dataclass(frozen=True)
class Work:
    """How much a run does, counted by its experiment."""

    sampled: int
    """Answers sampled, for questions and updates."""
    updated: int
    """Answers that updates learn from."""
    passes: int
    """Times an update goes over its answers."""
    prompt_tokens: float
    """Mean length of a prompt."""
    answer_tokens: float
    """Mean length of an answer."""
    rows: int
    """Answers sampled at once."""
    longest_tokens: int
    """Longest prompt and answer together."""
    tokens_per_microbatch: int
    """Tokens of one forward and backward pass."""
    comparisons: int
    """Questions put to the overseer."""
    measured: int
    """Answers to held-out prompts, sampled and scored to see what the policy is worth."""
    reward_models: int
    """Members of the ensemble."""
    reward_epochs: float
    """Passes of each over the comparisons."""
    reference_copy: bool = True
    """Whether the reference is a copy of the policy; with adapters it is not."""
    seconds_per_judgement: float = 0.0
    """Time of whoever judges, for each question; 0 for a function."""


@dataclass(frozen=True)
class Speeds:
    """How fast a model goes on a machine."""

    sampled_tokens_per_second: float
    scored_tokens_per_second: float
    updated_tokens_per_second: float

    @classmethod
    def of(cls, shape: Shape, flops_per_second: float, rows: int) -> Self:
        """Return what follows from the speed of matrix products: 2 operations a weight and token forward, 4 backward."""
        forward = 2 * shape.parameters / (flops_per_second * PRODUCT_SHARE)
        return cls(rows / (rows * forward + shape.layers * LAYER_SECONDS), 1 / forward, 1 / (3 * forward))


@dataclass(frozen=True)
class Plan:
    """What a run will need."""

    memory_mib: dict[str, float]
    """By what takes it; together the peak."""
    seconds: dict[str, float]
    """By phase."""
    comparisons: int
    judge_seconds: float

    @classmethod
    def for_text(
        cls,
        config: TextSettings,
        where: str | Path,
        *,
        judgements: int,
        measured: int = 0,
        prompt_tokens: float = 32.0,
        seconds_per_judgement: float = 0.0,
        lora_rank: int | None = None,
    ) -> Self:
        """Estimate a run of a recipe on the model at `where`; measures the machine for a moment.

        `judgements` counts every question, those of the final measurement too; `measured` the answers to held-out prompts.

        Raises:
            DataError: there is no causal LM at this path or hub id.
        """
        from backflip.policies.checkpoints import pick_device

        shape = shape_of(where, lora_rank)
        answer, method = config.sampling.max_new_tokens, config.work
        work = Work(
            sampled=2 * judgements + method.sampled,
            updated=method.updated,
            passes=method.passes,
            prompt_tokens=prompt_tokens,
            answer_tokens=answer,
            rows=config.sampling.rows,
            longest_tokens=round(2 * prompt_tokens) + answer,
            tokens_per_microbatch=method.tokens_per_microbatch,
            comparisons=judgements,
            measured=measured,
            reward_models=method.reward_models,
            reward_epochs=method.reward_epochs,
            reference_copy=lora_rank is None,
            seconds_per_judgement=seconds_per_judgement,
        )
        flops = measure_flops(pick_device(config.sampling.device))
        found = plan(shape, work, Speeds.of(shape, flops, config.sampling.rows))
        return cls(found.memory_mib, found.seconds, found.comparisons, found.judge_seconds)

    def lines(self) -> list[str]:
        """Return what to print."""
        memory, seconds = sum(self.memory_mib.values()), sum(self.seconds.values())
        found = [f"memory      about {memory:,.0f} MiB"]
        found += [f"  {value:>9,.0f} MiB  {name}" for name, value in self.memory_mib.items()]
        found += [f"time        about {_duration(seconds)}, judging apart"]
        found += [f"  {_duration(value):>13}  {name}" for name, value in self.seconds.items()]
        whose = f", about {_duration(self.judge_seconds)} of somebody's time" if self.judge_seconds else ""
        return [*found, f"judgements  {self.comparisons:,}{whose}"]


def plan(shape: Shape, work: Work, speeds: Speeds) -> Plan:
    """Estimate what a run needs."""
    row_tokens = work.prompt_tokens + work.answer_tokens
    weights = shape.parameters * FLOAT_BYTES / MIB
    trained = shape.trained * FLOAT_BYTES / MIB
    keys = 2 * work.rows * work.longest_tokens * shape.layers * shape.key_width * FLOAT_BYTES / MIB
    activations = work.tokens_per_microbatch * ACTIVATION_FLOATS * shape.layers * shape.hidden * FLOAT_BYTES / MIB
    logits = work.tokens_per_microbatch * shape.vocabulary * FLOAT_BYTES / MIB
    compared = 2 * work.comparisons * row_tokens
    return Plan(
        memory_mib={
            "Python, torch, transformers": PROCESS_MIB,
            "policy": weights,
            "reference": weights if work.reference_copy else 0.0,
            f"{work.reward_models} reward models": work.reward_models * weights,
            "gradients and Adam's state": 3 * max(trained, weights if work.reward_models else 0.0),
            "activations and logits of an update": COPIES * (activations + min(logits, LOGITS_KEPT_MIB)),
            "keys and values while sampling": keys,
        },
        seconds={
            "sample": (work.sampled + work.measured) * work.answer_tokens / speeds.sampled_tokens_per_second,
            "fit": compared * work.reward_epochs * work.reward_models / speeds.updated_tokens_per_second,
            "score (reward models, reference)": (work.updated + work.measured)
            * row_tokens
            * (work.reward_models + 1)
            / speeds.scored_tokens_per_second,
            "update": work.updated * row_tokens * work.passes / speeds.updated_tokens_per_second,
        },
        comparisons=work.comparisons,
        judge_seconds=work.comparisons * work.seconds_per_judgement,
    )


def shape_of(where: str | Path, lora_rank: int | None = None) -> Shape:
    """Count a causal LM from its config alone: the model is built without memory, and no weight is read.

    Raises:
        DataError: there is no config at this path or hub id, or it is none of a causal LM.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        whole = AutoConfig.from_pretrained(where)
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(whole)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(
            f"cannot read the size of the model {where} ({reason}); expected a folder or hub id of a causal LM"
        ) from error
    config = whole.get_text_config()
    heads = config.num_attention_heads
    head_width = getattr(config, "head_dim", None) or config.hidden_size // heads
    parameters = sum(weight.numel() for weight in model.parameters())
    # Every matrix inside but embeddings, also those that GPT-2 keeps the other way round.
    inside = [
        part.weight for part in model.base_model.modules() if getattr(getattr(part, "weight", None), "ndim", 0) == 2
    ]
    embeddings = {id(part.weight) for part in model.modules() if isinstance(part, torch.nn.Embedding)}
    adapters = sum((lora_rank or 0) * sum(weight.shape) for weight in inside if id(weight) not in embeddings)
    return Shape(
        parameters=parameters,
        trained=parameters if lora_rank is None else adapters,
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        key_width=(getattr(config, "num_key_value_heads", None) or heads) * head_width,
        vocabulary=config.vocab_size,
    )


def measure_flops(device: torch.device) -> float:
    """Return the floating-point operations a second of a large float32 matrix product on this device."""
    import torch

    from backflip.policies.products import linear

    side = 1024 if device.type == "cpu" else 8192
    matrix = torch.ones(side, side, device=device)
    best = float("inf")
    for _ in range(4):
        began = time.perf_counter()
        float(linear(matrix, matrix)[0, 0])  # reading a number waits for the device
        best = min(best, time.perf_counter() - began)
    return 2.0 * side**3 / best


def _duration(seconds: float) -> str:
    if seconds >= HOUR:
        return f"{seconds / HOUR:.1f} h"
    return f"{seconds / MINUTE:.1f} min" if seconds >= MINUTE else f"{seconds:.0f} s"
