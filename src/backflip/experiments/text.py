"""Any language model, any prompts, any overseer, and no gold: the commonest real use.

How far to trust the result is judged by the overseer's own answers: comparisons that the reward model set aside, and blind
comparisons of the policy against the one it started from on prompts that were kept apart.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from backflip.data import Episodes, Estimate, Item, Judgement, Query
from backflip.errors import ConfigError, DataError
from backflip.experiments import experiment
from backflip.experiments.functions import components_of, function_of, higher
from backflip.experiments.methods import load
from backflip.loops.answers import gather
from backflip.loops.parts import Parts, Trained, stream
from backflip.loops.ppo import PPOLoopConfig
from backflip.measures.agreement import set_aside
from backflip.measures.diversity import distinct_n, distinct_ratio, entropy_nats, length_tokens, ngrams
from backflip.measures.kl import kl_columns, kl_nats_per_sequence
from backflip.measures.stats import mean_interval, share_interval, wilson
from backflip.overseers.function import FunctionOverseer
from backflip.overseers.people import PeopleOverseer
from backflip.overseers.recorded import recorded
from backflip.overseers.terminal import TerminalOverseer
from backflip.plan import SECONDS_BY_A_PERSON, Plan
from backflip.policies.best_of import BestOfN
from backflip.policies.checkpoints import read_tokenizer
from backflip.policies.lm import LMConfig, LMPolicy, load_policy
from backflip.protocols import Overseer, Policy, RewardModel
from backflip.rewards.combine import FunctionReward
from backflip.rewards.model import SequenceRewardModel
from backflip.rewards.preference import FunctionPreference
from backflip.worlds.prompts import Prompt, read_prompts
from backflip.worlds.text import TextWorld, answer, pad_left

if TYPE_CHECKING:
    from backflip.run import Run

LOOKED_AT = 128
"""Held-out prompts of a look while training."""


@dataclass(frozen=True)
class Lora:
    """Train low-rank adapters instead of all weights (Hu et al. 2021)."""

    rank: int = 16
    """Rank of what is added to every linear layer."""
    alpha: int = 32
    """Scale: what is added is multiplied by alpha / rank."""


@dataclass(frozen=True)
class Full:
    """Train all weights."""


@dataclass(frozen=True)
class TextTask:
    """Settings of a run on a model, prompts and an overseer of the user's own, whatever the method; the method adds its own."""

    seed: int = 0
    """Of everything random."""
    method: str = "ppo"
    """How the judgements are used; each method has settings of its own (`--method NAME --help`)."""
    wait_seconds: float = float("inf")
    """How long a round waits for answers; those that come later are used in the next round."""
    policy: str = ""
    """Causal language model: a folder, or a hub id. Required."""
    prompts: Path = Path()
    """JSONL with "prompt" or chat "messages", or a text file with a prompt a line. Required."""
    overseer: str = ""
    """Who compares: terminal, people (in the browser: `backflip serve`), or FILE.py:FUNCTION, a function (prompt, a, b) -> probability that a is better, or None. Required
    unless `reward` or `preference` is given, and then asked for the final comparisons alone."""
    reward: str = ""
    """A reward that is known, FILE.py:FUNCTION with a function (prompt, answer) -> number: none is learned. Methods that learn from
    pairs are told which of two answers it scores higher."""
    preference: str = ""
    """A preference that is known, for --method nash_md, and need come from no score: FILE.py:FUNCTION with a function (prompt, a, b) ->
    probability that a is better. None is learned."""
    question: str = "Which answer is better?"
    """What the overseer is asked."""
    sampling: LMConfig = field(default_factory=lambda: LMConfig(max_new_tokens=128, rows=32))
    """How the policy writes."""
    weights: Full | Lora = field(default_factory=Full)
    """What is trained."""
    reward_from: str = ""
    """Model that reward models start from; empty: the policy's own."""
    components: tuple[str, ...] = ()
    """Rewards added to the learned one: NAME=WEIGHT*FILE.py:FUNCTION, a function (prompt, answer) -> number."""
    held_out_share: float = 0.1
    """Share of the prompts, chosen by the hash of their text, that training never sees."""
    final_comparisons: int = 100
    """Blind comparisons of the trained policy against the one it started from, on those prompts."""


