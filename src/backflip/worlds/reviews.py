"""The film reviews of the main job: reading them, cleaning them, and who may see which.

Texts are shared out once and for all by a hash of their letters: the base language model, the gold judge's training,
the gold judge's test, openings for training, openings for the test. A sentence that occurs twice goes to one place.
Left out: tokens (the world's) and the fit of base and judge (`experiments/reviews_base`).

Source: Pang & Lee 2004 and 2005, CC BY 4.0; see assets/reviews/ATTRIBUTION.md.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import re
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np

from backflip.data import digest
from backflip.errors import DataError

Source = Literal["sentence", "quote", "plot", "review"]
ZIPS = ("movie_reviews.zip", "sentence_polarity.zip", "subjectivity.zip")
SHARES = {"base": 0.42, "gold": 0.78, "gold_test": 0.85, "openings": 0.94, "openings_test": 1.0}
"""Upper end of each split of the snippets, as a share of the hash's range."""
REVIEW_SHARE_OF_BASE = 0.85
OPENING_WORDS = (2, 4)
MIN_REST_WORDS = 4
MAX_WORDS = 60


@dataclass(frozen=True)
class Raw:
    """One text as its source has it. `label` is 1 for positive, 0 for negative (from human stars), None where unknown."""

    source: Source
    label: int | None
    text: str


@dataclass(frozen=True)
class Splits:
    """Who may see what; the five are disjoint by the hash of the text."""

    base_snippets: list[tuple[str, int | None]]
    """Review sentences with the rating that their author gave, where one is known."""
    base_reviews: list[tuple[str, int | None]]
    """Sentences of whole reviews, with the rating of the whole review."""
    base_plots: list[tuple[str, int | None]]
    gold: list[tuple[str, int]]
    gold_reviews: list[tuple[str, int]]
    """Sentences of whole reviews that the base never saw; weak labels: the whole review's."""
    gold_test: list[tuple[str, int]]
    openings: list[str]
    openings_test: list[str]


def assets() -> Path:
    """Return the folder of what ships with the package for the main job."""
    return Path(str(files("backflip"))) / "assets" / "reviews"


def read_raw(data: Path | None = None) -> list[Raw]:
    """Read every text, from a folder with the three zip files, or from what ships in the package.

    Raises:
        DataError: a file is missing, broken, or not UTF-8.
    """
    if data is None:
        return _read_shipped(assets() / "corpus.jsonl.xz")
    missing = [name for name in ZIPS if not (data / name).is_file()]
    if missing:
        raise DataError(
            f"{data} lacks {', '.join(missing)}; give the folder that holds {', '.join(ZIPS)}, or no --data"
        )
    return list(_read_zips(data))


def write_shipped(raw: Iterable[Raw], path: Path) -> None:
    """Write texts in the compressed form that ships with the package."""
    lines = "".join(json.dumps([r.source, r.label, r.text], ensure_ascii=False) + "\n" for r in raw)
    path.write_bytes(lzma.compress(lines.encode(), preset=9 | lzma.PRESET_EXTREME))


def data_hash(raw: Iterable[Raw]) -> str:
    """Hash all texts in order: equal for the zip files and for what ships."""
    return digest([[r.source, r.label, r.text] for r in raw])


def split(raw: Iterable[Raw]) -> Splits:
    """Share the texts out. Depends on the texts and their order alone."""
    raw = list(raw)
    snippets = _unique((clean(r.text), r.label) for r in raw if r.source in ("sentence", "quote"))
    by_split: dict[str, list[tuple[str, int | None]]] = {name: [] for name in SHARES}
    for text, label in snippets:
        by_split[_split_of(text)].append((text, label))
    held = {key(text) for name in SHARES if name != "base" for text, _ in by_split[name]}
    base_reviews: list[tuple[str, int | None]] = []
    gold_reviews: list[tuple[str, int]] = []
    for review in raw:
        if review.source != "review" or review.label is None:
            continue
        sentences = [clean(line) for line in review.text.split("\n") if line.strip()]
        if share(review.text) < REVIEW_SHARE_OF_BASE:
            base_reviews += [(s, review.label) for s in sentences if key(s) not in held]
        else:
            gold_reviews += [(s, review.label) for s in sentences]
    rating = {key(text): label for text, label in reversed(base_reviews)}  # of equal sentences, the first one's
    plots = [(clean(r.text), None) for r in raw if r.source == "plot"]
    openings = _openings(by_split["openings"])
    known = {key(opening) for opening in openings}  # sentences of two parts may begin alike
    return Splits(
        base_snippets=by_split["base"],
        base_reviews=[(text, rating[key(text)]) for text, _ in _unique(row for row in base_reviews if _usable(row[0]))],
        base_plots=[(text, None) for text, _ in plots if key(text) not in held],
        gold=[(text, label) for text, label in by_split["gold"] if label is not None],
        gold_reviews=gold_reviews,
        gold_test=[(text, label) for text, label in by_split["gold_test"] if label is not None],
        openings=openings,
        openings_test=[opening for opening in _openings(by_split["openings_test"]) if key(opening) not in known],
    )


