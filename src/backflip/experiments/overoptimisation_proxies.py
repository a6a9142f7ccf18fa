"""The pool of base answers, and the proxies that score it: reward models of several sizes on several numbers of noisy labels.

The pool is sampled once and scored once by gold and by every proxy; all curves of best-of-n come of it. Left out: PPO (`overoptimisation_rl`)
and what is made of the scores (`overoptimisation_results`).

Shapes: K openings, N answers an opening, M members of an ensemble, T decisions, B rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from backflip.checkpoint import load_tensors, save_tensors
from backflip.data import PAD, Episodes, Judgement, concat
from backflip.errors import ConfigError, DataError
from backflip.experiments.reviews_answers import QUESTION, Gold
from backflip.loops.answers import answers_to
from backflip.loops.asking import pair_up
from backflip.loops.parts import stream
from backflip.measures.gold import gold_scores
from backflip.memory import give_back
from backflip.overseers.synthetic import SyntheticTeacher
from backflip.policies.lm import LMPolicy
from backflip.policies.smaller import size_of, smaller
from backflip.rewards.comparisons import Comparison, comparisons
from backflip.rewards.ensemble import EnsembleRule, Mean, RewardEnsemble, Uncertain, Worst
from backflip.rewards.fit import fit
from backflip.rewards.model import Normaliser, SequenceRewardModel
from backflip.store.lineage import Lineage
from backflip.worlds.text import TextWorld, answer, pad_left

if TYPE_CHECKING:
    from backflip.experiments.overoptimisation import OveroptimisationConfig
    from backflip.run import Run

Floats = NDArray[np.float64]
SPARE = 20
"""One pair in so many, and so many pairs besides, are sampled beyond the labels wanted: a pair that comes up twice is one question."""
RULES = ("single", "mean", "worst", "uncertain")


@dataclass(frozen=True)
class Cell:
    """A kind of proxy: the size of its reward model and how many labels it is fitted to."""

    size: str
    labels: int

    @property
    def name(self) -> str:
        """What it is called in files and tables."""
        return f"{self.size}_{self.labels}"

    @property
    def title(self) -> str:
        """What it is called in words."""
        return f"{self.size}, {self.labels:,} labels"


def cell_of(text: str) -> Cell:
    """Read SIZE/LABELS.

    Raises:
        ConfigError: it is none.
    """
    size, slash, labels = text.partition("/")
    size_of(size)
    if not slash or not labels.isdigit() or int(labels) < 1:
        raise ConfigError(f'"{text}" is no proxy; expected SIZE/LABELS, such as 1x64/300')
    return Cell(size, int(labels))


@dataclass(frozen=True)
class Pushed:
    """A proxy that PPO is let loose on: one reward model, or the ensemble by a rule."""

    cell: Cell
    rule: str = "single"

    @property
    def name(self) -> str:
        """What it is called in files and tables."""
        return self.cell.name + ("" if self.rule == "single" else f"_{self.rule}")

    @property
    def title(self) -> str:
        """What it is called in words."""
        return self.cell.title + ("" if self.rule == "single" else f", {self.rule} of the ensemble")


def pushed_of(text: str) -> Pushed:
    """Read SIZE/LABELS or SIZE/LABELS/RULE.

    Raises:
        ConfigError: it is none.
    """
    size, _, rest = text.partition("/")
    labels, slash, rule = rest.partition("/")
    if slash and rule not in RULES:
        raise ConfigError(f'"{rule}" is no rule of an ensemble; expected one of {", ".join(RULES)}')
    return Pushed(cell_of(f"{size}/{labels}"), rule if slash else "single")


def rule_of(name: str, weight: float) -> EnsembleRule:
    """Return the rule of this name; `weight` is that of the uncertain one's variance."""
    return {"single": Mean(), "mean": Mean(), "worst": Worst(), "uncertain": Uncertain(weight)}[name]


@dataclass(frozen=True)
class Pool:
    """Answers of the base to held-out openings, with what gold says of them."""

    rows: Episodes
    gold_KN: Floats
    openings: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """(K, N)."""
        openings, answers = self.gold_KN.shape
        return openings, answers


