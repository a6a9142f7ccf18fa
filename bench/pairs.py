"""Reward model, DPO and SFT side by side with TRL 1.16: pairs and samples a second on the same rows.

    python bench/pairs.py [--tasks reward,dpo,sft] [--seeds 3] [--smoke]

Both sides train the same base on the same texts with the same settings (loss, batch, Adam, learning rate, fp32, threads).
Pairs are answers of the base to review openings, compared by the gold judge; samples are sentences of reviews, the first
words given. One process at a time, the sides in turn. What is counted is the steady state: imports, loading,
tokenising in advance and the first marks are left out (a mark is a step; of the reward model an epoch). DPO's reference is
computed in the counted time on both sides. The peer runs in several ways first and the fastest is taken. Both sides' losses
stand in the result, so that one sees that both learn the same.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

TASKS = ("reward", "dpo", "sft")
UNITS = {"reward": "pairs", "dpo": "pairs", "sft": "samples"}
SKIPPED = {"reward": 1, "dpo": 3, "sft": 3}
"""Marks that are left out at the beginning: steps, of the reward model epochs."""
WAYS = tuple(f"{attention}:{order}" for attention in ("sdpa", "eager") for order in ("sequential", "group_by_length"))
"""How the peer may run: its attention, and whether rows of like length share a batch."""
ANSWERS = 4
"""Answers to each opening, of which the best and the worst make a pair."""


def prepare(args: argparse.Namespace, scratch: Path) -> Path:
    """Write the task: texts, a reward model to begin from, and every shared setting."""
    import common
    import numpy as np
    import torch

    from backflip.rewards.model import SequenceRewardModel
    from backflip.worlds.reviews import assets

    torch.set_num_threads(args.threads)
    model = args.model or assets() / "base"
    rows = args.rows + args.held
    pairs = compared(model, rows, args)
    SequenceRewardModel.from_causal_lm(str(model), np.random.default_rng(0)).save(scratch / "reward")
    task: dict[str, Any] = {
        "model": str(model),
        "reward": str(scratch / "reward"),
        "pairs": pairs[: args.rows],
        "held": pairs[args.rows :],
        "samples": sentences(args.rows),
        "batch": args.batch,
        "epochs": args.epochs,
        "learning_rate": {"reward": 3e-4, "dpo": 1e-4, "sft": 3e-4},
        "adam_eps": 1e-5,
        "beta": 0.1,
        "threads": args.threads,
        "clock": args.clock,
        "scratch": str(scratch / "trl"),
        "machine": common.machine("cpu", args.threads),
    }
    path = scratch / "task.json"
    path.write_text(json.dumps(task), encoding="utf-8")
    return path


def compared(model: Path, rows: int, args: argparse.Namespace) -> list[dict[str, str]]:
    """Return pairs of answers of the base to openings, the one first that the gold judge likes better."""
    import numpy as np

    from backflip.data import Item
    from backflip.policies.lm import LMConfig, load_policy
    from backflip.truth import GoldJudge, text_of
    from backflip.worlds.prompts import Prompt
    from backflip.worlds.reviews import assets, read_openings
    from backflip.worlds.text import TextWorld

    policy = load_policy(model, LMConfig(max_new_tokens=args.response, device="cpu"))
    world = TextWorld([Prompt(text) for text in read_openings("train")], policy.tokenizer, group_size=ANSWERS)
    judge = GoldJudge.load(assets() / "gold.safetensors")
    rng, found = np.random.default_rng(0), list[dict[str, str]]()
    while len(found) < rows:
        items = world.show(world.collect(policy, 64 * ANSWERS, rng))
        scores = judge.score([text_of(Item(item.prompt, item.content, {})) for item in items]).tolist()
        for start in range(0, len(items), ANSWERS):
            order = sorted(range(start, start + ANSWERS), key=lambda k: scores[k])
            worst, best = items[order[0]], items[order[-1]]
            if worst.content and best.content and worst.content != best.content:
                found.append({"prompt": best.prompt, "chosen": best.content, "rejected": worst.content})
    return found[:rows]


def sentences(rows: int) -> list[dict[str, str]]:
    """Return sentences of reviews, cut after their third word."""
    from backflip.worlds.reviews import read_raw, split

    texts = [text for text, _ in split(read_raw()).base_reviews if len(text.split()) > 4]
    random.Random(0).shuffle(texts)
    cut = [text.split(" ", 3) for text in texts[:rows]]
    return [{"prompt": " ".join(words[:3]), "completion": " " + words[3]} for words in cut]


class Marks:
    """The ledger of a run: seconds, units done and loss at every mark."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock, self.began, self.units, self.kept = clock, clock(), 0, list[dict[str, float]]()

    def add(self, units: int, loss: float) -> None:
        """Note that so many more are done."""
        self.units += units
        self.kept.append({"seconds": self.clock() - self.began, "units": float(self.units), "loss": loss})


