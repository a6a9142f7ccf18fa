"""Rewards from clips: the same likelihood as for texts, members apart, a normaliser that scoring never moves."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from backflip.data import Episodes, Judgement, Query
from backflip.errors import ConfigError, DataError
from backflip.rewards.clip_answers import Compared, Score, Scored, load, scores
from backflip.rewards.clips import ClipFit, ClipFitConfig, ClipRewards
from backflip.rewards.comparisons import Comparison
from backflip.rewards.fit import Rows, bradley_terry_loss
from backflip.rewards.queries import Asking, choose, choose_single, labels_due
from backflip.testing import check_reward_model
from backflip.worlds.control import ControlWorld, pack

STEPS = 10


def clips(count: int, seed: int = 0) -> Episodes:
    """Rows of random numbers in the shape of a Hopper's clips."""
    rng = np.random.default_rng(seed)
    world = ControlWorld("Hopper-v5", environments=1, steps=50)
    scene = rng.normal(size=(count, STEPS + 1, 12))
    action = rng.uniform(-1, 1, (count, STEPS, 3)).astype(np.float32)
    items = [world.show(_row(one, act))[0] for one, act in zip(scene, action, strict=True)]
    return world.load(items)


def _row(scene: Any, action: Any) -> Episodes:
    return Episodes(
        torch.zeros(1, STEPS + 1, 12),
        torch.from_numpy(action[None]),
        torch.ones(1, STEPS, dtype=torch.bool),
        None,
        torch.zeros(1),
        torch.zeros(1, dtype=torch.long),
        scene=torch.from_numpy(scene[None]),
    )


@pytest.fixture(scope="module")
def world() -> ControlWorld:
    return ControlWorld("Hopper-v5", environments=1, steps=50)


def made(members: int = 3, seed: int = 0) -> ClipRewards:
    return ClipRewards(12, 3, ClipFitConfig(members=members), np.random.default_rng(seed))


def judged(world: ControlWorld, count: int, seed: int = 0, share: float | None = None) -> list[Comparison]:
    """Pairs that prefer the larger sum of the first action."""
    rows = clips(2 * count, seed)
    items, worth = world.show(rows), rows.action[:, :, 0].sum(1)
    return [
        Comparison(items[2 * k], items[2 * k + 1], float(worth[2 * k] > worth[2 * k + 1]) if share is None else share)
        for k in range(count)
    ]


def test_it_keeps_the_promises_of_a_reward_model(world: ControlWorld) -> None:
    reward, rows = made(), clips(6)
    reward.measure_normaliser(rows)
    check_reward_model(reward, rows)
    torch.testing.assert_close(reward(rows), reward.members(rows).mean(0))


