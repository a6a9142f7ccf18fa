"""`backflip sample RUN`: talk to a trained policy, with reward and KL beside each answer.

Reads prompts from the keyboard, or line by line from a pipe. Left out: anything that changes the run.

Shapes: B answers, T tokens.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from backflip.cli.options import Options
from backflip.cli.quiet import without_foreign_bars
from backflip.errors import ConfigError, DataError

if TYPE_CHECKING:
    from backflip.policies.asked import AskedLM
    from backflip.policies.best_of import BestOfN
    from backflip.policies.lm import LMPolicy
    from backflip.rewards.ensemble import RewardEnsemble

SERIES = ("policy", "base", "reward_model")
"""Checkpoints of a run: what is talked to, what its KL is measured from, what scores it."""


@dataclass(frozen=True)
class Trained:
    """What a run left behind; the reward model or the base may be missing, and is said to be."""

    policy: LMPolicy | AskedLM | BestOfN
    base: LMPolicy | None
    reward: RewardEnsemble | None


def main(argv: Sequence[str]) -> int:
    """Answer every prompt until the input ends."""
    parser = Options("sample", "Talk to the policy that a run trained.")
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder, such as runs/latest")
    parser.add_argument("--answers", type=int, default=1, metavar="N", help="answers to each prompt (default: 1)")
    parser.add_argument("--temperature", type=float, metavar="X", help="of sampling (default: the run's own)")
    parser.add_argument("--max-new-tokens", type=int, metavar="N", help="longest answer (default: the run's own)")
    parser.add_argument("--seed", type=int, default=0, metavar="INT", help="of the answers (default: 0)")
    found = parser.read(argv[1:])
    if found.answers < 1:
        raise ConfigError(f"--answers is {found.answers}, expected 1 or more")
    trained = load_trained(found.run)
    given = {"temperature": found.temperature, "max_new_tokens": found.max_new_tokens}
    trained.policy.config = replace(trained.policy.config, **{k: v for k, v in given.items() if v is not None})
    rng = np.random.default_rng(found.seed)
    for prompt in _prompts():
        for line in answer_lines(trained, prompt, found.answers, rng):
            print(line, flush=True)
    return 0


def load_trained(run: Path) -> Trained:
    """Load the newest checkpoints of a run.

    Raises:
        DataError: the folder is no run, or it has no policy yet.
    """
    from backflip.policies.best_of import load_used
    from backflip.policies.lm import load_policy
    from backflip.rewards.ensemble import RewardEnsemble
    from backflip.run import read_run

    without_foreign_bars()
    record = read_run(run)
    policy, base, reward = (newest(record.path / "checkpoints", series) for series in SERIES)
    if policy is None:
        raise DataError(
            f"{run} holds no trained policy (its status is {record.status}); let it finish: backflip run --resume {run}"
        )
    if not (policy / "backflip.json").is_file():
        raise DataError(
            f"{policy} lacks backflip.json, so nobody knows at which temperature it was trained; restore the folder from a copy"
        )
    return Trained(
        load_used(policy),
        None if base is None else load_policy(base),
        None if reward is None else RewardEnsemble.load(reward),
    )


def newest(folder: Path, series: str) -> Path | None:
    """Return the checkpoint SERIES-STEP of the highest step, or None where there is none."""
    steps = {path: path.name.removeprefix(f"{series}-") for path in folder.glob(f"{series}-*")}
    numbered = [path for path, step in steps.items() if step.isdigit()]
    return max(numbered, key=lambda path: int(steps[path]), default=None)


def answer_lines(trained: Trained, prompt: str, count: int, rng: np.random.Generator) -> Iterator[str]:
    """Sample answers to one prompt and yield each, with what is known about it."""
    from backflip.overseers.terminal import visible
    from backflip.worlds.text import TextWorld

    world = TextWorld([prompt], trained.policy.tokenizer, group_size=count)
    rows = world.collect(trained.policy, count, rng)
    reward_B = None if trained.reward is None else trained.reward(rows).sum(1).tolist()
    bound: float | None = getattr(trained.policy, "kl_bound_nats", None)
    kl_B = None if trained.base is None or bound else trained.policy.kl_BT(trained.base, rows).sum(1).tolist()
    tokens_B = rows.mask_BT.sum(1).tolist()
    for row, item in enumerate(world.show(rows)):
        reward = "no reward model" if reward_B is None else f"reward {reward_B[row]:+.2f}"
        kl = "no base to measure from" if kl_B is None else f"KL {kl_B[row]:.2f} nats"
        kl = f"KL at most {bound:.2f} nats" if bound else kl
        yield visible(item.content.strip())
        yield f"    [{reward}, {kl}, {tokens_B[row]} tokens]"


def _prompts() -> Iterator[str]:
    """Yield lines that are not blank: typed after a mark, or piped in."""
    typed = sys.stdin.isatty()
    while True:
        if typed:
            print("> ", end="", flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()
