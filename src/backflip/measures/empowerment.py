"""Empowerment: how many bits an agent can send, by its next n actions, to the state it will then be in.

The capacity of the channel from sequences of n actions, chosen blindly, to the state after them (Klyubin, Polani and Nehaniv 2005).
Where nothing is random that is log2 of the number of states that can be reached in exactly n steps; elsewhere it is
computed by Blahut-Arimoto. Left out: estimates of it from samples (Mohamed and Rezende 2015); here every transition is listed.

Shapes: S states, A actions, K outcomes of an action, Q sequences of actions, X inputs and Y outputs of a channel.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from backflip.errors import ConfigError, DataError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

MOST_SEQUENCES = 65_536


def reachable(next_SA: Ints, state: int, steps: int) -> Ints:
    """Return the states that can be reached from `state` in exactly so many steps of a deterministic world, sorted."""
    found = np.array([state])
    for _ in range(steps):
        found = np.unique(next_SA[found])
    return found


def closed_form_S(next_SA: Ints, steps: int) -> Floats:
    """Return every state's empowerment in bits in a deterministic world: log2 of how many states are in reach."""
    _check_steps(next_SA.shape[1], steps)
    return np.log2([len(reachable(next_SA, state, steps)) for state in range(len(next_SA))])


def channel(next_SAK: Ints, chance_SAK: Floats, state: int, steps: int) -> Floats:
    """Return the chances (Q, Y) of where each sequence of actions leads; outputs that none can reach are left out.

    Raises:
        ConfigError: there are more than 65,536 sequences.
    """
    states, actions, _ = next_SAK.shape
    _check_steps(actions, steps)
    at_QS = np.zeros((1, states))
    at_QS[0, state] = 1.0
    for _ in range(steps):
        after = np.zeros((len(at_QS), actions, states))
        for sequence, source in zip(*np.nonzero(at_QS), strict=True):
            for action in range(actions):
                np.add.at(
                    after[sequence, action],
                    next_SAK[source, action],
                    at_QS[sequence, source] * chance_SAK[source, action],
                )
        at_QS = np.unique(after.reshape(-1, states).round(15), axis=0)  # equal rows send nothing more than one of them
    return at_QS[:, at_QS.sum(0) > 0]


def empowerment_S(next_SAK: Ints, chance_SAK: Floats, steps: int) -> Floats:
    """Return every state's empowerment in bits: the closed form where nothing is random, else Blahut-Arimoto."""
    if next_SAK.shape[2] == 1:
        return closed_form_S(next_SAK[:, :, 0], steps)
    return np.array([capacity(channel(next_SAK, chance_SAK, state, steps)) for state in range(len(next_SAK))])


def capacity(chance_XY: Floats, tolerance: float = 1e-9, most: int = 100_000) -> float:
    """Return the capacity of a channel in bits (Blahut 1972, Arimoto 1972), to within `tolerance` by Blahut's own bounds.

    `chance_XY[x]` are the chances of the outputs after input x.

    Raises:
        DataError: a row is no distribution, or the bounds do not meet within `most` rounds.
    """
    chance_XY = np.asarray(chance_XY, dtype=np.float64)
    if chance_XY.ndim != 2 or chance_XY.min() < 0 or not np.allclose(chance_XY.sum(1), 1.0, atol=1e-9):
        raise DataError("a channel must be a table whose rows are chances that sum to 1, one row an input")
    share_X = np.full(len(chance_XY), 1 / len(chance_XY))
    low = high = 0.0
    for _ in range(most):
        out_Y = share_X @ chance_XY
        ratio_XY = np.divide(chance_XY, out_Y, out=np.ones_like(chance_XY), where=chance_XY > 0)
        bits_X = (chance_XY * np.log2(ratio_XY)).sum(1)
        low, high = float(np.log2(share_X @ np.exp2(bits_X))), float(bits_X.max())
        if high - low < tolerance:
            return max(0.0, low)
        share_X = share_X * np.exp2(bits_X - high)
        share_X /= share_X.sum()
    raise DataError(f"the capacity lies between {low} and {high} bits after {most} rounds; allow a larger tolerance")


def _check_steps(actions: int, steps: int) -> None:
    if steps < 1 or actions**steps > MOST_SEQUENCES:
        raise ConfigError(
            f"empowerment over {steps} steps of {actions} actions; expected 1 or more steps, and at most {MOST_SEQUENCES:,} sequences"
        )
