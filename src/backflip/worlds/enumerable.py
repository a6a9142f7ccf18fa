"""A world so small that every answer can be listed, and a policy that is a table over it.

Nothing has to be estimated here: KL, entropy, expected reward and the best policy under a KL penalty are exact, so a
claim about an optimiser or a measure is an assertion. Left out: anything that generalises; every prefix has its own
row of the table.

Shapes: B rows, T decisions, P prompt columns, K prompts, C completions, X prefixes, V tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from backflip.data import PAD, Act, Episodes, Evaluation, Item
from backflip.errors import ConfigError, DataError
from backflip.protocols import Policy

END = 0
"""The token that ends an answer; the others are words."""


class EnumerableWorld:
    """Answers over a tiny vocabulary that end with `END` or are cut after `length` tokens; all of them are listed.

    Prompt k is k + 1 times the token k, so prompts differ in width and `obs` is really filled on the left.
    """

    def __init__(self, vocabulary: int = 3, length: int = 3, prompts: int = 1, group_size: int = 1) -> None:
        """List the world. `vocabulary` counts `END`. Raises ConfigError where over 4,096 answers would be listed."""
        answers = sum((vocabulary - 1) ** k for k in range(length)) + (vocabulary - 1) ** length
        if vocabulary < 2 or length < 1 or prompts < 1 or group_size < 1 or answers > 4096:
            raise ConfigError(
                f"vocabulary {vocabulary}, length {length}, prompts {prompts}, group_size {group_size}: expected at "
                f"least 2, 1, 1, 1 and at most 4096 answers, got {answers}"
            )
        self.vocabulary, self.length, self.prompts, self.group_size = vocabulary, length, prompts, group_size
        words = range(1, vocabulary)
        self.prefixes: list[tuple[int, ...]] = [p for n in range(length) for p in product(words, repeat=n)]
        """Everything after which a decision is due; X of them."""
        self.completions: list[tuple[int, ...]] = [(*p, END) for p in self.prefixes]
        self.completions += list(product(words, repeat=length))
        """Every answer, `END` included; C of them."""
        self._number = {completion: index for index, completion in enumerate(self.completions)}
        place = {prefix: index for index, prefix in enumerate(self.prefixes)}
        children = [[place.get((*p, v), 0) if v else 0 for v in range(vocabulary)] for p in self.prefixes]
        self.child_XV = torch.tensor(children)
        """The prefix that follows a prefix and a word; 0 where none follows."""
        self._position = 0

    def collect(self, policy: Policy, n: int, rng: np.random.Generator) -> Episodes:
        """Return n rows; `group_size` rows in turn share a prompt, prompts take turns, rows that are cut have ended."""
        group_B = torch.arange(self._position, self._position + n) // self.group_size
        self._position += n
        obs_BP = self.obs_BP(group_B % self.prompts)
        act = policy.act(obs_BP, rng)
        return Episodes(
            obs=obs_BP,
            action=act.action,
            mask_BT=act.mask_BT,
            logp_BT=act.logp_BT,
            bootstrap_B=torch.zeros(n),
            group_B=group_B,
            value_BT=act.value_BT,
        )

    def show(self, episodes: Episodes) -> list[Item]:
        """Return one item a row: the prompt's number and the answer's tokens."""
        items: list[Item] = []
        numbers_B = self.completion_B(episodes)
        for prompt, number in zip(self.prompt_B(episodes).tolist(), numbers_B.tolist(), strict=True):
            tokens = list(self.completions[number])
            payload = {"prompt": prompt, "tokens": tokens}
            items.append(Item(prompt=f"prompt {prompt}", content=" ".join(map(str, tokens)), payload=payload))
        return items

    def load(self, items: Sequence[Item]) -> Episodes:
        """Rebuild rows from items, without log-probabilities; row i is its own group."""
        for item in items:
            if not 0 <= item.payload["prompt"] < self.prompts or tuple(item.payload["tokens"]) not in self._number:
                raise DataError(
                    f"item {item.id} is no answer of this world: {dict(item.payload)}; expected a prompt below "
                    f"{self.prompts} and at most {self.length} tokens below {self.vocabulary}, ended by {END}"
                )
        prompt_B = torch.tensor([item.payload["prompt"] for item in items], dtype=torch.long)
        return self.rows(prompt_B, [tuple(item.payload["tokens"]) for item in items])

    def state_dict(self) -> dict[str, Any]:
        """Return how many rows were collected."""
        return {"position": self._position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after that many rows."""
        self._position = int(state["position"])

    def obs_BP(self, prompt_B: Tensor) -> Tensor:
        """Return the prompt tokens of these prompts, filled on the left."""
        written_BP = torch.arange(self.prompts) >= self.prompts - 1 - prompt_B.unsqueeze(1)
        return torch.where(written_BP, prompt_B.unsqueeze(1), PAD)

    def prompt_B(self, episodes: Episodes) -> Tensor:
        """Return the prompt's number of every row."""
        return episodes.obs[:, -1]

    def completion_B(self, episodes: Episodes) -> Tensor:
        """Return the number of every row's answer among `completions`. Raises DataError for what is no answer."""
        numbers: list[int] = []
        for action, mask in zip(episodes.action.tolist(), episodes.mask_BT.tolist(), strict=True):
            answer = tuple(token for token, decided in zip(action, mask, strict=True) if decided)
            if answer not in self._number:
                raise DataError(
                    f"{answer} is no answer of this world: expected one that ends with {END} or has {self.length} words"
                )
            numbers.append(self._number[answer])
        return torch.tensor(numbers, dtype=torch.long)

    def rows(self, prompt_B: Tensor, answers: Sequence[tuple[int, ...]]) -> Episodes:
        """Return given answers to given prompts as demonstrations; row i is its own group."""
        width = max(map(len, answers))
        action_BT = torch.tensor([[*answer, *[PAD] * (width - len(answer))] for answer in answers])
        return Episodes(
            obs=self.obs_BP(prompt_B),
            action=action_BT,
            mask_BT=action_BT != PAD,
            logp_BT=None,
            bootstrap_B=torch.zeros(len(answers)),
            group_B=torch.arange(len(answers)),
        )

    def everything(self) -> Episodes:
        """Return every answer to every prompt, K * C rows, prompts outermost."""
        prompt_B = torch.arange(self.prompts).repeat_interleave(len(self.completions))
        return self.rows(prompt_B, self.completions * self.prompts)


