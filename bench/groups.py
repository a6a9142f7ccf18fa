"""GRPO and RLOO side by side with TRL 1.16: episodes a second, and seconds to the same gold win rate.

    python bench/groups.py [--methods grpo,rloo] [--seconds 60] [--seeds 5] [--smoke]

The task is that of bench/ppo.py: both sides continue the same review openings with the same base, four answers to each, and
are paid the gold judge's score. GRPO has the KL to the base in its loss and makes two passes over a batch, RLOO has it in the
reward and makes one; there ours sums a row's decisions and averages over rows, as the peer does (`--aggregate token`: as our
own default has it). One process at a time, the sides in turn. Episodes a second are of the steady state, the first three
updates left out. The peer runs in several ways first, and the fastest is taken.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

import ppo

METHODS = ("grpo", "rloo")
TRIED = 1
"""Updates left out at the beginning where ways of the peer are tried; `ppo.SKIPPED` where it counts."""
PASSES = {"grpo": 2, "rloo": 1}
WAYS = tuple(f"{attention}:{parts}" for attention in ("sdpa", "eager") for parts in (1, 4))
"""How the peer may run: its attention, and in how many parts it computes a batch."""


def prepare(args: argparse.Namespace, scratch: Path) -> Path:
    """Write the task of bench/ppo.py, and what groups need."""
    path = ppo.prepare(args, scratch)
    task = json.loads(path.read_text(encoding="utf-8"))
    task |= {"group": args.group, "passes": PASSES, "clock": args.clock, "aggregate": args.aggregate}
    path.write_text(json.dumps(task), encoding="utf-8")
    return path


def ours(task: dict[str, Any], method: str, seed: int) -> dict[str, Any]:
    """Train with Backflip for the task's seconds: the loop written out."""
    start = time.perf_counter()
    import common
    import numpy as np
    import torch
    from ppo_task import Scorer

    from backflip.optimise import grpo, kl, reinforce
    from backflip.optimise.returns import on_last_decision
    from backflip.optimise.step import evaluate_all
    from backflip.policies.lm import LMConfig, load_policy
    from backflip.worlds.prompts import Prompt
    from backflip.worlds.text import TextWorld

    torch.set_num_threads(task["threads"])
    policy = load_policy(task["model"], LMConfig(max_new_tokens=task["response"], device="cpu"))
    reference = policy.reference()
    prompts = [Prompt(p["text"]) for p in task["prompts"]]
    world = TextWorld(prompts, policy.tokenizer, group_size=task["group"], seed=seed)
    optimizer = torch.optim.Adam(policy.module.parameters(), lr=task["learning_rate"], eps=1e-5)
    in_loss = grpo.GRPOConfig(epochs=PASSES["grpo"], loss_kl_coef=task["beta"])
    one_pass = reinforce.rloo()
    if task["aggregate"] == "sum":
        one_pass = replace(one_pass, aggregate="constant", constant_length=1)
    config = in_loss if method == "grpo" else one_pass
    scorer, rng = Scorer(task, policy.tokenizer), np.random.default_rng(seed)
    construct_seconds = time.perf_counter() - start
    scorer.start()
    while True:
        episodes = world.collect(policy, task["rows"], rng)
        score_B = torch.tensor(scorer(*ppo.rows_of(episodes)))
        if scorer.seconds() > task["seconds"]:
            break
        reward_BT = on_last_decision(score_B, episodes.mask_BT)
        before = evaluate_all(reference, episodes, tokens_per_microbatch=config.tokens_per_microbatch)
        episodes = replace(episodes, ref_logp_BT=before.logp_BT)
        if isinstance(config, grpo.GRPOConfig):
            grpo.update(policy, optimizer, episodes, reward_BT, config)
        else:
            reward_BT = kl.shape_reward(reward_BT, episodes, task["beta"])
            reinforce.update(policy, optimizer, episodes, reward_BT, config)
    return {
        "updates": scorer.updates,
        "construct_seconds": construct_seconds,
        "peak_rss_mb": common.peak_rss_mb(),
        "config": asdict(config),
    }


