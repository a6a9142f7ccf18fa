"""What a run of `overoptimisation` will need, counted from its settings.

No experiment. Left out: what a run of `reviews` needs (`backflip.plan`), and the fits of laws, which take seconds.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from backflip.experiments.overoptimisation_proxies import Cell, jobs_of
from backflip.experiments.reviews_answers import PROMPT_TOKENS
from backflip.plan import Plan, Shape, Speeds, Work, measure_flops, plan, shape_of
from backflip.policies.checkpoints import pick_device
from backflip.policies.smaller import size_of
from backflip.worlds import reviews

if TYPE_CHECKING:
    from backflip.experiments.overoptimisation import OveroptimisationConfig


def overoptimisation_plan(config: OveroptimisationConfig) -> Plan:
    """Estimate a run; measures the machine for a moment.

    A reward model is fitted to its comparisons once or more, and then scores the whole pool.
    """
    shape = shape_of(reviews.assets() / "base")
    flops = measure_flops(pick_device(config.sampling.device))
    speeds = Speeds.of(shape, flops, config.sampling.rows)
    row_tokens = PROMPT_TOKENS + config.sampling.max_new_tokens
    pool = config.openings * config.pool
    jobs = jobs_of(config)
    passes = {cell: multiplied(cell, shape) / shape.parameters for cell in config.cells}
    compared = sum(passes[cell] * 2 * cell.labels for cell, _, _ in jobs) * config.fit.epochs
    scored = sum(passes[cell] for cell, _, _ in jobs) * pool
    labels = config.seeds * max(config.labels)
    pushed = pushing(config, shape, speeds)
    return replace(
        pushed,
        seconds={
            "sample the pool and pairs": (pool + 2 * labels)
            * config.sampling.max_new_tokens
            / speeds.sampled_tokens_per_second,
            f"fit {len(jobs)} proxies": compared * row_tokens / speeds.updated_tokens_per_second,
            "score the pool by each": scored * row_tokens / speeds.scored_tokens_per_second,
        }
        | {f"PPO: {name}": value for name, value in pushed.seconds.items() if value},
        comparisons=labels,
    )


def multiplied(cell: Cell, base: Shape) -> float:
    """Return the weights that a proxy of this size multiplies a token by: embeddings are looked up, and its head is one number."""
    layers, width = size_of(cell.size)
    a_layer = (base.parameters - base.vocabulary * base.hidden) / base.layers
    return layers * a_layer * (width / base.hidden) ** 2


def pushing(config: OveroptimisationConfig, shape: Shape, speeds: Speeds) -> Plan:
    """Estimate the runs of PPO, one after another; reward models count as large as the base."""
    how = config.push
    runs = config.seeds * len(config.pushed)
    looks = how.updates // how.every + 1
    members = [1 if one.rule == "single" else config.members for one in config.pushed_proxies]
    work = Work(
        sampled=runs * how.updates * how.episodes,
        updated=runs * how.updates * how.episodes,
        passes=how.ppo.epochs,
        prompt_tokens=PROMPT_TOKENS,
        answer_tokens=config.sampling.max_new_tokens,
        rows=config.sampling.rows,
        longest_tokens=2 * PROMPT_TOKENS + config.sampling.max_new_tokens,
        tokens_per_microbatch=how.ppo.tokens_per_microbatch,
        comparisons=0,
        measured=runs * looks * config.openings * how.copies,
        reward_models=max(members, default=1),
        reward_epochs=0.0,
    )
    return plan(shape, work, speeds)