def test_every_member_is_normalised_before_the_mean_and_scoring_moves_nothing() -> None:
    reward, rows = made(), clips(40)
    with torch.no_grad():
        reward.weights[-2][1] *= 100
    with pytest.raises(DataError, match="no normaliser"):
        reward(rows)
    reward.measure_normaliser(rows)
    members_MN = reward.members(rows).flatten(1)
    torch.testing.assert_close(members_MN.mean(1), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(members_MN.std(1, correction=0), torch.ones(3), atol=1e-4, rtol=0)
    before = {name: value.clone() for name, value in reward.state_dict().items()}
    reward(clips(9, seed=5))
    assert all(torch.equal(before[name], value) for name, value in reward.state_dict().items())


def test_one_pass_over_all_members_equals_each_alone() -> None:
    reward, rows = made(), clips(5)
    together_MBT = reward.raw_MBT(rows)
    for member in range(3):
        alone = made(members=1)
        for mine, theirs in zip(alone.weights, reward.weights, strict=True):
            mine.data = theirs.data[member : member + 1].clone()
        torch.testing.assert_close(alone.raw_MBT(rows)[0], together_MBT[member])


def test_the_loss_is_that_of_texts_on_the_same_tensors(world: ControlWorld) -> None:
    """Bradley-Terry on the sums of a clip's steps: the function that fits texts gives the same number for one member."""
    pairs = judged(world, 8)
    rows, reward = Rows.of(world, pairs), made(members=1)
    score_R = reward.raw_MBT(rows.episodes).detach()[0].sum(1)
    delta_B = score_R[rows.first_B] - score_R[rows.second_B]
    by_hand = -np.mean(
        [
            math.log(0.9 / (1 + math.exp(-sign * delta)) + 0.05)
            for delta, sign in zip(delta_B.tolist(), [1 if pair.share else -1 for pair in pairs], strict=True)
        ]
    )
    assert float(bradley_terry_loss(delta_B, rows.share_B, rows.weight_B, 0.1)) == pytest.approx(by_hand, abs=1e-5)
    assert Compared(rows).measure(reward, 0.1)["loss"] == pytest.approx(by_hand, abs=1e-5)


def test_it_learns_what_was_preferred_and_says_so(world: ControlWorld) -> None:
    pairs, held = judged(world, 200), judged(world, 60, seed=1)
    reward = made()
    stats = ClipFit(reward, ClipFitConfig(first_steps=300))(world, pairs, held, np.random.default_rng(0))
    assert stats["held_out_accuracy"] > 0.85 and stats["held_out_n"] == 60
    rows = clips(50, seed=2)
    steps_N = reward.raw_MBT(rows).mean(0).detach().flatten()
    assert np.corrcoef(steps_N, rows.action[:, :, 0].flatten())[0, 1] > 0.6


def test_ties_pull_together_and_are_no_answer_to_be_right_about(world: ControlWorld) -> None:
    reward = made()
    stats = ClipFit(reward, ClipFitConfig(first_steps=200, l2=0))(
        world, judged(world, 50, share=0.5), judged(world, 5, 1, 0.5), np.random.default_rng(0)
    )
    assert stats["held_out_n"] == 0 and stats["loss"] == pytest.approx(math.log(2), abs=0.01)


def test_the_penalty_follows_the_gap_between_fitted_and_held_out_loss() -> None:
    fit = ClipFit(made(), ClipFitConfig(l2=1e-4))
    for fitted, held, expected in ((0.2, 0.4, 1.5e-4), (0.4, 0.5, 1.5e-4), (0.5, 0.5, 1e-4)):
        fit._steer(fitted, held)  # pyright: ignore[reportPrivateUsage]
        assert fit.l2 == pytest.approx(expected)


def test_a_draw_that_is_kept_is_the_same_at_every_fit_however_many_answers_come() -> None:
    fit = ClipFit(made(), ClipFitConfig(bootstrap="kept", members=3))
    few = fit._counts(50, np.random.default_rng(0))  # pyright: ignore[reportPrivateUsage]
    more = fit._counts(400, np.random.default_rng(1))  # pyright: ignore[reportPrivateUsage]
    assert torch.equal(few, more[:, :50])
    assert 0.3 < float((more == 0).float().mean()) < 0.44 and float(more.mean()) == pytest.approx(1, abs=0.1)
    assert not torch.equal(more[0], more[1])
    other = ClipFit(made(), ClipFitConfig(bootstrap="kept", members=3))
    other.load_state_dict(fit.state_dict())
    assert torch.equal(more, other._counts(400, np.random.default_rng(2)))  # pyright: ignore[reportPrivateUsage]
    anew = ClipFit(made(), ClipFitConfig(bootstrap="anew", members=3))
    drawn = [anew._counts(50, np.random.default_rng(k)) for k in (0, 1)]  # pyright: ignore[reportPrivateUsage]
    assert not torch.equal(*drawn) and all(float(one.sum()) == 150 for one in drawn)
    none = ClipFit(made(), ClipFitConfig(bootstrap="none"))
    assert bool((none._counts(9, np.random.default_rng(0)) == 1).all())  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize("bootstrap", ["kept", "anew", "none"])
def test_a_fit_goes_on_from_its_saved_state(world: ControlWorld, bootstrap: Any) -> None:
    pairs = judged(world, 30)
    config = ClipFitConfig(first_steps=5, steps=5, bootstrap=bootstrap)
    one, other = made(), made()
    first, second = ClipFit(one, config), ClipFit(other, config)
    for fit in (first, second):
        fit(world, pairs, [], np.random.default_rng(0))
    third_reward = made(seed=9)
    third = ClipFit(third_reward, config)
    third_reward.load_state_dict(one.state_dict())
    third.load_state_dict(first.state_dict())
    for fit in (second, third):
        fit(world, pairs, [], np.random.default_rng(1))
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), third_reward.parameters(), strict=True))