@dataclass(frozen=True)
class TextConfig(TextTask, PPOLoopConfig):
    """Settings of such a run with PPO."""

    method: Literal["ppo"] = "ppo"
    """How the judgements are used; each method has settings of its own (`--method NAME --help`)."""


def plan(config: TextConfig) -> Plan:
    """Say what a run needs, before anything is loaded but the model's size."""
    _require(config)
    rank = config.weights.rank if isinstance(config.weights, Lora) else None
    return Plan.for_text(
        config,
        config.policy,
        judgements=config.questions + config.final_comparisons,
        seconds_per_judgement=SECONDS_BY_A_PERSON if config.overseer in ("terminal", "people") else 0.0,
        lora_rank=rank,
    )


@experiment(config=TextConfig, plan=plan, own=TextTask)
def main(config: TextTask, run: Run) -> None:
    """Train any causal language model on an overseer's comparisons, judged by held-out answers of the same overseer."""
    _require(config)
    method = load(config.method)
    if config.components and not method.rewarded:
        raise ConfigError(
            f"--method {config.method} learns from pairs and has no reward to which --components could be added; leave them out, or "
            "let an overseer or --reward say them"
        )
    if config.preference and not method.preferring:
        raise ConfigError(
            f"--method {config.method} takes no preference that is known; take --method nash_md, or give the function as --overseer, which "
            "is asked"
        )
    train_prompts, held_prompts = split_prompts(read_prompts(config.prompts), config.held_out_share)
    teacher, overseer = overseers_of(config, run)
    policy = load_policy(config.policy, config.sampling, lora=_adapters(config), value_head=True)
    base = policy.reference()
    world = TextWorld(train_prompts, policy.tokenizer, group_size=2, seed=config.seed)
    held_out = TextWorld(held_prompts, policy.tokenizer)
    if run.load_state() is None:
        run.checkpoint("base", 0, base.save)
    start = _start(config, policy, base)
    components = components_of(config.components, world)

    def check(now: Policy, reward: RewardModel | None) -> dict[str, float]:
        rows = _answers(held_out, now, stream(config.seed, "look"), LOOKED_AT)
        return {
            **({} if reward is None else {"proxy": float(reward(rows).sum(1).mean())}),
            "kl_nats_per_sequence": kl_nats_per_sequence(now, base, rows).value,
            "length_tokens": length_tokens(rows).value,
        }

    parts = Parts(
        policy=policy,
        world=world,
        overseer=teacher,
        start_reward=lambda rng: SequenceRewardModel.from_causal_lm(start, rng),
        question=config.question,
        components=components,
        given=FunctionReward(function_of(config.reward, "--reward"), world, "--reward") if config.reward else None,
        preference=_preference(config, world),
        check=check,
    )
    trained = method.train(parts, config, run)
    run.checkpoint("policy", trained.updates, trained.policy.save)
    measure(trained, method.title, held_out, overseer, config, run)