def ours(task: dict[str, Any], name: str, seed: int) -> dict[str, Any]:
    """Train with Backflip on one task."""
    start = time.perf_counter()
    import common
    import torch

    torch.set_num_threads(task["threads"])
    work: Callable[[dict[str, Any], int], Callable[[Marks], dict[str, float]]] = {
        "reward": our_reward,
        "dpo": our_dpo,
        "sft": our_sft,
    }[name]
    train = work(task, seed)
    construct, marks = time.perf_counter() - start, Marks(common.clock_of(task["clock"]))
    found = train(marks)
    return {
        "marks": marks.kept,
        "construct_seconds": construct,
        "peak_rss_mb": common.peak_rss_mb(),
        "found": found,
        "config": {"torch": torch.__version__},
    }


def written(prompt: str, answer: str) -> Any:
    """Return an answer as an item that a world of texts can load."""
    from backflip.data import Item

    return Item(prompt, answer, {"prompt_text": prompt, "answer_text": answer})


def our_reward(task: dict[str, Any], seed: int) -> Callable[[Marks], dict[str, float]]:
    """Set up the fit of a reward model; the returned function carries it out."""
    import numpy as np
    import torch

    from backflip.policies.checkpoints import read_tokenizer
    from backflip.rewards.comparisons import Comparison
    from backflip.rewards.fit import FitConfig, Rows, fit, measure
    from backflip.rewards.model import SequenceRewardModel
    from backflip.worlds.prompts import Prompt
    from backflip.worlds.text import TextWorld

    torch.manual_seed(seed)
    model = SequenceRewardModel.load(task["reward"])
    world = TextWorld([Prompt(p["prompt"]) for p in task["pairs"]], read_tokenizer(task["model"]))

    def taken(rows: list[dict[str, str]]) -> list[Comparison]:
        return [Comparison(written(p["prompt"], p["chosen"]), written(p["prompt"], p["rejected"]), 1.0) for p in rows]

    pairs, held, lr = taken(task["pairs"]), taken(task["held"]), task["learning_rate"]["reward"]
    config = FitConfig(
        epochs=task["epochs"], lr=lr, head_lr=lr, warmup=0, probe_l2=0, batch=task["batch"], weight_decay=0, noise=0
    )

    def train(marks: Marks) -> dict[str, float]:
        def mark(stats: dict[str, float]) -> None:
            marks.add(len(pairs), stats["loss"])

        fit(model, world, pairs, config, np.random.default_rng(seed), [], mark)
        right = measure(model, Rows.of(world, held), 0.0)["held_out_accuracy"]
        return {"held_out_accuracy": right, "tokens": tokens_of(Rows.of(world, pairs).episodes)}

    return train


