"""Four models' answers to the same 252 instructions: davinci, and what three ways of training on judgement made of its family.

text-davinci-001 and -002 were tuned on demonstrations and on highly rated samples (FeedME), -003 by RL on a reward model, says their maker's
index of models. The answers are one greedy sample each, so they say how the models answer, and nothing of how varied they could be. What
ships is compressed; source and licence are in assets/instruct/ATTRIBUTION.md. Left out: any policy; nothing is trained on these.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from backflip.errors import DataError

MODELS = ("davinci", "text-davinci-001", "text-davinci-002", "text-davinci-003")
ROWS = 252


@dataclass(frozen=True)
class Answered:
    """An instruction, and what each model answered, word for word."""

    instruction: str
    input: str
    """What the instruction is about; often nothing."""
    answers: tuple[str, ...]
    """In the order of `MODELS`."""


def shipped() -> Path:
    """Return the file that ships with the package."""
    return Path(str(files("backflip"))) / "assets" / "instruct" / "answers.jsonl.xz"


def read_answers(data: Path | None = None) -> list[Answered]:
    """Read all answers in the order of the files, from a folder with the four `MODEL_predictions.jsonl`, or from what ships.

    Raises:
        DataError: a file is missing or broken, or the models did not answer the same instructions.
    """
    if data is None:
        try:
            lines = lzma.decompress(shipped().read_bytes()).decode().splitlines()
            found = [Answered(row[0], row[1], tuple(row[2])) for row in map(json.loads, lines)]
        except (OSError, lzma.LZMAError, ValueError, TypeError, LookupError) as error:
            raise DataError(f"cannot read {shipped()} ({error}); install the package again") from error
        if len(found) != ROWS or any(len(row.answers) != len(MODELS) for row in found):
            raise DataError(
                f"{shipped()} does not hold {ROWS} rows of {len(MODELS)} answers; install the package again"
            )
        return found
    rows = [_read(data / f"{model}_predictions.jsonl") for model in MODELS]
    asked = [[(row["instruction"], row["input"]) for row in one] for one in rows]
    if any(one != asked[0] for one in asked) or not asked[0]:
        raise DataError(
            f"the models of {data} did not answer the same instructions; expected the four files of one release"
        )
    return [Answered(*place, tuple(one[k]["response"] for one in rows)) for k, place in enumerate(asked[0])]


def write_answers(rows: Sequence[Answered], path: Path) -> None:
    """Write answers in the compressed form that ships with the package."""
    lines = [json.dumps([row.instruction, row.input, row.answers], ensure_ascii=True) for row in rows]
    path.write_bytes(lzma.compress(("\n".join(lines) + "\n").encode(), preset=9 | lzma.PRESET_EXTREME))


def _read(path: Path) -> list[dict[str, str]]:
    try:
        found = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path} ({error}); expected a line of JSON for each instruction") from error
    names = ("instruction", "input", "response")
    for number, row in enumerate(found, 1):
        if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in names):
            raise DataError(f"{path}: line {number} lacks one of the texts {', '.join(names)}")
    return found