class TableReward:
    """A reward model that looks the whole answer up."""

    def __init__(self, world: EnumerableWorld, score_KC: Tensor) -> None:
        """Keep the score of every answer to every prompt."""
        self.world, self.score_KC = world, score_KC

    def __call__(self, episodes: Episodes) -> Tensor:
        """Return reward_BT: the score on the last decision."""
        score_B = self.score_KC[self.world.prompt_B(episodes), self.world.completion_B(episodes)].float()
        last_B = episodes.mask_BT.sum(1) - 1
        reward_BT = torch.zeros(episodes.mask_BT.shape)
        reward_BT[torch.arange(len(episodes)), last_B] = score_B
        return reward_BT


class TabularPolicy(nn.Module):
    """Logits, and optionally a value, for every prompt and prefix; everything about it is exact."""

    def __init__(
        self,
        world: EnumerableWorld,
        rng: np.random.Generator | None = None,
        *,
        scale: float = 1.0,
        values: bool = True,
        temperature: float = 1.0,
    ) -> None:
        """Draw logits from N(0, scale); without `rng` every token is as likely as the next. Values start at 0."""
        super().__init__()
        self.world, self.temperature = world, temperature
        shape = (world.prompts, len(world.prefixes), world.vocabulary)
        logits = np.zeros(shape) if rng is None else rng.normal(0.0, scale, shape)
        self.logits_KXV = nn.Parameter(torch.tensor(logits, dtype=torch.float32))
        self.value_KX = nn.Parameter(torch.zeros(shape[:2])) if values else None

    def logp_KXV(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return log-probabilities at the sampling temperature: the one place where logits become them."""
        return torch.log_softmax(self.logits_KXV.to(dtype) / self.temperature, dim=-1)

    def act(self, obs: Tensor, rng: np.random.Generator) -> Act:
        """Sample one whole answer a row, with one uniform number a row and token from `rng`."""
        rows, world = len(obs), self.world
        prefix_B, alive_B = torch.zeros(rows, dtype=torch.long), torch.ones(rows, dtype=torch.bool)
        action_BT = torch.full((rows, world.length), PAD)
        with torch.no_grad():
            cumulative_KXV = self.logp_KXV(torch.float64).exp().cumsum(-1)
        for t in range(world.length):
            uniform_B1 = torch.as_tensor(rng.random(rows)).unsqueeze(1)
            token_B = (cumulative_KXV[obs[:, -1], prefix_B] < uniform_B1).sum(1).clamp(max=world.vocabulary - 1)
            action_BT[:, t] = torch.where(alive_B, token_B, PAD)
            alive_B = alive_B & (token_B != END)
            prefix_B = torch.where(alive_B, world.child_XV[prefix_B, token_B], 0)
        mask_BT = action_BT != PAD
        taken = Episodes(obs, action_BT, mask_BT, None, torch.zeros(rows), torch.zeros(rows, dtype=torch.long))
        with torch.no_grad():
            evaluation = self.evaluate(taken)
        return Act(action_BT, mask_BT, evaluation.logp_BT, (action_BT == END).any(1), evaluation.value_BT)

    def evaluate(self, episodes: Episodes) -> Evaluation:
        """Look up log-probability, entropy and value of every decision, with gradients."""
        mask_BT, prefix_BT = episodes.mask_BT, self._prefix_BT(episodes)
        logp_BTV = self.logp_KXV()[episodes.obs[:, -1:], prefix_BT]
        token_BT = torch.where(mask_BT, episodes.action, 0)
        picked_BT = logp_BTV.gather(-1, token_BT.unsqueeze(-1)).squeeze(-1)
        entropy_BT = -(logp_BTV.exp() * logp_BTV).sum(-1)
        value_BT = None if self.value_KX is None else self.value_KX[episodes.obs[:, -1:], prefix_BT] * mask_BT
        return Evaluation(picked_BT * mask_BT, entropy_BT * mask_BT, value_BT)

    def kl_BT(self, reference: Policy, episodes: Episodes) -> Tensor:
        """Return KL(self || reference) of every decision over all tokens, nats, 0 where masked."""
        if not isinstance(reference, TabularPolicy):
            raise ConfigError(f"a table can only be compared with another table, got a {type(reference).__name__}")
        with torch.no_grad():
            mine_KXV, other_KXV = self.logp_KXV(), reference.logp_KXV()
            kl_KX = (mine_KXV.exp() * (mine_KXV - other_KXV)).sum(-1)
            return kl_KX[episodes.obs[:, -1:], self._prefix_BT(episodes)] * episodes.mask_BT

    def completion_logp_KC(self) -> Tensor:
        """Return the log-probability of every answer, float64, with gradients."""
        episodes = self.world.everything()
        logp_BTV = self.logp_KXV(torch.float64)[episodes.obs[:, -1:], self._prefix_BT(episodes)]
        token_BT = torch.where(episodes.mask_BT, episodes.action, 0)
        picked_BT = logp_BTV.gather(-1, token_BT.unsqueeze(-1)).squeeze(-1)
        return (picked_BT * episodes.mask_BT).sum(1).view(self.world.prompts, -1)

    def _prefix_BT(self, episodes: Episodes) -> Tensor:
        """Return the number of the prefix at every decision, 0 where masked."""
        prefix_B, columns = torch.zeros(len(episodes), dtype=torch.long), list[Tensor]()
        for t in range(episodes.action.shape[1]):
            columns.append(prefix_B)
            token_B = torch.where(episodes.mask_BT[:, t], episodes.action[:, t], END)
            prefix_B = self.world.child_XV[prefix_B, token_B]
        return torch.stack(columns, 1) * episodes.mask_BT


def exact_kl(logp_KC: Tensor, reference_KC: Tensor) -> Tensor:
    """Return KL(policy || reference) over whole answers for every prompt, nats; answers of probability 0 count 0."""
    p_KC = logp_KC.exp()
    return torch.where(p_KC > 0, p_KC * (logp_KC - reference_KC), 0.0).sum(-1)


def exact_expected(logp_KC: Tensor, score_KC: Tensor) -> Tensor:
    """Return the expected score for every prompt."""
    return (logp_KC.exp() * score_KC).sum(-1)


def exact_entropy(logp_KC: Tensor) -> Tensor:
    """Return the entropy over whole answers for every prompt, nats."""
    p_KC = logp_KC.exp()
    return -torch.where(p_KC > 0, p_KC * logp_KC, 0.0).sum(-1)


def optimum(reference_KC: Tensor, score_KC: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Return the policy that maximises E[score] - beta * KL(. || reference), and that maximum.

    Log-probabilities (K, C) of pi0 * exp(score / beta) / Z, and beta * ln Z (K,), both float64.
    """
    tilted_KC = reference_KC.double() + score_KC.double() / beta
    log_z_K = torch.logsumexp(tilted_KC, -1)
    return tilted_KC - log_z_K.unsqueeze(1), beta * log_z_K
