"""The exact frontier: nobody is above it, the tilt is on it, conditioning and best-of-n are below, and a wrong KL is seen."""

import math

import numpy as np
import pytest
from scipy import stats

from backflip.errors import DataError
from backflip.measures import best_of_n
from backflip.measures.frontier import at_tilt, frontier, tilted


def setting(seed: int = 0, openings: int = 2, answers: int = 12) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return np.log(rng.dirichlet(np.ones(answers), openings)), rng.normal(size=(openings, answers))


def of(p_KC: np.ndarray, base_KC: np.ndarray, score_KC: np.ndarray) -> tuple[float, float]:
    """Return KL and expected score, written out."""
    ratio_KC = np.where(p_KC > 0, np.log(np.maximum(p_KC, 1e-300)) - base_KC, 0)
    return float((p_KC * ratio_KC).sum(1).mean()), float((p_KC * score_KC).sum(1).mean())


def test_no_distribution_is_above_the_frontier_and_the_tilt_is_on_it() -> None:
    base_KC, score_KC = setting()
    rng = np.random.default_rng(1)
    for per_beta in (0.0, 0.3, 2.0, 10.0):
        kl, reward = of(np.exp(tilted(base_KC, score_KC, per_beta)), base_KC, score_KC)
        assert (kl, reward) == pytest.approx(at_tilt(base_KC, score_KC, per_beta))
        assert frontier(base_KC, score_KC, kl) == pytest.approx(reward, abs=1e-6)
        for scale in (0.05, 0.5):
            near_KC = tilted(base_KC, score_KC, per_beta) + rng.normal(0, scale, base_KC.shape)
            kl, reward = of(np.exp(near_KC) / np.exp(near_KC).sum(1, keepdims=True), base_KC, score_KC)
            assert reward < frontier(base_KC, score_KC, kl)
            assert reward > frontier(base_KC, score_KC, 0.3 * kl) or scale < 0.1 or per_beta < 1, (
                "a KL too small is seen"
            )


def test_its_ends_are_the_base_and_the_best_answers() -> None:
    base_KC, score_KC = setting()
    assert frontier(base_KC, score_KC, 0) == pytest.approx(float((np.exp(base_KC) * score_KC).sum(1).mean()))
    most = -base_KC[[0, 1], score_KC.argmax(1)].mean()
    for kl in (most, most + 1, 1e9):
        assert frontier(base_KC, score_KC, kl) == pytest.approx(score_KC.max(1).mean())
    assert frontier(base_KC, score_KC + 100, 0.5) == pytest.approx(frontier(base_KC, score_KC, 0.5) + 100)
    assert frontier(base_KC, np.zeros_like(score_KC), 0.5) == 0
    impossible_KC = np.log(np.array([[0.5, 0.5, 1e-300]]))
    impossible_KC[0, 2] = -np.inf
    assert frontier(impossible_KC, [[0.0, 1.0, 9.0]], 50) == 1


def test_conditioning_and_tilt_on_200_atoms_have_their_known_worth() -> None:
    """Top quarter kept of r_i = Phi^-1((i - 1/2) / 200): KL ln 4 for both, 1.269 against 1.632."""
    score_C = stats.norm.ppf((np.arange(1, 201) - 0.5) / 200)
    base_C = np.full(200, -math.log(200))
    kept_C = (np.arange(200) >= 150) / 50
    kl, reward = of(kept_C[None], base_C[None], score_C[None])
    assert kl == pytest.approx(math.log(4)) and round(reward, 3) == 1.269
    assert round(frontier(base_C, score_C, math.log(4)), 3) == 1.632


def test_with_binary_rewards_conditioning_is_on_the_frontier_and_graded_it_is_not() -> None:
    base_KC, score_KC = setting()
    for grade_KC in ((score_KC > 0.5).astype(float), np.round(score_KC)):
        keep_KC = np.exp(base_KC) * (grade_KC >= 1)
        kl, reward = of(keep_KC / keep_KC.sum(1, keepdims=True), base_KC, grade_KC)
        binary = set(np.unique(grade_KC)) == {0.0, 1.0}
        # over several openings the KL could be shared out better, so one opening at a time
        gaps = []
        for base_C, grade_C, keep_C in zip(base_KC, grade_KC, keep_KC, strict=True):
            kl, reward = of((keep_C / keep_C.sum())[None], base_C[None], grade_C[None])
            gaps.append(frontier(base_C, grade_C, kl) - reward)
        assert min(gaps) > -1e-7 and (max(gaps) < 1e-6) == binary


def test_best_of_n_is_below_it_and_the_bound_is_no_kl_with_ties() -> None:
    f_L, grade_L = np.full(7, 1 / 7), np.arange(7.0)
    for n in (2, 4, 16, 64):
        chosen_L = np.diff(np.cumsum(f_L) ** n, prepend=0)
        assert chosen_L @ grade_L <= frontier(np.log(f_L), grade_L, best_of_n.kl_exact_nats(f_L, n)) + 1e-9


def test_what_is_no_distribution_is_refused() -> None:
    base_KC, score_KC = setting()
    for arguments in ((base_KC + 1, score_KC, 1.0), (base_KC, score_KC[:1], 1.0), (base_KC, score_KC, -1.0)):
        with pytest.raises(DataError):
            frontier(*arguments)