def compare(args: argparse.Namespace) -> None:
    """Choose the peer's way, run every seed on both sides in turn, and write two results a method."""
    import common

    peer_python = common.peer("trl116")
    with tempfile.TemporaryDirectory() as folder:
        path = prepare(args, Path(folder))
        task = json.loads(path.read_text(encoding="utf-8"))
        script = str(Path(__file__).parent / "peers" / "trl116_groups.py")
        for method in args.methods.split(","):

            def peer(seed: int, seconds: float, ways: Sequence[str], method: str = method) -> list[dict[str, Any]]:
                command = [str(peer_python), script, str(path), method, str(seed), str(seconds), *ways]
                return common.child(command, args.threads, args.before)

            ways = args.ways.split(",")
            trials = peer(0, args.trial, ways) if len(ways) > 1 else []
            tried = {
                way: ppo.summary(run, TRIED)["episodes_per_second"] for way, run in zip(ways, trials, strict=False)
            }
            best = max(tried, key=lambda way: tried[way], default=ways[0])
            runs: dict[str, list[dict[str, Any]]] = {"ours": [], "trl_1.16": []}
            own = [sys.executable, __file__, "--task", str(path), "--method", method, "--seed"]
            for seed in range(args.seeds):
                found = {
                    "ours": common.child([*own, str(seed)], args.threads, args.before),
                    "trl_1.16": peer(seed, args.seconds, [best])[0],
                }
                for side, run in found.items():
                    runs[side].append(ppo.summary(run))
                    shown = [runs[side][-1][key] for key in ("episodes_per_second", "win_rate_at_the_end")]
                    print(method, side, seed, "episodes/s, win rate:", *(f"{x:.3g}" for x in shown), flush=True)
                if not args.smoke:
                    configs = {side: run["config"] for side, run in found.items()}
                    publish(method, runs, {"configs": configs, "ways_of_the_peer": tried, "way": best}, task)


def publish(method: str, runs: dict[str, list[dict[str, Any]]], how: dict[str, Any], task: dict[str, Any]) -> None:
    """Write the two results of the seeds so far."""
    import common

    rate = {side: median(one["episodes_per_second"] for one in found) for side, found in runs.items()}
    shared = {key: value for key, value in task.items() if key not in ("prompts", "scratch", "model", "judge")}
    unit = f"{common.per('episodes', task['clock'])}, median over seeds"
    detail = {"runs": runs, **how, "task": shared}
    name = f"groups_{method}" + ("_token" if method == "rloo" and task["aggregate"] == "token" else "")
    common.record(name, rate["ours"], rate["trl_1.16"], unit, detail, on=task["machine"])
    name += "_time_to_win_rate"
    ppo.record_time_to_win(runs, task["machine"], name, "trl_1.16", task["clock"])


def main() -> None:
    """Compare, or be our side of a comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seconds", type=float, default=60.0, help="training time of each run")
    parser.add_argument("--trial", type=float, default=25.0, help="training time of each way of the peer that is tried")
    parser.add_argument("--ways", default=",".join(WAYS), help="ways of the peer that are tried, attention:parts")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--aggregate", choices=("sum", "token"), default="sum", help="how our RLOO weighs decisions; sum: as the peer"
    )
    parser.add_argument("--rows", type=int, default=128, help="episodes an update")
    parser.add_argument("--group", type=int, default=4, help="answers to an opening")
    parser.add_argument("--response", type=int, default=32, help="longest answer, tokens")
    parser.add_argument("--openings", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", type=Path, default=None, help="another base; default: the shipped one")
    parser.add_argument("--judge", type=Path, default=None, help="another gold judge; default: the shipped one")
    parser.add_argument("--texts", type=Path, default=None, help='other openings, JSON {"train": [...]}')
    parser.add_argument("--before", default="", help='put before every measured process, e.g. "taskset -c 0,1"')
    parser.add_argument(
        "--clock", choices=("wall", "processor"), default="wall", help="processor: where others work too"
    )
    parser.add_argument("--smoke", action="store_true", help="small, one way, one seed; writes nothing")
    parser.add_argument("--task", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--method", choices=METHODS, default="rloo", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.task is not None:
        print(json.dumps(ours(json.loads(args.task.read_text(encoding="utf-8")), args.method, args.seed)))
        return
    from backflip.worlds.reviews import assets

    args.device = "cpu"
    args.model = args.model or assets() / "base"
    args.judge = args.judge or assets() / "gold.safetensors"
    if args.smoke:
        args.ways = WAYS[0]
        args.rows, args.response, args.openings, args.seeds, args.seconds, args.trial = 16, 8, 16, 1, 12.0, 12.0
    compare(args)


if __name__ == "__main__":
    main()
