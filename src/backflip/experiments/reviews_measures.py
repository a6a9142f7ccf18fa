"""What the main job measures on held-out openings, and how it writes it down: `experiments/reviews` uses it at the end.

Shapes: K openings, N answers an opening, P pairs of an opening, M members of the ensemble, B rows, T decisions.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text
from scipy.special import expit

from backflip.data import Episodes, Estimate
from backflip.experiments.reviews_answers import OPPONENTS, QUESTION, Answers, Proxy, texts
from backflip.loops.asking import pair_up
from backflip.loops.parts import Trained, stream
from backflip.measures.agreement import accuracy, ceiling, set_aside
from backflip.measures.best_of_n import best_of_n, kl_bound_nats
from backflip.measures.calibration import Calibration, calibration
from backflip.measures.diversity import distinct_n, distinct_ratio, entropy_nats, length_tokens, ngrams, repetition
from backflip.measures.kl import kl_columns
from backflip.measures.stats import mean_interval, share_interval
from backflip.measures.win_rate import wins
from backflip.overseers.synthetic import SyntheticTeacher
from backflip.overseers.terminal import visible
from backflip.policies.best_of import BestOfN
from backflip.protocols import Overseer
from backflip.rewards.baselines import baseline_deltas, fit_bag_of_words
from backflip.rewards.comparisons import Comparison, comparisons
from backflip.worlds import reviews

if TYPE_CHECKING:
    from backflip.experiments.reviews import ReviewsTask
    from backflip.run import Run

PRINTED = 3
"""Openings whose answers are printed at the end; all are in the run folder."""


def write_table(
    found: Answers, trained: Trained, title: str, config: ReviewsTask, run: Run
) -> list[dict[str, Any]]:  # fmt: skip
    """Measure base, best-of-n (where a reward chooses) and the policy alike; write table, curve and estimates; return the table's rows."""
    n, count, name = found.candidates, len(found.items), config.method
    won_KN = wins(found.base_gold_KN[:, :n, None], found.opponents_KN[:, None, :]).mean(-1)
    first = found.base_rows.select([k * (n + OPPONENTS) for k in range(count)])
    base_texts, our_texts = texts([row[0] for row in found.base_items]), texts(found.items)
    chosen = isinstance(trained.policy, BestOfN)
    best = None if found.proxy is None or chosen else _best_of_n(found, found.proxy, won_KN)
    # distinct-2 falls with the amount of text: all are looked at equally far
    said = [base_texts, our_texts, *([best.texts] if best else [])]
    limit = min(sum(len(ngrams(text, 2)) for text in each) for each in said)
    kl = kl_columns(trained.policy, trained.reference, found.rows)
    entropy = {} if isinstance(trained.policy, BestOfN) else {"entropy_nats": entropy_nats(trained.policy, found.rows)}
    rows: list[dict[str, Any]] = [
        {
            "policy": "base",
            "gold_win_rate": share_interval(won_KN.mean(1)),
            "kl_nats_per_sequence": Estimate(0.0, 0.0, 0.0, count),
            "entropy_nats": entropy_nats(trained.reference, first),
            **_form(base_texts, first, limit),
        },
        *([best.row | _form(best.texts, best.rows, limit)] if best else []),
        {
            "policy": title,
            "gold_win_rate": share_interval(wins(found.gold_K[:, None], found.opponents_KN).mean(1)),
            **kl,
            **entropy,
            **_form(our_texts, found.rows, limit),
        },
    ]
    run.table("table", rows)
    if found.proxy is not None:
        run.result("best_of_n", _chosen_curve(found, found.proxy, won_KN, rows[0]["gold_win_rate"]))
    estimates = {
        f"{name}_gold_win_rate": rows[-1]["gold_win_rate"],
        **({"bon_gold_win_rate": best.row["gold_win_rate"]} if best else {}),
        "base_gold_win_rate": rows[0]["gold_win_rate"],
        f"{name}_gold": mean_interval(found.gold_K),
        "base_gold": mean_interval(found.opponents_KN.mean(1)),
        f"{name}_kl_{'bound_nats' if chosen else 'nats_per_sequence'}": kl["kl_nats_per_sequence"],
        f"{name}_distinct2_ratio": distinct_ratio(our_texts, base_texts),
        **{f"{name}_{measure}": value for measure, value in entropy.items()},
        f"{name}_length_ratio": _ratio(length_tokens(found.rows), length_tokens(first)),
        **({f"{name}_proxy": mean_interval(found.proxy.ours_K)} if found.proxy else {}),
    }
    if chosen and found.proxy is not None:
        worst = best_of_n(found.proxy.base_KN[:, :n], won_KN, n, worst=True)
        estimates |= {
            f"{name}_gold_win_rate_of_the_worst": worst,
            f"{name}_gold_win_rate_of_the_mean": rows[0]["gold_win_rate"],
        }
    for each, estimate in estimates.items():
        run.estimate(each, estimate)
    return rows


