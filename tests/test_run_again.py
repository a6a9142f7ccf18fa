"""`backflip run --again`: the same judgements teach the same policy; without somebody, all but theirs; what people weigh."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("gymnasium")
from backflip.cli import main
from backflip.data import Item, Judgement, Query
from backflip.errors import DataError
from backflip.loops.answers import answers_to, person_weights
from backflip.measures.weighting import what_weighting_changed
from backflip.overseers.recorded import RecordedOverseer, recorded
from backflip.policies.actor_critic import ActorCritic
from backflip.run import read_run
from backflip.run_again import prepare
from backflip.store import Store
from backflip.store.lineage import Lineage
from backflip.store.people import People
from backflip.store.study import Known, StudyBook

SMALL = [
    "--env", "backflip.worlds.moving_dot:MovingDot-v0", "--steps", "1600", "--environments", "4", "--comparisons", "40",
    "--ask_at_once", "4", "--episodes", "4", "--pairs", "8", "--fit.first_steps", "40", "--fit.steps", "10", "--ppo.epochs", "2",
    "--policy.hidden", "8", "--check_every", "2",
]  # fmt: skip
BOB = "person:bob"


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that a synthetic teacher taught."""
    folder = tmp_path_factory.mktemp("earlier") / "run"
    assert main(["run", "control", "--folder", str(folder), "--quiet", *SMALL]) == 0
    return folder


@pytest.fixture
def judged(earlier: Path, tmp_path: Path) -> Path:
    """The same run, in which three people judged every pair afterwards: two like the teacher, bob at random."""
    folder = tmp_path / "judged"
    folder.mkdir()
    for file in earlier.iterdir():
        if file.is_dir():
            continue
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "results").mkdir()
    for file in (earlier / "results").iterdir():
        (folder / "results" / file.name).write_bytes(file.read_bytes())
    rng = np.random.default_rng(0)
    with Store.open(folder / "store.sqlite") as store:
        told = store.judgements(0)[0]
        people = People(store)
        for name in ("ann", "cat"):
            token = people.invite("labeler", "", 0.0, 24.0)
            person = people.join(token, name, "hash", 1.0)
            store.add_judgements([Judgement(one.query_id, person.judge, one.answer, created=2.0) for one in told])
        drawn = [(1.0, 0.0) if heads else (0.0, 1.0) for heads in rng.random(len(told)) < 0.5]
        store.add_judgements(
            [Judgement(one.query_id, BOB, answer, created=3.0) for one, answer in zip(told, drawn, strict=True)]
        )
    return folder


def again(earlier: Path, folder: Path, *options: str) -> int:
    return main(["run", "--again", str(earlier), "--folder", str(folder), "--quiet", *options])


def learned(folder: Path) -> Mapping[str, Any]:
    path = max((folder / "checkpoints").glob("policy-*"), key=lambda one: int(one.name.rpartition("-")[2]))
    return ActorCritic.load(path).state_dict()


def rows(folder: Path) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if "seconds" not in name} for row in read_run(folder).metrics]


def result(folder: Path, name: str) -> Any:
    return json.loads((folder / "results" / f"{name}.json").read_text())


def test_the_same_judgements_teach_the_same_policy_to_the_bit(earlier: Path, tmp_path: Path) -> None:
    assert again(earlier, tmp_path / "run") == 0
    before, after = learned(earlier), learned(tmp_path / "run")
    assert all(bool((before[name] == after[name]).all()) for name in before) and rows(earlier) == rows(tmp_path / "run")
    assert result(earlier, "asked") == result(tmp_path / "run", "asked")
    with Store.open(earlier / "store.sqlite") as one, Store.open(tmp_path / "run" / "store.sqlite") as other:
        theirs = [set(Lineage(store).teachers_of(Lineage(store).models()[-1].id)) for store in (one, other)]
    assert theirs[0] == theirs[1] and theirs[0]  # the new policy can be followed to the very same judgements


