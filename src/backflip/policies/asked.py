"""A language model that is told a level in front of every prompt, and always asked for one: what reward-conditioned training makes.

Left out: the training (`optimise.conditional`), and which tokens tell the levels (the loop).

Shapes: B rows, T decisions.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backflip.data import Episodes
from backflip.errors import ConfigError, DataError
from backflip.optimise.conditional import Asked, TokenInFront, told
from backflip.policies.lm import LMConfig, LMPolicy, load_policy

CARD = "asked.json"


class AskedLM(Asked):
    """A language model that is always asked for one level; its KL to a model that is asked for nothing is exact."""

    def __init__(self, lm: LMPolicy, tell: TokenInFront, level: int) -> None:
        """Ask `lm` for `level`, told by `tell`."""
        super().__init__(lm, tell, level)
        self.lm, self.token = lm, tell

    @property
    def module(self) -> Any:
        """What is trained."""
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

    def kl_BT(self, reference: Any, episodes: Episodes) -> Tensor:
        """Return the full-vocabulary KL of every decision to the reference, which reads the prompts as they are; nats, no gradient.

        Raises:
            ConfigError: the reference is no LMPolicy over the same vocabulary.
        """
        if not isinstance(reference, LMPolicy):
            raise ConfigError(
                f"the KL of a language model needs an LMPolicy as reference, got {type(reference).__name__}"
            )
        level_B = torch.full((len(episodes),), self.level)
        return self.lm.kl_BT(reference, told(episodes, level_B, self.tell), read=episodes)

    def save(self, path: Path) -> None:
        """Write the model, and beside it the tokens of the levels and the level that it is asked for."""
        self.lm.save(path)
        (path / CARD).write_text(json.dumps({**asdict(self.token), "level": self.level}, indent=2), encoding="utf-8")


def load_asked(path: Path) -> LMPolicy | AskedLM:
    """Load a saved policy as it is meant to be used: asked for its level, where it was trained to be asked.

    Raises:
        DataError: a missing or broken checkpoint, or a card that says no tokens and level.
    """
    policy = load_policy(path)
    if not (path / CARD).is_file():
        return policy
    try:
        card = json.loads((path / CARD).read_text(encoding="utf-8"))
        return AskedLM(policy, TokenInFront(tuple(map(int, card["tokens"])), int(card["after"])), int(card["level"]))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path / CARD} is damaged ({error!r}); expected tokens, after and level") from error
