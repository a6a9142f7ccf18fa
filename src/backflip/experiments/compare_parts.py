"""Who is compared and what they answered: the final policies of finished runs, on prompts that none of them was trained on.

No experiment. An answer that a run stored is taken as it is; where one is missing it is sampled from the run's checkpoint. Left out: who
judges (`compare`), and what came of it (`measures.head_to_head`).

Shapes: B answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from backflip.data import Estimate
from backflip.errors import ConfigError, DataError
from backflip.experiments.arms import checkpoint_of
from backflip.loops.parts import stream
from backflip.measures.diversity import length_tokens
from backflip.measures.kl import kl_columns
from backflip.run_record import CHECKPOINTS, CONFIG, RunRecord, names_of, read_run
from backflip.worlds.prompts import Prompt, read_prompts
from backflip.worlds.text import TextWorld, answer, pad_left

if TYPE_CHECKING:
    from backflip.policies.lm import LMPolicy

POLICY, BASE = "policy", "base"
"""Series of checkpoints: what is compared, and what it was trained from."""
SAME_TRUTH = ("env", "options", "ends", "horizons", "judged_by", "task")
"""Settings on which what a return means rests."""


@dataclass(frozen=True)
class Contestant:
    """One policy that is compared."""

    name: str
    record: RunRecord
    series: str = POLICY

    @property
    def author(self) -> str:
        """Who stands as the author of its answers: nobody who judges is shown it."""
        return f"{self.record.command.get('id', self.record.path)}:{self.series}"

    @property
    def seed(self) -> int | None:
        """Its run's seed."""
        return self.record.seed

    def stored(self) -> dict[str, str]:
        """Return the answers that the run stored, by prompt: the trained policy's, which go by the method's name, or the base's.

        Best of n may stand behind it in a row, and is another policy.
        """
        found: dict[str, str] = {}
        method = str(self.record.config.get("method") or "ppo")
        for row in self.record.samples:
            prompt = row.get("prompt")
            answers = {key: text for key, text in row.items() if key != "prompt" and isinstance(text, str)}
            trained = method if method in answers else next(reversed(answers), BASE)
            key = BASE if self.series == BASE else trained
            if isinstance(prompt, str) and key in answers and (key != BASE or self.series == BASE):
                found[prompt] = answers[key]
        return found

    def returns(self) -> list[float]:
        """Return what the policy's unseen episodes were worth by the truth; empty where the run did not measure that."""
        rows = self.record.results.get("episodes")
        if not isinstance(rows, list):
            return []
        return [float(row["true_return"]) for row in rows if isinstance(row, dict) and "true_return" in row]

    def row(self) -> Mapping[str, Any]:
        """Return the policy's row of the run's table of results; empty where there is none."""
        rows = self.record.results.get("table")
        found = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
        return (found[0] if self.series == BASE else found[-1]) if found else {}


@dataclass(frozen=True)
class Answered:
    """The prompts, and what every contestant answered to each."""

    prompts: list[str]
    answers: list[dict[str, str]]
    sampled: list[int]
    """How many answers of each were sampled anew."""
    measured: list[dict[str, Estimate]] = field(default_factory=list[dict[str, Estimate]])
    """KL and length of those that were sampled anew, all of them; empty for the others."""


def contestants(paths: Sequence[Path], *, base: bool) -> list[Contestant]:
    """Return the policies of these runs (of a sweep: all of its runs), and (`base`) the one that the first was trained from.

    Raises:
        DataError: a folder is no run, is not finished, trained no policy, or its settings cannot be read.
        ConfigError: fewer than two runs, one twice, or runs that nothing common could judge.
    """
    records = [read_run(path) for given in paths for path in _runs_of(given)]
    places = [record.path for record in records]
    if twice := [place for place in places if places.count(place) > 1]:
        raise ConfigError(f"run {twice[0]} is given twice; a policy against itself is a coin")
    if len(records) < 2 and not (base and records):
        what = "one run" if records else "no run"
        raise ConfigError(f"{what} given, expected two or more; for one run and the policy it began with give --base")
    for record in records:
        if record.status != "done":
            go_on = f"backflip run --resume {record.path}"
            raise DataError(f"{record.path} is not finished (status: {record.status}); let it finish: {go_on}")
        if not record.config:
            broken = next((fault for fault in record.faults if fault.startswith(CONFIG)), f"{CONFIG} holds no settings")
            raise DataError(
                f"{record.path}: {broken}; without its settings nobody knows which answers are its policy's: restore the file from a copy"
            )
    first = records[0]
    for record in records[1:]:
        if record.experiment != first.experiment:
            raise ConfigError(
                f"{first.path.name} is a run of {first.experiment} and {record.path.name} of {record.experiment}: no judge is common to "
                "both; compare runs of one experiment"
            )
        for name in SAME_TRUTH:
            ours, theirs = first.config.get(name), record.config.get(name)
            if ours != theirs and (first.results.get("episodes") or record.results.get("episodes")):
                raise ConfigError(
                    f"{first.path.name} has {name} {ours} and {record.path.name} {theirs}: their returns are not of one kind; compare "
                    "runs of one task"
                )
    found = [Contestant(name, record) for name, record in zip(names_of(places), records, strict=True)]
    for one in found:
        if not one.returns() and not one.stored() and not _has(one, POLICY):
            raise DataError(f"{one.record.path} holds no trained policy, no answers and no returns: nothing to compare")
    return [*found, Contestant(f"base of {found[0].name}", first, BASE)] if base else found


