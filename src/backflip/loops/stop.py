"""When a loop stops before its planned end. What was reached by then is kept and measured."""

from __future__ import annotations

from dataclasses import dataclass

from backflip.errors import ConfigError


@dataclass(frozen=True)
class StopRules:
    """When to stop before the planned end; what was reached by then is kept."""

    kl_nats_per_sequence: float = float("inf")
    """Stop improving in a round once the mean KL estimate of a batch passes this."""
    judgements: int | None = None
    """Never ask for more judgements than this, over all rounds."""
    minutes: float = float("inf")
    """Stop improving after this many minutes of the run; the only setting that makes a run depend on the machine."""

    def __post_init__(self) -> None:
        if self.judgements is not None and self.judgements < 1:
            raise ConfigError(f"stop.judgements is {self.judgements}, expected 1 or more, or None for no limit")
        if not self.minutes >= 0:
            raise ConfigError(f"stop.minutes is {self.minutes}, expected 0 or more, or inf for no limit")


def stopped(stats: dict[str, float], rules: StopRules, seconds: float) -> str | None:
    """Return why to stop now, or None; statistics without a KL say nothing of it."""
    kl = stats.get("kl_nats_per_sequence")
    if kl is not None and kl > rules.kl_nats_per_sequence:
        return f"the KL estimate {kl:.2f} passed {rules.kl_nats_per_sequence:g} nats a sequence"
    if seconds > 60 * rules.minutes:
        return f"{rules.minutes:g} minutes are over"
    return None
