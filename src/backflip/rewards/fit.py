"""Fit reward models on comparisons: Bradley-Terry with ties, strengths and the 10 % rule.

Nothing here knows text from control: items become episodes through `World.load`, and a model is asked for `score_B`.
Left out: what a comparison is (`comparisons`), and the null baselines (`baselines`).

Shapes: B comparisons of a batch, R rows (distinct items), K numbers that are said of a row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from backflip.data import Episodes, Item
from backflip.errors import ConfigError, DataError
from backflip.protocols import World
from backflip.rewards.comparisons import Comparison, split
from backflip.rewards.probe import Probed, probe_head


class Scorer(Protocol):
    """What can be fitted: scores of rows with gradients, and the module that holds the parameters."""

    @property
    def module(self) -> nn.Module:
        """The trainable module."""
        ...

    def score_B(self, episodes: Episodes, *, with_grad: bool = False) -> Tensor:
        """Return one raw score a row."""
        ...


@runtime_checkable
class Pairwise(Protocol):
    """A scorer that prefers by more than the difference of two scores."""

    def said_BK(self, episodes: Episodes, *, with_grad: bool = False) -> Tensor:
        """Return what it says of every row by itself."""
        ...

    def lead_B(self, first_BK: Tensor, second_BK: Tensor) -> Tensor:
        """Return the log-odds that the first of two rows is preferred; the other way round its negative."""
        ...


@dataclass(frozen=True)
class FitConfig:
    """How one reward model is fitted."""

    epochs: int = 1
    """Passes over the comparisons; the learning rate falls linearly to 0 over all of them (Stiennon et al. 2020)."""
    lr: float = 1e-4
    """Highest learning rate of AdamW, reached after `warmup`."""
    head_lr: float = 1e-3
    """The same for the scalar head."""
    warmup: float = 0.1
    """Share of all steps during which the learning rate rises."""
    probe_l2: float = 1e-3
    """The head is fitted first, alone, with this penalty (`probe`), so that it starts from no noise; 0 is off."""
    batch: int = 32
    """Comparisons a step."""
    weight_decay: float = 0.01
    """AdamW's decay towards zero."""
    anchor: float = 0.0
    """Decay towards the starting weights (L2-SP, Li et al. 2018): each step takes lr * anchor of the way back."""
    noise: float = 0.1
    """Share of answers taken to be uniformly random (Christiano et al. 2017, sec. 2.2.3): 0.1 is their 10 % rule, 0 is off."""
    length_penalty: float = 0.0
    """Weight of the squared correlation between score difference and length difference over a batch; 0 is off."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of matrix products while fitting; weights and sums stay float32."""
    grad_clip: float = 1.0
    """Largest norm of the gradient."""
    bootstrap: bool = True
    """Whether a member of an ensemble gets a bootstrap of the comparisons (Christiano et al. 2017, sec. 2.2.3), or all of them
    and differs in their order alone (Lakshminarayanan et al. 2017, sec. 2.4): better means, less to learn from disagreement."""
    held_out: float = 0.1
    """Share of the prompts whose comparisons are kept for measuring and never fitted."""
    keep: Literal["last", "best"] = "last"
    """Which epoch's weights are kept: "last", or "best" by held-out loss."""

    def __post_init__(self) -> None:
        if not 0 <= self.noise < 1 or not 0 <= self.held_out < 1:
            raise ConfigError("fit.noise and fit.held_out are shares; expected each at least 0 and below 1")
        if self.epochs < 1 or self.batch < 1 or self.lr <= 0:
            raise ConfigError("fit.epochs and fit.batch must be at least 1 and fit.lr above 0")


def bradley_terry_loss(delta_B: Tensor, share_B: Tensor, weight_B: Tensor, noise: float = 0.1) -> Tensor:
    """Return the weighted mean of -share ln p - (1 - share) ln(1 - p), in nats.

    `p = (1 - noise) sigmoid(delta) + noise / 2`: a `noise` share of the answers is a fair coin (Christiano et al. 2017,
    sec. 2.2.3), mixed as probabilities and computed in logarithms, so that no delta overflows.
    """
    if noise:
        floor = delta_B.new_tensor(math.log(noise / 2))
        keep = math.log1p(-noise)
        first_B = torch.logaddexp(keep + functional.logsigmoid(delta_B), floor)
        second_B = torch.logaddexp(keep + functional.logsigmoid(-delta_B), floor)
    else:
        first_B, second_B = functional.logsigmoid(delta_B), functional.logsigmoid(-delta_B)
    loss_B = -(share_B * first_B + (1 - share_B) * second_B)
    return (weight_B * loss_B).sum() / weight_B.sum()


