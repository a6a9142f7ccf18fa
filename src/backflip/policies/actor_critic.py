"""An actor with a critic, two small networks: the policy of the control worlds.

`act` is one decision for every row, computed with numpy on the very weights that torch trains: a step of a few rows costs
tens of microseconds, not hundreds. `evaluate` is the same function with gradients, and their agreement is what PPO's
ratio check sees. Left out: what actions are drawn from (`distributions`), observations of pixels.

Shapes: B rows, T decisions, F features of an observation, A numbers of an action, D hidden,
N decisions of all rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from backflip.data import Act, Episodes, Evaluation
from backflip.errors import ConfigError, DataError
from backflip.policies.distributions import MOST_STD, Categorical, Gaussian, log_normal

SEEN_AT_MOST = 10.0
"""Normalised features beyond this are cut: a body that flies off must not blow up the networks."""


@dataclass(frozen=True)
class ActorCriticConfig:
    """Shape of the networks."""

    hidden: int = 64
    """Width of each of two tanh layers, of actor and critic alike."""
    first_std: float = 0.6
    """Standard deviation of the actions of a fresh policy; an action runs from -1 to 1. A policy that chooses has none."""
    first_gain: float = 0.01
    """Gain of the actor's last layer at the start: small, so that a fresh policy looks at nothing yet."""

    def __post_init__(self) -> None:
        if self.hidden < 1 or not 0 < self.first_std < MOST_STD:
            raise ConfigError(f"policy.hidden must be 1 or more, and policy.first_std lie between 0 and {MOST_STD:g}")
        if not 0 <= self.first_gain < math.inf:
            raise ConfigError(f"policy.first_gain is {self.first_gain}, expected a number of 0 or more")


