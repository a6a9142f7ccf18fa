"""The main job in little: real base, judge and reviews, few openings. What it writes, who may read the gold, who may judge."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from backflip.cli import main
from backflip.data import Item
from backflip.errors import ConfigError
from backflip.experiments import reviews as job
from backflip.experiments.reviews import ReviewsConfig
from backflip.experiments.reviews_measures import against_gold
from backflip.loops import fitting
from backflip.loops import ppo as loop
from backflip.loops.asking import pair_up
from backflip.overseers.synthetic import SyntheticTeacher
from backflip.overseers.terminal import TerminalOverseer
from backflip.policies.lm import LMConfig, load_policy
from backflip.progress import Progress
from backflip.rewards.comparisons import Comparison
from backflip.run import Run, RunRecord, read_run
from backflip.store import Store
from backflip.worlds import reviews
from backflip.worlds.text import TextWorld

OPENINGS = 24
SMALL = ReviewsConfig(
    comparisons=16,
    members=2,
    normalise_on=16,
    updates=2,
    episodes=8,
    best_of=2,
    check_every=2,
    save_every=1,
    sampling=LMConfig(temperature=0.8, max_new_tokens=10, rows=64),
)
SETTINGS = (
    "--comparisons 6 --members 1 --normalise-on 8 --updates 1 --episodes 8 --best-of 2 --sampling.max-new-tokens 6 --quiet"
).split()
ASKED_FOR = {
    "ppo_gold_win_rate", "bon_gold_win_rate", "ppo_kl_nats_per_sequence", "ppo_distinct2_ratio", "ppo_entropy_nats",
    "reward_model_accuracy", "reward_model_ceiling",
}  # fmt: skip


@pytest.fixture(autouse=True)
def few_openings(monkeypatch: pytest.MonkeyPatch) -> None:
    all_of_them = reviews.read_openings
    monkeypatch.setattr(reviews, "read_openings", lambda part: all_of_them(part)[:OPENINGS])


def carry_out(folder: Path, config: ReviewsConfig = SMALL) -> RunRecord:
    with Run.create("reviews", config, root=folder.parent, seed=config.seed, folder=folder) as run:
        run.progress = Progress(quiet=True)
        job.main(config, run)
    return read_run(folder)


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunRecord]:
    with pytest.MonkeyPatch.context() as patch:
        all_of_them = reviews.read_openings
        patch.setattr(reviews, "read_openings", lambda part: all_of_them(part)[:OPENINGS])
        yield carry_out(tmp_path_factory.mktemp("reviews") / "run")


# -- what it writes ------------------------------------------------------------------------------------------------------


def test_a_run_says_all_that_was_asked_for(record: RunRecord) -> None:
    assert (record.status, record.faults) == ("done", [])
    estimates = record.summary["estimates"]
    assert set(estimates) >= ASKED_FOR
    assert all(one["low"] <= one["value"] <= one["high"] for one in estimates.values())
    assert estimates["ppo_gold_win_rate"]["n"] == OPENINGS
    manifest = reviews.read_manifest()["estimates"]
    assert estimates["gold_judge_accuracy"] == manifest["gold_accuracy_on_human_labels"]
    assert 0.5 < estimates["reward_model_ceiling"]["value"] < 1


def test_the_table_compares_three_policies_alike(record: RunRecord) -> None:
    base, best, ppo = record.results["table"]
    assert [row["policy"] for row in (base, best, ppo)] == ["base", "best of 2", "PPO"]
    same = {"gold_win_rate", "kl_nats_per_sequence", "distinct2", "repetition", "length_tokens"}
    assert all(same <= set(row) for row in (base, best, ppo))
    assert base["kl_nats_per_sequence"]["value"] == 0 < ppo["kl_nats_per_sequence"]["value"]
    assert best["kl_nats_per_sequence"]["value"] == pytest.approx(np.log(2) - 0.5)
    # the base against itself, on other answers: even, as far as so few openings can say
    assert base["gold_win_rate"]["low"] < 0.5 < base["gold_win_rate"]["high"]


def test_samples_stand_side_by_side_with_their_scores(record: RunRecord) -> None:
    assert [row["prompt"] for row in record.samples] == reviews.read_openings("test")[:OPENINGS]
    for row in record.samples:
        assert set(row["proxy"]) == set(row["gold"]) == {"base", "best_of_n", "ppo"}
        # the first of the base's two answers is one that best-of-n chose from
        assert row["proxy"]["best_of_n"] >= row["proxy"]["base"]


def test_costs_and_curves(record: RunRecord) -> None:
    cost = record.results["cost"]
    assert cost["comparisons"] == 16 and cost["unanswered"] == 0 and cost["disk_bytes"] > 0
    assert cost["episodes"] == 2 * 16 + 2 * 8
    phases = [row["phase"] for row in record.metrics]
    assert [phases.count(name) for name in ("ask", "reward", "ppo", "check")] == [1, 2 * SMALL.fit.epochs, 2, 2]
    assert [point["n"] for point in record.results["best_of_n"]] == [1, 2]
    found = record.results["reward_model"]
    assert set(found["baselines"]) == {"length", "majority", "bag_of_words"}
    assert sum(bin["n"] for bin in found["bins"]) == OPENINGS


def test_every_number_is_explained_in_the_documents(record: RunRecord) -> None:
    docs = Path(__file__).parents[2] / "docs"
    said = "".join((docs / f"{name}.md").read_text(encoding="utf-8") for name in ("reviews", "ppo", "reward_models"))
    logged = {name for row in record.metrics for name in row} - {"step", "phase", "seconds"}
    names = logged | set(record.summary["estimates"])
    assert len(names) > 50
    assert [name for name in sorted(names) if f"`{name}`" not in said] == []


def test_the_gold_of_what_was_asked_is_in_the_store(record: RunRecord) -> None:
    with Store.open(record.path / "store.sqlite", "read") as store:
        queries = store.queries_by_id([judgement.query_id for judgement in store.judgements()[0]])
        items = [item for query in queries.values() for item in query.items]
        name = "gold-" + hashlib.sha256((reviews.assets() / "gold.safetensors").read_bytes()).hexdigest()[:12]
        kept = store.truth([item.id for item in items], name)
    gold = job.load_gold(reviews.assets() / "gold.safetensors")
    assert len(items) == 32
    assert [kept[item.id][0] for item in items] == job.gold_scores(gold, items).tolist()


def test_the_reward_model_and_the_bag_of_words_are_held_against_the_gold(record: RunRecord) -> None:
    estimates = record.summary["estimates"]
    learned, words, lead = (
        estimates[name]["value"]
        for name in ("reward_model_agreement_with_gold", "bag_of_words_agreement_with_gold", "reward_model_lead")
    )
    assert lead == pytest.approx(learned - words) and 0 <= learned <= 1 and 0 <= words <= 1
    assert estimates["reward_model_lead"]["n"] == OPENINGS


def test_a_reward_model_that_follows_the_gold_is_always_right_and_its_opposite_never() -> None:
    rng = np.random.default_rng(0)
    items = [[Item(f"opening {k}", f" answer {k} {j}", {}) for j in range(5)] for k in range(6)]
    gold_KN = rng.normal(size=(6, 5))
    gold_KN[0, 0] = gold_KN[0, 1]  # the judge calls this a tie: it is no pair
    taught: Any = SimpleNamespace(pairs=[Comparison(items[0][0], items[0][1], share=1.0)])
    for sign, rate in ((1.0, 1.0), (-1.0, 0.0)):
        found: Any = SimpleNamespace(base_items=items, base_gold_KN=gold_KN)
        proxy: Any = SimpleNamespace(base_KN=sign * gold_KN)
        said = against_gold(found, proxy, taught)
        assert said["reward_model_agreement_with_gold"].value == rate
        # a bag of words that knows none of the words scores all alike, which is half right
        assert said["reward_model_lead"].value == rate - said["bag_of_words_agreement_with_gold"].value


def test_what_is_printed_is_what_was_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "reviews", *SETTINGS, "--folder", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    estimates = read_run(tmp_path / "run").summary["estimates"]
    for name in (
        "ppo_gold_win_rate",
        "bon_gold_win_rate",
        "reward_model_accuracy",
        "reward_model_ceiling",
        "gold_judge_accuracy",
    ):
        assert f"{estimates[name]['value']:.1%} ({estimates[name]['low']:.1%} to" in said, name
    assert "6 comparisons, 0 of them not judged" in said
    assert reviews.read_openings("test")[0] in said
    assert "<= 0.19" in said  # best-of-n's KL is a bound


# -- the gold is read by the teacher and by measures, and by nobody else --------------------------------------------------


@pytest.mark.parametrize(
    ("place", "module"),
    [
        ("improve", "backflip.loops.ppo"),
        ("fit_reward", "backflip.rewards.fit"),
        ("improve", "backflip.experiments.reviews"),
    ],
)
def test_a_learner_that_reads_the_gold_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, module: str
) -> None:
    """In a real run, a step of the learner is replaced by one that asks the judge; which module it is in makes no odds."""
    opened: list[Any] = []
    load = job.load_gold
    monkeypatch.setattr(job, "load_gold", lambda path: opened.append(load(path)) or opened[-1])
    names: dict[str, Any] = {"__name__": module, "Item": Item, "gold": opened}
    exec("def peek(*args, **more):\n    return gold[0](Item('the film', ' is good', {}))", names)
    monkeypatch.setattr(fitting if place == "fit_reward" else loop, place, names["peek"])
    with pytest.raises(PermissionError, match=f"{module} read the ground truth"):
        carry_out(tmp_path / "run", replace(SMALL, members=1))
    assert len(opened) == 1
    assert read_run(tmp_path / "run").status == "failed"


def test_the_gold_answers_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the test above: the same question, asked by a measure."""
    gold = job.load_gold(reviews.assets() / "gold.safetensors")
    item = Item("the film", " is good", {})
    with pytest.raises(PermissionError):
        gold(item)
    assert job.gold_scores(gold, [item]).shape == (1,)


