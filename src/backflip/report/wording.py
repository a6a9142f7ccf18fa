"""What each recorded number is called, what it is measured in, and what it means in plain words.

The page, its figures and the comparison all take their words from here, so one quantity has one name everywhere.
Leaves out the numbers themselves; an unknown name is shown as it was logged.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from backflip.data import Estimate

Unit = Literal["share", "nats", "tokens", "seconds", "count", "number", "mb"]


@dataclass(frozen=True)
class Wording:
    """The name, unit and meaning of one recorded quantity."""

    label: str
    unit: Unit = "number"
    meaning: str = ""


POLICIES = {"base": "Base", "best_of_n": "Best of n", "ppo": "PPO"}
"""Policies in the order in which they are shown; others follow under their own name."""

METRICS = {
    "proxy": Wording(
        "Proxy reward", meaning="What the learned reward model says, in standard deviations of base answers."
    ),
    "gold": Wording("Gold score", meaning="What the gold judge says; the learner never saw it."),
    "gold_win_rate": Wording(
        "Gold win rate against base",
        "share",
        "How often the gold judge prefers this answer to the base's; a tie counts half.",
    ),
    "win_rate": Wording("Win rate against base", "share", "Judged by a held-out part of the overseer's own answers."),
    "kl_nats_per_sequence": Wording(
        "KL from base", "nats", "How far the policy moved: full-vocabulary KL summed along each sampled answer."
    ),
    "kl_bound_nats": Wording(
        "KL bound of best of n", "nats", "ln n - (n-1)/n: the most that choosing one of n can move."
    ),
    "entropy_nats": Wording("Entropy", "nats", "How undecided the policy is per token; near 0 it says one thing only."),
    "distinct2": Wording(
        "Distinct bigrams", "share", "Share of word pairs that differ; falls when answers grow alike."
    ),
    "repetition": Wording("Repetition", "share", "Share of repeated word groups within an answer."),
    "length_tokens": Wording("Answer length", "tokens", "Tokens up to and with the end token."),
    "length": Wording("Answer length", "tokens", "Tokens up to and with the end token."),
    "ended_fraction": Wording("Answers that ended", "share", "Share that sampled the end token before the limit."),
    "proxy_mean": Wording(
        "Proxy reward", meaning="Mean normalised reward of this update's answers, before the KL cost."
    ),
    "proxy_std": Wording("Spread of proxy reward", meaning="Standard deviation over this update's answers."),
    "kl_exact_nats_per_sequence": Wording(
        "KL from base (exact)", "nats", "Full-vocabulary KL summed along the answers."
    ),
    "ratio_max_error": Wording(
        "Largest |ratio - 1| before a step",
        meaning="Sampling and training must agree on each probability: below 0.0001.",
    ),
    "clip_fraction": Wording("Clipped share", "share", "Share of decisions whose ratio left the clipping range."),
    "value_loss": Wording("Value loss", meaning="Squared error of the critic."),
    "policy_loss": Wording("Policy loss", meaning="The clipped objective, negated."),
    "grad_norm": Wording("Gradient norm", meaning="Before clipping."),
    "beta": Wording("KL coefficient", meaning="What one nat costs in reward."),
    "loss": Wording("Loss", meaning="Bradley-Terry loss per comparison, nats."),
    "accuracy": Wording(
        "Agreement on training pairs", "share", "How often the model orders a pair as the overseer did."
    ),
    "held_out_accuracy": Wording("Agreement on held-out pairs", "share", "The same on comparisons kept from the fit."),
    "backflips_per_1000_steps": Wording("Landed backflips in 1,000 steps"),
    "turns_in_the_air_per_1000_steps": Wording(
        "Turns completed in the air in 1,000 steps", meaning="However they came down."
    ),
    "turns_without_a_fall_before_per_1000_steps": Wording(
        "Turns without a fall since the one before, in 1,000 steps", meaning="What came after is held against the next."
    ),
    "backward_turns_per_1000_steps": Wording("Net backward turns in 1,000 steps"),
    "torso_height_m": Wording("Height of the torso, m", meaning="Mean over the steps."),
    "true_return": Wording("True return", meaning="By the reward that nobody but the judge and the measures saw."),
    "untrained_return": Wording("True return before training"),
    "pair_accuracy": Wording(
        "Agreement on unseen clips", "share", "How often the learned reward orders a pair as the truth does."
    ),
    "correlation_with_truth": Wording(
        "Correlation with the truth", meaning="Of learned and true reward over single steps."
    ),
    "step": Wording("Step"),
    "epoch": Wording("Epoch"),
    "score_clipped_fraction": Wording("Clipped scores", "share", "Share of answers whose proxy reward was clipped."),
    "missing_end_fraction": Wording("Answers without an end", "share", "Share cut at the limit of tokens."),
    "explained_variance": Wording(
        "Explained variance", meaning="How much of the returns the critic foresees; 1 is all."
    ),
    "approx_kl_nats": Wording(
        "KL of the update", "nats", "From the policy that sampled to the policy after its steps."
    ),
    "value_clip_fraction": Wording(
        "Clipped values", "share", "Share of decisions whose value left its clipping range."
    ),
    "kl_standard_error_nats": Wording("Standard error of KL", "nats"),
    "logp_gap_max_nats": Wording(
        "Largest gap of log-probability",
        "nats",
        "Between sampling and the update's own first pass; ought to be rounding.",
    ),
    "lr": Wording("Learning rate"),
    "held_out_loss": Wording("Loss on held-out pairs", meaning="Bradley-Terry loss per comparison, nats."),
    "held_out_n": Wording("Held-out pairs", "count"),
    "judgements": Wording("Judgements heard", "count"),
    "episodes": Wording("Answers sampled", "count"),
    "comparisons": Wording("Comparisons asked", "count"),
    "ratings": Wording("Ratings asked", "count"),
    "final_comparisons": Wording("Comparisons asked for the final measure", "count"),
    "ties": Wording("of these, ties", "count"),
    "disk_bytes": Wording("Disk, bytes", "count"),
    "unanswered": Wording("of these, could not be judged", "count"),
    "judge_seconds": Wording("Time judging", "seconds"),
    "tokens_sampled": Wording("Tokens sampled", "count"),
    "seconds_in_all": Wording("Time in all", "seconds"),
    "peak_rss_mb": Wording("Peak memory", "mb"),
    "tokens": Wording("Tokens sampled", "count"),
    "seconds_sample": Wording("Seconds sampling", "seconds"),
    "seconds_update": Wording("Seconds updating", "seconds"),
    "seconds": Wording("Seconds since the start", "seconds"),
    "ppo_gold_win_rate": Wording("PPO: gold win rate against base", "share"),
    "bon_gold_win_rate": Wording("Best of n: gold win rate against base", "share"),
    "ppo_kl_nats_per_sequence": Wording("PPO: KL from base", "nats"),
    "ppo_distinct2_ratio": Wording("PPO: distinct bigrams, relative to base", "share"),
    "ppo_entropy_nats": Wording("PPO: entropy", "nats"),
    "reward_model_accuracy": Wording("Reward model: agreement on held-out pairs", "share"),
    "reward_model_held_out_accuracy": Wording(
        "Reward model: agreement with its own judges on answers kept from the fit", "share"
    ),
    "reward_model_ceiling": Wording("Ceiling of that agreement", "share"),
    "ppo_gold": Wording("PPO: gold score"),
    "base_gold": Wording("Base: gold score"),
    "modes_covered": Wording("Modes covered", meaning="Of several equally good things, those that are still said."),
    "prompt_information_nats": Wording(
        "Prompt information", "nats", "How much the answer tells of its prompt; 0 where every prompt is answered alike."
    ),
    "tokens_trained": Wording("Tokens learned from", "count", "Every pass counted."),
    "kl_nats": Wording("KL from base", "nats"),
    "base_gold_win_rate": Wording("Base: gold win rate against itself", "share"),
    "ppo_length_ratio": Wording("PPO: answer length, relative to base", "share"),
    "ppo_proxy": Wording("PPO: proxy reward"),
    "win_rate_by_overseer": Wording("Win rate against base, by the overseer", "share"),
    "reward_model_agreement_with_gold": Wording("Reward model: agreement with the gold judge", "share"),
    "bag_of_words_agreement_with_gold": Wording("Bag of words: agreement with the gold judge", "share"),
    "reward_model_lead": Wording("Reward model less bag of words: agreement with the gold judge", "share"),
    "bag_of_words_accuracy": Wording("Bag of words: agreement on held-out pairs", "share"),
    "gold_accuracy_on_human_labels": Wording("Gold judge: accuracy on held-out human labels", "share"),
    "distinct2_ratio": Wording("Distinct bigrams, relative to base", "share", "Falls when answers grow alike."),
    "clip_correlation": Wording("Clips: correlation of predicted and true points"),
    "points_a_clip": Wording("Points in a held-out clip"),
    "decisive_comparisons": Wording("Comparisons that were no tie", "share"),
    "held_out_decisive": Wording("Held-out pairs that were no tie", "share"),
    "mean_picture_accuracy": Wording("Mean picture: agreement on held-out pairs", "share"),
    "motion_accuracy": Wording("Motion: agreement on held-out pairs", "share"),
    "brightness_accuracy": Wording("Brightness: agreement on held-out pairs", "share"),
    "majority_accuracy": Wording("Always the commoner side: agreement on held-out pairs", "share"),
    "gold_judge_accuracy": Wording("Gold judge: accuracy on held-out human labels", "share"),
}

ABBREVIATION = 4
"""Letters up to which the name of a method is one, such as grpo; longer ones are words."""
_PERCENT = "\u00a0%"
_SUFFIXES: tuple[tuple[str, Unit], ...] = (
    ("win_rate", "share"), ("accuracy", "share"), ("fraction", "share"), ("share", "share"), ("ratio", "share"),
    ("ceiling", "share"), ("nats", "nats"), ("nats_per_sequence", "nats"), ("tokens", "tokens"), ("seconds", "seconds"),
    ("mb", "mb"),
)  # fmt: skip


def wording(name: str) -> Wording:
    """Return the wording of a recorded name; a name we do not know keeps its words and gets its unit by its ending."""
    known = METRICS.get(name)
    if known is not None:
        return known
    method, _, rest = name.partition("_")
    alike = METRICS.get(f"ppo_{rest}")
    if alike is not None:  # the same result of another method, or of whichever policy a run trained
        title = method.upper() if len(method) <= ABBREVIATION else method.capitalize()
        return Wording(alike.label.replace("PPO", title, 1), alike.unit, alike.meaning)
    label = name.replace("_", " ").replace(".", ": ")
    label = label[:1].upper() + label[1:]
    for suffix, unit in _SUFFIXES:
        if name.endswith(suffix):
            return Wording(label, unit)
    return Wording(label)


def policy_key(name: str) -> str:
    """Return the key of a policy that a table calls `PPO` or `best of 16`."""
    key = re.sub(r"\W+", "_", name.strip().lower())
    return "best_of_n" if re.fullmatch(r"best_of_\d+", key) else key if key in POLICIES else name


def policy_label(name: str) -> str:
    """Return the name of a policy as people read it."""
    return POLICIES.get(name, name.replace("_", " "))


def show(value: float, unit: Unit = "number", *, bare: bool = False) -> str:
    """Write a number with its unit, at the precision a reader can use; `bare` leaves the unit's word out."""
    if not math.isfinite(value):
        return "not a number"
    if unit == "share":
        percent = 100 * value
        return f"{percent:.{1 if abs(percent) < 10 or abs(percent - 100) < 1 else 0}f}{_PERCENT}"
    if unit == "count":
        return f"{value:,.0f}"
    if unit == "seconds" and not bare:
        return duration(value)
    text = _plain(value, abs(value))
    word = {"nats": "\u00a0nats", "tokens": "\u00a0tokens", "mb": "\u00a0MB"}.get(unit, "")
    return text if bare else text + word