def read_pool(base: LMPolicy, world: TextWorld, gold: Gold, config: OveroptimisationConfig, run: Run) -> Pool:
    """Return the pool, sampled and scored now or before a kill; keeps `checkpoints/pool-0`."""
    found = run.checkpoints("pool")
    tokens = world.tokens[: config.openings]
    openings = tuple(prompt.text for prompt in world.prompts[: config.openings])
    prompts = pad_left([prompt for prompt in tokens for _ in range(config.pool)])
    group_B = torch.arange(config.openings).repeat_interleave(config.pool)
    if found:
        kept = load_tensors(found[0] / "rows")
        action_BT = kept["action"].long()
        rows = Episodes(prompts, action_BT, action_BT != PAD, None, torch.zeros(len(prompts)), group_B)
        return Pool(rows, kept["gold"].numpy(), openings)
    parts: list[Episodes] = []
    with run.progress.phase("sample and judge the pool", config.openings) as bar:
        for number, prompt in enumerate(tokens):
            rng = stream(config.seed, "pool", number)
            group = torch.full((config.pool,), number)
            parts.append(answer(base, pad_left([prompt] * config.pool), group, rng))
            bar.advance(1)
        rows = concat(parts)
        gold_KN = gold_scores(gold, world.show(rows)).reshape(config.openings, config.pool)
    tree = {"action": rows.action.to(torch.int32), "gold": torch.from_numpy(gold_KN), "openings": list(openings)}
    run.checkpoint("pool", 0, lambda folder: save_tensors(folder / "rows", tree))
    return Pool(rows, gold_KN, openings)


@dataclass(frozen=True)
class Labels:
    """What the teacher of one seed said; a proxy on n labels gets the first n."""

    pairs: list[Comparison]
    judgements: list[Judgement]
    asked: list[str]
    """Ids of the questions."""


