"""A language model that is asked n times, and a reward that chooses: it acts, but has no distribution over tokens.

So nothing can be trained on it, its entropy is not known, and of its KL there is a bound alone, ln n - (n - 1) / n (docs/best_of_n.md). Left out: what it is
worth for every n (`measures.best_of_n`).

Shapes: B rows, T decisions, P prompt tokens.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backflip.data import Act, Episodes, Evaluation
from backflip.errors import ConfigError, DataError
from backflip.measures.best_of_n import kl_bound_nats
from backflip.optimise.best_of_n import choose
from backflip.policies.asked import AskedLM, load_asked
from backflip.policies.lm import LMConfig, LMPolicy, load_policy
from backflip.protocols import RewardModel

CARD = "best_of_n.json"


class BestOfN:
    """The answer that `reward` likes best of n of `lm`'s; of equal ones the first."""

    def __init__(self, lm: LMPolicy, reward: RewardModel, n: int, series: str = "") -> None:
        """Let `reward` choose; `series` names its checkpoint beside this policy's, empty where it has none.

        Raises:
            ConfigError: n is below 1.
        """
        if n < 1:
            raise ConfigError(f"best_of is {n}, expected 1 or more")
        self.lm, self.reward, self.n, self.series = lm, reward, n, series

    @property
    def module(self) -> Any:
        """The language model's; choosing trains nothing."""
        return self.lm.module

    @property
    def tokenizer(self) -> Any:
        """The language model's."""
        return self.lm.tokenizer

    @property
    def config(self) -> LMConfig:
        """How the language model writes."""
        return self.lm.config

    @config.setter
    def config(self, config: LMConfig) -> None:
        self.lm.config = config

    @property
    def kl_bound_nats(self) -> float:
        """The most that choosing can move from the language model, nats an answer."""
        return kl_bound_nats(self.n)

    def act(self, obs: Tensor, rng: np.random.Generator) -> Act:
        """Answer every prompt n times and return the chosen answers; their `logp_BT` is not a number, since nobody knows it."""
        obs_BP = obs.repeat_interleave(self.n, 0)
        act = self.lm.act(obs_BP, rng)
        device = act.action.device
        rows = Episodes(
            obs=obs_BP.to(device),
            action=act.action,
            mask_BT=act.mask_BT,
            logp_BT=None,
            bootstrap_B=torch.zeros(len(obs_BP), device=device),
            group_B=torch.arange(len(obs), device=device).repeat_interleave(self.n),
        )
        best = choose(rows, self.reward(rows).to(device))
        mask_BT = act.mask_BT[best]
        unknown_BT = torch.where(mask_BT, torch.nan, torch.zeros((), device=device))
        return Act(act.action[best], mask_BT, unknown_BT, act.ended_B[best])

    def evaluate(self, episodes: Episodes) -> Evaluation:
        """Refuse: there is no distribution over tokens. Raises ConfigError."""
        raise _no_tokens("probability of a token")

    def kl_BT(self, reference: Any, episodes: Episodes) -> Tensor:
        """Refuse: there is no distribution over tokens. Raises ConfigError."""
        raise _no_tokens("KL of a token")

    def save(self, path: Path) -> None:
        """Write the language model, and beside it n and which checkpoint chooses."""
        self.lm.save(path)
        (path / CARD).write_text(json.dumps({"n": self.n, "reward": self.series}, indent=2), encoding="utf-8")


def load_used(path: Path) -> LMPolicy | AskedLM | BestOfN:
    """Load a trained policy as it is meant to be used: with the reward that chooses, or asked for its level, where that is so.

    Raises:
        DataError: the reward is missing, or was a function that only its run knew.
    """
    card = path / CARD
    if not card.is_file():
        return load_asked(path)
    lm = load_policy(path)
    from backflip.rewards.ensemble import RewardEnsemble

    try:
        said = json.loads(card.read_text(encoding="utf-8"))
        n, series = int(said["n"]), str(said["reward"])
    except (ValueError, KeyError) as error:
        raise DataError(f"{card} is broken ({error}); expected n and reward: restore it from a copy") from error
    if not series:
        raise DataError(
            f"the answers of {path} were chosen by a reward that only its run knew, a Python function; without it nobody can choose"
        )
    return BestOfN(lm, RewardEnsemble.load(path.parent / series), n, series)


def _no_tokens(what: str) -> ConfigError:
    return ConfigError(
        f"best of n has no {what}: it chooses whole answers; its KL has the bound ln n - (n - 1) / n (`kl_bound_nats`)"
    )
