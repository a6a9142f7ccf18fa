"""The benches: our sides run in little on what the peers are given too, and ledgers become the numbers that are published."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backflip.worlds.reviews import assets

BENCH = Path(__file__).parents[1] / "bench"
WORDS = "a dull and endless film with one good joke in it that nobody will remember by the end of the year".split()


@pytest.fixture
def benches(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Import modules of bench/ by name, and forget them afterwards: they are scripts, not a package."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(BENCH))
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(BENCH) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def rows(count: int) -> list[dict[str, str]]:
    """Pairs whose better answer says good, and the same as samples."""
    found: list[dict[str, str]] = []
    for k in range(count):
        rest = " ".join(WORDS[(k + i) % len(WORDS)] for i in range(3 + k % 5))
        prompt = f"the {WORDS[k % 7]}"
        found.append({"prompt": prompt, "chosen": f" good {rest}", "rejected": f" bad {rest}"})
    return found


def pairs_task(folder: Path) -> dict[str, Any]:
    import numpy as np

    from backflip.rewards.model import SequenceRewardModel

    SequenceRewardModel.from_causal_lm(str(assets() / "base"), np.random.default_rng(0)).save(folder / "reward")
    samples = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows(40)]
    return {
        "model": str(assets() / "base"), "reward": str(folder / "reward"), "pairs": rows(40), "held": rows(48)[40:],
        "samples": samples, "batch": 8, "epochs": 3, "learning_rate": {"reward": 3e-4, "dpo": 3e-4, "sft": 3e-4},
        "adam_eps": 1e-5, "beta": 0.1, "threads": 1, "clock": "processor",
    }  # fmt: skip


def test_our_side_of_the_pairs_learns_and_counts(benches: Any, tmp_path: Path) -> None:
    pairs, task = benches("pairs"), pairs_task(tmp_path)
    for name, marks, units in (("reward", 3, 120), ("dpo", 5, 40), ("sft", 5, 40)):
        run = json.loads(json.dumps(pairs.ours(task, name, 0)))
        assert [len(run["marks"]), run["marks"][-1]["units"]] == [marks, units]
        assert all(a["seconds"] < b["seconds"] for a, b in zip(run["marks"], run["marks"][1:], strict=False))
        found = pairs.summary(run, name)
        assert found["last_loss"] < found["first_loss"] and found["units_per_second"] > 0
        assert found["tokens"] > 0
    assert found["first_loss"] > 1  # nats a token


def test_our_side_of_the_groups_fills_the_ledger(benches: Any) -> None:
    groups, ppo = benches("groups"), benches("ppo")
    from backflip.policies.checkpoints import read_tokenizer

    tokenizer = read_tokenizer(assets() / "base")
    prompts = [
        {"tokens": tokenizer(text).input_ids, "text": text, "base_logits": [0.0]} for text in ("a film", "it is")
    ]
    task = {
        "model": str(assets() / "base"), "judge": str(assets() / "gold.safetensors"), "prompts": prompts, "rows": 8,
        "score_mean": 0.0, "score_deviation": 1.0, "learning_rate": 3e-4, "beta": 0.05, "response": 4, "seconds": 2.0,
        "threads": 1, "group": 4, "clock": "processor", "aggregate": "sum",
    }  # fmt: skip
    for method in groups.METHODS:
        run = json.loads(json.dumps(groups.ours(task, method, 0)))
        assert {update["episodes"] for update in run["updates"]} == {8.0}
        assert all(0 <= update["win_rate"] <= 1 for update in run["updates"])
        assert ppo.summary(run, 1)["episodes_per_second"] > 0


def test_rates_leave_out_the_beginning(benches: Any) -> None:
    pairs, ppo = benches("pairs"), benches("ppo")
    marks = [{"seconds": 10.0 + k, "units": 8.0 * (k + 1), "loss": 1.0 / (k + 1)} for k in range(6)]
    run = {"marks": marks, "construct_seconds": 1.0, "peak_rss_mb": 2.0, "found": {}}
    found = pairs.summary(run, "sft")
    assert (found["units_per_second"], found["first_mark_seconds"], found["last_loss"]) == (8.0, 10.0, 1 / 6)
    with pytest.raises(SystemExit, match="only 3 marks of sft"):
        pairs.summary(run | {"marks": marks[:3]}, "sft")
    updates = [
        {
            "seconds": 100.0 if k == 0 else 100.0 + 2 * k,
            "episodes": 16.0,
            "tokens": 64.0,
            "win_rate": k / 8,
            "score": 0.0,
        }
        for k in range(8)
    ]
    ledger = {"updates": updates, "construct_seconds": 1.0, "peak_rss_mb": 2.0}
    found = ppo.summary(ledger)
    assert (found["episodes_per_second"], found["mean_length_tokens"]) == (8.0, 4.0)
    assert found["seconds_to_win_rate"]["0.6"] == {"seconds": 114.0, "episodes": 128.0}  # (4 + 5 + 6 + 7) / 4 / 8
    assert found["seconds_to_win_rate"]["0.7"] is None
    with pytest.raises(SystemExit, match="only 4 updates"):
        ppo.summary(ledger | {"updates": updates[:4]})


def test_a_child_gives_its_last_line_and_a_broken_one_its_error(benches: Any) -> None:
    common = benches("common")
    said = "import os; print('noise'); print('{\"threads\": ' + os.environ['OMP_NUM_THREADS'] + '}')"
    assert common.child([sys.executable, "-c", said], 3, before="env") == {"threads": 3}
    with pytest.raises(SystemExit, match="no such film"):
        common.child([sys.executable, "-c", "raise KeyError('no such film')"], 1)
    with pytest.raises(SystemExit, match=r"make \.venv-nobody/\.installed"):
        common.peer("nobody")
    assert common.per("pairs", "processor") == "pairs a processor second"


def test_the_time_to_a_win_rate_is_taken_where_all_runs_reached_it(
    benches: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    common, ppo = benches("common"), benches("ppo")
    kept: dict[str, Any] = {}

    def record(name: str, ours: float, peer: float, unit: str, detail: Any, **more: Any) -> None:
        kept.update(name=name, ours=ours, peer=peer, unit=unit, **more)

    monkeypatch.setattr(common, "record", record)

    def run(*seconds: float | None) -> dict[str, Any]:
        times = [None if one is None else {"seconds": one, "episodes": 1.0} for one in seconds]
        return {"seconds_to_win_rate": dict(zip(("0.6", "0.7", "0.8", "0.9"), times, strict=True))}

    runs = {"ours": [run(1, 2, 3, 4), run(2, 4, 6, 8)], "peer": [run(9, 10, None, None), run(11, 20, 30, None)]}
    ppo.record_time_to_win(runs, "a machine", "groups_time", "peer", "processor")
    assert (kept["ours"], kept["peer"], kept["lower"]) == (3, 15, True)
    assert kept["unit"] == "processor seconds to a gold win rate of 0.7, median over seeds"
