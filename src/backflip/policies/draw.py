"""From logits to log-probabilities, and from one uniform number a row to a token.

The sampler, the update and every measure turn logits into log-probabilities through `logits_to_logp`, so the
temperature cannot be in one and missing in another. There is no top-k and no top-p: a truncated sampling distribution is
not the one whose log-probability is reported (docs/ppo.md, rule 30).

Shapes: R rows, V tokens of the vocabulary, N blocks of W tokens with N * W >= V.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def logits_to_logp(logits_RV: Tensor, temperature: float) -> Tensor:
    """Return log-probabilities (nats, float32) at the sampling temperature."""
    logits_RV = logits_RV.float()
    if temperature != 1.0:
        logits_RV = logits_RV / temperature
    return torch.log_softmax(logits_RV, dim=-1)


def draw(logp_RV: Tensor, uniform_R: Tensor) -> tuple[Tensor, Tensor]:
    """Draw one token a row by inverting the cumulative distribution at `uniform_R`, numbers in [0, 1).

    Returns (token_R int64, logp_R). The sum runs over blocks first and inside one block after, in double precision where
    the device has it: two short sums instead of one over the whole vocabulary, and no bias towards either end of a large
    vocabulary. A token of probability 0 is never drawn.
    """
    rows, vocabulary = logp_RV.shape
    width = max(1, math.isqrt(vocabulary - 1) + 1)
    blocks = -(-vocabulary // width)
    # softmax of a log-probability is its exp, by a kernel that is faster than exp on some processors.
    p_RV = logp_RV.softmax(-1)
    if blocks * width != vocabulary:
        p_RV = torch.nn.functional.pad(p_RV, (0, blocks * width - vocabulary))
    p_RNW = p_RV.view(rows, blocks, width)
    precise = torch.float32 if p_RV.device.type == "mps" else torch.float64
    block_RN = p_RNW.sum(-1).to(precise)
    upto_RN = block_RN.cumsum(-1)
    target_R1 = _below(uniform_R[:, None].to(precise) * upto_RN[:, -1:], upto_RN[:, -1:])
    # First block whose running sum exceeds the target: an empty block adds nothing and is passed over.
    block_R1 = (upto_RN <= target_R1).sum(-1, keepdim=True).clamp_(max=blocks - 1)
    before_R1 = upto_RN.gather(1, block_R1) - block_RN.gather(1, block_R1)
    inside_RW = p_RNW[torch.arange(rows, device=p_RV.device), block_R1[:, 0]].to(precise).cumsum(-1)
    rest_R1 = _below((target_R1 - before_R1).clamp_(min=0), inside_RW[:, -1:])
    place_R1 = (inside_RW <= rest_R1).sum(-1, keepdim=True).clamp_(max=width - 1)
    token_R1 = (block_R1 * width + place_R1).clamp_(max=vocabulary - 1)
    return token_R1[:, 0], logp_RV.gather(1, token_R1)[:, 0]


def _below(value: Tensor, limit: Tensor) -> Tensor:
    """Return `value`, or the number just under `limit` where rounding carried it to the limit or beyond."""
    return torch.minimum(value, torch.nextafter(limit, torch.zeros_like(limit)))
