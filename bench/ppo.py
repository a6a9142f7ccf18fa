"""PPO side by side with TRL 1.12: episodes a second, and seconds and episodes to the same gold win rate.

    python bench/ppo.py [--seconds 60] [--seeds 3]

Both sides continue the same review openings with the same base model and are paid the gold judge's score (a fault for
a learner, the point here: the same reward on both sides). One process at a time, the sides in turn. Episodes a second
are of the steady state, the first three updates left out. Win rates are against base answers to the same opening,
averaged over four updates. Left out: the reward model.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

WIN_RATES = (0.6, 0.7, 0.8, 0.9)
SKIPPED = 3
SMOOTHED = 4


def prepare(args: argparse.Namespace, scratch: Path) -> Path:
    """Write the task: prompts with the judge's logits of four base answers each, and every shared setting."""
    import common
    import numpy as np
    import torch
    from ppo_task import Scorer

    from backflip.policies.lm import LMConfig, load_policy
    from backflip.worlds.prompts import Prompt
    from backflip.worlds.reviews import read_openings
    from backflip.worlds.text import TextWorld

    torch.set_num_threads(args.threads)
    policy = load_policy(args.model, LMConfig(max_new_tokens=args.response, device=args.device))
    found = json.loads(args.texts.read_text(encoding="utf-8"))["train"] if args.texts else read_openings("train")
    openings = found[: args.openings]
    world = TextWorld([Prompt(text) for text in openings], policy.tokenizer)
    prompts = [
        {"tokens": tokens, "text": text, "base_logits": []} for tokens, text in zip(world.tokens, openings, strict=True)
    ]
    task: dict[str, Any] = {
        "model": str(args.model),
        "judge": str(args.judge),
        "prompts": list({tuple(p["tokens"]): p for p in prompts}.values()),
        "prompt_width": max(len(p["tokens"]) for p in prompts),
        "score_mean": 0.0,
        "score_deviation": 1.0,
        "rows": args.rows,
        "epochs": 4,
        "learning_rate": 3e-4,
        "beta": 0.05,
        "response": args.response,
        "seconds": args.seconds,
        "threads": args.threads,
        "device": args.device,
        "scratch": str(scratch / "trl"),
    }
    scorer = Scorer(task, policy.tokenizer)
    many = TextWorld([Prompt(p["text"]) for p in task["prompts"]], policy.tokenizer, group_size=4)
    episodes = many.collect(policy, 4 * len(task["prompts"]), np.random.default_rng(0))
    keys, answers = rows_of(episodes)
    by_prompt = {tuple(p["tokens"]): p["base_logits"] for p in task["prompts"]}
    logits = scorer.logits(keys, answers)
    for key, logit in zip(keys, logits, strict=True):
        by_prompt[key].append(logit)
    task["score_mean"], task["score_deviation"] = float(np.mean(logits)), float(np.std(logits))
    task["machine"] = common.machine(args.device, args.threads)
    path = scratch / "task.json"
    path.write_text(json.dumps(task), encoding="utf-8")
    return path


def rows_of(episodes: Any) -> tuple[list[tuple[int, ...]], list[list[int]]]:
    """Return the tokens of prompts and answers, without filling."""
    prompts = [tuple(token for token in row if token >= 0) for row in episodes.obs.tolist()]
    return prompts, [[token for token in row if token >= 0] for row in episodes.action.tolist()]


