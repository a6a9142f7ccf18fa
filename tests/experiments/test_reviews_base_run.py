"""The making of the base, in little: what it writes is what ships, and a short rerun lies on the shipped curve."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from backflip.errors import ConfigError
from backflip.experiments import reviews_base as making
from backflip.experiments.reviews_base import ReviewsBaseConfig
from backflip.measures.gold import GoldConfig
from backflip.policies.lm import LMConfig, load_policy
from backflip.progress import Progress
from backflip.run import Run, RunRecord, read_run
from backflip.truth import GoldJudge
from backflip.worlds import reviews

TINY = ReviewsBaseConfig(
    steps=3,
    batch=8,
    vocabulary=300,
    hidden=64,
    layers=1,
    feed_forward=32,
    gold=GoldConfig(min_pairs=20, min_grams=200, folds=2),
)
TEXTS = 900
"""Of each kind; enough for every split to hold some."""


@pytest.fixture(autouse=True)
def few_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    everything = reviews.read_raw()
    some = [
        r
        for source in ("sentence", "quote", "plot")
        for r in [r for r in everything if r.source == source][:: 10662 // TEXTS]
    ]
    some += [r for r in everything if r.source == "review"][::50]
    monkeypatch.setattr(reviews, "read_raw", lambda data=None: some)
    monkeypatch.setattr(making, "HELD_OUT", 20)
    monkeypatch.setattr(making, "POINT_EVERY", 1)


def carry_out(folder: Path, config: ReviewsBaseConfig) -> RunRecord:
    with Run.create("reviews_base", config, root=folder.parent, seed=config.seed, folder=folder) as run:
        run.progress = Progress(quiet=True)
        making.main(config, run)
    return read_run(folder)


def test_what_is_made_can_ship(tmp_path: Path) -> None:
    record = carry_out(tmp_path / "run", TINY)
    made = record.path / "checkpoints" / "reviews"
    shipped = reviews.assets()
    names = {file.relative_to(made).as_posix() for file in made.rglob("*") if file.is_file()}
    others = {"corpus.jsonl.xz", "ATTRIBUTION.md"}
    assert names == {file.relative_to(shipped).as_posix() for file in shipped.rglob("*") if file.is_file()} - others
    manifest = json.loads((made / "manifest.json").read_text())
    assert set(manifest) == set(reviews.read_manifest())
    assert set(manifest["estimates"]) == set(reviews.read_manifest()["estimates"]) <= set(record.summary["estimates"])
    assert manifest["data_hash"] == reviews.data_hash(reviews.read_raw())
    assert [point["step"] for point in manifest["curve"]] == [1, 2, 3]
    policy = load_policy(made / "base", LMConfig(max_new_tokens=3))
    assert policy.tokenizer.pad_token_id != policy.tokenizer.eos_token_id
    assert policy.tokenizer("the film").input_ids[0] == policy.tokenizer.bos_token_id
    assert GoldJudge.load(made / "gold.safetensors").score(["a good film"]).shape == (1,)
    assert list(json.loads((made / "openings.json").read_text())) == ["train", "test"]


def test_a_short_rerun_overlays_the_shipped_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped curve of this test is that of a whole run; the rerun stops early and must lie on it exactly."""
    whole = carry_out(tmp_path / "whole", TINY)
    monkeypatch.setattr(making, "_shipped_curve", lambda: whole.results["curve"]["rerun"])
    short = carry_out(tmp_path / "short", replace(TINY, stop_after=2))
    assert short.results["curve"] == {
        "rerun": whole.results["curve"]["rerun"][:2],
        "shipped": whole.results["curve"]["rerun"],
    }
    gap = short.summary["estimates"]["curve_gap_nats"]
    assert (gap["value"], gap["n"]) == (0, 2)
    assert any("largest gap to the shipped curve: 0.0000 nats over 2 points" in note for note in short.notes)
    assert not (short.path / "checkpoints" / "reviews").exists()
    # another seed makes another curve, and the overlay shows it
    other = carry_out(tmp_path / "other", replace(TINY, stop_after=2, seed=1))
    assert other.summary["estimates"]["curve_gap_nats"]["value"] > 0


def test_dropout_is_off_outside_training() -> None:
    model = making.new_model(TINY)
    making._add_dropout(model, TINY)
    tokens = torch.tensor([[1, 5, 6, 7]])
    model.eval()
    with torch.no_grad():
        assert torch.equal(model(tokens).logits, model(tokens).logits)
        model.train()
        assert not torch.equal(model(tokens).logits, model(tokens).logits)


@pytest.mark.parametrize("settings", [{"stop_after": 0}, {"steps": 0}, {"batch": 0}, {"hidden": 96}])
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="must be"):
        ReviewsBaseConfig(**settings)