class ActorCritic(nn.Module):
    """Actions from a normal distribution whose mean depends on the observation, or choices whose logits do."""

    mean_F: Tensor
    scale_F: Tensor
    seen: Tensor

    def __init__(
        self,
        features: int,
        actions: int,
        config: ActorCriticConfig,
        rng: np.random.Generator,
        *,
        discrete: bool = False,
    ) -> None:
        """Draw orthogonal weights (Engstrom et al. 2020) from `rng`; `discrete`: choose one of `actions`."""
        super().__init__()
        self.config = config
        sizes = [features, config.hidden, config.hidden]
        self.actor = nn.ParameterList(_layers([*sizes, actions], config.first_gain, rng))
        self.critic = nn.ParameterList(_layers([*sizes, 1], 1.0, rng))
        # The same parameters in plain lists: a ParameterList takes longer to give one away than numpy to multiply by it.
        self.weights = (list(self.actor), list(self.critic))
        self.actions = Categorical() if discrete else self._gaussian(actions)
        self.register_buffer("mean_F", torch.zeros(features))
        self.register_buffer("scale_F", torch.ones(features))
        self.register_buffer("seen", torch.zeros((), dtype=torch.float64))
        self.register_buffer("spread_F", torch.zeros(features, dtype=torch.float64))
        self.register_buffer("exact_mean_F", torch.zeros(features, dtype=torch.float64))

    def _gaussian(self, actions: int) -> Gaussian:
        made = Gaussian.of(actions, self.config.first_std)
        self.free_std_A = made.free_A
        return made

    # -- the Policy protocol -----------------------------------------------------------------------------------------

    def act(self, obs: Tensor, rng: np.random.Generator) -> Act:
        """Decide once for every row of obs, (B, 1, F) float32."""
        seen_BF = self._look(obs[:, 0].numpy())
        action_BA, logp_B = self.actions.draw(_numpy_pass(self.weights[0], seen_BF), rng)
        value_B = _numpy_pass(self.weights[1], seen_BF)[:, 0]
        rows = len(action_BA)
        return Act(
            action=torch.from_numpy(action_BA[:, None]),
            mask_BT=torch.ones(rows, 1, dtype=torch.bool),
            logp_BT=torch.from_numpy(logp_B[:, None]),
            ended_B=torch.zeros(rows, dtype=torch.bool),
            value_BT=torch.from_numpy(value_B[:, None]),
        )

    def acting(self, rows: int, steps: int, rng: np.random.Generator) -> Acting | None:
        """Prepare to act in `rows` rows for `steps` decisions: what `act` does, to the same bits, in half the time. None if it chooses."""
        return Acting(self, rows, steps, rng) if isinstance(self.actions, Gaussian) else None

    def values(self, obs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the values of observations (B, T, F) at once, (B, T)."""
        return _numpy_pass(self.weights[1], self._look(obs.reshape(-1, obs.shape[2]))).reshape(obs.shape[:2])

    def evaluate(self, episodes: Episodes) -> Evaluation:
        """Return log-probability, entropy and value of every decision."""
        steps = episodes.mask_BT.shape[1]
        seen_BTF = self.normalised(episodes.obs[:, :steps])
        said_BTA = _torch_pass(self.weights[0], seen_BTF)
        logp_BT = self.actions.logp_BT(said_BTA, episodes.action)
        entropy = self.actions.entropy(said_BTA)
        value_BT = _torch_pass(self.weights[1], seen_BTF)[..., 0]
        zero = torch.zeros(())
        mask_BT = episodes.mask_BT
        return Evaluation(
            torch.where(mask_BT, logp_BT, zero),
            torch.where(mask_BT, entropy.expand(mask_BT.shape), zero),
            torch.where(mask_BT, value_BT, zero),
        )

    @torch.no_grad()
    def kl_BT(self, reference: Any, episodes: Episodes) -> Tensor:
        """Return the KL between what the two draw from at every decision, nats."""
        steps = episodes.mask_BT.shape[1]
        ours_BTA = _torch_pass(self.weights[0], self.normalised(episodes.obs[:, :steps]))
        theirs_BTA = _torch_pass(reference.weights[0], reference.normalised(episodes.obs[:, :steps]))
        kl_BT = self.actions.kl_BT(ours_BTA, reference.actions, theirs_BTA)
        return torch.where(episodes.mask_BT, kl_BT, torch.zeros(()))

    # -- observations ------------------------------------------------------------------------------------------------

    def normalised(self, obs: Tensor) -> Tensor:
        """Scale features to mean 0 and deviation 1 over all that was learned of them, cut at `SEEN_AT_MOST`."""
        return ((obs - self.mean_F) * self.scale_F).clip(-SEEN_AT_MOST, SEEN_AT_MOST)

    @torch.no_grad()
    def learn_scale(self, episodes: Episodes) -> None:
        """Add the observations of these rows to what the scale rests on (Welford 1962). Never between acting and updating.

        Raises:
            DataError: an observation is not finite.
        """
        steps = episodes.mask_BT.shape[1]
        seen_NF = episodes.obs[:, :steps][episodes.mask_BT].double()
        if not torch.isfinite(seen_NF).all():
            raise DataError("an observation is not finite, so nothing can be learned from it; look at the environment")
        count = len(seen_NF)
        mean_F = seen_NF.mean(0)
        total = self.seen + count
        gap_F = mean_F - self.exact_mean_F
        self.spread_F += ((seen_NF - mean_F) ** 2).sum(0) + gap_F**2 * self.seen * count / total
        self.exact_mean_F += gap_F * count / total
        self.seen += count
        self.mean_F.copy_(self.exact_mean_F)
        self.scale_F.copy_(1 / torch.sqrt(self.spread_F / self.seen + 1e-8))

    def _look(self, obs_BF: NDArray[np.float32]) -> NDArray[np.float32]:
        return _scaled(obs_BF, self.mean_F.numpy(), self.scale_F.numpy())

    # -- files -------------------------------------------------------------------------------------------------------

    def shape(self) -> dict[str, int]:
        """Return what `of_shape` makes a policy from, whose tensors are like these."""
        return {
            "features": len(self.mean_F),
            "actions": len(self.actor[-1]),
            "hidden": self.config.hidden,
            "discrete": int(isinstance(self.actions, Categorical)),
        }

    @classmethod
    def of_shape(cls, shape: Mapping[str, int]) -> ActorCritic:
        """Return a policy of this shape, whose weights are to be loaded yet."""
        config = ActorCriticConfig(hidden=shape["hidden"])
        discrete = bool(shape.get("discrete"))
        return cls(shape["features"], shape["actions"], config, np.random.default_rng(0), discrete=discrete)

    def save(self, path: Path) -> None:
        """Write the weights and their shape as one safetensors file in a folder, atomically."""
        from safetensors.torch import save_file

        from backflip.checkpoint import atomic_folder

        with atomic_folder(path) as folder:
            card = {name: str(value) for name, value in self.shape().items()}
            save_file({k: v.contiguous() for k, v in self.state_dict().items()}, folder / "policy.safetensors", card)

    @classmethod
    def load(cls, path: Path) -> ActorCritic:
        """Read what `save` wrote.

        Raises:
            DataError: it is missing or half-written.
        """
        from safetensors import SafetensorError, safe_open

        file = path / "policy.safetensors"
        try:
            with safe_open(file, framework="pt") as opened:
                card = {name: int(value) for name, value in (opened.metadata() or {}).items()}
                tensors = {name: opened.get_tensor(name) for name in opened.offset_keys()}
            policy = cls.of_shape(card)
            policy.load_state_dict(tensors)
        except (OSError, SafetensorError, KeyError, RuntimeError) as error:
            raise DataError(f"cannot read the policy {file} ({error}); expected a file of a control run") from error
        return policy


def _layers(sizes: list[int], last_gain: float, rng: np.random.Generator) -> list[nn.Parameter]:
    """Return weights (in, out) and biases in turn, orthogonal, gain sqrt(2) but for the last."""
    found: list[nn.Parameter] = []
    for place, (inside, outside) in enumerate(pairwise(sizes)):
        tall, wide = max(inside, outside), min(inside, outside)
        q, r = np.linalg.qr(rng.standard_normal((tall, wide)))
        q = q * np.sign(np.diag(r))
        weight = (q if inside >= outside else q.T) * (last_gain if place == len(sizes) - 2 else math.sqrt(2))
        # In order of rows: a fused Adam walks through memory, and its saved moments come back in that order.
        weight = np.ascontiguousarray(weight)
        found += [nn.Parameter(torch.tensor(weight, dtype=torch.float32)), nn.Parameter(torch.zeros(outside))]
    return found


class Acting:
    """A policy as it is now, for the decisions of a few rows: its weights as numpy has them, and all its noise drawn."""

    def __init__(self, policy: ActorCritic, rows: int, steps: int, rng: np.random.Generator) -> None:
        """Draw what `steps` calls of `act` would draw."""
        assert isinstance(policy.actions, Gaussian)
        self._weights = [one.detach().numpy() for one in policy.weights[0]]
        self._mean_F, self._scale_F = policy.mean_F.numpy(), policy.scale_F.numpy()
        self._log_std_A = policy.actions.log_std_now_A()
        self._std_A = np.exp(self._log_std_A)
        self._noise_TBA = rng.standard_normal((steps, rows, len(self._std_A)), dtype=np.float32)

    def __call__(self, step: int, obs_BF: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the actions of decision number `step`, (B, A)."""
        x = _forward(self._weights, _scaled(obs_BF, self._mean_F, self._scale_F))
        return x + self._std_A * self._noise_TBA[step]

    def logp_BT(self) -> NDArray[np.float32]:
        """Return the log-probabilities of all these actions."""
        return log_normal(self._noise_TBA, self._log_std_A).T


class Tanh(torch.autograd.Function):
    """The numpy that acts also computes for the update: to the bit the same function, and ten times as fast as torch's on a processor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return tanh of x."""
        y = torch.from_numpy(np.tanh(x.detach().numpy()))
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> Tensor:
        """Return the gradient to x."""
        return torch.ops.aten.tanh_backward(grad[0], *ctx.saved_tensors)


def _torch_pass(weights: list[nn.Parameter], x: Tensor) -> Tensor:
    for place in range(0, len(weights), 2):
        x = x @ weights[place] + weights[place + 1]
        x = cast(Tensor, Tanh.apply(x)) if place + 2 < len(weights) else x
    return x


def _numpy_pass(layers: list[nn.Parameter], x: NDArray[np.float32]) -> NDArray[np.float32]:
    return _forward([weight.detach().numpy() for weight in layers], x)


def _forward(weights: list[NDArray[np.float32]], x: NDArray[np.float32]) -> NDArray[np.float32]:
    for place in range(0, len(weights), 2):
        x = x @ weights[place]
        x += weights[place + 1]
        x = np.tanh(x, out=x) if place + 2 < len(weights) else x
    return x


def _scaled(
    obs_BF: NDArray[np.float32], mean_F: NDArray[np.float32], scale_F: NDArray[np.float32]
) -> NDArray[np.float32]:
    seen_BF = (obs_BF - mean_F) * scale_F
    return np.clip(seen_BF, -SEEN_AT_MOST, SEEN_AT_MOST, out=seen_BF)
