"""`--plan` of the control experiments: nothing is left behind, work counts in proportion, and arms add up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("gymnasium")
from backflip.cli import main
from backflip.cli.config import parse
from backflip.experiments import ablations, arms_plan, control, find, mujoco
from backflip.experiments.arms import Arm, ArmsConfig
from backflip.experiments.control_plan import SECONDS_A_CLIP_PAIR
from backflip.experiments.mujoco_arms import SETTINGS
from backflip.plan import Plan

SMALL = control.ControlConfig(environments=4, steps=2000, comparisons=20, episodes=2, pairs=4)


def test_a_plan_counts_judgements_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("control", "backflip", "mujoco"):
        options = ["--seeds", "2"] if name == "mujoco" else []
        assert main(["run", name, "--plan", "--folder", str(tmp_path / "run"), *options]) == 0
        said = capsys.readouterr().out
        assert "MiB" in said and "judgements" in said and "about" in said, name
    assert not (tmp_path / "run").exists()


def test_nobody_is_asked_for_the_true_reward_and_a_person_is_given_time() -> None:
    alone = control.plan(replace(SMALL, reward="true"))
    assert alone.comparisons == 0 and "fit" not in alone.seconds and set(alone.seconds) >= {"act", "update"}
    asked = control.plan(replace(SMALL, wait_seconds=30.0, overseer="terminal"))
    assert asked.comparisons == 20 and asked.judge_seconds == 20 * SECONDS_A_CLIP_PAIR
    assert asked.seconds["fit"] > 0 and min(asked.seconds.values()) > 0


def test_arms_add_up_over_seeds_and_are_shared_among_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    def plan(config: control.ControlConfig) -> Plan:
        return Plan({"all": 100.0}, {"act": config.steps / 1000}, config.comparisons, 0.0)

    arms = [Arm("a", "control", {"steps": "1000", "comparisons": "5"}), Arm("b", "control", {"steps": "3000"})]
    monkeypatch.setattr(arms_plan, "find", lambda name: replace(find(name), plan=plan))
    found = arms_plan.arms_plan(arms, ArmsConfig(seeds=4, workers=1))
    assert found.seconds == {"a, 4 seeds": 4.0, "b, 4 seeds": 12.0}
    assert found.comparisons == 4 * (5 + control.ControlConfig().comparisons)
    assert sum(found.memory_mib.values()) == 100.0
    assert [arm.name for arm in mujoco.arms_of(mujoco.MujocoConfig(labels=(350, 700)))] == [
        "true_reward", "labels_350", "labels_700",
    ]  # fmt: skip


def test_an_arm_means_what_the_command_line_makes_of_its_options() -> None:
    for task in SETTINGS:
        for arm in ablations.arms_of(ablations.AblationsConfig(task=task)):
            words = [word for name, value in arm.options.items() for word in (f"--{name}", *value.split())]
            assert arms_plan.config_of(arm, control.ControlConfig) == parse(control.ControlConfig, words, "run"), (
                task,
                arm.name,
            )