@dataclass(frozen=True)
class _Best:
    """What best-of-n takes."""

    row: dict[str, Any]
    texts: list[str]
    rows: Episodes


def _best_of_n(found: Answers, proxy: Proxy, won_KN: NDArray[np.float64]) -> _Best:
    n = found.candidates
    bound = kl_bound_nats(n)
    row: dict[str, Any] = {
        "policy": f"best of {n}",
        "gold_win_rate": best_of_n(proxy.base_KN[:, :n], won_KN, n),
        "kl_nats_per_sequence": Estimate(bound, bound, bound, len(found.items)),
        "kl_is_bound": True,
    }
    picked = [k * (n + OPPONENTS) + choice for k, choice in enumerate(proxy.chosen)]
    said = texts([row[choice] for row, choice in zip(found.base_items, proxy.chosen, strict=True)])
    return _Best(row, said, found.base_rows.select(picked))


def _chosen_curve(found: Answers, proxy: Proxy, won_KN: NDArray[np.float64], mean: Estimate) -> list[dict[str, Any]]:
    """Return for n = 1, 2, 4, ... what the answer that the proxy likes best of n is worth, and the one it likes least."""
    n = found.candidates
    proxy_KN, gold_KN = proxy.base_KN[:, :n], found.base_gold_KN[:, :n]
    return [
        {
            "n": k,
            "kl_bound_nats": kl_bound_nats(k),
            "gold": best_of_n(proxy_KN, gold_KN, k),
            "gold_win_rate": best_of_n(proxy_KN, won_KN, k),
            "gold_win_rate_worst": best_of_n(proxy_KN, won_KN, k, worst=True),
            "gold_win_rate_mean": mean,
            "proxy": best_of_n(proxy_KN, proxy_KN, k),
        }
        for k in (2**i for i in range(n.bit_length()))
    ]


def write_reward_model(
    found: Answers, trained: Trained, overseer: Overseer, config: ReviewsTask, run: Run
) -> dict[str, Estimate]:
    """Measure the reward model, where there is one, on pairs of the base's answers to held-out openings, beside its null baselines.

    Returns what is worth printing, by what it is.
    """
    human = gold_judge(run)
    if found.proxy is None:
        return write_preference(found, trained, config, run) | human
    n, proxy = found.candidates, found.proxy
    items = [item for row in found.base_items for item in row[n : n + 2]]
    questions = pair_up(items, QUESTION, stream(config.seed, "held-out pairs"))
    delta_K = proxy.base_KN[:, n] - proxy.base_KN[:, n + 1]
    raw_MK = proxy.base_raw_MKN[:, :, n] - proxy.base_raw_MKN[:, :, n + 1]
    gold_K = wins(found.base_gold_KN[:, n], found.base_gold_KN[:, n + 1])
    top = own = None
    if isinstance(overseer, SyntheticTeacher):
        overseer.read_ahead(questions)
        held, _ = comparisons(questions, [overseer.judge(query) for query in questions])
        kept = [k for k, query in enumerate(questions) if overseer.chance(query) is not None]
        chance_K = np.array([overseer.chance(questions[k]) for k in kept], dtype=np.float64)
        share_K = np.array([pair.share for pair in held])
        top = ceiling(chance_K[share_K != 0.5])  # the comparisons that the accuracy counts
        run.estimate("reward_model_ceiling", top)
    else:  # nobody is asked again for this: the gold judge stands in, and says so
        held = [Comparison(*query.items, share=float(gold)) for query, gold in zip(questions, gold_K, strict=True)]
        kept, share_K = list(range(len(questions))), gold_K
        if (own := set_aside(trained.fits)) is not None:
            run.estimate("reward_model_held_out_accuracy", own)
        run.note("the reward model's accuracy is measured against the gold judge, not against the person who taught it")
    right = accuracy(delta_K[kept], share_K)
    # What the fit takes an answer's probability to be, its share of coin flips included (`bradley_terry_loss`).
    predicted_K = (1 - trained.noise) * expit(raw_MK[:, kept]).mean(0) + trained.noise / 2
    calibrated = calibration(predicted_K, share_K, stream(config.seed, "calibration"))
    baselines = {name: accuracy(delta, share_K) for name, delta in baseline_deltas(trained.pairs, held).items()}
    against = against_gold(found, proxy, trained)
    ours = {"reward_model_accuracy": right, "bag_of_words_accuracy": baselines["bag_of_words"]}
    for name, estimate in (ours | against).items():
        run.estimate(name, estimate)
    run.result(
        "reward_model",
        {
            "judge": "the gold judge" if top is None else "the overseer",
            "accuracy": right,
            "against_gold": against,
            "ceiling": top,
            **_of_calibration(calibrated),
            "baselines": baselines,
            "fits": trained.fits,
        },
    )
    return {
        **({"reward model, on answers of its own judges that it was not fitted to": own} if own else {}),
        "reward model on held-out pairs": right,
        **({"its ceiling: the teacher's own noise": top} if top else {}),
        "bag of words fitted to the same comparisons": baselines["bag_of_words"],
        "reward model, on the gold judge's own choice": against["reward_model_agreement_with_gold"],
        "bag of words, on the gold judge's own choice": against["bag_of_words_agreement_with_gold"],
        "by how much the reward model is right more often": against["reward_model_lead"],
        **human,
    }


