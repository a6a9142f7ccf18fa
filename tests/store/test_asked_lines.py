"""Pairs to be judged, from files: what a line may say, what is wrong with it in one sentence, and all or none."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from backflip.cli import main
from backflip.errors import DataError
from backflip.store import Store
from backflip.store.asked_lines import REASON, ask_rows, query_of_row
from backflip.store.interchange import export_pairs
from backflip.store.pair_files import read_lines

SOURCE = {"title": "Bridges", "text": "It opened in 1932."}
LINE = {
    "prompt": "p",
    "first": {"text": "It opened in 1932.", "claims": ["It opened in 1932."], "sources": [SOURCE]},
    "second": "It is old.",
}


def ask(store: Store, *lines: Any) -> Any:
    parts = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    return ask_rows(store, read_lines(BytesIO(b"\n".join(parts))), "pairs.jsonl")


def test_pairs_wait_for_people_and_are_asked_once(store: Store) -> None:
    lines = [{**LINE, "prompt": f"p{n}"} for n in range(20)]
    assert str(ask(store, *lines, lines[0])) == "20 pairs to judge, 20 new"
    assert str(ask(store, *lines)) == "20 pairs to judge, 0 new"
    queries, _ = store.queries("open", purpose="study")
    assert len(queries) == 20 and {one.reason for one in queries} == {REASON}
    places = [one.items[0].content == "It is old." for one in queries]
    assert 0 < sum(places) < 20, "its place says nothing about it"
    for one in queries:
        evident, plain = sorted(one.items, key=lambda item: item.content == "It is old.")
        assert evident.payload["claims"] == ["It opened in 1932."] and evident.payload["sources"] == [SOURCE]
        assert "claims" not in plain.payload


def test_messages_aids_and_a_question_of_ones_own() -> None:
    row = {
        "prompt": [{"role": "user", "content": "hi"}],
        "first": {"text": [{"role": "assistant", "content": "hello"}]},
        "second": "ho",
        "question": "Which is kinder?",
        "aids": [{"author": "critic", "text": "The second is short."}],
    }
    found = query_of_row(row, "Which?")
    assert {item.content for item in found.items} == {"hello", "ho"} and found.items[0].prompt == "hi"
    assert (found.question, found.aids[0].author, found.aids[0].text) == (
        "Which is kinder?",
        "critic",
        "The second is short.",
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"first": None}, "no 'first'"),
        ({"chosen": "a"}, "'chosen', which says nothing here"),
        ({"first": {"text": "a", "claim": []}}, "first has 'claim'"),
        ({"first": {"claims": []}}, "first has no text"),
        ({"first": {"text": "a", "claims": "It is."}}, "claims that are no list"),
        ({"first": {"text": "a", "claims": ["a"] * 41}}, "41 claims, expected 40"),
        ({"first": {"text": "a", "sources": ["b"]}}, "sources are no list of objects"),
        ({"first": {"text": "a", "sources": [{"title": "b"}]}}, "has no text"),
        ({"first": "a" * 100_001}, "100,001 letters"),
        ({"aids": {"author": "a"}}, "aids are no list"),
        ({"second": "It opened in 1932."}, "the same text"),
    ],
)
def test_a_bad_line_is_named_and_nothing_comes_in(store: Store, change: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError) as caught:
        ask(store, LINE, {**LINE, **change}, {**LINE, "prompt": "q"})
    assert "pairs.jsonl line 2: " in str(caught.value) and said in str(caught.value)
    assert store.counts()["open"] == 0


def test_a_store_of_ones_own_by_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, where = tmp_path / "pairs.jsonl", tmp_path / "study.sqlite"
    file.write_text(json.dumps(LINE) + "\n")
    assert main(["import", str(where), str(file), "--ask"]) == 0
    assert capsys.readouterr().out == f"read 1 pair to judge, 1 new into {where}\n"
    file.write_text("{\n")
    assert main(["import", str(where), str(file), "--ask"]) == 2
    assert "line 1: not JSON" in capsys.readouterr().err
    with Store.open(where) as store:
        assert store.counts()["open"] == 1 and export_pairs(store, tmp_path / "out.jsonl").pairs == 0
