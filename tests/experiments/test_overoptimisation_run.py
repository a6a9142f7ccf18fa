"""`backflip run overoptimisation`: what is written and how it can be traced, resuming, and what it refuses."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backflip.checkpoint import load_tensors
from backflip.cli import main as command_line
from backflip.data import Estimate, Item
from backflip.errors import ConfigError, DataError
from backflip.experiments.overoptimisation import OveroptimisationConfig, main
from backflip.experiments.overoptimisation_curves import Curve, Scale, gain_at, powers_of_two
from backflip.experiments.overoptimisation_proxies import Cell, ask_for_labels, check_labels, pushed_of
from backflip.experiments.overoptimisation_results import Claim, _row, sentence_of
from backflip.experiments.overoptimisation_rl import PushConfig
from backflip.measures.best_of_n import best_of_n
from backflip.measures.crossed import crossed_interval
from backflip.measures.gold import gold_scores, load_gold, stored_gold
from backflip.measures.goodhart import Gains
from backflip.overseers.synthetic import SyntheticTeacher, TeacherConfig
from backflip.policies.lm import LMConfig, load_policy
from backflip.report import write_report
from backflip.report.curves import read_lines
from backflip.report.goodhart import goodhart_section
from backflip.rewards.comparisons import Comparison
from backflip.run import Run, read_run
from backflip.run_record import STORE
from backflip.store import Store
from backflip.store.lineage import Lineage
from backflip.worlds import reviews
from backflip.worlds.text import TextWorld

SMALL = OveroptimisationConfig(
    seeds=2,
    openings=4,
    pool=16,
    largest_n=16,
    sizes=("1x8", "1x256"),
    labels=(4, 12),
    ensemble="1x8/12",
    members=2,
    pushed=("1x8/12", "1x8/12/worst"),
    push=PushConfig(updates=3, every=1, episodes=8, copies=1),
    sampling=LMConfig(temperature=0.8, max_new_tokens=8, rows=64),
)


def carry_out(folder: Path, config: OveroptimisationConfig = SMALL) -> Path:
    with Run.create("overoptimisation", config, root=folder.parent, folder=folder, seed=0) as run:
        main(config, run)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return carry_out(tmp_path_factory.mktemp("over") / "run")


def test_every_number_can_be_had_again_from_what_is_kept(folder: Path) -> None:
    record = read_run(folder)
    pool = load_tensors(folder / "checkpoints" / "pool-0" / "rows")
    gold_KN = pool["gold"].numpy()
    # Gold is that of the tokens that are kept.
    policy = load_policy(reviews.assets() / "base", SMALL.sampling)
    world = TextWorld(reviews.read_openings("test"), policy.tokenizer)
    said = [world.answer_text([token for token in row if token >= 0]) for row in pool["action"].tolist()]
    items = [Item(prompt, text, {}) for prompt, text in zip(np.repeat(pool["openings"], SMALL.pool), said, strict=True)]
    gold = load_gold(reviews.assets() / "gold.safetensors")
    assert gold_scores(gold, items) == pytest.approx(gold_KN.ravel())
    # A point of a curve is the estimator on the scores that are kept.
    spread = np.sqrt(((gold_KN - gold_KN.mean(1, keepdims=True)) ** 2).mean())
    row = next(one for one in record.results["laws"] if one["name"] == "1x256_12")
    scores = [
        load_tensors(folder / "checkpoints" / f"scores_1x256_12_seed{seed}_member0-0" / "scores")["score"].numpy()
        for seed in (0, 1)
    ]
    mean = np.mean([best_of_n(score_KN, gold_KN, 8).value for score_KN in scores])
    assert row["gold"][2]["value"] == pytest.approx((mean - gold_KN.mean()) / spread)
    assert np.asarray(row["d"])[0, 2] ** 2 == pytest.approx(np.log(8) - 7 / 8)


def test_a_proxy_is_taught_by_the_first_judgements_of_its_own_seed(folder: Path) -> None:
    with Store.open(folder / STORE) as store:
        lineage, (told, _) = Lineage(store), store.judgements(0)
        taught = {one.name: set(lineage.teachers_of(one.id)) for one in lineage.models()}
    assert len(taught) == 2 * (4 + 1) and sorted(Counter(one.judge for one in told).values()) == [12, 12]
    assert len(taught["1x256_4_seed0_member0"]) == 4 and len(taught["1x8_12_seed1_member1"]) == 12
    assert taught["1x256_4_seed0_member0"] < taught["1x8_12_seed0_member0"]
    assert not taught["1x256_12_seed0_member0"] & taught["1x256_12_seed1_member0"]


def test_what_is_written(folder: Path) -> None:
    record = read_run(folder)
    names = [one["name"] for one in record.results["laws"]]
    assert names[:4] == ["1x8_4", "1x8_12", "1x256_4", "1x256_12"]
    assert names[4:8] == ["1x8_12_mean", "1x8_12_worst", "1x8_12_uncertain", "1x8_12_members"]
    assert names[8:] == ["ppo_1x8_12", "ppo_1x8_12_worst"]
    for row in record.results["laws"]:
        assert row["best_form"] not in row["not_told_from"] and len(row["forms"]) == 4
        assert row["fall"]["low"] < row["fall"]["value"] < row["fall"]["high"]
        assert row["turns"] is not True or row["fall"]["low"] > 0
        assert (row["peak_d"] is None) == (row["b"]["low"] <= 0 or row["a"]["value"] <= 0)
    faults: list[str] = []
    assert len(read_lines(record.results["lines"], faults)) == 8 and not faults
    assert "over-optimisation was found" in record.notes[-1]  # or: no over-optimisation was found here
    assert record.notes[0].startswith("stated before: ") and "refuted if" in record.notes[0]
    assert sum(note.startswith("predicted: ") for note in record.notes) == len(record.results["claims"])
    assert record.results["cost"]["comparisons"] == 24
    assert {"prompt", "base", "best of 16: 1x8_12", "PPO: 1x8_12_worst", "gold"} <= record.samples[0].keys()
    looks = load_tensors(folder / "checkpoints" / "looks_1x8_12_seed1-0" / "looks")
    assert [one["update"] for one in looks] == [0, 1, 2, 3] and float(looks[0]["kl"].abs().max()) == 0.0
    assert float(looks[-1]["kl"].mean()) > 0


def test_the_report_has_the_laws_and_the_verdicts(folder: Path, tmp_path: Path) -> None:
    page = write_report([folder], tmp_path / "page.html").read_text(encoding="utf-8")
    assert "d (a - b d)" in page and "Predicted beforehand" in page and "highest gold" in page


def test_a_run_that_was_cut_off_twice_ends_as_one_that_was_not(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = Run.create("overoptimisation", SMALL, root=tmp_path, folder=tmp_path / "cut", seed=0)
    saved, count = Run.save_state, Counter[str]()

    def dies(self: Run, name: str, tree: Any) -> None:
        saved(self, name, tree)
        count["saved"] += 1
        if count["saved"] in (4, 12):  # among the fits, and among the runs of PPO
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "save_state", dies)
    with pytest.raises(KeyboardInterrupt), cut:
        main(SMALL, cut)
    with pytest.raises(KeyboardInterrupt), Run.resume(tmp_path / "cut") as again:
        main(SMALL, again)
    monkeypatch.setattr(Run, "save_state", saved)
    with Run.resume(tmp_path / "cut") as again:
        main(SMALL, again)
    ours, theirs = read_run(tmp_path / "cut"), read_run(folder)
    assert ours.results["laws"] == theirs.results["laws"] and ours.notes == theirs.notes
    assert ours.summary["estimates"] == theirs.summary["estimates"] and count["saved"] == 12


# -- the parts ----------------------------------------------------------------------------------------------------------


def test_gold_itself_as_the_proxy_gains_as_much_of_either() -> None:
    gold_KN = np.random.default_rng(0).normal(size=(5, 64))
    scale = Scale.of(gold_KN)
    assert scale.gain(gold_KN.mean(1)) == pytest.approx(np.zeros(5))
    shifted = Scale.of(7 * gold_KN + 100)
    assert shifted.gain(7 * gold_KN[:, 3] + 100) == pytest.approx(scale.gain(gold_KN[:, 3]))
    assert powers_of_two(1024) == [2**k for k in range(1, 11)] and powers_of_two(10) == [2, 4, 8]


def test_gains_between_points_are_on_the_line_between_them() -> None:
    curve = Gains(np.array([[0.0, 1.0, 2.0], [2.0, 0.0, 1.0]]), np.array([[[0.0, 1.0, 3.0]], [[3.0, 0.0, 1.0]]]))
    assert gain_at(curve, 1.5).tolist() == [[2.0], [2.0]] and gain_at(curve, 9.0).tolist() == [[3.0], [3.0]]


def made_up(gain_D: np.ndarray[Any, Any], noise: float, proxy: float = 1.0) -> Curve:
    rng = np.random.default_rng(0)
    gain_SKD = np.tile(gain_D, (3, 12, 1)) + noise * rng.normal(size=(3, 12, len(gain_D)))
    d_SD = np.tile(np.linspace(0.4, 2.4, len(gain_D)), (3, 1))
    return Curve.of(
        "1x8_4",
        "1x8, 4 labels",
        "best_of_n",
        Gains(d_SD, gain_SKD),
        Gains(d_SD, proxy * np.tile(d_SD[:, None], (12, 1))),
    )


def test_the_sentence_says_what_was_found_and_what_was_not() -> None:
    d = np.linspace(0.4, 2.4, 10)
    turning, rising = made_up(d * (1 - 0.4 * d), 0.02), made_up(d, 0.2)
    assert "over-optimisation was found in 1 of 2 curves (1 of 1 proxies" in sentence_of([turning], [rising], SMALL)
    both = made_up(d * (1 - 0.4 * d), 0.02, proxy=-1.0)  # gold falls and so does the proxy: something else is wrong
    assert both.fall.found and not both.gamed
    none = sentence_of([rising, both], [], SMALL)
    assert none.startswith("no over-optimisation was found here") and "is ruled out" in none


def test_a_curve_turns_only_where_its_fall_says_so(tmp_path: Path) -> None:
    d = np.linspace(0.4, 2.4, 10)
    turning, bending = made_up(d * (1 - 0.4 * d), 0.02), made_up(d * (1 - 0.2 * d), 0.02)
    assert turning.turns is True and bending.choice.turns is True and not bending.fall.found and bending.turns is None
    assert made_up(1 - np.exp(-d), 0.002).turns is False
    row = {**_row(bending), "turns": True}  # as runs wrote it before
    for fall, said in ((Estimate(0.9, -0.1, 2.0, 32), "cannot be told"), (Estimate(0.9, 0.1, 2.0, 32), "yes")):
        one = json.loads(json.dumps({**row, "fall": fall}, default=lambda value: value.as_json()))
        section = goodhart_section({"laws": [one], "claims": []}, [])
        assert section is not None and section.tables[1].rows[0][-1].text == said
    one["fall"] = Estimate(0.0, 0.0, 0.0, 4).as_json()
    section = goodhart_section({"laws": [one], "claims": []}, [])
    assert section is not None and section.tables[1].rows[0][4].text == "not measured"


def test_a_claim_holds_only_where_its_interval_leaves_0_out() -> None:
    rng = np.random.default_rng(0)
    for shift, held in ((5.0, "held"), (-5.0, "did not hold"), (0.0, "cannot be told")):
        assert Claim("so", crossed_interval(shift + rng.normal(size=(3, 9)))).held == held


def test_pairs_that_two_seeds_share_are_answered_by_the_teacher_of_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OveroptimisationConfig, "train_openings", lambda _: reviews.read_openings("train")[:12])
    config = replace(
        SMALL, labels=(20,), ensemble="1x8/20", pushed=(), sampling=LMConfig(temperature=0.8, max_new_tokens=1)
    )
    base = load_policy(reviews.assets() / "base", config.sampling).reference()
    gold = reviews.assets() / "gold.safetensors"
    with Run.create("overoptimisation", config, root=tmp_path, folder=tmp_path / "run", seed=0) as run:
        teachers = [
            SyntheticTeacher(run.store, stored_gold(gold, run.store), TeacherConfig(mistake=0.25, seed=k))
            for k in (0, 1)
        ]
        both = [ask_for_labels(seed, base, teachers[seed], config, run, []) for seed in (0, 1)]
        again = ask_for_labels(1, base, teachers[1], config, run, both[1].asked)
    items = [{frozenset((pair.first.id, pair.second.id)) for pair in one.pairs} for one in both]
    assert items[0] & items[1], "no pair is shared, so nothing is tested"
    assert [len(one.pairs) for one in both] == [20, 20] and again.pairs == both[1].pairs
    assert [{judgement.judge for judgement in one.judgements} for one in both] == [{one.name} for one in teachers]


def test_labels_that_are_all_ties_or_too_few_are_refused() -> None:
    item = Item("a", "b", {})
    with pytest.raises(DataError, match="ties"):
        check_labels([Comparison(item, item, 0.5)] * 4, Cell("1x8", 4))
    with pytest.raises(DataError, match="needs 4"):
        check_labels([Comparison(item, item, 1.0)] * 3, Cell("1x8", 4))


def test_a_proxy_that_says_the_same_of_every_answer_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from backflip.rewards.model import SequenceRewardModel

    def flat(self: SequenceRewardModel, episodes: Any, **_: Any) -> torch.Tensor:
        return torch.zeros(len(episodes))

    monkeypatch.setattr("backflip.experiments.overoptimisation_proxies.fit", lambda *_: {"loss": 0.7})
    monkeypatch.setattr(SequenceRewardModel, "score_B", flat)
    argv = (
        "--openings 4 --pool 8 --largest_n 8 --sizes 1x8 --labels 4 --ensemble 1x8/4 --pushed 1x8/4 --seeds 2 --quiet"
    )
    assert command_line(["run", "overoptimisation", "--folder", str(tmp_path / "run"), *argv.split()]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("DataError: ") and "says the same of every answer" in said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seeds": 1}, "one set of labels"),
        ({"openings": 3}, "no curve can be fitted"),
        ({"largest_n": 2048}, "pool of 1024"),
        ({"turned": 0.5}, "labels say nothing"),
        ({"sizes": ("64",)}, "LAYERSxWIDTH"),
        ({"sizes": ("1x64", "1x64")}, "each once"),
        ({"labels": ()}, "each once"),
        ({"labels": (300, 50)}, "fewest first"),
        ({"ensemble": "1x64/301"}, "none of the proxies"),
        ({"ensemble": "1x64"}, "SIZE/LABELS"),
        ({"members": 1}, "never disagrees"),
        ({"uncertainty": -1.0}, "uncertainty"),
        ({"pushed": ("1x64/300/best",)}, "no rule"),
        ({"pushed": ("1x64/300/worst",)}, "has no ensemble"),
    ],
)
def test_settings_that_cannot_be_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        replace(OveroptimisationConfig(), **change)


def test_a_push_of_too_few_looks_is_refused() -> None:
    for change in ({"updates": 5}, {"lr": 0.0}, {"kl_coef": -1.0}, {"copies": 0}):
        with pytest.raises(ConfigError, match="push"):
            replace(PushConfig(), **change)
    assert pushed_of("1x64/300").rule == "single" and pushed_of("1x64/300/worst").title.endswith(
        "worst of the ensemble"
    )


def test_the_command_line_refuses_n_above_the_pool(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["run", "overoptimisation", "--folder", str(tmp_path / "run"), "--pool", "64"]
    assert command_line(argv) == 2
    said = capsys.readouterr().err
    assert "best of 1024 cannot be had from a pool of 64" in said and len(said.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists() or json.loads((tmp_path / "run" / "summary.json").read_text())
