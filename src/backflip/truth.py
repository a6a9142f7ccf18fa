"""Ground truth: what the synthetic teacher consults, what measures measure with, and what no learner may see.

Only `overseers/synthetic` and `measures` import this module (a house test), and `GuardedTruth` enforces the same while
a run is going on. Needs numpy alone: no torch, and nothing shared with any reward model. Fitting is in `measures/gold`.
"""

from __future__ import annotations

import inspect
import json
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from backflip.data import Item
from backflip.errors import DataError

if TYPE_CHECKING:
    from backflip.store import Store

FORMAT = "backflip gold judge 1"
WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?|[!?]|\.\.\.|--|[,;:]")
START, END = "<s>", "</s>"
GRAM_LENGTHS = (3, 4, 5)
CACHED_WORDS = 200_000
READERS = ("backflip.overseers.synthetic", "backflip.measures")


class Truth(Protocol):
    """The hidden reward of an item, one number a decision (text: one number)."""

    def __call__(self, item: Item) -> NDArray[np.float64]:
        """Return array_T; its sum is the worth of the item."""
        ...


def text_of(item: Item) -> str:
    """Join prompt and answer as one text: as they stand if the answer brings its space or punctuation, else with a space."""
    glued = not item.prompt or not item.content or not item.content[0].isalnum() or item.prompt[-1].isspace()
    return item.prompt + ("" if glued else " ") + item.content


def words_of(text: str) -> list[str]:
    """Split a text into the lower-case words and marks that the gold judge knows."""
    return WORD.findall(text.lower().replace("\u2019", "'"))


def grams_of(word: str) -> list[str]:
    """List the character n-grams of one word, its borders marked ^ and $; they carry unseen forms of seen words."""
    marked = f"^{word}$"
    return [marked[i : i + n] for n in GRAM_LENGTHS if len(marked) > n for i in range(len(marked) - n + 1)]


def damping(words: int, offset: float) -> float:
    """Return the factor that keeps long texts from being extreme: 1 / sqrt(words + offset)."""
    return (words + offset) ** -0.5