def _of_calibration(found: Calibration) -> dict[str, Any]:
    return {
        "ece": found.error,
        "ece_seen": found.seen,
        "ece_of_chance": found.chance,
        "bins": list(found.bins),
    }


def write_preference(found: Answers, trained: Trained, config: ReviewsTask, run: Run) -> dict[str, Estimate]:
    """Measure the preference, where one was learned, on pairs of the base's answers, and the policy by it; return what is worth printing."""
    if trained.preference is None:
        return {}
    n, count = found.candidates, len(found.items)
    at_K = np.arange(count) * (n + OPPONENTS) + n  # the first two answers that nobody chooses from
    prob_K = trained.preference(found.base_rows.select(at_K.tolist()), found.base_rows.select((at_K + 1).tolist()))
    right = accuracy(prob_K.numpy() - 0.5, wins(found.base_gold_KN[:, n], found.base_gold_KN[:, n + 1]))
    won = share_interval(trained.preference(found.rows, found.base_rows.select(at_K.tolist())).numpy())
    run.estimate("preference_model_agreement_with_gold", right)
    run.estimate(f"{config.method}_win_rate_by_preference", won)
    return {
        "preference model, on the gold judge's own choice": right,
        "policy preferred to the base by it": won,
    }


def gold_judge(run: Run) -> dict[str, Estimate]:
    """Write and return how often the gold judge itself is right about people's stars."""
    human = Estimate(**reviews.read_manifest()["estimates"]["gold_accuracy_on_human_labels"])
    run.estimate("gold_judge_accuracy", human)
    return {"gold judge on held-out human labels": human}


def against_gold(found: Answers, proxy: Proxy, trained: Trained) -> dict[str, Estimate]:
    """Return how often reward model and bag of words order two answers of the base as the gold judge does.

    Pairs are disjoint, over all answers of the base to an opening, and free of the teacher's noise; intervals are clustered
    by opening. `reward_model_lead` is the difference on the same pairs.
    """
    bag = fit_bag_of_words(trained.pairs)
    bag_KN = np.stack([bag.score(items) for items in found.base_items])
    even = bag_KN.shape[1] // 2 * 2

    def delta(score_KN: NDArray[np.float64]) -> NDArray[np.float64]:
        return score_KN[:, 0:even:2] - score_KN[:, 1:even:2]

    gold_KP = delta(found.base_gold_KN)
    opening_KP = np.broadcast_to(np.arange(len(gold_KP))[:, None], gold_KP.shape)
    decisive_KP = gold_KP != 0

    def right(score_KN: NDArray[np.float64]) -> NDArray[np.float64]:
        return (1 + np.sign(delta(score_KN)) * np.sign(gold_KP))[decisive_KP] / 2

    learned_P, words_P = right(proxy.base_KN), right(bag_KN)
    groups = opening_KP[decisive_KP]
    return {
        "reward_model_agreement_with_gold": share_interval(learned_P, groups),
        "bag_of_words_agreement_with_gold": share_interval(words_P, groups),
        "reward_model_lead": mean_interval(learned_P - words_P, groups),
    }


