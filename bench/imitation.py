"""Learning from comparisons of clips side by side with imitation 1.0.1: true return and seconds on Pendulum and HalfCheetah.

    python bench/imitation.py [--seeds 5] [--tasks pendulum,half_cheetah] [--smoke]

Our side is the product's own command; the peer's stands in `peers/imitation_preferences.py`. Same labels, same real steps on both
sides (the peer overshoots what it is asked, so the steps that it took count), same threads, one process at a time, the sides in turn.
The peer runs with its own settings and with ours; the better return of the two stands for it. Seconds are of the learning alone, without
imports and evaluation. Evaluation is by the true reward, 20 unseen episodes. Theirs is HalfCheetah-v4, ours -v5: the same body and
reward (the peer holds gymnasium at 0.29, which has no v5). `--smoke` takes well under a minute a task and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean, median
from typing import Any

HERE = Path(__file__).parent
PEER_PYTHON = HERE.parent / ".venv-imitation" / "bin" / "python"
EXPERIMENT = "control"
RETURN = "true_return"
"""The estimate of our run's summary that holds the mean true return of the unseen episodes."""

TASKS: dict[str, dict[str, Any]] = {
    "pendulum": {
        "env": "Pendulum-v1",
        "peer_env": "Pendulum-v1",
        "comparisons": 200,
        "steps": 61_440,
        "episodes": 20,
        "aim": "at least its return in a quarter of its time",
        "ours": [],
        "peer": {
            # the tutorial's: docs/tutorials/5_train_preference_comparisons of imitation 1.0.1
            "own": {
                "environments": 1,
                "members": 1,
                "normalised_output": False,
                "clip_steps": 100,
                "iterations": 5,
                "reward_epochs": 10,
                "initial_epoch_multiplier": 4,
                "exploration": 0.05,
                "ppo_network": "FeedForward32Policy",
                "ppo": {
                    "n_steps": 2048,
                    "batch_size": 64,
                    "clip_range": 0.1,
                    "ent_coef": 0.01,
                    "gae_lambda": 0.95,
                    "n_epochs": 10,
                    "gamma": 0.97,
                    "learning_rate": 2e-3,
                },
            },
        },
    },
    "half_cheetah": {
        "env": "HalfCheetah-v5",
        "peer_env": "HalfCheetah-v4",
        "comparisons": 700,
        "steps": 245_760,
        "episodes": 20,
        "aim": "better return in less time",
        "ours": [
            *("--environments", "16", "--row_steps", "250", "--piece_steps", "50", "--ask_at_once", "20"),
            *(
                "--clip_seconds",
                "1.5",
                "--lr",
                "3e-4",
                "--settle",
                "0.5",
                "--ppo.gamma",
                "0.99",
                "--ppo.minibatches",
                "16",
            ),
            *("--fit.every", "2", "--fit.steps", "100", "--fit.noise", "0.1"),
            *("--ppo.clip", "0.2", "--policy.first_std", "0.6"),
        ],
        "peer": {
            # its named configuration seals_half_cheetah; 50 iterations there, 47 here so that the steps come out equal
            "own": {
                "environments": 8,
                "members": 1,
                "normalised_output": True,
                "clip_steps": 100,
                "iterations": 47,
                "reward_epochs": 3,
                "initial_epoch_multiplier": 200,
                "exploration": 0.0,
                "ppo_network": "FeedForward32Policy",
                "ppo": {
                    "n_steps": 64,
                    "batch_size": 64,
                    "clip_range": 0.1,
                    "ent_coef": 3.794797423594763e-06,
                    "gae_lambda": 0.95,
                    "n_epochs": 5,
                    "gamma": 0.95,
                    "learning_rate": 0.0003286871805949382,
                    "max_grad_norm": 0.8,
                    "vf_coef": 0.11483689492120866,
                },
            },
        },
    },
}
OURS_FOR_THE_PEER: dict[str, Any] = {
    "environments": 16,
    "members": 3,
    "normalised_output": True,
    "clip_steps": 20,
    "iterations": 14,
    "reward_epochs": 3,
    "initial_epoch_multiplier": 4,
    "exploration": 0.05,
    "ppo_network": "2x64 tanh",
    "ppo": {
        "n_steps": 256,
        "batch_size": 256,
        "clip_range": 0.2,
        "ent_coef": 0.01,
        "gae_lambda": 0.95,
        "n_epochs": 10,
        "gamma": 0.99,
        "learning_rate": 3e-4,
    },
}
"""Our loop's policy and update in the peer's words: rollouts of 4,096 steps in 16 minibatches, an ensemble of three, clips of a second."""
SMOKE = {"comparisons": 10, "steps": 12_288, "episodes": 2}