@dataclass(frozen=True)
class GoldJudge:
    """A classifier of short texts trained on human labels: a logit that sums over words, word pairs and letters.

    `score = bias + (sum of the weights of the distinct words, their character n-grams, and the distinct pairs of
    neighbours) / sqrt(words + offset)`, scaled to a calibrated log-odds of "a person would call this positive". A
    repeated word counts once in the sum and each time in the length, so repeating does not pay.
    """

    word: Mapping[str, float]
    pair: Mapping[tuple[str, str], float]
    gram: Mapping[str, float]
    bias: float
    offset: float
    card: Mapping[str, object] = field(default_factory=dict[str, object])
    """Where it comes from: data hash, counts, settings, held-out accuracy."""
    _seen: dict[str, float] = field(default_factory=dict[str, float], repr=False, compare=False)

    def score(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return one logit a text; positive means that a person would probably call it a good review."""
        return np.array([self._score(text) for text in texts], dtype=np.float64)

    def __call__(self, item: Item) -> NDArray[np.float64]:
        """Return the logit of prompt and answer together, as an array of one number."""
        return self.score([text_of(item)])

    def _score(self, text: str) -> float:
        words = words_of(text)
        total = sum(map(self._word, dict.fromkeys(words)))
        pairs = dict.fromkeys(zip([START, *words], [*words, END], strict=True))
        total += sum(filter(None, map(self.pair.get, pairs)))
        return self.bias + total * damping(len(words), self.offset)

    def _word(self, word: str) -> float:
        known = self._seen.get(word)
        if known is None:
            known = self.word.get(word, 0.0) + sum(self.gram.get(gram, 0.0) for gram in grams_of(word))
            if len(self._seen) < CACHED_WORDS:
                self._seen[word] = known
        return known

    def save(self, path: Path) -> None:
        """Write one safetensors file, atomically: words and n-grams compressed, weights in 16 bits.

        A saved and loaded judge scores within 16-bit rounding of this one; a second round trip changes nothing.
        """
        from safetensors.numpy import save

        from backflip.checkpoint import write_atomic

        number = {START: 0, END: 1}
        for word in sorted({*self.word, *(part for pair in self.pair for part in pair)} - set(number)):
            number[word] = len(number)
        pairs = sorted(self.pair, key=lambda pair: (number[pair[0]], number[pair[1]]))
        grams = sorted(self.gram)
        tensors = {
            "words": _pack(list(number)),
            "word_weight": np.array([self.word.get(word, 0.0) for word in number], dtype=np.float16),
            "pairs": np.array([[number[a], number[b]] for a, b in pairs], dtype=np.uint16).reshape(-1, 2),
            "pair_weight": np.array([self.pair[pair] for pair in pairs], dtype=np.float16),
            "grams": _pack(grams),
            "gram_weight": np.array([self.gram[gram] for gram in grams], dtype=np.float16),
        }
        if len(number) > np.iinfo(np.uint16).max:
            raise DataError(
                f"a gold judge of {len(number)} words cannot be saved; expected at most 65,535: raise min_words"
            )
        meta = {
            "format": FORMAT,
            "bias": repr(self.bias),
            "offset": repr(self.offset),
            "card": json.dumps(dict(self.card)),
        }
        write_atomic(path, save(tensors, metadata=meta))

    @classmethod
    def load(cls, path: Path) -> GoldJudge:
        """Read a judge written by `save`.

        Raises:
            DataError: the file is missing, truncated or something else.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                meta = file.metadata() or {}
                if meta.get("format") != FORMAT:
                    raise DataError(
                        f'{path} holds "{meta.get("format")}", expected "{FORMAT}"; train one with reviews_base'
                    )
                tensor = {name: file.get_tensor(name) for name in file.offset_keys()}
        except (OSError, SafetensorError) as error:
            raise DataError(
                f"cannot read the gold judge {path} ({error}); expected a file written by reviews_base"
            ) from error
        words = _unpack(tensor["words"])
        weight = tensor["word_weight"].astype(np.float64).tolist()
        pairs = tensor["pairs"].tolist()
        return cls(
            word={word: value for word, value in zip(words, weight, strict=True) if value},
            pair={
                (words[a], words[b]): value for (a, b), value in zip(pairs, _floats(tensor["pair_weight"]), strict=True)
            },
            gram=dict(zip(_unpack(tensor["grams"]), _floats(tensor["gram_weight"]), strict=True)),
            bias=float(meta["bias"]),
            offset=float(meta["offset"]),
            card=json.loads(meta["card"]),
        )


def _floats(array: NDArray[np.float16]) -> list[float]:
    return array.astype(np.float64).tolist()


def _pack(lines: list[str]) -> NDArray[np.uint8]:
    return np.frombuffer(zlib.compress("\n".join(lines).encode(), 9), dtype=np.uint8)


def _unpack(blob: NDArray[np.uint8]) -> list[str]:
    text = zlib.decompress(blob.tobytes()).decode()
    return text.split("\n") if text else []


class GuardedTruth:
    """A truth that raises unless the synthetic teacher or a measure asks: a run wraps its gold in one."""

    def __init__(self, truth: Callable[[Item], NDArray[np.float64]], readers: Sequence[str] = READERS) -> None:
        """Wrap `truth`; `readers` are the modules (or packages) whose code may call it directly."""
        self._truth = truth
        self._readers = tuple(readers)

    def __call__(self, item: Item) -> NDArray[np.float64]:
        """Return the wrapped truth.

        Raises:
            PermissionError: the caller is no reader. A fault of the program, not of its user, so not one of our four.
        """
        frame = inspect.currentframe()
        while frame is not None and frame.f_globals.get("__name__") == __name__:
            frame = frame.f_back
        caller = "nobody" if frame is None else str(frame.f_globals.get("__name__"))
        if not any(caller == reader or caller.startswith(reader + ".") for reader in self._readers):
            raise PermissionError(f"{caller} read the ground truth; only {' and '.join(self._readers)} may")
        return self._truth(item)


class StoredTruth:
    """A truth whose values are computed once and kept in the store under `name`."""

    def __init__(self, truth: Callable[[Item], NDArray[np.float64]], store: Store, name: str) -> None:
        """Keep the values of `truth` in `store` under `name`, which must change when the truth does."""
        self._truth, self._store, self._name = truth, store, name
        self._near: dict[str, list[float]] = {}

    def __call__(self, item: Item) -> NDArray[np.float64]:
        """Return the stored value, computing and storing it the first time."""
        if item.id not in self._near:
            self.keep([item])
        return np.array(self._near[item.id], dtype=np.float64)

    def keep(self, items: Sequence[Item]) -> None:
        """Compute and store what the store lacks of `items`, all at once; these values, and no others, stay in memory."""
        named = {item.id: item for item in items}
        self._near = self._store.truth(named, self._name)
        new = {key: [float(x) for x in self._truth(item)] for key, item in named.items() if key not in self._near}
        if new:
            self._store.add_truth(self._name, new)
            self._near |= new
