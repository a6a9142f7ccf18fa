"""The teachers follow B-Pref's rules (Lee et al. 2021), and their draws depend on seed and query id alone."""

import math
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import expit

from backflip.data import Query, digest
from backflip.errors import ConfigError, DataError
from backflip.overseers.synthetic import (
    SyntheticTeacher,
    TeacherConfig,
    beta_for_agreement,
    discounted,
    preference,
    teacher,
    uniforms,
)
from backflip.protocols import Overseer
from backflip.store import Store


def answer(store: Store, worth: Any, query: Query, config: TeacherConfig) -> tuple[float, ...] | None:
    return SyntheticTeacher(store, worth, config).judge(query).answer


def many(query: Any, gap: float, count: int = 4000) -> list[Query]:
    return [query(f"{i} {gap}", f"{i} 0") for i in range(count)]


def share(store: Store, worth: Any, queries: list[Query], config: TeacherConfig) -> float:
    judge = SyntheticTeacher(store, worth, config)
    return float(np.mean([judge.judge(q).answer == (1.0, 0.0) for q in queries]))


def test_oracle_takes_the_better_and_swapping_flips(store: Store, worth: Any, query: Any):
    rng = np.random.default_rng(0)
    for first, second in rng.normal(size=(50, 2)).round(3):
        one, other = (
            answer(store, worth, query(str(a), str(b)), teacher("oracle"))
            for a, b in ((first, second), (second, first))
        )
        assert one == ((1.0, 0.0) if first > second else (0.0, 1.0))
        assert other == ((0.0, 1.0) if first > second else (1.0, 0.0))


@pytest.mark.parametrize(("beta", "gap"), [(1.0, 0.7), (2.0, -0.5), (0.5, 1.0)])
def test_stochastic_has_the_bradley_terry_probability(store: Store, worth: Any, query: Any, beta: float, gap: float):
    expected = 1 / (1 + math.exp(-beta * gap))
    found = share(store, worth, many(query, gap), teacher("stochastic", beta=beta))
    assert abs(found - expected) < 4 * math.sqrt(expected * (1 - expected) / 4000)


def test_swapped_probabilities_add_to_one():
    config = TeacherConfig(beta=0.7, myopic_gamma=0.9)
    first_T, second_T = np.array([1.0, 2.0, -1.0]), np.array([0.5, 0.0, 1.0, 2.0])
    assert preference(first_T, second_T, config) + preference(second_T, first_T, config) == pytest.approx(1)


def test_mistake_flips_a_tenth(store: Store, worth: Any, query: Any):
    assert abs(share(store, worth, many(query, 5.0), teacher("mistake")) - 0.9) < 0.02


def test_mistakes_are_independent_of_the_draw(store: Store, worth: Any, query: Any):
    both = TeacherConfig(beta=1.0, mistake=0.2)
    p = 1 / (1 + math.exp(-0.7))
    assert abs(share(store, worth, many(query, 0.7), both) - (0.8 * p + 0.2 * (1 - p))) < 0.03


def test_skip_rule_is_not_an_answer(store: Store, worth: Any, query: Any):
    skipping = TeacherConfig(skip=1.0)
    found = SyntheticTeacher(store, worth, skipping).judge(query("0.5 0.5", "0.3"))
    assert found.answer is None and "skipped" in found.note
    assert answer(store, worth, query("1.1", "0.3"), skipping) == (1.0, 0.0)
    assert answer(store, worth, query("-5", "-3"), TeacherConfig(skip=0.0)) == (0.0, 1.0), "a threshold of 0 is off"


def test_skip_comes_before_tie(store: Store, worth: Any, query: Any):
    assert answer(store, worth, query("0.5", "0.5"), TeacherConfig(skip=1.0, equal=1.0)) is None


def test_equal_rule_uses_undiscounted_sums_and_is_never_flipped(store: Store, worth: Any, query: Any):
    config = TeacherConfig(equal=0.5, mistake=1.0, myopic_gamma=0.1)
    assert answer(store, worth, query("1 0 0", "0 0 1.4"), config) == (0.5, 0.5)
    assert answer(store, worth, query("0 0 1", "0 0 1.5"), config) == (1.0, 0.0), (
        "a gap of exactly the threshold is no tie; then the mistake"
    )
    assert answer(store, worth, query("1", "1.001"), TeacherConfig(equal=0.0)) == (0.0, 1.0)


def test_thresholds_from_the_mean_return():
    assert teacher("skip", mean_return=20).skip == pytest.approx(2) and teacher(
        "equal", mean_return=20
    ).equal == pytest.approx(2)
    assert teacher("skip", mean_return=-20).skip == 0 == teacher("equal", mean_return=-20).equal


