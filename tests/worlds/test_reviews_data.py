"""The film reviews: what ships is what the sources say, it is small, and nobody sees what another was judged by."""

from __future__ import annotations

import json
import zipfile
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from backflip.errors import DataError
from backflip.truth import GoldJudge
from backflip.worlds import reviews
from backflip.worlds.reviews import Raw, Splits

SHIPPED_MB = 8.0


@pytest.fixture(scope="module")
def raw() -> list[Raw]:
    return reviews.read_raw()


@pytest.fixture(scope="module")
def splits(raw: list[Raw]) -> Splits:
    return reviews.split(raw)


def keys(rows: list[tuple[str, int | None]] | list[tuple[str, int]]) -> set[str]:
    return {reviews.key(text) for text, _ in rows}


def test_what_ships_is_what_the_manifest_says(raw: list[Raw]) -> None:
    assert reviews.data_hash(raw) == reviews.read_manifest()["data_hash"]
    counts = {source: sum(r.source == source for r in raw) for source in ("sentence", "quote", "plot", "review")}
    assert counts == {"sentence": 10662, "quote": 5000, "plot": 5000, "review": 2000}
    labels = [r.label for r in raw if r.source in ("sentence", "review")]
    assert labels.count(1) == labels.count(0) == (10662 + 2000) // 2


def test_a_changed_text_changes_the_hash(raw: list[Raw]) -> None:
    first, *rest = raw
    assert reviews.data_hash([Raw(first.source, first.label, first.text + "!"), *rest]) != reviews.data_hash(raw)
    assert reviews.data_hash([Raw(first.source, 1 - (first.label or 0), first.text), *rest]) != reviews.data_hash(raw)


def test_the_five_splits_share_no_text(splits: Splits) -> None:
    """By the hash of the letters: of snippets, all; of reviews' sentences, those the base learns from."""
    base = keys(splits.base_snippets) | keys(splits.base_reviews) | keys(splits.base_plots)
    parts = {"base": base, "gold": keys(splits.gold), "gold test": keys(splits.gold_test)}
    for (one, its), (other, theirs) in combinations(parts.items(), 2):
        assert not its & theirs, (one, other)
    assert min(map(len, parts.values())) > 700


def test_openings_come_from_sentences_that_neither_base_nor_judge_has_read(raw: list[Raw], splits: Splits) -> None:
    read = [
        *splits.base_snippets,
        *splits.base_reviews,
        *splits.base_plots,
        *splits.gold,
        *splits.gold_reviews,
        *splits.gold_test,
    ]
    seen = keys(read)
    for openings, low, high in ((splits.openings, 0.85, 0.94), (splits.openings_test, 0.94, 1.0)):
        whole = [reviews.clean(r.text) for r in raw if r.source in ("sentence", "quote")]
        mine = [text for text in whole if low <= reviews.share(text) < high]
        starts = {" ".join(text.split()[:count]) for text in mine for count in (2, 3, 4)}
        assert set(openings) <= starts
        # sentences of whole reviews may quote a snippet: the base skips those, the judge's weak labels are the exception
        strict = seen - keys(splits.gold_reviews)
        assert not {reviews.key(text) for text in mine} & strict


def test_shipped_openings_are_those_of_the_splits(splits: Splits) -> None:
    assert reviews.read_openings("train") == splits.openings
    assert reviews.read_openings("test") == splits.openings_test
    assert len(splits.openings_test) >= 500
    assert len(set(splits.openings_test)) == len(splits.openings_test)
    assert {reviews.key(text) for text in splits.openings} & {
        reviews.key(text) for text in splits.openings_test
    } == set()


def test_a_text_falls_on_the_same_side_wherever_it_stands(raw: list[Raw]) -> None:
    rng = np.random.default_rng(0)
    short = [raw[i] for i in sorted(rng.choice(len(raw), 1500, replace=False))]
    one, other = reviews.split(short), reviews.split(short[::-1])
    assert keys(one.base_snippets) == keys(other.base_snippets)
    # which of two equal texts lends its label depends on the order; where they fall does not
    for mine, theirs in ((one, other), (other, one)):
        assert not keys(mine.gold_test) & (keys(theirs.gold) | keys(theirs.base_snippets) | keys(theirs.base_reviews))


def test_spacing_and_punctuation_make_no_other_text() -> None:
    assert reviews.key("It 's good .") == reviews.key("it's GOOD!") != reviews.key("its good")


def test_what_ships_is_small_and_whole() -> None:
    files = [file for file in reviews.assets().rglob("*") if file.is_file()]
    names = {file.relative_to(reviews.assets()).as_posix() for file in files}
    made = names - {"corpus.jsonl.xz", "ATTRIBUTION.md"}
    assert made == {
        "base/config.json", "base/generation_config.json", "base/model.safetensors", "base/tokenizer.json",
        "base/tokenizer_config.json", "gold.safetensors", "manifest.json", "openings.json",
    }  # fmt: skip
    assert sum((reviews.assets() / name).stat().st_size for name in made) <= SHIPPED_MB * 1e6
    for owner in ("Pang", "Lillian Lee", "CC BY 4.0"):
        assert owner in (reviews.assets() / "ATTRIBUTION.md").read_text(encoding="utf-8")


