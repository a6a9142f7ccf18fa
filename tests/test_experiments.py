"""What makes an experiment, and what is refused as one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from backflip.errors import ConfigError
from backflip.experiments import experiment, listing


@dataclass(frozen=True)
class Sound:
    seed: int = 0


def work(config: Sound, run: object) -> None:
    """Do nothing."""


def test_an_experiment_is_named_after_its_file_and_called_as_its_function() -> None:
    made = experiment(config=Sound)(work)
    assert (made.name, made.config, made.plan) == (work.__module__.rpartition(".")[2], Sound, None)


@dataclass
class Thawed:
    seed: int = 0


@dataclass(frozen=True)
class Seedless:
    steps: int = 0


@dataclass(frozen=True)
class Needy:
    steps: int
    seed: int = 0


@dataclass(frozen=True)
class Hiding:
    seed: int = 0
    plan: str = ""


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (Thawed, "must be a frozen dataclass"),
        (Seedless, "needs a field `seed: int`"),
        (Needy, "needs a default"),
        (Hiding, "would hide the option --plan"),
    ],
)
def test_a_config_that_cannot_work_is_refused_at_once(config: type[Any], said: str) -> None:
    with pytest.raises(TypeError, match=said):
        experiment(config=config)


def test_listing_reads_files_without_running_them(tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text(
        'raise SystemExit\n@experiment(config=C)\ndef main(c, r):\n    """Do it.\n\n    M."""\n'
    )
    (tmp_path / "shared.py").write_text("x = 1\n")
    assert listing(tmp_path) == {"good": "Do it."}
    (tmp_path / "bad.py").write_text("@experiment(config=C)\ndef main(c, r): ...\n")
    with pytest.raises(ConfigError, match=r"bad\.py must hold one experiment with a docstring"):
        listing(tmp_path)