def test_nothing_to_fit_and_constant_rewards_are_refused(world: ControlWorld) -> None:
    with pytest.raises(DataError, match="no comparisons"):
        ClipFit(made(), ClipFitConfig())(world, [], [], np.random.default_rng(0))
    flat = made()
    with torch.no_grad():
        flat.weights[-2].zero_()
    with pytest.raises(DataError, match="constant"):
        flat.measure_normaliser(clips(3))
    for wrong in ({"members": 0}, {"noise": 1.0}, {"lr": 0.0}, {"l2": -1.0}):
        with pytest.raises(ConfigError):
            ClipFitConfig(**wrong)  # type: ignore[arg-type]


# -- queries -----------------------------------------------------------------------------------------------------------


def test_half_of_mixed_queries_are_where_the_members_disagree(world: ControlWorld) -> None:
    rows, reward = clips(30), made()
    asking = Asking(6, "mixed", "which?")
    queries = choose(rows, world, reward, 10, asking, np.random.default_rng(0))
    assert [query.reason for query in queries] == ["random"] * 5 + ["disagreement"] * 5
    assert sorted(query.order for query in queries).count((0, 1)) == 5
    unfitted = choose(rows, world, None, 10, asking, np.random.default_rng(0))
    assert {query.reason for query in unfitted} == {"random"}

    def spread(chosen: list[Any]) -> float:
        first, second = (world.load([query.items[k] for query in chosen]) for k in (0, 1))
        return float(reward.preference_MN(first, second).var(0, correction=0).mean())

    assert spread(queries[5:]) > 2 * spread(queries[:5])


@pytest.mark.parametrize(("labels", "first", "total"), [(300, 75, 800_000), (7, 7, 10), (1, 0, 1)])
def test_schedules_sum_to_the_budget_and_ask_less_and_less(labels: int, first: int, total: int) -> None:
    due = [labels_due(step, total, labels, first, 4e5) for step in np.linspace(0, total, 101).astype(int).tolist()]
    assert due[0] == first and due[-1] == labels and due == sorted(due)
    assert labels_due(10 * total, total, labels, first, 4e5) == labels
    if labels > 1:
        assert due[50] - due[0] >= due[-1] - due[50]
    with pytest.raises(ConfigError, match="first <= labels"):
        labels_due(0, total, labels, labels + 1, 4e5)


def test_a_clip_is_small() -> None:
    """A clip of 125 steps is kept in the store: some 20 kB, not a film."""
    assert len(pack(np.random.default_rng(0).normal(size=(126, 12)))["data"]) < 20_000


# -- what a fit looks at ---------------------------------------------------------------------------------------------


def test_every_so_manieth_step_stands_for_those_between() -> None:
    """Over all places to begin at, the estimates of a clip's sum average to the sum; one network, all gradients alike."""
    rows = clips(4)
    reward = ClipRewards(12, 3, ClipFitConfig(every=5), np.random.default_rng(0))
    found = []
    for start in range(5):

        class Fixed:
            def integers(self, high: int, at: int = start) -> int:
                assert high == 5
                return at

        part_MBT = reward.fitting_MBT(rows, Fixed())  # type: ignore[arg-type]
        assert part_MBT.shape == (3, 4, 2) and part_MBT.requires_grad
        found.append(part_MBT.sum(-1))
    torch.testing.assert_close(torch.stack(found).mean(0), reward.raw_MBT(rows).sum(-1), rtol=1e-4, atol=1e-5)


def test_a_reward_may_read_what_came_of_a_step_and_not_the_action() -> None:
    rows = clips(3)
    reward = ClipRewards(12, 3, ClipFitConfig(reads="what_came_of_it"), np.random.default_rng(0))
    reward.scale_inputs(rows)
    before = reward.raw_MBT(rows)
    rows.action.zero_()
    assert torch.equal(reward.raw_MBT(rows), before)
    rows.obs[:, 0] = 0  # what was there before the first step
    assert torch.equal(reward.raw_MBT(rows), before)
    rows.obs[:, -1] = 0
    assert not torch.equal(reward.raw_MBT(rows), before)


