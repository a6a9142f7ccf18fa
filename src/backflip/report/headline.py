"""Say in plain words what was asked, what came out, and how far to trust it.

Every sentence is a rule over intervals, so the words never claim what no spread supports: a difference whose
interval includes none is called none, and what a run did not measure is called not measured.
Leaves out the numbers behind the sentences, which the page shows beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from backflip.data import Estimate
from backflip.measures.stats import mean_interval, wilson
from backflip.report.evidence import Evidence
from backflip.report.intervals import difference, interval_of
from backflip.report.wording import policy_label, show, show_gap, show_interval

FOLLOWS = 0.5
"""Correlation over steps from which a learned reward is said to follow the truth: a quarter of its variance."""
Level = Literal["good", "caution", "bad", "unmeasured"]


@dataclass(frozen=True)
class Finding:
    """One reason to trust or to doubt the result."""

    level: Level
    title: str
    text: str


def measured(evidence: Evidence, policy: str, measure: str) -> Estimate | None:
    """Return a measure of a policy from the table, else from the estimates of `summary.json`."""
    row = evidence.table.get(policy, {})
    short = "bon" if policy == "best_of_n" != evidence.method else policy
    others = {f"{evidence.method}_win_rate": "win_rate_by_overseer"}
    return row.get(measure) or evidence.estimates.get(others.get(f"{short}_{measure}", f"{short}_{measure}"))


def _name(evidence: Evidence) -> str:
    """Return what the trained policy is called."""
    return evidence.label(evidence.method)


def status_sentence(evidence: Evidence) -> str | None:
    """Say that a page is partial, and why; None for a finished run."""
    return {
        "done": None,
        "running": "This run is still going: the page shows what it had written when the page was made.",
        "stopped": "This run was stopped before its end: the page shows what it had written by then.",
        "failed": "This run failed: the page shows what it had written by then; its log says why.",
        "killed": "This run was killed without a word: the page shows what it had written by then. "
        "It can be taken up again with --resume.",
    }.get(evidence.record.status, f"This run's status is {evidence.record.status!r}: the page may be partial.")


def outcome(evidence: Evidence) -> str:
    """Say what came out, in one or two sentences."""
    for judge, measure in (("gold judge", "gold_win_rate"), ("overseer", "win_rate")):
        won = measured(evidence, evidence.method, measure)
        if won is None:
            continue
        text = (
            f"The {judge} prefers {_name(evidence)}'s answer to the base's in {show(won.value, 'share')} of held-out openings "
            f"(95 % interval {show_interval(won, 'share')}, n = {won.n:,})"
        )
        kl = measured(evidence, evidence.method, "kl_nats_per_sequence")
        most = "at most " if evidence.method == "best_of_n" else ""
        text += f", at {most}{show(kl.value, 'nats')} of KL from the base." if kl else "."
        best = None if most else measured(evidence, "best_of_n", measure)
        if best is not None:
            text += f" {evidence.label('best_of_n')} from the base, chosen by the proxy, reaches {show(best.value, 'share')} ({show_interval(best, 'share')})."
        return text
    if evidence.record.notes and (evidence.method not in evidence.metrics or _is_control(evidence)):
        said = evidence.record.notes[-1]
        return f"{said[0].upper()}{said[1:].rstrip('.')}."
    if evidence.estimates:
        return f"It recorded {len(evidence.estimates)} estimates; they are listed below with their intervals."
    if evidence.record.status == "running":
        return "It has not recorded a result yet."
    return f"It is {evidence.record.status}, and has recorded no result."


def verdict(found: Sequence[Finding]) -> str:
    """Sum the findings up in one sentence: how far to trust the result."""
    bad = [one for one in found if one.level == "bad"]
    care = [one for one in found if one.level == "caution"]
    unmeasured = [one for one in found if one.level == "unmeasured"]
    if bad:
        return f"Do not rely on it: {_listed([one.title for one in bad])}."
    if care:
        return f"Trust it with care: {_listed([one.title for one in care])}."
    if not found:
        return "None of this page's checks is made for it: read the intervals."
    if not any(one.level == "good" for one in found):
        return "How far to trust it was not measured."
    held = "The checks below found nothing against it"
    return (
        f"{held}, but some could not be made: {_listed([one.title for one in unmeasured])}."
        if unmeasured
        else f"{held}."
    )


def _listed(titles: Sequence[str]) -> str:
    lowered = [title if title[:2].isupper() else title[0].lower() + title[1:] for title in titles]
    return "; ".join(lowered)


def findings(evidence: Evidence) -> list[Finding]:
    """Return every reason to trust or to doubt, worst first."""
    found = [
        _beats_base(evidence),
        _clips_ranked(evidence) if _is_control(evidence) else _over_optimised(evidence),
        _follows_truth(evidence),
        _proxy_against_gold(evidence),
        _reward_model(evidence),
        _calibration(evidence),
        _diversity(evidence),
        _length(evidence),
        _unanswered(evidence),
    ]
    order: dict[Level, int] = {"bad": 0, "caution": 1, "unmeasured": 2, "good": 3}
    return sorted((one for one in found if one is not None), key=lambda one: order[one.level])


def _beats_base(evidence: Evidence) -> Finding | None:
    won = measured(evidence, evidence.method, "gold_win_rate") or measured(evidence, evidence.method, "win_rate")
    if won is None:
        return None
    name = _name(evidence)
    said = (
        f"Win rate {show(won.value, 'share')}, interval {show_interval(won, 'share')}; half is no better than the base."
    )
    if won.low > 0.5:
        return Finding("good", f"{name} beats the base", said)
    if won.high < 0.5:
        return Finding("bad", f"{name} is worse than the base", said)
    return Finding("caution", f"{name} is not shown to differ from the base", said)


def _over_optimised(evidence: Evidence) -> Finding | None:
    """Compare the last check with the best one: did the proxy go on rising while gold fell? None where no policy left a base."""
    if evidence.method not in evidence.metrics and not evidence.table:
        return None
    needed = ("proxy", "gold_win_rate", "kl_nats_per_sequence")
    checks = [row for row in evidence.metrics.get("check", []) if all(key in row for key in needed)]
    if len(checks) < 2:
        if evidence.has_gold:
            return Finding(
                "unmeasured", "over-optimisation was not looked for", "Fewer than two checks hold proxy and gold."
            )
        text = "Without a gold judge nobody can see whether the proxy is being gamed; compare samples by eye."
        return Finding("unmeasured", "no gold judge, so over-optimisation cannot be seen", text)
    best, last = max(checks, key=lambda row: row["gold_win_rate"]), checks[-1]
    proxy_rose = last["proxy"] > best["proxy"]
    path = (
        f"Gold win rate was {show(best['gold_win_rate'], 'share')} at {show(best['kl_nats_per_sequence'], 'nats')} and "
        f"{show(last['gold_win_rate'], 'share')} at the end ({show(last['kl_nats_per_sequence'], 'nats')}), while the "
        f"proxy went from {show(best['proxy'])} to {show(last['proxy'])}."
    )
    ends = interval_of(best, "gold_win_rate"), interval_of(last, "gold_win_rate")
    if last is best:
        return Finding("good", "Gold rose with the proxy to the end", "The last check holds the highest gold win rate.")
    if ends[0] is None or ends[1] is None:
        return Finding("unmeasured", "the checks carry no n, so a fall of gold cannot be told from noise", path)
    if proxy_rose and ends[1][1] < ends[0][0]:
        return Finding("bad", "The proxy rose while gold fell", f"{path} The intervals of the two checks do not meet.")
    return Finding("good", "No fall of gold beyond its interval", path)


def _is_control(evidence: Evidence) -> bool:
    return "control" in evidence.metrics


def _clips_ranked(evidence: Evidence) -> Finding | None:
    """Say how often the learned reward ranks held-out pairs of clips as the judge did, at the last fit."""
    fits = [row for row in evidence.metrics.get("reward", []) if row.get("held_out_n", 0) >= 1]
    if not fits:
        return None
    count = round(fits[-1]["held_out_n"])
    share = wilson(fits[-1]["held_out_accuracy"] * count, count)
    said = (
        f"At the last fit the learned reward ranked {show(share.value, 'share')} of {count:,} held-out pairs as the judge did "
        f"(95 % interval {show_interval(share, 'share')})."
    )
    if share.low > 0.5:
        return Finding("good", "The learned reward ranks held-out pairs as the judge did", said)
    return Finding("bad", "The learned reward is not shown to be better than a coin on held-out pairs", said)


def _follows_truth(evidence: Evidence) -> Finding | None:
    """Say whether the learned reward followed the synthetic teacher's truth on what the policy did, step by step."""
    values = [
        row["correlation_with_truth"] for row in evidence.metrics.get("check", []) if "correlation_with_truth" in row
    ]
    if not values:
        return None
    said = (
        f"On the latest rows the correlation of the learned reward with the teacher's truth over single steps was {show(values[-1])} at "
        f"the last look and {show(min(values))} at the lowest of {len(values):,}; sums over clips are what the judge compares."
    )
    if values[-1] >= FOLLOWS:
        return Finding("good", "The learned reward follows the truth step by step", said)
    return Finding("caution", "Step by step the learned reward does not follow the truth closely", said)


