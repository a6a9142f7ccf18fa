"""A policy for worlds small enough to look everything up: one row of logits and one value for each thing that can be seen.

Left out: anything that generalises, and words (`worlds.enumerable`).

Shapes: B rows, T decisions, F features, N things that can be seen, A actions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from backflip.data import Act, Episodes, Evaluation


class TablePolicy(nn.Module):
    """A softmax over A actions and a critic, both looked up at the number `obs @ code_F`."""

    code_F: Tensor

    def __init__(self, code_F: Tensor, seen: int, actions: int) -> None:
        """Begin with every action as likely as the next, and values of 0; `seen` things can be told apart."""
        super().__init__()
        self.register_buffer("code_F", code_F)
        self.logits_NA = nn.Parameter(torch.zeros(seen, actions))
        self.value_N = nn.Parameter(torch.zeros(seen))

    def place(self, obs: Tensor) -> Tensor:
        """Return the number of what is seen, obs without its last axis."""
        return (obs @ self.code_F).round().long()

    @torch.no_grad()
    def probability_NA(self) -> Tensor:
        """Return the probability of every action at everything that can be seen, float64."""
        return torch.softmax(self.logits_NA.double(), dim=-1)

    @torch.no_grad()
    def slipping(self, share: float) -> TablePolicy:
        """Return a copy that takes a random action with this probability, and otherwise acts as this one does."""
        copy = TablePolicy(self.code_F, *self.logits_NA.shape)
        mixed_NA = (1 - share) * self.probability_NA() + share / self.logits_NA.shape[1]
        copy.logits_NA.copy_(mixed_NA.log())
        copy.value_N.copy_(self.value_N)
        return copy

    @torch.no_grad()
    def act(self, obs: Tensor, rng: np.random.Generator) -> Act:
        """Decide once for every row of obs, (B, 1, F); the action is (B, 1, 1), its number."""
        place_B = self.place(obs[:, 0])
        cumulative_BA = self.probability_NA().cumsum(-1)[place_B]
        uniform_B1 = torch.from_numpy(rng.random(len(obs)))[:, None]
        action_B = (cumulative_BA < uniform_B1).sum(1).clamp(max=self.logits_NA.shape[1] - 1)
        logp_BT = torch.log_softmax(self.logits_NA, -1)[place_B, action_B][:, None]
        return Act(
            action=action_B[:, None, None],
            mask_BT=torch.ones(len(obs), 1, dtype=torch.bool),
            logp_BT=logp_BT,
            ended_B=torch.zeros(len(obs), dtype=torch.bool),
            value_BT=self.value_N[place_B][:, None].clone(),
        )

    def evaluate(self, episodes: Episodes) -> Evaluation:
        """Look up log-probability, entropy and value of every decision, with gradients."""
        place_BT = self.place(episodes.obs[:, : episodes.mask_BT.shape[1]])
        logp_NA = torch.log_softmax(self.logits_NA, -1)
        entropy_N = -(logp_NA.exp() * logp_NA).sum(-1)
        mask_BT = episodes.mask_BT
        return Evaluation(
            logp_NA[place_BT, episodes.action[..., 0]] * mask_BT,
            entropy_N[place_BT] * mask_BT,
            self.value_N[place_BT] * mask_BT,
        )

    @torch.no_grad()
    def kl_BT(self, reference: Any, episodes: Episodes) -> Tensor:
        """Return KL(self || reference) of every decision over all actions, nats, 0 where masked."""
        ours_NA, theirs_NA = torch.log_softmax(self.logits_NA, -1), torch.log_softmax(reference.logits_NA, -1)
        kl_N = (ours_NA.exp() * (ours_NA - theirs_NA)).sum(-1)
        return kl_N[self.place(episodes.obs[:, : episodes.mask_BT.shape[1]])] * episodes.mask_BT
