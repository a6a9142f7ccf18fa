"""Methods of their own kind: best of n, which trains nothing, and imitation, which asks nobody; and pairs that are worth a question."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backflip.errors import ConfigError, DataError
from backflip.experiments.methods import load
from backflip.loops import asking, improving
from backflip.loops.choosing import Asking, choose
from backflip.measures.kl import kl_columns
from backflip.policies.best_of import BestOfN, load_used
from backflip.progress import Progress
from backflip.rewards.combine import FunctionReward
from backflip.run import Run
from backflip.worlds.text import TextWorld, answer, pad_left

from .toy import PROMPTS, Crash, config_of, crashing, goodness, lines, new_run, outcome, parts_of, tiny_policy, worth

# -- choosing ---------------------------------------------------------------------------------------------------------------


def test_best_of_n_killed_between_its_rounds_ends_as_if_nothing_had_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its questions of the second round are those on which the models of the first disagree."""
    config = config_of("best_of_n", rounds=2, members=2, queries="disagreement", candidates=2)
    found: list[tuple[Any, ...]] = []
    for name in ("whole", "killed"):
        with monkeypatch.context() as patch:
            if name == "killed":
                crashing(patch, asking, "gather", 2)
                with pytest.raises(Crash), new_run(tmp_path / name, config) as run:
                    load("best_of_n").train(parts_of(run), config, run)
        with Run.resume(tmp_path / name) if name == "killed" else new_run(tmp_path / name, config) as run:
            run.progress = Progress(quiet=True)
            trained = load("best_of_n").train(parts_of(run), config, run)
            queries = run.store.queries_by_id(asking_of_run(run))
            found.append((*outcome(run, trained)[1:], worth(trained.policy)))
    assert found[0] == found[1]
    assert {query.reason for query in queries.values()} == {"random", "disagreement"}
    assert all(tensor.equal(before) for tensor, before in same_weights(trained.policy))


def asking_of_run(run: Run) -> list[str]:
    return json.loads((run.path / "results" / "asked.json").read_text())["asked"]