def _paired(evidence: Evidence, kind: Literal["proxy", "gold"]) -> Estimate | None:
    """Return the mean gain of the policy over the base on the same opening."""
    ours = evidence.method
    scores = [sample.proxy if kind == "proxy" else sample.gold for sample in evidence.samples]
    gains = [one[ours] - one["base"] for one in scores if ours in one and "base" in one]
    return mean_interval(gains) if len(gains) > 1 else None


def _proxy_against_gold(evidence: Evidence) -> Finding | None:
    """Compare the gain in proxy with the gain in gold on the same openings."""
    proxy, gold = _paired(evidence, "proxy"), _paired(evidence, "gold")
    if proxy is None or gold is None:
        return None
    said = (
        f"From base to {_name(evidence)} on the same opening the proxy gained {show(proxy.value)} ({show_interval(proxy)}) and gold "
        f"{show(gold.value)} ({show_interval(gold)}), n = {gold.n:,}."
    )
    if proxy.low > 0 and gold.high < 0:
        return Finding("bad", "The proxy gained and gold lost", said)
    if proxy.low > 0 and gold.low <= 0:
        return Finding("bad", "The proxy gained and gold did not", said)
    if proxy.low > 0:
        return Finding("good", "The proxy and gold gained together", said)
    return Finding("caution", "The proxy itself did not gain", said)


