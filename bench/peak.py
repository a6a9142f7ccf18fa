"""Share of the machine's measured matrix-product peak that PPO updates reach.

    python bench/peak.py                                   the shipped base, CPU, fp32 and bf16
    python bench/peak.py --shape qwen2.5-0.5b --device cuda  random weights of Qwen2.5-0.5B's shape

`ours` is the rate of matrix products during whole updates (forward, backward, clipping, Adam: counted as products only,
timed as everything), `peer` the best rate of plain square products in the same minute, `ratio` the share. Products on
padding are counted as work; `useful_tokens_share` says how many were not padding.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from typing import Any

import common
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from backflip.data import PAD, Episodes
from backflip.optimise import ppo
from backflip.optimise.step import evaluate_all
from backflip.policies.lm import LMConfig, LMPolicy
from backflip.worlds.reviews import assets


def build(shape: str, device: str) -> tuple[Any, int]:
    """Return a model and its hidden width. Random weights do: speed does not depend on them."""
    torch.manual_seed(0)
    chosen: dict[str, Any] = {"attn_implementation": "eager" if device == "cpu" else "sdpa"}
    if shape == "shipped":
        model: Any = AutoModelForCausalLM.from_pretrained(assets() / "base", dtype=torch.float32, **chosen)
    elif shape == "small":
        sizes: dict[str, Any] = {
            "vocab_size": 4096, "hidden_size": 256, "intermediate_size": 576, "num_hidden_layers": 4,
            "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 128,
        }  # fmt: skip
        model = LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=True, **chosen))
    else:
        sizes = {
            "vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
            "num_attention_heads": 14, "num_key_value_heads": 2, "max_position_embeddings": 32768,
        }  # fmt: skip
        model = Qwen2ForCausalLM(Qwen2Config(**sizes, tie_word_embeddings=True, **chosen))
    return model.to(device), model.config.hidden_size


def ragged(
    policy: LMPolicy, rows: int, prompt: int, answer: int, rng: np.random.Generator
) -> tuple[Episodes, torch.Tensor]:
    """Return rows of random tokens with answers of ragged length, as a policy would have sampled them."""
    vocabulary = policy.module.plain.config.vocab_size
    length_B = torch.as_tensor(rng.integers(answer // 4, answer + 1, rows))
    mask_BT = torch.arange(answer) < length_B[:, None]
    action_BT = torch.where(mask_BT, torch.as_tensor(rng.integers(5, vocabulary, (rows, answer))), PAD)
    obs_BP = torch.as_tensor(rng.integers(5, vocabulary, (rows, prompt)))
    episodes = Episodes(obs_BP, action_BT, mask_BT, None, torch.zeros(rows), torch.arange(rows)).to(policy.device)
    old = evaluate_all(policy, episodes, tokens_per_microbatch=4096)
    episodes = replace(episodes, logp_BT=old.logp_BT, value_BT=old.value_BT)
    reward_BT = torch.zeros(mask_BT.shape)
    reward_BT[torch.arange(rows), length_B - 1] = torch.as_tensor(rng.normal(size=rows)).float()
    return episodes, reward_BT.to(policy.device)


def measure(policy: LMPolicy, precision: str, args: argparse.Namespace) -> dict[str, float]:
    """Count the products of one update, then time updates."""
    episodes, reward_BT = ragged(policy, args.rows, args.prompt, args.answer, np.random.default_rng(0))
    optimizer = torch.optim.Adam(policy.module.parameters(), lr=1e-12, eps=1e-5)
    best: dict[str, float] = {}
    for tokens in args.tokens:
        config = ppo.PPOConfig(
            epochs=2, tokens_per_microbatch=tokens, autocast="bf16" if precision == "bfloat16" else "none",
            ratio_tolerance=1e-3,
        )  # fmt: skip
        update = partial(ppo.update, policy, optimizer, episodes, reward_BT, config)
        # The counter knows PyTorch's own products, not those that go through oneDNN: count without these, time with them.
        with torch.backends.mkldnn.flags(enabled=False), FlopCounterMode(display=False) as counter:
            stats = update()
        seconds = min(common.seconds_of(update, args.device, repeats=args.repeats, warmup=1))
        useful = float((episodes.obs != PAD).sum() + episodes.mask_BT.sum())
        found = {
            "gflops": counter.get_total_flops() / seconds / 1e9,
            "seconds_per_update": seconds,
            "tokens_per_second": config.epochs * useful / seconds,
            "useful_tokens_share": useful / stats["tokens_per_pass"],
            "tokens_per_microbatch": float(tokens),
        }
        if found["tokens_per_second"] > best.get("tokens_per_second", 0.0):
            best = found
    return best


def main() -> None:
    """Measure both precisions and write one result each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=("shipped", "small", "qwen2.5-0.5b"), default="shipped")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--prompt", type=int, default=8)
    parser.add_argument("--answer", type=int, default=32)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024, 2048, 4096])
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model, width = build(args.shape, args.device)
    head = torch.nn.Linear(width, 1).to(args.device)
    policy = LMPolicy(model, None, LMConfig(max_new_tokens=args.answer, device=args.device), head)
    for precision in ("float32", "bfloat16"):
        before = common.matmul_peak_gflops(precision, args.device)
        found = measure(policy, precision, args)
        # The machine may be shared: the better of two readings around the measurement is the harder yardstick.
        peak = max(before, common.matmul_peak_gflops(precision, args.device))
        name = f"peak_{args.shape}_{args.device.split(':')[0]}_{precision}"
        detail = found | {
            "peak_rss_mb": common.peak_rss_mb(),
            "rows": args.rows,
            "prompt": args.prompt,
            "answer": args.answer,
        }
        unit = "GFLOP/s of matrix products during updates, against plain products"
        common.record(name, found["gflops"], peak, unit, detail, on=common.machine(args.device))


if __name__ == "__main__":
    main()
