"""Rounds of sample, ask, fit, improve: comparisons make a reward model, and PPO a better policy.

The whole recipe stands here. What it leaves out: where prompts, policy and overseer come from, and what the result is
worth (the experiment). It can be killed at any moment: everything random is a function of the seed and of where in the
recipe it is drawn, and the state is saved at the start of every round, after every fit, and every `save_every` updates.

Shapes: B rows, T decisions.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from backflip.data import Episodes, Item, Query
from backflip.errors import ConfigError, DataError
from backflip.loops.answers import gather, person_weights, what_weighting_changed, write_asked, write_weighting
from backflip.loops.stop import StopRules, stopped
from backflip.memory import give_back
from backflip.optimise import ppo
from backflip.optimise.kl import FixedKL, KLControl, k1_nats_B, shape_reward
from backflip.optimise.ppo import PPOConfig
from backflip.optimise.scores import ScoreRules, apply_rules
from backflip.optimise.step import evaluate_all
from backflip.overseers.recorded import RecordedOverseer
from backflip.policies.lm import LMPolicy
from backflip.protocols import Overseer, RewardModel, World
from backflip.rewards.combine import WeightedRewards
from backflip.rewards.comparisons import Comparison, comparisons
from backflip.rewards.ensemble import RewardEnsemble, fit_ensemble
from backflip.rewards.fit import FitConfig, Rows
from backflip.rewards.model import SequenceRewardModel
from backflip.store.lineage import Lineage, judgement_id

if TYPE_CHECKING:
    from backflip.run import Run


@dataclass(frozen=True)
class PPOLoopConfig:
    """Settings of the recipe."""

    seed: int = 0
    """Of everything random."""
    rounds: int = 1
    """Rounds of sample, ask, fit, improve; the comparisons and updates are shared among them."""
    comparisons: int = 2000
    """Questions put to the overseer, over all rounds."""
    wait_seconds: float = float("inf")
    """How long a round waits for answers; those that come later are used in the next round."""
    members: int = 3
    """Reward models in the ensemble."""
    fit: FitConfig = field(default_factory=FitConfig)
    """The fit of each of them."""
    weigh_people: bool = True
    """Whether answers of people count in the fit by how often they seem to be right (docs/labeling.md)."""
    normalise_on: int = 512
    """Answers of the reference policy on which rewards get mean 0 and standard deviation 1."""
    updates: int = 60
    """PPO updates, over all rounds."""
    episodes: int = 128
    """Answers sampled for each update."""
    lr: float = 3e-4
    """Adam's learning rate."""
    adam_eps: float = 1e-5
    """Adam's epsilon (Ziegler et al. 2019)."""
    decay: bool = True
    """Whether the learning rate falls linearly to 0 over the updates."""
    ppo: PPOConfig = field(default_factory=PPOConfig)
    """The update."""
    kl: KLControl = field(default_factory=FixedKL)
    """The leash to the policy that was started from."""
    scores: ScoreRules = field(default_factory=lambda: ScoreRules(missing_end="replace"))
    """What happens to scores before the KL penalty."""
    stop: StopRules = field(default_factory=StopRules)
    """When to stop early."""
    check_every: int = 10
    """Updates between looks at held-out prompts."""
    save_every: int = 10
    """Updates between saved states."""

    def __post_init__(self) -> None:
        for name in ("rounds", "comparisons", "members", "updates", "episodes", "check_every", "save_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected 1 or more")
        if not (0 < self.lr < float("inf") and 0 <= self.adam_eps < float("inf") and self.wait_seconds >= 0):
            raise ConfigError(
                f"lr is {self.lr}, adam_eps {self.adam_eps}, wait_seconds {self.wait_seconds}; expected a finite lr above 0, a "
                "finite adam_eps of 0 or more, and wait_seconds of 0 or more"
            )
        if self.normalise_on < 2:
            raise ConfigError(f"normalise_on is {self.normalise_on}, expected 2 or more answers: one has no spread")
        if min(self.questions, self.updates) < self.rounds:
            raise ConfigError(f"{self.rounds} rounds need as many comparisons and updates; raise them, or lower rounds")

    @property
    def questions(self) -> int:
        """Questions put to the overseer over all rounds, as far as the stop rule lets."""
        return min(self.comparisons, self.stop.judgements or self.comparisons)


class PairWorld(World, Protocol):
    """A world whose rows come in pairs from one prompt, and which can say whether a row ended by itself."""

    group_size: int

    def ended_B(self, episodes: Episodes) -> torch.Tensor:
        """Return True for rows that the policy ended."""
        ...


