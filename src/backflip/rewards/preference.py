"""Preferences that no score need express: a model of them, a plain function, and the preference of a score.

The model says of each answer a score and pairs of numbers, and prefers a to b with log-odds f(a, b) - f(b, a), f(a, b) = s(a) + u(a) . w(b)
(Zhang et al. 2024, "Beyond Bradley-Terry models", section 4): antisymmetric whatever its weights, Bradley-Terry where u and w are 0, and with
pairs enough any table. Every answer is read once, however many it meets. Left out: the fit (`fit`), and what a policy makes of it (`optimise.nash_md`).

Shapes: B rows, K = 1 + 2 * pairs numbers said of a row, M members, R distinct rows, L tokens.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from backflip.data import Episodes, concat
from backflip.errors import ConfigError, DataError
from backflip.protocols import RewardModel, World
from backflip.rewards.comparisons import Comparison, bootstrap, split
from backflip.rewards.fit import FitConfig, fit
from backflip.rewards.model import SequenceRewardModel

CARD = "preference.json"
SMALL = 0.3
"""Size of the drawn pairs beside a drawn score: their product is what counts, and it must begin near 0 but not at it, where it would stay."""


class PreferenceModel(SequenceRewardModel):
    """A Hugging Face sequence classifier of 1 + 2 * pairs labels: a score, then u and w by turns."""

    called, labels_wanted = "preference model", "an odd number of labels, 3 or more"

    @staticmethod
    def reads(labels: int) -> bool:
        """Return whether a classifier of so many labels is one of these."""
        return labels >= 3 and labels % 2 == 1

    @classmethod
    def widened(cls, reward: SequenceRewardModel, rng: np.random.Generator, pairs: int) -> PreferenceModel:
        """Return a reward model, which is used up, with `pairs` pairs of numbers drawn beside its score.

        Raises:
            ConfigError: `pairs` is below 1.
        """
        if pairs < 1:
            raise ConfigError(f"pairs is {pairs}, expected 1 or more: without any, the preference is a reward model's")
        module = reward.module
        old = module.score
        head = nn.Linear(old.in_features, 1 + 2 * pairs, bias=False, device=old.weight.device)
        draw = SMALL * rng.standard_normal(head.weight.shape) / np.sqrt(old.in_features + 1)
        with torch.no_grad():
            head.weight.copy_(torch.from_numpy(draw))
            head.weight[0] = old.weight[0]
        module.score = head
        module.num_labels = module.config.num_labels = 1 + 2 * pairs
        return cls(module)

    def lead_B(self, first_BK: Tensor, second_BK: Tensor) -> Tensor:
        """Return the log-odds that the first is preferred, from what `said_BK` says of both; swapped, exactly its negative."""
        turn_B = (first_BK[:, 1::2] * second_BK[:, 2::2]).sum(1) - (second_BK[:, 1::2] * first_BK[:, 2::2]).sum(1)
        return first_BK[:, 0] - second_BK[:, 0] + turn_B


class PreferenceEnsemble:
    """Preference models as one: the mean of their probabilities."""

    def __init__(self, models: Sequence[PreferenceModel]) -> None:
        """Make one preference of `models`. Raises ConfigError where there are none."""
        if not models:
            raise ConfigError("an ensemble needs at least one preference model")
        self.models = tuple(models)

    def __call__(self, episodes: Episodes, rivals: Episodes) -> Tensor:
        """Return the probability that each row is preferred to its rival, float64 (B,), no gradient.

        Raises:
            DataError: not as many rivals as rows.
        """
        return torch.sigmoid(self.lead_MB(episodes, rivals).double()).mean(0)

    def lead_MB(self, episodes: Episodes, rivals: Episodes) -> Tensor:
        """Return each member's log-odds, (M, B); a row that meets several rivals is read once. Errors are those of `distinct`."""
        rows, ours_B, theirs_B = distinct(episodes, rivals)
        found: list[Tensor] = []
        for model in self.models:
            said_RK = model.said_BK(rows)
            found.append(model.lead_B(said_RK[ours_B], said_RK[theirs_B]))
        return torch.stack(found)

    def save(self, path: Path, tokenizer: Any = None) -> None:
        """Write one transformers checkpoint a member, all or nothing."""
        from backflip.checkpoint import atomic_folder

        with atomic_folder(path) as folder:
            for number, model in enumerate(self.models):
                model.save(folder / f"member-{number}", tokenizer)
            (folder / CARD).write_text(json.dumps({"members": len(self.models)}))

    @classmethod
    def load(cls, path: Path) -> PreferenceEnsemble:
        """Read what `save` wrote.

        Raises:
            DataError: it is missing or half-written.
        """
        try:
            count = int(json.loads((path / CARD).read_text())["members"])
        except (OSError, json.JSONDecodeError, KeyError, ValueError) as error:
            raise DataError(f"{path} holds no preference model ({error}); fit it again") from error
        return cls([PreferenceModel.load(path / f"member-{number}") for number in range(count)])


