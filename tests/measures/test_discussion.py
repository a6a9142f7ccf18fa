"""Agreement before and after a talk: the same people on the same pairs, and nothing said of few."""

from __future__ import annotations

import pytest

from backflip.measures.discussion import Talk, talk
from backflip.measures.judges import Said


def told(choices: dict[str, dict[str, int]]) -> list[Said]:
    return [Said(judge, pair, choice, True) for pair, each in choices.items() for judge, choice in each.items()]


def compare(before: dict[str, dict[str, int]], after: dict[str, dict[str, int]]) -> Talk:
    return talk(told(before), told(after))


def test_a_talk_that_makes_all_agree() -> None:
    before = {f"p{n}": {"a": 1, "b": -1, "c": 1 if n % 2 else -1} for n in range(12)}
    after = {f"p{n}": dict.fromkeys("abc", 1 if n % 2 else -1) for n in range(12)}
    found = compare(before, after)
    assert found.before and found.after and found.gain and found.alpha_before and found.alpha_after
    assert found.pairs == 12
    assert found.before.value == pytest.approx(1 / 3) and found.after.value == 1.0
    assert found.gain.value == pytest.approx(2 / 3) and 0.3 < found.gain.low < found.gain.high <= 1.0
    assert found.after.low < 0.8, "twelve of twelve do not prove always"
    assert found.alpha_before.value < 0 < found.alpha_after.value == 1.0


def test_two_people_begin_at_nothing_and_the_gain_has_width_all_the_same() -> None:
    before = {f"p{n}": {"a": 1, "b": -1} for n in range(10)}
    found = compare(before, before | {f"p{n}": {"a": 1, "b": 1} for n in range(10)})
    assert found.before and found.before.value == 0.0 and found.gain
    assert (found.gain.value, found.gain.high) == (1.0, 1.0) and found.gain.low < 0.7
    assert found.alpha_after is None and "not defined" in found.why_no_alpha_after


def test_who_did_not_say_both_is_left_out() -> None:
    before = {f"p{n}": {"a": 1, "b": -1, "c": -1} for n in range(12)}
    after = {f"p{n}": {"a": 1, "b": 1 if n < 6 else -1, "d": -1} for n in range(11)} | {"p11": {"a": 1}}
    found = compare(before, after)
    assert found.pairs == 11 and found.before and found.after
    assert found.before.value == 0.0, "c changes nothing: they said nothing after"
    assert found.after.value == pytest.approx(6 / 11)


def test_few_are_too_few() -> None:
    before = {f"p{n}": {"a": 1, "b": -1} for n in range(9)}
    found = compare(before, before)
    assert found.pairs == 9 and found.before is found.after is found.gain is found.alpha_before is None
    assert "only 9 pairs" in found.why_no_alpha_before
    assert compare({}, {}).pairs == 0