def _reward_model(evidence: Evidence) -> Finding | None:
    result = evidence.reward_model
    if result is None or result.accuracy is None:
        return None
    own = evidence.estimates.get("reward_model_held_out_accuracy")
    said = (
        ""
        if own is None
        else f"Of {own.n:,} answers that it was not fitted to it gives {show(own.value, 'share')} ({show_interval(own, 'share')}) as "
        "those who judged did. "
    )
    said += f"It agrees with {result.judge} on {show(result.accuracy.value, 'share')} of {result.accuracy.n:,} held-out pairs"
    said += f", where {show(result.ceiling.value, 'share')} is the most that is possible" if result.ceiling else ""
    if not result.baselines:
        return Finding("unmeasured", "the reward model was not compared with null baselines", f"{said}.")
    name, best = max(result.baselines.items(), key=lambda entry: entry[1].value)
    said += f"; the best null baseline ({policy_label(name)}) reaches {show(best.value, 'share')}."
    if result.accuracy.low <= 0.5:
        return Finding("bad", "The reward model is not shown to be better than a coin", said)
    gap = difference(best, result.accuracy)
    said += f" The difference is {show_gap(gap, 'share')}."
    lead = evidence.estimates.get("reward_model_lead")
    if lead is not None and name == "bag_of_words":  # many more pairs, without the overseer's errors
        said += f" On the gold judge's own choice over more pairs it is {show_gap(lead, 'share')}."
        gap = lead
    if gap.low <= 0:
        return Finding("caution", "The reward model is not shown to beat the best null baseline", said)
    return Finding("good", "The reward model beats every null baseline", said)


def _calibration(evidence: Evidence) -> Finding | None:
    result = evidence.reward_model
    if result is None or result.ece is None:
        return None
    seen, chance = result.ece_seen, result.ece_of_chance
    missed = result.ece.value if seen is None else seen
    said = f"Its probabilities miss {result.judge}'s choices by {show(missed, 'share')} on average (ECE)"
    said += f"; a perfect model would show {show(chance, 'share')} by luck" if chance is not None else ""
    said += (
        f"; without luck it is {show(result.ece.value, 'share')} ({show_interval(result.ece, 'share')})."
        if seen is not None
        else "."
    )
    if result.ece.low > (0.0 if seen is not None else 0.1 if chance is None else chance):
        return Finding("caution", "The reward model's probabilities are off", said)
    return Finding("good", "The reward model's probabilities are about right", said)


def _ratio(evidence: Evidence, measure: str) -> float | None:
    base, ours = measured(evidence, "base", measure), measured(evidence, evidence.method, measure)
    return ours.value / base.value if base and ours and base.value else None


def _diversity(evidence: Evidence) -> Finding | None:
    recorded = evidence.estimates.get(f"{evidence.method}_distinct2_ratio")
    ratio = recorded.value if recorded else _ratio(evidence, "distinct2")
    if ratio is None:
        return None
    said = f"{_name(evidence)}'s answers hold {show(ratio, 'share')} of the base's share of distinct bigrams"
    said += f" (95 % interval {show_interval(recorded, 'share')})." if recorded else "."
    if ratio < 0.75:
        return Finding("caution", f"{_name(evidence)}'s answers have grown alike", said)
    return Finding("good", f"{_name(evidence)}'s answers stay about as varied as the base's", said)


def _length(evidence: Evidence) -> Finding | None:
    ratio = _ratio(evidence, "length_tokens")
    if ratio is None:
        return None
    said = f"{_name(evidence)}'s mean answer is {show(ratio, 'share')} as long as the base's."
    if not 0.75 <= ratio <= 1.25:
        shorter = "shorter" if ratio < 1 else "longer"
        return Finding(
            "caution",
            f"{_name(evidence)}'s answers have become much {shorter}",
            f"{said} Part of the gain may be length.",
        )
    return Finding("good", "Answer length is about the base's", said)


def _unanswered(evidence: Evidence) -> Finding | None:
    asked, missing = evidence.spent.get("comparisons"), evidence.spent.get("unanswered")
    if not asked or missing is None or missing / asked <= 0.05:
        return None
    text = f"{missing:,.0f} of {asked:,.0f} questions got no answer; they are left out of the fit, not counted as ties."
    return Finding("caution", f"{show(missing / asked, 'share')} of the questions could not be judged", text)
