"""The doctor finds nothing on a sound model, and each of its checks finds the fault that it is for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from backflip import invariants
from backflip.cli import main
from backflip.doctor import (
    CHECKS,
    Check,
    Finding,
    Subject,
    carry_out,
    examine,
    load_subject_policy,
    make_subject,
    measures,
)
from backflip.errors import ConfigError
from backflip.masked import masked_mean
from backflip.optimise.kl import log_ratio_BT
from backflip.policies import lm, sampler, score
from backflip.policies.draw import draw, logits_to_logp
from backflip.policies.lm import LMPolicy
from backflip.rewards import model as reward_model
from backflip.rewards.model import SequenceRewardModel

EOS, PAD_ID = 2, 0


@pytest.fixture
def policy(tiny_checkpoint: Path) -> LMPolicy:
    return load_subject_policy(tiny_checkpoint)


@pytest.fixture(scope="module")
def findings(tiny_checkpoint: Path) -> dict[str, Finding]:
    """Everything the doctor says about the sound model, once for all tests."""
    return {finding.check.name: finding for finding in examine(load_subject_policy(tiny_checkpoint))}


@pytest.mark.parametrize("name", [check.name for check in CHECKS])
def test_a_sound_model_passes(findings: dict[str, Finding], name: str) -> None:
    finding = findings[name]
    assert finding.passed, finding.lines()
    assert finding.value is not None, "the check did not apply, so this test shows nothing"


def test_nothing_about_the_model_is_changed(tiny_checkpoint: Path, policy: LMPolicy) -> None:
    before, gradients = policy.hash(), [weight.requires_grad for weight in policy.module.parameters()]
    list(examine(policy))
    assert policy.hash() == before
    assert [weight.requires_grad for weight in policy.module.parameters()] == gradients
    assert all(weight.grad is None for weight in policy.module.parameters())


# -- planted faults: each is planted where such a fault would be made ----------------------------------------------------

Plant = Callable[[pytest.MonkeyPatch, Subject], None]
FAULTS: dict[str, tuple[str, Plant]] = {}
"""What is planted -> the check that must find it, and how it is planted."""


def fault(what: str, check: str) -> Callable[[Plant], Plant]:
    def remember(plant: Plant) -> Plant:
        FAULTS[what] = check, plant
        return plant

    return remember


def without_temperature(logits: Tensor, temperature: float) -> Tensor:
    return logits_to_logp(logits, 1.0)


def resample(subject: Subject) -> None:
    """Let the subject's rows be those that the policy samples now, with the fault in it."""
    rows = subject.world.collect(subject.policy, len(subject.episodes), np.random.default_rng(0))
    object.__setattr__(subject, "episodes", rows)


@fault("temperature left out when scoring", "ratio before the first update")
def _(patch: pytest.MonkeyPatch, subject: Subject) -> None:
    patch.setattr(score, "logits_to_logp", without_temperature)


@fault("temperature left out of both", "log-probabilities are those of transformers at the temperature")
def _(patch: pytest.MonkeyPatch, subject: Subject) -> None:
    patch.setattr(score, "logits_to_logp", without_temperature)
    patch.setattr(sampler, "logits_to_logp", without_temperature)
    resample(subject)
    assert invariants.ratio_error(subject.policy, subject.episodes) < 1e-4, "this fault hides from the ratio"


@fault("neighbours in the batch matter", "log-probabilities do not depend on padding and batch")
def _(patch: pytest.MonkeyPatch, subject: Subject) -> None:
    whole = score.ScoredLM.hidden_BLD

    def averaged(self: score.ScoredLM, *ids: Any, **inputs: Any) -> Tensor:
        hidden_BLD = whole(self, *ids, **inputs)
        return hidden_BLD + 0.1 * hidden_BLD.mean(0)

    patch.setattr(score.ScoredLM, "hidden_BLD", averaged)


@fault("padding is read as a token", "log-probabilities do not depend on padding and batch")
def _(patch: pytest.MonkeyPatch, subject: Subject) -> None:
    whole = LMPolicy._decisions

    def not_closed_up(self: LMPolicy, episodes: Any) -> Any:
        filled = torch.where(episodes.obs == -1, PAD_ID, episodes.obs)
        return whole(self, replace(episodes, obs=filled))

    patch.setattr(LMPolicy, "_decisions", not_closed_up)


@fault("dropout left on", "evaluating twice gives the same")
def _(patch: pytest.MonkeyPatch, subject: Subject) -> None:
    whole = score.ScoredLM.hidden_BLD
    patch.setattr(
        score.ScoredLM, "hidden_BLD", lambda self, *ids, **more: torch.dropout(whole(self, *ids, **more), 0.1, True)
    )


