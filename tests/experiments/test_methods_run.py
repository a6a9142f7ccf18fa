"""`backflip run reviews --method NAME` and `backflip run text --method NAME`: the choice, its settings, and what it leaves behind."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from backflip.cli import main
from backflip.experiments import find
from backflip.experiments.methods import METHODS, carried
from backflip.report.evidence import gather
from backflip.report.headline import outcome
from backflip.run import RunRecord, read_run
from backflip.run_config import config_from_json, config_to_json

SMALL = (
    "--comparisons 12 --updates 2 --save-every 1 --check-every 2 --sampling.max-new-tokens 5 --held-out-share 0.3 "
    "--final-comparisons 6 --quiet"
).split()
REWARDED = "--members 1 --fit.batch 8 --normalise-on 8 --episodes 8".split()
Failure = Callable[..., str]


def carry_out(folder: Path, policy: Path, prompts: Path, *more: str) -> RunRecord:
    argv = ["--policy", str(policy), "--prompts", str(prompts), "--folder", str(folder)]
    assert main(["run", "text", *argv, *SMALL, *more]) == 0
    return read_run(folder)


def test_an_unknown_method_is_one_line_with_the_known_ones(failure: Failure) -> None:
    said = failure("run", "reviews", "--method", "gpro")
    assert said == (
        f'ConfigError: there is no method "gpro"; expected one of {", ".join(METHODS)}; did you mean "grpo"?'
    )
    assert 'ConfigError: "control" has one method, its own; leave --method out' in failure(
        "run", "control", "--method", "dpo"
    )
    assert "leave out --method" in failure("run", "--resume", "somewhere", "--method", "dpo")


def test_help_names_the_methods_and_shows_the_settings_of_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "reviews", "--help"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in METHODS) and "--ppo.clip" in said and "--dpo.beta" not in said
    assert main(["run", "reviews", "--method", "dpo", "--help"]) == 0
    said = capsys.readouterr().out
    assert "--dpo.beta" in said and "--agreement" in said and "--ppo.clip" not in said and "--members" not in said


def test_a_setting_of_another_method_is_refused(failure: Failure) -> None:
    assert 'no field "members"' in failure("run", "reviews", "--method", "dpo", "--members", "3")
    assert "an ensemble of one never disagrees" in failure(
        "run", "reviews", "--method", "rloo", "ensemble:worst", "--members", "1"
    )


@pytest.mark.parametrize("experiment", ["reviews", "text"])
@pytest.mark.parametrize("method", METHODS)
def test_settings_of_every_method_are_read_back_and_have_help(experiment: str, method: str) -> None:
    spec = find(experiment)
    config = spec.config_of(method)()
    assert spec.config_of(method) is type(config) and config.method == method
    assert config_from_json(type(config), json.loads(json.dumps(config_to_json(config), allow_nan=False))) == config


def test_what_was_told_to_one_method_is_told_to_the_next_and_defaults_are_its_own() -> None:
    spec = find("reviews")
    before = spec.config(seed=3, comparisons=50, lr=7e-4, agreement=0.8)
    after = carried(before, spec.config_of("sft"))
    assert (after.seed, after.comparisons, after.lr, after.agreement) == (3, 50, 7e-4, 0.8)
    assert after.updates == spec.config_of("sft")().updates != before.updates


def test_a_method_leaves_what_report_again_and_plan_need(
    tmp_path: Path, tiny_policy: Path, prompts: Path, judges: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overseer = ["--overseer", f"{judges}:wordy"]
    one = carry_out(tmp_path / "dpo", tiny_policy, prompts, *overseer, "--method", "dpo", "--pairs", "4")
    assert (one.status, one.faults, one.config["method"]) == ("done", [], "dpo")
    assert {"win_rate_by_overseer", "dpo_kl_nats_per_sequence", "dpo_entropy_nats"} <= set(one.summary["estimates"])
    assert {row["policy"] for row in one.results["table"]} == {"base", "DPO"}
    assert one.results["cost"]["comparisons"] > 0
    assert "prefers DPO's answer" in outcome(gather(one.path))
    # the same judgements, with another method: nobody is asked, and what was told is kept
    judges.write_text("def wordy(*_): raise RuntimeError('nobody is asked')")
    folder = tmp_path / "rloo"
    more = [
        "--method",
        "rloo",
        "--episodes",
        "8",
        "--members",
        "1",
        "--fit.batch",
        "8",
        "--normalise-on",
        "8",
        "--quiet",
    ]
    assert main(["run", "--again", str(one.path), "--folder", str(folder), *more]) == 0
    other = read_run(folder)
    assert (other.config["method"], other.config["updates"], other.config["comparisons"]) == ("rloo", 2, 12)
    assert other.results["asked"] == one.results["asked"]
    capsys.readouterr()
    argv = ["--policy", str(tiny_policy), "--prompts", str(prompts), *overseer, *SMALL]
    assert main(["run", "text", *argv, "--method", "sft", "--plan"]) == 0
    assert "judgements  18" in capsys.readouterr().out


def test_a_reward_that_no_method_would_use_is_refused(
    tmp_path: Path, tiny_policy: Path, prompts: Path, judges: Path, failure: Failure
) -> None:
    argv = ["run", "text", "--policy", tiny_policy, "--prompts", prompts, "--overseer", f"{judges}:wordy", *SMALL]
    more = ["--method", "dpo", "--components", f"short=1*{judges}:short", "--folder", tmp_path / "run"]
    assert "--method dpo learns from pairs and has no reward" in failure(*argv, *more)


def test_a_plain_function_is_the_preference_of_nash_md(
    tmp_path: Path, tiny_policy: Path, prompts: Path, judges: Path, failure: Failure
) -> None:
    """Nobody is asked and nothing is fitted; it also judges in the end. What it says wrong, and who cannot take one, is one line."""
    small = ["--method", "nash_md", "--members", "1", "--episodes", "8"]
    found = carry_out(tmp_path / "run", tiny_policy, prompts, "--preference", f"{judges}:wordy", *small)
    assert found.status == "done" and found.results["cost"]["comparisons"] == 0
    assert not any(row["phase"] in ("ask", "preference") for row in found.metrics)
    estimates = found.summary["estimates"]
    assert {"nash_md_win_rate_by_preference", "win_rate_by_overseer", "nash_md_kl_nats_per_sequence"} <= set(estimates)
    argv = ["run", "text", "--policy", tiny_policy, "--prompts", prompts, *SMALL, "--folder", tmp_path / "broken"]
    said = failure(*argv, *small, "--preference", f"{judges}:broken")
    assert "the preference --preference failed on duel 0" in said and "no such film" in said
    argv[-1] = tmp_path / "other"
    assert "takes no preference" in failure(*argv, "--method", "dpo", "--preference", f"{judges}:wordy")
    argv[-1] = tmp_path / "both"
    said = failure(*argv, *small, "--preference", f"{judges}:wordy", "--reward", f"{judges}:goods")
    assert "give one of them" in said


def test_nash_md_learns_its_preference_from_an_overseer(
    tmp_path: Path, tiny_policy: Path, prompts: Path, judges: Path
) -> None:
    more = ["--method", "nash_md", "--members", "1", "--episodes", "8", "--fit.batch", "8"]
    found = carry_out(tmp_path / "run", tiny_policy, prompts, "--overseer", f"{judges}:wordy", *more)
    assert {"ask", "preference", "nash_md"} <= {row["phase"] for row in found.metrics}
    assert {"preference_model_accuracy", "nash_md_win_rate_by_preference"} <= set(found.summary["estimates"])
    assert (found.path / "checkpoints" / "preference_model-0" / "member-0").is_dir()


def test_best_of_n_is_measured_at_its_bound_and_talked_to_as_it_is_used(
    tmp_path: Path,
    tiny_policy: Path,
    prompts: Path,
    judges: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "run"
    argv = [
        "--policy",
        str(tiny_policy),
        "--prompts",
        str(prompts),
        "--folder",
        str(folder),
        "--overseer",
        f"{judges}:wordy",
    ]
    more = "--comparisons 12 --members 1 --fit.batch 8 --normalise-on 8 --best-of 4 --sampling.max-new-tokens 5 --held-out-share 0.3".split()
    assert main(["run", "text", *argv, *more, "--final-comparisons", "6", "--quiet", "--method", "best_of_n"]) == 0
    found = read_run(folder)
    estimates = found.summary["estimates"]
    assert (found.status, found.faults) == ("done", [])
    assert estimates["best_of_n_kl_bound_nats"]["value"] == pytest.approx(math.log(4) - 3 / 4)
    assert not {"best_of_n_kl_nats_per_sequence", "best_of_n_entropy_nats"} & set(estimates)
    assert found.results["table"][-1]["kl_is_bound"] and "win_rate_by_overseer" in estimates
    assert "prefers Best of n's answer" in outcome(gather(folder))
    assert main(["report", str(folder)]) == 0
    capsys.readouterr()
    monkeypatch.setattr("sys.stdin", io.StringIO("the film was\n"))
    assert main(["sample", str(folder)]) == 0
    assert "reward " in (said := capsys.readouterr().out) and "KL at most 0.64 nats" in said
    assert main(["run", "text", *argv, *more, "--method", "best_of_n", "--plan"]) == 0


@pytest.mark.parametrize("method", ["grpo", "conditional", "dpo"])
def test_a_plain_function_is_the_reward_of_any_method(
    tmp_path: Path, tiny_policy: Path, prompts: Path, judges: Path, method: str, failure: Failure
) -> None:
    more = ["--pairs", "4"] if method == "dpo" else REWARDED
    found = carry_out(
        tmp_path / "run", tiny_policy, prompts, "--reward", f"{judges}:goods", "--method", method, *more
    )  # fmt: skip
    assert found.status == "done"
    asked = sum(row["phase"] == "ask" for row in found.metrics)
    assert asked == (1 if method == "dpo" else 0)
    assert f"{method}_kl_nats_per_sequence" in found.summary["estimates"]
    argv = ["run", "text", "--policy", tiny_policy, "--prompts", prompts, *SMALL, *more, "--method", method]
    said = failure(*argv, "--folder", tmp_path / "broken", "--reward", f"{judges}:fails")
    assert "cannot read it" in said and ("row 0" in said or "query" in said)
