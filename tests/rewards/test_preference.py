"""Preferences that no score can express: antisymmetric by construction, a cycle is learned, and its solution is the true one's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backflip.data import Episodes, Item
from backflip.errors import ConfigError, DataError
from backflip.measures import preference_games as games
from backflip.rewards.comparisons import Comparison
from backflip.rewards.fit import FitConfig, fit
from backflip.rewards.model import SequenceRewardModel
from backflip.rewards.preference import FunctionPreference, PreferenceEnsemble, PreferenceModel, ScorePreference
from backflip.worlds.text import TextWorld

ANSWERS = ("good fun", "bad plot", "dull but long")
PROMPTS = ("the film", "the plot is", "a story", "the cast was very")
CYCLE_AA = np.array([[0.5, 0.9, 0.2], [0.1, 0.5, 0.9], [0.8, 0.1, 0.5]])
"""The first beats the second, that the third, and that the first: less clearly, so that the solution is not uniform."""
EDGES = ((0, 1), (1, 2), (2, 0))
EXACT = FitConfig(epochs=120, lr=3e-3, head_lr=3e-2, batch=12, noise=0.0, held_out=0.0, bootstrap=False, weight_decay=0.0)  # fmt: skip
Make = Callable[..., Item]


def drawn(language_model: Any, pairs: int = 2, seed: int = 0) -> PreferenceModel:
    rng = np.random.default_rng(seed)
    return PreferenceModel.widened(SequenceRewardModel.from_causal_lm(language_model, rng), rng, pairs)


def rows_of(world: TextWorld, answer: Make, answers: tuple[str, ...], prompt: str = PROMPTS[0]) -> Episodes:
    return world.load([answer(prompt, text) for text in answers])


def table_of(preference: Any, world: TextWorld, answer: Make, prompt: str) -> np.ndarray[Any, Any]:
    rows = rows_of(world, answer, ANSWERS, prompt)
    at_AA = np.indices((3, 3)).reshape(2, -1)
    return preference(rows.select(at_AA[0].tolist()), rows.select(at_AA[1].tolist())).numpy().reshape(3, 3)


def test_the_other_way_round_it_is_the_opposite_whatever_the_weights(
    language_model: Any, world: TextWorld, answer: Make
) -> None:
    model = drawn(language_model)
    with torch.no_grad():
        model.module.score.weight *= 30
    ensemble = PreferenceEnsemble([model, drawn(language_model, seed=1)])
    ours, theirs = rows_of(world, answer, ("good", "bad", "good")), rows_of(world, answer, ("dull", "good", "good"))
    there, back = ensemble(ours, theirs), ensemble(theirs, ours)
    torch.testing.assert_close(there + back, torch.ones(3, dtype=torch.float64), atol=1e-12, rtol=0)
    assert float(there[2]) == 0.5 and float((there[:2] - 0.5).abs().min()) > 1e-3
    assert torch.equal(ensemble.lead_MB(ours, theirs), -ensemble.lead_MB(theirs, ours))
    with pytest.raises(DataError, match="3 rows and 2 rivals"):
        ensemble(ours, theirs.select([0, 1]))


def test_without_its_pairs_it_is_bradley_terry(language_model: Any, world: TextWorld, answer: Make) -> None:
    model = drawn(language_model)
    with torch.no_grad():
        model.module.score.weight[1:] = 0
    ours, theirs = rows_of(world, answer, ("good", "bad")), rows_of(world, answer, ("dull", "good"))
    lead_B = model.score_B(ours) - model.score_B(theirs)
    torch.testing.assert_close(PreferenceEnsemble([model])(ours, theirs), torch.sigmoid(lead_B.double()))
    assert float(lead_B.abs().min()) > 1e-4


def test_a_cycle_is_learned_that_costs_a_score_its_irreducible_nats(
    language_model: Any, world: TextWorld, answer: Make
) -> None:
    """Both are fitted alike to the same shares; the score is left with the gap that the closed form says."""
    pairs = [
        Comparison(answer(prompt, ANSWERS[a]), answer(prompt, ANSWERS[b]), float(CYCLE_AA[a, b]))
        for prompt in PROMPTS
        for a, b in EDGES
    ]
    score = SequenceRewardModel.from_causal_lm(language_model, np.random.default_rng(0))
    model = drawn(language_model, pairs=1)
    loss = [fit(one, world, pairs, EXACT, np.random.default_rng(0), held=[])["loss"] for one in (score, model)]
    share_E = np.array([CYCLE_AA[edge] for edge in EDGES])
    entropy = float(-(share_E * np.log(share_E) + (1 - share_E) * np.log(1 - share_E)).mean())
    assert loss[1] == pytest.approx(entropy, abs=0.005)
    assert loss[0] - loss[1] == pytest.approx(games.irreducible_nats(CYCLE_AA), abs=0.01)
    for prompt in PROMPTS:
        learned_AA = table_of(PreferenceEnsemble([model]), world, answer, prompt)
        np.testing.assert_allclose(learned_AA, CYCLE_AA, atol=0.03)
        solution_A = games.nash(learned_AA)
        np.testing.assert_allclose(solution_A, games.nash(CYCLE_AA), atol=0.04)
        assert games.exploitability(CYCLE_AA, solution_A) < 0.03 < games.exploitability(CYCLE_AA, np.eye(3)[0]) - 0.2


def test_the_balanced_cycle_costs_the_known_368_millinats() -> None:
    balanced_AA = np.array([[0.5, 0.9, 0.1], [0.1, 0.5, 0.9], [0.9, 0.1, 0.5]])
    assert games.irreducible_nats(balanced_AA) == pytest.approx(0.368, abs=5e-4)
    np.testing.assert_allclose(games.nash(balanced_AA), 1 / 3, atol=1e-9)


def test_what_is_written_is_read_back(tmp_path: Path, language_model: Any, world: TextWorld, answer: Make) -> None:
    whole = PreferenceEnsemble([drawn(language_model, seed=seed) for seed in range(2)])
    whole.save(tmp_path / "preference_model-0")
    again = PreferenceEnsemble.load(tmp_path / "preference_model-0")
    ours, theirs = rows_of(world, answer, ("good", "bad")), rows_of(world, answer, ("dull", "good"))
    assert torch.equal(whole(ours, theirs), again(ours, theirs))
    with pytest.raises(ConfigError, match="a reward model needs one label, this classifier has 5"):
        SequenceRewardModel.load(tmp_path / "preference_model-0" / "member-0")
    with pytest.raises(DataError, match="holds no preference model"):
        PreferenceEnsemble.load(tmp_path)
    with pytest.raises(ConfigError, match="pairs is 0"):
        drawn(language_model, pairs=0)


def test_a_plain_function_is_asked_in_both_orders(world: TextWorld, answer: Make) -> None:
    asked: list[tuple[str, str, str]] = []

    def first_is_better(prompt: str, a: str, b: str) -> float:
        asked.append((prompt, a, b))
        return 0.8 + 0.2 * ("good" in a) - 0.2 * ("good" in b)

    preference = FunctionPreference(first_is_better, world)
    ours, theirs = rows_of(world, answer, ("good", "bad", "good")), rows_of(world, answer, ("dull", "good", "dull"))
    torch.testing.assert_close(preference(ours, theirs), torch.tensor([0.7, 0.3, 0.7], dtype=torch.float64))
    assert len(asked) == len(set(asked)) == 4, "the same question is put once"


@pytest.mark.parametrize("said", [None, 1.5, float("nan"), "good"])
def test_what_is_no_probability_stops_with_the_answers(world: TextWorld, answer: Make, said: Any) -> None:
    rows = rows_of(world, answer, ("good", "bad"))
    with pytest.raises(DataError, match=r"gave .* for duel 0, 'good' against 'bad'; expected a probability"):
        FunctionPreference(lambda prompt, a, b: said, world)(rows.select([0]), rows.select([1]))


def test_an_error_in_a_function_stops_with_the_answers(world: TextWorld, answer: Make) -> None:
    def broken(prompt: str, a: str, b: str) -> float:
        raise KeyError("no such film")

    rows = rows_of(world, answer, ("good", "bad"))
    with pytest.raises(DataError, match=r"the preference broken failed on duel 0, 'good' against 'bad' .*no such film"):
        FunctionPreference(broken, world)(rows.select([0]), rows.select([1]))


def test_a_score_prefers_what_it_scores_higher(world: TextWorld, answer: Make) -> None:
    scored: list[int] = []

    def length(episodes: Episodes) -> torch.Tensor:
        scored.append(len(episodes))
        return episodes.mask_BT.float()

    ours, theirs = (
        rows_of(world, answer, ("good", "good fun", "good")),
        rows_of(world, answer, ("dull plot", "bad", "dull")),
    )
    assert ScorePreference(length)(ours, theirs).tolist() == [0.0, 1.0, 0.5]
    assert scored == [5], "a row that comes twice is scored once"
