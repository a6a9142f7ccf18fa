"""The shipped answers of four models: the known figures, to the printed digits, and files that are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backflip.errors import DataError
from backflip.experiments.replay import CUT, replayed, shortened
from backflip.worlds import instruct
from backflip.worlds.instruct import MODELS, read_answers, shipped, write_answers

KNOWN = {
    "davinci": ("656.8", "0.0915"),
    "text-davinci-001": ("39.2", "0.737"),
    "text-davinci-002": ("36.0", "0.7825"),
    "text-davinci-003": ("56.9", "0.7925"),
}


def test_what_ships_gives_the_known_figures_to_their_digits() -> None:
    found = replayed()
    assert {
        model: (f"{row['mean_words'].value:.1f}", f"{row['distinct2'].value:g}") for model, row in found.items()
    } == KNOWN
    assert all(row["mean_words"].n == 252 for row in found.values())
    assert found["davinci"]["distinct2"].n == 3, "davinci's first 2,000 bigrams are those of three answers"


def test_the_attribution_lies_beside_it_and_it_is_small() -> None:
    said = (shipped().parent / "ATTRIBUTION.md").read_text(encoding="utf-8")
    assert "yizhongw/self-instruct" in said and "Apache" in said
    assert shipped().stat().st_size < 100_000


def test_the_four_files_of_the_release_are_read_as_what_ships(tmp_path: Path) -> None:
    rows = read_answers()[:3]
    for place, model in enumerate(MODELS):
        lines = [
            json.dumps(
                {"instruction": row.instruction, "input": row.input, "response": row.answers[place], "prompt": "x"}
            )
            for row in rows
        ]
        (tmp_path / f"{model}_predictions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert read_answers(tmp_path) == rows
    broken = tmp_path / f"{MODELS[1]}_predictions.jsonl"
    broken.write_text(json.dumps({"instruction": "a", "input": "", "response": "b"}), encoding="utf-8")
    with pytest.raises(DataError, match="same instructions"):
        read_answers(tmp_path)
    for text, words in (('{"instruction": 1}', "line 1 lacks"), ("{", "expected a line of JSON")):
        broken.write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=words):
            read_answers(tmp_path)
    broken.unlink()
    with pytest.raises(DataError, match="cannot read"):
        read_answers(tmp_path)


def test_a_broken_installation_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, rows = tmp_path / "answers.jsonl.xz", read_answers()
    monkeypatch.setattr(instruct, "shipped", lambda: path)
    for content in (None, b"no archive"):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(DataError, match="install the package again"):
            read_answers()
    write_answers(rows[:5], path)
    with pytest.raises(DataError, match="does not hold 252 rows"):
        read_answers()


def test_what_is_cut_says_so() -> None:
    assert shortened("short") == "short"
    assert shortened("a" * (CUT + 5)).endswith("[... 5 more characters]")
    assert shortened("a\n" * 20) == "\n".join("a" * 8) + " [... 25 more characters]"
