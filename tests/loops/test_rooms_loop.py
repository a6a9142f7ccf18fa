"""Learners in the rooms: PPO comes near the exact optimum, and counting covers the rooms sooner than chance."""

import numpy as np

from backflip.experiments.intrinsic_parts import arriving_SA, learned_point
from backflip.loops.rooms import RoomsPPOConfig, around, counting_cover, random_cover
from backflip.measures.rooms_truth import wanted_S
from backflip.measures.stats import permutation_test
from backflip.worlds.rooms import Rooms, RoomsConfig

SMALL = "######\n#S...#\n#...G#\n######"


def test_ppo_comes_near_the_exact_optimum() -> None:
    world = Rooms(RoomsConfig(plan=SMALL, horizon=12))
    reward_SA = arriving_SA(world, wanted_S(world))
    found = learned_point(world, reward_SA, 0.5, RoomsPPOConfig(updates=30), seed=0)
    assert 0.85 < found["share_of_gain"] <= 1.0 + 1e-9, found
    assert abs(found["kl_nats"] - found["exact_kl_nats"]) < 0.5 * found["exact_kl_nats"]


def test_counting_covers_the_rooms_in_a_third_of_the_steps_of_chance() -> None:
    world = Rooms()
    counting = [counting_cover(world, 0.95, np.random.default_rng(seed)) for seed in range(5)]
    chance = [random_cover(world, 0.95, np.random.default_rng([1, seed])) for seed in range(15)]
    assert np.mean(counting) < np.mean(chance) / 3
    assert (
        permutation_test([-float(n) for n in counting], [-float(n) for n in chance[:5]], np.random.default_rng(0))
        < 0.05
    )


def test_around_the_television_is_its_front_and_one_step_from_it() -> None:
    world = Rooms(RoomsConfig(television="remote"))
    assert around(world) == sorted(world.place_of[place] for place in ((1, 11), (1, 10), (2, 11)))
