"""Known answers from files: what a line may say, what is wrong with it in one sentence, and all or none."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from backflip.cli import main
from backflip.data import Query
from backflip.errors import ConfigError, DataError
from backflip.store import Store
from backflip.store.desk import Desk
from backflip.store.known_lines import add_rows, import_known, known_of_row
from backflip.store.pair_files import read_lines
from backflip.store.study import Known, StudyBook

from .test_desk import join

Ask = Callable[..., Query]
LINE = {"prompt": "p", "chosen": "good", "rejected": "bad", "explanation": "It is good.", "difficulty": "easy"}


def add(store: Store, *lines: Any, name: str = "gold.jsonl") -> Any:
    parts = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    return add_rows(store, read_lines(BytesIO(b"\n".join(parts))), name)


def right(one: Known) -> str:
    """The text whose share is larger; empty where neither is."""
    if one.answer[0] == one.answer[1]:
        return ""
    return one.query.items[0 if one.answer[0] > one.answer[1] else 1].content


def test_the_right_answer_is_right_wherever_it_is_stored(store: Store) -> None:
    lines = [{**LINE, "prompt": f"p{n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(20)]
    assert str(add(store, *lines)) == "20 known answers, 20 new"
    known = StudyBook(store).known()
    assert [right(one) for one in known] == [f"good {n}" for n in range(20)]
    assert len({one.answer for one in known}) == 2, "its place says nothing about it"
    assert {(one.explanation, one.difficulty, one.use) for one in known} == {("It is good.", "easy", "check")}


@pytest.mark.parametrize(
    ("answer", "larger", "share"),
    [("first", "a", 1.0), ("second", "b", 1.0), ("equal", "", 0.5), ([0.2, 0.8], "b", 0.8), ([1, 0], "a", 1.0)],
)
def test_which_is_right_may_be_said_by_name_or_by_shares(answer: Any, larger: str, share: float) -> None:
    one = known_of_row({"prompt": "p", "first": "a", "second": "b", "answer": answer}, "Which?")
    assert right(one) == larger and max(one.answer) == share and one.query.question == "Which?"


def test_messages_are_read_as_elsewhere() -> None:
    row = {"prompt": [{"role": "user", "content": "hi"}], "first": "a", "second": "b", "answer": "first"}
    assert known_of_row(row, "Which?").query.items[0].prompt == "hi"


BAD: list[tuple[Any, str]] = [
    (b"{", "not JSON"),
    (b"\xff\xfe", "byte 1 is not UTF-8"),
    (b"[" * 100_000, "brackets within brackets"),
    (["a"], "holds list, expected an object"),
    ({**LINE, "chosen": 3}, "its chosen is int"),
    ({"prompt": "p", "chosen": "a"}, "has no 'rejected'"),
    ({"prompt": "p", "first": "a", "answer": "first"}, "has no 'second'"),
    ({**LINE, "rejected": "good"}, "same text"),
    ({**LINE, "expl": "x"}, "has 'expl', which says nothing here; expected prompt"),
    ({**LINE, "explanation": 3}, "its explanation is 3, expected text"),
    ({**LINE, "explanation": "x" * 6000}, "6,000 letters"),
    ({**LINE, "difficulty": "so hard that it takes more letters than fit"}, "its difficulty is"),
    ({**LINE, "use": "training"}, "its use is 'training', expected check, practice"),
    ({**LINE, "answer": "first"}, "has chosen and an answer"),
    ({**LINE, "first": "a"}, "beside first or second"),
    ({"prompt": "p", "first": "a", "second": "b"}, "its answer is 'None'"),
    ({"prompt": "p", "first": "a", "second": "b", "answer": [0.5, 0.6]}, "shares that sum to 1"),
    ({"prompt": "p", "first": "a", "second": "b", "answer": [2, -1]}, "shares that sum to 1"),
    ({"prompt": "p", "first": "a", "second": "b", "answer": [True, False]}, "shares that sum to 1"),
    (b'{"prompt": "p", "first": "a", "second": "b", "answer": [NaN, 1]}', "shares that sum to 1"),
    ({**LINE, "chosen": "x" * 100_001}, "100,001 letters"),
    (b'{"prompt": "p", "chosen": "\\ud800", "rejected": "b"}', "half a character"),
    ({**LINE, "chosen": "bad", "rejected": "good"}, "as in line 1, has another answer"),
    ({**LINE, "use": "practice"}, "as in line 1, has another answer or another use"),
]


@pytest.mark.parametrize(("bad", "said"), BAD)
def test_a_broken_line_in_the_middle_is_named_and_nothing_is_added(tmp_path: Path, bad: Any, said: str) -> None:
    with Store.open(tmp_path / "store.sqlite") as store:
        with pytest.raises(DataError) as caught:
            add(store, LINE, bad, {**LINE, "prompt": "q"})
        text = str(caught.value)
        assert text.startswith("gold.jsonl has 1 bad line, nothing was imported: gold.jsonl line 2: ")
        assert said in text and "\n" not in text and len(text) < 400
        assert store.counts()["items"] == store.counts()["queries"] == 0 == len(StudyBook(store).known())


def test_every_bad_line_is_named_by_its_number(store: Store) -> None:
    with pytest.raises(DataError, match=r"3 bad lines.* line 2: .* line 4: .* line 5: "):
        add(store, LINE, b"{", b"", {}, b"}", {**LINE, "prompt": "q"})
    with pytest.raises(DataError, match=r"30 bad lines.*and 20 more$"):
        add(store, *[{}] * 30)


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_an_empty_file_is_said_to_be(tmp_path: Path, content: bytes) -> None:
    with (
        Store.open(tmp_path / "store.sqlite") as store,
        pytest.raises(DataError, match=r"gold.jsonl is empty; expected"),
    ):
        add(store, content)


def test_a_file_twice_adds_nothing_and_another_answer_is_refused(store: Store) -> None:
    assert add(store, LINE, LINE).new == 1
    assert (add(store, LINE).read, add(store, LINE).new) == (1, 0)
    with pytest.raises(DataError, match="line 1: the same pair, as it is in the store, has another answer"):
        add(store, {**LINE, "chosen": "bad", "rejected": "good"})
    with pytest.raises(DataError, match="known already"):
        StudyBook(store).add_known([known_of_row({**LINE, "use": "practice"}, "Which answer is better?")])
    assert len(StudyBook(store).known()) == 1


def test_a_check_asks_what_the_study_asks_so_that_it_does_not_stand_out(store: Store, ask: Ask) -> None:
    store.add_queries([ask(0)])
    add(store, LINE, {**LINE, "prompt": "q", "question": "Which is truer?"})
    assert [one.query.question for one in StudyBook(store).known()] == ["Which is better?", "Which is truer?"]


def test_what_is_known_is_never_a_question_of_the_study(store: Store) -> None:
    add(store, LINE, {**LINE, "prompt": "q", "use": "practice"})
    person, desk, book = join(store, "a"), Desk(store), StudyBook(store)
    assert desk.take(person, 5, 5, 0.0, 100.0) == []
    assert desk.unseen_known(person, 5) == book.known_ids("check") and len(book.known_ids("check")) == 1
    assert book.exercises(person) == book.known_ids("practice") and len(book.known_ids()) == 2


def test_by_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, where = tmp_path / "gold.jsonl", str(tmp_path / "store.sqlite")
    file.write_text(json.dumps(LINE) + "\n")
    assert main(["import", where, str(file), "--known"]) == 0
    assert "read 1 known answer, 1 new into" in capsys.readouterr().out
    file.write_text(json.dumps({**LINE, "difficulty": 3}) + "\n")
    assert main(["import", where, str(file), "--known"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("DataError: gold.jsonl has 1 bad line, nothing was imported") and said.count("\n") == 1
    with Store.open(where) as store:
        assert len(StudyBook(store).known()) == 1 and store.counts()["judgements"] == 0
        with pytest.raises(ConfigError, match="cannot tell the format"):
            import_known(store, tmp_path / "gold.txt")
        with pytest.raises(DataError, match="no file"):
            import_known(store, tmp_path / "none.jsonl")