def fit_preferences(
    start: Callable[[np.random.Generator], PreferenceModel],
    world: World,
    pairs: Sequence[Comparison],
    config: FitConfig,
    rngs: Sequence[np.random.Generator],
    each_epoch: Callable[[int, dict[str, float]], None],
) -> Iterator[tuple[PreferenceModel, dict[str, float]]]:
    """Fit one model for each generator, as `ensemble.fit_ensemble` fits rewards, and yield it with its statistics.

    The loss is the cross-entropy of the log-odds, so it is Bradley-Terry's where they are a difference of scores, and the fit begins there: the
    head's score is the Bradley-Terry optimum on the features as they are (`fit.probe_l2`).
    """
    for number, rng in enumerate(rngs):
        model = start(rng)
        inside, held = split(pairs, config.held_out, rng)
        taught = bootstrap(inside, rng) if config.bootstrap else inside
        yield (
            model,
            fit(model, world, taught, config, rng, held, lambda stats, number=number: each_epoch(number, stats)),
        )


class FunctionPreference:
    """A function `(prompt, a, b) -> probability that a is better` as a preference, asked in both orders."""

    def __init__(
        self, function: Callable[[str, str, str], float | None], world: World, name: str | None = None
    ) -> None:
        """Ask `function` about what `world` shows of rows. Errors call it `name`.

        P(a, b) is the mean of what it says to (a, b) and of 1 less what it says to (b, a), so that a liking for one place is none for an answer.
        """
        self._function, self._world = function, world
        self._name = name or getattr(function, "__name__", type(function).__name__)

    def __call__(self, episodes: Episodes, rivals: Episodes) -> Tensor:
        """Return the probability that each row is preferred to its rival, (B,). The same question is put once.

        Raises:
            DataError: the function raised, returned None (it could not judge) or no probability; both answers are named.
        """
        said: dict[tuple[str, str, str], float] = {}
        found: list[float] = []
        for row, (ours, theirs) in enumerate(zip(self._world.show(episodes), self._world.show(rivals), strict=True)):
            orders = [(ours.prompt, ours.content, theirs.content), (ours.prompt, theirs.content, ours.content)]
            for order in orders:
                if order not in said:
                    said[order] = self._ask(order, row)
            found.append((said[orders[0]] + 1 - said[orders[1]]) / 2)
        return torch.tensor(found, dtype=torch.float64)

    def _ask(self, order: tuple[str, str, str], row: int) -> float:
        try:
            share: Any = self._function(*order)
        except (Exception, SystemExit) as error:
            raise DataError(
                f"the preference {self._name} failed on duel {row}, {order[1][:80]!r} against {order[2][:80]!r} "
                f"({type(error).__name__}: {error})"
            ) from error
        if not isinstance(share, Real) or not 0 <= float(share) <= 1:
            raise DataError(
                f"the preference {self._name} gave {share!r} for duel {row}, {order[1][:80]!r} against {order[2][:80]!r}; expected a "
                "probability in [0, 1], since an optimiser cannot leave a row out: 0.5 says that neither is better"
            )
        return float(share)


class ScorePreference:
    """What a reward prefers: the row that it scores higher, equal ones as often as not."""

    def __init__(self, reward: RewardModel) -> None:
        """Prefer by `reward`, whose errors name their row."""
        self._reward = reward

    def __call__(self, episodes: Episodes, rivals: Episodes) -> Tensor:
        """Return 1, 0 or one half for each row, (B,); a row that meets several rivals is scored once."""
        rows, ours_B, theirs_B = distinct(episodes, rivals)
        score_R = self._reward(rows).sum(1).cpu()
        return (torch.sign(score_R[ours_B] - score_R[theirs_B]).double() + 1) / 2


def distinct(episodes: Episodes, rivals: Episodes) -> tuple[Episodes, Tensor, Tensor]:
    """Return every different row of both once, in the order in which they come, and where each row and each rival is among them.

    Raises:
        DataError: not as many rivals as rows.
    """
    if len(episodes) != len(rivals):
        raise DataError(f"{len(episodes)} rows and {len(rivals)} rivals; expected a rival for every row")
    both = concat([episodes, rivals])
    place: dict[tuple[int, ...], int] = {}
    first: list[int] = []
    at: list[int] = []
    for row, tokens in enumerate(torch.cat([both.obs, both.action], 1).tolist()):
        if (key := tuple(tokens)) not in place:
            place[key] = len(first)
            first.append(row)
        at.append(place[key])
    ours_B, theirs_B = torch.tensor(at).chunk(2)
    return both.select(first), ours_B, theirs_B
