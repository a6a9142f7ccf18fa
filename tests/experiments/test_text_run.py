"""`backflip run text`: any model, any prompts, any judge, no gold; and what a user gets who brings the wrong thing."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from backflip.cli import main
from backflip.experiments.text import split_prompts
from backflip.run import RunRecord, read_run
from backflip.store import Store
from backflip.worlds.prompts import Prompt

SMALL = (
    "--comparisons 12 --members 1 --fit.batch 8 --normalise-on 8 --updates 3 --episodes 8 --save-every 1 --check-every 2 "
    "--sampling.max-new-tokens 5 --held-out-share 0.3 --final-comparisons 6 --quiet"
).split()
Failure = Callable[..., str]


def carry_out(folder: Path, policy: Path, prompts: Path, overseer: str, *more: str) -> RunRecord:
    argv = ["--policy", str(policy), "--prompts", str(prompts), "--overseer", overseer, "--folder", str(folder)]
    assert main(["run", "text", *argv, *SMALL, *more]) == 0
    return read_run(folder)


def of_phase(record: RunRecord, phase: str) -> list[dict[str, Any]]:
    return [row for row in record.metrics if row["phase"] == phase]


def test_from_a_judge_in_a_file_to_a_policy(tmp_path: Path, tiny_policy: Path, prompts: Path, judges: Path) -> None:
    record = carry_out(
        tmp_path / "run", tiny_policy, prompts, f"{judges}:shy",
        "--components", f"goods=0.5*{judges}:goods", f"short=2*{judges}:short",
    )  # fmt: skip
    assert (record.status, record.faults) == ("done", [])
    assert {
        "win_rate_by_overseer",
        "ppo_kl_nats_per_sequence",
        "ppo_entropy_nats",
        "ppo_proxy",
        "ppo_distinct2_ratio",
    } <= set(record.summary["estimates"])
    assert not any("gold" in name for name in record.summary["estimates"])
    # the components are logged apart, unweighted, and weighted in what PPO is given
    for row in of_phase(record, "ppo"):
        parts = [row[f"reward_{name}_mean"] for name in ("learned", "goods", "short")]
        assert row["reward_short_mean"] < 0 <= row["reward_goods_mean"]
        assert row["proxy_mean"] == pytest.approx(parts[0] + 0.5 * parts[1] + 2 * parts[2], abs=1e-4)
    (asked,) = of_phase(record, "ask")
    cost = record.results["cost"]
    assert 0 < asked["unanswered"] == cost["unanswered"] < asked["judgements"] == cost["comparisons"] <= 12
    assert cost["disk_bytes"] > 0
    with Store.open(tmp_path / "run" / "store.sqlite", "read") as store:
        queries, _ = store.queries()
        final = [query for query in queries if query.reason == "final"]
        assert cost["final_comparisons"] == len(final) <= 6
        # prompts of the final comparisons were never trained on
        assert not {query.items[0].prompt for query in final} & {
            q.items[0].prompt for q in queries if q.reason != "final"
        }
    assert {row["policy"] for row in record.results["table"]} == {"base", "PPO"}
    # what was trained is a plain checkpoint, another than the one started from
    trained = record.path / "checkpoints" / "policy-3"
    AutoModelForCausalLM.from_pretrained(trained)
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny_policy, trained))
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_what_was_judged_teaches_the_same_policy_again_and_another_one_in_two_rounds(
    tmp_path: Path, tiny_policy: Path, prompts: Path, judges: Path
) -> None:
    one = carry_out(tmp_path / "run", tiny_policy, prompts, f"{judges}:shy")
    judges.write_text("def shy(*_): raise RuntimeError('nobody is asked')")
    assert main(["run", "--again", str(one.path), "--folder", str(tmp_path / "again"), "--quiet"]) == 0
    other = read_run(tmp_path / "again")
    for phase in ("ask", "reward", "ppo"):
        assert [{k: v for k, v in row.items() if "seconds" not in k} for row in of_phase(one, phase)] == [
            {k: v for k, v in row.items() if "seconds" not in k} for row in of_phase(other, phase)
        ]
    assert "win_rate_by_overseer" not in other.summary["estimates"]  # the final comparisons were not asked again
    two = ["run", "--again", str(one.path), "--rounds", "2", "--folder", str(tmp_path / "two"), "--quiet"]
    assert main(two) == 0
    asked = [row["judgements"] for row in of_phase(read_run(tmp_path / "two"), "ask")]
    assert (
        len(asked) == 2
        and asked[0] == pytest.approx(asked[1] / 2, abs=1)
        and asked[1] == len(one.results["asked"]["asked"])
    )
    # of the first round all questions but two went unanswered: the second round's stay the second round's
    first, second = ([id for id, at in rounds_of(tmp_path / "two") if at == number] for number in (0, 1))
    with sqlite3.connect(tmp_path / "two" / "store.sqlite") as store:
        store.executemany("DELETE FROM judgements WHERE query_id = ?", [(one,) for one in first[2:]])
    assert len(first) > 4 and len(second) > 4
    assert main(["run", "--again", str(tmp_path / "two"), "--folder", str(tmp_path / "three"), "--quiet"]) == 0
    asked = [row["judgements"] for row in of_phase(read_run(tmp_path / "three"), "ask")]
    assert asked == [2, 2 + len(second)] and rounds_of(tmp_path / "three") == [
        (id, 0 if id in first else 1) for id in (*first[:2], *second)
    ]


def rounds_of(run: Path) -> list[tuple[str, int]]:
    said = read_run(run).results["asked"]
    return list(zip(said["asked"], said["asked_at"], strict=True))


def test_chats_and_adapters(tmp_path: Path, tiny_chat_policy: Path, chats: Path, judges: Path) -> None:
    record = carry_out(
        tmp_path / "run", tiny_chat_policy, chats, f"{judges}:wordy", "--rounds", "2", "--lr", "0.02", "weights:lora", "--weights.rank", "2",
    )  # fmt: skip
    assert record.status == "done"
    assert len(of_phase(record, "ask")) == 2
    # adapters are merged: a plain model of the same shape, of which linear layers alone have changed
    before = load_file(tiny_chat_policy / "model.safetensors")
    after = load_file(record.path / "checkpoints" / "policy-3" / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all("_proj" in name for name in changed)
    base = load_file(record.path / "checkpoints" / "base-0" / "model.safetensors")
    assert all(torch.equal(before[name], base[name]) for name in before)
    # a judge reads what the user wrote, not the template
    assert all(row["prompt"].startswith("the film was") for row in record.samples)


def test_a_reward_model_may_start_elsewhere(
    tmp_path: Path, tiny_policy: Path, tiny_chat_policy: Path, prompts: Path, judges: Path, failure: Failure
) -> None:
    record = carry_out(
        tmp_path / "run", tiny_policy, prompts, f"{judges}:wordy", "--reward-from", str(tiny_chat_policy)
    )
    assert record.status == "done"
    other = tmp_path / "other"
    other.mkdir()
    for file in tiny_policy.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    tokens = json.loads((other / "tokenizer.json").read_text())
    tokens["model"]["vocab"]["awful"] = tokens["model"]["vocab"].pop("bad")
    (other / "tokenizer.json").write_text(json.dumps(tokens))
    said = failure(
        "run", "text", "--policy", tiny_policy, "--prompts", prompts, "--overseer", f"{judges}:wordy", *SMALL,
        "--folder", tmp_path / "refused", "--reward-from", other,
    )  # fmt: skip
    assert "start from a model with the same tokenizer" in said


def test_one_word_answers_have_no_distinct_pairs(
    tmp_path: Path, tiny_policy: Path, prompts: Path, judges: Path
) -> None:
    record = carry_out(tmp_path / "run", tiny_policy, prompts, f"{judges}:wordy", "--sampling.max-new-tokens", "1")
    assert record.status == "done"
    assert "ppo_distinct2_ratio" not in record.summary["estimates"]
    assert any("no distinct-2" in note for note in record.notes)


@pytest.mark.parametrize(
    ("stop", "updates", "note"),
    [
        (["--stop.kl-nats-per-sequence", "-1000"], 1, "the KL estimate"),
        (["--stop.minutes", "0"], 1, "0 minutes are over"),
        (["--stop.judgements", "4"], 3, None),
    ],
    ids=["kl", "minutes", "judgements"],
)
def test_stop_rules(
    tmp_path: Path, tiny_policy: Path, prompts: Path, judges: Path, stop: list[str], updates: int, note: str | None
) -> None:
    record = carry_out(tmp_path / "run", tiny_policy, prompts, f"{judges}:wordy", *stop)
    assert record.status == "done"
    assert len(of_phase(record, "ppo")) == updates
    assert note is None or any(note in said for said in record.notes)
    assert of_phase(record, "ask")[0]["judgements"] <= (4 if note is None else 12)


@pytest.mark.parametrize("weights", [[], ["weights:lora", "--weights.rank", "2"]], ids=["full", "lora"])
def test_a_plan_says_what_a_run_needs_and_makes_nothing(
    tmp_path: Path, tiny_policy: Path, prompts: Path, judges: Path, weights: list[str], capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    argv = ["--policy", str(tiny_policy), "--prompts", str(prompts), "--overseer", f"{judges}:wordy", "--plan"]
    assert main(["run", "text", *argv, *SMALL, *weights]) == 0
    said = capsys.readouterr().out
    assert "memory" in said and "time" in said and "judgements  18" in said
    assert ("0 MiB  reference" in said) or not weights
    assert {path.name for path in tmp_path.iterdir()} == {"judges.py", "prompts.txt"}


def test_a_reward_that_compares_is_called_one(
    tmp_path: Path, tiny_policy: Path, prompts: Path, judges: Path, failure: Failure
) -> None:
    files = ("--policy", str(tiny_policy), "--prompts", str(prompts), "--folder", str(tmp_path / "run"))
    small = "--method dpo --comparisons 6 --updates 1 --sampling.max-new-tokens 5 --held-out-share 0.3 --quiet".split()
    said = failure("run", "text", *files, *small, "--reward", f"{judges}:fails")
    assert "the reward" in said and "failed on query" in said and "judge" not in said.replace(str(judges), "")
    assert said.endswith(f"mend it and go on with: backflip run --resume {tmp_path / 'run'}")


# -- mistakes: one line, exit code 2 ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"--policy": None}, "ConfigError: this run needs --policy; e.g. backflip run text"),
        ({"--policy": None, "--prompts": None, "--overseer": None}, "needs --policy and --prompts and --overseer"),
        ({"--policy": "/no/such/model"}, "DataError: no checkpoint at /no/such/model"),
        ({"--prompts": "/no/such/prompts.txt"}, "DataError: cannot read prompts from /no/such/prompts.txt"),
        ({"--prompts": "{empty}"}, "holds no prompts; expected at least one line"),
        ({"--prompts": "{latin}"}, "line 2 is not UTF-8 (byte 5)"),
        ({"--prompts": "{few}"}, "2 prompts with held_out_share 0.3 leave"),
        ({"--prompts": "{chats}"}, "the tokenizer has no chat template"),
        ({"--overseer": "somebody"}, 'is "somebody"; expected terminal, people or FILE.py:FUNCTION'),
        ({"--overseer": "{judges}:nobody"}, 'has no function "nobody"; it has wordy, shy, broken'),
        ({"--overseer": "{crashing}:judge"}, "failed while it was loaded (ZeroDivisionError"),
        (
            {"--overseer": "{judges}:broken"},
            "(KeyError: 'no such film'); mend it and go on with: backflip run --resume",
        ),
        ({"--overseer": "{judges}:shouting"}, "said 2 to query"),
        ({"--policy": "{garbled}"}, "DataError: cannot read"),
        ({"--components": "goods=half*{judges}:goods"}, "expected NAME=WEIGHT*FILE.py:FUNCTION"),
        ({"--components": "goods=0.5"}, "expected NAME=WEIGHT*FILE.py:FUNCTION"),
        ({"--components": "goods=inf*{judges}:goods"}, "expected NAME=WEIGHT*FILE.py:FUNCTION"),
        ({"--components": "learned=1*{judges}:goods"}, 'two rewards are called "learned"'),
        ({"--components": "goods=1*{judges}:nothing"}, 'has no function "nothing"'),
        ({"--components": "goods=1*{judges}:fails"}, "ValueError: cannot read it"),
        ({"--stop.judgements": "0"}, "stop.judgements is 0"),
        ({"--resume": "{few}"}, "leave out --"),
    ],
    ids=lambda value: " ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_a_mistake_is_one_line(
    tmp_path: Path, tiny_policy: Path, prompts: Path, chats: Path, judges: Path, failure: Failure,
    changes: dict[str, str | None], said: str,
) -> None:  # fmt: skip
    files = {"empty": b"\n \n", "latin": b"the film\ngood\xe9\n", "few": b"the film\nwas good\n"}
    for name, content in files.items():
        (tmp_path / f"{name}.txt").write_bytes(content)
    shutil.copytree(tiny_policy, tmp_path / "garbled")
    (tmp_path / "garbled" / "backflip.json").write_text("{garbage")
    (tmp_path / "crashing.py").write_text("1 / 0\n")
    places = {name: str(tmp_path / f"{name}.txt") for name in files}
    places |= {"judges": str(judges), "chats": str(chats), "crashing": str(tmp_path / "crashing.py")}
    places |= {"garbled": str(tmp_path / "garbled")}
    given: dict[str, str | None] = {
        "--policy": str(tiny_policy), "--prompts": str(prompts), "--overseer": f"{judges}:wordy", "--folder": str(tmp_path / "run"),
    }  # fmt: skip
    argv = [
        part.format(**places)
        for name, value in (given | changes).items()
        if value is not None
        for part in (name, value)
    ]
    message = failure("run", "text", *argv, *SMALL)
    assert said in message
    assert not list((tmp_path / "run").glob("checkpoints/policy-*"))


def test_what_was_judged_before_a_judge_failed_is_kept(
    tmp_path: Path, tiny_policy: Path, prompts: Path, failure: Failure
) -> None:
    judge = tmp_path / "moody.py"
    judge.write_text("seen = []\ndef judge(p, a, b):\n    seen.append(a)\n    return 1 / (len(seen) < 5)\n")
    argv = ["--policy", tiny_policy, "--prompts", prompts, "--overseer", f"{judge}:judge", "--folder", tmp_path / "run"]
    assert "ZeroDivisionError" in failure("run", "text", *argv, *SMALL)
    with Store.open(tmp_path / "run" / "store.sqlite", "read") as store:
        assert store.counts()["judgements"] == 4
    judge.write_text("def judge(p, a, b):\n    return 1.0\n")
    assert main(["run", "--resume", str(tmp_path / "run"), "--quiet"]) == 0
    record = read_run(tmp_path / "run")
    assert record.status == "done"
    assert record.results["cost"]["comparisons"] == of_phase(record, "ask")[0]["judgements"] >= 10


def test_equal_prompts_fall_on_one_side_and_sides_are_shares() -> None:
    prompts = [Prompt(f"prompt {k % 500}") for k in range(1000)]
    inside, held = split_prompts(prompts, 0.2)
    assert len(inside) + len(held) == 1000
    assert not {p.text for p in inside} & {p.text for p in held}
    assert 60 < len({p.text for p in held}) < 140
    assert split_prompts(prompts[::-1], 0.2)[1] == held[::-1]
