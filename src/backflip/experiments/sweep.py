"""An experiment under every combination of some settings, each over the same seeds, side by side: `backflip sweep` starts it.

Each run is a whole run folder, `RUN/arms/ARM/seed_K`. What runs came to stands in one table over seeds: mean, worst, best, and the
difference from the first arm seed by seed. Runs that fail are named at the end; what the others came to is written first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from backflip.errors import ConfigError, DataError
from backflip.experiments import METHOD, experiment, find, nearest
from backflip.experiments.arms import Arm, ArmsConfig, Planned, go_through, planned_runs, processors
from backflip.measures.seeds import OverSeeds, SeedDifference, arm_differences, higher_is_better, over_seeds, varying
from backflip.memory import available_mib
from backflip.run_record import read_run

if TYPE_CHECKING:
    from backflip.run import Run

POLICY = "policy"
"""How the measures of the policy that a run trained begin where arms have unlike methods, each of which names them after itself."""
PLAIN = "as_is"
"""The arm of a sweep that has no other."""
LEFT_FREE = 0.1
"""Share of the free memory that is left to others."""


@dataclass(frozen=True)
class SweepConfig(ArmsConfig):
    """Settings of a sweep."""

    of: str = ""
    """Experiment that is run. Required."""
    settings: tuple[str, ...] = ()
    """NAME=VALUE,VALUE,...: an arm for every combination. A value of several words is several values; a choice of type is spelled
    kl=fixed_kl,adaptive_kl."""
    memory_mib: float = 0.0
    """What one run needs, by its plan; no more are begun at once than fit into free memory. 0: nobody knows."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.memory_mib >= 0:
            raise ConfigError(f"memory_mib is {self.memory_mib}, expected 0 or more")


@experiment(config=SweepConfig)
def main(config: SweepConfig, run: Run) -> None:
    """Sweep an experiment over settings and seeds, side by side, and sum up over seeds (`backflip sweep`)."""
    arms = arms_of(config)
    shares = shares_of(config)
    planned = planned_runs(arms, config, run)
    failed = go_through(planned, shares, run)
    write_summary(arms, planned, failed, run)
    if failed:
        said = "; ".join(f"{one.name}: {one.last_words()}" for one in failed)
        raise DataError(
            f"{len(failed)} of {len(planned)} runs failed, the others are kept and summed up ({said}); mend the cause and go on with: "
            f"backflip run --resume {run.path}"
        )


def arms_of(config: SweepConfig) -> list[Arm]:
    """Return the arms of a sweep: every combination of the values, the last setting's changing fastest.

    Where methods are swept, each arm has the settings of its own method.

    Raises:
        ConfigError: there is no such experiment or setting, or not with an arm's method; a setting names no value, one twice, or itself stands twice.
    """
    if not config.of:
        raise ConfigError(
            "a sweep needs the name of an experiment; e.g. backflip sweep reviews --seeds 3 --set kl.beta=0.02,0.05"
        )
    spec = find(config.of)
    if issubclass(spec.config, ArmsConfig):
        raise ConfigError(f'"{config.of}" has arms and seeds of its own; run it by itself: backflip run {config.of}')
    columns = [_column(text) for text in config.settings]
    names, several = [name for name, _ in columns], {name for name, values in columns if len(values) > 1}
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f'"{twice[0]}" is set twice; give all of its values at once: {twice[0]}=VALUE,VALUE')
    arms: list[Arm] = []
    for values in product(*(values for _, values in columns)):
        chosen = list(zip(names, values, strict=True))
        kind = spec.config_of(dict(chosen).get(METHOD))
        words = dict(_option(kind, name, value, several=METHOD in several) for name, value in chosen)
        arms.append(Arm(_folder_name([one for one in chosen if one[0] in several]), config.of, words))
    folders = [arm.name for arm in arms]
    if alike := [name for name in folders if folders.count(name) > 1]:
        raise ConfigError(f'two arms would be called "{alike[0]}"; give values that differ in letters and digits')
    return arms


def shares_of(config: SweepConfig) -> list[frozenset[int]]:
    """Return the processors of each run that goes on at once: one each, and no more runs than free memory holds."""
    shares = processors(config.workers)
    free = available_mib()
    if config.memory_mib and free is not None:
        shares = shares[: max(1, int(free * (1 - LEFT_FREE) / config.memory_mib))]
    return shares


def write_summary(arms: Sequence[Arm], planned: Sequence[Planned], failed: Sequence[Planned], run: Run) -> None:
    """Write what the finished runs came to over seeds, and which failed."""
    held: dict[str, dict[str, dict[int, float]]] = {}
    methods = len({arm.options.get(METHOD) for arm in arms})
    for one in planned:
        if one in failed:
            run.note(f"{one.name} failed: {one.last_words()}")
            continue
        for name, estimate in dict(read_run(one.folder).summary.get("estimates", {})).items():
            name = _common_name(name, one.arm.options.get(METHOD)) if methods > 1 else name
            held.setdefault(name, {}).setdefault(one.arm.name, {})[one.seed] = float(estimate["value"])
    first = arms[0].name
    measures = {name: _measure(name, by_arm, first) for name, by_arm in held.items()}
    for name in varying(measures):
        for arm, row in measures[name].items():
            run.estimate(f"{arm}: {name}", row["mean"])
    if measures:
        run.note(outcome(measures, first))
    run.result(
        "arms",
        {
            "first": first,
            "seeds": sorted({one.seed for one in planned}),
            "settings": {arm.name: dict(arm.options) for arm in arms},
            "measures": measures,
            "failed": [{"run": one.name, "said": one.last_words()} for one in failed],
        },
    )


