"""What a finished run of `reviews` has left of the base's variety: its policy and its base are sampled alike and measured alike.

Modes are the first words that the base begins its answers with most often; prompt sensitivity is the mutual information between opening and
the first tokens of the answer. No experiment. Left out: which runs (`collapse`).

Shapes: B answers, T decisions, M modes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from backflip.data import Episodes
from backflip.experiments.arms import checkpoint_of
from backflip.experiments.reviews_answers import held_out_answers, texts
from backflip.loops.parts import stream
from backflip.measures.diversity import WORD, distinct_ratio, entropy_nats
from backflip.measures.kl import kl_nats_per_sequence
from backflip.measures.modes import commonest, effective_modes, modes_covered
from backflip.measures.prompt_information import prompt_information
from backflip.policies.asked import AskedLM, load_asked
from backflip.policies.lm import LMPolicy, load_policy
from backflip.run_record import read_run
from backflip.worlds import reviews
from backflip.worlds.text import TextWorld

FIRST_TOKENS = 4
"""Tokens of an answer that are listened to: whole answers would betray every opening, whatever the policy."""
TEXT_MEASURES = (
    "kl_nats_per_sequence",
    "entropy_nats",
    "distinct2_ratio",
    "modes_covered",
    "effective_modes",
    "modes_share",
    "prompt_information_nats",
)


@dataclass(frozen=True)
class Reference:
    """The base that a run began with, sampled: what its variety was."""

    policy: LMPolicy
    world: TextWorld
    said: list[str]
    kinds: list[Hashable]
    """Its commonest first words: the modes."""
    count_M: NDArray[np.float64]
    measures: dict[str, float]


@dataclass(frozen=True)
class Sampling:
    """How much is sampled."""

    modes: int
    """First words that count as modes."""
    each: int
    """Answers to every held-out opening."""
    listened_to: int
    """Openings between which prompt sensitivity is measured."""


def base_of(folder: Path, how: Sampling) -> Reference:
    """Sample and measure the base of a finished run, with draws that depend on the run's seed alone.

    Raises:
        DataError: the run kept no base.
    """
    record = read_run(folder)
    policy = load_policy(checkpoint_of(folder, "base"))
    openings = reviews.read_openings("test")[: int(record.config.get("held_out") or 0) or None]
    world = TextWorld(openings, policy.tokenizer)
    rows = held_out_answers(world, policy, how.each, stream(int(record.seed or 0), "collapse"))
    said = texts(world.show(rows))
    kinds = commonest([word for text in said if (word := first_word(text))], how.modes)
    count_M = _counts(said, kinds)
    measures = _measures(policy, rows, said, count_M, count_M, how)
    return Reference(
        policy, world, said, kinds, count_M, measures | {"kl_nats_per_sequence": 0.0, "distinct2_ratio": 1.0}
    )


def measure_run(folder: Path, base: Reference, how: Sampling) -> dict[str, float]:
    """Return the measures of a finished run's policy, by the names of TEXT_MEASURES, with the same draws as its base's.

    Raises:
        DataError: the run kept no policy.
    """
    policy = load_asked(checkpoint_of(folder, "policy"))
    rows = held_out_answers(base.world, policy, how.each, stream(int(read_run(folder).seed or 0), "collapse"))
    said = texts(base.world.show(rows))
    return {
        **_measures(policy, rows, said, _counts(said, base.kinds), base.count_M, how),
        "kl_nats_per_sequence": kl_nats_per_sequence(policy, base.policy, rows).value,
        "distinct2_ratio": distinct_ratio(said, base.said).value,
    }


def _measures(
    policy: LMPolicy | AskedLM,
    rows: Episodes,
    said: list[str],
    count_M: NDArray[np.float64],
    base_M: NDArray[np.float64],
    how: Sampling,
) -> dict[str, float]:
    some = bool(count_M.any())
    return {
        "entropy_nats": entropy_nats(policy, rows).value,
        "modes_covered": float(modes_covered(count_M, base_M)) if some else 0.0,
        "effective_modes": effective_modes(count_M) if some else 0.0,
        "modes_share": float(count_M.sum()) / len(said),
        "prompt_information_nats": heard(policy, rows, min(how.listened_to, len(rows) // how.each), how.each),
    }


def first_word(text: str) -> str:
    """Return the first word of an answer, lower case; empty where it has none."""
    found = WORD.search(text.lower())
    return found.group() if found else ""


def heard(policy: LMPolicy | AskedLM, rows: Episodes, prompts: int, each: int) -> float:
    """Return the mutual information between opening and the first FIRST_TOKENS tokens, nats, over the first `prompts` openings.

    `rows`: answers of the policy, `each` to every opening, in order.
    """
    ours = rows.select(range(prompts * each))
    width = min(FIRST_TOKENS, ours.action.shape[1])
    short = Episodes(
        obs=ours.obs,
        action=ours.action[:, :width],
        mask_BT=ours.mask_BT[:, :width],
        logp_BT=None,
        bootstrap_B=ours.bootstrap_B,
        group_B=ours.group_B,
    )
    columns: list[NDArray[np.float64]] = []
    for prompt in range(prompts):
        under = replace(short, obs=short.obs[prompt * each : prompt * each + 1].expand_as(short.obs).clone())
        with torch.no_grad():
            columns.append(policy.evaluate(under).logp_BT.double().sum(1).cpu().numpy())
    return max(0.0, prompt_information(np.stack(columns, 1), np.repeat(np.arange(prompts), each)).value)


def _counts(said: list[str], kinds: Sequence[Hashable]) -> NDArray[np.float64]:
    seen = Counter(map(first_word, said))
    return np.array([seen[str(kind)] for kind in kinds], dtype=np.float64)
