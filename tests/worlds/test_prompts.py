"""Prompt files of every kind, and each way in which one can be broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from backflip.errors import DataError
from backflip.worlds.prompts import Prompt, chat_prompt, prompt_tokens, read_prompts

TEMPLATE = (
    "{% for message in messages %}<s> {{ message['role'] }} {{ message['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}assistant{% endif %}"
)
WORDS = ["<pad>", "<s>", "</s>", "<unk>", "user", "assistant", "system", "good", "film", "be", "kind"]


def word_tokenizer(
    *, template: str | None = None, adds_begin: bool = False, adds_end: bool = False, begin: str | None = "<s>"
) -> Any:
    inner = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if adds_begin or adds_end:
        pattern = f"{'<s> ' if adds_begin else ''}$A{' </s>' if adds_end else ''}"
        inner.post_processor = processors.TemplateProcessing(single=pattern, special_tokens=[("<s>", 1), ("</s>", 2)])
    special: dict[str, Any] = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, **special | ({"bos_token": begin} if begin else {}))
    tokenizer.chat_template = template
    return tokenizer


# -- files -----------------------------------------------------------------------------------------------------------


def test_a_text_file_holds_a_prompt_a_line(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeffThe film\r\n\n  It was  \nÜber {all}".encode())
    assert [prompt.text for prompt in read_prompts(path)] == ["The film", "It was", "Über {all}"]


def test_json_lines_hold_prompts_and_chats(tmp_path: Path) -> None:
    chat = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "good film"}]
    lines = [{"prompt": "The film", "id": 3}, {"messages": chat}, {"prompt": chat[1:]}]
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n\n".join(json.dumps(line) for line in lines) + "\n", encoding="utf-8")
    plain, whole, alone = read_prompts(path)
    assert plain == Prompt("The film")
    assert whole == Prompt("system: be kind\nuser: good film", tuple(chat))
    assert alone == Prompt("good film", tuple(chat[1:]))


@pytest.mark.parametrize("name", ["empty.txt", "empty.jsonl"])
@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf"])
def test_an_empty_file(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match="holds no prompts; expected at least one line"):
        read_prompts(tmp_path / name)


@pytest.mark.parametrize("name", ["prompts.txt", "prompts.jsonl"])
def test_a_line_that_is_not_utf8_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b'{"prompt": "a"}\n{"prompt": "b\xe9"}\n')
    with pytest.raises(DataError, match=r"line 2 is not UTF-8 \(byte 14\)"):
        read_prompts(tmp_path / name)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"prompt": "a"', "not JSON"),
        ('"a"', '"prompt" or "messages"'),
        ('{"text": "a"}', '"prompt" or "messages"'),
        ('{"prompt": "a", "messages": []}', '"prompt" or "messages"'),
        ('{"prompt": "  "}', "not blank"),
        ('{"prompt": 3}', "not blank"),
        ('{"messages": "hello"}', "a list of turns"),
        ('{"prompt": "half \\ud800 of one"}', "half a character"),
        ('{"messages": []}', "at least one message"),
        ('{"messages": [{"role": "user"}]}', "message 0 must be"),
        ('{"messages": ["hello"]}', "message 0 must be"),
        ('{"messages": [{"role": "user", "content": ["an", "image"]}]}', "message 0 must be"),
        (
            '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}',
            "expected a turn to answer",
        ),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(f'{{"prompt": "fine"}}\n\n{line}\n', encoding="utf-8")
    with pytest.raises(DataError, match="line 3") as error:
        read_prompts(path)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read prompts from .*none\.txt"):
        read_prompts(tmp_path / "none.txt")


# -- tokens ----------------------------------------------------------------------------------------------------------


def test_a_plain_prompt_has_the_tokens_that_the_tokenizer_gives() -> None:
    assert prompt_tokens(Prompt("good film"), word_tokenizer()) == [7, 8]
    assert prompt_tokens(Prompt("good film"), word_tokenizer(adds_begin=True)) == [1, 7, 8]


def test_an_end_token_behind_a_prompt_is_dropped() -> None:
    # A policy that reads "prompt </s>" is asked to go on after the end.
    assert prompt_tokens(Prompt("good film"), word_tokenizer(adds_begin=True, adds_end=True)) == [1, 7, 8]


def test_a_prompt_without_tokens_gets_the_begin_token() -> None:
    assert prompt_tokens(Prompt(""), word_tokenizer()) == [1]
    assert prompt_tokens(Prompt(""), word_tokenizer(begin=None)) == [2]
    tokenizer = word_tokenizer(begin=None)
    tokenizer.eos_token = None
    with pytest.raises(DataError, match="no begin token"):
        prompt_tokens(Prompt(""), tokenizer)


def test_chats_go_through_the_template_once() -> None:
    # The template writes the begin token itself: a second one is the classic fault.
    tokenizer = word_tokenizer(template=TEMPLATE, adds_begin=True)
    chat = chat_prompt([{"role": "system", "content": "be kind"}, {"role": "user", "content": "good film"}])
    assert prompt_tokens(chat, tokenizer) == [1, 6, 9, 10, 1, 4, 7, 8, 5]


def test_plain_prompts_are_a_turn_of_the_user_unless_told_otherwise() -> None:
    tokenizer = word_tokenizer(template=TEMPLATE)
    assert prompt_tokens(Prompt("good film"), tokenizer) == [1, 4, 7, 8, 5]
    assert prompt_tokens(Prompt("good film"), tokenizer, chat=False) == [7, 8]


def test_a_chat_needs_a_template() -> None:
    with pytest.raises(DataError, match="no chat template"):
        prompt_tokens(chat_prompt([{"role": "user", "content": "good"}]), word_tokenizer())
