"""The reward model alone, on Atari: can points that nobody may see be read off pictures, from comparisons of clips?

Clips come from players that follow written rules (`policies/scripted`); a teacher who knows the points says in which of two clips more were
gained; an ensemble of convolutional networks learns that from 84 by 84 grey pictures with the score blacked out. What it is worth is
measured on clips of other games, beside null baselines. Left out: learning to play.

Shapes: N clips or comparisons.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from backflip.data import Item, Query
from backflip.errors import ConfigError
from backflip.experiments import experiment
from backflip.loops.parts import stream
from backflip.measures.agreement import accuracy
from backflip.measures.atari_truth import AtariTruth, clip_correlation, points_of
from backflip.measures.clip_truth import kept_truth
from backflip.measures.stats import mean_interval, wilson
from backflip.overseers.synthetic import SyntheticTeacher, teacher
from backflip.policies.scripted import players
from backflip.rewards.clips import ClipFit
from backflip.rewards.comparisons import Comparison, comparisons
from backflip.rewards.fit import Rows
from backflip.rewards.pixel_baselines import pixel_baseline_deltas
from backflip.rewards.pixels import PixelFitConfig, PixelRewards
from backflip.worlds.atari import AtariWorld
from backflip.worlds.atari_clips import write_atari_film
from backflip.worlds.atari_games import find_game
from backflip.worlds.control import cut

if TYPE_CHECKING:
    from backflip.run import Run

QUESTION = "In which clip were more points gained?"
SHOWN = 3
"""Held-out pairs that are filmed: the first ones, whatever they show."""


@dataclass(frozen=True)
class AtariRewardConfig:
    """Settings of the reward model on Atari."""

    seed: int = 0
    """Of everything random."""
    game: Literal["pong", "enduro"] = "pong"
    """Which game; its players are written down in `policies/scripted`."""
    clip_steps: int = 25
    """Decisions of a clip, 15 a second (Christiano et al. 2017, A.2)."""
    decisions: int = 1500
    """Decisions of each player from which clips to learn from are cut, in two games at once; as many of other games for those held out."""
    comparisons: int = 400
    """Questions put to the teacher, ties among them."""
    held_out_comparisons: int = 200
    """Questions on clips of other games, that are only measured."""
    teacher: Literal["oracle", "mistake", "flipped", "coin"] = "oracle"
    """How the synthetic teacher errs (Lee et al. 2021). Equal points are a tie whoever answers but the coin."""
    rounds: int = 3
    """Fits one after the other, each going on from the last; the L2 penalty is steered after each."""
    fit: PixelFitConfig = field(
        default_factory=lambda: PixelFitConfig(first_steps=60, steps=60, batch=16, dropout=0.2, every=4)
    )
    """The fit of the reward. `held_out` of the learned comparisons steer the penalty."""

    def __post_init__(self) -> None:
        for name in ("clip_steps", "comparisons", "held_out_comparisons", "rounds"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected 1 or more")
        if self.decisions < 4 * self.clip_steps:
            raise ConfigError(
                f"decisions is {self.decisions}; expected at least four clips of {self.clip_steps} from every player"
            )


@experiment(config=AtariRewardConfig)
def main(config: AtariRewardConfig, run: Run) -> None:
    """Learn the points of Pong or Enduro from comparisons of clips with the score blacked out: the reward model alone."""
    world = AtariWorld(config.game, environments=1, steps=config.clip_steps, threads=1)
    truth = kept_truth(AtariTruth(find_game(config.game)), run.store, f"points in {config.game}")
    rules = teacher(config.teacher, seed=config.seed)
    # half a point: points are whole numbers, so equal ones are a tie and not a toss
    overseer = SyntheticTeacher(run.store, truth, rules if config.teacher == "coin" else replace(rules, equal=0.5))
    with run.progress.phase("play games and ask about clips"):
        pairs = ask(overseer, "learned", config.comparisons, config, run)
        held = ask(overseer, "held out", config.held_out_comparisons, config, run)
    kept = round(config.fit.held_out * len(pairs))
    reward = PixelRewards(config.fit, stream(config.seed, "reward"))
    fit_rounds(reward, world, (pairs[kept:], pairs[:kept]), config, run)
    with run.progress.phase("measure on held-out games"):
        rows, held_rows = Rows.of(world, pairs[kept:]), Rows.of(world, held)
        reward.measure_normaliser(rows.episodes)
        score_N = reward(held_rows.episodes).sum(1).double().numpy()
    items = {item.id: item for pair in held for item in (pair.first, pair.second)}
    true_N = points_of(truth, list(items.values()))
    write_results(score_N, true_N, rows, held_rows, run)
    write_films(held, score_N, held_rows, run)
    ties = sum(pair.share == 0.5 for pair in pairs)
    run.result(
        "cost",
        {
            "comparisons": len(pairs),
            "ties": ties,
            "judge": f"synthetic teacher ({config.teacher})",
            "seconds": run.seconds,
            "seconds_by_phase": run.progress.seconds_by_phase,
        },
    )
    run.estimate("decisive_comparisons", wilson(len(pairs) - ties, len(pairs)))


def ask(overseer: SyntheticTeacher, use: str, count: int, config: AtariRewardConfig, run: Run) -> list[Comparison]:
    """Let every player play games of its own, cut clips, pair them at random across players, and ask; return the answers in order."""
    items: list[Item] = []
    everybody = players(config.game, 1)
    share = -(-2 * count // len(everybody))
    for place, name in enumerate(everybody):
        rng = stream(config.seed, f"play: {use}", place)
        world = AtariWorld(
            config.game, environments=2, steps=config.decisions // 2, seed=int(rng.integers(2**31)), threads=1
        )
        rows = world.collect(players(config.game, world.actions)[name], 2, rng)
        items += world.show(cut(rows, config.clip_steps, share, rng))
    rng = stream(config.seed, f"pairs: {use}")
    pairs = rng.permutation(len(items))[: 2 * count].reshape(-1, 2).tolist()
    queries = [
        Query((items[a], items[b]), QUESTION, order=((0, 1), (1, 0))[int(turned)])
        for (a, b), turned in zip(pairs, rng.integers(0, 2, count), strict=True)
    ]
    overseer.ask(queries)
    asked = {query.id: query for query in queries}
    judged = {one.query_id: one for one in overseer.answers(0)[0] if one.query_id in asked}
    return comparisons(queries, [judged[key] for key in asked])[0]


def fit_rounds(
    reward: PixelRewards,
    world: AtariWorld,
    pairs: tuple[list[Comparison], list[Comparison]],
    config: AtariRewardConfig,
    run: Run,
) -> None:
    """Fit on the first of `pairs`, steering by the second; each round can be resumed from."""
    fit = ClipFit(reward, config.fit)
    if (saved := run.load_state()) is not None:
        reward.load_state_dict(saved["reward"])
        fit.load_state_dict(saved["fit"])
    with run.progress.phase(f"learn from {len(pairs[0])} comparisons", config.rounds) as bar:
        bar.advance(fit.fits)
        while fit.fits < config.rounds:
            stats = fit(world, *pairs, stream(config.seed, "fit", fit.fits))
            run.log(fit.fits, "reward", **stats)
            run.save_state(f"fit {fit.fits}", {"reward": reward.state_dict(), "fit": fit.state_dict()})
            bar.advance(1, accuracy=stats["accuracy"])


def write_results(score_N: np.ndarray, true_N: np.ndarray, rows: Rows, held: Rows, run: Run) -> None:
    """Measure the reward on held-out clips beside the null baselines, and write the estimates."""
    first_N, second_N, share_N = held.first_B.numpy(), held.second_B.numpy(), held.share_B.numpy()
    right = accuracy(score_N[first_N] - score_N[second_N], share_N)
    baselines = {name: accuracy(delta, share_N) for name, delta in pixel_baseline_deltas(rows, held).items()}
    found = clip_correlation(score_N, true_N)
    run.estimate("reward_model_accuracy", right)
    run.estimate("clip_correlation", found)
    run.estimate("held_out_decisive", wilson(float((share_N != 0.5).sum()), len(share_N)))
    run.estimate("points_a_clip", mean_interval(true_N))
    for name, estimate in baselines.items():
        run.estimate(f"{name}_accuracy", estimate)
    counts = {f"{value:+.0f}": int((true_N == value).sum()) for value in np.unique(true_N)}
    predicted = {
        f"{value:+.0f}": mean_interval(score_N[true_N == value])
        for value in np.unique(true_N)
        if (true_N == value).sum() > 1
    }
    run.result("reward_model", {"accuracy": right, "baselines": baselines})
    run.result("clips", {"points": counts, "predicted_by_points": predicted, "correlation": found})
    best = max(baselines, key=lambda name: baselines[name].value)
    run.note(
        f"right on {right.value:.0%} of {right.n} decisive held-out pairs (best null baseline, {best}: {baselines[best].value:.0%}); "
        f"correlation of predicted and true points {found.value:.2f} over {found.n} clips"
    )


def write_films(held: list[Comparison], score_N: np.ndarray, rows: Rows, run: Run) -> None:
    """Film the first held-out pairs in colour, named by what the reward model prefers and what the teacher said."""
    words = {1.0: "left", 0.0: "right", 0.5: "neither"}
    for place, pair in enumerate(held[:SHOWN]):
        gap = float(score_N[rows.first_B[place]] - score_N[rows.second_B[place]])
        name = f"held-out_pair_{place + 1},_teacher_{words[pair.share]},_reward_{'left' if gap > 0 else 'right'}.mp4"
        write_atari_film([pair.first, pair.second], run.path / "videos" / name)
