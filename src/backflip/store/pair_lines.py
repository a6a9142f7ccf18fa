"""One preference pair as one row, ours or another tool's, and back to the query and the judgement it came from.

Our rows carry hashes and a `record` from which exactly the same query and judgement are rebuilt; a row without a
`record` is another tool's. Leaves out files (`pair_files.py`) and the store (`interchange.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from backflip.data import Aid, Item, Judgement, Query, digest
from backflip.errors import DataError
from backflip.store.records import judgement_row

FORMAT = 1
QUESTION = "Which answer is better?"
ASSISTANT_TURN = "\n\nAssistant:"
_SAID = ("judge", "answer", "strength", "note", "created", "seconds", "question", "query_id")
DECIDED = ("prompt", "chosen", "rejected", *_SAID, "chosen_id", "rejected_id", "record")
"""Columns of the file of decided pairs."""
UNDECIDED = ("prompt", "first", "second", *_SAID, "first_id", "second_id", "record")
"""Columns of the file of ties and of pairs that nobody could judge."""


def is_pair(query: Query) -> bool:
    """Return True where a query compares two answers in text to one prompt, which a row can hold."""
    texts = all(item.media == "text" for item in query.items)
    return (
        query.kind == "compare" and len(query.items) == 2 and texts and query.items[0].prompt == query.items[1].prompt
    )


def is_decided(judgement: Judgement) -> bool:
    """Return True where one of two answers was called better."""
    return judgement.answer is not None and judgement.answer[0] != judgement.answer[1]


def to_row(query: Query, judgement: Judgement, chat: bool) -> dict[str, Any]:
    """Return the row of a judged pair: chosen and rejected where it is decided, else first and second as stored.

    `answer` holds the probability that each of the two, in the row's order, is better; None where nobody could judge.
    With `chat`, prompts that are messages stay messages; else they are text.
    """
    decided = is_decided(judgement)
    place = 1 if decided and judgement.answer and judgement.answer[1] > judgement.answer[0] else 0
    items = (query.items[place], query.items[1 - place])
    shares = None if judgement.answer is None else [judgement.answer[place], judgement.answer[1 - place]]
    names = ("chosen", "rejected") if decided else ("first", "second")
    messages = items[0].payload.get("prompt_messages")
    record = {
        "format": FORMAT,
        "place": place,
        "prompt": items[0].prompt,
        "payloads": [dict(item.payload) for item in items],
        "authors": [item.author for item in items],
        "aids": [[aid.author, aid.text, aid.item_id] for aid in query.aids],
        "instruction": query.instruction,
        "repeat": query.repeat,
        "order": list(query.order),
        "reason": query.reason,
        "details": dict(judgement.details),
        "judgement_id": judgement_row(judgement)["id"],
    }
    as_chat = chat and isinstance(messages, list)
    return {
        "prompt": messages if as_chat else items[0].prompt,
        names[0]: [{"role": "assistant", "content": items[0].content}] if as_chat else items[0].content,
        names[1]: [{"role": "assistant", "content": items[1].content}] if as_chat else items[1].content,
        "judge": judgement.judge,
        "answer": shares,
        "strength": judgement.strength,
        "note": judgement.note,
        "created": judgement.created,
        "seconds": judgement.seconds,
        "question": query.question,
        "query_id": query.id,
        f"{names[0]}_id": items[0].id,
        f"{names[1]}_id": items[1].id,
        "record": json.dumps(record, ensure_ascii=False, allow_nan=False, sort_keys=True),
    }


def from_row(row: Any, source: str, seen: dict[str, int]) -> tuple[Query, Judgement]:
    """Return what a row says. `source` names the judge where the row does not; `seen` counts equal pairs in the file.

    Raises DataError saying what is wrong with the row.
    """
    row = object_of(row)
    return _ours(row) if row.get("record") is not None else _theirs(row, source, seen)


def object_of(row: Any) -> dict[str, Any]:
    """Return a row that is an object of whole characters.

    Raises:
        DataError: it is something else.
    """
    if not isinstance(row, dict):
        raise DataError(f"holds {type(row).__name__}, expected an object with prompt, chosen and rejected")
    row = cast(dict[str, Any], row)
    try:
        json.dumps(row, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as error:  # JSON can spell half of a character
        raise DataError("holds half a character (a lone surrogate)") from error
    return row


def _ours(row: Mapping[str, Any]) -> tuple[Query, Judgement]:
    decided = row.get("chosen") is not None
    names = ("chosen", "rejected") if decided else ("first", "second")
    try:
        record = json.loads(row["record"])
        if record["format"] != FORMAT:
            raise DataError(f"its record has format {record['format']}, expected {FORMAT}: another version wrote it")
        texts = [_plain(row[name]) for name in names]
        pair = [
            Item(record["prompt"], content, payload, author)
            for content, payload, author in zip(texts, record["payloads"], record["authors"], strict=True)
        ]
        shares = row["answer"]
        if record["place"]:
            pair, shares = pair[::-1], None if shares is None else shares[::-1]
        query = Query(
            items=tuple(pair),
            question=row["question"],
            aids=tuple(Aid(*aid) for aid in record["aids"]),
            instruction=record["instruction"],
            repeat=record["repeat"],
            order=tuple(record["order"]),
            reason=record["reason"],
        )
        judgement = Judgement(
            query_id=query.id,
            judge=row["judge"],
            answer=None if shares is None else tuple(shares),
            note=row["note"],
            strength=row["strength"],
            created=row["created"],
            seconds=row["seconds"],
            details=record["details"],
        )
        prompt = record["prompt"] if isinstance(row["prompt"], str) else record["payloads"][0]["prompt_messages"]
        said = (row["prompt"], row["query_id"], judgement_row(judgement)["id"])
        same = said == (prompt, query.id, record["judgement_id"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"its record cannot be read ({error!r}); remove `record` to import it as a new pair") from error
    if not same:
        raise DataError(
            "it was changed since it was exported (a hash differs); remove `record` to import it as a new pair"
        )
    return query, judgement


def _theirs(row: Mapping[str, Any], source: str, seen: dict[str, int]) -> tuple[Query, Judgement]:
    """Read prompt / chosen / rejected as text or messages, as other tools write them.

    The chosen answer is stored first or second by a hash of the two: the place of an item says nothing about it.
    """
    pair, place = pair_of(row)
    question = text_of(row, "question", QUESTION)
    key = Query(pair, question).id
    seen[key] = seen.get(key, 0) + 1
    query = Query(pair, question, repeat=seen[key] - 1, reason="imported")
    judgement = Judgement(
        query_id=query.id,
        judge=text_of(row, "judge", source),
        answer=(1.0, 0.0) if place == 0 else (0.0, 1.0),
        strength=_number(row, "strength", 1.0),
        created=_number(row, "created", 0.0),
        seconds=_number(row, "seconds", -1.0) if row.get("seconds") is not None else None,
    )
    return query, judgement


def pair_of(row: Mapping[str, Any], names: tuple[str, str] = ("chosen", "rejected")) -> tuple[tuple[Item, Item], int]:
    """Return the two answers of a row as they are stored, and the place of the one that the row names first.

    Raises:
        DataError: there are no two texts, or messages, that answer one prompt.
    """
    texts, payloads = _answers(row, names)
    one, other = (Item(texts[0], text, payload, "imported") for text, payload in zip(texts[1:], payloads, strict=True))
    flip = int(digest(sorted((one.id, other.id))), 16) % 2 == 1
    return ((one, other), 0) if (one.id < other.id) != flip else ((other, one), 1)


def _answers(row: Mapping[str, Any], names: tuple[str, str]) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the texts [prompt, chosen, rejected] and the payloads of the two answers, which `names` name."""
    for name in names:
        if row.get(name) is None:
            raise DataError(f"has no {name!r}; expected prompt, {names[0]} and {names[1]}")
    prompt, chosen, rejected = row.get("prompt"), row[names[0]], row[names[1]]
    if isinstance(chosen, str) and isinstance(rejected, str) and not isinstance(prompt, list):
        if prompt is None:
            prompt, chosen, rejected = _split_transcripts(chosen, rejected, names)
        if not isinstance(prompt, str):
            raise DataError(f"its prompt is {type(prompt).__name__}, expected text or a list of messages")
        texts = [prompt, chosen, rejected]
        payloads = [{"prompt_text": prompt, "answer_text": text} for text in (chosen, rejected)]
    else:
        turns, contents = _chat(prompt, {names[0]: chosen, names[1]: rejected})
        alone = len(turns) == 1 and turns[0]["role"] == "user"
        shown = turns[0]["content"] if alone else "\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)
        texts = [shown, *contents]
        payloads = [{"prompt_messages": turns, "answer_text": text} for text in contents]
    if texts[1] == texts[2]:
        raise DataError(f"{' and '.join(names)} are the same text: nothing was preferred; remove it")
    return texts, payloads


