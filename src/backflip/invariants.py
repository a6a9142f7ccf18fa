"""What must be equal, measured: each function returns by how much it is not.

The contract checks that users run (`backflip.testing`), `backflip doctor` and the tests all judge by these numbers, so
a formula stands once. Everything here works through the protocols alone: what a decision is, nobody asks. Left out: limits
and advice.

Shapes: B rows, T decisions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import torch
from scipy import special
from torch import Tensor

from backflip.data import Episodes, Evaluation
from backflip.errors import DataError
from backflip.masked import masked_sum
from backflip.optimise.kl import k1_nats_B, log_ratio_BT, shape_reward
from backflip.optimise.step import accumulate, evaluate_all, trim
from backflip.protocols import Policy, RewardModel

ROWS_ALONE = 4
"""Rows that are looked at on their own: the shortest ones, which padding would hurt most."""
EXPECTED_COUNT = 5.0
"""Smallest expected count of a bin in a chi-square test."""


def ratio_error(policy: Policy, episodes: Episodes) -> float:
    """Return max |exp(logp_evaluated - logp_sampled) - 1| over decisions: 0 where sampling and scoring agree."""
    gap_BT = _on(episodes, policy.evaluate(episodes).logp_BT.detach() - _sampled_logp(episodes))
    return float((gap_BT.exp() - 1).abs().max())


def batch_gap_nats(policy: Policy, episodes: Episodes) -> float:
    """Return the largest change of a log-probability when a row leaves its batch, and its padding, behind."""
    together_BT = policy.evaluate(episodes).logp_BT.detach()
    gaps: list[float] = []
    for row in _shortest(episodes):
        alone = trim(episodes.select([row]))
        width = alone.mask_BT.shape[1]
        gap_1T = policy.evaluate(alone).logp_BT.detach() - together_BT[[row], :width]
        gaps.append(float(_on(alone, gap_1T).abs().max()))
    return max(gaps)


def repeat_gap_nats(policy: Policy, episodes: Episodes) -> float:
    """Return the largest change of a log-probability when the same episodes are evaluated again: 0 to the bit."""
    first, second = (policy.evaluate(episodes).logp_BT.detach() for _ in range(2))
    return float(_on(episodes, first - second).abs().max())


def largest_kl_nats(policy: Policy, reference: Policy, episodes: Episodes) -> float:
    """Return the largest |KL(policy || reference)| of a decision; 0 where the two are the same."""
    return float(_on(episodes, policy.kl_BT(reference, episodes)).abs().max())


def kl_z(policy: Policy, reference: Policy, episodes: Episodes) -> float:
    """Return how many standard errors the sampled KL (k1) lies above the exact one, for rows that `policy` sampled.

    Along a row, log ratio - exact KL is a martingale difference, so z is about standard normal if both are right.

    Raises:
        DataError: the exact KL is 0 everywhere, so that nothing could be told apart.
    """
    exact_BT = _on(episodes, policy.kl_BT(reference, episodes))
    if not bool((exact_BT > 0).any()):
        raise DataError("the KL to the reference is 0 at every decision; expected two policies that differ")
    reference_logp_BT = evaluate_all(reference, episodes, tokens_per_microbatch=16_384).logp_BT
    return _z(log_ratio_BT(replace(episodes, ref_logp_BT=reference_logp_BT)) - exact_BT, episodes)


def sampling_z(policy: Policy, episodes: Episodes) -> float:
    """Return how many standard errors mean log p lies above minus the entropy, for rows that `policy` sampled.

    E[log p(x)] = -H holds at every decision, if what is sampled is what is scored: a truncated or cooled sampler
    lies above, a noisy one below.
    """
    evaluation = policy.evaluate(episodes)
    return _z((evaluation.logp_BT + evaluation.entropy_BT).detach(), episodes)


def frequency_p_value(policy: Policy, obs: Tensor, rng: np.random.Generator) -> float:
    """Return the chi-square p-value of first decisions against their probabilities; needs discrete decisions.

    `obs` holds the same observation in every row. The first half of the rows chooses which decisions get a bin (rare ones
    share one), the second half is counted; all others share a bin.
    """
    act = policy.act(obs, rng)
    first_BT = act.mask_BT & (torch.arange(act.mask_BT.shape[1], device=act.mask_BT.device) == 0)
    rows = Episodes(obs, act.action, first_BT, None, torch.zeros(len(obs)), torch.zeros(len(obs), dtype=torch.long))
    chosen_B, half = act.action[:, 0], len(obs) // 2
    chance_B = policy.evaluate(rows).logp_BT[:, 0].detach().double().exp()
    chance = {int(token): float(p) for token, p in zip(chosen_B[:half], chance_B[:half], strict=True)}
    counted = Counter(chosen_B[half:].tolist())
    total = len(obs) - half
    expected, observed = [0.0], [0.0]
    for token, p in sorted(
        chance.items(), key=lambda pair: (-pair[1], pair[0])
    ):  # likely ones alone, rare ones together
        if expected[-1] >= EXPECTED_COUNT:
            expected.append(0.0)
            observed.append(0.0)
        expected[-1] += p * total
        observed[-1] += counted[token]
    if expected[-1] < EXPECTED_COUNT:  # what is left of the rarest goes with all that the first half did not see
        del expected[-1], observed[-1]
    if not expected or (len(expected) == 1 and total - expected[0] < EXPECTED_COUNT):
        raise DataError(f"{len(obs)} rows give too few bins for a chi-square test; take more, or a less certain policy")
    rest = total - sum(expected), total - sum(observed)
    if rest[0] >= EXPECTED_COUNT:
        expected, observed = [*expected, rest[0]], [*observed, rest[1]]
    else:  # too rare for a bin of its own
        expected[-1], observed[-1] = expected[-1] + rest[0], observed[-1] + rest[1]
    statistic = sum((seen - due) ** 2 / due for seen, due in zip(observed, expected, strict=True))
    return float(special.chdtrc(len(expected) - 1, statistic))


def reward_sum_error(episodes: Episodes, reward_BT: Tensor, beta: float) -> float:
    """Return max over rows of |sum of shaped rewards - (score - beta * summed log ratio)|, in reward units."""
    shaped_B = shape_reward(reward_BT, episodes, beta).double().sum(1)
    score_B = _on(episodes, reward_BT).double().sum(1)
    return float((shaped_B - (score_B - beta * k1_nats_B(episodes).double())).abs().max())


def misplaced_reward(episodes: Episodes, reward_BT: Tensor) -> float:
    """Return the largest |reward| that does not lie on the last decision of its row."""
    place_T = torch.arange(episodes.mask_BT.shape[1], device=episodes.mask_BT.device)
    last_B = torch.where(episodes.mask_BT, place_T, -1).amax(1)
    return float(torch.where(place_T == last_B[:, None], 0.0, reward_BT).abs().max())


def reward_batch_gap(reward: RewardModel, episodes: Episodes) -> float:
    """Return the largest change of a row's summed reward when it leaves its batch, and its padding, behind."""
    together_B = reward(episodes).sum(1)
    alone = {row: float(reward(trim(episodes.select([row]))).sum()) for row in _shortest(episodes)}
    return max(abs(value - float(together_B[row])) for row, value in alone.items())