@dataclass(frozen=True)
class Parts:
    """What the recipe is applied to."""

    policy: LMPolicy
    """Improved in place."""
    world: PairWorld
    """Training prompts."""
    overseer: Overseer
    start_reward: Callable[[np.random.Generator], SequenceRewardModel]
    """Makes a fresh reward model, its head drawn from the generator."""
    question: str
    """What the overseer is asked."""
    components: Mapping[str, tuple[float, RewardModel]] = field(default_factory=dict[str, tuple[float, RewardModel]])
    """Rewards with their weights that are added to the learned one (weight 1), and logged apart."""
    check: Callable[[LMPolicy, RewardModel], dict[str, float]] | None = None
    """A look at held-out prompts; may cost, never teaches."""


@dataclass(frozen=True)
class Trained:
    """What came of it, and what it cost."""

    reward: RewardEnsemble
    fits: list[dict[str, float]]
    """Statistics of each member's fit, among them its accuracy on comparisons that it set aside."""
    pairs: list[Comparison]
    """What the last reward was fitted on, comparisons set aside among them."""
    counts: dict[str, int]
    """judgements, unanswered, ties."""
    reference: LMPolicy
    episodes: int
    """Answers sampled, for questions and for updates."""
    tokens: int


@dataclass
class Position:
    """How far the recipe has come; part of the saved state."""

    round: int = 0
    fitted: bool = False
    update: int = 0
    asked: list[str] = field(default_factory=list[str])
    """Ids of the questions so far: the store may hold those of other runs too."""
    asked_at: list[int] = field(default_factory=list[int])
    """In which round each of them was asked first."""
    heard: list[str] = field(default_factory=list[str])
    """Ids of the judgements that the last reward was fitted to, in the order of the questions."""
    weight: dict[str, float] = field(default_factory=dict[str, float])
    """What each person's answers weighed in that fit; empty where all weighed the same."""
    rewards: list[str] = field(default_factory=list[str])
    """Ids of the reward models so far, as their lineage has them."""
    episodes: int = 0
    tokens: int = 0
    fits: list[dict[str, float]] = field(default_factory=list[dict[str, float]])


def stream(seed: int, name: str, *place: int) -> np.random.Generator:
    """Return the generator for one place in the recipe: the same in every process, apart from all others."""
    return np.random.default_rng([seed, zlib.crc32(name.encode()), *place])


