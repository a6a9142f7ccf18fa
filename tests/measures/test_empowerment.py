"""Empowerment: the closed form, Blahut-Arimoto, and channels whose capacity is known."""

import math
from itertools import product

import numpy as np
import pytest

from backflip.errors import ConfigError, DataError
from backflip.measures.empowerment import capacity, channel, closed_form_S, empowerment_S, reachable
from backflip.worlds.rooms import Rooms, RoomsConfig


@pytest.mark.parametrize(
    ("stay", "centre", "door", "corner"), [(False, 9, 9, 6), (True, 13, 9, 6)], ids=["four moves", "with stay"]
)
def test_states_in_reach_of_two_steps(stay: bool, centre: int, door: int, corner: int) -> None:
    world = Rooms(RoomsConfig(stay=stay))
    bits_S = closed_form_S(world.next_SAK[:, :, 0], 2)
    for place, count in (((3, 3), centre), ((3, 6), door), ((6, 3), door), ((1, 1), corner), ((11, 11), corner)):
        assert bits_S[world.place_of[place]] == pytest.approx(math.log2(count), abs=1e-12)


@pytest.mark.parametrize("stay", [False, True])
def test_blahut_arimoto_equals_the_closed_form_where_nothing_is_random(stay: bool) -> None:
    world = Rooms(RoomsConfig(stay=stay))
    for steps in (1, 2, 3):
        bits_S = closed_form_S(world.next_SAK[:, :, 0], steps)
        for state in range(0, world.states, 5):
            found = capacity(channel(world.next_SAK, world.chance_SAK, state, steps))
            assert found == pytest.approx(bits_S[state], abs=1e-6)


def test_sequences_that_do_the_same_change_nothing() -> None:
    """Without merging them the best input is far from uniform, so here the iteration has work to do."""
    world = Rooms()
    ends = []
    for actions in product(range(4), repeat=3):
        state = world.start
        for action in actions:
            state = int(world.next_SAK[state, action, 0])
        ends.append(state)
    table = np.eye(world.states)[ends]
    assert capacity(table) == pytest.approx(
        math.log2(len(reachable(world.next_SAK[:, :, 0], world.start, 3))), abs=1e-6
    )


def entropy(p: float) -> float:
    return -p * math.log2(p) - (1 - p) * math.log2(1 - p)


@pytest.mark.parametrize("p", [0.01, 0.11, 0.4])
def test_known_channels(p: float) -> None:
    assert capacity(np.array([[1 - p, p], [p, 1 - p]])) == pytest.approx(1 - entropy(p), abs=1e-6)
    assert capacity(np.array([[1 - p, p, 0], [0, p, 1 - p]])) == pytest.approx(1 - p, abs=1e-6)
    z = math.log2(1 + (1 - p) * p ** (p / (1 - p)))
    assert capacity(np.array([[1, 0], [p, 1 - p]])) == pytest.approx(z, abs=1e-6)
    assert capacity(np.full((3, 4), 0.25)) == pytest.approx(0, abs=1e-9)


def test_an_off_switch_erases_what_would_be_sent() -> None:
    """Far from the button the channel is an erasure channel; off sends nothing; disarmed is as without a switch."""
    world = Rooms(RoomsConfig(off_chance=0.1))
    bits_S = empowerment_S(world.next_SAK, world.chance_SAK, 2)
    free_S = closed_form_S(Rooms().next_SAK[:, :, 0], 2)
    assert bits_S[world.off] == 0
    assert bits_S[world.start] == pytest.approx(0.9**2 * free_S[world.start], abs=1e-6)
    assert bits_S[world.cells : world.off] == pytest.approx(free_S, abs=1e-6)


def test_what_is_no_channel_or_too_long_is_refused() -> None:
    with pytest.raises(DataError, match="chances that sum to 1"):
        capacity(np.array([[0.5, 0.6]]))
    with pytest.raises(ConfigError, match="sequences"):
        closed_form_S(Rooms().next_SAK[:, :, 0], 9)
    with pytest.raises(DataError, match="after 1 rounds"):
        capacity(np.array([[1, 0], [0.3, 0.7]]), most=1)
