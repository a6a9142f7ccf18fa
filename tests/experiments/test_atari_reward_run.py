"""The reward model on Atari, small: a whole run, and one that was stopped between two fits and resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from backflip.errors import ConfigError
from backflip.experiments.atari_reward import AtariRewardConfig, main
from backflip.rewards.clips import ClipFit
from backflip.rewards.pixels import PixelFitConfig
from backflip.run import Run

pytest.importorskip("ale_py")
pytest.importorskip("imageio")

SMALL = AtariRewardConfig(
    decisions=240,
    comparisons=16,
    held_out_comparisons=16,
    rounds=2,
    fit=PixelFitConfig(members=2, filters=2, hidden=4, first_steps=3, steps=3, batch=4, every=4),
)


def results(folder: Path) -> dict[str, Any]:
    return {
        "estimates": json.loads((folder / "summary.json").read_text())["estimates"],
        **{name: json.loads((folder / "results" / f"{name}.json").read_text()) for name in ("reward_model", "clips")},
    }


def test_a_run_that_was_stopped_ends_as_if_nobody_had_disturbed_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Run.create("atari_reward", SMALL, root=tmp_path, seed=0, folder=tmp_path / "whole") as run:
        main(SMALL, run)
    whole = results(tmp_path / "whole")
    assert whole["estimates"]["clip_correlation"]["n"] == 32
    assert set(whole["reward_model"]["baselines"]) == {"majority", "brightness", "mean_picture", "motion"}
    assert sum(whole["clips"]["points"].values()) == 32 and "-1" in whole["clips"]["points"]
    films = sorted(path.name for path in (tmp_path / "whole" / "videos").iterdir())
    assert len(films) == 3 and films[0].startswith("held-out_pair_1,_teacher_")

    plain = ClipFit.__call__

    def stopped(fit: ClipFit, *args: Any) -> dict[str, float]:
        if fit.fits == 1:
            raise KeyboardInterrupt
        return plain(fit, *args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ClipFit, "__call__", stopped)
        with Run.create("atari_reward", SMALL, root=tmp_path, seed=0, folder=tmp_path / "stopped") as run:
            main(SMALL, run)
    with Run.resume(tmp_path / "stopped") as run:
        assert run.load_state()["fit"]["fits"] == 1
        main(SMALL, run)
    assert results(tmp_path / "stopped") == whole


def test_settings_that_cannot_work_are_one_line() -> None:
    with pytest.raises(ConfigError, match="at least four clips of 25"):
        AtariRewardConfig(decisions=90)
    with pytest.raises(ConfigError, match="rounds is 0"):
        AtariRewardConfig(rounds=0)
