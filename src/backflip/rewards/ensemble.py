"""Several reward models as one: each normalised on its own, then averaged (Christiano et al. 2017, sec. 2.2.3).

The disagreement of the members says where the ensemble is guessing. Left out: choosing queries by it.

Shapes: M members, B rows, T decisions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
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


class RewardEnsemble:
    """The mean of normalised reward models; itself a reward model."""

    def __init__(self, models: Sequence[SequenceRewardModel]) -> None:
        """Average `models`, in that order.

        Raises:
            ConfigError: there are none.
        """
        if not models:
            raise ConfigError("an ensemble needs at least one reward model")
        self.models = tuple(models)

    def __call__(self, episodes: Episodes) -> Tensor:
        """Return the mean over members of their normalised reward_BT, no gradient."""
        return self.members(episodes).mean(0)

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
        return on_last_decision(normalised_MB.mean(0), episodes), {
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
        """Return the mean over members of their normalised scores."""
        return self.normalised_MB(episodes).mean(0)

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
