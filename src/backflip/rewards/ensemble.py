"""Several reward models as one: each normalised on its own, then averaged (Christiano et al. 2017, sec. 2.2.3), or taken with caution.

The disagreement of the members says where the ensemble is guessing; a cautious rule lets it lower the reward there (Coste et al.
2023, "Reward model ensembles help mitigate overoptimization"). Left out: choosing queries by it.

Shapes: M members, B rows, T decisions.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from backflip.data import Episodes
from backflip.errors import ConfigError, DataError
from backflip.protocols import World
from backflip.rewards.comparisons import Comparison, bootstrap, split
from backflip.rewards.fit import FitConfig, fit
from backflip.rewards.model import Normaliser, SequenceRewardModel, on_last_decision

CARD = "ensemble.json"


@dataclass(frozen=True)
class Mean:
    """The mean of the members."""

    def of(self, score_MB: Tensor) -> Tensor:
        """Return one score a row."""
        return score_MB.mean(0)


@dataclass(frozen=True)
class Worst:
    """What the member says that likes a row least (Coste et al. 2023, worst-case optimisation)."""

    def of(self, score_MB: Tensor) -> Tensor:
        """Return one score a row."""
        return score_MB.amin(0)


@dataclass(frozen=True)
class Uncertain:
    """The mean less a weight times the variance of the members (Coste et al. 2023, uncertainty-weighted optimisation)."""

    weight: float = 1.0
    """Reward taken off for each unit of variance over members; scores have variance 1 on answers of the reference."""

    def __post_init__(self) -> None:
        if not 0 <= self.weight < math.inf:
            raise ConfigError(
                f"ensemble.weight is {self.weight}, expected 0 or more, and finite; below 0 it would reward being unsure"
            )

    def of(self, score_MB: Tensor) -> Tensor:
        """Return one score a row."""
        return score_MB.mean(0) - self.weight * score_MB.var(0, correction=0)


EnsembleRule = Mean | Worst | Uncertain
"""How what the members say of a row becomes its score; with one member all are the same."""


def check_rule(rule: EnsembleRule, members: int) -> None:
    """Refuse a rule that lowers the reward by disagreement where one model is all there is.

    Raises:
        ConfigError: so it is.
    """
    if members == 1 and not isinstance(rule, Mean):
        raise ConfigError(
            f"an ensemble of one never disagrees, so its {type(rule).__name__.lower()} reward is its mean; set --members to 2 or "
            "more, or leave the rule at mean"
        )


class RewardEnsemble:
    """Normalised reward models as one, by a rule; itself a reward model."""

    def __init__(self, models: Sequence[SequenceRewardModel], rule: EnsembleRule | None = None) -> None:
        """Make one reward of `models`, in that order, by `rule` (None: their mean).

        Raises:
            ConfigError: there are none; or a rule that lowers the reward by their disagreement has one model, which never disagrees.
        """
        if not models:
            raise ConfigError("an ensemble needs at least one reward model")
        self.models, self.rule = tuple(models), rule or Mean()
        check_rule(self.rule, len(self.models))

    def __call__(self, episodes: Episodes) -> Tensor:
        """Return the reward_BT by the rule, no gradient."""
        return on_last_decision(self.normalised_B(episodes), episodes)

    def members(self, episodes: Episodes) -> Tensor:
        """Return each member's normalised reward, (M, B, T).

        Raises:
            DataError: a member has no normaliser.
        """
        return torch.stack([on_last_decision(score_B, episodes) for score_B in self.normalised_MB(episodes)])

    def scored(self, episodes: Episodes) -> tuple[Tensor, dict[str, float]]:
        """Return the reward_BT, and what the average hides.

        `raw_mean`: mean score over members and rows, before normalising. `disagreement`: standard deviation over members of
        the normalised score, mean over rows; where it grows, the ensemble is guessing.
        """
        normalised_MB = self.normalised_MB(episodes)
        raw = [
            float(score_B.mean()) * (model.normaliser.std if isinstance(model.normaliser, Normaliser) else 1.0)
            + (model.normaliser.mean if isinstance(model.normaliser, Normaliser) else 0.0)
            for model, score_B in zip(self.models, normalised_MB, strict=True)
        ]
        return on_last_decision(self.rule.of(normalised_MB), episodes), {
            "raw_mean": sum(raw) / len(raw),
            "disagreement": float(normalised_MB.std(0, correction=0).mean()),
        }

    def check_reference(self, reference: str) -> None:
        """Refuse a normaliser that was measured on the answers of another policy than the one with this hash.

        Raises:
            DataError: a member's was, or it has none.
        """
        for number, model in enumerate(self.models):
            if model.normaliser == "none":
                continue
            found = model.normaliser.reference if isinstance(model.normaliser, Normaliser) else None
            if found != reference:
                raise DataError(
                    f"reward model {number} was normalised on policy {found}, not on the reference "
                    f"{reference}: its rewards would not have mean 0 there; call measure_normaliser on the reference's answers"
                )

    def normalised_MB(self, episodes: Episodes) -> Tensor:
        """Return each member's normalised score of every row."""
        return torch.stack([model.normalised_B(episodes) for model in self.models])

    def normalised_B(self, episodes: Episodes) -> Tensor:
        """Return the score of every row by the rule."""
        return self.rule.of(self.normalised_MB(episodes))

    def measure_normaliser(self, episodes: Episodes, reference: str) -> tuple[Normaliser, ...]:
        """Set every member's normaliser from the reference policy's answers, and return them."""
        return tuple(model.measure_normaliser(episodes, reference) for model in self.models)

    def save(self, path: Path, tokenizer: Any = None) -> None:
        """Write one transformers checkpoint a member, all or nothing."""
        from backflip.checkpoint import atomic_folder

        with atomic_folder(path) as folder:
            for number, model in enumerate(self.models):
                model.save(folder / f"member-{number}", tokenizer)
            (folder / CARD).write_text(json.dumps({"members": len(self.models)}))

    @classmethod
    def load(cls, path: str | Path, normaliser: Literal["stored", "none"] = "stored") -> RewardEnsemble:
        """Read an ensemble, or a single reward model (a folder or hub id) as an ensemble of one.

        Raises:
            DataError: a member is missing or half-written.
        """
        card = Path(path) / CARD
        if not card.exists():
            return cls([SequenceRewardModel.load(path, normaliser)])
        try:
            count = int(json.loads(card.read_text())["members"])
        except (json.JSONDecodeError, KeyError, ValueError) as error:
            raise DataError(
                f'{card} is broken ({error}); expected {{"members": number}}: fit the ensemble again'
            ) from error
        return cls([SequenceRewardModel.load(Path(path) / f"member-{number}", normaliser) for number in range(count)])


def fit_ensemble(
    start: Callable[[np.random.Generator], SequenceRewardModel],
    world: World,
    pairs: Sequence[Comparison],
    config: FitConfig,
    rngs: Sequence[np.random.Generator],
    each_epoch: Callable[[int, dict[str, float]], None] | None = None,
) -> Iterator[tuple[SequenceRewardModel, dict[str, float]]]:
    """Fit one member for each generator in `rngs`, on `pairs` or a bootstrap of them, and yield it with its statistics.

    `start` makes a fresh model, its head drawn from the member's generator. One member depends on its own generator
    alone, so a run that saved the first k continues with `rngs[k:]`. Comparisons held out are the same for none: each
    member sets its own prompts aside and never draws from them (Christiano et al. 2017, sec. 2.2.3).
    """
    for number, rng in enumerate(rngs):
        model = start(rng)
        inside, held = split(pairs, config.held_out, rng)
        report = None if each_epoch is None else (lambda stats, number=number: each_epoch(number, stats))
        taught = bootstrap(inside, rng) if config.bootstrap else inside
        yield model, fit(model, world, taught, config, rng, held, report)