def ours(task: dict[str, Any], seed: int, folder: Path) -> dict[str, Any]:
    """Run the product's command and read its summary."""
    command = [sys.executable, "-m", "backflip", "run", EXPERIMENT, "--folder", str(folder), "--quiet"]
    command += ["--env", task["env"], "--comparisons", str(task["comparisons"]), "--steps", str(task["steps"])]
    command += ["--seed", str(seed), *task["ours"]]
    began = time.perf_counter()
    finish(command, task["threads"])
    whole = time.perf_counter() - began
    found = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["estimates"]
    if RETURN not in found:
        raise SystemExit(f"the run has no estimate {RETURN!r}, only {', '.join(sorted(found))}; adapt RETURN")
    learned = control_lines(folder)
    return {
        "return": found[RETURN]["value"],
        "episodes": found[RETURN]["n"],
        "seconds": sum(line[name] for line in learned for name in ("seconds_act", "seconds_fit", "seconds_update")),
        "seconds_of_the_command": whole,
        "steps": learned[-1]["steps"],
        "comparisons": learned[-1]["answered"],
        "command": " ".join(["python", *command[1:5], *command[8:]]),
    }


def control_lines(folder: Path) -> list[dict[str, Any]]:
    """Return what the loop logged of every update."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line.get("phase") == "control"]


def theirs(path: Path, task: dict[str, Any], config: str, seed: int) -> dict[str, Any]:
    """Run the peer's script."""
    script = str(HERE / "peers" / "imitation_preferences.py")
    said = finish([str(PEER_PYTHON), script, str(path), config, str(seed)], task["threads"])
    found = json.loads(said.strip().splitlines()[-1])
    return {**found, "return": mean(found["returns"]), "episodes": len(found["returns"])}


def finish(command: list[str], threads: int) -> str:
    """Run a process to its end and return what it said; stop where it fails."""
    env = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-4000:]}")
    return done.stdout


def compare(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Run every seed of a task on every side, in turn."""
    task = {**TASKS[name], "threads": args.threads}
    task["peer"] = {**task["peer"], "ours": OURS_FOR_THE_PEER}
    task |= SMOKE if args.smoke else {}
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in ("ours", *(f"imitation_{c}" for c in task["peer"]))}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "task.json"
        path.write_text(json.dumps(task), encoding="utf-8")
        for seed in range(args.seeds):
            for side, found in runs.items():
                if side not in args.sides.split(","):
                    continue
                config = side.removeprefix("imitation_")
                run = (
                    ours(task, seed, Path(scratch) / f"run{seed}")
                    if side == "ours"
                    else theirs(path, task, config, seed)
                )
                found.append(run)
                shown = (f"{run['return']:.1f} in {run['seconds']:.1f} s", f"{run['steps']:.0f} real steps")
                print(name, side, seed, *shown, f"{run['comparisons']:.0f} labels", flush=True)
    return {"task": task, "runs": {side: found for side, found in runs.items() if found}}


def result(found: dict[str, Any]) -> dict[str, Any]:
    """Set the sides beside each other: mean returns with intervals, median seconds, and whether the aim was met."""
    from backflip.measures.stats import mean_interval

    sides = {
        side: {
            "return": mean_interval([run["return"] for run in of]).as_json(),
            "seconds": median(run["seconds"] for run in of),
            "real_steps": median(run["steps"] for run in of),
        }
        for side, of in found["runs"].items()
    }
    peer = max((side for side in sides if side != "ours"), key=lambda side: sides[side]["return"]["value"])
    return {"sides": sides, "peer": peer, "aim": found["task"]["aim"], **found}


def main() -> None:
    """Measure and record."""
    import common

    parser = argparse.ArgumentParser(description="Learning from comparisons of clips, beside imitation 1.0.1.")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each side")
    parser.add_argument("--tasks", default="pendulum,half_cheetah", help="which of the two")
    parser.add_argument("--threads", type=int, default=common.processors(), help="that a side may use")
    parser.add_argument("--sides", default="ours,imitation_own,imitation_ours", help="fewer write nothing")
    parser.add_argument("--smoke", action="store_true", help="a short run that writes nothing")
    args = parser.parse_args()
    if not PEER_PYTHON.exists():
        raise SystemExit(f"{PEER_PYTHON} is missing; make it with: make bench, or make .venv-imitation/.installed")
    args.seeds = 1 if args.smoke else args.seeds
    whole = len(args.sides.split(",")) == 3 and not args.smoke
    for name in args.tasks.split(","):
        found = compare(name, args)
        if whole:
            write(name, result(found), args.threads)
    if not whole:
        print("smoke, or a part: nothing was written")


def write(name: str, found: dict[str, Any], threads: int) -> None:
    """Record the seconds of a task, and everything else of it."""
    import common

    sides = found["sides"]
    unit = f"seconds of learning on {found['task']['env']}, median over seeds; returns in detail"
    both = sides["ours"]["seconds"], sides[found["peer"]]["seconds"]
    common.record(f"imitation_{name}", *both, unit, found, on=common.machine(threads=threads), lower=True)


if __name__ == "__main__":
    main()
