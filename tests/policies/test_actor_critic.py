"""The tanh of the networks: the same value and gradient as torch's."""

from __future__ import annotations

import torch

from backflip.policies.actor_critic import Tanh


def test_tanh_has_the_value_and_the_gradient_of_torchs() -> None:
    x = torch.linspace(-12, 12, 1001, requires_grad=True)
    y = torch.linspace(-12, 12, 1001, requires_grad=True)
    ours, theirs = Tanh.apply(x), torch.tanh(y)
    (ours * torch.arange(1001)).sum().backward()
    (theirs * torch.arange(1001)).sum().backward()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=3e-7)
    assert x.grad is not None and y.grad is not None
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-4, atol=1e-3)  # weights go up to 1,000