def _measure(name: str, by_arm: Mapping[str, Mapping[int, float]], first: str) -> dict[str, dict[str, Any]]:
    """Return one measure's row of every arm as plain data."""
    gaps = arm_differences(by_arm.get(first, {}), {arm: values for arm, values in by_arm.items() if arm != first})
    return {arm: _row(over_seeds(values, name), name, gaps.get(arm)) for arm, values in by_arm.items()}


def _common_name(name: str, method: str | None) -> str:
    """Return what a method's measure is called beside those of other methods: `dpo_gold` and `ppo_gold` are one measure."""
    return POLICY + name.removeprefix(str(method)) if name.startswith(f"{method}_") else name


def _row(found: OverSeeds, name: str, gap: SeedDifference | None) -> dict[str, Any]:
    better = higher_is_better(name)
    row: dict[str, Any] = {"mean": found.mean, "lowest": found.lowest, "highest": found.highest}
    if better is not None:
        row |= {"worst": found.lowest if better else found.highest, "best": found.highest if better else found.lowest}
    if gap is not None:
        row |= {
            "difference": gap.difference,
            "p": gap.p,
            "p_of_all": gap.p_of_all,
            "needed": gap.needed,
            "told": gap.told,
        }
    return row | {"values": {str(seed): value for seed, value in found.values.items()}}


def outcome(measures: Mapping[str, Mapping[str, Mapping[str, Any]]], first: str) -> str:
    """Say in a sentence what the measure that is read first came to in every arm, and whether the seeds tell arms apart."""
    name = next(iter(varying(measures)), None)
    if name is None:
        return "no measure differs between the runs"
    by_arm = measures[name]
    said = [
        f"{arm} {row['mean'].value:.3g} ({row['lowest']:.3g} to {row['highest']:.3g})" for arm, row in by_arm.items()
    ]
    told = [arm for arm, row in by_arm.items() if row.get("told")]
    compared = [arm for arm, row in by_arm.items() if "told" in row]
    verdict = ""
    if compared:
        verdict = f"; told from {first}: {', '.join(told)}" if told else f"; these seeds tell none of them from {first}"
    return f"{name.replace('_', ' ')}, mean over seeds (worst or lowest to best or highest): {', '.join(said)}{verdict}"


def _column(text: str) -> tuple[str, list[str]]:
    name, equals, rest = text.partition("=")
    name = name.strip().lstrip("-").replace("-", "_")
    values = [value.strip() for value in rest.split(",")]
    if not equals or not name or not all(values):
        raise ConfigError(f'cannot read the setting "{text}"; expected NAME=VALUE,VALUE, e.g. kl.beta=0.02,0.05')
    if len(set(values)) < len(values):
        raise ConfigError(f'"{text}" names a value twice; expected each once')
    if name == "seed":
        raise ConfigError("seeds are swept by --seeds N, from --seed on; leave seed out of --set")
    return name, values


def types_of(kind: type[Any], name: str) -> list[Any]:
    """Return the types that a dotted setting may have, in every type of configuration that may stand there; none: there is no such setting."""
    head, _, rest = name.partition(".")
    found: list[Any] = []
    if head in {spec.name for spec in fields(kind)}:
        hint = get_type_hints(kind)[head]
        parts = [part for part in (hint, *get_args(hint)) if is_dataclass(part)]
        if not rest:
            return [hint]
        for part in parts:
            found += types_of(part, rest)  # pyright: ignore[reportArgumentType] a type, not an instance
    return found


def _names(kind: type[Any], prefix: str = "") -> list[str]:
    hints = get_type_hints(kind)
    found: list[str] = []
    for spec in fields(kind):
        found.append(prefix + spec.name)
        for part in (hints[spec.name], *get_args(hints[spec.name])):
            if is_dataclass(part):
                found += _names(part, f"{prefix}{spec.name}.")  # pyright: ignore[reportArgumentType] a type, not an instance
    return found


def _option(kind: type[Any], name: str, value: str, *, several: bool) -> tuple[str, str]:
    """Return a setting as `Arm.options` holds it: a choice of type with its colon, yes or no as a flag."""
    hints = types_of(kind, name)
    if not hints:
        alone = "; what one method alone has is swept with that method alone" if several else ""
        raise ConfigError(
            f'no field "{name}" in {kind.__name__}; {nearest(name, _names(kind)) or "see --help of its run"}{alone}'
        )
    hint = hints[0]
    if is_dataclass(hint):
        raise ConfigError(f'"{name}" is a group of settings; set one of them, such as {name}.{fields(hint)[0].name}')
    if any(is_dataclass(part) for part in get_args(hint)):
        return f"{name}:", value
    if hint is bool:
        if value.lower() not in ("true", "false"):
            raise ConfigError(f'"{name}" is {value!r}; expected true or false')
        group, dot, last = name.rpartition(".")
        return (name if value.lower() == "true" else f"{group}{dot}no_{last}"), ""
    return name, value


def _folder_name(chosen: Sequence[tuple[str, str]]) -> str:
    """Return a name for an arm that can also name a folder: what is set otherwise than in other arms."""
    words = ",".join(f"{name}={value}" for name, value in chosen) or PLAIN
    return re.sub(r"[^A-Za-z0-9_.,=+-]+", "_", words)