# -- teachers --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[SyntheticTeacher, list[Any]]]:
    """Return a function: settings -> the teacher of a run, and questions about the base's answers."""
    policy = load_policy(reviews.assets() / "base", SMALL.sampling)
    gold = job.load_gold(reviews.assets() / "gold.safetensors")
    world = TextWorld(reviews.read_openings("train")[:200], policy.tokenizer, group_size=2)
    rows = world.collect(policy, 400, np.random.default_rng(0))
    questions = pair_up(world.show(rows), "Which?", np.random.default_rng(1))
    folder = tmp_path_factory.mktemp("teachers")

    def make(**settings: Any) -> tuple[SyntheticTeacher, list[Any]]:
        config = replace(SMALL, **settings)
        with Run.create("reviews", config, root=folder, seed=0) as run:
            found = job.overseer_of(config, gold, world, policy, run)
        assert isinstance(found, SyntheticTeacher)
        return found, questions

    return make


def agreement(made: tuple[SyntheticTeacher, list[Any]], gold: Any = None) -> float:
    teacher, questions = made
    gold = job.load_gold(reviews.assets() / "gold.safetensors")
    worth = job.gold_scores(gold, [item for query in questions for item in query.items]).reshape(-1, 2)
    said = [teacher.judge(query).answer for query in questions]
    right = [(a[0] > a[1]) == (w[0] > w[1]) for a, w in zip(said, worth, strict=True) if a is not None and w[0] != w[1]]
    return float(np.mean(right))


