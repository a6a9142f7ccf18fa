"""What a comparison of arms will need, from the plans of its runs, and the settings that an arm's options come to.

No experiment. Left out: what one run needs, which its experiment says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from backflip.experiments import find
from backflip.experiments.arms import Arm, ArmsConfig, processors
from backflip.plan import Plan
from backflip.run_config import config_from_json, config_to_json


def arms_plan(arms: Sequence[Arm], config: ArmsConfig) -> Plan:
    """Add up the plans of all runs of `arms`."""
    plans: dict[str, Plan] = {}
    for arm in arms:
        spec = find(arm.experiment)
        assert spec.plan is not None
        plans[arm.name] = spec.plan(config_of(arm, spec.config))
    return added_up(plans, config, len(processors(config.workers)))


def added_up(plans: Mapping[str, Plan], config: ArmsConfig, workers: int) -> Plan:
    """Add up what one run of each arm needs, over the seeds.

    Time is that of the workers side by side, memory that of as many runs as go on at once.
    """
    workers = min(workers, len(plans) * config.seeds)
    largest = max(sum(one.memory_mib.values()) for one in plans.values())
    return Plan(
        memory_mib={f"{workers} runs at once": workers * largest},
        seconds={
            f"{name}, {config.seeds} seeds": config.seeds * sum(one.seconds.values()) / workers
            for name, one in plans.items()
        },
        comparisons=config.seeds * sum(one.comparisons for one in plans.values()),
        judge_seconds=config.seeds * sum(one.judge_seconds for one in plans.values()),
    )


def config_of(arm: Arm, kind: type) -> Any:
    """Return the config that the command line makes of an arm's options.

    Raises:
        ConfigError: a value does not fit its field.
    """
    data = config_to_json(kind())
    for name, text in arm.options.items():
        *above, last = name.split(".")
        inside = data
        for part in above:
            inside = inside[part]
        inside[last] = _read(text, inside[last])
    return config_from_json(kind, data)


def _read(text: str, before: Any) -> Any:
    """Return what an option's words mean, where the field holds `before`."""
    if isinstance(before, list):
        return [_value(word) for word in text.split()]
    if isinstance(before, bool) and not text:
        return True
    return text if isinstance(before, str) else _value(text)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