def ours(task: dict[str, Any], seed: int, autocast: str) -> dict[str, Any]:
    """Train with Backflip for the task's seconds: the loop written out."""
    start = time.perf_counter()
    import common
    import numpy as np
    import torch
    from ppo_task import Scorer

    from backflip.optimise import kl, ppo
    from backflip.optimise.step import evaluate_all
    from backflip.policies.lm import LMConfig, load_policy
    from backflip.worlds.prompts import Prompt
    from backflip.worlds.text import TextWorld

    torch.set_num_threads(task["threads"])
    policy = load_policy(
        task["model"], LMConfig(max_new_tokens=task["response"], device=task["device"]), value_head=True
    )
    reference = policy.reference()
    world = TextWorld([Prompt(p["text"]) for p in task["prompts"]], policy.tokenizer, seed=seed)
    optimizer = torch.optim.Adam(policy.module.parameters(), lr=task["learning_rate"], eps=1e-5)
    config = ppo.PPOConfig(epochs=task["epochs"], autocast="bf16" if autocast == "bf16" else "none")
    scorer, rng = Scorer(task, policy.tokenizer), np.random.default_rng(seed)
    construct_seconds = time.perf_counter() - start
    scorer.start()
    while True:
        episodes = world.collect(policy, task["rows"], rng)
        score_B = torch.tensor(scorer(*rows_of(episodes)), device=episodes.mask_BT.device)
        if scorer.seconds() > task["seconds"]:
            break
        reward_BT = torch.zeros(episodes.mask_BT.shape, device=score_B.device)
        reward_BT[torch.arange(len(score_B)), episodes.mask_BT.sum(1) - 1] = score_B
        before = evaluate_all(
            reference, episodes, tokens_per_microbatch=config.tokens_per_microbatch, autocast=config.autocast
        )
        episodes = replace(episodes, ref_logp_BT=before.logp_BT)
        ppo.update(policy, optimizer, episodes, kl.shape_reward(reward_BT, episodes, task["beta"]), config)
    return {
        "updates": scorer.updates,
        "construct_seconds": construct_seconds,
        "peak_rss_mb": common.peak_rss_mb(),
        "config": asdict(config),
    }


def summary(run: dict[str, Any], skipped: int = SKIPPED) -> dict[str, Any]:
    """Reduce one run to rates, and the seconds and episodes at which smoothed win rates were first reached."""
    updates = run["updates"]
    if len(updates) < skipped + 2:
        raise SystemExit(f"only {len(updates)} updates in the time given; raise --seconds")
    steady = updates[skipped:]
    seconds = steady[-1]["seconds"] - steady[0]["seconds"]
    episodes = sum(update["episodes"] for update in steady[1:])
    reached: dict[str, dict[str, float] | None] = {f"{rate:g}": None for rate in WIN_RATES}
    done, smooth = 0.0, 0.0
    for number, update in enumerate(updates):
        done += update["episodes"]
        window = updates[max(0, number - SMOOTHED + 1) : number + 1]
        smooth = sum(one["win_rate"] for one in window) / len(window)
        for rate in WIN_RATES:
            if smooth >= rate and reached[f"{rate:g}"] is None and len(window) == SMOOTHED:
                reached[f"{rate:g}"] = {"seconds": update["seconds"], "episodes": done}
    return {
        "episodes_per_second": episodes / seconds,
        "tokens_per_second": sum(update["tokens"] for update in steady[1:]) / seconds,
        "first_update_seconds": updates[1]["seconds"],
        "construct_seconds": run["construct_seconds"],
        "peak_rss_mb": run["peak_rss_mb"],
        "mean_length_tokens": updates[0]["tokens"] / updates[0]["episodes"],
        "win_rate_at_the_end": smooth,
        "seconds_to_win_rate": reached,
        "win_rates": [round(update["win_rate"], 3) for update in updates],
        "seconds": [round(update["seconds"], 2) for update in updates],
    }


