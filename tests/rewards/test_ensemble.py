"""An ensemble is the mean of members that were normalised one by one; members depend on their own seed alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backflip.errors import ConfigError, DataError
from backflip.rewards.combine import WeightedRewards
from backflip.rewards.comparisons import Comparison
from backflip.rewards.ensemble import CARD, RewardEnsemble, fit_ensemble
from backflip.rewards.fit import FitConfig
from backflip.rewards.model import SequenceRewardModel

CONFIG = FitConfig(epochs=1, lr=1e-3, batch=8, held_out=0.25)


@pytest.fixture
def items(answer: Any) -> list[Any]:
    rng = np.random.default_rng(0)
    words = "film plot is was good bad dull fun very".split()
    return [
        answer(["the film", "a story", "the plot is", "the cast was very"][i % 4], " ".join(rng.choice(words, 4)))
        for i in range(48)
    ]


@pytest.fixture
def ensemble(language_model: Any) -> RewardEnsemble:
    return RewardEnsemble(
        [SequenceRewardModel.from_causal_lm(language_model, np.random.default_rng(i)) for i in range(3)]
    )


def test_members_are_normalised_before_the_mean(ensemble: RewardEnsemble, world: Any, items: list[Any]):
    episodes = world.load(items)
    with torch.no_grad():
        ensemble.models[0].module.score.weight *= 100
    with pytest.raises(DataError, match="normaliser"):
        ensemble(episodes)
    assert len(ensemble.measure_normaliser(episodes, "ref")) == 3
    members_MBT = ensemble.members(episodes)
    assert members_MBT.shape == (3, *episodes.mask_BT.shape)
    torch.testing.assert_close(members_MBT.sum(2).std(1, correction=0), torch.ones(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(ensemble(episodes), members_MBT.mean(0))
    torch.testing.assert_close(ensemble(episodes).sum(1), ensemble.normalised_B(episodes))
    one = ensemble.models[0]
    torch.testing.assert_close(RewardEnsemble([one])(episodes), one(episodes))


def test_the_average_says_what_it_hides(ensemble: RewardEnsemble, world: Any, items: list[Any]):
    episodes = world.load(items)
    ensemble.measure_normaliser(world.load(items[:30]), "ref")
    reward_BT, stats = ensemble.scored(episodes)
    torch.testing.assert_close(reward_BT, ensemble(episodes))
    raw_MB = torch.stack([model.score_B(episodes) for model in ensemble.models])
    assert stats["raw_mean"] == pytest.approx(float(raw_MB.mean()), abs=1e-5)
    assert stats["disagreement"] == pytest.approx(float(ensemble.normalised_MB(episodes).std(0, correction=0).mean()))
    same = RewardEnsemble([ensemble.models[0]] * 2)
    assert same.scored(episodes)[1]["disagreement"] == 0
    total_BT, logged = WeightedRewards({"learned": (2.0, ensemble)}).scored(episodes)
    torch.testing.assert_close(total_BT, 2 * reward_BT)
    assert logged["reward_learned_raw_mean"] == stats["raw_mean"]


def test_a_normaliser_of_another_reference_is_refused(ensemble: RewardEnsemble, world: Any, items: list[Any]):
    with pytest.raises(DataError, match="normalised on policy None"):
        ensemble.check_reference("mine")
    ensemble.measure_normaliser(world.load(items), "theirs")
    ensemble.check_reference("theirs")
    with pytest.raises(DataError, match="policy theirs, not on the reference mine"):
        ensemble.check_reference("mine")


def test_file_round_trip(ensemble: RewardEnsemble, world: Any, items: list[Any], tmp_path: Path):
    episodes = world.load(items)
    ensemble.measure_normaliser(episodes, "ref")
    ensemble.save(tmp_path / "rm")
    torch.testing.assert_close(RewardEnsemble.load(tmp_path / "rm").members(episodes), ensemble.members(episodes))
    (tmp_path / "rm" / "member-1" / "model.safetensors").unlink()
    with pytest.raises(DataError, match="member-1"):
        RewardEnsemble.load(tmp_path / "rm")
    (tmp_path / "rm" / CARD).write_text("{")
    with pytest.raises(DataError, match="fit the ensemble again"):
        RewardEnsemble.load(tmp_path / "rm")


def test_a_single_model_is_an_ensemble_of_one(ensemble: RewardEnsemble, world: Any, items: list[Any], tmp_path: Path):
    model = ensemble.models[0]
    model.measure_normaliser(world.load(items), "ref")
    model.save(tmp_path / "one")
    loaded = RewardEnsemble.load(tmp_path / "one")
    assert len(loaded.models) == 1
    torch.testing.assert_close(loaded(world.load(items)), model(world.load(items)))


def test_no_members_is_an_error():
    with pytest.raises(ConfigError):
        RewardEnsemble([])


def test_a_member_depends_on_its_own_generator_alone(language_model: Any, world: Any, items: list[Any]):
    pairs = [Comparison(a, b, float(i % 2)) for i, (a, b) in enumerate(zip(items[::2], items[1::2], strict=True))]

    def members(first: int) -> list[SequenceRewardModel]:
        rngs = np.random.default_rng(7).spawn(3)[first:]
        seen: list[int] = []
        found = list(
            fit_ensemble(
                lambda rng: SequenceRewardModel.from_causal_lm(language_model, rng),
                world,
                pairs,
                CONFIG,
                rngs,
                lambda i, _: seen.append(i),
            )
        )
        assert seen == list(range(3 - first))
        assert all(stats["held_out_n"] > 0 for _, stats in found)
        return [model for model, _ in found]

    whole, resumed = members(0), members(2)
    assert torch.equal(whole[2].module.score.weight, resumed[0].module.score.weight)
    assert not torch.equal(whole[0].module.score.weight, whole[1].module.score.weight)