def unread(found: Sequence[Contestant]) -> list[str]:
    """Return a line for everything in the runs' folders that could not be read; what rests on it is left out of a comparison."""
    places = dict.fromkeys(one.record.path for one in found)
    records = {one.record.path: one.record for one in found}
    return [f"{place.name}: could not be read: {fault}" for place in places for fault in records[place].faults]


def _runs_of(path: Path) -> list[Path]:
    """Return the runs of all arms where a folder is a sweep or a comparison of arms, else the folder itself."""
    within = [config.parent for config in sorted(Path(path).glob("arms/*/*/config.json"))]
    return within or [Path(path)]


def arms_of(found: Sequence[Contestant]) -> list[list[int]]:
    """Put runs together that were set up alike but for the seed; each run is in one."""
    known: list[tuple[tuple[str, Any], list[int]]] = []
    for place, one in enumerate(found):
        mark = (one.series, {name: value for name, value in one.record.config.items() if name != "seed"})
        for other, members in known:
            if other == mark:
                members.append(place)
                break
        else:
            known.append((mark, [place]))
    return [members for _, members in known]


def arm_names(found: Sequence[Contestant], arms: Sequence[Sequence[int]]) -> list[str]:
    """Name each arm by the folder that holds its runs, where that says which; else by its first run."""
    firsts = [found[arm[0]] for arm in arms]
    above = [one.record.path.parent.name for one in firsts if one.series != BASE]
    names: list[str] = []
    for one, arm in zip(firsts, arms, strict=True):
        parent = one.record.path.parent.name
        names.append(parent if len(arm) > 1 and above.count(parent) == 1 else one.name)
    return names


def answered(found: Sequence[Contestant], prompts: Path | None, limit: int, seed: int) -> Answered:
    """Return all answers to the same prompts: those of a file, or those that nobody was trained on and runs stored answers to.

    Raises:
        DataError: there are fewer than two prompts in common, or an answer is missing and there is no checkpoint to sample it from.
    """
    rng = stream(seed, "prompts")
    if prompts is not None:
        texts = read_prompts(prompts)
        texts = [texts[k] for k in sorted(rng.permutation(len(texts))[: limit or None])]
        return _sampled(found, texts, seed)
    stored = [one.stored() for one in found]
    holding = [answers for answers in stored if answers]
    if not holding:
        raise DataError(
            "none of these runs stored answers to held-out prompts; give prompts of your own: --prompts FILE"
        )
    shared = [prompt for prompt in holding[0] if all(prompt in answers for answers in holding)]
    if len(shared) < 2:
        raise DataError(
            f"these runs stored answers to {len(shared)} held-out prompts in common, expected two or more; give prompts that none of them "
            "was trained on: --prompts FILE"
        )
    shared = [shared[k] for k in sorted(rng.permutation(len(shared))[: limit or None])]
    missing = [place for place, answers in enumerate(stored) if not answers]
    anew = _sampled([found[place] for place in missing], [Prompt(text) for text in shared], seed, chat=False)
    answers = [{prompt: one.get(prompt, "") for prompt in shared} for one in stored]
    measured: list[dict[str, Estimate]] = [{} for _ in found]
    for place, new, nats in zip(missing, anew.answers, anew.measured, strict=True):
        answers[place], measured[place] = new, nats
    return Answered(shared, answers, [len(shared) * (place in missing) for place in range(len(found))], measured)


def _sampled(found: Sequence[Contestant], prompts: Sequence[Prompt], seed: int, *, chat: bool = True) -> Answered:
    """Let every contestant answer every prompt once, by its checkpoint, at the temperature it was trained at."""
    from backflip.policies.best_of import load_used
    from backflip.policies.lm import load_policy

    answers: list[dict[str, str]] = []
    measured: list[dict[str, Estimate]] = []
    texts = [prompt.text for prompt in prompts]
    for one in found:
        policy = load_used(_checkpoint(one, one.series))
        world = TextWorld(prompts, policy.tokenizer, chat=chat)
        rows = answer(
            policy, pad_left(world.tokens), torch.arange(len(texts)), stream(seed, f"answers of {one.author}")
        )
        answers.append({text: item.content for text, item in zip(texts, world.show(rows), strict=True)})
        nats = {"length_tokens": length_tokens(rows)}
        if one.series == BASE:
            nats["kl_nats_per_sequence"] = Estimate(0.0, 0.0, 0.0, len(texts))
        elif _has(one, BASE):
            base: LMPolicy = load_policy(_checkpoint(one, BASE), policy.config)
            nats |= kl_columns(policy, base, rows)
        measured.append(nats)
    return Answered(texts, answers, [len(texts)] * len(found), measured)


def _has(one: Contestant, series: str) -> bool:
    return any((one.record.path / CHECKPOINTS).glob(f"{series}-*/backflip.json"))


def _checkpoint(one: Contestant, series: str) -> Path:
    if not _has(one, series):
        raise DataError(
            f"{one.record.path} holds no checkpoint of a language model to sample the answers of its {series} from; restore it from a copy"
        )
    return checkpoint_of(one.record.path, series)
