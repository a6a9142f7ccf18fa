"""Count how often the 95 % intervals of what people's judgements are worth hold the truth, in simulation.

    python lab/coverage.py [DRAWS]

Every pair has a best one, first or second alike unless said otherwise; people are right with a probability of their own, and say "equal"
with another. The truth is that of infinitely many such pairs. Draws in which a measure is not defined are left out, and counted.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from backflip.data import Estimate
from backflip.measures import chance
from backflip.measures.stats import score_interval, share_interval

CHOICES = np.array([-1, 0, 1])


@dataclass(frozen=True)
class People:
    """How people choose."""

    right: tuple[float, ...]
    tie: float = 0.0
    first: float = 0.5
    """Share of pairs whose first item is the best."""
    each: float = 1.0
    """Share of pairs that each of them judges."""

    def marginals_JC(self) -> np.ndarray:
        """Return how often each of them makes each choice."""
        ones_J = np.array([self.first * p + (1 - self.first) * (1 - p) for p in self.right])
        decided = 1 - self.tie
        return np.stack([(1 - ones_J) * decided, np.full_like(ones_J, self.tie), ones_J * decided], 1)

    def agreement(self) -> float:
        """Return how often any two of them choose alike."""
        both = [p * q + (1 - p) * (1 - q) for p, q in combinations(self.right, 2)]
        return float(np.mean(both)) * (1 - self.tie) ** 2 + self.tie**2

    def judged_by_two(self) -> float:
        """Return the share of pairs that two of them or more judge."""
        many, left = len(self.right), 1 - self.each
        return 1 - left**many - many * self.each * left ** (many - 1)

    def draw(self, pairs: int, rng: np.random.Generator) -> np.ndarray:
        """Return choices by pair and person; 9 where somebody did not judge."""
        shape = (pairs, len(self.right))
        best_P = np.where(rng.random(pairs) < self.first, 1, -1)[:, None]
        choice_PJ = np.where(rng.random(shape) < np.array(self.right), best_P, -best_P)
        choice_PJ = np.where(rng.random(shape) < self.tie, 0, choice_PJ)
        return np.where(rng.random(shape) < self.each, choice_PJ, 9)


def kappa(choice_PJ: np.ndarray) -> Estimate | None:
    """Return Cohen's kappa of the first two."""
    return chance.kappa(choice_PJ[:, 0], choice_PJ[:, 1])


def alpha(choice_PJ: np.ndarray) -> Estimate | None:
    """Return Krippendorff's alpha of all."""
    count_PC = (choice_PJ[:, :, None] == CHOICES).sum(1)
    return chance.alpha(count_PC[count_PC.sum(1) > 1])


def beyond_chance(people: People, kind: str) -> float:
    """Return the true kappa or alpha."""
    marginal_JC = people.marginals_JC()
    together_C = marginal_JC.mean(0)
    expected = marginal_JC[0] @ marginal_JC[1] if kind == "kappa" else together_C @ together_C
    return float((people.agreement() - expected) / (1 - expected))


def covered(found: list[Estimate | None], truth: float) -> str:
    """Return how often intervals hold the truth, their median width, and how often there is none."""
    there = [one for one in found if one is not None]
    hits = float(np.mean([one.low <= truth <= one.high for one in there]))
    widths = [one.high - one.low for one in there]
    missing = 1 - len(there) / len(found)
    return f"{hits:.3f} ({np.median(widths):.2f}, least {min(widths):.2f}" + (
        f", none {missing:.3f})" if missing else ")"
    )


def show(line: str) -> None:
    """Print a line."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(draws: int) -> None:
    """Print a table for each measure."""
    rng = np.random.default_rng(0)
    settings = [People((p, p)) for p in (0.95, 0.8, 0.6)]
    others = [People((0.85, 0.85), tie=0.15), People((0.9, 0.9), first=0.8), People((0.95, 0.6))]
    show("| measure | people | truth | n = 10 | 20 | 50 | 200 |\n|---|---|---|---|---|---|---|")
    for kind, crowd, measure in (("kappa", 1, kappa), ("alpha", 1, alpha), ("alpha", 2, alpha)):
        many = [replace(one, right=one.right * crowd) for one in settings + others]
        if kind == "alpha":
            many.append(replace(many[0], each=0.7))
        for people in many:
            truth = beyond_chance(people, kind)
            cells: list[str] = []
            for pairs in (10, 20, 50, 200):
                asked = round(pairs / people.judged_by_two())
                cells.append(covered([measure(people.draw(asked, rng)) for _ in range(draws)], truth))
            show(f"| {kind} | {people} | {truth:.2f} | " + " | ".join(cells) + " |")
    for p, tie in ((0.95, 0.1), (0.9, 0.05), (0.9, 0.3), (0.8, 0.1), (0.6, 0.1), (0.95, 0.0)):
        for name, interval in (("t", share_interval), ("score", score_interval)):
            cells = []
            for n in (10, 20, 50, 200):
                right_DN = (rng.random((draws, n)) < p).astype(float)
                right_DN[rng.random((draws, n)) < tie] = 0.5
                cells.append(covered([interval(each_N) for each_N in right_DN], p * (1 - tie) + tie / 2))
            show(
                f"| share, {name} | right {p}, ties {tie} | {p * (1 - tie) + tie / 2:.3f} | " + " | ".join(cells) + " |"
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
