"""The invariants: each one number with a limit, what it means when the limit is exceeded, and what to do then.

Every one is shown by a test to catch the fault it is for. Left out: whether a model is any good.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from backflip.doctor import measures
from backflip.doctor.measures import Measured
from backflip.doctor.subject import Subject, make_subject
from backflip.errors import BackflipError
from backflip.policies.lm import LMPolicy
from backflip.rewards.model import SequenceRewardModel


@dataclass(frozen=True)
class Check:
    """One invariant."""

    name: str
    limit: float
    unit: str
    measure: Callable[[Subject], Measured | float]
    meaning: str
    """What it means when the limit is exceeded."""
    remedy: str
    """What to do then."""


@dataclass(frozen=True)
class Finding:
    """The outcome of one check."""

    check: Check
    value: float | None
    note: str = ""
    broken: bool = False
    """The check could not be carried out at all."""

    @property
    def passed(self) -> bool:
        """Whether the invariant holds or does not apply; a number that is not one does not pass."""
        return not self.broken and (self.value is None or self.value <= self.check.limit)

    def lines(self) -> list[str]:
        """Return what to print."""
        word = "FAIL" if not self.passed else "  - " if self.value is None else "ok  "
        if self.broken:
            number = "could not be checked"
        elif self.value is None:
            number = "does not apply"
        else:
            number = f"{self.value:.3g} (at most {self.check.limit:g}{self.check.unit and ' ' + self.check.unit})"
        head = f"{word}  {self.check.name}: {number}" + (f"; {self.note}" if self.note else "")
        return (
            [head] if self.passed else [head, f"      means: {self.check.meaning}", f"      do:    {self.check.remedy}"]
        )


def examine(policy: LMPolicy, reward: SequenceRewardModel | None = None, seed: int = 0) -> Iterator[Finding]:
    """Carry out every check on a policy that has a value head, one after the other; nothing about it is changed.

    `reward` None starts a reward model from the policy.
    """
    subject = make_subject(policy, reward, seed)
    for check in CHECKS:
        yield carry_out(check, subject)


def carry_out(check: Check, subject: Subject) -> Finding:
    """Carry out one check. Our own errors become a failed finding; any other is a fault of the program and is raised."""
    try:
        measured = check.measure(subject)
    except BackflipError as error:
        return Finding(check, None, " ".join(str(error).split()), broken=True)
    if not isinstance(measured, Measured):
        measured = Measured(measured)
    return Finding(check, measured.value, measured.note)


CHECKS: Sequence[Check] = (
    Check(
        "ratio before the first update",
        1e-4,
        "as |ratio - 1|",
        measures.ratio,
        "sampling and scoring disagree, so PPO would correct a difference that is not there, and its clip would bite at once",
        "look for a temperature left out of one of them, dropout, padding that matters, or another precision in one of them",
    ),
    Check(
        "log-probabilities are those of transformers at the temperature",
        1e-3,
        "nats",
        measures.plain_forward,
        "what we call log-probability is not that of the model; a temperature left out on both sides hides from the ratio",
        "the architecture may scale or cap its logits in a way we do not know: report it with the model's name",
    ),
    Check(
        "log-probabilities do not depend on padding and batch",
        1e-4,
        "nats",
        measures.batch,
        "a row's numbers change with its neighbours, so every statistic is noise",
        "look for positions that count padding, an attention mask left out, or a pad token that is read as text",
    ),
    Check(
        "evaluating twice gives the same",
        0.0,
        "nats",
        measures.repeat,
        "something random is on while scoring, most likely dropout; every ratio is noise",
        "put the model in evaluation mode and set its dropout to 0 in config.json",
    ),
    Check(
        "mean log-probability of samples is minus the entropy",
        6.0,
        "standard errors",
        measures.sampling,
        "what is sampled is not the distribution that is scored: truncated (top-k, top-p), cooled, or biased",
        "sample from the whole vocabulary at the temperature of the config, and nothing else",
    ),
    Check(
        "first tokens have their probabilities",
        6.0,
        "as -log10 p",
        measures.frequencies,
        "the sampler prefers some tokens to others of equal probability",
        "look at how a uniform number becomes a token: cumulative sums in low precision, an off-by-one, a shared draw",
    ),
    Check(
        "KL of the policy with itself",
        1e-6,
        "nats a decision",
        measures.self_kl,
        "policy and reference differ before any training, so the penalty starts with a bias",
        "look for dropout, adapters that are not off in the reference, another precision, or weights that were not copied",
    ),
    Check(
        "sampled KL agrees with the exact KL",
        6.0,
        "standard errors",
        measures.kl_agrees,
        "the penalty (k1) and the measured KL are not the same quantity: a wrong sign, another temperature, or other masks",
        "compare one row by hand: log p - log q of what was sampled, and the sum of p (log p - log q) over the vocabulary",
    ),
    Check(
        "sum of rewards is score - beta * KL",
        1e-4,
        "reward units",
        measures.reward_sum,
        "the reward that PPO sees is not the objective: KL with the wrong sign, counted twice, or on padding",
        "use optimise.kl.shape_reward once, on rewards that lie on decisions",
    ),
    Check(
        "the score lies on the last decision",
        1e-4,
        "reward units",
        measures.reward_place,
        "the score sits a token beside its place, on padding, or is lost, so GAE credits the wrong decision",
        "use rewards.model.on_last_decision; the end token is the last decision where there is one",
    ),
    Check(
        "a score does not depend on padding and batch",
        1e-3,
        "reward units",
        measures.reward_batch,
        "the reward model reads padding, or another token than the last",
        "check pad_token_id in its config.json: it must be a token that no text holds",
    ),
    Check(
        "gradient accumulation equals one batch",
        1e-4,
        "of the gradient",
        measures.accumulation,
        "the size of micro-batches changes what is learned: means are taken per micro-batch",
        "divide by the decisions of the whole batch (optimise.step.decision_weights), then add up",
    ),
    Check(
        "pad differs from the end token, and every end is a decision",
        0.0,
        "faults",
        measures.ends,
        "a policy that cannot be told to stop never learns to, or padding is read as an end",
        "give the tokenizer a pad token of its own, and name every end token in generation_config.json",
    ),
    Check(
        "chat template round trip",
        0.0,
        "faults",
        measures.chat,
        "the policy is trained on prompts that it will not meet in use",
        "mend chat_template and eos_token_id in the model's folder; an end-of-turn token must be an end token",
    ),
    Check(
        "log-probabilities of bf16 sampling, recomputed for the update",
        0.1,
        "nats on average",
        measures.low_precision,
        "sampling in bf16 is too far from float32 for this model; the update would start from the wrong policy",
        'sample in float32 (LMConfig sampling="float32")',
    ),
    Check(
        "an update resumed from disk equals one that went on",
        0.0,
        "in any weight",
        measures.resume,
        "a resumed run is another run: optimiser state, generator or position in the prompts is not saved or not exact",
        "on a GPU, use deterministic algorithms; otherwise report it with the model's name",
    ),
)
