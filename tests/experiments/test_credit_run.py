"""`backflip run credit`: its closed forms, what each learner's expectation is at the start, and the run itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from backflip.cli import main as command_line
from backflip.errors import ConfigError
from backflip.experiments.credit import (
    ARMS,
    GO,
    S1,
    S2,
    CreditConfig,
    episodes_until_known,
    episodes_until_whole,
    known_by,
    learn,
    main,
    steps_world,
)
from backflip.optimise import reinforce
from backflip.optimise.reinforce import ReinforceConfig
from backflip.report.curves import read_lines
from backflip.run import Run, RunRecord, read_run
from backflip.worlds.listed import action_values, best, rollouts, table_policy, uniform, value

SMALL = CreditConfig(seeds=2, updates=60, lrs=(0.1,), tuning_seeds=1, worlds=(2, 4))


def test_the_way_is_worth_more_than_leaving_and_at_random_less() -> None:
    """[exact] With four actions: leaving 0.5, going on 1 for who knows the way, and 0.25 for who acts at random."""
    world = steps_world(4, 0.5, 0.5)
    assert action_values(world, best(world))[S1, GO] == 1
    assert action_values(world, uniform(world))[S1].tolist() == [0.25, 0.5, 0.5, 0.5]
    assert value(world, best(world)) == 1


@pytest.mark.parametrize("cut", [None, 1])
def test_the_first_step_of_reinforce_is_away_from_s2(cut: int | None) -> None:
    """The gradient at s1 towards going on is pi (Q - V) a decision in s1: Q is 0.25 whole and 0 in pieces, and V is more."""
    world, policy = steps_world(4, 0.5, 0.5), table_policy(steps_world(4, 0.5, 0.5))
    rows = rollouts(world, policy, 40_000, np.random.default_rng(0), cut)
    assert rows.reward_BT is not None
    plain = ReinforceConfig(credit="to_go", aggregate="constant", constant_length=1, max_grad_norm=1e9)
    reinforce.update(policy, torch.optim.SGD(policy.parameters(), lr=1.0), rows, rows.reward_BT, plain)
    on = 0.25 if cut is None else 0.0
    expected = 0.5 * 0.25 * (on - (0.25 * on + 0.75 * 0.5))
    assert float(policy.logits_NA[S1, GO].detach()) == pytest.approx(expected, abs=0.004) and expected < 0
    assert float(policy.logits_NA[S2, GO].detach()) > 0.05


@pytest.mark.parametrize(("actions", "share"), [(4, 0.5), (3, 0.3)])
@pytest.mark.parametrize("whole", [True, False])
def test_q_learning_waits_as_long_as_the_closed_form_says(actions: int, share: float, whole: bool) -> None:
    """[exact] mean and distribution, over 300 seeds; five standard errors."""
    config = replace(SMALL, actions=actions, start_at_s2=share, updates=20)
    known = np.array(
        [
            learn("q_learning", None if whole else 1, 0.0, np.random.default_rng(k), config, stop=True).within(320)
            for k in range(300)
        ]
    )
    assert known.mean() == pytest.approx(
        episodes_until_known(actions, share, whole=whole), abs=5 * known.std() / 300**0.5
    )
    for count in (8, 20):
        exact = float(known_by(np.array([count]), actions, share, whole=whole)[0])
        assert (known <= count).mean() == pytest.approx(exact, abs=5 * (exact * (1 - exact) / 300) ** 0.5)


def test_the_distribution_has_the_mean() -> None:
    chance = known_by(np.arange(4000), 4, 0.5, whole=False)
    assert float((1 - chance).sum()) == pytest.approx(episodes_until_known(4, 0.5, whole=False)) == 16
    assert episodes_until_known(4, 0.5, whole=True) == pytest.approx(6.4 + 8)
    assert episodes_until_whole(4, 0.5) == 32


def test_pieces_are_put_together_by_those_who_bootstrap_and_by_nobody_else(tmp_path: Path) -> None:
    with Run.create("credit", SMALL, root=tmp_path, folder=tmp_path / "run", seed=0) as run:
        main(SMALL, run)
    record = read_run(tmp_path / "run")
    found = {(row["seen"], row["arm"]): row for row in record.results["arms_over_seeds"]}
    assert len(found) == 2 * len(ARMS)
    assert (
        len(found["pieces", "q_learning"]["episodes"]) == 2 and found["pieces", "q_learning"]["success"]["value"] == 1
    )
    assert found["pieces", "actor_critic"]["success"]["value"] > 0.7
    assert found["pieces", "reinforce"]["success"]["value"] < 0.05
    assert found["pieces", "sft"]["success"]["value"] == pytest.approx(0.25, abs=0.01), "s1 as at random, s2 learned"
    assert all(found[seen, "myopic"]["success"]["value"] == 0 for seen in ("pieces", "whole"))
    assert found["whole", "sft"]["success"]["value"] > 0.9
    faults: list[str] = []
    figures = read_lines(record.results["lines"], faults)
    assert not faults and [one.id for one in figures] == ["lines-pieces", "lines-whole", "lines-waits"]
    assert record.notes[0].startswith("stated before") and "prediction for pieces" in record.notes[-1]
    assert record.summary["estimates"]["pieces_reinforce_learned_share"]["n"] == 2


def test_a_run_that_was_cut_off_ends_as_one_that_was_not(
    whole_and_cut: Callable[..., tuple[RunRecord, RunRecord]],
) -> None:
    config = replace(SMALL, seeds=2, updates=4)
    whole, cut = whole_and_cut(main, config, states=6)
    assert cut.results["arms_over_seeds"] == whole.results["arms_over_seeds"] and cut.notes == whole.notes


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seeds": 1}, "seeds 1"),
        ({"actions": 1}, "actions 1"),
        ({"safe": 1.0}, "safe 1.0"),
        ({"start_at_s2": 1.0}, "start_at_s2 1.0"),
        ({"learned_at": 0.2}, "learned_at 0.2"),
        ({"lrs": ()}, "lrs"),
        ({"lrs": (0.1, float("nan"))}, "lrs"),
        ({"episodes": 4}, "episodes is 4"),
        ({"worlds": (1,)}, "worlds"),
    ],
)
def test_settings_that_cannot_be_are_refused(change: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        replace(CreditConfig(), **change)  # pyright: ignore[reportArgumentType] by name


def test_the_command_line_refuses_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line(["run", "credit", "--folder", str(tmp_path / "run"), "--safe", "2"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