def measure(
    trained: Trained, title: str, world: TextWorld, overseer: Overseer, config: TextTask, run: Run
) -> None:  # fmt: skip
    """Write estimates, table, samples and costs; the overseer compares blind and in random order."""
    policy, base, name = trained.policy, trained.reference, config.method
    ours, theirs = (
        _answers(world, who, stream(config.seed, place)) for who, place in ((policy, "held out"), (base, "base"))
    )
    items, base_items = world.show(ours), world.show(theirs)
    judgements = compare(items, base_items, overseer, config, run)
    if (right := set_aside(trained.fits)) is not None:
        run.estimate("preference_model_accuracy" if trained.preference else "reward_model_accuracy", right)
    if trained.preference is not None:
        run.estimate(f"{name}_win_rate_by_preference", share_interval(trained.preference(ours, theirs).numpy()))
    kl = kl_columns(policy, base, ours)
    chosen = isinstance(policy, BestOfN)
    run.estimate(f"{name}_kl_{'bound_nats' if chosen else 'nats_per_sequence'}", kl["kl_nats_per_sequence"])
    if not isinstance(policy, BestOfN):
        run.estimate(f"{name}_entropy_nats", entropy_nats(policy, ours))
    answers, before = [item.content for item in items], [item.content for item in base_items]
    limit = min(sum(len(ngrams(text, 2)) for text in said) for said in (answers, before))
    varied = limit > 0
    if varied:
        run.estimate(f"{name}_distinct2_ratio", distinct_ratio(answers, before))
    else:
        run.note("no answer of one of the policies has two words, so there is no distinct-2")
    scored: list[dict[str, Any]] = [{} for _ in items]
    reward = trained.reward or trained.given
    if reward is not None:
        proxy, base_proxy = (reward(rows).sum(1).tolist() for rows in (ours, theirs))
        run.estimate(f"{name}_proxy", mean_interval(proxy))
        scored = [{"proxy": {"base": was, name: now}} for was, now in zip(base_proxy, proxy, strict=True)]
    nothing = Estimate(0.0, 0.0, 0.0, len(items))
    run.table(
        "table",
        [
            {
                "policy": called,
                **nats,
                **({"distinct2": distinct_n(said, limit=limit)} if varied else {}),
                "length_tokens": length_tokens(rows),
            }
            for called, nats, said, rows in (
                ("base", {"kl_nats_per_sequence": nothing}, before, theirs),
                (title, kl, answers, ours),
            )
        ],
    )
    run.samples(
        [
            {"prompt": item.prompt, "base": old.content, name: item.content, **more}
            for item, old, more in zip(items, base_items, scored, strict=True)
        ]
    )
    write_cost(trained, len(judgements), config, run)


def compare(
    items: list[Item], base_items: list[Item], overseer: Overseer, config: TextTask, run: Run
) -> list[Judgement]:
    """Let the overseer compare the policy's answers with the base's, blind and in drawn order; return the judgements."""
    rng = stream(config.seed, "final order")
    count = min(config.final_comparisons, len(items))
    swapped = rng.permutation(np.arange(count) % 2)
    questions = [
        Query(
            items=(items[k], base_items[k]),
            question=config.question,
            order=((0, 1), (1, 0))[int(swapped[k])],
            reason="final",
        )
        for k in range(count)
    ]
    judgements = gather(overseer, questions, config, run)
    by_question: dict[str, list[float]] = {}
    for one in judgements:
        if one.answer is not None:
            by_question.setdefault(one.query_id, []).append(one.answer[0])
    shares = [float(np.mean(each)) for each in by_question.values()]  # several people may have judged a pair
    if shares:
        run.estimate("win_rate_by_overseer", wilson(sum(shares), len(shares)))
    else:
        run.note("the overseer judged none of the final comparisons, so there is no win rate")
    return judgements


def write_cost(trained: Trained, final_comparisons: int, config: TextTask, run: Run) -> None:
    """Write the cost ledger."""
    run.result(
        "cost",
        {
            trained.judged: trained.counts["judgements"],
            "final_comparisons": final_comparisons,
            "unanswered": trained.counts["unanswered"],
            "ties": trained.counts["ties"],
            "judge": config.reward or config.preference or config.overseer,
            "judge_seconds": sum(j.seconds or 0.0 for j in run.store.judgements(0)[0]),
            "episodes": trained.episodes,
            "tokens_sampled": trained.tokens,
            "disk_bytes": run.disk_bytes(),
            "seconds": run.seconds,
            "seconds_by_phase": run.progress.seconds_by_phase,
        },
    )


