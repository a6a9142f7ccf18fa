"""What it is worth to weigh people by how often they are right: one careful, one careless, one tossing coins, on the moving dot.

    python lab/weighing.py --seeds 10

A synthetic teacher's run of `control` gives the questions; three people then judge each of them two at a time, right in 95, 75 and 50 of 100.
The same judgements teach twice, weighted and alike (`backflip run --again RUN`, `--no_weigh_people`). Printed for each seed: weights, share of unseen
pairs of clips that the learned reward orders rightly, true return; then the mean difference with its 95 % interval over seeds.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from itertools import combinations
from pathlib import Path

import numpy as np

from backflip.cli import main
from backflip.data import Judgement
from backflip.measures.stats import mean_interval
from backflip.run import read_run
from backflip.store import Store

RIGHT = {"person:careful": 0.95, "person:careless": 0.75, "person:coin": 0.5}
DOT = [
    "--env",
    "backflip.worlds.moving_dot:MovingDot-v0",
    "--steps",
    "8000",
    "--environments",
    "16",
    "--row_steps",
    "50",
    "--clip_seconds",
    "0.5",
]


def judged(folder: Path, seed: int) -> None:
    """Replace the teacher's judgements by those of two people out of three for every pair."""
    rng = np.random.default_rng(seed)
    with Store.open(folder / "store.sqlite") as store:
        told = [one for one in store.judgements(0)[0] if one.answer is not None]
        pairs = list(combinations(RIGHT, 2))
        made: list[Judgement] = []
        for one in told:
            assert one.answer is not None
            for judge in pairs[int(rng.integers(len(pairs)))]:
                right = rng.random() < RIGHT[judge]
                answer = one.answer if right else one.answer[::-1]
                made.append(Judgement(one.query_id, judge, answer, created=1.0))
        store.add_judgements(made)


def teacher_of(folder: Path) -> str:
    """Return the judge of the first run."""
    with Store.open(folder / "store.sqlite", mode="read") as store:
        return next(one.judge for one in store.judgements(0)[0] if not one.judge.startswith("person:"))


def compare(seeds: int, comparisons: int) -> None:
    """Carry the comparison out."""
    gains: dict[str, list[float]] = {"pair_accuracy": [], "true_return": []}
    with tempfile.TemporaryDirectory() as made:
        for seed in range(seeds):
            first = Path(made) / f"first_{seed}"
            options = [*DOT, "--comparisons", str(comparisons), "--first_share", "0.5", "--seed", str(seed)]
            assert main(["run", "control", "--folder", str(first), "--quiet", *options]) == 0
            judged(first, seed)
            found: dict[str, dict[str, float]] = {}
            for name, more in (("weighted", []), ("alike", ["--no_weigh_people"])):
                folder = Path(made) / f"{name}_{seed}"
                again = [
                    "run",
                    "--again",
                    str(first),
                    "--without",
                    teacher_of(first),
                    "--folder",
                    str(folder),
                    "--quiet",
                ]
                assert main([*again, *more]) == 0
                found[name] = {key: value["value"] for key, value in read_run(folder).summary["estimates"].items()}
            weighed = json.loads((Path(made) / f"weighted_{seed}" / "results" / "weighting.json").read_text())
            weight = {one["judge"].removeprefix("person:"): round(one["weight"], 2) for one in weighed["people"]}
            for name, values in gains.items():
                values.append(found["weighted"][name] - found["alike"][name])
            scores = {name: [round(one[key], 3) for key in gains] for name, one in found.items()}
            sys.stdout.write(f"{seed} {weight} {scores}\n")
            sys.stdout.flush()
    for name, values in gains.items():
        gain = mean_interval(values)
        sys.stdout.write(
            f"{name}: weighted less alike {gain.value:+.3f} ({gain.low:+.3f} to {gain.high:+.3f}), n = {gain.n} seeds\n"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--comparisons", type=int, default=200)
    given = parser.parse_args()
    compare(given.seeds, given.comparisons)
