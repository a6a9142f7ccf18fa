"""`backflip run collapse`: exact where everything is listed, and policies of finished runs measured like their base."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backflip.cli import main
from backflip.data import Estimate
from backflip.errors import DataError
from backflip.experiments import collapse_exact as small
from backflip.experiments.collapse import CollapseConfig, arms_of, exact_verdict, text_verdict
from backflip.experiments.collapse_texts import Sampling, base_of, first_word, measure_run
from backflip.experiments.method_arms import COMPARED
from backflip.loops.conditional import level_tokens
from backflip.policies.asked import CARD, AskedLM, load_asked
from backflip.policies.lm import LMPolicy, load_policy
from backflip.report.collapse import collapse_section
from backflip.report.evidence import gather
from backflip.report.page import run_page
from backflip.report.render import render
from backflip.run import read_run
from backflip.worlds.enumerable import optimum
from backflip.worlds.text import TextWorld

Failure = Callable[..., str]
HOW = Sampling(modes=5, each=2, listened_to=4)


# -- exact ---------------------------------------------------------------------------------------------------------------


def test_the_best_policy_keeps_all_modes_at_every_weight_and_the_base_has_them() -> None:
    given = small.problem(0)
    base = small.describe(given, given.base_KC)
    assert base["modes_covered"] == small.MODES and base["kl_nats"] == pytest.approx(0, abs=1e-9)
    for beta in (0.0, 0.01, 0.05, 0.2, 0.5):
        found = small.best(given, beta)
        assert found["modes_covered"] == small.MODES
        assert found["effective_modes"] == pytest.approx(base["effective_modes"], rel=1e-6), "ratios are the base's"
    worth = optimum(given.base_KC, given.score_KC, 0.2)[1]
    found = small.best(given, 0.2)
    assert found["score"] - 0.2 * found["kl_nats"] == pytest.approx(float(worth.mean()), abs=1e-6)


@pytest.mark.parametrize("method", COMPARED)
def test_every_method_moves_from_the_base_towards_the_good_answers(method: str) -> None:
    beta = None if method in small.FREE else 0.2
    given, logp_KC = small.trained(method, beta, 25, 64, 0)
    torch.testing.assert_close(logp_KC.exp().sum(1), torch.ones(small.PROMPTS, dtype=torch.float64), atol=1e-6, rtol=0)
    found, base = small.describe(given, logp_KC), small.describe(given, given.base_KC)
    assert found["score"] > base["score"] + 0.01 and found["kl_nats"] > 0


def test_without_a_kl_modes_are_dropped_that_a_kl_keeps() -> None:
    """Three seeds each: the larger of the loose is below the smaller of the held."""
    loose, held = (
        [small.describe(*small.trained("rloo", beta, 60, 64, seed))["modes_covered"] for seed in range(3)]
        for beta in (0.0, 0.5)
    )
    assert max(loose) < min(held)


def test_a_run_of_the_exact_level_is_written_and_drawn(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    argv = "--level exact --methods ppo sft --seeds 2 --betas 0 0.2 --exact-updates 3 --exact-rows 16 --quiet".split()
    assert main(["run", "collapse", "--folder", str(folder), *argv]) == 0
    record = read_run(folder)
    rows = record.results["collapse_exact"]["rows"]
    assert [(row["method"], row["beta"]) for row in rows] == [
        ("ppo", 0.0), ("ppo", 0.2), ("sft", None), ("best", 0.0), ("best", 0.2), ("base", None),
    ]  # fmt: skip
    assert rows[-1]["modes_covered"]["value"] == 20 and rows[0]["modes_covered"]["n"] == 2
    assert len([note for note in record.notes if note.startswith("with beta")]) == 2
    page = run_page(gather(folder))
    (section,) = [one for one in page.sections if one.id == "collapse"]
    assert len(section.figures) == 2 and len(section.tables[0].rows) == 6 and render(page)


def test_the_verdict_goes_by_intervals() -> None:
    def row(beta: float, low: float, high: float) -> dict[str, Any]:
        return {"method": "ppo", "beta": beta, "modes_covered": Estimate((low + high) / 2, low, high, 5)}

    for cover, words in (((2, 4), "held"), ((7, 9), "refuted"), ((4, 9), "not decided, 5 seeds cannot tell")):
        assert exact_verdict([row(0.0, *cover)], 0.2, 5)[0].endswith(words)
    for cover, words in (((18.5, 20), "held"), ((10, 12), "refuted"), ((15, 19), "not decided, 5 seeds cannot tell")):
        assert exact_verdict([row(0.2, *cover)], 0.2, 5)[0].endswith(words)
    assert exact_verdict([], 0.2, 5) == [
        "without ppo at beta 0 and 0.2 nothing is decided of what was predicted of it there"
    ]


def test_without_ppo_what_was_measured_is_recorded_and_nothing_decided(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    argv = "--level exact --methods sft --betas 0.2 --seeds 2 --exact-updates 3 --exact-rows 16 --quiet".split()
    assert main(["run", "collapse", "--folder", str(folder), *argv]) == 0
    record = read_run(folder)
    assert list(record.summary["estimates"]) == ["exact sft: modes_covered"]
    assert record.notes[0].startswith("stated before: ") and "refuted if" in record.notes[0]
    headline = run_page(gather(folder)).headline
    assert "Without ppo at beta 0 and 0.2 nothing is decided" in headline and "yet" not in headline


# -- on reviews ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained_arms(tmp_path_factory: pytest.TempPathFactory, tiny_policy: Path, arms_here: None) -> Path:
    """A frontier of two methods, one of them asked for a level."""
    folder = tmp_path_factory.mktemp("collapse") / "frontier"
    argv = (
        "--methods conditional sft --seeds 2 --comparisons 8 --learned-from 64 --episodes 32 --members 1 --normalise-on 8 --best-of 1 "
        "--max-new-tokens 5 --looks 1 --held-out 6 --quiet"
    ).split()
    assert main(["run", "frontier", "--policy", str(tiny_policy), "--folder", str(folder), *argv]) == 0
    return folder


def test_policies_of_a_finished_frontier_are_measured_beside_their_base(trained_arms: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    argv = [
        "--level",
        "reviews",
        "--of",
        str(trained_arms),
        "--modes",
        "5",
        "--answers-each",
        "2",
        "--listened-to",
        "4",
    ]
    assert main(["run", "collapse", "--folder", str(folder), *argv, "--quiet"]) == 0
    record = read_run(folder)
    base, *others = record.results["collapse"]["rows"]
    assert base["arm"] == "base" and {row["arm"] for row in others} == {"conditional", "sft"}
    assert base["kl_nats_per_sequence"]["value"] == 0 and base["distinct2_ratio"]["value"] == 1
    for row in others:
        assert row["kl_nats_per_sequence"]["value"] > 0 and 0 <= row["modes_covered"]["value"] <= 5
        assert 0 <= row["prompt_information_nats"]["value"] <= math.log(4)
    page = run_page(gather(folder))
    (section,) = [one for one in page.sections if one.id == "collapse"]
    assert [one.id for one in section.figures] == ["collapse-modes-kl", "collapse-entropy"] and render(page)


def test_a_policy_that_is_its_base_is_measured_as_its_base(trained_arms: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = trained_arms / "arms" / "sft" / "seed_0"
    base = base_of(folder, HOW)
    assert base.measures["modes_covered"] == len(base.kinds) > 1
    from backflip.experiments import collapse_texts

    usual = collapse_texts.checkpoint_of
    monkeypatch.setattr(collapse_texts, "checkpoint_of", lambda where, _: usual(where, "base"))
    found = measure_run(folder, base, HOW)
    assert found == pytest.approx(base.measures, abs=1e-5)


def test_a_policy_deaf_to_its_prompt_betrays_nothing(trained_arms: Path) -> None:
    from backflip.experiments.collapse_texts import heard

    folder = trained_arms / "arms" / "sft" / "seed_0"
    base = base_of(folder, HOW)
    rows = base.policy.act(torch.tensor([[1, 5], [1, 5]]), np.random.default_rng(0))  # one prompt, asked twice
    from backflip.data import Episodes

    same = Episodes(torch.tensor([[1, 5], [1, 5]]), rows.action, rows.mask_BT, None, torch.zeros(2), torch.arange(2))
    assert heard(base.policy, same, 2, 1) == pytest.approx(0, abs=1e-5)


def test_an_asked_policy_comes_back_asked(tiny_policy: Path, tmp_path: Path) -> None:
    lm = load_policy(tiny_policy)
    asked = AskedLM(lm, level_tokens(lm, 2), 1)
    asked.save(tmp_path / "asked")
    again = load_asked(tmp_path / "asked")
    assert isinstance(again, AskedLM) and (again.token, again.level) == (asked.token, 1)
    world = TextWorld(["the film was"], lm.tokenizer)
    rows = replace(world.collect(asked, 4, np.random.default_rng(0)), value_BT=None)
    torch.testing.assert_close(again.evaluate(rows).logp_BT, asked.evaluate(rows).logp_BT)
    assert isinstance(load_asked(tiny_policy), LMPolicy)
    (tmp_path / "asked" / CARD).write_text(json.dumps({"tokens": [1]}))
    with pytest.raises(DataError, match="is damaged"):
        load_asked(tmp_path / "asked")


def test_words_and_arms() -> None:
    assert first_word(" The film") == "the" and first_word("... !") == ""
    named = {
        arm.name: arm.options for arm in arms_of(CollapseConfig(methods=("ppo", "dpo", "sft"), leashes=(0.0, 2.0)))
    }
    assert list(named) == ["ppo_leash_0", "ppo_leash_2", "dpo_leash_2", "sft"]
    assert named["ppo_leash_2"]["kl.beta"] == "0.09" and named["dpo_leash_2"]["dpo.beta"] == "0.2"
    said = text_verdict({"base": [5.0] * 5, "flat": [1.0, 1.1, 0.9, 1.0, 1.0], "same": [5.0, 4.0, 6.0, 5.0, 5.0]}, 5)
    assert "flat 1.0, fewer" in said and "same 5.0, this n cannot tell" in said


def test_bad_settings_are_one_line(failure: Failure, tmp_path: Path) -> None:
    for words, said in (
        (("--tuned-beta", "0.3"), "tuned_beta 0.3"),
        (("--betas", "-1"), "betas is (-1.0,)"),
        (("--leashes", "1", "1"), "leashes is (1.0, 1.0)"),
        (("--exact-rows", "6"), "exact_rows is 6"),
        (("--modes", "1"), "modes 1"),
        (("--level", "exact", "--plan"), "just run it"),
        (("--level", "reviews", "--of", tmp_path, "--folder", tmp_path / "run"), "holds no arms/ARM/seed_K"),
    ):
        assert said in failure("run", "collapse", *words)


def test_what_cannot_be_drawn_is_named() -> None:
    faults: list[str] = []
    assert collapse_section({}, faults) is None and not faults
    assert collapse_section({"collapse": {"rows": [{"arm": "base"}], "modes": 3}}, faults) is None
    assert collapse_section({"collapse_exact": 4}, faults) is None and len(faults) == 2