def test_a_question_comes_up_where_it_first_came_up_though_others_before_it_were_never_answered(
    earlier: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "half"
    shutil.copytree(earlier, folder)
    said = result(folder, "asked")
    when = dict(zip(said["asked"], said["asked_at"], strict=True))
    gone = [one for one, at in when.items() if at == 0][1:]
    with sqlite3.connect(folder / "store.sqlite") as store:
        store.executemany("DELETE FROM judgements WHERE query_id = ?", [(one,) for one in gone])
    assert again(folder, tmp_path / "run") == 0
    found = result(tmp_path / "run", "asked")
    assert found["asked"] == [one for one in said["asked"] if one not in gone] and max(found["asked_at"]) > 2
    assert found["asked_at"] == [when[one] for one in found["asked"]] and len(gone) == 5


def test_settings_may_differ_and_the_judgements_stay(earlier: Path, tmp_path: Path) -> None:
    assert again(earlier, tmp_path / "run", "--ppo.gamma", "0.5") == 0
    assert result(earlier, "asked") == result(tmp_path / "run", "asked")
    assert read_run(tmp_path / "run").config["ppo"]["gamma"] == 0.5
    assert read_run(tmp_path / "run").config["steps"] == 1600
    before, after = learned(earlier), learned(tmp_path / "run")
    assert any(bool((before[name] != after[name]).any()) for name in before)


def test_people_weigh_by_how_often_they_are_right_and_the_run_says_what_that_changed(
    judged: Path, tmp_path: Path
) -> None:
    assert again(judged, tmp_path / "run") == 0
    found = result(tmp_path / "run", "weighting")
    weight = {one["judge"]: one["weight"] for one in found["people"]}
    others = [value for judge, value in weight.items() if judge != BOB]
    assert len(others) == 2 and min(others) > 1 > weight[BOB] > 0
    assert {one["answers"] for one in found["people"]} == {40}
    assert found["comparisons"] > 100 and -1 <= found["correlation"] <= 1 and 0 <= found["turned"] <= 1
    assert read_run(tmp_path / "run").metrics[-1]["phase"] == "check"
    assert main(["report", str(tmp_path / "run")]) == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Whose answers weighed how much" in page and "Trained again" in page and BOB in page


def test_without_weights_everybody_counts_alike(judged: Path, tmp_path: Path) -> None:
    assert again(judged, tmp_path / "run", "--no_weigh_people") == 0
    assert not (tmp_path / "run" / "results" / "weighting.json").exists()


def test_without_somebody_their_judgements_are_gone_and_counted(judged: Path, tmp_path: Path) -> None:
    assert again(judged, tmp_path / "run", "--without", "ann", "--without", BOB) == 0
    with Store.open(tmp_path / "run" / "store.sqlite") as store:
        judges = {one.judge for one in store.judgements(0)[0]}
    assert len(judges) == 2 and BOB not in judges
    notes = read_run(tmp_path / "run").notes
    assert "80 of 160 judgements are left out, and 0 questions have no answer left" in notes[0]


def test_questions_that_only_they_answered_are_left_without(earlier: Path, judged: Path, tmp_path: Path) -> None:
    with Store.open(judged / "store.sqlite") as store:
        teacher = next(one.judge for one in store.judgements(0)[0] if not one.judge.startswith("person:"))
        one = Query((Item("", "a", {}), Item("", "b", {})), "Which?")
        store.add_queries([one])
        store.add_judgements([Judgement(one.id, BOB, (1.0, 0.0), created=5.0)])
    said = result(judged, "asked")
    said["asked"].append(one.id)
    said["asked_at"].append(0)
    (judged / "results" / "asked.json").write_text(json.dumps(said))
    assert prepare(judged, ["bob"])[1].unanswered == 1 and prepare(judged, [teacher])[1].unanswered == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--without", "Eve"], r'nobody named "Eve" judged what .* asked; these did: '),
        (["--without", "TEACHER"], "nothing is left to learn from"),
        (["--stepz", "3"], 'no field "stepz"'),
        (["--resume", "x"], "a resumed run keeps the settings it has"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line_and_leaves_nothing(
    earlier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    with Store.open(earlier / "store.sqlite") as store:
        teacher = store.judgements(0)[0][0].judge
    given = [teacher if one == "TEACHER" else one for one in options]
    assert again(earlier, tmp_path / "run", *given) == 2
    import re

    assert re.search(said, capsys.readouterr().err) and not (tmp_path / "run").exists()


def test_a_run_of_something_else_says_what_is_expected(
    earlier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "reviews", "--again", str(earlier)]) == 2
    assert 'is a run of "control", not of "reviews"' in capsys.readouterr().err
    assert main(["run", "control", "--without", "ann"]) == 2
    assert "--again RUN --without PERSON" in capsys.readouterr().err
    for options in (["--again", str(earlier)], ["--without", "ann"], ["--trackers", "all"]):
        assert main(["run", "--resume", str(earlier), *options]) == 2
        assert f"keeps the settings it has; leave out {options[0]}" in capsys.readouterr().err
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "config.json").write_text('{"experiment": "control"}')
    assert again(tmp_path / "half", tmp_path / "run") == 2
    assert "does not say what it asked" in capsys.readouterr().err


def test_a_copy_that_was_stopped_half_way_says_so(
    earlier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert again(earlier, tmp_path / "run") == 0
    with Store.open(tmp_path / "empty.sqlite") as store, pytest.raises(DataError, match="while they were copied"):
        recorded(tmp_path / "run", store)


def test_of_people_everybody_counts_once_of_others_the_first() -> None:
    pair = Query((Item("", "a", {}), Item("", "b", {})), "Which?")
    one, two, again, other = (
        Judgement(pair.id, judge, (1.0, 0.0), created=float(n))
        for n, judge in enumerate(("person:1", "person:2", "person:1", "model"))
    )
    assert answers_to([pair], [one, two, again, other]) == [one, two]
    assert answers_to([pair], [other, replace_judge(other), one]) == [other, one]


def replace_judge(one: Judgement) -> Judgement:
    return Judgement(one.query_id, "another model", one.answer, created=9.0)


def test_weights_follow_known_answers_and_need_two_people(tmp_path: Path) -> None:
    with Store.open(tmp_path / "s.sqlite") as store:
        pairs = [Query((Item("", f"a{n}", {}), Item("", f"b{n}", {})), "Which?") for n in range(20)]
        StudyBook(store).add_known([Known(pair, (1.0, 0.0), "") for pair in pairs])
        right, wrong = (1.0, 0.0), (0.0, 1.0)
        store.add_judgements([Judgement(pair.id, "person:right", right, details={"purpose": "gold"}) for pair in pairs])
        assert person_weights(store, ["person:right"]) == {}
        store.add_judgements([Judgement(pair.id, "person:wrong", wrong, details={"purpose": "gold"}) for pair in pairs])
        found = person_weights(store, ["person:right", "person:wrong", "model"])
    assert set(found) == {"person:right", "person:wrong"} and found["person:right"] > 1 > found["person:wrong"] > 0


def test_whoever_is_left_out_weighs_nobody_in_a_store_that_is_shared_either(earlier: Path, tmp_path: Path) -> None:
    again_of = replace(prepare(earlier, [])[1], without=("person:c",))
    with Store.open(tmp_path / "s.sqlite") as store:
        pairs = [Query((Item("", f"a{n}", {}), Item("", f"b{n}", {})), "Which?") for n in range(40)]
        store.add_queries(pairs)
        for n, pair in enumerate(pairs):
            for judge, right in (("a", True), ("b", n % 2 == 0), ("c", n % 2 == 0)):  # c says whatever b says
                store.add_judgements([Judgement(pair.id, f"person:{judge}", (1.0, 0.0) if right else (0.0, 1.0))])
        people, repeats = ["person:a", "person:b"], RecordedOverseer(store, [], again_of)
        with_c, without_c = (person_weights(store, people, one) for one in (None, repeats))
    assert with_c["person:b"] > with_c["person:a"] and without_c["person:a"] == pytest.approx(without_c["person:b"])


def test_what_weighting_changed_by_hand() -> None:
    same = what_weighting_changed([1.0, -2.0, 3.0], [2.0, -4.0, 6.0])
    assert same["correlation"] == pytest.approx(1) and same["turned"] == 0 and same["comparisons"] == 3
    assert what_weighting_changed([1.0, -1.0], [-1.0, 1.0]) == {"correlation": -1.0, "turned": 1.0, "comparisons": 2.0}
    assert what_weighting_changed([1.0, 1.0], [0.0, 1.0])["correlation"] == 0
