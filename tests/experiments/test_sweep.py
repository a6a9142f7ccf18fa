"""`backflip sweep`: arms from settings, runs that are killed or fail, sums over seeds, and settings that are refused before anything runs."""

from __future__ import annotations

import json
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backflip.cli import main
from backflip.cli.sweep import prepared, print_summary
from backflip.data import Estimate
from backflip.errors import ConfigError, DataError
from backflip.experiments import arms, find, sweep
from backflip.experiments.arms import Arm, Planned, folder_of
from backflip.experiments.sweep import SweepConfig, arms_of, shares_of
from backflip.memory import available_mib
from backflip.report import write_report
from backflip.run import Run, read_run

SMALL = (
    *("env=Reacher-v5", "steps=400", "environments=2", "row_steps=50", "piece_steps=25", "clip_seconds=0.2"),
    *("ppo.minibatches=2", "fit.steps=2", "fit.first_steps=4", "episodes=2", "pairs=4", "comparisons=6", "reward=true"),
)


def words(*settings: str, of: str = "reviews") -> list[tuple[str, list[str]]]:
    return [(arm.name, arm.words()) for arm in arms_of(SweepConfig(of=of, settings=settings))]


def test_every_combination_is_an_arm_named_after_what_differs() -> None:
    found = words("kl.beta=0.02,0.05", "comparisons=100", "fit.epochs=1,2")
    assert [name for name, _ in found][:2] == ["kl.beta=0.02,fit.epochs=1", "kl.beta=0.02,fit.epochs=2"] and len(
        found
    ) == 4
    assert found[3][1] == ["--kl.beta", "0.05", "--comparisons", "100", "--fit.epochs", "2"]
    assert words() == [("as_is", [])]
    assert words("fit.bootstrap=true,false")[1] == ("fit.bootstrap=false", ["--fit.no_bootstrap"])
    assert words("kl=fixed_kl,adaptive_kl")[1] == ("kl=adaptive_kl", ["kl:adaptive_kl"])
    assert words("horizons=10 20,30", of="control")[0] == ("horizons=10_20", ["--horizons", "10", "20"])


def test_the_command_line_of_a_run_takes_what_an_arm_says() -> None:
    from backflip.cli.config import parse
    from backflip.optimise.kl import AdaptiveKL

    for _, said in words("kl=adaptive_kl", "kl.beta=0.02", "fit.bootstrap=false,true", "decay=false"):
        config: Any = parse(find("reviews").config, said, "run")
        assert isinstance(config.kl, AdaptiveKL) and config.kl.beta == 0.02 and not config.decay
        assert config.fit.bootstrap == ("--fit.bootstrap" in said)


def test_what_is_mistyped_is_refused_before_anything_runs(tmp_path: Path, failure: Callable[..., str]) -> None:
    def said(*argv: str) -> str:
        return failure("sweep", *argv, "--folder", tmp_path / "sweep")

    assert 'did you mean "reviews"?' in said("revews", "--seeds", "3")
    assert "say how many seeds" in said("reviews")
    assert 'did you mean "kl.beta"?' in said("reviews", "--seeds", "2", "--set", "kl.bta=1")
    assert "could not convert string to float" in said("reviews", "--seeds", "2", "--set", "kl.beta=0.1,abc")
    assert "kl.beta is -1.0" in said("reviews", "--seeds", "2", "--set", "kl.beta=0.1,-1")
    assert "seeds are swept by --seeds" in said("reviews", "--seeds", "2", "--set", "seed=1,2")
    assert "has arms and seeds of its own" in said("mujoco", "--seeds", "2")
    for broken in ("kl.beta", "kl.beta=", "kl.beta=1,1", "ppo=1", "decay=maybe"):
        with pytest.raises(ConfigError):
            words(broken)
    with pytest.raises(ConfigError, match="is set twice"):
        words("kl.beta=1", "kl.beta=2")
    assert not (tmp_path / "sweep").exists()


def finished(run: Run, arm: str, seed: int, value: float) -> None:
    """Write a run of an arm as if it had ended."""
    folder = folder_of(run, arm, seed)
    with Run.create("control", SweepConfig(seed=seed), root=run.path, folder=folder, seed=seed) as one:
        one.estimate("true_return", Estimate(value, value - 1, value + 1, 20))


