"""The world of texts: what it asks, what a judge sees, and that items become the same episodes again."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from backflip.data import PAD, Act, Episodes, Item
from backflip.errors import ConfigError, DataError
from backflip.worlds.prompts import chat_prompt
from backflip.worlds.text import TextWorld

END = 2
WORDS = ["<pad>", "<s>", "</s>", "<unk>", "the", "film", "was", "good", "bad", "long", "user", "assistant"]


def word_tokenizer() -> Any:
    inner = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


class Babbler:
    """A policy of random words; every third row is cut before it ends."""

    def act(self, obs: Tensor, rng: np.random.Generator) -> Act:
        rows = [rng.integers(4, 10, rng.integers(0, 5)).tolist() for _ in range(len(obs))]
        rows = [row + ([END] if index % 3 or not row else []) for index, row in enumerate(rows)]
        width = max(map(len, rows))
        action = torch.tensor([row + [PAD] * (width - len(row)) for row in rows])
        mask = action != PAD
        return Act(action, mask, torch.where(mask, -1.0, 0.0), torch.tensor([row[-1] == END for row in rows]))

    def evaluate(self, episodes: Episodes) -> Any:
        raise NotImplementedError

    def kl_BT(self, reference: Any, episodes: Episodes) -> Tensor:
        raise NotImplementedError


PROMPTS = ["the film", "the", "film was long", "good", "bad film"]


def collect(world: TextWorld, n: int, seed: int = 0) -> Episodes:
    return world.collect(Babbler(), n, np.random.default_rng(seed))


def prompts_of(world: TextWorld, episodes: Episodes) -> list[str]:
    return [item.prompt for item in world.show(episodes)]


# -- collect -----------------------------------------------------------------------------------------------------------


def test_every_pass_holds_every_prompt_once_in_an_order_of_its_own() -> None:
    world = TextWorld(PROMPTS, word_tokenizer())
    passes = [prompts_of(world, collect(world, 5)) for _ in range(4)]
    assert all(sorted(one) == sorted(PROMPTS) for one in passes)
    assert len({tuple(one) for one in passes}) > 1
    assert prompts_of(world, collect(TextWorld(PROMPTS, word_tokenizer()), 5)) == passes[0]
    assert [prompts_of(w := TextWorld(PROMPTS, word_tokenizer(), seed=s), collect(w, 5)) for s in range(1, 4)] != [
        passes[0]
    ] * 3


def test_rows_of_a_group_share_a_prompt_and_a_number() -> None:
    world = TextWorld(PROMPTS, word_tokenizer(), group_size=3)
    first, second = collect(world, 12), collect(world, 6)
    shown = prompts_of(world, first)
    for row in range(12):
        assert shown[row] == shown[row - row % 3]
    assert first.group_B.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    assert second.group_B.tolist() == [4] * 3 + [5] * 3
    assert set(Counter(shown + prompts_of(world, second)[:3]).values()) == {3}, (
        "five groups are one pass over five prompts"
    )


def test_rows_are_scored_texts() -> None:
    episodes = collect(TextWorld(PROMPTS, word_tokenizer()), 7)
    assert len(episodes) == 7
    assert float(episodes.bootstrap_B.abs().sum()) == 0.0
    assert torch.equal(episodes.mask_BT, episodes.action != PAD)
    # Prompts are filled on the left, answers on the right.
    assert bool((episodes.obs[:, -1] != PAD).all())
    assert bool((episodes.action[:, 0] != PAD).all())


@pytest.mark.parametrize("n", [0, 3, -2])
def test_rows_must_fill_groups(n: int) -> None:
    with pytest.raises(ConfigError, match="multiple of the group size 2"):
        collect(TextWorld(PROMPTS, word_tokenizer(), group_size=2), n)


@pytest.mark.parametrize("before", [0, 1, 5, 8])
def test_the_position_is_all_the_state(before: int) -> None:
    world = TextWorld(PROMPTS, word_tokenizer(), seed=3)
    for _ in range(before):
        collect(world, 1)
    state = json.loads(json.dumps(world.state_dict()))
    resumed = TextWorld(PROMPTS, word_tokenizer(), seed=3)
    resumed.load_state_dict(state)
    ours, theirs = collect(world, 7), collect(resumed, 7)
    assert torch.equal(ours.obs, theirs.obs)
    assert torch.equal(ours.group_B, theirs.group_B)


def test_a_position_of_another_world_is_refused() -> None:
    state = TextWorld(PROMPTS, word_tokenizer()).state_dict()
    for other in (TextWorld(PROMPTS, word_tokenizer(), seed=1), TextWorld(PROMPTS[:3], word_tokenizer())):
        with pytest.raises(DataError, match="resume with the prompts and the seed"):
            other.load_state_dict(state)


def test_ended_rows_are_told_from_cut_ones() -> None:
    world, policy = TextWorld(PROMPTS, word_tokenizer()), Babbler()
    episodes = collect(world, 40)
    act = policy.act(episodes.obs, np.random.default_rng(0))
    assert torch.equal(episodes.action, act.action)
    assert torch.equal(world.ended_B(episodes), act.ended_B)
    assert 0 < int(act.ended_B.sum()) < 40
    assert [item.payload["ended"] for item in world.show(episodes)] == act.ended_B.tolist()
    # Other end tokens, and no end token at all.
    last_B = episodes.action.gather(1, episodes.mask_BT.sum(1, keepdim=True) - 1)[:, 0]
    more = TextWorld(PROMPTS, word_tokenizer(), end_tokens=(END, 7))
    assert torch.equal(more.ended_B(episodes), (last_B == END) | (last_B == 7))
    assert not bool(TextWorld(PROMPTS, word_tokenizer(), end_tokens=()).ended_B(episodes).any())


# -- show and load -------------------------------------------------------------------------------------------------------


def test_items_become_the_same_episodes() -> None:
    world = TextWorld(PROMPTS, word_tokenizer(), group_size=2)
    episodes = collect(world, 10)
    items = world.show(episodes)
    again = world.load(items)
    assert torch.equal(again.obs, episodes.obs)
    assert torch.equal(again.action, episodes.action)
    assert torch.equal(again.mask_BT, episodes.mask_BT)
    assert again.logp_BT is None
    assert again.item_B == tuple(item.id for item in items)
    assert world.show(again) == items
    same = [[a == b for b in world.load(items).group_B.tolist()] for a in again.group_B.tolist()]
    shown = [item.prompt for item in items]
    assert same == [[a == b for b in shown] for a in shown]


def test_items_become_the_same_episodes_in_a_fresh_process(tmp_path: Path) -> None:
    tokenizer = word_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    world = TextWorld(PROMPTS, tokenizer)
    episodes = collect(world, 6)
    payloads = [dict(item.payload) for item in world.show(episodes)]
    (tmp_path / "items.json").write_text(json.dumps(payloads))
    program = (
        "import json, sys; from pathlib import Path; from transformers import AutoTokenizer\n"
        "from backflip.data import Item; from backflip.worlds.text import TextWorld\n"
        "folder = Path(sys.argv[1]); payloads = json.loads((folder / 'items.json').read_text())\n"
        "world = TextWorld(['another prompt'], AutoTokenizer.from_pretrained(folder))\n"
        "rows = world.load([Item('', '', payload) for payload in payloads])\n"
        "print(json.dumps([rows.obs.tolist(), rows.action.tolist(), rows.mask_BT.tolist()]))\n"
    )
    found = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert json.loads(found.stdout) == [episodes.obs.tolist(), episodes.action.tolist(), episodes.mask_BT.tolist()]


def test_others_tokens_stay_others_tokens() -> None:
    world = TextWorld(PROMPTS, word_tokenizer())
    episodes = world.load(
        [Item("", "", {"prompt_tokens": [4], "answer_tokens": [5, 6, 2], "decided": [True, False, True]})]
    )
    assert episodes.mask_BT.tolist() == [[True, False, True]]
    again = world.load(world.show(episodes))
    assert torch.equal(again.mask_BT, episodes.mask_BT)
    assert torch.equal(again.action, episodes.action)


def test_a_judge_reads_texts_without_special_tokens() -> None:
    world = TextWorld(["the  film"], word_tokenizer())
    row = world.load([Item("", "", {"prompt_tokens": [4, 5], "answer_tokens": [6, 7, END]})])
    (item,) = world.show(row)
    assert (item.prompt, item.content) == ("the  film", "was good")
    (unknown,) = world.show(world.load([Item("", "", {"prompt_tokens": [5, 4], "answer_tokens": [END]})]))
    assert (unknown.prompt, unknown.content) == ("film the", "")


def test_texts_of_others_are_tokenised_and_ended() -> None:
    world = TextWorld(PROMPTS, word_tokenizer())
    rows = world.load(
        [
            Item("", "", {"prompt_text": "the film", "answer_text": "was good"}),
            Item("", "", {"prompt_text": "the film", "answer_text": "was good </s>"}),
            Item("", "", {"prompt_text": "the", "answer_text": ""}),
        ]
    )
    assert rows.action.tolist() == [[6, 7, END], [6, 7, END], [END, PAD, PAD]]
    assert rows.obs.tolist() == [[4, 5], [4, 5], [PAD, 4]]
    assert rows.group_B.tolist() == [0, 0, 1]


def test_chats_of_others_go_through_the_template() -> None:
    tokenizer = word_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}assistant"
    turns = [{"role": "user", "content": "good film"}]
    world = TextWorld([chat_prompt(turns)], tokenizer)
    rows = world.load([Item("", "", {"prompt_messages": turns, "answer_text": "bad"})])
    assert rows.obs.tolist() == [[10, 7, 5, 11]] == [world.tokens[0]]
    assert rows.action.tolist() == [[8, END]]
    with pytest.raises(DataError, match="is no chat"):
        world.load([Item("", "", {"prompt_messages": [], "answer_text": "bad"})])


def test_what_cannot_be_loaded_is_said() -> None:
    world = TextWorld(PROMPTS, word_tokenizer())
    with pytest.raises(DataError, match="expected prompt_tokens and answer_tokens"):
        world.load([Item("", "", {"clip": "frames"})])
    with pytest.raises(DataError, match="no items"):
        world.load([])


# -- making one ------------------------------------------------------------------------------------------------------------


def test_bad_worlds() -> None:
    with pytest.raises(DataError, match="got none"):
        TextWorld([], word_tokenizer())
    with pytest.raises(ConfigError, match="at least 1"):
        TextWorld(PROMPTS, word_tokenizer(), group_size=0)
    with pytest.raises(DataError, match=r"prompt 2: .*no chat template"):
        TextWorld(["the", chat_prompt([{"role": "user", "content": "film"}])], word_tokenizer())
