"""A plain function as overseer: its bias for a place stays one for a place, and what it cannot judge is no number."""

import sys
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from backflip.data import Query
from backflip.errors import DataError, FunctionFailed
from backflip.overseers.function import FunctionOverseer
from backflip.protocols import Overseer
from backflip.store import Store


def fails(prompt: str, a: str, b: str) -> float:
    raise ValueError("cannot read it")


def longer(prompt: str, a: str, b: str) -> float | None:
    return None if len(a) == len(b) else float(len(a) > len(b))


def test_answers_and_swapping_flips(store: Store, query: Any):
    judge = FunctionOverseer(store, longer)
    assert isinstance(judge, Overseer)
    judge.ask([query("aa", "a"), query("a", "aa"), query("a", "b")])
    found, cursor = judge.answers(0)
    assert [j.answer for j in found] == [(1.0, 0.0), (0.0, 1.0), None]
    assert found[2].note and all(j.judge == "longer" and (j.seconds or 0) > 0 for j in found)
    assert judge.answers(cursor)[0] == []


def test_the_shown_order_is_undone(store: Store, query: Any):
    first_place = FunctionOverseer(store, lambda prompt, a, b: 0.9, name="first")
    asked = [query("aa", "a"), replace(query("bb", "b"), order=(1, 0))]
    first_place.ask(asked)
    found = [j.answer for j in first_place.answers(0)[0]]
    assert found[0] == pytest.approx((0.9, 0.1)) and found[1] == pytest.approx((0.1, 0.9))
    seen: list[tuple[str, str, str]] = []
    FunctionOverseer(store, lambda *args: seen.append(args) or 1.0, name="see").ask(
        [replace(query("cc", "c"), order=(1, 0))]
    )
    assert seen == [("the film", "c", "cc")]


def test_asked_again_it_is_not_called_again(store: Store, query: Any):
    calls: list[str] = []
    judge = FunctionOverseer(store, lambda p, a, b: calls.append(a) or 1.0, name="count")
    judge.ask([query("a", "b")])
    judge.ask([query("a", "b"), query("c", "d")])
    assert calls == ["a", "c"]


@pytest.mark.parametrize("said", [1.5, float("nan"), "first", -0.1])
def test_nonsense_is_refused(store: Store, query: Any, said: Any):
    with pytest.raises(DataError, match="probability"):
        FunctionOverseer(store, lambda p, a, b: said, name="odd").ask([query("a", "b")])
    assert store.judgements()[0] == []


def test_an_exception_names_the_query_and_keeps_earlier_answers(store: Store, query: Any):
    def brittle(prompt: str, a: str, b: str) -> float:
        return 1 / (len(a) - 3)

    asked = [query("a", "b"), query("aaa", "b")]
    with pytest.raises(DataError, match=asked[1].id):
        FunctionOverseer(store, lambda p, a, b: abs(brittle(p, a, b)), name="brittle").ask(asked)
    assert [j.query_id for j in store.judgements()[0]] == [asked[0].id]
    long = replace(query("a" * 100, "b"), order=(1, 0))
    said = rf"the reward \"longest\" failed on query {long.id}, 'b' and 'a{{60}}\.\.\.' to 'the film' \(ValueError"
    with pytest.raises(FunctionFailed, match=said):
        FunctionOverseer(store, fails, name="longest", kind="reward").ask([long])


def test_numbers_of_numpy_are_numbers_and_an_exit_is_a_failure(store: Store, query: Any):
    judge = FunctionOverseer(store, lambda *_: cast(float, np.float32(0.25)), name="numpy")
    judge.ask([query("aa", "a")])
    assert judge.answers(0)[0][0].answer == (0.25, 0.75)
    with pytest.raises(DataError, match="SystemExit"):
        FunctionOverseer(store, lambda *_: sys.exit(0), name="leaves").ask([query("bb", "b")])


def test_an_order_that_is_none_is_refused(store: Store, query: Any):
    with pytest.raises(DataError, match="order"):
        FunctionOverseer(store, longer).ask([replace(query("aa", "a"), order=(1, 1))])


def test_a_function_of_one_answer_grades(store: Store, item: Any):
    judge = FunctionOverseer(store, lambda prompt, answer: None if not answer else len(answer) / 4, name="grades")
    asked = [Query((item(text),), "how good?", kind="rate") for text in ("a", "", "abcd")]
    judge.ask(asked)
    assert [one.answer for one in judge.answers(0)[0]] == [(0.25,), None, (1.0,)]
    with pytest.raises(DataError, match=r"expected a score in \[0, 1\]"):
        judge.ask([Query((item("abcde"),), "how good?", kind="rate")])
    with pytest.raises(DataError, match="rate of 2"):
        judge.ask([Query((item("a"), item("b")), "how good?", kind="rate")])