def test_the_teacher_errs_as_often_as_it_is_told(teachers: Callable[..., Any]) -> None:
    """On answers other than those its rationality was fitted to: within four standard errors of 200 questions."""
    for wanted in (0.6, 0.75, 0.9):
        assert agreement(teachers(agreement=wanted)) == pytest.approx(wanted, abs=4 * (0.25 / 200) ** 0.5)
    assert agreement(teachers(teacher="oracle")) == 1
    assert agreement(teachers(teacher="flipped")) < 0.4
    assert agreement(teachers(teacher="coin")) == pytest.approx(0.5, abs=4 * (0.25 / 200) ** 0.5)


def test_teachers_who_skip_and_who_call_ties_do(teachers: Callable[..., Any]) -> None:
    skipping, questions = teachers(teacher="skip")
    answers = [skipping.judge(query).answer for query in questions]
    assert 0.05 < np.mean([answer is None for answer in answers]) < 0.7
    equal, questions = teachers(teacher="equal")
    answers = [equal.judge(query).answer for query in questions]
    assert 0.01 < np.mean([answer == (0.5, 0.5) for answer in answers]) < 0.4


def test_an_agreement_that_cannot_be_is_refused(teachers: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match=r"agreement is 0\.4, expected above 0\.5"):
        teachers(agreement=0.4)


# -- a person --------------------------------------------------------------------------------------------------------------


def test_a_person_judges_stops_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    monkeypatch.setattr("sys.stdin", io.StringIO("1\n=\nq\n"))
    assert main(["run", "reviews", "--overseer", "terminal", *SETTINGS, "--folder", str(folder)]) == 130
    first = capsys.readouterr()
    assert "1 of 6" in first.out and "3 of 6" in first.out and "4 of 6" not in first.out
    assert f"backflip run --resume {folder}" in first.err
    assert read_run(folder).status == "stopped"
    monkeypatch.setattr("sys.stdin", io.StringIO("x\n2\ns\n1\n2\n"))
    assert main(["run", "--resume", str(folder), "--quiet"]) == 0
    again = capsys.readouterr().out
    assert "3 of 6" in again and "2 of 6" not in again
    record = read_run(folder)
    assert record.status == "done"
    cost = record.results["cost"]
    assert (cost["comparisons"], cost["unanswered"], cost["ties"], cost["judge"]) == (6, 1, 1, "terminal")
    assert cost["judge_seconds"] > 0
    # nobody is asked again: the gold judge stands in for the person where the reward model is measured, and says so
    assert "reward_model_ceiling" not in record.summary["estimates"]
    assert "bag_of_words_accuracy" in record.summary["estimates"]
    assert any("against the gold judge, not against the person" in note for note in record.notes)
    with Store.open(folder / "store.sqlite", "read") as store:
        assert {judgement.judge for judgement in store.judgements()[0]} == {"person"}


def test_who_judges_is_never_guessed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "reviews", "--overseer", "nobody", "--folder", str(tmp_path / "run")]) == 2
    assert "ConfigError" in capsys.readouterr().err
    assert isinstance(TerminalOverseer, type) and not (tmp_path / "run").exists()


def test_the_summary_is_what_the_issue_promised(record: RunRecord) -> None:
    summary = json.loads((record.path / "summary.json").read_text())
    assert set(summary) == {"experiment", "status", "seconds", "peak_rss_mb", "estimates"}
    assert all(set(one) == {"value", "low", "high", "n"} for one in summary["estimates"].values())
