"""Rounds of sample, ask, fit, tell: every answer is learned with the level that its reward reached told in front, and the best is asked for.

Two levels are GOOD and BAD. Rows of an update are half the policy's, asked for the best level, and half the reference's; each is told what
it really reached (hindsight), whatever it was asked for. A level is told by a token that stands before the prompt: one of the
vocabulary's last, which in a learned vocabulary are its rarest. Left out: the tuning (`optimise.conditional`).

Shapes: B rows, T decisions.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor

from backflip.data import PAD, Episodes, concat
from backflip.errors import ConfigError
from backflip.loops.asking import close, reread
from backflip.loops.fitting import hear_and_fit
from backflip.loops.improving import Stopwatch, refuse_constant, sample, take_updates
from backflip.loops.parts import Method, Parts, Trained, Training, begin, end_round, stream
from backflip.loops.settings import RewardLearningConfig, reward_work
from backflip.optimise import conditional
from backflip.optimise.conditional import ConditionalConfig, TokenInFront
from backflip.optimise.returns import on_last_decision
from backflip.optimise.scores import apply_rules
from backflip.plan import MethodWork
from backflip.policies.asked import AskedLM
from backflip.policies.lm import LMPolicy
from backflip.rewards.combine import WeightedRewards

if TYPE_CHECKING:
    from backflip.run import Run


@dataclass(frozen=True)
class ConditionalLoopConfig(RewardLearningConfig):
    """Settings of the recipe."""

    lr: float = 3e-4
    """Adam's learning rate."""
    conditional: ConditionalConfig = field(default_factory=ConditionalConfig)
    """Where the levels begin, and the supervised tuning; rewards have mean 0 and deviation 1 on the reference's answers. One edge makes
    BAD and GOOD; more, at quantiles, ask for better and rarer answers."""

    def __post_init__(self) -> None:
        RewardLearningConfig.__post_init__(self)
        if self.episodes % 4:
            raise ConfigError(
                f"episodes is {self.episodes}, expected a multiple of 4: half are the policy's, in pairs, half the reference's"
            )

    @property
    def work(self) -> MethodWork:
        """What the run will do."""
        return reward_work(self, self.conditional.sft.epochs, self.conditional.sft.tokens_per_microbatch)


def train(parts: Parts, config: ConditionalLoopConfig, run: Run) -> Trained:
    """Carry out the recipe, or what is left of it after a kill; logs phases `ask`, `reward`, `conditional`, `check`.

    Raises:
        DataError: a reward is not finite, all rows reached one level, or nobody answered a single question.
    """
    now = begin(parts, config, run)
    now.asked = AskedLM(now.policy, level_tokens(now.policy, config.conditional.top + 1), config.conditional.top)
    told, reward = reread(now.at, run), None
    for _ in range(now.at.round, config.rounds):
        told, reward, rewards = hear_and_fit(parts, told, config, now, run)
        update = partial(tell, parts, rewards, now.asked, now, config)
        take_updates("conditional", update, rewards, parts, now, config, run)
        end_round(now, config.rounds, parts, run)
    return replace(close(told, reward, now, parts, config, run), noise=config.fit.noise)


def tell(
    parts: Parts, rewards: WeightedRewards, asked: AskedLM, now: Training, config: ConditionalLoopConfig
) -> dict[str, float]:
    """Sample from the asked policy and from the reference, score, and learn each row with its level; return the statistics."""
    watch, half = Stopwatch(), config.episodes // 2
    ours = sample(parts, now, half, parts.world.group_size, config)
    others = now.counted(parts.world.collect(now.reference, half, stream(config.seed, "reference", now.at.update)))
    rows = concat([replace(one, value_BT=None) for one in (ours, others)])
    sampled = watch.lap()
    reward_BT, components = rewards.scored(rows)
    score_BT, stats = apply_rules(reward_BT, rows, parts.world.ended_B(rows), config.scores)
    refuse_constant(stats["score_mean"], stats["score_std"])
    if (
        parts.given is not None
    ):  # a learned reward comes with mean 0 and deviation 1 on the reference, to which the edges refer
        score_BT = as_the_reference(score_BT, rows, half)
    scored = watch.lap()
    rng = stream(config.seed, "minibatches", now.at.update)
    stats |= components | conditional.update(asked, now.optimizer, rows, score_BT, config.conditional, rng)
    stats |= {
        "proxy_mean": float(reward_BT[:half].sum(1).mean()),
        "asked_level_fraction": float(
            (conditional.levels(score_BT[:half].sum(1), config.conditional.edges) == asked.level).float().mean()
        ),
        "length_tokens": float(ours.mask_BT.sum(1).float().mean()),
        "lr": now.optimizer.param_groups[0]["lr"],
    }
    return stats | {"seconds_sample": sampled, "seconds_score": scored, "seconds_update": watch.lap()}


def as_the_reference(score_BT: Tensor, rows: Episodes, half: int) -> Tensor:
    """Return scores with mean 0 and deviation 1 over the reference's rows, which are those after the first `half`."""
    score_B = score_BT.sum(1)
    mean, spread = float(score_B[half:].mean()), float(score_B[half:].std(correction=0))
    return on_last_decision((score_B - mean) / (spread or 1.0), rows.mask_BT)


def level_tokens(policy: LMPolicy, levels: int) -> TokenInFront:
    """Return how levels are told: by the last tokens of the vocabulary that begin, end and fill nothing.

    Raises:
        ConfigError: the vocabulary is too small.
    """
    taken = {PAD, policy.pad_id, policy.tokenizer.bos_token_id, *policy.end_tokens}
    free = [token for token in reversed(range(policy.module.vocabulary)) if token not in taken][:levels]
    if len(free) < levels:
        raise ConfigError(
            f"{levels} levels need as many tokens, and the vocabulary has {len(free)} to spare; ask for fewer levels"
        )
    return TokenInFront(tuple(free), after=0)


METHOD = Method("Conditional", ConditionalLoopConfig, train)