@dataclass(frozen=True)
class Rows:
    """Comparisons as rows of episodes: every distinct item once."""

    episodes: Episodes
    first_B: Tensor
    second_B: Tensor
    share_B: Tensor
    weight_B: Tensor

    @classmethod
    def of(cls, world: World, pairs: Sequence[Comparison]) -> Rows:
        """Load the items of `pairs` through `world`."""
        place: dict[str, int] = {}
        items: list[Item] = []
        index: list[tuple[int, int]] = []
        for pair in pairs:
            for item in (pair.first, pair.second):
                if item.id not in place:
                    place[item.id] = len(items)
                    items.append(item)
            index.append((place[pair.first.id], place[pair.second.id]))
        both_B2 = torch.tensor(index)
        return cls(
            world.load(items),
            both_B2[:, 0],
            both_B2[:, 1],
            torch.tensor([pair.share for pair in pairs]),
            torch.tensor([pair.weight for pair in pairs]),
        )

    def delta_B(self, model: Scorer, at_B: Tensor | None = None, *, with_grad: bool = False) -> Tensor:
        """Return score(first) - score(second) of the comparisons at `at_B` (None: all), or the lead of a model that has more than
        scores; shared items are read once.
        """
        at_B = torch.arange(len(self.first_B)) if at_B is None else at_B
        used_R, inverse = torch.unique(torch.cat([self.first_B[at_B], self.second_B[at_B]]), return_inverse=True)
        rows = self.episodes.select(used_R)
        if isinstance(model, Pairwise):
            said_RK = model.said_BK(rows, with_grad=with_grad)
            first, second = inverse.to(said_RK.device).chunk(2)
            return model.lead_B(said_RK[first], said_RK[second])
        score_R = model.score_B(rows, with_grad=with_grad)
        first, second = inverse.to(score_R.device).chunk(2)
        return score_R[first] - score_R[second]


def fit(
    model: Scorer,
    world: World,
    pairs: Sequence[Comparison],
    config: FitConfig,
    rng: np.random.Generator,
    held: Sequence[Comparison] | None = None,
    each_epoch: Callable[[dict[str, float]], None] | None = None,
) -> dict[str, float]:
    """Fit `model` in place and return its last (or best) epoch's statistics.

    `held` comparisons are only measured; None sets `config.held_out` of the prompts aside. The statistics of
    an epoch go to `each_epoch`: `epoch`, `loss` (nats, while fitting), `accuracy`, `grad_norm`, `lr`, and where any
    are held out `held_out_loss`, `held_out_accuracy`, `held_out_n` (decisive comparisons) and `held_out_prompts`. Deterministic in
    `rng`.

    Raises:
        DataError: there are no comparisons to fit, or the loss is no longer finite.
        ConfigError: `keep="best"` without held-out comparisons.
    """
    if held is None:
        pairs, held = split(pairs, config.held_out, rng)
    if not pairs:
        raise DataError("no comparisons to fit a reward model on; ask an overseer first")
    if config.keep == "best" and not held:
        raise ConfigError('fit.keep="best" needs held-out comparisons; raise fit.held_out')
    rows = Rows.of(world, pairs)
    held_rows = Rows.of(world, held) if held else None
    if config.probe_l2 and isinstance(model, Probed):
        probe_head(model, rows.episodes, rows.first_B, rows.second_B, rows.share_B, rows.weight_B, config.probe_l2)
    trainer = _Trainer(model, config, steps=config.epochs * math.ceil(len(pairs) / config.batch))
    history: list[dict[str, float]] = []
    best: dict[str, Tensor] = {}
    for epoch in range(config.epochs):
        stats = {"epoch": float(epoch + 1), **trainer.epoch(rows, rng)}
        if held_rows is not None:
            stats |= measure(model, held_rows, config.noise)
            stats["held_out_prompts"] = float(len({pair.first.prompt for pair in held}))
        history.append(stats)
        if config.keep == "best" and stats["held_out_loss"] <= min(past["held_out_loss"] for past in history):
            best = {name: value.detach().clone() for name, value in model.module.state_dict().items()}
        if each_epoch is not None:
            each_epoch(stats)
    if best:
        model.module.load_state_dict(best)
        return min(history, key=lambda past: past["held_out_loss"])
    return history[-1]


