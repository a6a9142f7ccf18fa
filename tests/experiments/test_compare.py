"""`backflip compare`: stored answers and answers sampled anew, judges of every kind, control runs, and what cannot be compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from backflip.cli import main
from backflip.data import Estimate
from backflip.experiments.compare_parts import Contestant
from backflip.policies.lm import LMConfig, load_policy
from backflip.run import Run, read_run
from backflip.store import Store

GOOD, BAD = " is a warm and funny delight .", " is a dull and lifeless mess ."
PROMPTS = [f"the {word} film" for word in "first second third fourth fifth sixth seventh eighth ninth tenth".split()]
Fabricate = Callable[..., Path]


@dataclass(frozen=True)
class Settings:
    """Settings of a run that never ran."""

    seed: int = 0
    beta: float = 0.0
    question: str = ""
    env: str = ""


@pytest.fixture
def fabricate(tmp_path: Path) -> Fabricate:
    """Return a function that writes a finished run of reviews, whose answers are good where `good` says so."""

    def make(
        name: str, good: str = "", *, experiment: str = "reviews", returns: tuple[float, ...] = (), **settings: Any
    ) -> Path:
        config = Settings(**settings)
        with Run.create(experiment, config, root=tmp_path, folder=tmp_path / name, seed=config.seed) as run:
            if good:
                rows = [
                    {"prompt": p, "base": BAD, "ppo": GOOD if g == "1" else BAD if g == "0" else f" {name}"}
                    for p, g in zip(PROMPTS, good, strict=True)
                ]
                run.samples(rows)
                kl = Estimate(1.5, 1.4, 1.6, 10)
                run.table("table", [{"policy": "base"}, {"policy": "PPO", "kl_nats_per_sequence": kl}])
            if returns:
                run.result("episodes", [{"true_return": value} for value in returns])
        return tmp_path / name

    return make


def test_what_is_compared_is_the_policy_and_not_best_of_n_behind_it(tmp_path: Path) -> None:
    with Run.create("reviews", Settings(), root=tmp_path, folder=tmp_path / "run", seed=0) as run:
        run.samples([{"prompt": "the film", "base": BAD, "ppo": GOOD, "gold": {}, "best_of_n": " is fine ."}])
    record = read_run(tmp_path / "run")
    assert Contestant("run", record).stored() == {"the film": GOOD}
    assert Contestant("run", record, "base").stored() == {"the film": BAD}


def compared(capsys: pytest.CaptureFixture[str], *argv: object) -> dict[str, Any]:
    """Return what `backflip compare ... --json` prints."""
    capsys.readouterr()
    assert main(["compare", *map(str, argv), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_gold_judge_prefers_the_better_answers_and_equal_ones_are_ties(
    fabricate: Fabricate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    better, worse = fabricate("better", "1111111100"), fabricate("worse", "0000000001", beta=1.0)
    found = compared(capsys, better, worse, "--overseer", "synthetic", "--base", "--folder", tmp_path / "c")
    duels = {(one["first"], one["second"]): one for one in found["duels"]}
    assert duels[0, 1]["win_rate"]["value"] == 0.85 and duels[0, 1]["ties"] == 0.1  # eight won, one equal, one lost
    assert duels[1, 2]["win_rate"]["value"] == 0.55 and duels[1, 2]["ties"] == 0.9 and not duels[1, 2]["told"]
    assert found["identical"] == 1 + 2 + 9 and found["asked"] == found["answered"] == 30 - 12
    rating = [one["value"] for one in found["ratings"]]
    assert rating[0] > 0 > rating[1] > rating[2] and sum(rating) == pytest.approx(0)
    assert found["policies"][0]["measured"]["kl_nats_per_sequence"]["value"] == 1.5
    assert found["policies"][2]["name"] == "base of better"
    page = (tmp_path / "c" / "report.html").read_text(encoding="utf-8")
    assert "Head to head" in page and "gold judge of reviews" in page and "What was set differently" in page
    with Store.open(tmp_path / "c" / "store.sqlite", mode="read") as store:
        asked = list(store.queries_by_id([one.query_id for one in store.judgements(0)[0]]).values())
    first = [query.order for query in asked].count((0, 1))
    assert abs(2 * first - len(asked)) <= 6, "orders are in balance"
    assert read_run(tmp_path / "c").summary["estimates"]["better against worse: win_rate"]["value"] == 0.85


def test_a_judge_that_looks_at_the_place_alone_is_caught_and_moves_nobody(
    fabricate: Fabricate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "judge.py").write_text("def first(prompt, a, b):\n    return 1.0\n")
    one, two = fabricate("one", "1111111111"), fabricate("two", "0000000000", beta=1.0)
    judge = ("--overseer", f"{tmp_path}/judge.py:first")
    both = compared(capsys, one, two, *judge, "--orders", "both", "--folder", tmp_path / "both")
    assert both["duels"][0]["win_rate"]["value"] == 0.5 and both["duels"][0]["ties"] == 1.0 and both["asked"] == 20
    half = compared(capsys, one, two, *judge, "--folder", tmp_path / "half")
    assert half["duels"][0]["win_rate"]["value"] == 0.5 and half["asked"] == 10
    assert half["first_shown"]["low"] > 0.5
    assert "favours what stands first" in (tmp_path / "half" / "report.html").read_text(encoding="utf-8")


def test_who_could_not_judge_is_counted_and_seeds_make_arms(
    fabricate: Fabricate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "judge.py").write_text(
        "def shy(prompt, a, b):\n    return None if 'first' in prompt else float('warm' in a) if a != b else 0.5\n"
    )
    runs = [fabricate(f"a/seed_{seed}", "1111111110" if seed else "1111111100", seed=seed) for seed in range(5)]
    runs += [fabricate(f"b/seed_{seed}", "0000000001", seed=seed, beta=1.0) for seed in range(5)]
    found = compared(capsys, *runs, "--overseer", f"{tmp_path}/judge.py:shy", "--folder", tmp_path / "c")
    assert [one["name"] for one in found["arms"]] == ["a", "b"] and found["units"] == 10
    assert [one["name"] for one in found["policies"]][:2] == ["a/seed_0", "a/seed_1"]
    assert found["arm_duels"][0]["win_rate"]["n"] == 5 and found["arm_duels"][0]["told"]
    assert (found["arm_duels"][0]["lowest"], found["arm_duels"][0]["highest"]) == (7.5 / 9, 8 / 9)
    page = (tmp_path / "c" / "report.html").read_text(encoding="utf-8")
    assert "lowest to highest seed" in page and "the seeds 83\u00a0% to 89\u00a0%" in page
    assert found["could_not_judge"] == 25  # the first prompt, for each of five runs against five
    assert found["duels"][4]["win_rate"]["n"] == found["duels"][4]["units"] == 9
    assert found["ratings"] is not None


def test_who_wins_everything_has_no_rating_and_the_page_says_so(
    fabricate: Fabricate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = fabricate("one", "1111111111"), fabricate("two", "0000000000", beta=1.0)
    found = compared(capsys, *runs, "--overseer", "synthetic", "--folder", tmp_path / "c")
    assert found["ratings"] is None and found["duels"][0]["told"]
    assert "one won every comparison" in read_run(tmp_path / "c").notes[0]


def test_answers_are_sampled_where_none_are_stored(
    fabricate: Fabricate, tiny_policy: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "judge.py").write_text(
        "def wordy(prompt, a, b):\n    return 0.5 + 0.5 * ((len(a) > len(b)) - (len(a) < len(b)))\n"
    )
    runs = [fabricate("one", experiment="text"), fabricate("two", experiment="text", beta=1.0)]
    policy = load_policy(tiny_policy, LMConfig(max_new_tokens=5))
    for run in runs:
        for series in ("policy-1", "base-0"):
            policy.save(run / "checkpoints" / series)
    found = compared(
        capsys,
        *runs,
        "--overseer",
        f"{tmp_path}/judge.py:wordy",
        "--prompts",
        prompts,
        "--limit",
        "8",
        "--folder",
        tmp_path / "c",
    )
    assert found["units"] == 8 and found["asked"] + found["identical"] == 8
    assert found["policies"][1]["measured"]["kl_nats_per_sequence"]["value"] == pytest.approx(0, abs=1e-6)
    assert len(read_run(tmp_path / "c").samples) == 8


def test_control_runs_are_compared_by_their_returns(
    fabricate: Fabricate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = fabricate("one", experiment="control", returns=(5.0, 7.0, 9.0, 1.0, 3.0, 2.0, 8.0))
    two = fabricate("two", experiment="control", returns=(4.0, 6.0, 8.0, 0.0, 2.0, 1.0, 7.5), beta=1.0)
    other = fabricate("other", experiment="control", returns=(5.0, 7.0, 3.0), beta=2.0, seed=1)
    found = compared(capsys, one, two, other, "--folder", tmp_path / "c")
    first, unlike = found["duels"][0], found["duels"][1]
    assert first["paired"] and first["told"] and first["difference"]["value"] == pytest.approx(6.5 / 7)
    assert not unlike["paired"] and not unlike["told"] and found["ratings"] is None
    assert "more true return" in (tmp_path / "c" / "report.html").read_text(encoding="utf-8")


def test_what_cannot_be_compared_is_one_line_and_leaves_nothing(
    fabricate: Fabricate, tmp_path: Path, failure: Callable[..., str]
) -> None:
    one, two = fabricate("one", "1111111111"), fabricate("two", "0000000000", beta=1.0)
    bare = fabricate("bare")
    text = fabricate("text", "1111111111", experiment="text")
    walks, swims = (fabricate(env, experiment="control", returns=(1.0, 2.0), env=env) for env in ("walks", "swims"))
    Run.create("reviews", Settings(), root=tmp_path, folder=tmp_path / "going", seed=0).finish("stopped")
    out, gold = ("--folder", tmp_path / "out"), ("--overseer", "synthetic")
    assert "no run given" in failure("compare", *out) and "one run given" in failure("compare", one, *gold, *out)
    assert "given twice" in failure("compare", one, two, one, *gold, *out)
    assert "is a run of reviews and text of text" in failure("compare", one, text, *gold, *out)
    assert "not finished (status: stopped)" in failure("compare", one, tmp_path / "going", *gold, *out)
    assert "nothing to compare" in failure("compare", one, bare, *gold, *out)
    assert "say who compares" in failure("compare", one, two, *out)
    assert "no gold judge is known for runs of text" in failure(
        "compare", text, fabricate("text2", "0" * 10, experiment="text"), *gold, *out
    )
    assert "their returns are not of one kind" in failure("compare", walks, swims, *out)
    assert "some of these runs recorded true returns" in failure(
        "compare", walks, fabricate("again", "1" * 10, experiment="control", env="walks"), *out
    )
    assert "leave --overseer and --prompts out" in failure(
        "compare",
        walks,
        fabricate("w2", experiment="control", returns=(1.0, 3.0), env="walks"),
        "--overseer",
        "people",
        *out,
    )
    assert "limit 1" in failure("compare", one, two, *gold, "--limit", "1", *out)
    assert "expected a JSONL or text file" in failure(
        "compare", one, two, *gold, "--prompts", tmp_path / "none.txt", *out
    )
    assert not (tmp_path / "out").exists()


def test_what_nobody_judged_is_no_comparison(
    fabricate: Fabricate, tmp_path: Path, failure: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "judge.py").write_text(
        "def never(prompt, a, b):\n    return None\ndef once(prompt, a, b):\n    return 1.0 if 'first' in prompt else None\n"
    )
    runs = fabricate("one", "1111111100"), fabricate("two", "0000000000", beta=1.0)  # two pairs are alike
    said = failure("compare", *runs, "--overseer", f"{tmp_path}/judge.py:never", "--folder", tmp_path / "never")
    assert "nobody judged any of 8 questions" in said and "beyond 2 pairs of equal answers" in said
    assert (
        main(["compare", *map(str, runs), "--overseer", f"{tmp_path}/judge.py:once", "--folder", str(tmp_path / "c")])
        == 0
    )
    assert "These 3 prompts cannot tell the two apart" in " ".join(capsys.readouterr().out.split())


def test_what_cannot_be_read_in_a_run_is_said(
    fabricate: Fabricate, tmp_path: Path, failure: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = fabricate("one", "1111111111"), fabricate("two", "0000000000", beta=1.0)
    (two / "results" / "table.json").write_text("{ gone")
    (two / "command.json").write_text("")
    command = ["compare", str(one), str(two), "--overseer", "synthetic", "--quiet", "--folder"]
    assert main([*command, str(tmp_path / "c")]) == 0
    said = capsys.readouterr().err
    assert "warning: two: could not be read: table.json is no JSON" in said and "command.json is no JSON" in said
    assert [note for note in read_run(tmp_path / "c").notes if "table.json is no JSON" in note]
    (two / "config.json").write_text("{ gone")
    said = failure(*command, tmp_path / "d")
    assert "config.json is no JSON" in said and "restore the file" in said and not (tmp_path / "d").exists()