def write_cost(trained: Trained, config: ReviewsTask, run: Run) -> None:
    """Write the cost ledger."""
    run.result(
        "cost",
        {
            trained.judged: trained.counts["judgements"],
            "unanswered": trained.counts["unanswered"],
            "ties": trained.counts["ties"],
            "judge": config.overseer if config.overseer != "synthetic" else f"synthetic teacher ({config.teacher})",
            "judge_seconds": sum(judgement.seconds or 0.0 for judgement in run.store.judgements(0)[0]),
            "disk_bytes": run.disk_bytes(),
            "episodes": trained.episodes,
            "tokens_sampled": trained.tokens,
            "seconds": run.seconds,
            "seconds_by_phase": run.progress.seconds_by_phase,
        },
    )
    run.estimate(trained.judged, Estimate(*[float(trained.counts["judgements"])] * 3, n=trained.counts["judgements"]))


def write_samples(found: Answers, config: ReviewsTask, run: Run) -> None:
    """Write before and after side by side, with proxy and gold scores."""
    name, proxy = config.method, found.proxy
    samples: list[dict[str, Any]] = []
    for k, (row, ours) in enumerate(zip(found.base_items, found.items, strict=True)):
        gold = {"base": found.base_gold_KN[k, 0], name: found.gold_K[k]}
        sample: dict[str, Any] = {"prompt": row[0].prompt, "base": row[0].content, name: ours.content, "gold": gold}
        if proxy is not None:
            choice = proxy.chosen[k]
            gold["best_of_n"] = found.base_gold_KN[k, choice]
            sample |= {
                "best_of_n": row[choice].content,
                "proxy": {
                    "base": proxy.base_KN[k, 0],
                    "best_of_n": proxy.base_KN[k, choice],
                    name: proxy.ours_K[k],
                },
            }
        samples.append(sample)
    run.samples(samples)


def print_result(
    rows: list[dict[str, Any]], judged: dict[str, Estimate], found: Answers, trained: Trained, run: Run
) -> None:
    """Print the result for people: the table, how good the judges are, what it cost, and answers side by side."""
    columns = {
        "gold_win_rate": ("gold win rate", "{:.1%}"),
        "kl_nats_per_sequence": ("KL, nats", "{:.2f}"),
        "entropy_nats": ("entropy, nats", "{:.2f}"),
        "distinct2": ("distinct-2", "{:.3f}"),
        "repetition": ("repetition", "{:.3f}"),
        "length_tokens": ("length, tokens", "{:.1f}"),
    }
    table = Table("policy", *(title for title, _ in columns.values()), title="held-out openings (95 % intervals)")
    for row in rows:
        cells = [
            _cell(row.get(name), form, bound=name.startswith("kl") and row.get("kl_is_bound", False))
            for name, (_, form) in columns.items()
        ]
        table.add_row(row["policy"], *cells)
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 160)
    console.print(table)
    right = Table("right", "of the time", title="judges")
    for name, estimate in judged.items():
        right.add_row(name, _cell(estimate, "{:.1%}", bound=False))
    console.print(right)
    beside = Table("opening", *(row["policy"] for row in rows), title="before and after")
    for k, (item_N, ours) in enumerate(list(zip(found.base_items, found.items, strict=True))[:PRINTED]):
        best = () if found.proxy is None or len(rows) == 2 else (item_N[found.proxy.chosen[k]],)
        answers = (item_N[0], *best, ours)
        beside.add_row(*(Text(visible(text)) for text in (ours.prompt, *(item.content.strip() for item in answers))))
    console.print(beside)
    asked, unanswered = trained.counts["judgements"], trained.counts["unanswered"]
    console.print(
        f"{asked:,} {trained.judged}, {unanswered:,} of them not judged; {trained.episodes:,} answers sampled; "
        f"{run.seconds:.0f} s; {run.disk_bytes() / 1e6:.0f} MB on the disk"
    )


def _form(answers: list[str], rows: Episodes, limit: int) -> dict[str, Estimate]:
    return {
        "distinct2": distinct_n(answers, limit=limit),
        "repetition": repetition(answers),
        "length_tokens": length_tokens(rows),
    }


def _ratio(ours: Estimate, theirs: Estimate) -> Estimate:
    """Return ours / theirs with a first-order interval; both rest on the same openings, taken as independent."""
    ratio = ours.value / theirs.value
    spread = ((ours.high - ours.value) / ours.value) ** 2 + ((theirs.high - theirs.value) / theirs.value) ** 2
    return Estimate(ratio, ratio - ratio * spread**0.5, ratio + ratio * spread**0.5, ours.n)


def _cell(estimate: Estimate | None, form: str, *, bound: bool) -> str:
    if estimate is None:
        return "-"
    if bound:
        return "<= " + form.format(estimate.value)
    return (
        form.format(estimate.value)
        if estimate.low == estimate.high
        else (f"{form.format(estimate.value)} ({form.format(estimate.low)} to {form.format(estimate.high)})")
    )
