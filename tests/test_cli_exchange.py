"""`backflip export` and `backflip import`: pairs out of a store, into another, all or nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backflip.cli import main
from backflip.data import Item, Judgement, Query
from backflip.run import Run
from backflip.store import Store


def failure(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Run a command that must end with code 2 and one line on standard error; return the line."""
    assert main(argv) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1, said.err
    return said.err.strip()


def judged_store(path: Path) -> None:
    """Write a store with one clear answer, one tie and one that nobody could judge."""

    def item(text: str) -> Item:
        return Item("The film", text, {"prompt_text": "The film", "answer_text": text})

    answers: list[tuple[float, float] | None] = [(1.0, 0.0), (0.5, 0.5), None]
    queries = [Query((item(f"good {k}"), item(f"bad {k}")), "Which is better?") for k in range(3)]
    with Store.open(path) as store:
        store.add_queries(queries)
        store.add_judgements(
            Judgement(query.id, "someone", answer, note="" if answer else "skipped")
            for query, answer in zip(queries, answers, strict=True)
        )


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_pairs_go_out_and_come_back(tmp_path: Path, capsys: pytest.CaptureFixture[str], ending: str) -> None:
    judged_store(tmp_path / "one.sqlite")
    file = str(tmp_path / f"pairs{ending}")
    assert main(["export", str(tmp_path / "one.sqlite"), file]) == 0
    said = capsys.readouterr().out
    assert "1 pairs, 1 ties, 1 that could not be judged" in said
    assert "undecided" in said
    assert main(["import", str(tmp_path / "two.sqlite"), file]) == 0
    assert "3 are new" in capsys.readouterr().out
    with Store.open(tmp_path / "one.sqlite", "read") as one, Store.open(tmp_path / "two.sqlite", "read") as two:
        assert {judgement.query_id for judgement in one.judgements()[0]} == {j.query_id for j in two.judgements()[0]}


def test_a_bad_line_is_named_and_nothing_is_imported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"prompt": "a", "chosen": "b", "rejected": "c"}, {"prompt": "a", "chosen": "b"}]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    said = failure(capsys, "import", str(tmp_path / "new.sqlite"), str(tmp_path / "pairs.jsonl"))
    assert "line 2" in said
    with Store.open(tmp_path / "new.sqlite") as store:
        assert store.counts()["judgements"] == 0


def test_the_store_of_a_run_is_meant_by_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Run.create("toy", {}, root=tmp_path, seed=0, folder=tmp_path / "mine"):
        pass
    judged_store(tmp_path / "mine" / "store.sqlite")
    file = tmp_path / "pairs.jsonl"
    assert main(["export", str(tmp_path / "mine"), str(file)]) == 0
    assert json.loads(file.read_text())["chosen"].startswith("good")
    (tmp_path / "empty").mkdir()
    capsys.readouterr()
    assert "no run folder" in failure(capsys, "export", str(tmp_path / "empty"), str(file))


def test_a_file_that_is_not_there_leaves_no_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = failure(capsys, "import", str(tmp_path / "new.sqlite"), str(tmp_path / "nofile.jsonl"), "--ask")
    assert "no file" in said and not list(tmp_path.iterdir())


def test_who_names_no_store_is_told_how_to_make_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = failure(capsys, "serve", str(tmp_path / "study.sqlite"))
    assert "`backflip import study.sqlite pairs.jsonl --ask` makes one" in said