def test_seeds_are_summed_up_and_failures_named_without_losing_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = SweepConfig(of="control", settings=("lr=0.1,0.2",), seeds=5)

    def fails(planned: list[Planned], shares: object, run: Run) -> list[Planned]:
        for one in planned:
            if (one.arm.name, one.seed) != ("lr=0.2", 3):
                finished(
                    run, one.arm.name, one.seed, 10.0 * one.seed + (one.arm.name == "lr=0.2") * (1 + 0.1 * one.seed)
                )
        return [one for one in planned if not one.done()]

    monkeypatch.setattr(sweep, "go_through", fails)
    spec = find("sweep")
    said = r"1 of 10 runs failed.*lr=0.2/seed_3: it said nothing.*--resume"
    begun = Run.create("sweep", config, root=tmp_path, folder=tmp_path / "run", seed=0)
    with pytest.raises(DataError, match=said), begun as run:
        spec(config, run)
    record = read_run(tmp_path / "run")
    rows = record.results["arms"]["measures"]["true_return"]
    assert (rows["lr=0.1"]["worst"], rows["lr=0.1"]["best"], rows["lr=0.1"]["mean"]["value"]) == (0.0, 40.0, 20.0)
    other = rows["lr=0.2"]
    assert (
        other["difference"]["n"] == 4 and other["difference"]["low"] > 0 and not other["told"] and other["needed"] == 5
    )
    assert record.results["arms"]["failed"] == [{"run": "lr=0.2/seed_3", "said": "it said nothing"}]
    assert record.status == "failed" and "true return" in record.notes[-1]
    page = write_report([tmp_path / "run"]).read_text(encoding="utf-8")
    assert "over seeds" in page and "1 runs failed" in page and "no: for one this size" in page