def _plain(value: float, size: float) -> str:
    """Write a number with three significant digits at magnitude `size`."""
    if size == 0:
        return "0"
    if size >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1e}" if size < 0.001 else f"{value:.{max(0, 2 - math.floor(math.log10(size)))}f}"


def show_interval(estimate: Estimate, unit: Unit = "number") -> str:
    """Write an interval as `low to high`, the unit once; with a dash where no sign can be mistaken for it."""
    low, high = show(estimate.low, unit, bare=True), show(estimate.high, unit, bare=True)
    if unit not in ("share", "count"):
        size = max(abs(estimate.low), abs(estimate.high))
        low, high = _plain(estimate.low, size), _plain(estimate.high, size)
    dash = "\u2013" if estimate.low >= 0 and "e" not in low + high else " to "
    return f"{low.removesuffix(_PERCENT)}{dash}{high}"


def show_gap(gap: Estimate, unit: Unit = "number") -> str:
    """Write a difference with its interval; of shares in percentage points, so that it is not taken for a ratio."""
    scale, word = (100.0, " points") if unit == "share" else (1.0, {"nats": " nats", "tokens": " tokens"}.get(unit, ""))
    value, low, high = (
        f"{scale * number:+.{1 if unit == 'share' else 2}f}" for number in (gap.value, gap.low, gap.high)
    )
    return f"{value}{word} ({low} to {high})"


def duration(seconds: float) -> str:
    """Write seconds as people say them: `48 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if seconds < 10:
        return f"{seconds:.1f} s"
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"
