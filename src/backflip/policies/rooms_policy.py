"""A table as policy and critic for worlds whose states have numbers: one row of logits a state, one value a state and step.

Its chances can be read off exactly, so what PPO learned can be laid beside what dynamic programming says is best. Left out: anything
that generalises.

Shapes: B rows, T decisions, S states, A actions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from backflip.data import Act, Episodes, Evaluation
from backflip.worlds.rooms import STATE, TIME


class StatePolicy(nn.Module):
    """Logits for every state, values for every step and state; all 0 at first, so that it begins as chance."""

    def __init__(self, states: int, actions: int, horizon: int) -> None:
        """Make the tables."""
        super().__init__()
        self.logits_SA = nn.Parameter(torch.zeros(states, actions))
        self.value_TS = nn.Parameter(torch.zeros(horizon + 1, states))

    def act(self, obs: Tensor, rng: np.random.Generator) -> Act:
        """Decide once for every row of obs, (B, 1, 3)."""
        state_B, time_B = obs[:, 0, STATE].numpy(), obs[:, 0, TIME].numpy()
        with torch.no_grad():
            logp_BA = torch.log_softmax(self.logits_SA, -1).numpy()[state_B]
        total_BA = np.exp(logp_BA.astype(np.float64)).cumsum(1)
        action_B = (total_BA < rng.random(len(total_BA))[:, None] * total_BA[:, -1:]).sum(1)
        rows = np.arange(len(action_B))
        return Act(
            action=torch.from_numpy(action_B[:, None]),
            mask_BT=torch.ones(len(rows), 1, dtype=torch.bool),
            logp_BT=torch.from_numpy(logp_BA[rows, action_B][:, None]),
            ended_B=torch.zeros(len(rows), dtype=torch.bool),
            value_BT=self.value_TS.detach()[time_B, state_B][:, None],
        )

    def evaluate(self, episodes: Episodes) -> Evaluation:
        """Look up log-probability, entropy and value of every decision, with gradients."""
        steps = episodes.mask_BT.shape[1]
        state_BT, time_BT = episodes.obs[:, :steps, STATE], episodes.obs[:, :steps, TIME]
        logp_SA = torch.log_softmax(self.logits_SA, -1)
        zero = torch.zeros(())
        taken_BT = logp_SA[state_BT, episodes.action.clamp_min(0)]
        entropy_BT = -(logp_SA.exp() * logp_SA).sum(-1)[state_BT]
        return Evaluation(
            torch.where(episodes.mask_BT, taken_BT, zero),
            torch.where(episodes.mask_BT, entropy_BT, zero),
            torch.where(episodes.mask_BT, self.value_TS[time_BT, state_BT], zero),
        )

    @torch.no_grad()
    def kl_BT(self, reference: Any, episodes: Episodes) -> Tensor:
        """Return KL(self || reference) at every decision, nats."""
        ours_SA, theirs_SA = torch.log_softmax(self.logits_SA, -1), torch.log_softmax(reference.logits_SA, -1)
        kl_S = (ours_SA.exp() * (ours_SA - theirs_SA)).sum(-1)
        state_BT = episodes.obs[:, : episodes.mask_BT.shape[1], STATE]
        return torch.where(episodes.mask_BT, kl_S[state_BT], torch.zeros(()))

    @torch.no_grad()
    def chances_SA(self) -> NDArray[np.float64]:
        """Return the chance of every action in every state."""
        return torch.softmax(self.logits_SA.double(), -1).numpy()