@fault("only likely tokens are sampled (top-k)", "mean log-probability of samples is minus the entropy")
def _(patch: pytest.MonkeyPatch, subject: Subject) -> None:
    def top_k(logp_RV: Tensor, uniform_R: Tensor) -> tuple[Tensor, Tensor]:
        least_R1 = logp_RV.topk(10).values[:, -1:]
        token_R, _ = draw(logp_RV.masked_fill(logp_RV < least_R1, -torch.inf), uniform_R)
        return token_R, logp_RV.gather(1, token_R[:, None])[:, 0]

    patch.setattr(sampler, "draw", top_k)
    resample(subject)


@fault("sampler biased to early tokens", "first tokens have their probabilities")
def _(patch: pytest.MonkeyPatch, subject: Subject) -> None:
    patch.setattr(sampler, "draw", lambda logp_RV, uniform_R: draw(logp_RV, uniform_R**1.5))


@fault("reference is not the policy", "KL of the policy with itself")
def _(patch: pytest.MonkeyPatch, subject: Subject) -> None:
    patch.setattr(LMPolicy, "reference", lambda self: subject.other)


@fault("temperature left out of the KL", "sampled KL agrees with the exact KL")
def _(patch: pytest.MonkeyPatch, subject: Subject) -> None:
    patch.setattr(lm, "logits_to_logp", without_temperature)


@fault("wrong sign of the exact KL", "sampled KL agrees with the exact KL")
def _(patch: pytest.MonkeyPatch, subject: Subject) -> None:
    whole = LMPolicy.kl_BT
    patch.setattr(LMPolicy, "kl_BT", lambda self, other, episodes: -whole(self, other, episodes))


@fault("exact KL halved", "sampled KL agrees with the exact KL")
def _(patch: pytest.MonkeyPatch, subject: Subject) -> None:
    whole = LMPolicy.kl_BT
    patch.setattr(LMPolicy, "kl_BT", lambda self, other, episodes: whole(self, other, episodes) / 2)


@fault("wrong sign of the KL in the reward", "sum of rewards is score - beta * KL")
def _(patch: pytest.MonkeyPatch, subject: Subject) -> None:
    patch.setattr(invariants, "shape_reward", lambda reward, rows, beta: reward + beta * log_ratio_BT(rows))


@fault("reward shifted by one token", "the score lies on the last decision")
def _(patch: pytest.MonkeyPatch, subject: Subject) -> None:
    whole = reward_model.on_last_decision
    patch.setattr(reward_model, "on_last_decision", lambda scores, rows: whole(scores, rows).roll(-1, 1))


@fault("reward on the first pad", "the score lies on the last decision")
def _(patch: pytest.MonkeyPatch, subject: Subject) -> None:
    whole = reward_model.on_last_decision
    patch.setattr(reward_model, "on_last_decision", lambda scores, rows: whole(scores, rows).roll(1, 1))


@fault("reward model reads the last column, padding or not", "a score does not depend on padding and batch")
def _(patch: pytest.MonkeyPatch, subject: Subject) -> None:
    def last_column(self: SequenceRewardModel, token_BL: Tensor, length_B: Tensor) -> Tensor:
        module: Any = self.module
        hidden_BLD = module.base_model(input_ids=token_BL[:, : int(length_B.max())]).last_hidden_state
        return module.score(hidden_BLD[:, -1])

    patch.setattr(SequenceRewardModel, "_pass", last_column)


@fault("means of micro-batches are added up", "gradient accumulation equals one batch")
def _(patch: pytest.MonkeyPatch, subject: Subject) -> None:
    patch.setattr(invariants, "masked_sum", lambda x, mask: masked_mean(x, mask) * 100)


@fault("pad equals the end token", "pad differs from the end token, and every end is a decision")
def _(patch: pytest.MonkeyPatch, subject: Subject) -> None:
    subject.policy.pad_id = EOS


@fault("the reward model pads with the end token", "pad differs from the end token, and every end is a decision")
def _(patch: pytest.MonkeyPatch, subject: Subject) -> None:
    assert not isinstance(subject.reward, str)
    patch.setattr(subject.reward.config, "pad_token_id", EOS)


@fault("end tokens are masked as if they were padding", "pad differs from the end token, and every end is a decision")
def _(patch: pytest.MonkeyPatch, subject: Subject) -> None:
    whole = LMPolicy.act

    def masking(self: LMPolicy, obs: Tensor, rng: np.random.Generator) -> Any:
        act = whole(self, obs, rng)
        return replace(act, mask_BT=act.mask_BT & (act.action != EOS))

    patch.setattr(LMPolicy, "act", masking)


@fault("no end token is known", "pad differs from the end token, and every end is a decision")
def _(patch: pytest.MonkeyPatch, subject: Subject) -> None:
    subject.policy.end_tokens = ()


@fault("the begin token is written twice", "chat template round trip")
def _(patch: pytest.MonkeyPatch, subject: Subject) -> None:
    patch.setattr(subject.policy.tokenizer, "chat_template", "<s>" + subject.policy.tokenizer.chat_template)


