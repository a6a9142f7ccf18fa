"""Contract checks for the four protocols, for whoever writes a policy, a world, a reward model or an overseer.

Each raises AssertionError saying which promise is broken, by how much, and what it costs; call them from your tests:

    from backflip.testing import check_overseer
    def test_my_judge(): check_overseer(MyJudge(store), queries)

Only what the protocols promise is checked, never how good something is.

Shapes: B rows, T decisions, M members of an ensemble.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backflip import invariants
from backflip.data import Episodes, Item, Judgement, Query
from backflip.optimise.step import trim
from backflip.protocols import Overseer, Policy, RewardModel, World

ROUNDING = 1e-4
"""Largest difference, in nats or reward units, that float32 arithmetic in another order explains."""
UNLIKELY_Z = 6.0
"""A z-score that chance gives once in a billion."""


def promise(kept: bool | Tensor, message: str) -> None:
    """Raise AssertionError with this message unless the promise is kept; unlike `assert`, `python -O` keeps it."""
    if not bool(kept):
        raise AssertionError(message)


def check_policy(policy: Policy, obs: Tensor, seed: int = 0) -> None:
    """Check that a policy acts and scores by one distribution, from the given generator alone.

    `obs` is a batch that the policy can act on, best of unlike rows, and of enough rows (64, say) that a sampler which
    draws from another distribution than it scores shows.

    Raises:
        AssertionError: a promise of `backflip.protocols.Policy` is broken.
    """
    before = _global_generators()
    act = policy.act(obs, np.random.default_rng(seed))
    rows, mask_BT = len(obs), act.mask_BT
    promise(
        _global_generators() == before,
        "act moved a global generator; draw from the given one alone, or no run can be repeated",
    )
    promise(mask_BT.dtype == torch.bool and mask_BT.dim() == 2 and len(mask_BT) == rows, "mask_BT must be bool, (B, T)")
    promise(
        act.action.shape[:2] == mask_BT.shape, f"action is {tuple(act.action.shape)}, mask_BT {tuple(mask_BT.shape)}"
    )
    promise(act.logp_BT.shape == mask_BT.shape, "logp_BT must have a number for every decision")
    promise(act.ended_B.shape == (rows,) and act.ended_B.dtype == torch.bool, "ended_B must be bool, one a row")
    promise(mask_BT.any(1).all(), "every row must decide at least once")
    _check_masked("Act.logp_BT", act.logp_BT, mask_BT)
    again = policy.act(obs, np.random.default_rng(seed))
    promise(
        torch.equal(again.mask_BT, mask_BT) and torch.equal(_at(again.action, mask_BT), _at(act.action, mask_BT)),
        "equal generators gave unlike actions; something else is drawn from, or dropout is on",
    )
    device = mask_BT.device
    episodes = Episodes(
        obs,
        act.action,
        mask_BT,
        act.logp_BT,
        torch.zeros(rows, device=device),
        torch.arange(rows, device=device),
        act.value_BT,
    )
    _check_evaluation(policy, episodes)
    _check_kl(policy, episodes)


def _check_evaluation(policy: Policy, episodes: Episodes) -> None:
    evaluation, mask_BT = policy.evaluate(episodes), episodes.mask_BT
    promise(evaluation.logp_BT.requires_grad, "evaluate must return logp_BT with gradients")
    _check_masked("Evaluation.logp_BT", evaluation.logp_BT, mask_BT)
    _check_masked("Evaluation.entropy_BT", evaluation.entropy_BT, mask_BT)
    if evaluation.value_BT is not None:
        _check_masked("Evaluation.value_BT", evaluation.value_BT, mask_BT)
    _check_small(
        invariants.ratio_error(policy, episodes),
        "act and evaluate differ by a ratio of 1 + {}; a temperature left out of one of them, dropout, or padding that matters",
    )
    _check_small(
        invariants.repeat_gap_nats(policy, episodes),
        "evaluating twice differs by {} nats; dropout is on, or it draws",
        limit=0.0,
    )
    _check_small(
        invariants.batch_gap_nats(policy, episodes),
        "a row alone and the same row in its batch differ by {} nats; padding or its neighbours matter",
    )
    z = invariants.sampling_z(policy, episodes)
    promise(
        abs(z) <= UNLIKELY_Z,
        f"mean log-probability is {z:.1f} standard errors from minus the entropy: what is sampled is not what is scored",
    )


def _check_kl(policy: Policy, episodes: Episodes) -> None:
    kl_BT = policy.kl_BT(policy, episodes)
    promise(kl_BT.shape == episodes.mask_BT.shape, "kl_BT must have a number for every decision")
    promise(not kl_BT.requires_grad, "kl_BT is a measurement: no gradient")
    _check_small(float(kl_BT.abs().max()), "the KL of the policy with itself is {} nats, not 0")


def check_world(world: World, policy: Policy, rows: int = 6, seed: int = 0) -> None:
    """Check that a world gives the rows asked for, shows them, rebuilds them, and goes on where it was saved.

    `rows` must be a number of rows that the world can give (a multiple of its group size).

    Raises:
        AssertionError: a promise of `backflip.protocols.World` is broken.
    """
    episodes = world.collect(policy, rows, np.random.default_rng(seed))
    promise(len(episodes) == rows, f"collect was asked for {rows} rows and gave {len(episodes)}")
    promise(episodes.logp_BT is not None, "collected rows must carry logp_BT, under the policy that acted")
    promise(episodes.mask_BT.any(1).all(), "every collected row must hold a decision")
    promise(episodes.group_B.dtype == torch.int64, "group_B must be int64")
    items = world.show(episodes)
    promise(len(items) == rows, f"show gave {len(items)} items for {rows} rows")
    _check_items_rebuild(world, policy, episodes, items)
    state = json.loads(json.dumps(world.state_dict()))
    ahead = [world.collect(policy, rows, np.random.default_rng(seed + 1)) for _ in range(2)]
    world.load_state_dict(state)
    for expected in ahead:
        again = world.collect(policy, rows, np.random.default_rng(seed + 1))
        promise(
            _same_rows(again, expected),
            "after load_state_dict the world gave other rows; state_dict leaves something out",
        )


def _check_items_rebuild(world: World, policy: Policy, episodes: Episodes, items: Sequence[Item]) -> None:
    """Check `load(show(e)) = e` through JSON, by content and by what the policy thinks of it."""
    read = [replace(item, payload=_through_json(item)) for item in items]
    for order in (list(range(len(items))), list(range(len(items)))[::-1]):
        loaded = world.load([read[row] for row in order])
        promise(len(loaded) == len(items), f"load gave {len(loaded)} rows for {len(items)} items")
        shown = [item.id for item in world.show(loaded)]
        promise(shown == [items[row].id for row in order], "show(load(items)) gives other items, or another order")
        mine, theirs = (policy.evaluate(part).logp_BT.detach().sum(1) for part in (loaded, episodes.select(order)))
        _check_small(
            float((mine - theirs).abs().max()),
            "load(show(e)) is scored {} nats otherwise than e; the payload leaves out something that a model reads",
        )


def _through_json(item: Item) -> dict[str, Any]:
    try:
        payload = json.loads(json.dumps(dict(item.payload)))
    except TypeError as error:
        raise AssertionError(f"an item's payload is not JSON ({error}); the store could not keep it") from error
    promise(
        payload == dict(item.payload),
        "an item's payload changes when it goes through JSON: no tuples, no keys but text",
    )
    return payload


def check_reward_model(reward: RewardModel, episodes: Episodes, *, last_only: bool = False) -> None:
    """Check that a reward lies on decisions and that no row's reward depends on its batch.

    `last_only` is what text promises: nothing but the last decision of a row has a reward. Episodes best have unlike lengths.

    Raises:
        AssertionError: a promise of `backflip.protocols.RewardModel` is broken.
    """
    reward_BT = reward(episodes)
    promise(reward_BT.shape == episodes.mask_BT.shape, f"reward is {tuple(reward_BT.shape)}, expected (B, T)")
    promise(not reward_BT.requires_grad, "a reward must carry no gradient")
    _check_masked("reward_BT", reward_BT, episodes.mask_BT)
    _check_small(
        float((reward(episodes) - reward_BT).abs().max()), "scoring twice differs by {}; dropout is on", limit=0.0
    )
    _check_small(
        invariants.reward_batch_gap(reward, episodes),
        "a row alone and the same row in its batch differ by {}; padding or its neighbours matter",
    )
    if last_only:
        _check_small(
            invariants.misplaced_reward(episodes, reward_BT),
            "a reward of {} lies beside the last decision of its row",
            limit=0.0,
        )
    members: Any = getattr(reward, "members", None)
    if members is not None:
        members_MBT = members(episodes)
        promise(members_MBT.dim() == 3 and members_MBT.shape[1:] == reward_BT.shape, "members must return (M, B, T)")
        promise(members_MBT.isfinite().all(), "a member's reward is not finite")


def check_overseer(
    overseer: Overseer, queries: Sequence[Query], *, wait: float = 0.0, swaps: bool = False, since: int = 0
) -> list[Judgement]:
    """Check that an overseer takes questions once, and answers each of them in the common form. Returns the answers.

    `wait` is how many seconds it may take to the next answer. `swaps`: the overseer has neither noise nor a liking for a
    place, so asking a pair the other way round must turn its answer round. `since` is the cursor before these questions.

    Raises:
        AssertionError: a promise of `backflip.protocols.Overseer` is broken.
    """
    promise(overseer.ask(queries) is None, "ask returns nothing and at once; answers come later")  # pyright: ignore[reportUnnecessaryComparison] that is the promise
    found, cursor = _all_answers(overseer, since, len(queries), wait)
    asked = {query.id: query for query in queries}
    promise({judgement.query_id for judgement in found} <= set(asked), "an answer names a query that was not asked")
    missing = len(asked) - len({judgement.query_id for judgement in found})
    promise(
        missing == 0, f"{missing} of {len(asked)} queries got no answer; could not judge is answer=None with a note"
    )
    for judgement in found:
        _check_judgement(judgement, asked[judgement.query_id])
    promise(
        overseer.answers(cursor, 0.0) == ([], cursor),
        "nothing new was judged, yet answers after the cursor are not empty",
    )
    again, _ = _all_answers(overseer, since, len(queries), wait)
    promise(again == found, "the same cursor must always give the same answers, or a resumed run hears others")
    overseer.ask(queries)
    promise(
        overseer.answers(cursor, 0.0)[0] == [],
        "asking the same queries again gave new answers; ask is idempotent by id",
    )
    if swaps:
        _check_swaps(overseer, queries, found, cursor, wait)
    return found


def _check_swaps(
    overseer: Overseer, queries: Sequence[Query], found: Sequence[Judgement], cursor: int, wait: float
) -> None:
    pairs = [query for query in queries if query.kind == "compare"]
    answer = {judgement.query_id: judgement.answer for judgement in found}
    swapped = [replace(query, items=query.items[::-1]) for query in pairs]
    overseer.ask(swapped)
    turned = {
        judgement.query_id: judgement.answer for judgement in _all_answers(overseer, cursor, len(swapped), wait)[0]
    }
    for query, other in zip(pairs, swapped, strict=True):
        said, now = answer[query.id], turned.get(other.id)
        promise(
            (said is None and now is None) or (said is not None and now == said[::-1]),
            f"a pair judged {said} was judged {now} the other way round; answer[i] belongs to item i as stored",
        )


def _check_judgement(judgement: Judgement, query: Query) -> None:
    if judgement.answer is None:
        promise(judgement.note != "", "answer=None needs a note that says why")
        return
    wanted = 1 if query.kind in ("rate", "write") else len(query.items)
    promise(
        len(judgement.answer) == wanted, f"a {query.kind} answer needs {wanted} numbers, got {len(judgement.answer)}"
    )


def _all_answers(overseer: Overseer, since: int, count: int, wait: float) -> tuple[list[Judgement], int]:
    """Read answers until there are `count`, or none comes within `wait` seconds."""
    found: list[Judgement] = []
    while len(found) < count:
        new, cursor = overseer.answers(since, wait)
        if not new:
            break
        promise(cursor > since, f"the cursor went from {since} to {cursor} although there were answers; it must grow")
        found, since = found + new, cursor
    return found, since


def _check_masked(name: str, x_BT: Tensor, mask_BT: Tensor) -> None:
    promise(x_BT.shape == mask_BT.shape, f"{name} is {tuple(x_BT.shape)}, expected {tuple(mask_BT.shape)} as mask_BT")
    promise(x_BT[mask_BT].isfinite().all(), f"{name} is not finite at a decision")
    promise((x_BT[~mask_BT] == 0).all(), f"{name} is not 0 where the mask is False, so padding could change a sum")


def _check_small(value: float, message: str, limit: float = ROUNDING) -> None:
    promise(value <= limit, message.format(f"{value:.3g}"))


def _global_generators() -> list[list[int]]:
    numpys: Any = np.random.get_state(legacy=False)
    return [torch.get_rng_state().tolist(), numpys["state"]["key"].tolist(), [numpys["state"]["pos"]]]


def _at(action: Tensor, mask_BT: Tensor) -> Tensor:
    return action[mask_BT]


def _same_rows(one: Episodes, other: Episodes) -> bool:
    one, other = trim(one), trim(other)
    return (
        torch.equal(one.mask_BT, other.mask_BT)
        and torch.equal(one.obs, other.obs)
        and torch.equal(_at(one.action, one.mask_BT), _at(other.action, other.mask_BT))
        and torch.equal(one.group_B, other.group_B)
    )
