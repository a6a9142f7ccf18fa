"""Train the base of the main job on film reviews: a tokenizer, a small language model and a gold judge.

What it makes ships in the package. Every review sentence of the base's own split is followed, after its end, by the
rating that its author gave, as reviews are on the web: the model never writes ratings, because an answer stops at the end
token, but it learns to tell what a sentence thinks of its film. The judge learns from other texts (worlds/reviews).
`--stop-after 200` reruns the beginning and overlays the loss curve on the one of the shipped base.

Shapes: B rows, L tokens, N predicted tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from backflip.checkpoint import atomic_folder
from backflip.data import Estimate
from backflip.errors import ConfigError
from backflip.experiments import experiment
from backflip.measures.gold import GoldConfig, fit_gold_judge, gold_accuracy
from backflip.measures.stats import mean_interval, share_interval
from backflip.worlds import reviews

if TYPE_CHECKING:
    from backflip.run import Run

SPECIAL = ["<pad>", "<s>", "</s>", "<neg>", "<pos>"]
PAD_ID, BOS, EOS, NEG, POS = range(5)
HELD_OUT = 300
"""Snippets, and review sentences, kept for the validation loss."""
LONGEST = 62
"""Tokens of a sentence that are read."""
POINT_EVERY = 50
"""Steps from one point of the loss curve to the next."""
SORTED_TOGETHER = 32
"""Batches whose rows are sorted by length together, so that little is padding."""


@dataclass(frozen=True)
class ReviewsBaseConfig:
    """Settings of the base; the defaults made the one that ships."""

    data: Path | None = None
    """Folder with the three original zip files; none: the texts that ship in the package."""
    steps: int = 2500
    """Optimiser steps."""
    stop_after: int | None = None
    """Stop early after this many steps of the same schedule, to compare the curve; no base is written then."""
    batch: int = 128
    """Sentences a step."""
    vocabulary: int = 4096
    """Tokens of the byte-level BPE tokenizer."""
    hidden: int = 256
    """Width of the model."""
    layers: int = 4
    """Transformer layers."""
    feed_forward: int = 576
    """Width of the feed-forward part."""
    dropout: float = 0.1
    """On embeddings and on what every layer adds, while training."""
    matrix_lr: float = 0.02
    """Learning rate of Muon, for the matrices inside the layers."""
    other_lr: float = 3e-3
    """Learning rate of AdamW, for embeddings and norms."""
    constant_share: float = 0.4
    """Share of the steps at the full learning rate; then it falls to 0 in a straight line."""
    snippet_passes: int = 2
    """Times a review snippet is seen in a pass over everything else."""
    rating_weight: float = 10.0
    """Weight of the rating after a sentence, a word being 1."""
    seed: int = 0
    """Of the weights, the order and the dropout."""
    gold: GoldConfig = field(default_factory=GoldConfig)
    """The gold judge."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or (self.stop_after is not None and self.stop_after < 1):
            raise ConfigError(
                "steps, batch and stop_after must be 1 or more; leave --stop-after out to train a whole base"
            )
        if self.hidden < 64 or self.hidden % 64:
            raise ConfigError(f"hidden is {self.hidden}, it must be a multiple of 64: heads are 32 wide, keys have two")


