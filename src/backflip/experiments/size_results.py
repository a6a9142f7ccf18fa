"""What came out of `size`: who wins how often, where a supervised model draws level, and the figure.

No experiment. Left out: the runs (`size`).

Shapes: W sizes, S seeds, K openings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from backflip.data import Estimate, Item
from backflip.errors import DataError
from backflip.experiments.compare_parts import BASE, POLICY, Contestant
from backflip.experiments.reviews_answers import Gold
from backflip.measures.gold import gold_scores
from backflip.measures.head_to_head import duels_of_shares
from backflip.measures.paired import FEWEST_SEEDS
from backflip.measures.stats import mean_interval, share_interval
from backflip.measures.win_rate import wins
from backflip.run_record import read_run

if TYPE_CHECKING:
    from backflip.run import Run

PREDICTED = (
    "stated before: P1, at its own size the supervised model wins less than half against the preference-trained one; refuted if the interval of that "
    "share lies above 50 %. P2, the multiplier is above 2; refuted if its interval lies wholly below 2"
)
SMALL = "ppo_small"
"""The arm of the smallest base, trained on preferences."""
Answered = list[dict[str, tuple[str, str]]]
"""By seed and opening: the base's answer, and the trained policy's."""
Floats = NDArray[np.float64]


def answers_by_seed(folders: Sequence[Path]) -> Answered:
    """Return what the base and the policy of each run answered to the held-out openings.

    Raises:
        DataError: a run stored no answers.
    """
    found: Answered = []
    for folder in folders:
        record = read_run(folder)
        base, policy = (Contestant(folder.name, record, series).stored() for series in (BASE, POLICY))
        said = {prompt: (base[prompt], answer) for prompt, answer in policy.items()}
        if not said:
            raise DataError(f"{folder} stored no answers; restore its samples.jsonl, or run it anew")
        found.append(said)
    return found


def shares_of(
    arms: Sequence[Answered], other: Answered, gold: Gold, whose: Literal["answer", "base"]
) -> NDArray[np.float64]:
    """Return what each arm won of `other` by the gold judge, (W, S, K); ties one half. `whose`: the policies', or their bases' answers.

    Bases against bases meet with answers of different seeds: the arm's own against the next seed's, since equal policies say the same
    under one seed.
    """
    place = 1 if whose == "answer" else 0
    seeds = len(other)
    prompts = sorted(set.intersection(*(set(said) for arm in (*arms, other) for said in arm)))

    def scored(said: Mapping[str, tuple[str, str]]) -> Floats:
        return gold_scores(gold, [Item(prompt, said[prompt][place], {}) for prompt in prompts])

    theirs = [scored(said) for said in other]
    turn = 0 if whose == "answer" else 1
    return np.array([[wins(scored(arm[s]), theirs[(s + turn) % seeds]) for s in range(seeds)] for arm in arms])


def crossings(share_WS: Floats, ratio_W: Floats) -> list[float | None]:
    """Return, for each seed, how many times as large the supervised model is that wins one half; None where that lies beyond the sizes.

    Linear in the logarithm of the size between the first size that wins one half or more and the one before it. 1 or less is
    beyond them too: the smallest wins already.
    """
    found: list[float | None] = []
    for share_W in share_WS.T:
        above = np.flatnonzero(share_W >= 0.5)
        if not len(above) or above[0] == 0:
            found.append(None)
            continue
        at = int(above[0])
        part = (0.5 - share_W[at - 1]) / (share_W[at] - share_W[at - 1])
        low, high = np.log(ratio_W[at - 1]), np.log(ratio_W[at])
        found.append(float(np.exp(low + part * (high - low))))
    return found


def write_shares(
    supervised_WSK: Floats, untrained_WSK: Floats, hidden: Sequence[int], weights: Sequence[int], run: Run
) -> None:
    """Write every share with its interval over seeds, in words too; the duels over openings stand in the table."""
    rng = np.random.default_rng(0)
    duels = duels_of_shares({(0, at + 1): supervised_WSK[at].mean(0) for at in range(len(hidden))}, rng)
    rows: list[dict[str, Any]] = []
    for at, (width, count) in enumerate(zip(hidden, weights, strict=True)):
        share, control = (share_interval(one[at].mean(-1)) for one in (supervised_WSK, untrained_WSK))
        run.estimate(f"sft_{width}_win_rate_over_small_ppo", share)
        run.estimate(f"base_{width}_win_rate_over_small_base", control)
        rows.append(
            {
                "policy": f"sft, {count:,} weights",
                "weights": count,
                "win_rate_over_small_ppo": share,
                "base_win_rate_over_small_base": control,
                "p_over_openings": duels[at].p_of_all,
            }
        )
        if share.low <= 0.5 <= share.high:
            run.note(
                f"sft of {count:,} weights wins {share.value:.1%} ({share.low:.1%} to {share.high:.1%}) of the small ppo: {share.n} seeds "
                "cannot tell the two apart"
            )
    run.table("sizes", rows)


def write_multiplier(crossing_S: Sequence[float | None], supervised_WSK: Floats, ratio_W: Floats, run: Run) -> None:
    """Write the multiplier with its interval, or that it lies beyond the range measured, and what became of both predictions."""
    run.result("crossings", {"by_seed": list(crossing_S), "times_as_large": ratio_W.tolist()})
    share_WS = supervised_WSK.mean(-1)
    first, last = share_interval(share_WS[0]), share_interval(share_WS[-1])
    run.note(PREDICTED)
    run.note(
        f"P1, at its own size the supervised model wins less than half: {_verdict(first.low > 0.5, first.high < 0.5)}"
    )
    known = [one for one in crossing_S if one is not None]
    if len(known) == len(crossing_S):
        log = mean_interval(np.log(known))
        found = Estimate(*(float(np.exp(one)) for one in (log.value, log.low, log.high)), n=log.n)
        run.estimate("size_multiplier", found)
        few = "" if log.n >= FEWEST_SEEDS else f"; {log.n} seeds are few"
        run.note(f"P2, the multiplier is above 2: {_verdict(found.high < 2, found.low > 2)}{few}")
        return
    sides = {_side(one, share_W) for one, share_W in zip(crossing_S, share_WS.T, strict=True)}
    where = " and ".join(sorted(sides & {"above", "below"}))
    run.note(
        f"the multiplier lies beyond the range measured in {len(crossing_S) - len(known)} of {len(crossing_S)} seeds ({where} 1 to {ratio_W[-1]:.1f} "
        f"times): the largest supervised model, {ratio_W[-1]:.1f} times as large, wins {last.value:.1%} ({last.low:.1%} to {last.high:.1%}) "
        f"of the small preference-trained one, that of its own size {first.value:.1%} ({first.low:.1%} to {first.high:.1%}); so no number is given, "
        f"and P2 is {_beyond(sides, first, last)}"
    )


def _side(crossing: float | None, share_W: Floats) -> str:
    """Return where one seed's multiplier lies: "below" the sizes or "above" them, or between them "within 2" or "past 2"."""
    if crossing is None:
        return "below" if share_W[0] >= 0.5 else "above"
    return "within 2" if crossing <= 2 else "past 2"


