"""The KL of answers is measured without bias: it meets the exact value on a policy that can be listed."""

import numpy as np
import pytest
import torch

from backflip.measures.kl import k1_nats_per_sequence, kl_nats_per_sequence
from backflip.worlds.enumerable import EnumerableWorld, TabularPolicy, exact_kl


@pytest.fixture
def world() -> EnumerableWorld:
    return EnumerableWorld(vocabulary=3, length=3, prompts=2, group_size=4)


def policy_with(world: EnumerableWorld, seed: int, scale: float = 1.0) -> TabularPolicy:
    return TabularPolicy(world, np.random.default_rng(seed), scale=scale)


def exact(policy: TabularPolicy, reference: TabularPolicy) -> float:
    with torch.no_grad():
        return float(exact_kl(policy.completion_logp_KC(), reference.completion_logp_KC()).mean())


def test_of_a_policy_with_itself_is_zero(world: EnumerableWorld):
    policy = policy_with(world, 0)
    episodes = world.collect(policy, 40, np.random.default_rng(0))
    for measure in (kl_nats_per_sequence, k1_nats_per_sequence):
        found = measure(policy, policy_with(world, 0), episodes)
        assert (found.value, found.low, found.high) == pytest.approx((0, 0, 0), abs=1e-9)


def test_meets_the_exact_value_and_counts_openings(world: EnumerableWorld):
    policy, reference = policy_with(world, 1), policy_with(world, 2, 0.3)
    known = exact(policy, reference)
    episodes = world.collect(policy, 4000, np.random.default_rng(3))
    full, k1 = kl_nats_per_sequence(policy, reference, episodes), k1_nats_per_sequence(policy, reference, episodes)
    assert full.low < known < full.high and k1.low < known < k1.high
    assert full.n == k1.n == 1000
    assert full.high - full.low < k1.high - k1.low, "the full-vocabulary sum varies less than log-ratios"
    assert known > 0.1


def test_direction_is_policy_from_reference(world: EnumerableWorld):
    policy, reference = policy_with(world, 4, 3.0), policy_with(world, 5, 0.1)
    episodes = world.collect(policy, 4000, np.random.default_rng(6))
    there, back = exact(policy, reference), exact(reference, policy)
    found = kl_nats_per_sequence(policy, reference, episodes)
    assert found.low < there < found.high and not found.low < back < found.high