def compare(args: argparse.Namespace) -> None:
    """Run every seed on every side, in turn, and write the results."""
    import common

    peer_python = common.peer("trl112")
    with tempfile.TemporaryDirectory() as folder:
        path = prepare(args, Path(folder))
        task = json.loads(path.read_text(encoding="utf-8"))
        peer = str(Path(__file__).parent / "peers" / "trl112_ppo.py")
        own = [sys.executable, __file__, "--task", str(path), "--seed"]
        commands = {
            "ours": lambda seed: [*own, str(seed)],
            "ours_bf16": lambda seed: [*own, str(seed), "--autocast", "bf16"],
            "trl_1.12": lambda seed: [str(peer_python), peer, str(path), str(seed)],
        }
        runs: dict[str, list[dict[str, Any]]] = {side: [] for side in commands}
        configs: dict[str, Any] = {}
        for seed in range(args.seeds):
            for side, command in commands.items():
                run = common.child(command(seed), args.threads)
                configs[side] = run["config"]
                runs[side].append(summary(run))
                shown = [runs[side][-1][key] for key in ("episodes_per_second", "win_rate_at_the_end", "peak_rss_mb")]
                print(side, seed, "episodes/s, win rate, MiB:", *(f"{value:.3g}" for value in shown), flush=True)
    shared = {key: value for key, value in task.items() if key not in ("prompts", "scratch", "model", "judge")}
    detail = {"runs": runs, "configs": configs, "task": shared, "prompts": len(task["prompts"])}
    rate = {side: median(one["episodes_per_second"] for one in found) for side, found in runs.items()}
    detail["ours_bf16_episodes_per_second"] = rate["ours_bf16"]
    on, unit = task["machine"], "episodes a second, median over seeds"
    common.record("ppo", rate["ours"], rate["trl_1.12"], unit, detail, on=on)
    memory = {side: max(one["peak_rss_mb"] for one in found) for side, found in runs.items()}
    unit = "MiB resident at most"
    common.record("ppo_memory", memory["ours"], memory["trl_1.12"], unit, {"of": memory}, on=on, lower=True)
    record_time_to_win(runs, on)


def record_time_to_win(
    runs: dict[str, list[dict[str, Any]]],
    machine: str,
    name: str = "ppo_time_to_win_rate",
    peer: str = "trl_1.12",
    clock: str = "wall",
) -> None:
    """Compare seconds at the highest win rate that all runs of either main side reached; say so where there is none."""
    import common

    sides, word = ("ours", peer), "seconds" if clock == "wall" else "processor seconds"
    detail: dict[str, Any] = {
        side: {f"{rate:g}": [one["seconds_to_win_rate"][f"{rate:g}"] for one in runs[side]] for rate in WIN_RATES}
        for side in runs
    }
    for rate in reversed(WIN_RATES):
        found = {side: [one["seconds_to_win_rate"][f"{rate:g}"] for one in runs[side]] for side in sides}
        if all(all(times) for times in found.values()):
            seconds = {side: median(time["seconds"] for time in found[side]) for side in sides}
            unit = f"{word} to a gold win rate of {rate:g}, median over seeds"
            common.record(name, seconds["ours"], seconds[peer], unit, detail, on=machine, lower=True)
            return
    unit = f"{word} to a gold win rate of {WIN_RATES[0]:g}; not every run reached it in the time given"
    reached = [one["seconds_to_win_rate"][f"{WIN_RATES[0]:g}"] for one in runs["ours"]]
    mine = median(time["seconds"] for time in reached) if all(reached) else None
    common.record(name, mine, None, unit, detail, on=machine, lower=True)


def main() -> None:
    """Compare, or be one side of a comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="training time of each run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=128, help="episodes an update")
    parser.add_argument("--response", type=int, default=32, help="longest answer, tokens")
    parser.add_argument("--openings", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", type=Path, default=None, help="another base; default: the shipped one")
    parser.add_argument("--judge", type=Path, default=None, help="another gold judge; default: the shipped one")
    parser.add_argument("--texts", type=Path, default=None, help='other openings, JSON {"train": [...]}')
    parser.add_argument("--task", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--autocast", choices=("none", "bf16"), default="none", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.task is not None:
        print(json.dumps(ours(json.loads(args.task.read_text(encoding="utf-8")), args.seed, args.autocast)))
        return
    from backflip.worlds.reviews import assets

    args.model = args.model or assets() / "base"
    args.judge = args.judge or assets() / "gold.safetensors"
    compare(args)


if __name__ == "__main__":
    main()