def accumulation_error(policy: Policy, episodes: Episodes, parameters: Mapping[str, Tensor]) -> float:
    """Return |gradient in one-row micro-batches - gradient in one batch| / |gradient in one batch|.

    The loss is the mean log-probability, and the mean value where the policy has one. Leaves no gradient behind.

    Raises:
        DataError: the whole gradient is 0, so that nothing was compared.
    """
    whole = _gradient(policy, episodes, parameters, tokens=1 << 40)
    parts = _gradient(policy, episodes, parameters, tokens=1)
    size = _norm(whole.values())
    if not size > 0:
        raise DataError(
            "the gradient of log-probability is 0; expected a policy whose parameters are given and trained"
        )
    return _norm(whole[name] - parts[name] for name in whole) / size


def _gradient(policy: Policy, episodes: Episodes, parameters: Mapping[str, Tensor], tokens: int) -> dict[str, Tensor]:
    for tensor in parameters.values():
        tensor.grad = None
    count = episodes.mask_BT.sum()

    def loss(evaluation: Evaluation, part: Mapping[str, Tensor]) -> Tensor:
        value_BT = 0.0 if evaluation.value_BT is None else evaluation.value_BT
        return masked_sum(evaluation.logp_BT + value_BT, part["mask"] > 0) / count

    accumulate(policy, episodes, {"mask": episodes.mask_BT.float()}, loss, tokens_per_microbatch=tokens)
    found = {name: tensor.grad.double() for name, tensor in parameters.items() if tensor.grad is not None}
    for tensor in parameters.values():
        tensor.grad = None
    return found


def _sampled_logp(episodes: Episodes) -> Tensor:
    if episodes.logp_BT is None:
        raise DataError("the episodes carry no logp_BT: they are demonstrations; expected rows that the policy sampled")
    return episodes.logp_BT


def _on(episodes: Episodes, x_BT: Tensor) -> Tensor:
    return torch.where(episodes.mask_BT, x_BT, torch.zeros_like(x_BT))


def _shortest(episodes: Episodes) -> list[int]:
    return episodes.mask_BT.sum(1).argsort(stable=True)[:ROWS_ALONE].tolist()


def _z(difference_BT: Tensor, episodes: Episodes) -> float:
    """Return the sum of martingale differences over its standard error; 0 where every difference is rounding."""
    difference_BT = _on(episodes, difference_BT).double()
    spread = float((difference_BT**2).sum().sqrt())
    return float(difference_BT.sum()) / max(spread, 1e-4)


def _norm(tensors: Iterable[Tensor]) -> float:
    return float(np.sqrt(sum(float((tensor**2).sum()) for tensor in tensors)))