def train(parts: Parts, config: PPOLoopConfig, run: Run) -> Trained:
    """Carry out the recipe, or what is left of it after a kill; logs phases `ask`, `reward`, `ppo`, `check`.

    Raises:
        DataError: sampling and scoring disagree, a reward is not finite, or nobody answered a single question.
    """
    policy, world = parts.policy, parts.world
    reference = policy.reference()
    optimizer = torch.optim.Adam(policy.module.parameters(), lr=config.lr, eps=config.adam_eps)
    at, kl = Position(), config.kl
    if (saved := run.load_state()) is not None:
        at, kl = Position(**saved["at"]), replace(config.kl, beta=saved["beta"])
        policy.module.load_state_dict(saved["policy"])
        optimizer.load_state_dict(saved["optimizer"])
        world.load_state_dict(saved["world"])

    def save() -> None:
        run.save_state(
            f"round {at.round}, update {at.update}",
            {
                "at": vars(at),
                "beta": kl.beta,
                "policy": policy.module.state_dict(),
                "optimizer": optimizer.state_dict(),
                "world": world.state_dict(),
            },
        )

    questions: list[Query] = []
    reward: RewardEnsemble | None = None
    pairs: list[Comparison] = []
    counts: dict[str, int] = {}
    for number in range(config.rounds):
        if number < at.round or (number == at.round and at.fitted):  # answered before a kill: read it again
            known = run.store.queries_by_id(at.asked)
            questions = [known[query_id] for query_id in at.asked]
            told = run.store.judgements_by_id(at.heard)
            pairs, counts = comparisons(questions, [told[one] for one in at.heard], at.weight)
            if number < at.round:
                continue
            reward = RewardEnsemble.load(run.path / "checkpoints" / f"reward_model-{number}")
        else:
            # -- sample and ask ------------------------------------------------------------------------------------
            new = next_questions(parts, config, at, run)
            # a policy that repeats itself makes the same question twice: it is asked, and counts, once
            questions = list({query.id: query for query in [*questions, *new]}.values())
            answers = gather(parts.overseer, questions, config, run)
            judges = {one.judge for one in answers}
            at.weight = person_weights(run.store, judges, parts.overseer) if config.weigh_people else {}
            pairs, counts = comparisons(questions, answers, at.weight)
            run.log(number, "ask", **{name: float(value) for name, value in counts.items()})
            # -- fit ---------------------------------------------------------------------------------------------------
            reward, at.fits = fit_reward(parts, pairs, config, run, number)
            with run.progress.phase("normalise the reward", total=config.normalise_on) as bar:
                probe = world.collect(reference, config.normalise_on, stream(config.seed, "normalise", number))
                reward.measure_normaliser(probe, reference.hash())
                bar.advance(config.normalise_on)
            if at.weight and number + 1 == config.rounds:
                changed = _weighting_changed(parts, comparisons(questions, answers)[0], reward, at.fits, config, run)
                write_weighting(run, at.weight, [one.judge for one in answers if one.answer is not None], changed)
            run.checkpoint("reward_model", number, lambda folder, fitted=reward: fitted.save(folder, policy.tokenizer))
            at.asked_at += [number] * (len(questions) - len(at.asked))
            at.asked, at.heard = [query.id for query in questions], [judgement_id(one) for one in answers]
            at.fitted = True
            taught = [one for one in answers if one.answer is not None]
            made = Lineage(run.store).add_reward(run.id, f"reward_model-{number}", taught, time.time())
            at.rewards = [*at.rewards, made]
            save()
        # -- improve -----------------------------------------------------------------------------------------------------
        reward.check_reference(reference.hash())
        rewards = WeightedRewards({"learned": (1.0, reward), **parts.components})
        last = sum(share(config.updates, config.rounds, k) for k in range(number + 1))
        with run.progress.phase(f"improve the policy, round {number + 1} of {config.rounds}", total=last) as bar:
            bar.advance(at.update)
            if parts.check and at.update == 0:  # where every curve begins: the policy that was started from
                run.log(0, "check", **parts.check(policy, rewards))
            while at.update < last:
                for group in optimizer.param_groups:
                    group["lr"] = config.lr * (1 - at.update / config.updates if config.decay else 1.0)
                stats, kl = improve(parts, rewards, reference, optimizer, kl, config, at)
                at.update += 1
                run.log(at.update, "ppo", **stats)
                bar.advance(1, proxy=stats["proxy_mean"], kl_nats=stats["kl_nats_per_sequence"])
                stop = stopped(stats, config.stop, run.seconds)
                if parts.check and (stop or at.update % config.check_every == 0 or at.update == last):
                    give_back()
                    run.log(at.update, "check", **parts.check(policy, rewards))
                if stop:
                    run.note(f"stopped improving at update {at.update}: {stop}")
                    at.update = last
                if at.update % config.save_every == 0 and at.update < last:
                    save()
        at.round, at.fitted = number + 1, False
        if at.round < config.rounds:
            save()
    if reward is None:
        raise DataError("the run holds no reward model although it is past its last round; start a new run")
    Lineage(run.store).add_policy(run.id, "policy", at.rewards, time.time())
    run.store.expire(at.asked)  # what is still open would teach nothing any more
    write_asked(run, at.asked, at.asked_at, config.rounds)
    return Trained(reward, at.fits, pairs, counts, reference, at.episodes, at.tokens)


def improve(
    parts: Parts,
    rewards: WeightedRewards,
    reference: LMPolicy,
    optimizer: torch.optim.Optimizer,
    kl: KLControl,
    config: PPOLoopConfig,
    at: Position,
) -> tuple[dict[str, float], KLControl]:
    """Sample, score, and update once; return the statistics and the KL weight for the next update."""
    started = time.perf_counter()
    rows = parts.world.collect(parts.policy, config.episodes, stream(config.seed, "ppo", at.update))
    sampled = time.perf_counter()
    tokens_at_once = config.ppo.tokens_per_microbatch
    rows = replace(rows, ref_logp_BT=evaluate_all(reference, rows, tokens_per_microbatch=tokens_at_once).logp_BT)
    reward_BT, components = rewards.scored(rows)
    score_BT, stats = apply_rules(reward_BT, rows, parts.world.ended_B(rows), config.scores)
    kl_B = k1_nats_B(rows)
    scored = time.perf_counter()
    stats |= ppo.update(
        parts.policy,
        optimizer,
        rows,
        shape_reward(score_BT, rows, kl.beta),
        config.ppo,
        stream(config.seed, "minibatches", at.update),
    )
    at.episodes, at.tokens = at.episodes + len(rows), at.tokens + int(rows.mask_BT.sum())
    stats |= components | {
        "proxy_mean": stats.pop("score_mean"),
        "proxy_std": stats.pop("score_std"),
        "kl_nats_per_sequence": float(kl_B.mean()),
        "kl_standard_error_nats": float(kl_B.std()) / len(kl_B) ** 0.5,
        "length_tokens": float(rows.mask_BT.sum(1).float().mean()),
        "ended_fraction": 1.0 - stats["missing_end_fraction"],
        "beta": kl.beta,
        "lr": optimizer.param_groups[0]["lr"],
        "seconds_sample": sampled - started,
        "seconds_score": scored - sampled,
        "seconds_update": time.perf_counter() - scored,
    }
    return stats, kl.after(stats["kl_nats_per_sequence"], len(rows))


