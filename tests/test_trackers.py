"""What a run logs also reaches experiment trackers, through accelerate."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from backflip.errors import ConfigError, MissingExtra
from backflip.run import Run
from backflip.trackers import check_trackers


def test_tensorboard_gets_every_row_under_its_phase(tmp_path: Path) -> None:
    if importlib.util.find_spec("tensorboard") is None:
        pytest.skip("tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with Run.create("toy", {"lr": 0.1, "ppo": {"clip": None}}, root=tmp_path, seed=0, trackers="tensorboard") as run:
        run.log(1, "ppo", loss=0.5)
        run.save_state("one", {})
        run.log(2, "ppo", loss=9.0)
        run.finish("stopped")
    with Run.resume(run.path) as again:
        again.log(2, "ppo", loss=0.25)
        again.log(1, "check", win=0.75)
    events = [file.parent for file in run.path.rglob("events.out.tfevents*")]
    seen: dict[str, list[tuple[int, float]]] = {}
    for folder in sorted(set(events)):
        found = EventAccumulator(str(folder)).Reload()
        tags: Any = found.Tags()["scalars"]
        for tag in tags:
            seen.setdefault(tag, []).extend((event.step, event.value) for event in found.Scalars(tag))
    assert (0, 0.5) in seen["ppo/loss"] and (1, 0.25) in seen["ppo/loss"] and seen["check/win"] == [(2, 0.75)]
    assert (1, 2.0) in seen["ppo/step"]


def test_unknown_and_missing_trackers_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"no tracker 'tensorbored'; expected all, or some of .*tensorboard"):
        check_trackers("tensorbored")
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", lambda: ["wandb", "trackio"])
    with pytest.raises(MissingExtra, match="pip install tensorboard"):
        check_trackers("wandb, TensorBoard")
    assert check_trackers("all") == ["trackio", "wandb"]
