"""Useful tokens a second when sampling answers: ours against `generate` of transformers.

    python bench/sampling.py                                   the shipped base, its test openings, CPU, fp32 and bf16
    python bench/sampling.py --checkpoint FOLDER --prompts F   any causal LM, any prompt file
    python bench/sampling.py --shape qwen2.5-0.5b --device cuda  random weights of Qwen2.5-0.5B's shape

Both read the same prompts, decode `--rows` rows at once, sample from the whole distribution at temperature 1, and stop a
row at its own end token. A token counts if it is an answer's, the end token included; padding and what `generate`
decodes for rows that have ended do not. The two take turns, so that other load on the machine falls on both; each side's rate
is the median of its turns. The peer runs with the attention that is faster for it, prompts sorted by length. Ours is measured
again through the path of every model (`generic`), and with twice the rows, which costs little memory; the ratio is of equal rows.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from backflip.data import PAD
from backflip.policies.hf_engine import HFEngine
from backflip.policies.llama import LlamaEngine, is_plain_llama
from backflip.policies.lm import LMConfig, LMPolicy, load_policy
from backflip.policies.sampler import SampleSettings, sample
from backflip.worlds.prompts import Prompt, prompt_tokens, read_prompts
from backflip.worlds.reviews import assets, read_openings
from backflip.worlds.text import pad_left

GENERATE: dict[str, Any] = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "use_cache": True}
"""The peer's configuration: the same distribution as ours."""
Run = Callable[[int], tuple[int, int]]
"""Samples with a seed; returns (useful tokens, rows)."""


def random_qwen(rows: int) -> tuple[Any, list[list[int]], tuple[int, ...]]:
    """Return random weights of Qwen2.5-0.5B's shape, random prompts, and so many end tokens that answers are ragged."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    sizes: dict[str, Any] = {
        "vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
        "num_attention_heads": 14, "num_key_value_heads": 2, "max_position_embeddings": 32768,
    }  # fmt: skip
    model = Qwen2ForCausalLM(Qwen2Config(**sizes, tie_word_embeddings=True, initializer_range=0.005))
    ends = tuple(rng.choice(sizes["vocab_size"], sizes["vocab_size"] // 20, replace=False).tolist())
    prompts = [rng.integers(5, sizes["vocab_size"], rng.integers(16, 64)).tolist() for _ in range(rows)]
    return model, prompts, ends


def ours(policy: LMPolicy, prompts: list[list[int]], rows: int, generic: bool = False) -> Run:
    """Return our sampler as a run; `generic` takes the path of every model instead of the Llama family's."""
    obs_BP = pad_left(prompts).to(policy.device)
    dtype = getattr(torch, policy.config.sampling)
    settings = SampleSettings(policy.config.temperature, policy.config.max_new_tokens, policy.end_tokens, rows)

    def run(seed: int) -> tuple[int, int]:
        fast = not generic and is_plain_llama(policy.module)
        engine = LlamaEngine(policy.module, dtype) if fast else HFEngine(policy.module, dtype)
        act = sample(engine, obs_BP, settings, np.random.default_rng(seed))
        return int(act.mask_BT.sum()), len(obs_BP)

    return run


def peer(model: Any, prompts: list[list[int]], rows: int, max_new_tokens: int, ends: tuple[int, ...]) -> Run:
    """Return `generate` as a run, over batches of prompts sorted by length, filled on the left."""
    ordered = sorted(prompts, key=len, reverse=True)
    end_E = torch.tensor(ends, device=model.device)

    def useful(answer_BT: Tensor) -> int:
        is_end_BT = torch.isin(answer_BT, end_E)
        return int((is_end_BT.cumsum(1) - is_end_BT.long() == 0).sum())

    def run(seed: int) -> tuple[int, int]:
        torch.manual_seed(seed)
        tokens = 0
        for start in range(0, len(ordered), rows):
            obs_BP = pad_left(ordered[start : start + rows]).to(model.device)
            with torch.no_grad():
                all_BL = model.generate(
                    input_ids=obs_BP.clamp(min=0),
                    attention_mask=(obs_BP != PAD).long(),
                    max_new_tokens=max_new_tokens,
                    eos_token_id=list(ends),
                    pad_token_id=ends[0],
                    **GENERATE,
                )
            tokens += useful(all_BL[:, obs_BP.shape[1] :])
        return tokens, len(ordered)

    return run