def ask_for_labels(
    seed: int, base: LMPolicy, teacher: SyntheticTeacher, config: OveroptimisationConfig, run: Run, asked: list[str]
) -> Labels:
    """Return one seed's labels: of pairs of fresh base answers to training openings, by a teacher who errs.

    `asked`: the ids of the questions, where they were asked before a kill.
    """
    if asked:
        known = run.store.queries_by_id(asked)
        queries = [known[one] for one in asked]
    else:
        world = TextWorld(config.train_openings(), base.tokenizer, group_size=2, seed=seed)
        wanted = max(config.labels)
        rows = world.collect(base, 2 * (wanted + wanted // SPARE + SPARE), stream(seed, "sample for labels"))
        queries = pair_up(world.show(rows), QUESTION, stream(seed, "order"))
        # Pairs that another seed drew too are asked anew: its teacher's answer is not this one's.
        queries = [replace(query, repeat=seed - config.seed) for query in queries]
        queries = list({query.id: query for query in queries}.values())[:wanted]
        teacher.ask(queries)
    told = [one for one in run.store.judgements(0)[0] if one.judge == teacher.name]
    judgements = answers_to(queries, told)
    pairs, counts = comparisons(queries, judgements)
    if not asked:
        run.log(seed, "ask", **{name: float(value) for name, value in counts.items()})
    return Labels(pairs, judgements, [query.id for query in queries])


def check_labels(pairs: list[Comparison], cell: Cell) -> None:
    """Refuse labels of which nothing can be learned.

    Raises:
        DataError: there are too few, or all of them are ties.
    """
    if len(pairs) < cell.labels:
        raise DataError(f"{len(pairs)} comparisons were answered, proxy {cell.name} needs {cell.labels}; ask for more")
    if all(pair.share == 0.5 for pair in pairs):
        raise DataError(
            f"all {cell.labels} comparisons of proxy {cell.name} are ties, so nothing can be learned from them; ask other ones"
        )


def fit_proxy(
    place: tuple[Cell, int, int], base: LMPolicy, labels: Labels, pool: Pool, config: OveroptimisationConfig, run: Run
) -> dict[str, float]:
    """Fit the proxy at `place` (cell, seed, member), score the pool by it, keep both; return statistics of the fit.

    Raises:
        DataError: its comparisons teach nothing, or it says the same of every answer.
    """
    cell, seed, member = place
    pairs = labels.pairs[: cell.labels]
    check_labels(pairs, cell)
    layers, width = size_of(cell.size)
    key = layers * 100_000 + width
    lm = smaller(base.module.plain, layers, width, stream(seed, "weights", key, member))
    model = SequenceRewardModel.from_causal_lm(lm, stream(seed, "head", key, cell.labels, member))
    world = TextWorld(config.train_openings(), base.tokenizer)
    began = time.perf_counter()
    stats = fit(model, world, pairs, config.fit, stream(seed, "fit", key, cell.labels, member), [])
    fitted = time.perf_counter()
    raw_B = model.score_B(pool.rows)
    reference = base.hash()
    model.normaliser = Normaliser(float(raw_B.mean()), float(raw_B.std(correction=0)), len(raw_B), reference)
    scored = time.perf_counter()
    name = proxy_name(*place)
    score_KN = model.normalise(raw_B).reshape(pool.shape)
    run.checkpoint(f"scores_{name}", 0, lambda folder: save_tensors(folder / "scores", {"score": score_KN}))
    if cell in {pushed.cell for pushed in config.pushed_proxies}:
        run.checkpoint(f"proxy_{name}", 0, lambda folder: model.save(folder / "model"))
    Lineage(run.store).add_reward(run.id, name, labels.judgements[: cell.labels], time.time())
    give_back()
    return {
        "loss": stats["loss"],
        "training_accuracy": stats.get("accuracy", 0.5),
        "parameters": float(sum(weight.numel() for weight in model.module.parameters())),
        "seconds_fit": fitted - began,
        "seconds_score": scored - fitted,
    }


def proxy_name(cell: Cell, seed: int, member: int) -> str:
    """Return what one reward model is called in files."""
    return f"{cell.name}_seed{seed}_member{member}"


def read_scores(run: Run, cell: Cell, seed: int, members: int) -> torch.Tensor:
    """Return the normalised scores of a proxy's first members on the pool, (M, K, N)."""
    names = [f"scores_{proxy_name(cell, seed, member)}" for member in range(members)]
    return torch.stack([load_tensors(run.checkpoints(name)[0] / "scores")["score"] for name in names])


def read_reward(run: Run, pushed: Pushed, seed: int, config: OveroptimisationConfig) -> RewardEnsemble:
    """Return a pushed proxy as the reward that PPO maximises."""
    members = 1 if pushed.rule == "single" else config.members
    folders: list[Path] = [run.checkpoints(f"proxy_{proxy_name(pushed.cell, seed, m)}")[0] for m in range(members)]
    models = [SequenceRewardModel.load(folder / "model") for folder in folders]
    return RewardEnsemble(models, rule_of(pushed.rule, config.uncertainty))


def jobs_of(config: OveroptimisationConfig) -> list[tuple[Cell, int, int]]:
    """Return every reward model to be fitted, (cell, seed, member), seed after seed: what is there early is a whole grid."""
    return [
        (cell, seed, member)
        for seed in config.seed_numbers
        for cell in config.cells
        for member in range(config.members if cell == config.ensemble_cell else 1)
    ]


def fit_all(
    base: LMPolicy,
    pool: Pool,
    teacher_of: Callable[[int], SyntheticTeacher],
    config: OveroptimisationConfig,
    run: Run,
    state: dict[str, Any],
) -> Mapping[str, dict[str, float]]:
    """Do what is left of the labels and fits, saving after each; return the statistics of all."""
    asked, fitted = state["asked"], state["fitted"]
    jobs = jobs_of(config)
    labels: dict[int, Labels] = {}
    with run.progress.phase(
        f"fit {len(jobs)} proxies and score {pool.gold_KN.size:,} answers by each", len(jobs)
    ) as bar:
        for cell, seed, member in jobs:
            name = proxy_name(cell, seed, member)
            if name not in fitted:
                if seed not in labels:
                    known = asked.get(str(seed), [])
                    labels[seed] = ask_for_labels(seed, base, teacher_of(seed), config, run, known)
                    asked[str(seed)] = labels[seed].asked
                fitted[name] = fit_proxy((cell, seed, member), base, labels[seed], pool, config, run)
                run.log(
                    len(fitted),
                    "fit",
                    labels=float(cell.labels),
                    seed=float(seed),
                    member=float(member),
                    **fitted[name],
                )
                run.save_state(f"fitted {name}", state)
            bar.advance(1, proxy=cell.name)
    return fitted