def test_a_share_of_the_questions_compares_now_with_then(world: ControlWorld) -> None:
    rows, older = walk(world), clips(6, seed=3)
    old = {item.id for item in world.show(older)}
    for share, low, high in ((0.0, 0, 0), (0.5, 5, 35), (1.0, 40, 40)):
        queries = choose(rows, world, None, 40, Asking(STEPS, "random", "?", share), np.random.default_rng(0), older)
        assert low <= sum(query.items[1].id in old for query in queries) <= high
        assert not any(query.items[0].id in old for query in queries)


def test_no_question_is_asked_twice_and_none_is_about_one_clip(world: ControlWorld) -> None:
    rows = walk(world).select([0])  # 41 places to cut a clip
    queries = choose(rows, world, None, 200, Asking(STEPS, "random", "?"), np.random.default_rng(0))
    assert len({query.id for query in queries}) == len(queries) == 200
    assert all(query.items[0].id != query.items[1].id for query in queries)
    one = choose(clips(1), world, None, 3, Asking(STEPS, "random", "?"), np.random.default_rng(0))
    assert one == []  # of a single clip nothing can be asked


def walk(world: ControlWorld) -> Episodes:
    from backflip.policies.actor_critic import ActorCritic, ActorCriticConfig

    policy = ActorCritic(world.features, world.actions, ActorCriticConfig(hidden=8), np.random.default_rng(0))
    return world.collect(policy, 1, np.random.default_rng(0))


# -- scores of single clips ----------------------------------------------------------------------------------------------


def scored(world: ControlWorld, count: int, seed: int = 0) -> list[Score]:
    """Clips with the sum of their first action as their score."""
    rows = clips(count, seed)
    worth = (0.5 + rows.action[:, :, 0].sum(1) / 20).tolist()
    return [Score(item, value) for item, value in zip(world.show(rows), worth, strict=True)]


def test_scores_are_fitted_by_least_squares_and_rank_unseen_clips(world: ControlWorld) -> None:
    inside, held = scored(world, 200), scored(world, 60, seed=1)
    reward = made()
    before = load(world, held).measure(reward, 0.1)
    stats = ClipFit(reward, ClipFitConfig(first_steps=300))(world, inside, held, np.random.default_rng(0))
    assert stats["held_out_accuracy"] > 0.75 > before["accuracy"]
    assert stats["held_out_loss"] < 0.5 * before["loss"] and stats["held_out_n"] == 30


def test_the_loss_of_scores_is_the_weighted_mean_square_over_members(world: ControlWorld) -> None:
    given, reward = scored(world, 6), made(members=2)
    loaded = Scored.of(world, given)
    weight_MB = torch.tensor([[1.0, 0, 2, 1, 1, 1], [0, 3, 0, 1, 1, 1]])
    loss = loaded.loss(reward, torch.arange(6), weight_MB, 0.1, np.random.default_rng(0))
    sum_MB = reward.raw_MBT(loaded.episodes).sum(-1)
    by_hand = (weight_MB * (sum_MB - loaded.score_B) ** 2).sum() / weight_MB.sum()
    assert float(loss.detach()) == pytest.approx(float(by_hand.detach()), rel=1e-5)
    assert loaded.score_B.tolist() == pytest.approx([10 * (one.value - 0.5) for one in given])


def test_questions_about_single_clips_name_their_reason_and_their_answers_become_scores(world: ControlWorld) -> None:
    rows, reward = clips(400), made()
    reward.measure_normaliser(rows)
    asking = Asking(4, "mixed", "what is it worth?")
    asked = choose_single(rows, world, reward, 8, asking, np.random.default_rng(0))
    assert len(asked) == 8 and {query.kind for query in asked} == {"rate"}
    assert [query.reason for query in asked].count("disagreement") == 4
    found, counts = scores(
        asked[:2], [Judgement(asked[0].id, "judge", (0.25,)), Judgement(asked[1].id, "judge", None, note="dark")]
    )
    assert [one.value for one in found] == [0.25] and counts == {"judgements": 2, "unanswered": 1, "ties": 0}
    pair = Query((asked[0].items[0], asked[1].items[0]), "which?")
    with pytest.raises(DataError, match="expected a rating of one"):
        scores([pair], [Judgement(pair.id, "judge", (1.0, 0.0))])
    with pytest.raises(DataError, match="expected one kind"):
        load(world, [found[0], judged(world, 1)[0]])
