"""What can be read off four models' answers to the same instructions, with no model at hand: how long they are, and how often they repeat.

A part of `two_and_three`. Left out: any claim about entropy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backflip.data import Estimate
from backflip.measures.diversity import WORD, distinct_n
from backflip.measures.stats import mean_interval
from backflip.worlds.instruct import MODELS, read_answers

if TYPE_CHECKING:
    from backflip.run import Run

BIGRAMS = 2000
"""Bigrams that are compared, within answers, the first in the order of the file: the share of distinct ones falls with the amount of text."""
SHOWN, CUT, LINES = 8, 400, 8
"""Answers that are shown, and how much of each: characters and lines."""
GREEDY = (
    "each answer is one greedy sample, so these figures say nothing of entropy: a model that could answer in a thousand ways and one that could "
    "answer in one look alike here"
)


def replayed() -> dict[str, dict[str, Estimate]]:
    """Return mean words and the share of distinct bigrams of every model's answers.

    Words are `\\w+`; intervals over the 252 instructions, Student's and by jackknife.
    """
    rows = read_answers()
    found: dict[str, dict[str, Estimate]] = {}
    for place, model in enumerate(MODELS):
        texts = [row.answers[place] for row in rows]
        words = mean_interval([len(WORD.findall(text)) for text in texts])
        found[model] = {"mean_words": words, "distinct2": distinct_n(texts, 2, limit=BIGRAMS)}
    return found


def replay(run: Run) -> tuple[dict[str, Any], str]:
    """Write the figures of the four models and some of their answers; return the curves and the sentence that goes with them."""
    found = replayed()
    for model, row in found.items():
        for name, one in row.items():
            run.estimate(f"{model}_{name}", one)
    run.table(
        "replay",
        [{"model": model} | {name: one.as_json() for name, one in row.items()} for model, row in found.items()],
    )
    samples = [row for row in read_answers() if all(row.answers)][:SHOWN]
    run.samples(
        [
            {"prompt": f"{row.instruction.strip()}\n{row.input.strip()}".strip()}
            | {model: shortened(text.strip()) for model, text in zip(MODELS, row.answers, strict=True)}
            for row in samples
        ]
    )
    places = list(range(len(MODELS)))
    axis = {"label": "0: davinci; 1, 2, 3: text-davinci-001, -002, -003"}

    def figure(name: str, title: str, y: dict[str, str]) -> dict[str, Any]:
        measured = [row[name].as_json() for row in found.values()]
        caption = f"252 instructions, one greedy sample each. {GREEDY[0].upper()}{GREEDY[1:]}."
        return {
            "title": title,
            "caption": caption,
            "x": axis,
            "y": y,
            "series": [{"name": title, "x": places, "estimates": measured}],
        }

    told = "; ".join(
        f"{model} {row['mean_words'].value:.1f} words, distinct-2 {row['distinct2'].value:.4f}"
        for model, row in found.items()
    )
    lines = {
        "words": figure("mean_words", "Words an answer", {"label": "Words", "unit": "count"}),
        "distinct2": figure("distinct2", "Distinct bigrams", {"label": "Distinct bigrams", "unit": "share"}),
    }
    return lines, f"the four models' own answers: {told}; {GREEDY}"


def shortened(text: str) -> str:
    """Return a text as it is shown, with a mark where it was cut."""
    shown = "\n".join(text[:CUT].split("\n")[:LINES])
    return text if shown == text else f"{shown} [... {len(text) - len(shown):,} more characters]"
