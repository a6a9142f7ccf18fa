"""The words of a page: numbers, intervals, and sentences that must not claim more than the intervals support."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backflip.data import Estimate
from backflip.experiments.control import ControlConfig
from backflip.measures.stats import wilson
from backflip.report.evidence import gather
from backflip.report.headline import Finding, findings, outcome, status_sentence, verdict
from backflip.report.intervals import difference, interval_of
from backflip.report.page import _reproduce  # pyright: ignore[reportPrivateUsage]
from backflip.report.wording import duration, policy_key, show, show_gap, show_interval, wording
from backflip.run import Run

PERCENT = "\u00a0%"


def edit(folder: Path, name: str, change: Callable[[Any], object]) -> None:
    """Change a JSON file of a run in place."""
    path = folder / name
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value), encoding="utf-8")


def titled(found: list[Finding], part: str) -> Finding:
    """Return the one finding whose title holds `part`."""
    (one,) = [one for one in found if part in one.title]
    return one


@pytest.mark.parametrize(
    ("value", "unit", "said"),
    [
        (0.907, "share", f"91{PERCENT}"),
        (0.0432, "share", f"4.3{PERCENT}"),
        (0.9951, "share", f"99.5{PERCENT}"),
        (8.4, "nats", "8.40\u00a0nats"),
        (21.34, "tokens", "21.3\u00a0tokens"),
        (1480.2, "mb", "1,480\u00a0MB"),
        (0.00000213, "number", "2.1e-06"),
        (540000, "count", "540,000"),
        (math.nan, "number", "not a number"),
    ],
)
def test_numbers_are_shown_at_a_readers_precision(value: float, unit: Any, said: str) -> None:
    assert show(value, unit) == said


def test_durations_are_said_as_people_say_them() -> None:
    assert [duration(s) for s in (0.93, 48.2, 200, 7500)] == ["0.9 s", "48 s", "3 min 20 s", "2 h 5 min"]


def test_a_dash_never_stands_between_signed_numbers() -> None:
    assert show_interval(Estimate(0.9, 0.885, 0.93, 5), "share") == f"88\u201393{PERCENT}"
    assert show_interval(Estimate(0.0, -0.2, 0.2, 5)) == "-0.200 to 0.200"


def test_a_difference_of_shares_is_in_points_not_percent() -> None:
    assert show_gap(Estimate(-0.47, -0.51, -0.44, 9), "share") == "-47.0 points (-51.0 to -44.0)"


def test_an_unknown_metric_keeps_its_words_and_gets_its_unit_by_its_ending() -> None:
    assert (wording("judge_two_accuracy").label, wording("judge_two_accuracy").unit) == ("Judge two accuracy", "share")


@given(st.tuples(*[st.floats(-5, 5)] * 2, *[st.floats(0, 3)] * 4))
def test_difference_turns_round_with_its_arguments(parts: tuple[float, float, float, float, float, float]) -> None:
    a, b, *reach = parts
    first, second = Estimate(a, a - reach[0], a + reach[1], 9), Estimate(b, b - reach[2], b + reach[3], 7)
    there, back = difference(first, second), difference(second, first)
    assert there.value == -back.value
    assert math.isclose(there.low, -back.high, abs_tol=1e-9) and math.isclose(there.high, -back.low, abs_tol=1e-9)
    assert there.low <= there.value <= there.high and there.n == 7


def test_difference_of_normal_intervals_is_the_normal_one() -> None:
    gap = difference(Estimate(1, 1 - 3, 1 + 3, 50), Estimate(2, 2 - 4, 2 + 4, 50))
    assert (gap.value, gap.low, gap.high) == (1, 1 - 5, 1 + 5)


def test_logged_intervals_are_used_and_win_rates_get_wilsons() -> None:
    assert interval_of({"proxy": 1.0, "proxy_low": 0.5, "proxy_high": 1.5}, "proxy") == (0.5, 1.5)
    exact = wilson(60, 100)
    assert interval_of({"gold_win_rate": 0.6, "n": 100}, "gold_win_rate") == (exact.low, exact.high)
    assert interval_of({"proxy": 1.0, "n": 100}, "proxy") is None
    assert interval_of({"gold_win_rate": 0.6}, "gold_win_rate") is None


def test_a_good_run_is_said_to_beat_the_base_and_gold_to_rise(fabricate: Callable[..., Path]) -> None:
    evidence = gather(fabricate())
    found = findings(evidence)
    assert titled(found, "PPO beats the base").level == "good"
    assert titled(found, "Gold rose with the proxy").level == "good"
    assert titled(found, "gained together").level == "good"
    assert "n = 512" in outcome(evidence) and "of KL from the base" in outcome(evidence)
    assert "nothing against it" in verdict(found)
    assert status_sentence(evidence) is None


def test_a_gamed_proxy_is_the_first_thing_said(fabricate: Callable[..., Path]) -> None:
    found = findings(gather(fabricate(turn_nats=4.0, samples=200)))
    assert titled(found, "proxy rose while gold fell").level == "bad"
    assert titled(found, "proxy gained and gold lost").level == "bad"
    assert found[0].level == "bad"
    assert verdict(found).startswith("Do not rely on it: ") and "the proxy rose while gold fell" in verdict(found)


def test_a_fall_of_gold_within_its_interval_is_not_called_one(fabricate: Callable[..., Path]) -> None:
    folder = fabricate()
    rows = [
        {"step": s, "phase": "check", "proxy": s, "gold_win_rate": g, "kl_nats_per_sequence": s, "n": 100}
        for s, g in ((1, 0.85), (2, 0.8))
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert titled(findings(gather(folder)), "No fall of gold").level == "good"
    for row in rows:
        row["n"] = 4000
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert titled(findings(gather(folder)), "proxy rose while gold fell").level == "bad"
    for row in rows:
        del row["n"]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert titled(findings(gather(folder)), "carry no n").level == "unmeasured"


@pytest.mark.parametrize(
    ("value", "half", "level", "title"),
    [
        (0.55, 0.04, "good", "PPO beats the base"),
        (0.55, 0.06, "caution", "not shown to differ"),
        (0.40, 0.06, "bad", "worse than the base"),
    ],
)
def test_a_win_rate_counts_only_with_its_interval(
    fabricate: Callable[..., Path], value: float, half: float, level: str, title: str
) -> None:
    folder = fabricate()
    won = {"value": value, "low": value - half, "high": value + half, "n": 100}
    edit(folder, "results/table.json", lambda rows: rows[2].update(gold_win_rate=won))
    assert titled(findings(gather(folder)), title).level == level


def test_a_reward_model_within_noise_of_the_bag_of_words_is_not_said_to_beat_it(fabricate: Callable[..., Path]) -> None:
    folder = fabricate()
    assert titled(findings(gather(folder)), "beats every null baseline").level == "good"
    near = {"value": 0.68, "low": 0.66, "high": 0.70, "n": 2012}
    edit(folder, "results/reward_model.json", lambda result: result["baselines"].update(bag_of_words=near))
    assert titled(findings(gather(folder)), "not shown to beat").level == "caution"


def test_more_pairs_without_the_overseers_errors_decide_about_the_bag_of_words(fabricate: Callable[..., Path]) -> None:
    folder = fabricate()
    near = {"value": 0.6, "low": 0.0, "high": 1.0, "n": 9}
    edit(folder, "results/reward_model.json", lambda result: result["baselines"].update(bag_of_words=near, length=near))
    edit(folder, "results/reward_model.json", lambda result: result["baselines"].update(length=near | {"value": 0.5}))
    for low, said, level in ((0.01, "beats every null baseline", "good"), (-0.01, "not shown to beat", "caution")):
        lead = {"value": 0.03, "low": low, "high": 0.05, "n": 600}
        edit(folder, "summary.json", lambda summary, lead=lead: summary["estimates"].update(reward_model_lead=lead))
        found = titled(findings(gather(folder)), said)
        assert found.level == level and "+3.0 points" in found.text


def test_shortened_repetitive_and_unanswered_runs_are_named(fabricate: Callable[..., Path]) -> None:
    folder = fabricate()
    edit(folder, "summary.json", lambda summary: summary["estimates"].pop("ppo_distinct2_ratio"))
    edit(folder, "results/table.json", lambda rows: rows[2]["distinct2"].update(value=0.2))
    edit(folder, "results/table.json", lambda rows: rows[2]["length_tokens"].update(value=6.0))
    edit(folder, "results/cost.json", lambda cost: cost.update(unanswered=400))
    edit(folder, "results/reward_model.json", lambda result: result["ece"].update(low=0.15))
    found = findings(gather(folder))
    assert titled(found, "grown alike").level == "caution"
    assert titled(found, "much shorter").level == "caution"
    assert "400 of 2,000" in titled(found, "could not be judged").text
    assert titled(found, "probabilities are off").level == "caution"
    assert verdict(found).startswith("Trust it with care: ")


def test_without_gold_over_optimisation_is_said_to_be_unseen(fabricate: Callable[..., Path]) -> None:
    folder = fabricate()
    edit(folder, "summary.json", lambda summary: summary.update(estimates={}))
    edit(folder, "results/table.json", lambda rows: [row.pop("gold_win_rate", None) for row in rows])
    edit(
        folder,
        "results/table.json",
        lambda rows: rows[2].update(win_rate={"value": 0.7, "low": 0.65, "high": 0.75, "n": 200}),
    )
    for name in ("metrics.jsonl", "samples.jsonl"):
        rows = [json.loads(line) for line in (folder / name).read_text().splitlines()]
        kept = [{key: value for key, value in row.items() if "gold" not in key} for row in rows]
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in kept))
    evidence = gather(folder)
    assert titled(findings(evidence), "no gold judge").level == "unmeasured"
    assert outcome(evidence).startswith("The overseer prefers PPO's answer")


def test_text_runs_are_judged_by_their_overseer(fabricate: Callable[..., Path]) -> None:
    folder = fabricate()
    edit(folder, "results/table.json", lambda rows: [row.pop("gold_win_rate", None) for row in rows])
    won = {"value": 0.7, "low": 0.65, "high": 0.75, "n": 200}
    edit(folder, "summary.json", lambda summary: summary.update(estimates={"win_rate_by_overseer": won}))
    assert outcome(gather(folder)).startswith(f"The overseer prefers PPO's answer to the base's in 70{PERCENT}")


def test_what_was_not_given_is_no_line_of_the_environment(fabricate: Callable[..., Path]) -> None:
    folder = fabricate()
    edit(folder, "command.json", lambda command: command.update(trackers=None, store=None, device="cpu"))
    (table,) = _reproduce(gather(folder)).tables
    names = {row[0].text for row in table.rows}
    assert "device" in names and not names & {"trackers", "store"}


def test_calibration_is_measured_against_the_luck_of_a_small_sample(fabricate: Callable[..., Path]) -> None:
    folder = fabricate()
    assert titled(findings(gather(folder)), "about right").level == "good"
    edit(folder, "results/reward_model.json", lambda result: result.update(ece_of_chance=0.01))
    assert titled(findings(gather(folder)), "probabilities are off").level == "caution"
    for low, said in (
        (0.0, "about right"),
        (0.005, "probabilities are off"),
    ):  # what luck adds was taken away when it was measured
        less = {"value": 0.02, "low": low, "high": 0.03, "n": 600}
        edit(folder, "results/reward_model.json", lambda result, less=less: result.update(ece=less, ece_seen=0.04))
        assert "without luck it is 2.0" in titled(findings(gather(folder)), said).text


@pytest.mark.parametrize(
    ("name", "key"),
    [("PPO", "ppo"), ("best of 16", "best_of_n"), ("base", "base"), ("rloo", "rloo"), ("Best of all", "Best of all")],
)
def test_policies_are_known_by_what_tables_call_them(name: str, key: str) -> None:
    assert policy_key(name) == key


def control_run(folder: Path, right: float, followed: float) -> Path:
    """A finished control run, as its loop and its experiment leave it."""
    config = ControlConfig()
    with Run.create("control", config, root=folder, seed=0, folder=folder / "run") as run:
        run.log(1, "control", steps=800.0)
        run.log(1, "reward", held_out_n=50.0, held_out_accuracy=right, loss=0.4)
        run.log(1, "check", correlation_with_truth=followed)
        run.estimate("true_return", Estimate(-180.0, -200.0, -160.0, 20))
        run.note("-180.0 true return on 20 unseen episodes of Pendulum-v1")
    return folder / "run"


def test_a_control_run_speaks_of_its_clips_and_not_of_gold_judges(tmp_path: Path) -> None:
    good = gather(control_run(tmp_path / "good", 0.94, 0.97))
    assert outcome(good) == "-180.0 true return on 20 unseen episodes of Pendulum-v1."
    found = findings(good)
    assert {one.level for one in found} == {"good"} and not any("gold" in one.title + one.text for one in found)
    assert f"94{PERCENT} of 50 held-out pairs" in titled(found, "ranks held-out pairs").text
    assert "0.970 at" in titled(found, "step by step").text

    coin = gather(control_run(tmp_path / "coin", 0.54, 0.1))
    assert titled(findings(coin), "better than a coin").level == "bad"
    assert titled(findings(coin), "does not follow").level == "caution"
    assert verdict(findings(coin)).startswith("Do not rely on it")
