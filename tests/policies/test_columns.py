"""The memory behind the sampler: columns that are dropped are those that no live row reaches."""

from __future__ import annotations

import torch

from backflip.policies.columns import SLACK, Columns


def test_a_long_row_that_finished_early_does_not_hold_columns_for_ever() -> None:
    """Three slots go on for a whole row's length after the oldest row has gone, and nobody refills its slot."""
    prompt, longest = 10, 40
    block = torch.arange(4.0).repeat_interleave(prompt).view(4, 1, prompt, 1)
    columns = Columns([block], slots=4, longest=longest)
    everyone, late = torch.arange(4), torch.arange(3)
    columns.splice(everyone, [block], everyone, torch.full((4,), prompt))
    written = [[float(slot)] * prompt for slot in range(4)]

    def step() -> None:
        columns.make_room()
        value_S = torch.rand(4)
        columns.buffers[0][:, 0, columns.used, 0] = value_S
        columns.advance()
        for slot, value in enumerate(value_S.tolist()):
            written[slot].append(value)

    for _ in range(longest - prompt - 1):
        step()
    columns.splice(late, [block], late, torch.full((3,), prompt))
    for slot in range(3):
        written[slot] = [float(slot)] * prompt
    step()
    columns.release(torch.tensor([3]))
    for _ in range(longest - prompt - 1):
        step()
        assert 0 <= columns.first <= int(columns.start_S[:3].min())
        assert columns.used <= columns.capacity == longest + SLACK
        for slot in range(3):
            held = columns.buffers[0][slot, 0, int(columns.start_S[slot]) : columns.used, 0].tolist()
            assert held == torch.tensor(written[slot]).tolist()