def test_myopic_weighs_the_end(store: Store, worth: Any, query: Any):
    assert discounted(np.array([1.0, 1.0, 1.0]), 0.9) == pytest.approx(0.81 + 0.9 + 1)
    early, late = "2 0 0 0 0 0 0 0 0 0", "0 0 0 0 0 0 0 0 0 1"
    assert answer(store, worth, query(early, late), teacher("oracle")) == (1.0, 0.0)
    assert answer(store, worth, query(early, late), teacher("myopic")) == (0.0, 1.0)


def test_flipped_is_the_oracle_turned_round_and_coin_ignores_the_truth(store: Store, worth: Any, query: Any):
    assert answer(store, worth, query("3", "1"), teacher("flipped", beta=math.inf)) == (0.0, 1.0)
    assert abs(share(store, worth, many(query, 50.0), teacher("coin")) - 0.5) < 0.03


def test_equal_truth_is_a_coin_even_for_the_oracle(store: Store, worth: Any, query: Any):
    assert abs(share(store, worth, many(query, 0.0), teacher("oracle")) - 0.5) < 0.03


def test_draws_depend_on_seed_and_query_alone(store: Store, worth: Any, query: Any, tmp_path: Path):
    queries = many(query, 0.1, 200)
    config = teacher("stochastic", seed=3)
    in_order = [answer(store, worth, q, config) for q in queries]
    with Store.open(tmp_path / "other.sqlite") as other:
        assert [answer(other, worth, q, config) for q in reversed(queries)] == in_order[::-1]
    assert [answer(store, worth, q, replace(config, seed=4)) for q in queries] != in_order
    shuffled = [replace(q, order=(1, 0), reason="variance") for q in queries]
    assert [answer(store, worth, q, config) for q in shuffled] == in_order


def test_draws_are_equal_in_another_process():
    code = "from backflip.overseers.synthetic import uniforms; print(*uniforms(7, 'abc'))"
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "11"}
    ).stdout
    assert tuple(float(part) for part in said.split()) == uniforms(7, "abc")


def test_uniforms_are_uniform_and_independent():
    pairs = np.array([uniforms(0, str(i)) for i in range(4000)])
    assert np.abs(pairs.mean(0) - 0.5).max() < 0.02 and np.abs(np.corrcoef(pairs.T)[0, 1]) < 0.05
    assert pairs.min() >= 0 and pairs.max() < 1


def test_asking_twice_answers_once_and_needs_no_second_look(store: Store, worth: Any, query: Any):
    looked: list[str] = []

    def truth(item: Any) -> Any:
        looked.append(item.content)
        return worth(item)

    judge = SyntheticTeacher(store, truth, teacher("stochastic"))
    assert isinstance(judge, Overseer)
    judge.ask([query("1", "2"), query("2", "3")])
    judge.ask([query("1", "2"), query("3", "4")])
    found, cursor = judge.answers(0)
    assert len(found) == 3 and len(looked) == 6
    assert judge.answers(cursor) == ([], cursor)
    assert store.counts()["answered"] == 3


def test_one_number_is_a_truth_too(store: Store, query: Any):
    assert answer(store, lambda item: float(item.content), query("2", "1"), teacher("oracle")) == (1.0, 0.0)


def test_beta_for_agreement(store: Store, worth: Any, query: Any):
    rng = np.random.default_rng(1)
    queries = [query(str(a), str(b)) for a, b in rng.normal(size=(3000, 2)).round(4)]
    judge = SyntheticTeacher(store, worth, TeacherConfig(beta=beta_for_agreement(worth, queries, 0.75)))
    better = [(1.0, 0.0) if float(q.items[0].content) > float(q.items[1].content) else (0.0, 1.0) for q in queries]
    agree = [judge.judge(q).answer == answer for q, answer in zip(queries, better, strict=True)]
    assert abs(np.mean(agree) - 0.75) < 0.025
    with pytest.raises(ConfigError, match="agreement"):
        beta_for_agreement(worth, queries, 0.4)


def test_bad_settings_and_queries_are_refused(store: Store, worth: Any, query: Any, item: Any):
    with pytest.raises(ConfigError, match='"orcale"'):
        teacher("orcale")
    with pytest.raises(ConfigError, match="mistake"):
        TeacherConfig(mistake=1.5)
    with pytest.raises(DataError, match="not finite"):
        answer(store, worth, query("nan", "1"), TeacherConfig())
    with pytest.raises(DataError, match="rate of 1"):
        SyntheticTeacher(store, worth).ask([Query((item("1"),), "how good?", kind="rate")])
    assert store.counts()["open"] == 0


