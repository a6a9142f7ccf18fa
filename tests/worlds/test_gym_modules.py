"""`MODULE:ID` where the module is at fault: one line that says which, and why."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("gymnasium")
from backflip.errors import ConfigError
from backflip.worlds.gym_task import gym_task


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise ValueError('no licence')", "badmodule:X-v0 cannot be made so: ValueError: no licence"),
        (
            "import notinstalledatall",
            "badmodule:X-v0 cannot be made so: it imports notinstalledatall, which is not installed",
        ),
        ("raise SystemExit(0)", "badmodule:X-v0 cannot be made so: SystemExit: 0"),
        ("def :", "badmodule:X-v0 cannot be made so: SyntaxError"),
    ],
)
def test_a_module_that_cannot_be_imported_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, said: str
) -> None:
    (tmp_path / "badmodule.py").write_text(body)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError) as told:
        gym_task("badmodule:X-v0")
    assert str(told.value).startswith(said) and "\n" not in str(told.value)