def our_dpo(task: dict[str, Any], seed: int) -> Callable[[Marks], dict[str, float]]:
    """Set up DPO; the returned function carries it out, step by step as the loop does."""
    from dataclasses import replace

    import torch

    from backflip.optimise import dpo
    from backflip.optimise.step import evaluate_all
    from backflip.policies.lm import LMConfig, load_policy
    from backflip.worlds.prompts import Prompt
    from backflip.worlds.text import TextWorld

    torch.manual_seed(seed)
    policy = load_policy(task["model"], LMConfig(device="cpu"))
    reference = policy.reference()
    world = TextWorld([Prompt(p["prompt"]) for p in task["pairs"]], policy.tokenizer)
    optimizer = torch.optim.Adam(policy.module.parameters(), lr=task["learning_rate"]["dpo"], eps=task["adam_eps"])
    config = dpo.DPOConfig(beta=task["beta"])

    def train(marks: Marks) -> dict[str, float]:
        tokens, accuracy = 0.0, list[float]()
        for part in batches(task["pairs"], task["batch"]):
            rows = world.load([written(p["prompt"], p[side]) for p in part for side in ("chosen", "rejected")])
            rows = replace(rows, group_B=torch.arange(len(part)).repeat_interleave(2))
            before = evaluate_all(reference, rows, tokens_per_microbatch=config.tokens_per_microbatch)
            rows = replace(rows, ref_logp_BT=before.logp_BT)
            stats = dpo.update(policy, optimizer, rows, dpo.answer_rewards(rows, [1.0, 0.0] * len(part)), config)
            tokens += tokens_of(rows)
            accuracy.append(stats["accuracy"])
            marks.add(len(part), stats["loss"])
        return {"accuracy_at_the_end": mean(accuracy[-len(accuracy) // 4 :]), "tokens": tokens}

    return train


def our_sft(task: dict[str, Any], seed: int) -> Callable[[Marks], dict[str, float]]:
    """Set up supervised tuning; the returned function carries it out, step by step as the loop does."""
    import torch

    from backflip.optimise import sft
    from backflip.optimise.returns import on_last_decision
    from backflip.policies.lm import LMConfig, load_policy
    from backflip.worlds.prompts import Prompt
    from backflip.worlds.text import TextWorld

    torch.manual_seed(seed)
    policy = load_policy(task["model"], LMConfig(device="cpu"))
    world = TextWorld([Prompt(p["prompt"]) for p in task["samples"]], policy.tokenizer)
    optimizer = torch.optim.Adam(policy.module.parameters(), lr=task["learning_rate"]["sft"], eps=task["adam_eps"])

    def train(marks: Marks) -> dict[str, float]:
        tokens = 0.0
        for part in batches(task["samples"], task["batch"]):
            rows = world.load([written(p["prompt"], p["completion"]) for p in part])
            weight_BT = on_last_decision(torch.ones(len(part)), rows.mask_BT)
            stats = sft.update(policy, optimizer, rows, weight_BT, sft.SFTConfig())
            tokens += tokens_of(rows)
            marks.add(len(part), stats["loss"])
        return {"tokens": tokens}

    return train


def tokens_of(episodes: Any) -> float:
    """Count the tokens of rows, prompts among them."""
    return float((episodes.obs >= 0).sum() + (episodes.action >= 0).sum())


def batches(rows: list[Any], size: int) -> list[list[Any]]:
    """Cut rows into full batches, in order."""
    return [rows[start : start + size] for start in range(0, len(rows) - size + 1, size)]


def summary(run: dict[str, Any], name: str) -> dict[str, Any]:
    """Reduce one run to its rate, times, memory and losses."""
    marks = run["marks"]
    if len(marks) < SKIPPED[name] + 1:
        raise SystemExit(f"only {len(marks)} marks of {name}; expected more than {SKIPPED[name]}: raise --rows")
    first, last = marks[SKIPPED[name] - 1], marks[-1]
    losses = [mark["loss"] for mark in marks if mark["loss"] is not None]
    return {
        "units_per_second": (last["units"] - first["units"]) / (last["seconds"] - first["seconds"]),
        "first_mark_seconds": marks[0]["seconds"],
        "construct_seconds": run["construct_seconds"],
        "peak_rss_mb": run["peak_rss_mb"],
        "first_loss": losses[0],
        "last_loss": mean(losses[-max(1, len(losses) // 4) :]),
        **run["found"],
    }


def compare(args: argparse.Namespace) -> None:
    """Choose the peer's way, run every seed on both sides in turn, and write a result a task."""
    import common

    peer_python = common.peer("trl116")
    with tempfile.TemporaryDirectory() as folder:
        path = prepare(args, Path(folder))
        task = json.loads(path.read_text(encoding="utf-8"))
        theirs = [str(peer_python), str(Path(__file__).parent / "peers" / "trl116_pairs.py"), str(path)]
        own = [sys.executable, __file__, "--task", str(path)]
        for name in args.tasks.split(","):

            def peer(seed: int, rows: int, ways: Sequence[str], name: str = name) -> list[dict[str, Any]]:
                return common.child([*theirs, name, str(seed), str(rows), *ways], args.threads, args.before)

            ways = args.ways.split(",")
            trials = peer(0, args.trial, ways) if len(ways) > 1 else []
            tried = {way: summary(run, name)["units_per_second"] for way, run in zip(ways, trials, strict=False)}
            best = max(tried, key=lambda way: tried[way], default=ways[0])
            runs: dict[str, list[dict[str, Any]]] = {"ours": [], "trl_1.16": []}
            for seed in range(args.seeds):
                mine = common.child([*own, "--name", name, "--seed", str(seed)], args.threads, args.before)
                other = peer(seed, args.rows, [best])[0]
                for side, run in (("ours", mine), ("trl_1.16", other)):
                    runs[side].append(summary(run, name))
                    shown = [runs[side][-1][key] for key in ("units_per_second", "first_loss", "last_loss")]
                    print(name, side, seed, "a second, losses:", *(f"{value:.4g}" for value in shown), flush=True)
                if not args.smoke:
                    how = {"ways_of_the_peer": tried, "way": best, "peer_config": other["config"]}
                    publish(name, runs, how, task)


def publish(name: str, runs: dict[str, list[dict[str, Any]]], how: dict[str, Any], task: dict[str, Any]) -> None:
    """Write the result of the seeds so far."""
    import common

    rate = {side: median(one["units_per_second"] for one in found) for side, found in runs.items()}
    shared = {key: task[key] for key in ("batch", "epochs", "learning_rate", "adam_eps", "beta", "threads", "clock")}
    unit = f"{common.per(UNITS[name], task['clock'])}, median over seeds"
    detail = {"runs": runs, **how, "task": shared}
    common.record(f"pairs_{name}", rate["ours"], rate["trl_1.16"], unit, detail, on=task["machine"])


def main() -> None:
    """Compare, or be our side of a comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--ways", default=",".join(WAYS), help="ways of the peer that are tried, attention:order")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=1024, help="pairs, and samples; DPO and SFT see each once")
    parser.add_argument("--trial", type=int, default=256, help="rows on which each way of the peer is tried")
    parser.add_argument("--held", type=int, default=256, help="pairs on which reward models are measured")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of the reward model; the first is not counted")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--response", type=int, default=32, help="longest answer in a pair, tokens")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", type=Path, default=None, help="another base; default: the shipped one")
    parser.add_argument("--before", default="", help='put before every measured process, e.g. "taskset -c 0,1"')
    parser.add_argument(
        "--clock", choices=("wall", "processor"), default="wall", help="processor: where others work too"
    )
    parser.add_argument("--smoke", action="store_true", help="small, one way, one seed; writes nothing")
    parser.add_argument("--task", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--name", choices=TASKS, default="sft", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.task is not None:
        print(json.dumps(ours(json.loads(args.task.read_text(encoding="utf-8")), args.name, args.seed)))
        return
    if args.smoke:
        args.ways = WAYS[0]
        args.rows, args.trial, args.held, args.epochs, args.seeds = 160, 160, 32, 2, 1
    if args.rows % args.batch or args.trial % args.batch:
        raise SystemExit(f"--rows {args.rows} and --trial {args.trial} must be multiples of --batch {args.batch}")
    compare(args)


if __name__ == "__main__":
    main()
