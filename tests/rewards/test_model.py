"""A reward model scores what it read and nothing else, and means the same to transformers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForSequenceClassification

from backflip.data import PAD, Episodes, concat
from backflip.errors import ConfigError, DataError
from backflip.rewards.model import CLOSING_KEY, Normaliser, SequenceRewardModel, on_last_decision

ANSWERS = ["good", "was very good", "is not good but fun and very long", "bad", "dull and long and dull"]


@pytest.fixture
def model(language_model: Any) -> SequenceRewardModel:
    return SequenceRewardModel.from_causal_lm(language_model, np.random.default_rng(0))


@pytest.fixture
def episodes(world: Any, answer: Any) -> Episodes:
    prompts = ["the film", "a story", "the cast was very", "the film", "the plot is"]
    return world.load([answer(p, a) for p, a in zip(prompts, ANSWERS, strict=True)])


def padded(episodes: Episodes, left: int, right: int) -> Episodes:
    wide = functional.pad(episodes.action, (0, right), value=PAD)
    return replace(
        episodes,
        obs=functional.pad(episodes.obs, (left, 0), value=PAD),
        action=wide,
        mask_BT=functional.pad(episodes.mask_BT, (0, right)),
    )


def test_score_is_independent_of_padding_batch_and_order(model: SequenceRewardModel, episodes: Episodes):
    score_B = model.score_B(episodes)
    assert score_B.std() > 1e-3
    alone = torch.cat([model.score_B(episodes.select([i])) for i in range(5)])
    torch.testing.assert_close(alone, score_B, atol=1e-5, rtol=0)
    torch.testing.assert_close(model.score_B(padded(episodes, 7, 9)), score_B, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        model.score_B(episodes.select([3, 1, 4, 0, 2])), score_B[[3, 1, 4, 0, 2]], atol=1e-5, rtol=0
    )
    torch.testing.assert_close(model.score_B(episodes, tokens_a_pass=8), score_B, atol=1e-5, rtol=0)


def test_score_reads_prompt_answer_and_end(model: SequenceRewardModel, world: Any, answer: Any):
    same = world.load([answer("the film", "good"), answer("the plot is", "good"), answer("the film", "bad")])
    assert len(set(model.score_B(same).tolist())) == 3


def test_a_cut_row_is_closed_before_it_is_read(model: SequenceRewardModel, world: Any, answer: Any):
    """The head reads the end token, so a row without one gets it; a model from elsewhere is left as it was trained."""
    ended = world.load([answer("the film", "good"), answer("the plot is", "very good and fun")])
    last_B = ended.mask_BT.sum(1) - 1
    cut = replace(ended, action=ended.action.clone(), mask_BT=ended.mask_BT.clone())
    cut.action[torch.arange(2), last_B], cut.mask_BT[torch.arange(2), last_B] = PAD, False
    torch.testing.assert_close(model.score_B(cut), model.score_B(ended), atol=1e-5, rtol=0)
    shorter = replace(cut, action=cut.action[:, :-1], mask_BT=cut.mask_BT[:, :-1])
    torch.testing.assert_close(model.score_B(shorter), model.score_B(ended), atol=1e-5, rtol=0)
    delattr(model.config, CLOSING_KEY)
    assert (model.score_B(cut) - model.score_B(ended)).abs().min() > 1e-4


def test_head_starts_as_published(language_model: Any):
    big = torch.cat(
        [
            SequenceRewardModel.from_causal_lm(language_model, np.random.default_rng(i)).module.score.weight
            for i in range(60)
        ]
    )
    assert big.std().item() == pytest.approx(1 / np.sqrt(33), rel=0.06)
    one, two = (SequenceRewardModel.from_causal_lm(language_model, np.random.default_rng(5)) for _ in range(2))
    assert torch.equal(one.module.score.weight, two.module.score.weight)


def test_starts_from_a_copy(language_model: Any):
    model = SequenceRewardModel.from_causal_lm(language_model, np.random.default_rng(0))
    ours, theirs = model.module.get_input_embeddings().weight, language_model.get_input_embeddings().weight
    assert torch.equal(ours, theirs) and ours.data_ptr() != theirs.data_ptr()


def test_transformers_reloads_it_with_equal_scores(
    model: SequenceRewardModel, episodes: Episodes, tokenizer: Any, tmp_path: Path
):
    model.measure_normaliser(episodes, "abc")
    model.save(tmp_path / "rm", tokenizer)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm")
    texts = [[t for t in row if t != PAD] for row in torch.cat([episodes.obs, episodes.action], 1).tolist()]
    batch = tokenizer.pad({"input_ids": texts}, return_tensors="pt", padding_side="right")
    with torch.no_grad():
        logits = theirs(**batch).logits[:, 0]
    torch.testing.assert_close(logits, model.score_B(episodes), atol=1e-5, rtol=0)
    ours = SequenceRewardModel.load(tmp_path / "rm")
    assert ours.normaliser == model.normaliser
    torch.testing.assert_close(ours(episodes), model(episodes))


def test_a_saved_one_scores_bit_for_bit_as_before(model: SequenceRewardModel, episodes: Episodes, tmp_path: Path):
    """Or a resumed run would end with other numbers: weights that stay in the file's pages begin at odd places, and products round otherwise."""
    model.measure_normaliser(episodes, "abc")
    for name in ("a", "a_longer_name"):
        model.config.note = name * 7  # another header, and so another place in the file
        model.save(tmp_path / name)
        again = SequenceRewardModel.load(tmp_path / name)
        assert {tensor.data_ptr() % 64 for tensor in again.module.state_dict().values()} == {0}
        assert torch.equal(again.normalised_B(episodes), model.normalised_B(episodes))