@experiment(config=ReviewsBaseConfig)
def main(config: ReviewsBaseConfig, run: Run) -> None:
    """Train tokenizer, language model and gold judge; write them, their manifest and their measures."""
    raw = reviews.read_raw(config.data)
    splits = reviews.split(raw)
    rng = np.random.default_rng(config.seed)
    corpus = Corpus.make(splits, config, rng)
    model = new_model(config)
    run.note(f"{corpus.tokens:,} tokens a pass, {sum(p.numel() for p in model.parameters()):,} weights")
    curve = train(model, corpus, config, run, rng)
    run.result("curve", {"rerun": curve, "shipped": _shipped_curve()})
    _overlay(curve, run)
    if config.stop_after is not None:
        return
    estimates = {
        f"base_{name}_{measure}": estimate
        for name, rows in corpus.held_out.items()
        for measure, estimate in evaluate(model, rows).items()
    }
    weak = ([text for text, _ in splits.gold_reviews], [label for _, label in splits.gold_reviews])
    judge = fit_gold_judge(*_columns(splits.gold), config.gold, weak_texts=weak[0], weak_labels=weak[1])
    estimates["gold_accuracy_on_human_labels"] = gold_accuracy(judge, *_columns(splits.gold_test))
    for name, estimate in estimates.items():
        run.estimate(name, estimate)
    folder = run.path / "checkpoints" / "reviews"
    with atomic_folder(folder) as made:
        _write_base(model, corpus.tokenizer, made / "base")
        judge.save(made / "gold.safetensors")
        openings = {"train": splits.openings, "test": splits.openings_test}
        (made / "openings.json").write_text(json.dumps(openings, ensure_ascii=False, indent=0), encoding="utf-8")
        manifest: dict[str, Any] = {
            "config": dict(run.config),
            "data_hash": reviews.data_hash(raw),
            "curve": curve,
            "estimates": {name: estimate.as_json() for name, estimate in estimates.items()},
        }
        (made / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        size = sum(file.stat().st_size for file in made.rglob("*") if file.is_file())
    run.note(f"wrote {folder}, {size / 1e6:.2f} MB; copy it over src/backflip/assets/reviews to ship it")


@dataclass(frozen=True)
class Corpus:
    """Encoded sentences: begin, words, end, and the rating where one is known."""

    tokenizer: Tokenizer
    rows: list[list[int]]
    held_out: dict[str, list[list[int]]]

    @property
    def tokens(self) -> int:
        """Tokens in one pass."""
        return sum(map(len, self.rows))

    @staticmethod
    def make(splits: reviews.Splits, config: ReviewsBaseConfig, rng: np.random.Generator) -> Corpus:
        """Train the tokenizer on the base's own texts and encode them; validation texts are drawn first."""
        snippets = [splits.base_snippets[i] for i in rng.permutation(len(splits.base_snippets))]
        sentences = [splits.base_reviews[i] for i in rng.permutation(len(splits.base_reviews))]
        held = {"snippets": snippets[:HELD_OUT], "reviews": sentences[:HELD_OUT]}
        snippets, sentences = snippets[HELD_OUT:], sentences[HELD_OUT:]
        tokenizer = _train_tokenizer(
            [text for text, _ in snippets * 2 + sentences + splits.base_plots], config.vocabulary
        )

        def encode(rows: list[tuple[str, int | None]]) -> list[list[int]]:
            encodings = tokenizer.encode_batch([text for text, _ in rows])
            ratings = ([] if label is None else [POS if label else NEG] for _, label in rows)
            return [[BOS, *e.ids[:LONGEST], EOS, *r] for e, r in zip(encodings, ratings, strict=True)]

        rows = encode(sentences) + encode(splits.base_plots) + encode(snippets) * config.snippet_passes
        return Corpus(tokenizer, rows, {name: encode(part) for name, part in held.items()})

    def batches(self, size: int, rng: np.random.Generator) -> Iterator[Tensor]:
        """Yield (B, L) token batches for ever, rows of like length together."""
        together = size * SORTED_TOGETHER
        while True:
            order = rng.permutation(len(self.rows))
            for start in range(0, len(order) - together + 1, together):
                chunk = sorted((self.rows[i] for i in order[start : start + together]), key=len)
                for k in rng.permutation(SORTED_TOGETHER):
                    yield pad(chunk[k * size : (k + 1) * size])


def train(
    model: LlamaForCausalLM, corpus: Corpus, config: ReviewsBaseConfig, run: Run, rng: np.random.Generator
) -> list[dict[str, float]]:
    """Train with Muon on matrices and AdamW on the rest (Jordan et al. 2024); return the loss curve, a point each POINT_EVERY steps."""
    inside = {name for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name}
    muon = torch.optim.Muon(
        [p for name, p in model.named_parameters() if name in inside],
        lr=config.matrix_lr,
        weight_decay=0.1,
        momentum=0.95,
    )
    adam = torch.optim.AdamW(
        [p for name, p in model.named_parameters() if name not in inside],
        lr=config.other_lr,
        betas=(0.9, 0.95),
        weight_decay=0.01,
    )
    _add_dropout(model, config)
    model.train()
    steps = min(config.steps, config.stop_after or config.steps)
    batches, curve, recent = corpus.batches(config.batch, rng), list[dict[str, float]](), list[float]()
    with run.progress.phase("train the base", total=steps) as bar:
        for step in range(steps):
            done = step / config.steps
            falling = 1.0 if done < config.constant_share else (1 - done) / (1 - config.constant_share)
            factor = min(1.0, (step + 1) / 100) * falling
            for optimizer, lr in ((muon, config.matrix_lr), (adam, config.other_lr)):
                optimizer.param_groups[0]["lr"] = lr * factor
            with torch.autocast("cpu", torch.bfloat16):
                loss_N, target_N, _ = _losses(model, next(batches))
                weight_N = torch.where((target_N == NEG) | (target_N == POS), config.rating_weight, 1.0)
                loss = (loss_N * weight_N).sum() / weight_N.sum()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in (muon, adam):
                optimizer.step()
                optimizer.zero_grad()
            recent.append(loss.item())
            bar.advance(1, loss=recent[-1])
            if (step + 1) % POINT_EVERY == 0:
                curve.append({"step": step + 1, "loss": round(float(np.mean(recent)), 4)})
                run.log(step + 1, "base", loss_nats_per_token=float(np.mean(recent)))
                recent.clear()
    model.eval()
    return curve


def new_model(config: ReviewsBaseConfig) -> LlamaForCausalLM:
    """Return a fresh model; torch's global seed is set because Hugging Face initialises from it."""
    torch.manual_seed(config.seed)
    shape: Any = LlamaConfig(
        vocab_size=config.vocabulary,
        hidden_size=config.hidden,
        intermediate_size=config.feed_forward,
        num_hidden_layers=config.layers,
        num_attention_heads=config.hidden // 32,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=PAD_ID,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    shape._attn_implementation = "eager"  # faster than the fused kernel at these lengths on a CPU
    return LlamaForCausalLM(shape)


@torch.no_grad()
def evaluate(model: LlamaForCausalLM, rows: list[list[int]]) -> dict[str, Estimate]:
    """Return nats per token (ratings apart) and accuracy of the predicted rating, over sentences, with intervals."""
    nats, right = list[float](), list[float]()
    for start in range(0, len(rows), 100):
        tokens_BL = pad(rows[start : start + 100])
        loss_N, target_N, hidden_ND = _losses(model, tokens_BL)
        rating_N = (target_N == NEG) | (target_N == POS)
        nats += loss_N[~rating_N].tolist()
        logits = model.lm_head(hidden_ND[rating_N])
        right += ((logits[:, POS] > logits[:, NEG]) == (target_N[rating_N] == POS)).float().tolist()
    return {"nats_per_token": mean_interval(nats), "rating_accuracy": share_interval(right)}


def pad(rows: list[list[int]]) -> Tensor:
    """Return (B, L) tokens, filled on the right."""
    tokens_BL = torch.full((len(rows), max(map(len, rows))), PAD_ID)
    for row, tokens in zip(tokens_BL, rows, strict=True):
        row[: len(tokens)] = torch.tensor(tokens)
    return tokens_BL


def _losses(model: LlamaForCausalLM, tokens_BL: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    hidden: Any = model.model(input_ids=tokens_BL[:, :-1]).last_hidden_state
    target_BL = tokens_BL[:, 1:]
    real_BL = target_BL != PAD_ID
    logits_NV = model.lm_head(hidden[real_BL]).float()
    loss_N = torch.nn.functional.cross_entropy(logits_NV, target_BL[real_BL], reduction="none")
    return loss_N, target_BL[real_BL], hidden[real_BL]


def _add_dropout(model: LlamaForCausalLM, config: ReviewsBaseConfig) -> None:
    """Drop parts of the embedding and of what every layer adds: 2 M tokens are few, and Llama has no such dropout itself."""
    generator = torch.Generator()
    generator.manual_seed(config.seed + 1)
    limit = int(config.dropout * 256)

    def drop(module: torch.nn.Module, _: object, output: Tensor) -> Tensor:
        if not module.training:
            return output
        keep = torch.randint(0, 256, output.shape, dtype=torch.uint8, generator=generator) >= limit
        return output * keep.to(output.dtype) * (256 / (256 - limit))

    layers: Any = model.model.layers
    for layer in layers:
        layer.self_attn.o_proj.register_forward_hook(drop)
        layer.mlp.down_proj.register_forward_hook(drop)
    model.model.embed_tokens.register_forward_hook(drop)


def _train_tokenizer(texts: list[str], vocabulary: int) -> Tokenizer:
    tokenizer: Any = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer: Any = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _write_base(model: LlamaForCausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    """Write a Hugging Face checkpoint in half precision: it is read back in float32, and is half as large."""
    begin: Any = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    tokenizer.post_processor = begin
    model.half().save_pretrained(folder)
    model.float()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    fast.save_pretrained(folder)


def _columns(rows: list[tuple[str, int]]) -> tuple[list[str], list[int]]:
    return [text for text, _ in rows], [label for _, label in rows]


def _shipped_curve() -> list[dict[str, float]]:
    manifest = reviews.assets() / "manifest.json"
    return json.loads(manifest.read_text(encoding="utf-8"))["curve"] if manifest.is_file() else []


def _overlay(curve: list[dict[str, float]], run: Run) -> None:
    """Measure how far this loss curve lies from the shipped base's, where both have a point."""
    shipped = {point["step"]: point["loss"] for point in _shipped_curve()}
    gaps = [abs(point["loss"] - shipped[point["step"]]) for point in curve if point["step"] in shipped]
    if gaps:
        run.estimate("curve_gap_nats", mean_interval(gaps))
        run.note(f"largest gap to the shipped curve: {max(gaps):.4f} nats over {len(gaps)} points")
