"""The data that travels round the loop: items, queries, judgements, episodes, estimates.

Everything here is a frozen dataclass without behaviour of its own beyond validation, selection and
concatenation. There is deliberately no field for ground truth on an `Item`: see `backflip.truth`.
This module must import without torch (the command line and the store use it); tensors appear in annotations only.

Shapes: B rows, T decisions (tokens for text, steps for control), P prompt tokens.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from backflip.errors import DataError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Kind = Literal["compare", "rate", "rank", "write"]
PAD = -1
"""Fills `obs` on the left and `action` on the right; never a valid token."""


def digest(value: object) -> str:
    """Hash a JSON-able value to 32 hexadecimal digits, independent of key order and of the process."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Item:
    """One thing to be judged: what a judge sees, and the payload from which a world rebuilds the episode."""

    prompt: str
    """What the policy was given, as a judge reads it."""
    content: str
    """What the policy made of it, as a judge reads it (text), or the name of the clip (control)."""
    payload: Mapping[str, Any]
    """JSON-able; enough for `World.load` in a fresh process, e.g. token ids."""
    author: str = "policy"
    """Who made it: a policy's hash, a data set, a person. Part of the id: two authors make two items."""
    media: Literal["text", "clip"] = "text"

    @property
    def id(self) -> str:
        """Content hash: equal items have equal ids in every process."""
        return digest([self.media, self.prompt, self.content, dict(self.payload), self.author])


@dataclass(frozen=True)
class Aid:
    """Something put beside a query to help its judge: a critique, a debate turn, a source."""

    author: str
    text: str
    item_id: str | None = None
    """The aid's own item, so that an assistant in training can be rewarded when the verdict arrives."""


@dataclass(frozen=True)
class Query:
    """A question about items, in the order in which the runner stored them."""

    items: tuple[Item, ...]
    question: str
    kind: Kind = "compare"
    aids: tuple[Aid, ...] = ()
    instruction: str = "1"
    """Version of the instructions the judge works under."""
    repeat: int = 0
    """Which of several askings of the same question this is."""
    order: tuple[int, ...] = ()
    """`order[k]` is the index of the item shown at place k; drawn by the runner, not part of the id. Empty: as stored."""
    reason: str = "random"
    """Why this query was chosen."""

    @property
    def id(self) -> str:
        """Hash of items, question, kind, aids, instruction version and repeat: asking is idempotent by it."""
        aids = [[aid.author, aid.text, aid.item_id] for aid in self.aids]
        return digest([[item.id for item in self.items], self.question, self.kind, aids, self.instruction, self.repeat])


@dataclass(frozen=True)
class Judgement:
    """One overseer's answer to one query. `answer=None` means could not judge, and `note` says why."""

    query_id: str
    judge: str
    answer: tuple[float, ...] | None
    """compare / rank: `answer[i]` is the probability that item i (as stored, not as shown) is best; a tie is equal shares.
    rate: the score in [0, 1]."""
    note: str = ""
    strength: float = 1.0
    """Weight of this judgement in the fit; 1 is an ordinary answer."""
    created: float = 0.0
    """Seconds since 1970; 0 in runs that must repeat to the bit."""
    seconds: float | None = None
    """How long judging took, or None where nobody measured."""
    details: Mapping[str, Any] = field(default_factory=dict[str, Any])
    stored_id: str = field(default="", compare=False, repr=False)
    """The id under which a store keeps it, empty where none does yet: the hash of what it said at first, whatever was erased since."""

    def __post_init__(self) -> None:
        if self.answer is None:
            return
        if not self.answer or not all(0.0 <= share <= 1.0 for share in self.answer):
            raise DataError(
                f"an answer must hold probabilities in [0, 1], got {self.answer}; use None for 'could not judge'"
            )
        if len(self.answer) > 1 and abs(sum(self.answer) - 1.0) > 1e-6:
            raise DataError(f"the shares of an answer must sum to 1, got {self.answer}")


@dataclass(frozen=True)
class Estimate:
    """A measured number: value, a 95 % interval, and how many independent units it rests on."""

    value: float
    low: float
    high: float
    n: int

    def as_json(self) -> dict[str, float | int]:
        """Return the form used in `summary.json`."""
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n}


