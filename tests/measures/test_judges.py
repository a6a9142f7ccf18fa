"""Measures of people against people whose noise, biases and drift were planted."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from backflip.measures.judges import (
    ENOUGH,
    Said,
    agreement,
    alpha,
    between,
    noise,
    people_pairs,
    together,
    weights,
    worth,
)
from backflip.measures.stats import wilson


def population(right: dict[str, float], pairs: int, seed: int = 0, each: float = 1.0) -> list[Said]:
    """People who choose what is best with a probability of their own; every pair has a best one."""
    rng = np.random.default_rng(seed)
    found: list[Said] = []
    for n in range(pairs):
        best = 1 if rng.random() < 0.5 else -1
        for judge, p in right.items():
            if rng.random() < each:
                choice = best if rng.random() < p else -best
                found.append(Said(judge, f"pair {n}", choice, bool(rng.random() < 0.5), seconds=3.0, at=float(n)))
    return found


def test_the_convention_for_ties() -> None:
    assert [agreement(*pair) for pair in ((1, 1), (0, 0), (1, 0), (0, -1), (1, -1))] == [1, 1, 0.5, 0.5, 0]


def test_agreement_of_two_noisy_people_is_what_theory_says() -> None:
    said = population({"a": 0.9, "b": 0.8}, 2000)
    found = between("a", "b", said)
    expected = 0.9 * 0.8 + 0.1 * 0.2
    assert found["agreement"] and found["agreement"].low < expected < found["agreement"].high
    assert found["kappa"] and found["kappa"].value == pytest.approx(2 * expected - 1, abs=0.06)
    assert people_pairs(said) == [("a", "b")]


def test_alpha_is_one_for_the_same_choices_and_near_nought_for_coins() -> None:
    same, why = alpha(population({"a": 1.0, "b": 1.0, "c": 1.0}, 100))
    assert same and same.value == 1.0 and why == ""
    coins, _ = alpha(population({"a": 0.5, "b": 0.5, "c": 0.5}, 400))
    assert coins and coins.low < 0 < coins.high


def test_alpha_with_missing_answers_equals_the_textbook_on_two_people() -> None:
    said = population({"a": 0.9, "b": 0.7}, 300, each=0.7)
    found, _ = alpha(said)
    pairs: dict[str, list[int]] = {}
    for one in said:
        pairs.setdefault(one.pair, []).append(one.choice)
    both = [each for each in pairs.values() if len(each) == 2]
    values = [choice for each in both for choice in each]
    ones, n = values.count(1), len(values)
    observed = sum(a != b for a, b in both) / len(both)
    expected = 2 * ones * (n - ones) / (n * (n - 1))
    assert found and found.value == pytest.approx(1 - observed / expected)


def test_why_there_is_no_alpha() -> None:
    assert "two people" in alpha(population({"a": 1.0}, 100))[1]
    everybody_left = [replace(one, choice=1) for one in population({"a": 1.0, "b": 1.0}, 50)]
    found, why = alpha(everybody_left)
    assert found is None and "same choice every time" in why


def test_too_few_are_too_few() -> None:
    found = worth("a", population({"a": 0.9, "b": 0.9}, ENOUGH - 1))
    assert found.with_others is None and found.seconds is None and found.left is None and found.drift is None
    assert between("a", "b", population({"a": 0.9, "b": 0.9}, ENOUGH - 1))["kappa"] is None


def test_biases_are_found_where_they_were_planted_and_nowhere_else() -> None:
    draw = np.random.default_rng(3)
    said: list[Said] = []
    for n in range(400):
        left, longer = bool(draw.random() < 0.5), 1 if draw.random() < 0.5 else -1
        lefty = (1 if left else -1) if draw.random() < 0.3 else (1 if draw.random() < 0.5 else -1)
        wordy = longer if draw.random() < 0.3 else (1 if draw.random() < 0.5 else -1)
        said.append(Said("lefty", f"{n}", lefty, left, longer=longer))
        said.append(Said("wordy", f"{n}", wordy, left, longer=longer))
    lefty, wordy = (worth(who, said) for who in ("lefty", "wordy"))
    assert lefty.left and lefty.left.low > 0.5 and lefty.longer and lefty.longer.low < 0.5 < lefty.longer.high
    assert wordy.longer and wordy.longer.low > 0.5 and wordy.left and wordy.left.low < 0.5 < wordy.left.high


def test_known_answers_repeats_and_drift() -> None:
    draw = np.random.default_rng(4)
    said: list[Said] = []
    for n in range(200):
        right = draw.random() < (0.95 if n < 100 else 0.6)
        said.append(Said("a", f"{n}", 1 if right else -1, True, at=float(n), known=1))
        if n % 4 == 0:
            said.append(Said("a", f"{n}", 1 if right or n % 8 else -1, False, at=float(n) + 0.5, again=True))
    found = worth("a", said)
    assert found.judgements == 200
    realised = np.mean([one.choice == 1 for one in said if not one.again])
    assert found.known_right and found.known_right.value == pytest.approx(realised)
    assert found.known_right.low < realised < found.known_right.high
    assert found.drift and found.drift.high < 0, "tired in the second half"
    again = [one for one in said if one.again]
    first = {one.pair: one.choice for one in said if not one.again}
    expected = np.mean([one.choice == first[one.pair] for one in again])
    assert found.with_themselves and found.with_themselves.value == pytest.approx(expected)


def test_who_was_always_right_and_then_nearly_has_not_been_shown_to_tire() -> None:
    """Ten right of ten do not prove that all were: that doubt is in the interval of the drift too."""
    said = [Said("a", f"{n}", 1 if n not in (12, 15) else -1, True, at=float(n), known=1) for n in range(20)]
    drift = worth("a", said).drift
    early, late = wilson(10, 10), wilson(8, 10)
    assert drift and drift.value == pytest.approx(-0.2) and drift.n == 20
    assert drift.low == pytest.approx(-0.2 - (late.value - late.low))
    assert drift.high == pytest.approx(-0.2 + np.hypot(late.high - late.value, 1 - early.low)) and drift.high > 0


def test_noise_is_found_without_any_known_answer() -> None:
    truth = {"good": 0.92, "fair": 0.8, "poor": 0.65, "coin": 0.5}
    found = noise(population(truth, 1500, seed=2))
    assert {judge: pytest.approx(p, abs=0.05) for judge, p in truth.items()} == found


def test_known_answers_tell_a_lone_person_from_a_coin() -> None:
    said = [replace(one, known=1, choice=1 if n % 10 else -1) for n, one in enumerate(population({"a": 1.0}, 100))]
    assert noise(said)["a"] == pytest.approx(0.9, abs=0.03)
    alone = noise(population({"a": 0.5}, 100))
    assert alone["a"] == pytest.approx(0.8), "nobody to agree with: nothing is known of them"


def test_an_answer_that_people_agreed_on_does_not_check_those_people() -> None:
    """Two agree on twenty pairs; what they agreed on is then held against a third, and by mistake the other way round."""
    pairs = [f"p{n}" for n in range(20)]
    before = [Said(judge, pair, 1, True) for pair in pairs for judge in "ab"]
    after = noise([*before, *(Said("c", pair, 1, True, known=-1) for pair in pairs)])
    assert after["a"] == after["b"] == noise(before)["a"] > 0.9
    assert after["c"] == 0.5


def test_to_agree_with_oneself_is_not_to_be_right() -> None:
    once = [Said("a", f"{n}", 1, True) for n in range(40)]
    assert noise([*once, *(replace(one, again=True) for one in once)]) == noise(once) == {"a": 0.8}


def test_easy_known_answers_are_counted_apart() -> None:
    easy = [Said("a", f"easy {n}", 1, True, known=1, easy=True) for n in range(20)]
    hard = [Said("a", f"{n}", -1, True, known=1) for n in range(20)]
    found = worth("a", [*easy, *hard])
    assert found.attention is not None and found.attention.value == 1 and found.attention.n == 20
    assert found.known_right is not None and found.known_right.value == 0.5
    assert worth("a", hard).attention is None


def test_weights_fall_with_noise_and_drop_nobody() -> None:
    found = weights({"good": 0.95, "poor": 0.6, "coin": 0.5})
    assert found["good"] > found["poor"] > found["coin"] > 0
    assert np.mean(list(found.values())) == pytest.approx(1.0)


def test_weighting_beats_counting_heads() -> None:
    """Choices weighed by what they are worth find the best one oftener than a majority does."""
    truth = {"good": 0.95, "a": 0.55, "b": 0.55, "c": 0.55, "d": 0.55}
    said = population(truth, 1000, seed=5)
    weigh = weights(noise(said))
    draw = np.random.default_rng(5)
    best = []
    for _ in range(1000):
        best.append(1 if draw.random() < 0.5 else -1)
        draw.random((len(truth), 3))
    by_pair: dict[str, list[Said]] = {}
    for one in said:
        by_pair.setdefault(one.pair, []).append(one)
    heads = [np.sign(sum(one.choice for one in each)) for each in by_pair.values()]
    weighed = [np.sign(sum(one.choice * weigh[one.judge] for one in each)) for each in by_pair.values()]
    assert np.mean(np.array(weighed) == best) > np.mean(np.array(heads) == best) + 0.1


def test_agreement_of_all_is_that_of_any_two_and_can_be_asked_between_two_groups() -> None:
    said = population({"owner": 1.0, "ann": 0.9, "bob": 0.8}, 2000)
    found, apart = together(said), together(said, {"owner"}, {"ann", "bob"})
    inside = together(said, {"ann", "bob"}, {"ann", "bob"})
    assert found and apart and inside
    assert apart.low < 0.85 < apart.high and inside.low < 0.9 * 0.8 + 0.1 * 0.2 < inside.high
    assert found.value == pytest.approx((2 * apart.value + inside.value) / 3) and found.n == 2000
    two = between("ann", "bob", said)["agreement"]
    assert two and inside.value == two.value
    checks = [replace(one, known=1) for one in said[:600]]
    assert together([*checks, *said[600:]]) == together(said[600:]), "known answers say nothing of agreement"
    assert together(said[: 3 * (ENOUGH - 1)]) is None


def asked_twice(said: list[Said]) -> list[Said]:
    """The same answers, and everybody once more of each pair: asked with its items stored in the other order, so not as a repetition."""
    return [*said, *(replace(one, at=one.at + 5000, left_is_first=not one.left_is_first) for one in said)]


def test_a_pair_that_was_asked_in_two_orders_counts_once_for_each_person() -> None:
    alone = [Said("a", f"{n}", 1, True) for n in range(40)]
    assert noise(asked_twice(alone)) == {"a": 0.8}, "to agree with oneself is not to be right"
    assert together(asked_twice(alone)) is None and "only 0 pairs" in alpha(asked_twice(alone))[1]
    said = population({"a": 0.9, "b": 0.7, "c": 0.6}, 60, each=0.8)
    twice = asked_twice(said)
    assert noise(twice) == noise(said) and together(twice) == together(said)
    assert between("a", "b", twice) == between("a", "b", said)
    assert alpha(twice) == alpha(said)
    once, again = (worth("a", each) for each in (said, twice))
    assert again.with_others == once.with_others and again.judgements == 2 * once.judgements


def test_the_first_answer_counts_where_somebody_changed_their_mind_and_checks_are_apart() -> None:
    said = population({"a": 1.0, "b": 1.0}, 40)
    changed = [*said, *(replace(one, at=one.at + 5000, choice=-one.choice) for one in said if one.judge == "a")]
    agree = between("a", "b", changed)["agreement"]
    assert agree and agree.value == 1.0
    checks = [replace(one, known=one.choice, at=one.at + 9000) for one in changed if one.judge == "a"]
    known = worth("a", [*changed, *checks]).known_right
    assert known and known.n == 40


def test_ten_equal_answers_do_not_prove_that_two_people_always_agree() -> None:
    said = population({"a": 1.0, "b": 1.0}, ENOUGH)
    kappa, (everybody, _) = between("a", "b", said)["kappa"], alpha(said)
    for found in (kappa, everybody):
        assert found and (found.value, found.high) == (1.0, 1.0) and found.low < 0.6


def test_a_tie_among_known_answers_leaves_as_much_doubt_as_there_is() -> None:
    """Nineteen right of twenty and one tie: Student's interval began at 0.92, though who agrees by 0.9 often does as well."""
    said = [Said("a", f"{n}", 0 if n == 7 else 1, True, at=float(n), known=1) for n in range(20)]
    found = worth("a", said).known_right
    assert found and found.value == pytest.approx(19.5 / 20) and found.low < 0.85 and found.high < 1.0


def test_twenty_thousand_judgements_of_one_person_take_little_room() -> None:
    said = [Said("a", f"{n}", 1 if n % 3 else -1, True, seconds=2 + n % 7, at=float(n)) for n in range(20_000)]
    tracemalloc.start()
    found = worth("a", said).seconds
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found and found.low <= 5 <= found.high and most < 50e6