def test_loads_a_reward_model_made_elsewhere(language_model: Any, episodes: Episodes, tmp_path: Path):
    config = language_model.config
    config.num_labels = 1
    made = AutoModelForSequenceClassification.from_config(config)
    made.save_pretrained(tmp_path / "theirs")
    model = SequenceRewardModel.load(tmp_path / "theirs")
    with pytest.raises(DataError, match="no normaliser"):
        model(episodes)
    raw = SequenceRewardModel.load(tmp_path / "theirs", normaliser="none")
    torch.testing.assert_close(raw(episodes).sum(1), model.score_B(episodes))


def test_normaliser_is_used_and_travels(model: SequenceRewardModel, episodes: Episodes):
    with pytest.raises(DataError, match="measure_normaliser"):
        model(episodes)
    found = model.measure_normaliser(episodes, "policy-hash")
    assert (found.n, found.reference) == (5, "policy-hash")
    reward_BT = model(episodes)
    assert reward_BT.sum(1).mean().item() == pytest.approx(0, abs=1e-5)
    assert reward_BT.sum(1).std(correction=0).item() == pytest.approx(1, abs=1e-4)
    assert not reward_BT.requires_grad


def test_reward_sits_on_the_last_decision(model: SequenceRewardModel, episodes: Episodes):
    model.normaliser = "none"
    reward_BT = model(padded(episodes, 1, 3))
    for row, (reward_T, mask_T) in enumerate(zip(reward_BT, padded(episodes, 1, 3).mask_BT, strict=True)):
        last = int(mask_T.nonzero().max())
        assert reward_T[last] == pytest.approx(model.score_B(episodes)[row].item(), abs=1e-5)
        assert reward_T.count_nonzero() == 1


def test_gap_in_the_mask_is_read_over(model: SequenceRewardModel, episodes: Episodes):
    mask_BT = episodes.mask_BT.clone()
    mask_BT[2, 1:3] = False
    torch.testing.assert_close(
        on_last_decision(torch.ones(5), replace(episodes, mask_BT=mask_BT)), on_last_decision(torch.ones(5), episodes)
    )


def test_no_decision_is_an_error(episodes: Episodes):
    with pytest.raises(DataError, match="row 3"):
        mask_BT = episodes.mask_BT.clone()
        mask_BT[3] = False
        on_last_decision(torch.zeros(5), replace(episodes, mask_BT=mask_BT))


def test_constant_scores_give_no_normaliser(model: SequenceRewardModel, episodes: Episodes):
    torch.nn.init.zeros_(model.module.score.weight)
    with pytest.raises(DataError, match="says the same of every answer"):
        model.measure_normaliser(episodes, "x")


def test_gradients_only_when_asked(model: SequenceRewardModel, episodes: Episodes):
    assert not model.score_B(episodes).requires_grad
    model.score_B(episodes, with_grad=True, tokens_a_pass=8).sum().backward()
    assert model.module.score.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("pad", [None, 2])