def same_weights(policy: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return every weight of a policy beside that of the one that was started from."""
    return list(
        zip(policy.module.model.state_dict().values(), tiny_policy().module.model.state_dict().values(), strict=True)
    )


def test_best_of_n_has_no_tokens_to_train_on_and_a_bound_for_its_kl(tmp_path: Path) -> None:
    policy = tiny_policy()
    world = TextWorld(PROMPTS, policy.tokenizer)
    chosen = BestOfN(policy, FunctionReward(goodness, world), 4)
    rows = world.collect(chosen, 40, np.random.default_rng(0))
    assert rows.logp_BT is not None and rows.logp_BT[rows.mask_BT].isnan().all()
    assert chosen.kl_bound_nats == pytest.approx(np.log(4) - 3 / 4)
    for refused in (chosen.evaluate, lambda rows: chosen.kl_BT(policy, rows)):
        with pytest.raises(ConfigError, match=r"best of n has no .*: it chooses whole answers"):
            refused(rows)
    table = kl_columns(chosen, policy, rows)
    assert table["kl_is_bound"] and table["kl_nats_per_sequence"].value == chosen.kl_bound_nats
    chosen.save(tmp_path / "policy-0")
    with pytest.raises(DataError, match="a Python function; without it nobody can choose"):
        load_used(tmp_path / "policy-0")
    with pytest.raises(ConfigError, match="best_of is 0"):
        BestOfN(policy, FunctionReward(goodness, world), 0)


def test_best_of_n_takes_the_best_of_what_the_policy_says(tmp_path: Path) -> None:
    """The same draws, chosen by hand; and read back from its run it says the same."""
    policy = tiny_policy()
    world = TextWorld(PROMPTS, policy.tokenizer)
    chosen = BestOfN(policy, FunctionReward(goodness, world), 4)
    obs = pad_left(world.tokens)
    act = chosen.act(obs, np.random.default_rng(7))
    every = answer(
        policy, obs.repeat_interleave(4, 0), torch.arange(len(obs)).repeat_interleave(4), np.random.default_rng(7)
    )
    score = [goodness("", item.content) for item in world.show(every)]
    for row in range(len(obs)):
        best = max(range(4 * row, 4 * row + 4), key=lambda place: score[place])
        width = min(act.action.shape[1], every.action.shape[1])
        assert torch.equal(act.action[row, :width], every.action[best, :width])
    config = config_of("best_of_n")
    with new_run(tmp_path / "run", config) as run:
        trained = load("best_of_n").train(parts_of(run), config, run)
        run.checkpoint("policy", trained.updates, trained.policy.save)
    again = load_used(run.path / "checkpoints" / "policy-0")
    assert isinstance(again, BestOfN) and again.n == 8 and worth(again) == worth(trained.policy)


@pytest.mark.parametrize("wrong", [{"rounds": 1}, {"members": 1}])
@pytest.mark.parametrize("method", ["ppo", "rloo", "best_of_n"])
def test_disagreement_needs_models_that_disagree(method: str, wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="queries is mixed with"):
        config_of(method, **({"queries": "mixed", "rounds": 2, "members": 2} | wrong))


def test_the_most_disputed_pairs_are_asked_about(tmp_path: Path) -> None:
    """Two models that differ in what they make of one word disagree most where one answer of two has it."""
    policy = tiny_policy()
    world = TextWorld(PROMPTS, policy.tokenizer, group_size=2)
    rows = world.collect(policy, 80, np.random.default_rng(0))

    class Counting:
        def __init__(self, sign: float) -> None:
            self.sign = sign

        def score_B(self, episodes: Any) -> torch.Tensor:
            return torch.tensor([self.sign * item.content.split().count("bad") for item in world.show(episodes)])

    models: Any = [Counting(1.0), Counting(-1.0)]
    said = [item.content.split().count("bad") for item in world.show(rows)]
    apart = {place: abs(said[2 * place] - said[2 * place + 1]) for place in range(40)}
    picked = choose(Asking("disagreement", 4, models), rows, 5)
    assert [apart[place] for place, _ in picked] == sorted(apart.values(), reverse=True)[:5]
    mixed = choose(Asking("mixed", 4, models), rows, 5)
    assert mixed[:3] == [(0, "random"), (1, "random"), (2, "random")]
    assert [why for _, why in mixed[3:]] == ["disagreement"] * 2 and all(place >= 3 for place, _ in mixed[3:])
    assert choose(Asking("random", 4, ()), rows, 3) == mixed[:3]


# -- imitating -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def expert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The policy of another run, which says good things."""
    folder = tmp_path_factory.mktemp("expert")
    config = config_of("sft")
    with new_run(folder / "run", config) as run:
        load("sft").train(parts_of(run), config, run).policy.save(folder / "policy")
    return folder / "policy"


def imitating(expert: Path, **more: Any) -> Any:
    return load("imitate").config(
        expert=str(expert), episodes=32, lr=1e-2, **({"updates": 20, "save_every": 1, "check_every": 10} | more)
    )


def test_imitation_comes_to_the_expert_and_asks_nobody(tmp_path: Path, expert: Path) -> None:
    config = imitating(expert)
    with new_run(tmp_path / "run", config) as run:
        trained = load("imitate").train(parts_of(run), config, run)
        assert run.store.counts()["queries"] == 0
    gap = [row["expert_kl_nats"] for row in lines(run, "imitate")]
    assert gap[-1] < 0.3 * gap[0]
    assert worth(trained.policy) - worth(tiny_policy()) > 0.6 * (worth(load_used(expert)) - worth(tiny_policy())) > 0.1


def test_a_kill_changes_nothing_of_imitation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expert: Path) -> None:
    config, train = imitating(expert, updates=4), load("imitate").train
    with new_run(tmp_path / "whole", config) as run:
        whole = outcome(run, train(parts_of(run), config, run))
    with monkeypatch.context() as patch:
        crashing(patch, improving, "stopped", 4)
        with pytest.raises(Crash), new_run(tmp_path / "killed", config) as run:
            train(parts_of(run), config, run)
    with Run.resume(tmp_path / "killed") as run:
        run.progress = Progress(quiet=True)
        again = outcome(run, train(parts_of(run), config, run))
    assert all(torch.equal(tensor, again[0][key]) for key, tensor in whole[0].items())
    assert again[1:] == whole[1:]


def test_imitation_needs_an_expert_that_reads_the_same_tokens(tmp_path: Path, tiny_checkpoint: Path) -> None:
    for where, said in (("", "needs an expert"), (str(tiny_checkpoint), "tokenizer of --expert")):
        config = load("imitate").config(expert=where)
        with new_run(tmp_path / (Path(where).name or "none"), config) as run, pytest.raises(ConfigError, match=said):
            load("imitate").train(parts_of(run), config, run)