def fit_reward(
    parts: Parts, pairs: Sequence[Comparison], config: PPOLoopConfig, run: Run, number: int, phase: str = "reward"
) -> tuple[RewardEnsemble, list[dict[str, float]]]:
    """Fit a fresh ensemble on every comparison so far."""
    if not pairs:
        raise DataError(
            "nobody answered a single question, so there is nothing to fit; ask more, or wait longer (--wait-seconds)"
        )
    rngs = [stream(config.seed, "fit", number, member) for member in range(config.members)]

    def report(member: int, stats: dict[str, float]) -> None:
        run.log(int(stats["epoch"]), phase, round=float(number), member=float(member), **stats)
        bar.advance(1, **{name: stats[name] for name in ("loss", "held_out_accuracy") if name in stats})

    with run.progress.phase(
        f"fit {config.members} reward models on {len(pairs)} comparisons", config.members * config.fit.epochs
    ) as bar:
        fitted: list[tuple[SequenceRewardModel, dict[str, float]]] = []
        for member in fit_ensemble(parts.start_reward, parts.world, pairs, config.fit, rngs, report):
            fitted.append(member)
            give_back()
    return RewardEnsemble([model for model, _ in fitted]), [stats for _, stats in fitted]


def next_questions(parts: Parts, config: PPOLoopConfig, at: Position, run: Run) -> list[Query]:
    """Sample answers of the policy and pair them up; in a run that repeats an earlier one, return what was asked there up to this round.

    It samples all the same: which prompts come next, and so what PPO sees, depends on it.
    """
    asked = share(config.questions, config.rounds, at.round)
    with run.progress.phase("sample answers to compare", total=2 * asked) as bar:
        rows = parts.world.collect(parts.policy, 2 * asked, stream(config.seed, "sample", at.round))
        at.episodes, at.tokens = at.episodes + len(rows), at.tokens + int(rows.mask_BT.sum())
        new = pair_up(parts.world.show(rows), parts.question, stream(config.seed, "order", at.round))
        bar.advance(2 * asked)
    return parts.overseer.come_up(at.round, config.rounds) if isinstance(parts.overseer, RecordedOverseer) else new


def _weighting_changed(
    parts: Parts,
    pairs: Sequence[Comparison],
    reward: RewardEnsemble,
    fits: Sequence[Mapping[str, float]],
    config: PPOLoopConfig,
    run: Run,
) -> dict[str, float]:
    """Fit the last reward once more, everybody weighing the same, and return how the two differ on all comparisons."""
    equal, equal_fits = fit_reward(parts, pairs, config, run, config.rounds - 1, phase="reward_equal")
    rows = Rows.of(parts.world, pairs)
    deltas = [
        np.mean([rows.delta_B(model).float().cpu().numpy() for model in one.models], 0) for one in (reward, equal)
    ]
    found = what_weighting_changed(*deltas)
    for name, each in (("weighted", fits), ("equal", equal_fits)):
        known = [one["held_out_accuracy"] for one in each if "held_out_accuracy" in one]
        found |= {f"held_out_accuracy_{name}": float(np.mean(known))} if known else {}
    return found


def pair_up(items: Sequence[Item], question: str, rng: np.random.Generator) -> list[Query]:
    """Make a question of every two items in a row; which is shown first is drawn, half and half exactly."""
    count = len(items) // 2
    swapped = rng.permutation(np.arange(count) % 2)
    orders = ((0, 1), (1, 0))
    return [
        Query(items=(items[2 * k], items[2 * k + 1]), question=question, order=orders[int(swapped[k])])
        for k in range(count)
    ]


def share(total: int, rounds: int, number: int) -> int:
    """Return what round `number` gets of `total`; shares differ by one at most and add up."""
    return total * (number + 1) // rounds - total * number // rounds