def split_prompts(prompts: list[Prompt], held_out_share: float) -> tuple[list[Prompt], list[Prompt]]:
    """Keep a share of the prompts apart by the hash of their text, so that equal prompts fall on one side.

    Raises:
        DataError: nothing would be left to train on, or fewer than two prompts to measure on: one alone has no interval.
    """
    places = [int(hashlib.sha256(prompt.text.encode()).hexdigest()[:12], 16) / 16**12 for prompt in prompts]
    sides = [
        [p for p, place in zip(prompts, places, strict=True) if (place < held_out_share) is kept]
        for kept in (False, True)
    ]
    if not sides[0] or len(sides[1]) < 2:
        raise DataError(
            f"{len(prompts)} prompts with held_out_share {held_out_share} leave {len(sides[0])} to train on and {len(sides[1])} "
            "to measure on, expected at least 1 and 2; give more prompts, or another share"
            + (
                f" ({len(set(places))} of them differ, and equal ones stay together)"
                if len(set(places)) < len(places)
                else ""
            )
        )
    return sides[0], sides[1]


def overseers_of(config: TextTask, run: Run) -> tuple[Overseer, Overseer]:
    """Return who judges what is learned from, and who judges the final comparisons: one and the same, unless a reward is given.

    Raises:
        ConfigError: a setting names none.
    """
    if not (config.reward or config.preference):
        found = overseer_of(config.overseer, run)
        return found, found
    if config.reward and config.preference:
        raise ConfigError("--reward and --preference both say what is better; give one of them")
    if config.preference:
        judge = function_of(config.preference, "--preference")
    else:
        judge = higher(function_of(config.reward, "--reward"))
    kind = "reward" if config.reward else "preference"
    by_score = FunctionOverseer(run.store, judge, name=config.reward or config.preference, kind=kind)
    return by_score, overseer_of(config.overseer, run) if config.overseer else by_score


def overseer_of(text: str, run: Run) -> Overseer:
    """Return the overseer that a setting names. There is no default judge.

    Raises:
        ConfigError: it names none.
    """
    if (again := recorded(run.path, run.store)) is not None:
        return again
    if text == "terminal":
        return TerminalOverseer(run.store)
    if text == "people":
        return PeopleOverseer(run.store)
    return FunctionOverseer(run.store, function_of(text, "--overseer", "terminal, people or "), name=text)


def _answers(world: TextWorld, policy: Policy, rng: np.random.Generator, limit: int | None = None) -> Episodes:
    prompts = world.tokens[:limit]
    return answer(policy, pad_left(prompts), torch.arange(len(prompts)), rng)


def _preference(config: TextTask, world: TextWorld) -> FunctionPreference | None:
    if not config.preference:
        return None
    return FunctionPreference(function_of(config.preference, "--preference"), world, "--preference")


def _start(config: TextTask, policy: LMPolicy, base: LMPolicy) -> Any:
    """Return what reward models start from; a model of the user's choice must read the policy's tokens."""
    if not config.reward_from:
        # with LoRA the reference is the policy's own module, adapters off: a copy without them is what can be copied from
        return base.standalone() if isinstance(config.weights, Lora) else base.module.plain
    if read_tokenizer(config.reward_from).get_vocab() != policy.tokenizer.get_vocab():
        raise ConfigError(
            f"the tokenizer of --reward-from {config.reward_from} differs from that of the policy {config.policy}, whose tokens a "
            "reward model reads; start from a model with the same tokenizer, or leave the option out"
        )
    return config.reward_from


def _adapters(config: TextTask) -> Any:
    if isinstance(config.weights, Full):
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=config.weights.rank, lora_alpha=config.weights.alpha, target_modules="all-linear", task_type="CAUSAL_LM"
    )


def _require(config: TextTask) -> None:
    missing = [
        name
        for name, given in (
            ("--policy", config.policy),
            ("--prompts", config.prompts != Path()),
            ("--overseer (or --reward)", config.overseer or config.reward or config.preference),
        )
        if not given
    ]
    if missing:
        raise ConfigError(
            f"this run needs {' and '.join(missing)}; e.g. backflip run text --policy ./model --prompts prompts.jsonl --overseer terminal"
        )