@fault("the template ends an answer otherwise", "chat template round trip")
def _(patch: pytest.MonkeyPatch, subject: Subject) -> None:
    template = subject.policy.tokenizer.chat_template
    patch.setattr(subject.policy.tokenizer, "chat_template", template.replace("</s>", "|"))


@fault("the prompt depends on what follows", "chat template round trip")
def _(patch: pytest.MonkeyPatch, subject: Subject) -> None:
    patch.setattr(
        subject.policy.tokenizer, "chat_template", "{{ messages | length }}" + subject.policy.tokenizer.chat_template
    )


@fault("bf16 sampling far from float32", "log-probabilities of bf16 sampling, recomputed for the update")
def _(patch: pytest.MonkeyPatch, subject: Subject) -> None:
    whole = LMPolicy.act

    def far(self: LMPolicy, obs: Tensor, rng: np.random.Generator) -> Any:
        act = whole(self, obs, rng)
        return replace(act, logp_BT=act.logp_BT - 0.3 * act.mask_BT) if self.config.sampling == "bfloat16" else act

    patch.setattr(LMPolicy, "act", far)


@fault("optimiser state is not restored", "an update resumed from disk equals one that went on")
def _(patch: pytest.MonkeyPatch, subject: Subject) -> None:
    patch.setattr(torch.optim.AdamW, "load_state_dict", lambda self, state: None)


@fault("weights are saved in half precision", "an update resumed from disk equals one that went on")
def _(patch: pytest.MonkeyPatch, subject: Subject) -> None:
    whole = measures.save_tensors

    def halved(path: Path, tree: Any) -> None:
        rounded = {name: weight.half().float() for name, weight in tree["policy"].items()}
        whole(path, {**tree, "policy": rounded})

    patch.setattr(measures, "save_tensors", halved)


@fault("the position in the prompts is lost", "an update resumed from disk equals one that went on")
def _(patch: pytest.MonkeyPatch, subject: Subject) -> None:
    patch.setattr(type(subject.world), "load_state_dict", lambda self, state: None)


@pytest.mark.parametrize("what", FAULTS)
def test_a_planted_fault_is_found(monkeypatch: pytest.MonkeyPatch, policy: LMPolicy, what: str) -> None:
    name, plant = FAULTS[what]
    check = next(check for check in CHECKS if check.name == name)
    subject = make_subject(policy)
    plant(monkeypatch, subject)
    finding = carry_out(check, subject)
    assert not finding.passed, finding
    said = "\n".join(finding.lines())
    assert check.meaning in said
    assert check.remedy in said


def test_every_check_has_a_planted_fault() -> None:
    assert {check for check, _ in FAULTS.values()} == {check.name for check in CHECKS}


# -- what surrounds the checks --------------------------------------------------------------------------------------------


def check_of(measure: Callable[[Subject], Any]) -> Check:
    return Check("a name", 1.0, "units", measure, "something", "this")


def test_a_number_that_is_none_fails(policy: LMPolicy) -> None:
    subject = make_subject(policy)
    assert carry_out(check_of(lambda _: 1.0), subject).passed
    assert not carry_out(check_of(lambda _: 1.001), subject).passed
    assert not carry_out(check_of(lambda _: float("nan")), subject).passed


def test_our_errors_are_findings_and_others_are_raised(policy: LMPolicy) -> None:
    def ours(_: Subject) -> float:
        raise ConfigError("this cannot be")

    def fault_of_the_program(_: Subject) -> float:
        raise ZeroDivisionError

    subject = make_subject(policy)
    finding = carry_out(check_of(ours), subject)
    assert not finding.passed
    assert "this cannot be" in finding.lines()[0]
    with pytest.raises(ZeroDivisionError):
        carry_out(check_of(fault_of_the_program), subject)


def test_what_does_not_apply_says_why_and_does_not_fail(policy: LMPolicy) -> None:
    policy.tokenizer.chat_template = None
    finding = carry_out(next(check for check in CHECKS if check.measure is measures.chat), make_subject(policy))
    assert finding.passed
    assert "no chat template" in finding.lines()[0]


def test_the_command_says_it_all(
    tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["doctor", "--model", str(tiny_checkpoint)]) == 0
    said = capsys.readouterr().out
    assert all(check.name in said for check in CHECKS)
    assert said.splitlines()[-1] == f"{len(CHECKS)} hold, 0 do not apply, 0 do not hold"
    monkeypatch.setattr(score, "logits_to_logp", without_temperature)
    assert main(["doctor", "--model", str(tiny_checkpoint)]) == 1
    said = capsys.readouterr().out
    assert "FAIL  ratio before the first update" in said
    assert "means: sampling and scoring disagree" in said


def test_the_command_needs_a_model_that_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--model", str(tmp_path / "nothing")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("DataError: no checkpoint at")
    assert said.count("\n") == 1
