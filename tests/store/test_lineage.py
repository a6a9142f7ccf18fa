"""From a policy to the judgements that taught it, and back, on both kinds of database."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from backflip.data import Judgement, Query
from backflip.errors import StoreError
from backflip.store import Store
from backflip.store.lineage import Lineage, judgement_id

Ask = Callable[..., Query]


def fill(store: Store, ask: Ask) -> list[Judgement]:
    told = [Judgement(ask(n).id, "person:a" if n % 2 else "person:b", (1.0, 0.0)) for n in range(6)]
    store.add_queries([ask(n) for n in range(6)])
    store.add_judgements(told)
    return told


def test_a_policy_leads_to_every_judgement_and_back(store: Store, ask: Ask) -> None:
    told, lineage = fill(store, ask), Lineage(store)
    first = lineage.add_reward("run", "reward-0", told[:3], 1.0)
    second = lineage.add_reward("run", "reward-1", told[2:4], 2.0)
    policy = lineage.add_policy("run", "policy", [first, second], 3.0)
    later = lineage.add_policy("run", "policy of a policy", [policy], 4.0)
    assert lineage.teachers_of(policy) == lineage.teachers_of(later) == sorted(judgement_id(one) for one in told[:4])
    assert [one.name for one in lineage.taught_by([judgement_id(told[3])])] == [
        "reward-1",
        "policy",
        "policy of a policy",
    ]
    assert lineage.taught_by([judgement_id(told[5])]) == []
    assert set(store.judgements_by_id(lineage.teachers_of(policy))) == set(lineage.teachers_of(policy))


def test_telling_it_twice_records_it_once(store: Store, ask: Ask) -> None:
    told, lineage = fill(store, ask), Lineage(store)
    assert lineage.add_reward("run", "r", told, 1.0) == lineage.add_reward("run", "r", told[::-1], 9.0)
    assert len(lineage.models()) == 1
    assert lineage.add_reward("run", "r", told[:2], 1.0) != lineage.add_reward("other", "r", told[:2], 1.0)


def test_the_models_of_a_person(store: Store, ask: Ask) -> None:
    told, lineage = fill(store, ask), Lineage(store)
    of_b = lineage.add_reward("run", "of b", [one for one in told if one.judge == "person:b"], 1.0)
    lineage.add_policy("run", "policy of b", [of_b], 2.0)
    ids, models = lineage.of_person("person:b")
    assert len(ids) == 3 and [one.name for one in models] == ["of b", "policy of b"]
    assert lineage.of_person("person:a")[1] == []


def test_an_unknown_model_is_said_to_be_unknown(store: Store) -> None:
    with pytest.raises(StoreError, match="no model x"):
        Lineage(store).teachers_of("x")