def measure(model: Scorer, rows: Rows, noise: float) -> dict[str, float]:
    """Return loss and accuracy of a model on held-out comparisons; ties are in the loss, not in the accuracy."""
    delta_B = rows.delta_B(model).cpu()
    decisive_B = rows.share_B != 0.5
    right_B = (delta_B > 0).float() + 0.5 * (delta_B == 0).float()
    agree_B = torch.where(rows.share_B > 0.5, right_B, 1 - right_B)[decisive_B]
    stats = {
        "held_out_loss": float(bradley_terry_loss(delta_B, rows.share_B, rows.weight_B, noise)),
        "held_out_n": float(len(agree_B)),
    }
    return stats | ({"held_out_accuracy": float(agree_B.mean())} if len(agree_B) else {})


class _Trainer:
    """One model's optimiser and schedule, for the length of one fit."""

    def __init__(self, model: Scorer, config: FitConfig, steps: int) -> None:
        self.model, self.config, self.steps, self.step = model, config, steps, 0
        head = {
            id(p)
            for name in ("score", "classifier")
            if hasattr(model.module, name)
            for p in getattr(model.module, name).parameters()
        }
        self.device = next(model.module.parameters()).device.type
        trained = [p for p in model.module.parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in trained if id(p) not in head], "peak": config.lr},
            {"params": [p for p in trained if id(p) in head], "peak": config.head_lr},
        ]
        self.optimizer = torch.optim.AdamW(
            [g for g in groups if g["params"]], lr=config.lr, weight_decay=config.weight_decay
        )
        self.start = [(p, p.detach().clone()) for p in trained if id(p) not in head] if config.anchor else []

    def epoch(self, rows: Rows, rng: np.random.Generator) -> dict[str, float]:
        """Go once over all comparisons in random batches of like length."""
        loss_sum = weight_sum = right = decisive = norm_sum = 0.0
        count = 0
        for at_B in batches(rows, self.config.batch, rng):
            share_B, weight_B = rows.share_B[at_B], rows.weight_B[at_B]
            with torch.autocast(self.device, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
                delta_B = rows.delta_B(self.model, at_B, with_grad=True).float().cpu()
            loss = bradley_terry_loss(delta_B, share_B, weight_B, self.config.noise)
            norm_sum += self._update(loss + self.config.length_penalty * length_correlation(rows, at_B, delta_B) ** 2)
            loss_sum += float(loss.detach()) * float(weight_B.sum())
            weight_sum += float(weight_B.sum())
            sure_B = share_B != 0.5
            right += float(((delta_B > 0) == (share_B > 0.5))[sure_B].sum())
            decisive += float(sure_B.sum())
            count += 1
        stats = {
            "loss": loss_sum / weight_sum,
            "grad_norm": norm_sum / count,
            "lr": self.optimizer.param_groups[0]["lr"],
        }
        return stats | ({"accuracy": right / decisive} if decisive else {})

    def _update(self, loss: Tensor) -> float:
        self.step += 1
        rise = max(1.0, self.config.warmup * self.steps)
        scale = min(1.0, self.step / rise, (self.steps - self.step + 1) / max(1.0, self.steps - rise + 1))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.module.parameters(), self.config.grad_clip)
        if not torch.isfinite(norm):
            raise DataError(
                f"the gradient of the reward fit is not finite at step {self.step}; lower fit.lr (nothing was changed by this step)"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * scale
        self.optimizer.step()
        with torch.no_grad():
            for parameter, start in self.start:
                parameter.lerp_(start, min(1.0, self.config.lr * scale * self.config.anchor))
        return float(norm)


def batches(rows: Rows, size: int, rng: np.random.Generator) -> Iterator[Tensor]:
    """Yield the comparisons in random order, sorted by length within stretches of eight batches to save padding."""
    length_R = rows.episodes.mask_BT.sum(1).cpu()
    longest_B = torch.maximum(length_R[rows.first_B], length_R[rows.second_B]).numpy()
    order = rng.permutation(len(longest_B))
    parts: list[Any] = []
    for start in range(0, len(order), 8 * size):
        stretch = order[start : start + 8 * size]
        stretch = stretch[np.argsort(longest_B[stretch], kind="stable")]
        parts += [stretch[i : i + size] for i in range(0, len(stretch), size)]
    for i in rng.permutation(len(parts)):
        yield torch.from_numpy(parts[i])


def length_correlation(rows: Rows, at_B: Tensor, delta_B: Tensor) -> Tensor:
    """Return the (uncentred) correlation of score and length differences over a batch, with gradients; 0 without any."""
    length_R = rows.episodes.mask_BT.sum(1).float().cpu()
    gap_B = length_R[rows.first_B[at_B]] - length_R[rows.second_B[at_B]]
    return (delta_B * gap_B).sum() / (delta_B.norm() * gap_B.norm()).clamp_min(1e-8)