def take_turns(runs: dict[str, Run], turns: int, device: str) -> dict[str, dict[str, float]]:
    """Time every run in every turn, after one unmeasured turn; return useful tokens/s and mean answer length of each."""
    rates: dict[str, list[float]] = {name: [] for name in runs}
    lengths: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(turns + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            tokens, rows = run(turn)
            if device.startswith("cuda"):
                torch.cuda.synchronize(device)
            seconds = time.perf_counter() - start
            if turn:
                rates[name].append(tokens / seconds)
                lengths[name].append(tokens / rows)
    return {name: common.spread(rates[name]) | {"mean_length": statistics.mean(lengths[name])} for name in runs}


def shipped(
    args: argparse.Namespace, config: LMConfig, dtype: torch.dtype
) -> tuple[LMPolicy, list[list[int]], list[Any]]:
    """Return our policy, prompts as tokens, and the peer's models, one for each attention."""
    policy = load_policy(args.checkpoint, config)
    given = read_prompts(args.prompts) if args.prompts else [Prompt(text) for text in read_openings("test")]
    prompts = [prompt_tokens(given[index % len(given)], policy.tokenizer) for index in range(args.count)]
    models = [
        AutoModelForCausalLM.from_pretrained(args.checkpoint, dtype=dtype, attn_implementation=attention)
        for attention in ("sdpa", "eager")
    ]
    return policy, prompts, models


def randomly_made(args: argparse.Namespace, config: LMConfig) -> tuple[LMPolicy, list[list[int]], list[Any]]:
    """Return the same for random weights; both sides share the model."""
    model, prompts, ends = random_qwen(args.count)
    model = model.to(device=args.device, dtype=getattr(torch, config.weights))
    model.generation_config.eos_token_id = list(ends)
    return LMPolicy(model, None, config), prompts, [model]


def measure(args: argparse.Namespace, dtype: str) -> None:
    """Measure one precision and write its result."""
    # On a CPU ours keeps float32 weights and samples in bfloat16; on a GPU, and in the random model, both sides hold bfloat16.
    half = dtype == "bfloat16" and (args.device.startswith("cuda") or args.shape is not None)
    config = LMConfig(
        max_new_tokens=args.max_new_tokens,
        rows=args.rows,
        device=args.device,
        sampling="bfloat16" if dtype == "bfloat16" else "float32",
        weights="bfloat16" if half else "float32",
    )
    made = shipped(args, config, getattr(torch, dtype)) if args.shape is None else randomly_made(args, config)
    policy, prompts, models = made
    peers: dict[str, Run] = {}
    for model in models:
        model = model.to(args.device).eval()
        name = f"generate {model.config._attn_implementation}"
        peers[name] = peer(model, prompts, args.rows, args.max_new_tokens, policy.end_tokens)
    mine = {
        "ours": ours(policy, prompts, args.rows),
        "ours generic": ours(policy, prompts, args.rows, generic=True),
        "ours twice the rows": ours(policy, prompts, 2 * args.rows),
    }
    found = take_turns(mine | peers, args.turns, args.device)
    best_peer = max(peers, key=lambda name: found[name]["median"])
    detail: dict[str, Any] = {
        "dtype": dtype,
        "rows": args.rows,
        "prompts": len(prompts),
        "mean_prompt_tokens": statistics.mean(map(len, prompts)),
        "max_new_tokens": args.max_new_tokens,
        "turns": args.turns,
        "peer": best_peer,
        "generate": GENERATE,
        "tokens_per_second": found,
        "peak_rss_mb": common.peak_rss_mb(),
    }
    rates = (found["ours"]["median"], found[best_peer]["median"])
    name = f"sampling_{args.shape or 'shipped'}_{args.device.split(':')[0]}_{dtype}"
    common.record(name, *rates, "useful tokens/s", detail, on=common.machine(args.device, args.threads))


def main() -> None:
    """Measure every precision asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=assets() / "base")
    parser.add_argument("--prompts", type=Path, help="JSONL or text file; default: the shipped test openings")
    parser.add_argument(
        "--shape", choices=("qwen2.5-0.5b",), help="random weights of this shape instead of a checkpoint"
    )
    parser.add_argument("--count", type=int, default=1024, help="prompts to answer")
    parser.add_argument("--rows", type=int, default=64, help="rows decoded at once, by both")
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for dtype in args.dtypes:
        measure(args, dtype)


if __name__ == "__main__":
    main()
