"""`backflip run control` and `moving_dot` as a user meets them: estimates, films, a person, and bad input in one line with code 2."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("gymnasium")
from backflip.cli import main
from backflip.data import Judgement
from backflip.experiments import control, moving_dot
from backflip.experiments.control_parts import fresh_policy
from backflip.experiments.teachers import TeachersConfig, arms_of
from backflip.policies.actor_critic import ActorCritic
from backflip.worlds.gym_task import GymTask
from backflip.worlds.mujoco_tasks import Task

DOT = "backflip.worlds.moving_dot:MovingDot-v0"
SMALL = [
    "--quiet", "--steps", "800", "--environments", "4", "--comparisons", "12", "--ask_at_once", "4", "--episodes", "4", "--pairs", "8",
    "--fit.first_steps", "10", "--fit.steps", "5", "--ppo.epochs", "2", "--policy.hidden", "8", "--check_every", "2",
]  # fmt: skip
ROOT = Path(__file__).parent.parent.parent


def run(folder: Path, *options: str, name: str = "control") -> int:
    return main(["run", name, "--folder", str(folder / "run"), *SMALL, *options])


def summary(folder: Path) -> Any:
    return json.loads((folder / "run" / "summary.json").read_text())


def test_any_id_ends_with_estimates_a_policy_and_films(tmp_path: Path) -> None:
    pytest.importorskip("imageio.v2")
    assert run(tmp_path, "--env", DOT, "--films", "1") == 0
    found = summary(tmp_path)["estimates"]
    assert set(found) == {"true_return", "untrained_return", "pair_accuracy"} and found["true_return"]["n"] == 4
    folder = next((tmp_path / "run" / "checkpoints").glob("policy-*"))
    assert ActorCritic.load(folder).actions is not None
    assert len(list((tmp_path / "run" / "videos").glob("*.mp4"))) == 1
    cost = json.loads((tmp_path / "run" / "results" / "cost.json").read_text())
    assert cost["comparisons"] == 12 and cost["judge"] == "synthetic teacher (oracle)"


def test_fast_tasks_take_the_fast_path_unless_something_is_asked_of_them() -> None:
    config = control.ControlConfig(env="Reacher-v5")
    assert isinstance(control.find(config), Task)
    assert control.find(replace(config, horizons=(100,))).horizon == 100
    assert isinstance(control.find(replace(config, options=("reward_dist_weight=2",))), GymTask)


def test_the_fast_path_and_the_true_reward(tmp_path: Path) -> None:
    assert run(tmp_path, "--env", "Reacher-v5", "--clip_seconds", "0.4", "--reward", "true") == 0
    assert set(summary(tmp_path)["estimates"]) == {"true_return", "untrained_return"}


def test_a_teacher_who_always_skips_leaves_the_policy_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backflip.overseers.synthetic import SyntheticTeacher

    monkeypatch.setattr(
        SyntheticTeacher, "judge", lambda self, query: Judgement(query.id, "mute", None, note="skipped")
    )
    assert run(tmp_path, "--env", DOT) == 0
    found = summary(tmp_path)["estimates"]
    assert set(found) == {"true_return", "untrained_return"}
    notes = (tmp_path / "run" / "notes.jsonl").read_text()
    assert "no answer came that could be learned from (or all that came are only measured" in notes
    assert json.loads((tmp_path / "run" / "results" / "cost.json").read_text())["unanswered"] == 12


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--env", "Pendulm-v1"], 'no environment is called "Pendulm-v1"; did you mean "Pendulum-v1"?'),
        (["--comparisons", "0"], "comparisons is 0, expected 1 or more"),
        (["--clip_seconds", "2"], "a clip of 2 s is 60 steps of Pendulum-v1, and rows have 50; expected no more than"),
        (["--env", DOT, "--clip_seconds", "9"], "a clip of 9 s is 90 steps of backflip.worlds.moving_dot:MovingDot-v0, and rows have 50"),
        (["--horizons", "120"], "rows of 50 steps would cross the end of an episode of 120; expected a divisor of it"),
        (["--env", "CartPole-v1", "--clip_seconds", "0.5"], "steps, and an end tells a learner what nobody said; switch ends off"),
        (["--overseer", "people", "--reward", "true"], "a person is not asked where reward is true"),
        (["--overseer", "terminal"], "a person at the terminal is asked only while the run waits; give --wait_seconds 30, or inf"),
        (["--asks", "scores"], "scores are asked of a synthetic teacher, oracle or flipped, whose full_score is above 0; overseer is"),
        (["--asks", "scores", "--full_score", "9", "--teacher", "coin"], "oracle or flipped, whose full_score is above 0"),
        (["--clip_seconds", "-1"], "clip_seconds is -1.0, expected 0 or more; 0 is a clip of one step"),
        (["--beta", "-1"], "beta is -1.0, expected 0 or more"),
        (["--teacher", "skip"], "the teacher skip goes by a tenth of what a usual clip is worth, and clip_return is 0"),
        (["--settle", "1.5"], "settle is 1.5, expected a share from 0 to 1"),
        (["--options", "g"], '"g" is no option of an environment; expected NAME=VALUE, such as g=9.81'),
        (["--env", "Swimmer-v5", "--films", "1"], "Swimmer-v5 cannot be drawn from the side"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_code_2_and_nothing_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    assert run(tmp_path, *options) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and said in lines[0]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("backflip", ["--asks", "scores"], "the backflip's overseers compare; leave asks as it is"),
        ("backflip", ["--clip_seconds", "3"], "a clip of 3 s is 375 steps; expected 2 to row_steps (250)"),
        ("moving_dot", ["--asks", "scores"], "the moving dot's teacher compares; leave asks as it is"),
        ("teachers", ["--task", "Reacher-v5"], "no clip of Reacher-v5 is worth more than 0"),
    ],
)
def test_what_cannot_work_is_refused_before_it_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, options: list[str], said: str
) -> None:
    assert main(["run", name, "--folder", str(tmp_path / "run"), *options]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_skip_and_equal_go_by_what_a_clip_of_the_task_is_worth() -> None:
    def threshold(**options: Any) -> set[str]:
        return {
            arm.options["clip_return"] for arm in arms_of(TeachersConfig(**options)) if arm.name in ("skip", "equal")
        }

    assert threshold() == {"40.0"} and threshold(task="Swimmer-v5") == {"4.0"}
    assert threshold(task="Swimmer-v5", clip_return=7.0) == {"7.0"}


def test_what_has_no_pictures_is_refused_before_a_person_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pygame", None)
    assert run(tmp_path, "--overseer", "terminal", "--wait_seconds", "inf") == 2
    assert "Pendulum-v1 cannot be drawn: pygame is not installed" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_scores_of_single_clips_teach_in_place_of_comparisons(tmp_path: Path) -> None:
    assert run(tmp_path, "--env", DOT, "--asks", "scores", "--full_score", "5") == 0
    with sqlite3.connect(tmp_path / "run" / "store.sqlite") as store:
        assert store.execute("select distinct kind from queries").fetchall() == [("rate",)]
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    fits = [row for row in rows if row["phase"] == "reward"]
    assert fits and fits[-1]["comparisons"] + round(0.1 * 12) == 12 and 0 <= fits[-1]["accuracy"] <= 1


def test_the_moving_dot_compares_three_arms_on_the_same_seeds(tmp_path: Path) -> None:
    assert run(tmp_path, "--seeds", "2", "--films", "0", "--steps", "1600", name="moving_dot") == 0
    found = summary(tmp_path)["estimates"]
    assert {"return_untrained", "return_true", "return_comparisons", "true_return"} <= set(found)
    rows = json.loads((tmp_path / "run" / "results" / "arms.json").read_text())
    assert [row["seed"] for row in rows] == [0, 1]
    assert sorted(path.name for path in (tmp_path / "run" / "arms").iterdir()) == ["comparisons_1", "true_0", "true_1"]


def test_a_fresh_policy_is_that_with_which_a_run_begins() -> None:
    config = moving_dot.MovingDotConfig()
    task = moving_dot.gym_task(moving_dot.NAME)
    truth = moving_dot.GymTruth(task)
    parts = moving_dot.parts_of(task, config, config.policy, None, "?", truth)  # type: ignore[arg-type]
    for one, two in zip(parts.policy.parameters(), fresh_policy(task, config.policy, 0).parameters(), strict=True):
        assert np.array_equal(one.detach().numpy(), two.detach().numpy())


def test_the_environment_of_the_page_really_runs(tmp_path: Path) -> None:
    """The first Python block of docs/control.md is a file of a user's; the command under it is typed as it stands there."""
    page = (ROOT / "docs" / "control.md").read_text(encoding="utf-8")
    source = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0]
    assert len(source.splitlines()) <= 25
    (tmp_path / "balance.py").write_text(source)
    command = next(line.strip() for line in page.splitlines() if "--env balance:Balance-v0" in line)
    options = [*command.split()[5:], *SMALL, "--folder", str(tmp_path / "run")]
    code = [sys.executable, "-m", "backflip", "run", "control", *options]
    done = subprocess.run(code, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "true_return" in summary(tmp_path)["estimates"]