def test_the_shipped_judge_is_as_accurate_as_the_manifest_says(splits: Splits) -> None:
    judge = GoldJudge.load(reviews.assets() / "gold.safetensors")
    texts, labels = zip(*splits.gold_test, strict=True)
    right = float(np.mean((judge.score(texts) > 0) == (np.array(labels) > 0)))
    said = reviews.read_manifest()["estimates"]["gold_accuracy_on_human_labels"]
    # weights are kept in 16 bits: a sentence on the edge may fall on the other side
    assert said["n"] == len(texts) and right == pytest.approx(said["value"], abs=2 / len(texts))
    assert said["low"] < right < said["high"]


@pytest.mark.parametrize(
    ("written", "clean"),
    [
        ("it 's a film , and a good one .", "it's a film, and a good one."),
        ("they do n't ( really ) care ; why ?", "they don't (really) care; why?"),
        ('a " wonderful " film', 'a "wonderful" film'),
        ("one . two ! ( three ]", "one. two! (three]"),
    ],
)
def test_punctuation_is_put_back(written: str, clean: str) -> None:
    assert reviews.clean(written) == clean
    assert reviews.key(written) == reviews.key(clean) or "n't" in written or "'s" in written


def test_what_is_written_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [
        Raw("sentence", 1, 'good \u2028 "film" \u00e9'),
        Raw("plot", None, "a plot"),
        Raw("review", 0, "two\nlines"),
    ]
    reviews.write_shipped(texts, tmp_path / "corpus.jsonl.xz")
    monkeypatch.setattr(reviews, "assets", lambda: tmp_path)
    assert reviews.read_raw() == texts
    (tmp_path / "corpus.jsonl.xz").write_bytes((tmp_path / "corpus.jsonl.xz").read_bytes()[:-9])
    with pytest.raises(DataError, match="cannot read the shipped reviews"):
        reviews.read_raw()
    for read in (reviews.read_manifest, lambda: reviews.read_openings("test")):
        with pytest.raises(DataError, match="this installation is incomplete"):
            read()


def zips(folder: Path) -> None:
    """Write the three archives as their authors laid them out, with a few texts."""
    with zipfile.ZipFile(folder / "sentence_polarity.zip", "w") as archive:
        archive.writestr("sentence_polarity/rt-polarity.pos", "a good film\nvery good\n")
        archive.writestr("sentence_polarity/rt-polarity.neg", "a bad film\n")
    with zipfile.ZipFile(folder / "subjectivity.zip", "w") as archive:
        archive.writestr("subjectivity/quote.tok.gt9.5000", "it is what it is\n")
        archive.writestr("subjectivity/plot.tok.gt9.5000", "a man goes home\n")
    with zipfile.ZipFile(folder / "movie_reviews.zip", "w") as archive:
        archive.writestr("movie_reviews/pos/cv001.txt", "i liked it\nall of it\n")
        archive.writestr("movie_reviews/neg/cv000.txt", "i left\n")
        archive.writestr("movie_reviews/README", "not a review")


def test_the_original_archives_are_read(tmp_path: Path) -> None:
    zips(tmp_path)
    found = [(r.source, r.label, r.text.strip()) for r in reviews.read_raw(tmp_path)]
    assert found == [
        ("sentence", 1, "a good film"), ("sentence", 1, "very good"), ("sentence", 0, "a bad film"),
        ("quote", None, "it is what it is"), ("plot", None, "a man goes home"),
        ("review", 0, "i left"), ("review", 1, "i liked it\nall of it"),
    ]  # fmt: skip


def test_archives_that_are_missing_or_broken_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"lacks movie_reviews\.zip, sentence_polarity\.zip, subjectivity\.zip"):
        reviews.read_raw(tmp_path)
    zips(tmp_path)
    whole = (tmp_path / "subjectivity.zip").read_bytes()
    (tmp_path / "subjectivity.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="holds a broken archive"):
        reviews.read_raw(tmp_path)
    with zipfile.ZipFile(tmp_path / "subjectivity.zip", "w") as archive:
        archive.writestr("subjectivity/quote.tok.gt9.5000", b"caf\xe9\n")
    with pytest.raises(DataError, match="holds a broken archive"):
        reviews.read_raw(tmp_path)


def test_the_manifest_is_json_with_the_whole_curve() -> None:
    manifest = json.loads((reviews.assets() / "manifest.json").read_text(encoding="utf-8"))
    steps = [point["step"] for point in manifest["curve"]]
    assert steps == list(range(50, manifest["config"]["steps"] + 1, 50))
    assert manifest["curve"][-1]["loss"] < 0.7 * manifest["curve"][0]["loss"]
