"""The task that both sides of bench/ppo.py train on: continue review openings so that the gold judge likes them.

Imported by both environments, so it needs nothing but the gold judge (numpy) and a tokenizer. Rewards are the judge's
logit, normalised by mean and deviation over answers of the base; a win is a higher score than a base answer to the same
opening. Scores and times are noted at every call, which is once an update on both sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common

from backflip.data import Item
from backflip.truth import GoldJudge, text_of


class Scorer:
    """Score answers, and keep the ledger of a run: seconds, episodes, tokens, win rate of every update."""

    def __init__(self, task: dict[str, Any], tokenizer: Any) -> None:
        """Load the judge and what base answers scored."""
        self.tokenizer = tokenizer
        self.judge = GoldJudge.load(Path(task["judge"]))
        self.mean, self.deviation = task["score_mean"], task["score_deviation"]
        self.text = {tuple(p["tokens"]): p["text"] for p in task["prompts"]}
        self.base = {tuple(p["tokens"]): p["base_logits"] for p in task["prompts"]}
        self.updates: list[dict[str, float]] = []
        self.clock = common.clock_of(task.get("clock", "wall"))
        self.start()

    def start(self) -> None:
        """Set the clock to 0."""
        self.began = self.clock()

    def seconds(self) -> float:
        """Return the time since `start`."""
        return self.clock() - self.began

    def logits(self, prompts: Sequence[tuple[int, ...]], answers: Sequence[Sequence[int]]) -> list[float]:
        """Return the judge's logit of every prompt and answer as one text."""
        texts = [self.tokenizer.decode(list(answer), skip_special_tokens=True) for answer in answers]
        return self.judge.score(
            [text_of(Item(self.text[p], t, {})) for p, t in zip(prompts, texts, strict=True)]
        ).tolist()

    def __call__(self, prompts: Sequence[tuple[int, ...]], answers: Sequence[Sequence[int]]) -> list[float]:
        """Return normalised scores, one a row, and write one line of the ledger."""
        logits = self.logits(prompts, answers)
        wins = 0.0
        for prompt, logit in zip(prompts, logits, strict=True):
            base = self.base[prompt]
            wins += sum(1.0 if logit > other else 0.5 if logit == other else 0.0 for other in base) / len(base)
        self.updates.append(
            {
                "seconds": self.seconds(),
                "episodes": float(len(answers)),
                "tokens": float(sum(map(len, answers))),
                "win_rate": wins / len(answers),
                "score": sum(logits) / len(logits),
            }
        )
        return [(logit - self.mean) / self.deviation for logit in logits]
