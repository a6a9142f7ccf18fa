"""Send what a run logs to experiment trackers (TensorBoard, Weights & Biases, trackio, ...) through `accelerate`.

The run folder stays the record: a tracker is a copy for looking at. Leaves out everything a tracker cannot show as
a number.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backflip.errors import ConfigError, MissingExtra


def check_trackers(names: str) -> list[str]:
    """Return the trackers in `names` (by commas; or all that are installed). Raises ConfigError (unknown) or MissingExtra."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    known = {str(name) for name in LOGGER_TYPE_TO_CLASS}
    available = {str(name) for name in get_available_trackers()}
    wanted = [name.strip().lower() for name in names.split(",")]
    if wanted == ["all"]:
        return sorted(available)
    for name in wanted:
        if name not in known:
            raise ConfigError(
                f"no tracker {name!r}; expected all, or some of {', '.join(sorted(known))} separated by commas"
            )
        if name not in available:
            raise MissingExtra(f"the tracker {name!r} needs a package that is not installed; run: pip install {name}")
    return wanted


class Trackers:
    """The trackers of one run. A row's number is the step; the phase's own step is sent beside its metrics."""

    def __init__(self, names: str, folder: Path, config: Mapping[str, Any]) -> None:
        """Start each tracker in `names` for the run in `folder`. Raises ConfigError, MissingExtra."""
        from accelerate.state import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        PartialState()  # accelerate's trackers ask it which process may write
        kinds: dict[str, Any] = {str(name): kind for name, kind in LOGGER_TYPE_TO_CLASS.items()}
        self._trackers: list[Any] = []
        for name in check_trackers(names):
            kind = kinds[name]
            tracker = (
                kind(folder.name, logging_dir=str(folder)) if kind.requires_logging_directory else kind(folder.name)
            )
            if hasattr(tracker, "start"):
                tracker.start()
            tracker.store_init_configuration(_flat(config))
            self._trackers.append(tracker)

    def log(self, row: int, step: int, phase: str, metrics: Mapping[str, float]) -> None:
        """Send one logged line."""
        values = {f"{phase}/step": step, **{f"{phase}/{name}": value for name, value in metrics.items()}}
        for tracker in self._trackers:
            tracker.log(values, step=row)

    def close(self) -> None:
        """Finish every tracker."""
        for tracker in self._trackers:
            tracker.finish()


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return settings under dotted names, each a number or text: trackers take no nesting."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value if isinstance(value, bool | int | float | str) else str(value)
    return found