def test_chance_is_the_share_of_answers(store: Store, worth: Any, query: Any):
    judge = SyntheticTeacher(store, worth, TeacherConfig(beta=1.0, mistake=0.2))
    queries = many(query, 0.7)
    assert judge.chance(queries[0]) == pytest.approx(
        np.mean([judge.judge(q).answer == (1.0, 0.0) for q in queries]), abs=0.03
    )
    picky = SyntheticTeacher(store, worth, TeacherConfig(skip=1.0, equal=0.5))
    assert picky.chance(query("0", "0")) is None and picky.chance(query("2", "2.1")) == 0.5


def test_a_graded_answer_is_the_nearest_level_and_errs_only_by_mistakes(store: Store, worth: Any, query: Any):
    judge = SyntheticTeacher(store, worth, teacher("graded", beta=1.0))
    shares = [judge.judge(query(first, "0")).answer for first in ("0", "0.3", "1", "2", "9", "-1")]
    assert [share and round(share[0], 2) for share in shares] == [0.5, 0.5, 0.7, 0.88, 0.98, 0.3]
    assert all(share is not None and sum(share) == 1 for share in shares)
    assert judge.chance(query("1", "0")) == 0.7
    wrong = SyntheticTeacher(store, worth, TeacherConfig(beta=1.0, levels=(0.1, 0.9), mistake=1.0))
    assert wrong.judge(query("1", "0")).answer == pytest.approx((0.1, 0.9))


def test_a_score_is_linear_up_to_the_full_score(store: Store, worth: Any, item: Any):
    judge = SyntheticTeacher(store, worth, TeacherConfig(full_score=4.0))
    asked = [Query((item(text),), "what is it worth?", kind="rate") for text in ("0", "2", "-4", "9")]
    judge.ask(asked)
    assert [one.answer for one in judge.answers(0)[0]] == [(0.5,), (0.75,), (0.0,), (1.0,)]
    with pytest.raises(ConfigError, match="full_score"):
        TeacherConfig(full_score=-1.0)


def test_grades_from_1_to_7_are_the_score_in_steps(store: Store, worth: Any, item: Any):
    judge = SyntheticTeacher(store, worth, TeacherConfig(full_score=3.0, grades=7))
    asked = [
        Query((item(text),), "from 1 to 7?", kind="rate")
        for text in ("-9", "-3", "-0.6", "0", "1.4", "2.4", "2.6", "8")
    ]
    judge.ask(asked)
    assert [round(1 + 6 * one.answer[0], 9) for one in judge.answers(0)[0] if one.answer] == [1, 1, 3, 4, 5, 6, 7, 7]
    for grades in (1, -7):
        with pytest.raises(ConfigError, match="no grades or 2"):
            TeacherConfig(grades=grades)


def test_a_teacher_scores_as_rationally_as_it_compares(store: Store, worth: Any, item: Any):
    """Two scores of one truth each, put in order, are a Bradley-Terry answer of the same beta."""
    judge = SyntheticTeacher(store, worth, TeacherConfig(beta=1.5, full_score=100.0))

    def scores(text: str) -> np.ndarray:
        asked = [Query((item(text),), "?", kind="rate", repeat=k) for k in range(4000)]
        return np.array([(judge.judge(query).answer or (np.nan,))[0] for query in asked])

    better, worse = scores("0.8"), scores("0")
    assert float((better > worse).mean()) == pytest.approx(expit(1.5 * 0.8), abs=0.03)
    assert 100 * (2 * float(better.mean()) - 1) == pytest.approx(0.8, abs=0.08)
    assert judge.score(item("0.8")) == pytest.approx(0.504)


def test_a_teacher_errs_in_scores_too(store: Store, worth: Any, item: Any):
    query = Query((item("3"),), "?", kind="rate")
    wrong = SyntheticTeacher(store, worth, TeacherConfig(full_score=3.0, mistake=1.0))
    assert wrong.judge(query).answer == (0.0,)
    picky = SyntheticTeacher(store, worth, TeacherConfig(full_score=3.0, skip=4.0))
    assert picky.judge(query).answer is None and "not good enough" in picky.judge(query).note
    coin = SyntheticTeacher(store, worth, TeacherConfig(full_score=3.0, beta=0.0))
    drawn = [
        coin.judge(Query((item(text),), "?", kind="rate", repeat=k)).answer for k in range(300) for text in ("3", "-3")
    ]
    assert np.mean([one[0] for one in drawn if one]) == pytest.approx(0.5, abs=0.06)


def test_a_teacher_without_grades_is_called_as_it_was_before_there_were_any(store: Store, worth: Any):
    before = {**asdict(TeacherConfig(beta=2.0)), "beta": repr(2.0)}
    del before["grades"]
    assert SyntheticTeacher(store, worth, TeacherConfig(beta=2.0)).name == f"synthetic-{digest(before)[:8]}"
    assert SyntheticTeacher(store, worth, TeacherConfig(beta=2.0, grades=7)).name != f"synthetic-{digest(before)[:8]}"