def test_a_model_without_pad_token_gets_a_row_for_it(
    language_model: Any, episodes: Episodes, tmp_path: Path, pad: int | None
):
    language_model.config.pad_token_id = pad
    model = SequenceRewardModel.from_causal_lm(language_model, np.random.default_rng(0))
    rows = language_model.config.vocab_size
    assert model.config.pad_token_id == rows and model.module.get_input_embeddings().num_embeddings == rows + 1
    alone = torch.cat([model.score_B(episodes.select([i])) for i in range(5)])
    torch.testing.assert_close(alone, model.score_B(episodes), atol=1e-5, rtol=0)
    model.save(tmp_path / "rm")
    torch.testing.assert_close(SequenceRewardModel.load(tmp_path / "rm").score_B(episodes), model.score_B(episodes))


def test_refuses_what_is_no_reward_model(language_model: Any, tmp_path: Path):
    with pytest.raises(DataError, match=r"nowhere.*expected a transformers folder"):
        SequenceRewardModel.load(tmp_path / "nowhere")
    language_model.save_pretrained(tmp_path / "lm")
    with pytest.raises(DataError, match=r"score\.weight.*not a language model"):
        SequenceRewardModel.load(tmp_path / "lm")
    weights = tmp_path / "lm" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(DataError, match="lm"):
        SequenceRewardModel.from_causal_lm(tmp_path / "lm", np.random.default_rng(0))
    config = language_model.config
    config.num_labels = 3
    with pytest.raises(ConfigError, match="3"):
        SequenceRewardModel(AutoModelForSequenceClassification.from_config(config))
    with pytest.raises(ConfigError, match="end token"):
        SequenceRewardModel.from_causal_lm(language_model, np.random.default_rng(0), pad_token_id=2)


def test_unknown_tokens_and_empty_rows_are_refused(model: SequenceRewardModel, episodes: Episodes):
    strange = replace(episodes, action=episodes.action.masked_fill(episodes.action == 2, 999))
    with pytest.raises(DataError, match="999"):
        model.score_B(strange)
    nothing = replace(episodes, obs=torch.full_like(episodes.obs, PAD), action=torch.full_like(episodes.action, PAD))
    with pytest.raises(DataError, match="row 0"):
        model.score_B(nothing)


def test_normaliser_refuses_nonsense():
    for mean, std, n in ((0.0, 0.0, 9), (float("nan"), 1.0, 9), (0.0, 1.0, 1)):
        with pytest.raises(DataError):
            Normaliser(mean, std, n, "x")


def test_law_load_of_show(model: SequenceRewardModel, world: Any, episodes: Episodes):
    torch.testing.assert_close(
        model.score_B(world.load(world.show(episodes))), model.score_B(episodes), atol=1e-5, rtol=0
    )
    both = concat([episodes, world.load(world.show(episodes))])
    assert len(model.score_B(both)) == 10


def architectures() -> dict[str, Any]:
    from transformers import BloomConfig, Gemma3TextConfig, GPT2Config, Qwen2Config, Qwen3Config

    shape: dict[str, Any] = {
        "vocab_size": 24,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return {
        "gpt2": GPT2Config(
            vocab_size=24,
            n_positions=64,
            n_embd=32,
            n_layer=2,
            n_head=4,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        ),
        "qwen2": Qwen2Config(**shape),
        "qwen3": Qwen3Config(**shape, head_dim=8),
        "gemma3": Gemma3TextConfig(**shape, head_dim=8, sliding_window=4),
        "bloom": BloomConfig(
            vocab_size=24, hidden_size=32, n_layer=2, n_head=4, pad_token_id=0, bos_token_id=1, eos_token_id=2
        ),
    }


@pytest.mark.parametrize("name", ["gpt2", "qwen2", "qwen3", "gemma3", "bloom"])
def test_every_architecture_is_padding_proof_and_reloads(name: str, episodes: Episodes, tmp_path: Path):
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    model = SequenceRewardModel.from_causal_lm(
        AutoModelForCausalLM.from_config(architectures()[name]), np.random.default_rng(0)
    )
    score_B = model.score_B(episodes)
    assert score_B.std() > 1e-4
    alone = torch.cat([model.score_B(episodes.select([i])) for i in range(5)])
    torch.testing.assert_close(alone, score_B, atol=2e-5, rtol=0)
    torch.testing.assert_close(model.score_B(padded(episodes, 5, 6)), score_B, atol=2e-5, rtol=0)
    model.save(tmp_path / name)
    torch.testing.assert_close(SequenceRewardModel.load(tmp_path / name).score_B(episodes), score_B, atol=2e-5, rtol=0)
