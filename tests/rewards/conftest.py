"""A tiny tokenizer, a tiny language model and a world of review openings."""

from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from backflip.data import Item
from backflip.worlds.text import TextWorld

WORDS = "the film a plot is was good bad dull fun very not cast story and but long".split()
PROMPTS = ["the film", "the plot is", "a story", "the cast was very"]


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *WORDS])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


@pytest.fixture
def language_model(tokenizer: Any) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def world(tokenizer: Any) -> TextWorld:
    return TextWorld(PROMPTS, tokenizer)


@pytest.fixture
def answer() -> Any:
    """Make an item from a prompt and an answer."""

    def make(prompt: str, text: str, author: str = "policy") -> Item:
        return Item(prompt, text, {"prompt_text": prompt, "answer_text": text}, author)

    return make
