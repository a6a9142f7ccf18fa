"""The world of texts: prompts that a policy answers, one turn a row.

A row is a prompt and a whole answer; the reward will sit on its last decision. What it leaves out: reading prompt files
(`worlds/prompts.py`) and sampling itself (`policies/sampler.py`).

Shapes: B rows, P prompt tokens (filled on the left with PAD), T answer tokens (filled on the right with PAD),
E end tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backflip.data import PAD, Episodes, Item
from backflip.errors import ConfigError, DataError
from backflip.protocols import Policy
from backflip.worlds.prompts import Prompt, chat_prompt, prompt_tokens, text_tokens


class TextWorld:
    """Prompts in shuffled passes, each pass in an order of its own, `group_size` rows to a prompt."""

    def __init__(
        self,
        prompts: Sequence[Prompt | str],
        tokenizer: Any,
        *,
        group_size: int = 1,
        seed: int = 0,
        chat: bool = True,
        end_tokens: Sequence[int] | None = None,
    ) -> None:
        """Tokenise the prompts once. `chat=False` keeps plain prompts out of the tokenizer's chat template.

        `end_tokens` None takes the tokenizer's; give `policy.end_tokens` where a policy may end with others too.
        Raises DataError for no prompts or one that cannot be tokenised (named by its place), ConfigError for a group below 1.
        """
        if not prompts:
            raise DataError("a text world needs prompts, got none; expected at least one")
        if group_size < 1:
            raise ConfigError(f"group_size must be at least 1, got {group_size}")
        self.tokenizer = tokenizer
        self.group_size = group_size
        self.seed = seed
        self.chat = chat
        own = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
        self.end_tokens = tuple(own if end_tokens is None else end_tokens)
        self.prompts = [Prompt(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
        self.tokens = [self._tokens(place, prompt) for place, prompt in enumerate(self.prompts)]
        # What a judge reads is the prompt as it was written, not its tokens turned back into text.
        self.written = {tuple(tokens): prompt.text for tokens, prompt in zip(self.tokens, self.prompts, strict=True)}
        self.drawn = 0
        self.order_pass, self.order = -1, np.empty(0, dtype=np.int64)

    def _tokens(self, place: int, prompt: Prompt) -> list[int]:
        try:
            return prompt_tokens(prompt, self.tokenizer, chat=self.chat)
        except DataError as error:
            raise DataError(f"prompt {place + 1}: {error}") from error

    # -- the World protocol ------------------------------------------------------------------------------------------

    def collect(self, policy: Policy, n: int, rng: np.random.Generator) -> Episodes:
        """Let the policy answer the next prompts: n rows, the rows of one prompt together, its group number in `group_B`.

        Raises ConfigError when n is no multiple of the group size.
        """
        if n < 1 or n % self.group_size:
            raise ConfigError(f"rows must be a positive multiple of the group size {self.group_size}, got {n}")
        groups = n // self.group_size
        rows = [tokens for _ in range(groups) for tokens in [self._next()] * self.group_size]
        group_B = torch.arange(self.drawn - groups, self.drawn).repeat_interleave(self.group_size)
        return answer(policy, pad_left(rows), group_B, rng)

    def show(self, episodes: Episodes) -> list[Item]:
        """Return one item a row: the prompt as written, the answer as text, and the tokens of both as payload."""
        items: list[Item] = []
        for obs_P, action_T, mask_T in zip(
            episodes.obs.tolist(), episodes.action.tolist(), episodes.mask_BT.tolist(), strict=True
        ):
            prompt = [token for token in obs_P if token != PAD]
            said = [(token, decided) for token, decided in zip(action_T, mask_T, strict=True) if token != PAD]
            tokens = [token for token, _ in said]
            payload: dict[str, Any] = {
                "prompt_tokens": prompt,
                "answer_tokens": tokens,
                "ended": bool(tokens) and tokens[-1] in self.end_tokens,
            }
            if not all(decided for _, decided in said):
                payload["decided"] = [decided for _, decided in said]
            items.append(Item(self._prompt_text(prompt), self.answer_text(tokens), payload))
        return items

    def load(self, items: Sequence[Item]) -> Episodes:
        """Rebuild episodes: from tokens, or from `answer_text` and `prompt_text` or `prompt_messages` (tokenised, end token added).

        Rows of one prompt share a group. `logp_BT` is None: these are answers, by whomever. Raises DataError for a payload without either.
        """
        if not items:
            raise DataError("no items to load; expected at least one")
        prompts: list[list[int]] = []
        answers: list[list[int]] = []
        decided: list[list[bool]] = []
        for item in items:
            prompt, tokens = self._payload(item)
            prompts.append(prompt)
            answers.append(tokens)
            decided.append(list(item.payload.get("decided") or [True] * len(tokens)))
        numbers: dict[tuple[int, ...], int] = {}
        group_B = torch.tensor([numbers.setdefault(tuple(prompt), len(numbers)) for prompt in prompts])
        action_BT = _pad_right(answers, PAD)
        mask_BT = _pad_right(decided, False).bool()
        return Episodes(
            obs=pad_left(prompts),
            action=action_BT,
            mask_BT=mask_BT,
            logp_BT=None,
            bootstrap_B=torch.zeros(len(items)),
            group_B=group_B,
            item_B=tuple(item.id for item in items),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return how many prompts were drawn; with the seed that says everything."""
        return {"drawn": self.drawn, "seed": self.seed, "prompts": len(self.prompts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken. Raises DataError when it was taken in a world of other prompts or another seed."""
        if (state["seed"], state["prompts"]) != (self.seed, len(self.prompts)):
            raise DataError(
                f"the saved position is of seed {state['seed']} and {state['prompts']} prompts, this world has seed {self.seed} "
                f"and {len(self.prompts)}; resume with the prompts and the seed of the run"
            )
        self.drawn = state["drawn"]

    def ended_B(self, episodes: Episodes) -> Tensor:
        """Return True where an answer's last token is an end token: False where it was cut at the longest length."""
        ends_E = torch.tensor(self.end_tokens, dtype=torch.long, device=episodes.action.device)
        # Padding on the right is no token, so an end token anywhere else than last would have ended the answer there.
        last_B1 = ((episodes.action != PAD).sum(1, keepdim=True) - 1).clamp(min=0)
        return (episodes.action.gather(1, last_B1) == ends_E).any(1)

    # -- texts -------------------------------------------------------------------------------------------------------

    def answer_text(self, tokens: Sequence[int]) -> str:
        """Return the text of an answer, without end and other special tokens."""
        return self.tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def _prompt_text(self, tokens: list[int]) -> str:
        known = self.written.get(tuple(tokens))
        return self.answer_text(tokens) if known is None else known

    def _payload(self, item: Item) -> tuple[list[int], list[int]]:
        payload: Mapping[str, Any] = item.payload
        if "prompt_tokens" in payload and "answer_tokens" in payload:
            return list(payload["prompt_tokens"]), list(payload["answer_tokens"])
        if "answer_text" in payload and ("prompt_text" in payload or "prompt_messages" in payload):
            prompt = prompt_tokens(self._written_prompt(item), self.tokenizer, chat=self.chat)
            tokens = text_tokens(payload["answer_text"], self.tokenizer, special=False)
            end: int | None = self.tokenizer.eos_token_id
            if end is not None and (not tokens or tokens[-1] != end):
                tokens.append(end)
            return prompt, tokens
        raise DataError(
            f"item {item.id} cannot be loaded as text: its payload has {sorted(payload)}; expected prompt_tokens and answer_tokens, "
            "or answer_text with prompt_text or prompt_messages"
        )

    def _written_prompt(self, item: Item) -> Prompt:
        if "prompt_messages" not in item.payload:
            return Prompt(item.payload["prompt_text"])
        try:
            return chat_prompt(item.payload["prompt_messages"])
        except ValueError as error:
            raise DataError(f"the prompt of item {item.id} is no chat: {error}") from error

    def _next(self) -> list[int]:
        """Return the next prompt of the current pass."""
        which, place = divmod(self.drawn, len(self.prompts))
        if which != self.order_pass:
            self.order_pass = which
            self.order = np.random.default_rng([self.seed, which]).permutation(len(self.prompts))
        self.drawn += 1
        return self.tokens[int(self.order[place])]


def answer(policy: Policy, obs_BP: Tensor, group_B: Tensor, rng: np.random.Generator) -> Episodes:
    """Let a policy answer given prompts and return the rows as scored texts: each has ended, whatever cut it."""
    act = policy.act(obs_BP, rng)
    device = act.action.device
    return Episodes(
        obs=obs_BP.to(device),
        action=act.action,
        mask_BT=act.mask_BT,
        logp_BT=act.logp_BT,
        bootstrap_B=torch.zeros(len(obs_BP), device=device),
        group_B=group_B.to(device),
        value_BT=act.value_BT,
    )


def pad_left(rows: Sequence[Sequence[int]]) -> Tensor:
    """Return prompts of unlike lengths as one (B, P) tensor, filled on the left with PAD."""
    width = max(len(row) for row in rows)
    return torch.tensor([[PAD] * (width - len(row)) + list(row) for row in rows], dtype=torch.long)


def _pad_right(rows: Sequence[Sequence[int | bool]], fill: int | bool) -> Tensor:
    width = max(1, max(len(row) for row in rows))
    return torch.tensor([list(row) + [fill] * (width - len(row)) for row in rows], dtype=torch.long)
