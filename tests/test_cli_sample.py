"""`backflip sample`: talking to a policy, with what is known about each answer beside it."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backflip.cli import main
from backflip.cli.sample import load_trained, newest
from backflip.errors import DataError
from backflip.optimise.conditional import TokenInFront
from backflip.policies.asked import AskedLM
from backflip.policies.lm import LMConfig, LMPolicy, load_policy
from backflip.rewards.ensemble import RewardEnsemble
from backflip.rewards.model import SequenceRewardModel
from backflip.run import Run
from backflip.worlds.text import TextWorld

BESIDE = re.compile(r"    \[reward ([+-]\d+\.\d\d), KL (\d+\.\d\d) nats, (\d+) tokens\]")


def moved(policy: LMPolicy, by: float) -> LMPolicy:
    """Move every weight, so that there is a KL to speak of."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in policy.module.parameters():
            weight.add_(by * torch.randn(weight.shape, generator=generator))
    return policy


@pytest.fixture
def trained(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    """A run with a base, two policies of which the later is the trained one, and a reward model."""
    base = load_policy(tiny_checkpoint, LMConfig(max_new_tokens=8))
    rows = TextWorld(["The film", "It"], base.tokenizer).collect(base, 16, np.random.default_rng(0))
    reward = RewardEnsemble([SequenceRewardModel.from_causal_lm(base.module.plain, np.random.default_rng(1))])
    reward.measure_normaliser(rows, base.hash())
    with Run.create("toy", {}, root=tmp_path, seed=0, folder=tmp_path / "run") as run:
        run.checkpoint("base", 0, base.save)
        run.checkpoint("policy", 9, base.save)
        run.checkpoint("policy", 10, moved(load_policy(tiny_checkpoint, LMConfig(max_new_tokens=8)), 0.05).save)
        run.checkpoint("reward_model", 0, lambda folder: reward.save(folder, base.tokenizer))
    return tmp_path / "run"


def talk(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str, *argv: str) -> list[str]:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    assert main(["sample", *argv]) == 0
    return capsys.readouterr().out.splitlines()


def numbers(lines: list[str]) -> list[tuple[float, ...]]:
    return [tuple(map(float, found.groups())) for line in lines if (found := BESIDE.fullmatch(line))]


def test_a_policy_that_was_trained_to_be_asked_for_a_level_is_asked_for_it(
    trained: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = load_policy(tiny_checkpoint, LMConfig(max_new_tokens=8))
    plain = talk(monkeypatch, capsys, "It was\n", str(trained), "--answers", "3")
    with Run.create("toy", {}, root=trained.parent, seed=0, folder=trained.parent / "asked") as run:
        run.checkpoint("base", 0, base.save)
        run.checkpoint("policy", 10, AskedLM(base, TokenInFront((5, 6), 0), 1).save)
    asked = load_trained(trained.parent / "asked").policy
    assert isinstance(asked, AskedLM) and asked.level == 1
    lines = talk(monkeypatch, capsys, "It was\n", str(trained.parent / "asked"), "--answers", "3")
    nats = [float(line.split("KL ")[1].split()[0]) for line in lines if "KL " in line]
    assert len(nats) == 3 and min(nats) > 0, "the same weights, but another prompt than the base reads"
    assert lines != plain


def test_reward_and_kl_stand_beside_each_answer(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = talk(monkeypatch, capsys, "The film\n\nIt was\n", str(trained), "--answers", "3")
    found = numbers(lines)
    assert len(lines) == 2 * len(found) == 12
    assert all(kl > 0 and 1 <= tokens <= 8 for _, kl, tokens in found)
    assert len({reward for reward, _, _ in found}) > 1
    assert lines == talk(monkeypatch, capsys, "The film\nIt was", str(trained), "--answers", "3"), "the seed decides"
    assert lines != talk(monkeypatch, capsys, "The film\nIt was", str(trained), "--answers", "3", "--seed", "1")


def test_nothing_but_answers_is_printed(trained: Path) -> None:
    command = [sys.executable, "-c", "from backflip.cli import main; raise SystemExit(main())", "sample", str(trained)]
    said = subprocess.run(command, input="The film\n", capture_output=True, text=True, check=True)
    assert len(said.stdout.splitlines()) == 2
    assert said.stderr == ""


def test_an_untrained_policy_has_no_kl(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (trained / "checkpoints" / "policy-10").rename(tmp_path / "away")
    found = numbers(talk(monkeypatch, capsys, "The film\n", str(trained), "--answers", "4"))
    assert [kl for _, kl, _ in found] == [0.0] * 4


def test_settings_of_sampling_can_be_changed(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = (str(trained), "--answers", "8", "--max-new-tokens", "3", "--temperature", "0.01")
    lines = talk(monkeypatch, capsys, "The film\n", *argv)
    assert max(tokens for _, _, tokens in numbers(lines)) <= 3
    assert len(set(lines[::2])) == 1, "almost no temperature leaves one answer"


def test_what_is_missing_is_said(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("base-0", "reward_model-0"):
        (trained / "checkpoints" / name).rename(tmp_path / name)
    lines = talk(monkeypatch, capsys, "The film\n", str(trained))
    assert "no reward model, no base to measure from" in lines[1]


def test_a_policy_without_its_settings_is_refused(trained: Path) -> None:
    (trained / "checkpoints" / "policy-10" / "backflip.json").unlink()
    with pytest.raises(DataError, match=r"policy-10 lacks backflip.json"):
        load_trained(trained)


@pytest.mark.parametrize(
    ("argv", "said"), [(["--answers", "0"], "expected 1 or more"), (["--temperature", "0"], "must be above 0")]
)
def test_wrong_settings_are_one_line(
    trained: Path, capsys: pytest.CaptureFixture[str], argv: list[str], said: str
) -> None:
    assert main(["sample", str(trained), *argv]) == 2
    assert said in capsys.readouterr().err


def test_a_run_without_a_policy_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Run.create("toy", {}, root=tmp_path, seed=0, folder=tmp_path / "run"):
        pass
    assert main(["sample", str(tmp_path / "run")]) == 2
    assert "holds no trained policy" in capsys.readouterr().err


def test_what_a_model_wrote_cannot_steer_the_terminal(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole: Any = TextWorld.answer_text
    monkeypatch.setattr(TextWorld, "answer_text", lambda self, tokens: whole(self, tokens) + "\x1b[2J")
    assert "\x1b" not in "\n".join(talk(monkeypatch, capsys, "The film\n", str(trained)))


def test_the_newest_checkpoint_is_that_of_the_highest_step(tmp_path: Path) -> None:
    for name in ("policy-9", "policy-10", "policy-old", "policy_b-99"):
        (tmp_path / name).mkdir()
    assert newest(tmp_path, "policy") == tmp_path / "policy-10"
    assert newest(tmp_path, "base") is None
