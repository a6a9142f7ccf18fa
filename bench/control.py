"""PPO on Hopper side by side with Stable-Baselines3: steps a second, seconds to equal return, and the share of bare `mj_step`.

    python bench/control.py [--seeds 5] [--updates 200] [--smoke]

Environment, policy and update together, 2x64 networks, 8 environments, 256 steps, minibatches of 1,024, four epochs; Gymnasium's own
reward and observations. Episodes have a fixed horizon on both sides, four rollouts long, and falls do not end them. One process at a
time, the sides in turn; the first updates are left out of the rate, and evaluation stops the clock. The peer runs with the
vectorisation and the threads that were fastest here in a trial before. `mj_loop.c` replays the controls of our own collection from the
same states. `--smoke` takes seconds and writes nothing. Left out: learned rewards (`imitation.py`).

Shapes: E environments, T steps, B rows, F features, A numbers of an action.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent
PEER_PYTHON = HERE.parent / ".venv-sb3" / "bin" / "python"
LEVELS = (250, 500, 750, 1000, 1250, 1500, 1750, 2000, 2500, 3000)
SKIPPED = 3
SMOOTHED = 2
"""Evaluations that are averaged before a level counts as reached."""
TRIAL = [(kind, threads) for kind in ("DummyVecEnv", "SubprocVecEnv") for threads in (1, 2)]
ROLLOUTS = 8
"""Of each timed collection beside the C loop."""


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """Return what both sides share."""
    return {
        "env": "Hopper-v5",
        "environments": 8,
        "steps": 256,
        "horizon": 1024,
        "batch": 1024,
        "epochs": 4,
        "hidden": 64,
        "learning_rate": 3e-4,
        "clip": 0.2,
        "gamma": 0.99,
        "lam": 0.95,
        "max_grad_norm": 0.5,
        "piece_steps": 64,
        "updates": args.updates,
        "evaluate_every": args.evaluate_every,
        "episodes": args.episodes,
        "threads": args.threads,
    }


# -- our side --------------------------------------------------------------------------------------------------------


class RewardScale:
    """Divide rewards by the running deviation of discounted returns, as the peer's VecNormalize does (a rollout at a time)."""

    def __init__(self, environments: int, gamma: float) -> None:
        self.gamma, self.return_E = gamma, np.zeros(environments)
        self.count, self.mean, self.spread = 1e-4, 0.0, 1e-4

    def __call__(self, reward_ET: NDArray[np.float64]) -> NDArray[np.float64]:
        """Learn from these rewards and scale them."""
        seen = np.empty_like(reward_ET)
        for step in range(reward_ET.shape[1]):
            self.return_E = self.gamma * self.return_E + reward_ET[:, step]
            seen[:, step] = self.return_E
        gap, total = seen.mean() - self.mean, self.count + seen.size
        self.spread += seen.var() * seen.size + gap**2 * self.count * seen.size / total
        self.mean, self.count = self.mean + gap * seen.size / total, total
        return (reward_ET / math.sqrt(self.spread / self.count + 1e-8)).clip(-10, 10)