def _split_transcripts(chosen: str, rejected: str, names: tuple[str, str]) -> tuple[str, str, str]:
    """Split two whole dialogues "Human: ... Assistant: ..." (as in HH-RLHF) into their prompt and the last answers."""
    ends = [text.rfind(ASSISTANT_TURN) for text in (chosen, rejected)]
    cut = ends[0] + len(ASSISTANT_TURN)
    if -1 in ends or chosen[:cut] != rejected[: ends[1] + len(ASSISTANT_TURN)]:
        raise DataError(
            f"has no prompt, and {' and '.join(names)} are no dialogues that differ after the last {ASSISTANT_TURN!r}"
        )
    return chosen[:cut], chosen[cut:], rejected[cut:]


def _chat(prompt: Any, answers: Mapping[str, Any]) -> tuple[list[dict[str, str]], list[str]]:
    """Return the turns before the answer and the two answers, which come by name.

    The prompt is a list of messages, or text (one user's turn), or absent: then chosen and rejected begin with it.
    """
    sides = [_turns(side, name) for name, side in answers.items()]
    for side, name in zip(sides, answers, strict=True):
        if side[-1]["role"] != "assistant":
            raise DataError(f"the last message of {name} is by {side[-1]['role']!r}, expected the assistant's answer")
    before = [side[:-1] for side in sides]
    given = (
        _turns(prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}], "prompt")
        if prompt
        else []
    )
    whole = [turns if turns[: len(given)] == given else [*given, *turns] for turns in before]
    if whole[0] != whole[1]:
        raise DataError(
            f"{' and '.join(answers)} answer different conversations; expected them to differ in the last message only"
        )
    if not whole[0]:
        raise DataError("has no prompt: neither a prompt nor messages before the answer")
    return whole[0], [side[-1]["content"] for side in sides]


