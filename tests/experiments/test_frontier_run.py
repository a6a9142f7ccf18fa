"""`backflip run frontier`: equal budgets, paths read from whole runs, best-of-n at its bound, and verdicts that spread supports."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backflip.cli import main
from backflip.data import Estimate
from backflip.errors import DataError
from backflip.experiments import find
from backflip.experiments.frontier import FrontierConfig, arms_of
from backflip.experiments.frontier import plan as frontier_plan
from backflip.experiments.frontier_parts import Path as Way
from backflip.experiments.frontier_parts import best_of_n_path, compare_at_equal_kl, mean_path, path_of, verdict
from backflip.experiments.method_arms import COMPARED, KEPT
from backflip.experiments.methods import METHODS
from backflip.report.evidence import gather
from backflip.report.frontier import frontier_section
from backflip.report.marks import Dots, Lines
from backflip.report.page import run_page
from backflip.report.render import render
from backflip.run import RunRecord, read_run

SMALL = (
    "--seeds 2 --comparisons 12 --learned-from 32 --episodes 8 --members 1 --normalise-on 8 --best-of 4 --max-new-tokens 5 --looks 2 "
    "--held-out 6 --matched-nats 0.001 --quiet"
).split()
Failure = Callable[..., str]


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory, tiny_policy: Path, arms_here: None) -> RunRecord:
    folder = tmp_path_factory.mktemp("frontier") / "run"
    argv = ["--methods", "ppo", "sft", "--policy", str(tiny_policy), "--folder", str(folder)]
    assert main(["run", "frontier", *argv, *SMALL]) == 0
    return read_run(folder)


# -- what a run leaves ---------------------------------------------------------------------------------------------------


def test_every_method_has_its_path_its_end_and_its_budget(record: RunRecord) -> None:
    assert (record.status, record.faults) == ("done", [])
    found = record.results["frontier"]
    assert found["against"] == "ppo" and found["seeds"] == [0, 1]
    assert set(found["paths"]) == {"ppo", "sft", "best_of_n"}
    for method in ("ppo", "sft"):
        assert found["paths"][method]["kl_nats"][0]["value"] == 0, "where every path begins"
        assert record.summary["estimates"][f"{method}: gold_win_rate"]["n"] == 2
        assert found["budget"][method]["labels"] == 12
        assert found["budget"][method]["tokens_trained"] > 0
    assert found["budget"]["ppo"]["answers_sampled"] == found["budget"]["sft"]["answers_sampled"] + 8 * 2
    assert any("labels heard by a run: 12;" in note for note in record.notes)


def test_best_of_n_stands_at_its_bound(record: RunRecord) -> None:
    path = record.results["frontier"]["paths"]["best_of_n"]
    assert [one["value"] for one in path["kl_nats"]] == pytest.approx([0, math.log(2) - 0.5, math.log(4) - 0.75])
    bound = best_of_n_path(record.path / "arms" / "ppo" / "seed_0")
    assert bound.kl_nats == record.results["frontier"]["by_seed"]["best_of_n"]["0"]["kl_nats"]
    with pytest.raises(DataError, match="expected a run that learned a reward"):
        best_of_n_path(record.path / "arms" / "sft" / "seed_0")


def test_the_path_is_that_of_the_runs_looks(record: RunRecord) -> None:
    folder = record.path / "arms" / "sft" / "seed_1"
    looks = [row for row in read_run(folder).metrics if row["phase"] == "check"]
    path = path_of(folder)
    assert path.gold == [row["gold"] for row in looks] and len(looks) > 1
    both = mean_path([path, Way(path.kl_nats[:1], path.gold_win_rate[:1], path.gold[:1])])
    assert [len(both[name]) for name in both] == [1, 1, 1], "looks that only some seeds had are left out"


def test_runs_of_one_seed_hear_the_same_labels(record: RunRecord) -> None:
    asked = [read_run(record.path / "arms" / arm / "seed_0").results["asked"]["asked"] for arm in ("ppo", "sft")]
    assert asked[0] == asked[1] and len(asked[0]) == 12


def test_the_page_draws_one_figure_of_all_methods_and_says_what_is_a_bound(record: RunRecord) -> None:
    page = run_page(gather(record.path))
    (section,) = [one for one in page.sections if one.id == "frontier"]
    gold = section.figures[0]
    assert isinstance(gold, Lines) and [one.name for one in gold.series] == ["ppo", "sft", "Best of n (KL at most)"]
    assert "KL is its upper bound" in gold.series[-1].notes[0] and "unprompted base" in gold.x.label
    assert all(len(one.x) == len(one.y) for one in gold.series)
    gaps = [one for one in section.figures if isinstance(one, Dots)]
    assert all(row.n == 2 for one in gaps for row in one.rows)
    assert [table.rows[0][0].text for table in section.tables] == ["ppo", "sft", "ppo"]
    assert "at equal KL" in page.headline and render(page)


def test_what_cannot_be_read_is_named() -> None:
    faults: list[str] = []
    assert frontier_section({}, faults) is None and not faults
    for broken in ([], {"paths": {"ppo": {"kl_nats": [None]}}}, {"paths": 3}):
        assert frontier_section({"frontier": broken}, faults) is None
    assert len(faults) == 3 and all("results/frontier.json cannot be drawn" in one for one in faults)


# -- equal budgets -------------------------------------------------------------------------------------------------------


def test_all_methods_learn_from_equally_many_answers() -> None:
    config = FrontierConfig()
    updates = {arm.name: int(arm.options["updates"]) for arm in arms_of(config)}
    assert updates == {
        "ppo": 36, "reinforce": 72, "rloo": 72, "grpo": 36, "dpo": 180, "feedme": 72, "conditional": 72, "sft": 360, "nash_md": 72,
    }  # fmt: skip
    for arm in arms_of(FrontierConfig(learned_from=4000)):
        from backflip.experiments.arms_plan import config_of

        settings: Any = config_of(arm, find("reviews").config_of(arm.name))
        learned = settings.work.updated * settings.work.passes * KEPT.get(arm.name, 1.0)
        assert abs(learned - 4000) <= learned / settings.updates / 2, arm.name
        assert settings.comparisons == config.comparisons


def test_the_plan_adds_up_all_runs() -> None:
    config = FrontierConfig(methods=("ppo", "sft"), seeds=3, comparisons=50, held_out=10)
    plan = frontier_plan(config)
    assert plan.comparisons == 2 * 3 * 50 and set(plan.seconds) == {"ppo, 3 seeds", "sft, 3 seeds"}


# -- equal KL ------------------------------------------------------------------------------------------------------------


def planted(lead: float, spread: float, seeds: int, nats: float = 2.0) -> dict[str, dict[int, Way]]:
    """Two methods whose win rate grows with KL; `other` is `lead` above, give or take `spread`."""
    rng = np.random.default_rng(0)
    kl = np.linspace(0, nats, 5)
    found: dict[str, dict[int, Way]] = {"ppo": {}, "other": {}}
    for seed in range(seeds):
        base = rng.normal(0, 0.05)
        for name, above in (("ppo", 0.0), ("other", lead + rng.normal(0, spread))):
            rate = 0.5 + 0.1 * kl + base + above * (kl > 0)
            found[name][seed] = Way(kl.tolist(), rate.tolist(), (4 * rate - 2).tolist())
    return found


def test_a_lead_is_told_by_five_seeds_and_refutes_the_prediction() -> None:
    rows = compare_at_equal_kl(planted(0.1, 0.01, 5), "ppo", (1.0,))
    (row,) = [one for one in rows if one["measure"] == "gold_win_rate"]
    assert row["told"] and row["difference"].value == pytest.approx(0.1, abs=0.01) and row["p_holm"] >= row["p"]
    assert "refuted by other at 1 nats" in verdict(rows, "ppo", 5)[-1]


def test_two_seeds_tell_nothing_and_say_so() -> None:
    rows = compare_at_equal_kl(planted(0.1, 0.01, 2), "ppo", (1.0,))
    assert not any(row["told"] for row in rows)
    said = verdict(rows, "ppo", 2)
    assert (
        not any("told apart from" in one for one in said)
        and "not decided" in said[-1]
        and "2 seeds are fewer" in said[-1]
    )


def test_no_lead_holds_the_prediction_where_the_intervals_are_narrow_enough() -> None:
    narrow = compare_at_equal_kl(planted(0.0, 0.005, 6), "ppo", (0.5, 1.0))
    assert "held at all 2 comparisons" in verdict(narrow, "ppo", 6)[-1]
    wide = compare_at_equal_kl(planted(0.0, 0.2, 6), "ppo", (0.5, 1.0))
    assert "not decided" in verdict(wide, "ppo", 6)[-1]


def test_sft_below_ppo_is_a_prediction_of_its_own() -> None:
    for lead, words in ((-0.2, "held"), (0.2, "refuted"), (0.0, "not decided")):
        paths = planted(lead, 0.05, 6)
        rows = compare_at_equal_kl({"ppo": paths["ppo"], "sft": paths["other"]}, "ppo", (1.0,))
        assert any(one == f'prediction "sft is below ppo at equal KL": {words}' or f"KL\": {words}," in one for one in verdict(rows, "ppo", 6))  # fmt: skip


def test_what_many_comparisons_show_by_chance_is_not_told_apart() -> None:
    def row(name: str, nats: float, value: float, half: float, told: bool) -> dict[str, Any]:
        gap = Estimate(value, value - half, value + half, 5)
        return {"method": name, "nats": nats, "measure": "gold_win_rate", "seeds": 5, "difference": gap, "told": told}

    rows = [row("sft", 1, -0.1, 0.02, True), row("sft", 0.5, -0.05, 0.06, False), row("dpo", 1, -0.05, 0.04, False)]
    told, seems, rest, predicted, _ = verdict(rows, "ppo", 5)
    assert told == "told apart from ppo: sft at 1 nats -10.0 points (-12.0 to -8.0, 5 seeds)"
    assert "not among 3 comparisons (Holm): dpo at 1 nats" in seems and rest.startswith("1 of 3 comparisons")
    assert predicted.endswith("not decided, this n cannot tell at every KL, though it held at 1 nats")


def test_a_kl_that_is_not_reached_is_not_compared() -> None:
    rows = compare_at_equal_kl(planted(0.0, 0.01, 5, nats=0.9), "ppo", (1.0,))
    assert all(row["seeds"] == 0 and "difference" not in row for row in rows)
    assert "not decided" in verdict(rows, "ppo", 5)[-1]


# -- bad input -----------------------------------------------------------------------------------------------------------


def test_bad_settings_are_one_line(failure: Failure) -> None:
    for words, said in (
        (("--methods", "ppo", "gpro"), 'did you mean "grpo"?'),
        (("--methods", "ppo", "ppo"), "names one twice"),
        (("--learned-from", "0"), "learned_from 0"),
        (("--matched-nats", "-1"), "matched_nats is (-1.0,)"),
        (("--seeds", "1"), "seeds 1"),
        (("--episodes", "30"), "multiple of group"),
        (("--held-out", "1"), "held_out 1"),
    ):
        assert said in failure("run", "frontier", *words)
    assert set(COMPARED) <= set(METHODS)


def test_a_method_whose_updates_cannot_be_counted_is_refused(failure: Failure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "another", METHODS["sft"])
    assert "none of the methods whose labels and update tokens" in failure("run", "frontier", "--methods", "another")