def ours(task: dict[str, Any], seed: int, collect: Path | None) -> dict[str, Any]:
    """Train with Backflip: the loop written out. Where `collect` names the C loop, compare collections with it after."""
    start = time.perf_counter()
    import common
    import torch
    from control_task import Ledger

    from backflip.loops.parts import stream
    from backflip.measures.control_truth import Step, gymnasium_reward
    from backflip.optimise import ppo
    from backflip.policies.actor_critic import ActorCritic, ActorCriticConfig
    from backflip.worlds.control import ControlWorld, pieces
    from backflip.worlds.mujoco_tasks import find_task

    torch.set_num_threads(1)  # as the loop of the product does: the simulations have the other processors
    body = replace(find_task(task["env"]), turning=None)  # Gymnasium's observation, which the peer sees
    count, steps = task["environments"], task["steps"]
    world = ControlWorld(body, environments=count, steps=steps, seed=seed, horizons=(task["horizon"],))
    policy = ActorCritic(
        world.features, world.actions, ActorCriticConfig(task["hidden"], first_std=0.9), stream(seed, "policy")
    )
    optimizer = torch.optim.Adam(policy.parameters(), lr=task["learning_rate"], eps=1e-5, fused=True)
    config = ppo.PPOConfig(
        epochs=task["epochs"],
        minibatches=count * steps // task["batch"],
        clip=task["clip"],
        gamma=task["gamma"],
        lam=task["lam"],
        value_coef=1.0,  # of half the squared error; the peer's is 0.5 of the whole
        value_clip=float("inf"),
        center_values=False,
        max_grad_norm=task["max_grad_norm"],
        tokens_per_microbatch=1_000_000,
    )
    scaled = RewardScale(count, task["gamma"])

    def decide(obs_BF: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad():
            x = policy.normalised(torch.from_numpy(obs_BF))
            weights = list(policy.actor)
            for place in range(0, len(weights), 2):
                x = x @ weights[place] + weights[place + 1]
                x = torch.tanh(x) if place + 2 < len(weights) else x
        return x.numpy()

    ledger, acted, update = Ledger(task), [], 0
    construct_seconds = time.perf_counter() - start
    ledger.start()
    while True:
        began = time.perf_counter()
        rows = world.collect(policy, count, stream(seed, "act", update))
        acted.append(time.perf_counter() - began)
        assert rows.scene is not None
        scene, control = rows.scene.numpy(), world.control_of(rows.action.numpy())
        before, after = (part.reshape(-1, scene.shape[2]) for part in (scene[:, :-1], scene[:, 1:]))
        reward = gymnasium_reward(Step(body, before, after, control.reshape(-1, control.shape[2])))
        small = pieces(rows, task["piece_steps"])
        reward_BT = torch.tensor(scaled(reward.reshape(count, steps)), dtype=torch.float32).reshape(small.mask_BT.shape)
        ppo.update(policy, optimizer, small, reward_BT, config, stream(seed, "minibatches", update))
        policy.learn_scale(rows)
        update += 1
        if ledger.note(decide):
            break
    return {
        "seconds": ledger.seconds,
        "seconds_collecting": acted,
        "evaluations": ledger.evaluations,
        "construct_seconds": construct_seconds,
        "peak_rss_mb": common.peak_rss_mb(),
        "action_std": float(policy.free_std_A.detach().sigmoid().mean()),
        "config": {"torch_threads": 1, "processes_simulating": world.crews.processes, **_json(asdict(config))},
        "collection": collections(task, policy, collect) if collect else None,
    }


def _json(config: dict[str, Any]) -> dict[str, Any]:
    return {key: "inf" if value == float("inf") else value for key, value in config.items()}


# -- collection beside the simulator alone ---------------------------------------------------------------------------


def collections(task: dict[str, Any], policy: Any, program: Path) -> dict[str, Any]:
    """Time collections and the C loop over the very same steps, in turn; refuse where the two ended apart."""
    from backflip.worlds.control import ControlWorld
    from backflip.worlds.mujoco_tasks import find_task, simulator

    body = replace(find_task(task["env"]), turning=None)
    count, steps = task["environments"], task["steps"]
    # so long a horizon that no episode begins in between: the loop would not know of it
    world = ControlWorld(body, environments=count, steps=steps, seed=1, horizons=(1000 * steps,))
    rng = np.random.default_rng(1)
    processes = processes_of(world)
    world.collect(policy, count, rng)
    model, width = simulator(body)[1] / body.xml, world.batch.state().shape[1] - world.batch.scene_ES.shape[1]
    found: dict[str, list[float]] = {"ours": [], "c_loop": []}
    for _ in range(task["collections"]):
        states, controls, seconds = [], [], 0.0
        for _ in range(ROLLOUTS):
            states.append(world.batch.state()[:, :width])
            began = time.perf_counter()
            rows = world.collect(policy, count, rng)
            seconds += time.perf_counter() - began
            controls.append(world.control_of(rows.action.numpy()))
        shape = np.array([ROLLOUTS, count, steps, width, body.frame_skip, processes], dtype=np.int64)
        with tempfile.NamedTemporaryFile(suffix=".bin") as file:
            Path(file.name).write_bytes(b"".join(np.asarray(part).tobytes() for part in (shape, states, controls)))
            done = subprocess.run([program, model, file.name], capture_output=True, text=True, check=True)
        alone, total = map(float, done.stdout.split())
        if abs(total - world.batch.scene_ES[:, : body.nq].sum()) > 1e-9:
            raise SystemExit("the C loop ended elsewhere than the collection: they did not do the same work")
        decisions = ROLLOUTS * count * steps
        found["ours"].append(decisions / seconds)
        found["c_loop"].append(decisions / alone)
    share = median(a / b for a, b in zip(found["ours"], found["c_loop"], strict=True))
    return {"steps_per_second": found, "processes": processes, "share_of_mj_step": share}


def compiled(folder: Path) -> Path | None:
    """Compile the C loop against the library in mujoco's wheel; None where there is no compiler."""
    import mujoco

    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    home = Path(str(mujoco.__file__)).parent
    library = next(iter(sorted(home.glob("libmujoco*.so*")) + sorted(home.glob("libmujoco*.dylib"))), None)
    if compiler is None or library is None:
        print("no C compiler, so the share of mj_step is not measured", flush=True)
        return None
    program = folder / "mj_loop"
    source = [str(HERE / "mj_loop.c"), "-I", str(home / "include"), str(library), f"-Wl,-rpath,{home}"]
    subprocess.run([compiler, "-O2", "-o", str(program), *source, "-lpthread", "-lm"], check=True)
    return program


# -- both sides ------------------------------------------------------------------------------------------------------


def processes_of(world: Any) -> int:
    """Return how many processes step the simulations of the fast path, once they have all begun."""
    return 1 + world.crews.wait_for_helpers()


def child(command: list[str], threads: int) -> dict[str, Any]:
    """Run one side in a process of its own and read its last line."""
    env = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def summary(run: dict[str, Any], task: dict[str, Any]) -> dict[str, Any]:
    """Reduce one run to its rate, and the seconds and steps at which smoothed returns first reached each level."""
    seconds = run["seconds"]
    counted = len(seconds) - SKIPPED
    rate = counted * task["environments"] * task["steps"] / (seconds[-1] - seconds[SKIPPED - 1])
    reached: dict[str, dict[str, float] | None] = {str(level): None for level in LEVELS}
    returns = [one["return"] for one in run["evaluations"]]
    for number, one in enumerate(run["evaluations"]):
        smooth = float(np.mean(returns[max(0, number + 1 - SMOOTHED) : number + 1]))
        for level in LEVELS:
            if smooth >= level and reached[str(level)] is None and number + 1 >= SMOOTHED:
                reached[str(level)] = {"seconds": one["seconds"], "steps": one["steps"]}
    return {
        "steps_per_second": rate,
        "returns": [round(one, 1) for one in returns],
        "evaluated_at_steps": [one["steps"] for one in run["evaluations"]],
        "seconds": seconds[-1],
        "to_return": reached,
        **{key: run[key] for key in ("construct_seconds", "peak_rss_mb", "action_std")},
        "collecting_share": sum(run["seconds_collecting"]) / seconds[-1] if "seconds_collecting" in run else None,
    }


def compare(args: argparse.Namespace) -> None:
    """Try the peer's ways, then run every seed on both sides, in turn, and write the results."""
    import common

    if not PEER_PYTHON.exists():
        raise SystemExit(f"{PEER_PYTHON} is missing; make it with: make bench, or make .venv-sb3/.installed")
    task = settings(args)
    with tempfile.TemporaryDirectory() as folder:
        path, program = Path(folder) / "task.json", compiled(Path(folder))
        peer = [str(PEER_PYTHON), str(HERE / "peers" / "sb3_ppo.py"), str(path)]
        trial: dict[str, float] = {}
        for kind, threads in TRIAL:
            short = {**task, "updates": args.trial_updates, "evaluate_every": 0}
            short["peer"] = {"vectorisation": kind, "torch_threads": threads}
            path.write_text(json.dumps(short), encoding="utf-8")
            trial[f"{kind}, {threads} threads"] = summary(child([*peer, "0"], threads), short)["steps_per_second"]
            print(f"trial: {kind}, {threads} threads of torch: {list(trial.values())[-1]:.0f} steps/s", flush=True)
        kind, threads = TRIAL[int(np.argmax(list(trial.values())))]
        task["peer"] = {"vectorisation": kind, "torch_threads": threads}
        task["collections"] = args.collections
        path.write_text(json.dumps(task), encoding="utf-8")
        runs: dict[str, list[dict[str, Any]]] = {"ours": [], "sb3": []}
        configs: dict[str, Any] = {}
        collection: dict[str, Any] | None = None
        for seed in range(args.seeds):
            own = [sys.executable, __file__, "--task", str(path), "--seed", str(seed)]
            own += ["--collect", str(program)] if program and seed == 0 else []
            for side, command, used in (("ours", own, args.threads), ("sb3", [*peer, str(seed)], threads)):
                run = child(command, used)
                configs[side], collection = run["config"], run.get("collection") or collection
                runs[side].append(summary(run, task))
                shown = runs[side][-1]
                print(f"{side} {seed}: {shown['steps_per_second']:.0f} steps/s, returns {shown['returns']}", flush=True)
    detail = {"runs": runs, "configs": configs, "task": task, "trial_of_the_peer": trial, "collection": collection}
    write(detail, common.machine(threads=args.threads), args.smoke)


def write(detail: dict[str, Any], machine: str, smoke: bool) -> None:
    """Record rate, seconds to equal return, and the share of the simulator; a smoke run prints and writes nothing."""
    import common

    runs, collection = detail["runs"], detail["collection"]
    rate = {side: common.spread([one["steps_per_second"] for one in found]) for side, found in runs.items()}
    detail["steps_per_second"], detail["aim_ratio"] = rate, 2.5
    share = collection["share_of_mj_step"] if collection else None
    level, seconds = equal_return(runs)
    print(json.dumps({"steps_per_second": rate, "share_of_mj_step": share, "level": level, "seconds": seconds}))
    if smoke:
        print("smoke: nothing was written")
        return
    unit = "steps of environment, policy and update a second, median over seeds"
    common.record("control", rate["ours"]["median"], rate["sb3"]["median"], unit, detail, on=machine)
    sides = {side: [one["to_return"] for one in found] for side, found in runs.items()}
    ours_s, peer_s = (None, None) if seconds is None else (median(seconds["ours"]), median(seconds["sb3"]))
    unit = f"seconds to a true return of {level} in 1,000 steps" if level else "seconds to equal return: no level was"
    unit += ", median over seeds" if level else " reached by all runs of both sides"
    common.record("control_time_to_return", ours_s, peer_s, unit, {"of": seconds, **sides}, on=machine, lower=True)
    if collection:
        both = {side: median(found) for side, found in collection["steps_per_second"].items()}
        unit, detail = "collected steps a second, beside mj_step alone in a C loop", {**collection, "aim_share": 0.6}
        common.record("control_collection", both["ours"], both["c_loop"], unit, detail, on=machine)


def equal_return(runs: dict[str, list[dict[str, Any]]]) -> tuple[int | None, dict[str, list[float]] | None]:
    """Return the highest level that every run of both sides reached, and the seconds of each; None where there is none."""
    for level in reversed(LEVELS):
        found = {side: [one["to_return"][str(level)] for one in of] for side, of in runs.items()}
        if all(one is not None for of in found.values() for one in of):
            return level, {side: [one["seconds"] for one in of] for side, of in found.items()}
    return None, None


def main() -> None:
    """Read the options: everything for both sides, or one run of ours."""
    import common

    parser = argparse.ArgumentParser(description="PPO on Hopper, beside Stable-Baselines3.")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each side")
    parser.add_argument("--updates", type=int, default=200, help="of 2,048 steps, each run")
    parser.add_argument("--evaluate-every", type=int, default=10, help="updates between evaluations")
    parser.add_argument("--episodes", type=int, default=5, help="unseen episodes of an evaluation")
    parser.add_argument("--trial-updates", type=int, default=15, help="of each way to run the peer, before")
    parser.add_argument("--collections", type=int, default=5, help="timed collections beside the C loop")
    parser.add_argument("--threads", type=int, default=common.processors(), help="that a side may use")
    parser.add_argument("--smoke", action="store_true", help="a short run that writes nothing")
    parser.add_argument("--task", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--collect", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.task:
        task = json.loads(args.task.read_text(encoding="utf-8"))
        print(json.dumps(ours(task, args.seed, args.collect)))
        return
    if args.smoke:
        args.seeds, args.updates, args.evaluate_every, args.episodes = 1, 8, 4, 1
        args.trial_updates, args.collections = 5, 1
    compare(args)


if __name__ == "__main__":
    main()