def _turns(value: Any, name: str) -> list[dict[str, str]]:
    """Check a list of messages. An answer that is plain text is one turn of the assistant."""
    if isinstance(value, str) and name != "prompt":
        return [{"role": "assistant", "content": value}]
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise DataError(f"its {name} is {type(value).__name__}, expected text or a list of messages")
    turns: list[dict[str, str]] = []
    for message in cast(Sequence[Any], value):
        parts = [message.get(key) if isinstance(message, Mapping) else None for key in ("role", "content")]
        if not all(isinstance(part, str) for part in parts):
            raise DataError(f"a message of {name} is no object with role and content in text")
        turns.append({"role": str(parts[0]), "content": str(parts[1])})
    return turns


def _plain(value: Any) -> str:
    """Return an answer that was written as text or as one message."""
    return value if isinstance(value, str) else value[-1]["content"]


def text_of(row: Mapping[str, Any], name: str, default: str) -> str:
    """Return a text of a row, the default where it has none. Raises DataError where it is something else."""
    value = row.get(name)
    if value is None:
        return default
    if not isinstance(value, str):
        raise DataError(f"its {name} is {value!r}, expected text")
    return value


def _number(row: Mapping[str, Any], name: str, default: float) -> float:
    value = row.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise DataError(f"its {name} is {value!r}, expected a number from 0")
    return float(value)