@dataclass(frozen=True)
class Act:
    """What a policy did with a batch of observations. Shapes as in `Episodes`; T is the longest row's decisions."""

    action: Tensor
    mask_BT: Tensor
    logp_BT: Tensor
    ended_B: Tensor
    """True where the row ended by the policy's own decision (for text: the end token); False where it was cut."""
    value_BT: Tensor | None = None


@dataclass(frozen=True)
class Evaluation:
    """What a policy says about given episodes, with gradients. All (B, T), zero where the mask is False."""

    logp_BT: Tensor
    entropy_BT: Tensor
    value_BT: Tensor | None = None


@dataclass(frozen=True)
class Episodes:
    """Rows of decisions, text or control alike. A text row is one whole turn; a reward sits on the last decision.

    obs      text: (B, P) int64 prompt tokens, filled on the left with PAD; control: (B, T + 1, ...), the last one what came of it
    action   text: (B, T) int64 answer tokens, filled on the right with PAD; control: (B, T, ...)
    """

    obs: Tensor
    action: Tensor
    mask_BT: Tensor
    """bool; True where this policy decided; False on padding and on others' tokens."""
    logp_BT: Tensor | None
    """nats, under the policy that acted, at the sampling temperature; 0 where masked; None for demonstrations."""
    bootstrap_B: Tensor
    """0 where the row ended; the value of the next state where it was merely cut. A scored text has ended."""
    group_B: Tensor
    """int64; rows of one pair or group (one prompt) share a number."""
    value_BT: Tensor | None = None
    ref_logp_BT: Tensor | None = None
    reward_BT: Tensor | None = None
    scene: Tensor | None = None
    """control: (B, T + 1, ...), what `World.show` draws a row from and a judge judges it by; no policy and no reward model reads it."""
    item_B: tuple[str, ...] = ()
    """Item ids, or empty before `World.show`."""

    def __post_init__(self) -> None:
        rows = len(self.obs)
        for spec in fields(self):
            value = getattr(self, spec.name)
            if value is not None and (spec.name != "item_B" or value) and len(value) != rows:
                raise DataError(f"Episodes.{spec.name} has {len(value)} rows, expected {rows} as in obs")

    def __len__(self) -> int:
        return len(self.obs)

    def select(self, index: Tensor | Sequence[int]) -> Episodes:
        """Return the rows at integer positions `index`, in that order; padding is kept as it is."""
        import torch

        rows = torch.as_tensor(index, dtype=torch.long)
        picked: dict[str, Any] = {}
        for spec in fields(self):
            value = getattr(self, spec.name)
            if spec.name == "item_B":
                picked[spec.name] = tuple(value[i] for i in rows.tolist()) if value else ()
            else:
                picked[spec.name] = None if value is None else value[rows.to(value.device)]
        return Episodes(**picked)

    def to(self, device: torch.device | str) -> Episodes:
        """Move every tensor."""
        moved = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "item_B"}
        return replace(self, **{name: None if t is None else t.to(device) for name, t in moved.items()})


def concat(parts: Sequence[Episodes]) -> Episodes:
    """Stack episodes by rows; a prompt is filled on the left and time on the right, with PAD / False / 0.

    A prompt is `obs` of whole numbers, (B, P); any other `obs` runs along time, (B, T, ...), and is filled with 0.

    Group numbers are kept as they are: the caller makes them distinct. A field that any part lacks is dropped.
    """
    import torch

    if not parts:
        raise DataError("cannot concatenate no episodes; expected at least one part")

    def stack(name: str) -> Any:
        values = [getattr(part, name) for part in parts]
        if any(value is None for value in values):
            return None
        if name in ("bootstrap_B", "group_B"):
            return torch.cat(values)
        width = max(value.shape[1] for value in values)
        tokens = values[0].ndim == 2 and not values[0].is_floating_point()
        fill = PAD if name in ("obs", "action") and tokens else 0
        padded: list[Tensor] = []
        for value in values:
            shape = (value.shape[0], width, *value.shape[2:])
            block = value.new_full(shape, fill)
            if name == "obs" and tokens:
                block[:, width - value.shape[1] :] = value
            else:
                block[:, : value.shape[1]] = value
            padded.append(block)
        return torch.cat(padded)

    merged = {spec.name: stack(spec.name) for spec in fields(Episodes) if spec.name != "item_B"}
    items = tuple(name for part in parts for name in part.item_B) if all(part.item_B for part in parts) else ()
    return Episodes(**merged, item_B=items)
