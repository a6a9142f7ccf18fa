"""Read prompts from a JSONL or a text file, and turn them into tokens and into what a judge reads.

JSONL: each line `{"prompt": "..."}`, or `{"messages": [{"role": "user", "content": "..."}, ...]}`. Any other file: each line is a
prompt. Blank lines are left out. What it leaves out: sampling (`worlds/text.py`) and preference pairs (`store/interchange.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backflip.errors import DataError

JSON_LINES = frozenset({".jsonl", ".ndjson", ".json"})


@dataclass(frozen=True)
class Prompt:
    """What a policy is given: a text, or the turns of a chat so far."""

    text: str
    """What a judge reads; for a chat the turns, each with its role unless a user's turn is the only one."""
    messages: tuple[Mapping[str, str], ...] | None = None
    """Turns with `role` and `content`, or None for a plain text."""


def read_prompts(path: str | Path) -> list[Prompt]:
    """Read every prompt of a file, in order.

    Raises DataError for a missing or empty file, and for a broken or non-UTF-8 line, with its number.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read prompts from {path}: {error.strerror}; expected a JSONL or text file") from error
    parse = _parse_json if path.suffix.lower() in JSON_LINES else _parse_text
    prompts: list[Prompt] = []
    for number, raw in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        try:
            line = raw.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path} line {number} is not UTF-8 (byte {error.start + 1}); save the file as UTF-8"
            ) from error
        if not line:
            continue
        try:
            prompts.append(parse(line))
            prompts[-1].text.encode()  # JSON can spell half of a character, which no tokenizer reads
        except UnicodeEncodeError as error:
            raise DataError(
                f"{path} line {number} holds half a character (a lone surrogate); mend or remove the line"
            ) from error
        except ValueError as error:
            raise DataError(f"{path} line {number}: {error}; mend or remove the line") from error
    if not prompts:
        raise DataError(f"{path} holds no prompts; expected at least one line")
    return prompts


def chat_prompt(messages: Sequence[Mapping[str, str]]) -> Prompt:
    """Return the prompt that these turns make. Raises ValueError for turns without role and content."""
    if not messages:
        raise ValueError("expected at least one message")
    for index, message in enumerate(messages):
        given: Any = message
        if not isinstance(given, Mapping) or not all(isinstance(given.get(key), str) for key in ("role", "content")):
            raise ValueError(f'message {index} must be {{"role": "...", "content": "..."}} with text in both')
    if messages[-1]["role"] == "assistant":
        raise ValueError("the last message is the assistant's; expected a turn to answer")
    turns = tuple({"role": message["role"], "content": message["content"]} for message in messages)
    alone = len(turns) == 1 and turns[0]["role"] == "user"
    text = turns[0]["content"] if alone else "\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)
    return Prompt(text, turns)


def prompt_tokens(prompt: Prompt, tokenizer: Any, *, chat: bool = True) -> list[int]:
    """Turn a prompt into tokens, through the tokenizer's chat template where it has one.

    A plain text is one turn of the user then; `chat=False` takes plain texts as they are. An end token that the tokenizer
    puts behind every text is dropped. Raises DataError for a chat without a template, and for a prompt without tokens.
    """
    template = bool(getattr(tokenizer, "chat_template", None))
    if prompt.messages is not None and not template:
        raise DataError(
            "a prompt is chat messages and the tokenizer has no chat template; give plain prompts or an instruct model"
        )
    if template and (chat or prompt.messages is not None):
        turns = [dict(turn) for turn in prompt.messages or ({"role": "user", "content": prompt.text},)]
        # Rendered as text and then tokenised without additions: the template writes its own begin token.
        rendered = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        tokens = text_tokens(rendered, tokenizer, special=False)
    else:
        tokens = text_tokens(prompt.text, tokenizer, special=True)
    if len(tokens) > 1 and tokens[-1] == tokenizer.eos_token_id:
        tokens = tokens[:-1]
    if not tokens:
        first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        if first is None:
            raise DataError(
                f"the prompt {prompt.text!r} has no tokens and the tokenizer no begin token; expected a longer prompt"
            )
        tokens = [first]
    return tokens


def text_tokens(text: str, tokenizer: Any, *, special: bool) -> list[int]:
    """Tokenise one text, with or without the tokens that the tokenizer adds by itself."""
    return list(tokenizer(text, add_special_tokens=special)["input_ids"])


def _parse_text(line: str) -> Prompt:
    return Prompt(line)


def _parse_json(line: str) -> Prompt:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at character {error.pos + 1})") from error
    if not isinstance(value, dict) or ("prompt" in value) == ("messages" in value):
        raise ValueError('expected an object with either "prompt" or "messages"')
    found: Any = value.get("messages", value.get("prompt"))
    # Other tools write chats under "prompt" too.
    if isinstance(found, list):
        return chat_prompt(found)
    if not isinstance(found, str) or not found.strip() or "messages" in value:
        raise ValueError('"prompt" must be a text that is not blank, "messages" a list of turns')
    return Prompt(found)
