"""Write 20 pairs of a real and a generated review sentence for somebody who has seen neither, and the key apart.

    python lab/blind_check.py FOLDER [SEED [TEMPERATURE]]

Real: held-out snippets that the base never saw. Generated: openings for the test with the base's continuations, as the main job
samples them, those that ended. Each generated sentence stands beside the unused real one whose length is nearest,
so that length tells nothing; nothing else is chosen. A judge passes on 19 or more right.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from backflip.experiments.reviews import ReviewsConfig
from backflip.experiments.reviews_answers import held_out_answers
from backflip.policies.lm import load_policy
from backflip.worlds import reviews
from backflip.worlds.text import TextWorld

PAIRS = 20


def main(folder: Path, seed: int, temperature: float) -> None:
    """Draw, match, shuffle, write."""
    rng = np.random.default_rng(seed)
    policy = load_policy(
        reviews.assets() / "base", replace(ReviewsConfig().sampling, max_new_tokens=48, temperature=temperature)
    )
    world = TextWorld(reviews.read_openings("test"), policy.tokenizer)
    rows = held_out_answers(world, policy, 1, rng)
    ended_B = world.ended_B(rows)
    written = [item.prompt + item.content for item, ended in zip(world.show(rows), ended_B, strict=True) if ended]
    fake = [written[i] for i in rng.permutation(len(written))[:PAIRS]]
    held = [text for text, _ in reviews.split(reviews.read_raw()).gold_test]
    real = [held[i] for i in rng.permutation(len(held))]
    sheet: list[str] = []
    key: list[str] = []
    for number, text in enumerate(fake, 1):
        match = min(real, key=lambda other: abs(len(other.split()) - len(text.split())))
        real.remove(match)
        first = bool(rng.random() < 0.5)
        key.append("A" if first else "B")
        a, b = (match, text) if first else (text, match)
        sheet += [f"{number}.", f"  A: {a}", f"  B: {b}", ""]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pairs.txt").write_text("\n".join(sheet), encoding="utf-8")
    (folder / "key.json").write_text(
        json.dumps({"real": key, "seed": seed, "temperature": temperature}), encoding="utf-8"
    )


if __name__ == "__main__":
    given = sys.argv[2:]
    main(Path(sys.argv[1]), int(given[0]) if given else 0, float(given[1]) if len(given) > 1 else 0.8)