def _beyond(sides: set[str], first: Estimate, last: Estimate) -> str:
    """Return what becomes of P2 where some multiplier has no number: an interval decides, and no seed may gainsay it."""
    if sides <= {"below", "within 2"} and first.low > 0.5:
        found = "refuted"
    elif sides <= {"above", "past 2"} and last.high < 0.5:
        found = "not refuted"
    else:
        return f"not decided: {first.n} seeds cannot tell"
    return found if first.n >= FEWEST_SEEDS else f"{found}; {first.n} seeds are few"


def _verdict(refuted: bool, held: bool) -> str:
    return "refuted" if refuted else "not refuted" if held else "these seeds cannot tell"


def figure_of(supervised_WSK: Floats, untrained_WSK: Floats, ratio_W: Floats) -> dict[str, Any]:
    """Return the figure: shares won against the size."""
    series: list[dict[str, Any]] = []
    named = {
        "supervised, over the small preference-trained": supervised_WSK,
        "untrained, over the small untrained": untrained_WSK,
    }
    for name, share_WSK in named.items():
        means = [share_interval(share_SK.mean(-1)).as_json() for share_SK in share_WSK]
        series.append({"name": name, "x": ratio_W.tolist(), "estimates": means})
    series.append({"name": "one half", "x": [1.0, float(ratio_W[-1])], "y": [0.5, 0.5]})
    return {
        "size": {
            "title": "How often a larger model wins",
            "caption": "Share of held-out openings whose answer the gold judge prefers, mean over seeds with its 95 % interval. Where the "
            "supervised curve crosses one half is the size multiplier.",
            "x": {"label": "Times as many weights as the smallest", "unit": "number"},
            "y": {"label": "Share won", "unit": "share"},
            "series": series,
        }
    }