def read_openings(part: Literal["train", "test"]) -> list[str]:
    """Read the shipped openings: the first two to four words of review sentences that neither base nor judge has seen."""
    path = assets() / "openings.json"
    if not path.is_file():
        raise DataError(f"{path} is missing: this installation is incomplete; install the package again")
    return json.loads(path.read_text(encoding="utf-8"))[part]


def read_manifest() -> dict[str, Any]:
    """Read how what ships was made: `config`, `data_hash`, the loss `curve`, and its own `estimates`."""
    path = assets() / "manifest.json"
    if not path.is_file():
        raise DataError(f"{path} is missing: this installation is incomplete; install the package again")
    return json.loads(path.read_text(encoding="utf-8"))


def key(text: str) -> str:
    """Hash the letters and digits of a text, so that spacing and punctuation do not make it another text."""
    return hashlib.sha256(re.sub(r"[^a-z0-9]+", " ", text.lower()).strip().encode()).hexdigest()


def share(text: str) -> float:
    """Map a text to [0, 1) by its hash."""
    return int(key(text)[:12], 16) / 16**12


def clean(text: str) -> str:
    """Put punctuation back where people write it; the sources have a space around every mark."""
    words = re.sub(r"\s+", " ", text.strip().replace("`", "'")).split(" ")
    opened = False
    for i, word in enumerate(words):
        if word == '"':
            words[i], opened = ("\x02" if not opened else "\x03"), not opened
    line = " ".join(words).replace("\x02 ", '"').replace(" \x03", '"').replace("\x02", '"').replace("\x03", '"')
    line = re.sub(r" ([,.!?;:%)\]])", r"\1", line)
    line = re.sub(r"([(\[]) ", r"\1", line)
    return re.sub(r"(\w) (n't|'s|'re|'ve|'ll|'d|'m)\b", r"\1\2", line)


def _split_of(text: str) -> str:
    place = share(text)
    return next(name for name, end in SHARES.items() if place < end)


def _unique(rows: Iterable[tuple[str, int | None]]) -> list[tuple[str, int | None]]:
    first: dict[str, tuple[str, int | None]] = {}
    for text, label in rows:
        first.setdefault(key(text), (text, label))
    return list(first.values())


def _usable(sentence: str) -> bool:
    return 3 <= len(sentence.split()) <= MAX_WORDS


def _openings(rows: list[tuple[str, int | None]]) -> list[str]:
    """Cut each sentence after two to four words, the number drawn from its own hash; short sentences are left out."""
    found: dict[str, None] = {}
    low, high = OPENING_WORDS
    for text, _ in rows:
        words = text.split()
        count = int(np.random.default_rng(int(key(text)[:8], 16)).integers(low, high + 1))
        if len(words) >= count + MIN_REST_WORDS:
            found[" ".join(words[:count])] = None
    return list(found)


def _read_shipped(path: Path) -> list[Raw]:
    try:
        lines = lzma.decompress(path.read_bytes()).decode().rstrip("\n").split("\n")
        return [Raw(*json.loads(line)) for line in lines]
    except (OSError, lzma.LZMAError, ValueError, TypeError) as error:
        raise DataError(
            f"cannot read the shipped reviews {path} ({error}); install the package again, or use --data"
        ) from error


def _read_zips(data: Path) -> Iterable[Raw]:
    def lines(archive: zipfile.ZipFile, name: str) -> list[str]:
        return [line for line in archive.read(name).decode("utf-8").split("\n") if line.strip()]

    try:
        with zipfile.ZipFile(data / "sentence_polarity.zip") as archive:
            for label, name in ((1, "pos"), (0, "neg")):
                for line in lines(archive, f"sentence_polarity/rt-polarity.{name}"):
                    yield Raw("sentence", label, line)
        with zipfile.ZipFile(data / "subjectivity.zip") as archive:
            for line in lines(archive, "subjectivity/quote.tok.gt9.5000"):
                yield Raw("quote", None, line)
            for line in lines(archive, "subjectivity/plot.tok.gt9.5000"):
                yield Raw("plot", None, line)
        with zipfile.ZipFile(data / "movie_reviews.zip") as archive:
            for label, name in ((0, "neg"), (1, "pos")):
                members = [
                    m for m in archive.namelist() if m.startswith(f"movie_reviews/{name}/") and m.endswith(".txt")
                ]
                for member in sorted(members):
                    yield Raw("review", label, archive.read(member).decode("utf-8"))
    except (zipfile.BadZipFile, KeyError, UnicodeDecodeError, OSError) as error:
        raise DataError(f"{data} holds a broken archive ({error}); fetch the three zip files again") from error