def test_a_run_that_is_killed_goes_on_and_one_that_fails_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stand-ins for runs: the first is killed twice and then ends, the second is always killed, the third fails."""
    begun: list[str] = []

    def start(one: Planned, cores: frozenset[int]) -> Any:
        begun.append(one.arm.name)
        if one.arm.name == "often" and begun.count("often") == 3:
            finished(run, "often", 0, 1.0)
        code = "import os; os.kill(os.getpid(), 9)" if one.arm.name in ("often", "always") else "raise SystemExit(2)"
        return arms._Going(subprocess.Popen([sys.executable, "-c", code]), one, cores)  # pyright: ignore[reportPrivateUsage]

    monkeypatch.setattr(arms, "_start", start)
    monkeypatch.setattr(arms, "LOOK_EVERY_SECONDS", 0.02)
    with Run.create("sweep", SweepConfig(), root=tmp_path, folder=tmp_path / "run", seed=0) as run:
        planned = [
            Planned(Arm(name, "control", {}), 0, folder_of(run, name, 0)) for name in ("often", "always", "fails")
        ]
        failed = arms.go_through(planned, [frozenset({0}), frozenset({1})], run)
    assert [one.arm.name for one in failed] == ["always", "fails"]
    assert (begun.count("often"), begun.count("always"), begun.count("fails")) == (3, 1 + arms.KILLED_AT_MOST, 1)


def test_the_same_command_goes_on_and_another_sweep_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], failure: Callable[..., str]
) -> None:
    pytest.importorskip("gymnasium")
    folder = tmp_path / "sweep"
    settings = [word for setting in SMALL for word in ("--set", setting)]
    command = ["sweep", "control", "--seeds", "2", *settings, "--workers", "1", "--quiet", "--folder", str(folder)]
    began = arms_of(SweepConfig(of="control", settings=SMALL))
    run = Run.create(
        "sweep", SweepConfig(of="control", settings=SMALL, seeds=2, workers=1), root=tmp_path, folder=folder, seed=0
    )
    half = folder_of(run, began[0].name, 0)
    half.mkdir(parents=True)
    finished(run, began[0].name, 1, -5.0)
    (half / "seeds.json").write_text("{}")  # killed while its folder was being made
    run.finish("stopped")
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "over seeds 0, 1" in said and "True return" in said
    config = json.loads((half / "config.json").read_text())
    assert config["steps"] == 400 and config["reward"] == "true"
    assert "nothing is left to resume" in failure(*command)
    assert "holds another sweep: its seeds is 2, not 3" in failure(*[*command[:3], "3", *command[4:]])
    assert "holds a run of control" in failure(*command[:-1], half)


def test_no_more_runs_go_on_at_once_than_fit_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 9999999 kB\nMemAvailable:    2048000 kB\n")
    assert available_mib(tmp_path) == 2000
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text(f"{1000 * 2**20}\n")
    (group / "memory.current").write_text(f"{700 * 2**20}\n")
    (group / "memory.stat").write_text(f"anon 1\ninactive_file {200 * 2**20}\n")
    assert available_mib(tmp_path) == 500
    (group / "memory.max").write_text("max\n")
    assert available_mib(tmp_path) == 2000 and available_mib(tmp_path / "nowhere") is None
    monkeypatch.setattr(sweep, "available_mib", lambda: 2000.0)
    monkeypatch.setattr(sweep, "processors", lambda workers: [frozenset({k}) for k in range(8)])
    assert [len(shares_of(SweepConfig(memory_mib=size))) for size in (0, 100, 600, 5000)] == [8, 8, 3, 1]


def test_methods_are_swept_with_settings_of_their_own() -> None:
    found = words("method=dpo,ppo", "comparisons=100")
    assert found[0] == ("method=dpo", ["--method", "dpo", "--comparisons", "100"]) and found[1][0] == "method=ppo"
    assert words("method=dpo", "dpo.loss=dpo,ipo")[1] == ("dpo.loss=ipo", ["--method", "dpo", "--dpo.loss", "ipo"])
    with pytest.raises(ConfigError, match=r'no field "kl.beta".*swept with that method alone'):
        words("method=dpo,ppo", "kl.beta=0.1")
    with pytest.raises(ConfigError, match=r"--method dpo --dpo\.loss ipo"):
        words("method=ppo,ipo")
    with pytest.raises(ConfigError, match="has one method, its own"):
        words("method=dpo,ppo", of="control")
    asked = Namespace(experiment="reviews", set=["method=dpo,ppo"], seeds=2, seed=0, workers=1, plan=True)
    _, plans = prepared(asked)
    assert set(plans) == {"method=dpo", "method=ppo"}
    assert sum(plans["method=dpo"].seconds.values()) < sum(plans["method=ppo"].seconds.values())


def summed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: SweepConfig, value: Callable[[Planned], dict[str, float]]
) -> Any:
    """Return what a sweep sums up whose runs measured what `value` says."""

    def stand_in(planned: list[Planned], shares: object, run: Run) -> list[Planned]:
        for one in planned:
            with Run.create(
                "reviews", SweepConfig(seed=one.seed), root=run.path, folder=one.folder, seed=one.seed
            ) as made:
                for name, number in value(one).items():
                    made.estimate(name, Estimate(number, number, number, 20))
        return []

    monkeypatch.setattr(sweep, "go_through", stand_in)
    with Run.create("sweep", config, root=tmp_path, folder=tmp_path / "run", seed=0) as run:
        find("sweep")(config, run)
    return read_run(tmp_path / "run").results["arms"]


def test_methods_stand_in_one_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def value(one: Planned) -> dict[str, float]:
        method = one.arm.options["method"]
        return {
            f"{method}_gold_win_rate": 0.6 + (0.1 + 0.001 * one.seed) * (method == "nash_md") + 0.01 * one.seed,
            "base_gold": 0.1,
        }

    config = SweepConfig(of="reviews", settings=("method=ppo,nash_md",), seeds=5)
    found = summed(tmp_path, monkeypatch, config, value)
    assert set(found["measures"]) == {"policy_gold_win_rate", "base_gold"}
    row = found["measures"]["policy_gold_win_rate"]["method=nash_md"]
    assert row["difference"]["value"] == pytest.approx(0.102) and row["told"]
    assert "Policy: gold win rate against base" in write_report([tmp_path / "run"]).read_text(encoding="utf-8")


def test_verdicts_are_raised_for_the_number_of_arms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gap = [0.2, 0.9, 0.4, 1.3, 1.1]  # told by itself: p 0.02

    def value(one: Planned) -> dict[str, float]:
        even = 0.1 * (-1) ** one.seed * (one.arm.name != "lr=1")
        return {"ppo_gold": 3.0 * one.seed + (gap[one.seed] if one.arm.name == "lr=2" else even)}

    config = SweepConfig(of="reviews", settings=("lr=1,2,3,4,5",), seeds=5)
    rows = summed(tmp_path, monkeypatch, config, value)["measures"]["ppo_gold"]
    second = rows["lr=2"]
    assert second["p"] < 0.05 < second["p_of_all"] == pytest.approx(4 * second["p"])
    assert second["difference"]["low"] > 0 and not second["told"] and second["needed"] > 5
    print_summary(tmp_path / "run")
    assert "raised for the 4 arms" in " ".join(capsys.readouterr().out.split())
