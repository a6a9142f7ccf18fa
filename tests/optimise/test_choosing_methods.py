"""FeedME, reward-conditioned training and online imitation: what is kept, what is told, and their exact limits."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from backflip.data import PAD, Episodes
from backflip.errors import ConfigError, DataError
from backflip.measures.best_of_n import kl_of_kept_nats
from backflip.measures.kl import k1_nats_per_sequence
from backflip.optimise import conditional, feedme, imitate
from backflip.optimise.conditional import Asked, ConditionalConfig, TokenInFront
from backflip.optimise.feedme import AtLeast, FeedMEConfig, TopShare
from backflip.optimise.sft import SFTConfig
from backflip.policies.tabular import TablePolicy
from backflip.worlds.enumerable import EnumerableWorld, TableReward, TabularPolicy, exact_kl

EXACT = SFTConfig(epochs=150, aggregate="constant", constant_length=1, tokens_per_microbatch=10**6)
PROMPTS = 2


def in_proportion(world: EnumerableWorld, logp_KC: Tensor, rows: int) -> Episodes:
    """Return each answer as often as its probability says, of about `rows` rows a prompt: a sample without noise."""
    times_KC = (logp_KC.exp() * rows).round().long()
    prompt_B = torch.arange(len(logp_KC)).repeat_interleave(times_KC.sum(1))
    answers = [
        c for times_C in times_KC.tolist() for c, n in zip(world.completions, times_C, strict=True) for _ in range(n)
    ]
    return world.rows(prompt_B, answers)


def graded(seed: int = 0, prompts: int = PROMPTS) -> tuple[EnumerableWorld, TabularPolicy, Tensor]:
    """A world, its base, and grades 0 to 3 of every answer."""
    rng = np.random.default_rng(seed)
    world = EnumerableWorld(3, 2, prompts)
    grade_KC = torch.tensor(rng.permuted(np.tile([0.0, 1, 1, 2, 2, 3, 0], (prompts, 1)), axis=1))
    return world, TabularPolicy(world, rng, values=False), grade_KC


def conditioned(base_KC: Tensor, keep_KC: Tensor) -> Tensor:
    """Return the probabilities of the base given that an answer was kept, kept with these probabilities."""
    kept_KC = base_KC.exp() * keep_KC
    return kept_KC / kept_KC.sum(1, keepdim=True)


def distance(policy: TabularPolicy, target_KC: Tensor, prompts: slice = slice(None)) -> float:
    """Return the largest total variation over prompts."""
    return float(0.5 * (policy.completion_logp_KC().detach().exp()[prompts] - target_KC).abs().sum(1).max())


def adam(policy: TabularPolicy) -> torch.optim.Optimizer:
    return torch.optim.Adam(policy.parameters(), lr=0.2, eps=1e-8)


def test_feedme_equals_conditioning_and_a_fixed_bar_is_idempotent() -> None:
    world, base, grade_KC = graded()
    base_KC = base.completion_logp_KC().detach()
    target_KC = conditioned(base_KC, (grade_KC >= 2).double())
    policy, reward, stats = base, TableReward(world, grade_KC), dict[str, float]()
    for _ in range(2):
        rows = in_proportion(world, policy.completion_logp_KC().detach(), 800)
        stats = feedme.update(policy, adam(policy), rows, reward(rows), FeedMEConfig(AtLeast(2), EXACT))
        assert distance(policy, target_KC) < 0.01
    kl_K = exact_kl(policy.completion_logp_KC().detach(), base_KC)
    kept_K = (base_KC.exp() * (grade_KC >= 2)).sum(1)
    torch.testing.assert_close(kl_K, -kept_K.log(), atol=0.01, rtol=0)
    assert stats["kept_fraction"] > 0.99 and stats["bar"] == 2


def test_feedme_with_noisy_ratings_keeps_in_proportion() -> None:
    """Kept with probability s(x): the limit is pi0 * s, and -ln P0(keep) only bounds the KL."""
    world, base, grade_KC = graded()
    base_KC, chance_KC = base.completion_logp_KC().detach(), 0.2 + 0.2 * grade_KC
    rows = in_proportion(world, base_KC, 2000)
    number_B, chance_B = world.completion_B(rows), chance_KC[world.prompt_B(rows), world.completion_B(rows)]
    rank_B = torch.zeros(len(rows), dtype=torch.float64)
    for prompt in range(PROMPTS):
        for number in range(len(world.completions)):  # of n equal rows the first n * s pass
            same = ((world.prompt_B(rows) == prompt) & (number_B == number)).nonzero().flatten()
            rank_B[same] = (torch.arange(len(same)).double() + 0.5) / max(1, len(same))
    rating_BT = feedme.on_last_decision((rank_B < chance_B).float(), rows.mask_BT)
    feedme.update(base, adam(base), rows, rating_BT, FeedMEConfig(AtLeast(1), EXACT))
    assert distance(base, conditioned(base_KC, chance_KC)) < 0.01
    bound_K = -(base_KC.exp() * chance_KC).sum(1).log()
    assert (exact_kl(base.completion_logp_KC().detach(), base_KC) < bound_K).all()


def test_a_moving_quantile_goes_further_every_round() -> None:
    world, base, grade_KC = graded()
    reward, found = TableReward(world, grade_KC + torch.linspace(0, 0.5, len(world.completions))), list[float]()
    for _ in range(3):
        rows = in_proportion(world, base.completion_logp_KC().detach(), 400)
        stats = feedme.update(
            base, adam(base), rows, reward(rows), FeedMEConfig(TopShare(0.6), replace(EXACT, epochs=60))
        )
        found.append(stats["reward_sum_mean"])
    assert found[0] < found[1] < found[2]


def test_the_best_of_each_group_costs_best_of_n_and_a_bar_costs_conditioning() -> None:
    rating_B, group_B = torch.randn(80, generator=torch.Generator().manual_seed(0)), torch.arange(80) // 4
    best = TopShare(0.25, within_group=True)

    def bound(rating_B: torch.Tensor, keep: feedme.Keep) -> float:
        return feedme.chosen(rating_B, group_B, keep)[1]["kl_bound_nats"]

    assert bound(rating_B, best) == pytest.approx(math.log(4) - 3 / 4), "best of 4, not the best quarter"
    assert bound(rating_B, TopShare(0.5, within_group=True)) == pytest.approx(kl_of_kept_nats(4, 2))
    assert bound(rating_B, TopShare(0.25)) == pytest.approx(math.log(4))
    tied_B = rating_B.clone()
    tied_B[:4] = 9.0  # a group of ties is kept whole, which best of n would not do
    assert bound(tied_B, best) == pytest.approx(-math.log(23 / 80))


def test_what_is_kept_by_hand() -> None:
    rating_B, group_B = torch.tensor([1.0, 5.0, 3.0, 3.0, 9.0, 8.0]), torch.tensor([0, 0, 0, 0, 1, 1])
    assert feedme.kept(rating_B, group_B, AtLeast(3)).tolist() == [False, True, True, True, True, True]
    assert feedme.kept(rating_B, group_B, TopShare(0.5)).tolist() == [False, True, False, False, True, True]
    within = feedme.kept(rating_B, group_B, TopShare(0.5, within_group=True)).tolist()
    assert within == [False, True, True, True, True, False], "a tie with the bar passes it"


def test_feedme_refuses_what_chooses_nothing() -> None:
    world, base, _ = graded()
    rows = world.everything()
    for rating, words in ((0.0, "none of"), (1.0, "rated 1")):
        with pytest.raises(DataError, match=words):
            rating_BT = feedme.on_last_decision(torch.full((len(rows),), rating), rows.mask_BT)
            feedme.update(base, adam(base), rows, rating_BT, FeedMEConfig(AtLeast(1.0)))
    for wrong in (lambda: TopShare(1.0), lambda: AtLeast(float("nan"))):
        with pytest.raises(ConfigError):
            wrong()


# -- told what an answer was worth ---------------------------------------------------------------------------------------


def telling(wide: EnumerableWorld) -> Callable[[Tensor, Tensor], Tensor]:
    """Level l of prompt k is prompt l * PROMPTS + k of a wider world: a table has no other way to read a level."""
    return lambda obs, level_B: wide.obs_BP(level_B * PROMPTS + obs[:, -1])


def asked_for(level: int, levels: int = 2) -> tuple[Asked, TabularPolicy]:
    wide = EnumerableWorld(3, 2, PROMPTS * levels)
    table = TabularPolicy(wide, np.random.default_rng(7), values=False)
    return Asked(table, telling(wide), level), table


def test_asked_for_good_the_limit_is_that_of_feedme_online_too() -> None:
    world, base, grade_KC = graded()
    base_KC = base.completion_logp_KC().detach()
    policy, table = asked_for(1)
    config = ConditionalConfig((2.0,), EXACT)
    rows = in_proportion(world, base_KC, 800)
    stats = conditional.update(policy, adam(table), rows, TableReward(world, grade_KC)(rows), config)
    good_KC = conditioned(base_KC, (grade_KC >= 2).double())
    for level, target_KC in enumerate((conditioned(base_KC, (grade_KC < 2).double()), good_KC)):
        assert distance(table, target_KC, slice(PROMPTS * level, PROMPTS * (level + 1))) < 0.01
    assert stats["level_0_fraction"] + stats["level_1_fraction"] == pytest.approx(1)
    # online: its own GOOD answers, and the base's others, told what they reached, leave GOOD where it is
    own = in_proportion(world, table.completion_logp_KC().detach()[PROMPTS:], 800)
    both = _joined(own, rows)
    conditional.update(policy, adam(table), both, TableReward(world, grade_KC)(both), config)
    assert distance(table, good_KC, slice(PROMPTS, 2 * PROMPTS)) < 0.01


def _joined(one: Episodes, two: Episodes) -> Episodes:
    return replace(
        one,
        obs=torch.cat([one.obs, two.obs]),
        action=torch.cat([one.action, two.action]),
        mask_BT=torch.cat([one.mask_BT, two.mask_BT]),
        bootstrap_B=torch.zeros(len(one) + len(two)),
        group_B=torch.arange(len(one) + len(two)),
    )


@pytest.mark.parametrize(("share", "ceiling"), [(0.5, 0.9), (0.1, 0.5)])
def test_noisy_labels_have_their_exact_ceiling(share: float, ceiling: float) -> None:
    """P(good | GOOD) = p (1 - e) / (p (1 - e) + (1 - p) e): 0.9 at p = 1/2 and only 0.5 at p = 0.1, with e = 0.1."""
    world = EnumerableWorld(2, 1, PROMPTS)  # one decision: bad (0) or good (1)
    p_KC = torch.tensor([[1 - share, share]] * PROMPTS, dtype=torch.float64)
    rows = in_proportion(world, p_KC.log(), 1000)
    good_B = world.completion_B(rows) == 1
    flip_B = torch.zeros(len(rows), dtype=torch.bool)
    for kind in (good_B, ~good_B):
        flip_B[kind.nonzero().flatten()[::10]] = True
    wide = EnumerableWorld(2, 1, 2 * PROMPTS)
    table = TabularPolicy(wide, values=False)
    policy = Asked(table, telling(wide), 1)
    labels_BT = feedme.on_last_decision((good_B ^ flip_B).float(), rows.mask_BT)
    conditional.update(policy, adam(table), rows, labels_BT, ConditionalConfig((0.5,), EXACT))
    assert float(table.completion_logp_KC().detach()[PROMPTS:, 1].exp().mean()) == pytest.approx(ceiling, abs=0.01)


def test_levels_and_their_edges() -> None:
    score_B = torch.tensor([-1.0, 0.0, 0.5, 2.0])
    assert conditional.levels(score_B, (0.0, 1.0)).tolist() == [0, 1, 1, 2]
    spread_B = torch.arange(100.0)
    edges = conditional.quantile_edges(spread_B, 5)
    assert edges == (20, 40, 60, 80)
    assert torch.bincount(conditional.levels(spread_B, edges)).tolist() == [20] * 5
    assert conditional.quantile_edges(torch.tensor([0.0] * 9 + [1.0]), 10) == (1.0,)
    with pytest.raises(DataError, match="too few values"):
        conditional.quantile_edges(torch.zeros(9), 5)
    for wrong in ((), (1.0, 0.0), (float("nan"),)):
        with pytest.raises(ConfigError, match="edges"):
            ConditionalConfig(wrong)


def test_a_token_in_front_keeps_prompts_whole() -> None:
    obs_BP = torch.tensor([[PAD, PAD, 5, 6], [1, 2, 3, 4]])
    level_B = torch.tensor([1, 0])
    assert TokenInFront((98, 99))(obs_BP, level_B).tolist() == [[PAD, PAD, 99, 5, 6], [98, 1, 2, 3, 4]]
    assert TokenInFront((98, 99), after=1)(obs_BP, level_B).tolist() == [[PAD, PAD, 5, 99, 6], [1, 98, 2, 3, 4]]
    with pytest.raises(DataError, match="fewer than the 3"):
        TokenInFront((98, 99), after=3)(obs_BP, level_B)


def test_an_asked_policy_acts_in_plain_worlds_and_its_kl_is_to_the_unprompted_base() -> None:
    world, base, _ = graded()
    policy, table = asked_for(1)
    episodes = world.collect(policy, 4000, np.random.default_rng(0))
    assert (episodes.obs[:, -1] < PROMPTS).all() and episodes.logp_BT is not None
    torch.testing.assert_close(policy.evaluate(episodes).logp_BT.detach(), episodes.logp_BT)
    exact = exact_kl(table.completion_logp_KC().detach()[PROMPTS:], base.completion_logp_KC().detach()).mean()
    measured = k1_nats_per_sequence(policy, base, episodes)
    assert measured.low < float(exact) < measured.high
    with pytest.raises(ConfigError, match="k1_nats_per_sequence"):
        policy.kl_BT(base, episodes)


def test_conditional_refuses_what_cannot_be_told_apart() -> None:
    world, base, grade_KC = graded()
    rows, (policy, table) = world.everything(), asked_for(1)
    with pytest.raises(DataError, match="nothing can be told apart"):
        conditional.update(policy, adam(table), rows, torch.zeros(rows.mask_BT.shape), ConditionalConfig())
    with pytest.raises(ConfigError, match="asked for level 5"):
        wrong = Asked(table, policy.tell, 5)
        conditional.update(wrong, adam(table), rows, TableReward(world, grade_KC)(rows), ConditionalConfig())
    assert isinstance(base, TabularPolicy)


# -- imitation -----------------------------------------------------------------------------------------------------------


def test_online_imitation_becomes_the_expert() -> None:
    rng = np.random.default_rng(0)
    world = EnumerableWorld(3, 3, 2)
    expert, policy = TabularPolicy(world, rng, values=False), TabularPolicy(world, rng, values=False)
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.1, eps=1e-8)
    config: Any = imitate.ImitateConfig(tokens_per_microbatch=10**6)
    rows, stats = world.everything(), dict[str, float]()
    for number in range(80):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * (1 - number / 80)
        rows = world.collect(policy, 256, rng)
        stats = imitate.update(policy, optimizer, rows, imitate.expert_logp(expert, rows), config)
    logp_KC, target_KC = (one.completion_logp_KC().detach() for one in (policy, expert))
    assert float(exact_kl(logp_KC, target_KC).max()) < 1e-3 and abs(stats["expert_kl_nats"]) < 0.02
    with pytest.raises(DataError, match="expert_logp"):
        imitate.update(policy, optimizer, rows, -imitate.expert_logp(expert, rows), config)


def test_a_step_of_imitation_follows_the_kl_at_each_decision() -> None:
    """One state, three actions: the mean step is the gradient of KL(policy || expert)."""
    code_F = torch.zeros(1)
    policy, expert = TablePolicy(code_F, 1, 3), TablePolicy(code_F, 1, 3)
    with torch.no_grad():
        policy.logits_NA.copy_(torch.tensor([[0.5, 0.0, -1.0]]))
        expert.logits_NA.copy_(torch.tensor([[-0.5, 1.0, 0.0]]))
    p_A, ours_A, theirs_A = (
        policy.probability_NA()[0],
        *(torch.log_softmax(x.logits_NA[0], -1) for x in (policy, expert)),
    )
    exact_A = p_A * ((ours_A - theirs_A) - (p_A * (ours_A - theirs_A)).sum())
    count_A = (p_A * 20_000).round().long()
    action_B = torch.arange(3).repeat_interleave(count_A)
    rows = Episodes(
        obs=torch.zeros(len(action_B), 2, 1),
        action=action_B[:, None, None],
        mask_BT=torch.ones(len(action_B), 1, dtype=torch.bool),
        logp_BT=ours_A.detach()[action_B][:, None],
        bootstrap_B=torch.zeros(len(action_B)),
        group_B=torch.arange(len(action_B)),
    )
    before = policy.logits_NA.detach().clone()
    optimizer = torch.optim.SGD([policy.logits_NA], lr=1.0)
    config = imitate.ImitateConfig(tokens_per_microbatch=10**7)
    imitate.update(policy, optimizer, rows, imitate.expert_logp(expert, rows, 10**7), config)
    torch.testing.assert_close((before - policy.logits_NA.detach())[0].double(), exact_A.detach(), atol=1e-3, rtol=0)
