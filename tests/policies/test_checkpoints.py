"""Loading, saving, adapters, pad tokens; what is missing, half-written or of the wrong kind is said in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, JambaConfig, MambaConfig, Qwen3NextConfig, RwkvConfig

from backflip.data import Episodes
from backflip.errors import ConfigError, DataError, StoreError
from backflip.policies.checkpoints import PAD_TOKEN, choose_pad, pick_device
from backflip.policies.lm import LMConfig, LMPolicy, load_policy

CONFIG = LMConfig(temperature=0.8, max_new_tokens=6, rows=4, device="cpu")
OBS = torch.tensor([[-1, 5, 6], [7, 8, 9], [-1, -1, 10], [4, 4, 4]])


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Callable[..., Any], tiny_tokenizer: Callable[..., Any]) -> Path:
    """A saved policy without a value head."""
    LMPolicy(tiny_model("llama"), tiny_tokenizer(), CONFIG).save(tmp_path / "policy")
    return tmp_path / "policy"


def sampled(policy: LMPolicy) -> Episodes:
    act = policy.act(OBS, np.random.default_rng(0))
    return Episodes(OBS, act.action, act.mask_BT, act.logp_BT, torch.zeros(4), torch.arange(4), act.value_BT)


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


# -- save and load -------------------------------------------------------------------------------------------------


def test_a_saved_policy_comes_back(folder: Path) -> None:
    policy = load_policy(folder)
    assert policy.config == CONFIG
    again = load_policy(folder, value_head=True)
    assert again.hash() == policy.hash()
    episodes = sampled(again)
    assert torch.equal(policy.logp_BT(episodes), again.logp_BT(episodes))
    assert torch.equal(again.evaluate(episodes).value_BT, torch.zeros_like(episodes.logp_BT))  # pyright: ignore[reportArgumentType]
    plain = AutoModelForCausalLM.from_pretrained(folder)
    embeddings: Any = plain.get_input_embeddings()
    assert torch.equal(embeddings.weight, policy.module.plain.get_input_embeddings().weight)


def test_the_value_head_is_saved_with_it(folder: Path, tmp_path: Path) -> None:
    policy = load_policy(folder, value_head=True)
    with torch.no_grad():
        policy.module.value_head.weight.normal_()  # pyright: ignore[reportOptionalMemberAccess, reportCallIssue, reportAttributeAccessIssue]
    policy.save(tmp_path / "other")
    again = load_policy(tmp_path / "other", value_head=True)
    episodes = sampled(policy)
    with torch.no_grad():
        ours, theirs = policy.evaluate(episodes).value_BT, again.evaluate(episodes).value_BT
    assert ours is not None and theirs is not None
    assert float(ours.abs().sum()) > 0
    assert torch.equal(ours, theirs)
    assert load_policy(tmp_path / "other").module.value_head is None


def test_the_hash_says_how_a_policy_acts(folder: Path) -> None:
    policy = load_policy(folder)
    assert load_policy(folder, value_head=True).hash() == policy.hash()
    assert load_policy(folder, LMConfig(temperature=0.9, max_new_tokens=6)).hash() != policy.hash()
    before = policy.hash()
    with torch.no_grad():
        policy.module.plain.model.norm.weight[0] += 1e-6
    assert policy.hash() != before


def test_a_full_disk_leaves_the_old_checkpoint(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = load_policy(folder)
    before = policy.hash()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(policy.module.plain), "save_pretrained", full)
    with pytest.raises(StoreError, match="full"):
        policy.save(folder)
    assert load_policy(folder).hash() == before


# -- adapters --------------------------------------------------------------------------------------------------------


def with_adapters(folder: Path) -> LMPolicy:
    torch.manual_seed(0)
    lora = LoraConfig(r=2, lora_dropout=0.5, target_modules=["q_proj", "up_proj"])
    return load_policy(folder, lora=lora, value_head=True)


def stir(policy: LMPolicy) -> None:
    with torch.no_grad():
        for name, parameter in policy.module.named_parameters():
            if "lora_B" in name:
                parameter.normal_()


def test_only_adapters_and_value_head_are_trained(folder: Path) -> None:
    policy = with_adapters(folder)
    trained = {name for name, parameter in policy.module.named_parameters() if parameter.requires_grad}
    assert trained
    assert all(".lora_" in name or name.startswith("value_head") for name in trained)
    policy.evaluate(sampled(policy)).logp_BT.sum().backward()
    assert policy.module.plain.model.embed_tokens.weight.grad is None


def test_the_reference_is_the_same_module_with_adapters_off(folder: Path) -> None:
    policy, base = with_adapters(folder), load_policy(folder)
    reference = policy.reference()
    assert reference.module.plain is policy.module.plain
    episodes = sampled(policy)
    assert float(policy.kl_BT(reference, episodes).abs().max()) < 1e-6
    stir(policy)
    assert torch.allclose(reference.logp_BT(episodes), base.logp_BT(episodes), atol=1e-5)
    assert not torch.allclose(policy.logp_BT(episodes), base.logp_BT(episodes), atol=1e-2)
    assert float(policy.kl_BT(reference, episodes).sum()) > 0.01
    expected = policy.kl_BT(base, episodes)
    assert torch.allclose(policy.kl_BT(reference, episodes), expected, atol=1e-4)
    assert reference.hash() == base.hash() != policy.hash()
    assert not reference.evaluate(episodes).logp_BT.requires_grad
    assert policy.evaluate(episodes).logp_BT.requires_grad


def test_adapters_are_sampled_with_and_merged_when_saved(folder: Path, tmp_path: Path) -> None:
    policy = with_adapters(folder)
    stir(policy)
    episodes = sampled(policy)
    assert float((policy.evaluate(episodes).logp_BT - episodes.logp_BT).detach().abs().max()) < 1e-4  # pyright: ignore[reportOperatorIssue]
    reference_act = policy.reference().act(OBS, np.random.default_rng(0))
    base_act = load_policy(folder).act(OBS, np.random.default_rng(0))
    assert torch.equal(reference_act.action, base_act.action)
    policy.save(tmp_path / "merged")
    assert torch.allclose(load_policy(tmp_path / "merged").logp_BT(episodes), policy.logp_BT(episodes), atol=1e-4)
    policy.reference().save(tmp_path / "base")
    assert load_policy(tmp_path / "base").hash() == load_policy(folder).hash()
    assert policy.evaluate(episodes).logp_BT.requires_grad, "saving must leave the policy as it was"


def test_turning_off_adapters_that_are_not_there(folder: Path) -> None:
    with pytest.raises(ConfigError, match="no adapters"):
        load_policy(folder).module.adapters_off()


# -- what cannot be loaded ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["./nowhere", "/nowhere/at/all", Path("nowhere")])
def test_a_missing_checkpoint(where: str | Path) -> None:
    with pytest.raises(DataError, match=r"no checkpoint at .*nowhere.* check the path") as error:
        load_policy(where)
    one_line(error)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated_weights(folder: Path, share: float) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: int(share * weights.stat().st_size)])
    with pytest.raises(DataError, match="half-written") as error:
        load_policy(folder)
    assert str(folder) in one_line(error)


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "no .safetensors file"),
        (lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"), "pickle"),
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "lla'), "half-written"),
        (lambda folder: (folder / "config.json").write_text("{}"), "half-written"),
        (lambda folder: (folder / "tokenizer.json").write_text('{"version'), "half-written"),
        (lambda folder: [file.unlink() for file in folder.glob("tokenizer*")], "no tokenizer"),
        (lambda folder: (folder / "backflip.json").write_text('{"lm": {"temp'), "save the policy again"),
        (lambda folder: (folder / "backflip.json").write_text("[]"), "save the policy again"),
    ],
    ids=[
        "no weights",
        "pickle",
        "no config",
        "cut config",
        "empty config",
        "cut tokenizer",
        "no tokenizer",
        "cut settings",
        "odd settings",
    ],
)
def test_half_written_checkpoints(folder: Path, harm: Callable[[Path], Any], says: str) -> None:
    harm(folder)
    with pytest.raises(DataError, match=says) as error:
        load_policy(folder)
    one_line(error)


def test_weights_that_are_absent(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(DataError, match=r"lacks or misshapes .* model\.layers\.2") as error:
        load_policy(folder)
    one_line(error)


def test_weights_of_other_shapes(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 2 * config["hidden_size"]}))
    with pytest.raises(DataError, match=r"other shapes than its config.json says|lacks or misshapes") as error:
        load_policy(folder)
    assert "ignore_mismatched_sizes" not in one_line(error)
    assert capfd.readouterr() == ("", "")  # transformers' table of every weight is not shown


def test_weights_that_are_no_numbers(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    next(iter(weights.values()))[0] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(DataError, match=r"not finite, in .*weight; its training broke") as error:
        load_policy(folder)
    one_line(error)


def test_a_broken_value_head(folder: Path) -> None:
    (folder / "value_head.safetensors").write_bytes(b"\0" * 20)
    load_policy(folder)
    with pytest.raises(DataError, match=r"value_head\.safetensors"):
        load_policy(folder, value_head=True)


RECURRENT: dict[str, Any] = {
    "mamba": MambaConfig(vocab_size=24, hidden_size=32, num_hidden_layers=2, state_size=4),
    "rwkv": RwkvConfig(vocab_size=24, hidden_size=32, num_hidden_layers=2, attention_hidden_size=32),
    "jamba": JambaConfig(
        vocab_size=24,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        attn_layer_period=2,
        attn_layer_offset=1,
        num_experts=2,
        mamba_d_state=4,
        use_mamba_kernels=False,
    ),
    "qwen3 next": Qwen3NextConfig(
        vocab_size=24,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        layer_types=["linear_attention", "full_attention"],
        linear_num_key_heads=2,
        linear_num_value_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        num_experts=2,
        num_experts_per_tok=1,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_and_hybrid_models_are_refused(name: str) -> None:
    model = AutoModelForCausalLM.from_config(RECURRENT[name]).eval()
    with pytest.raises(ConfigError, match="recurrent, hybrid") as error:
        LMPolicy(model, None, CONFIG)
    assert "choose another model" in one_line(error)


# -- pad and end tokens --------------------------------------------------------------------------------------------------


def test_a_pad_token_of_its_own_is_kept(tiny_tokenizer: Callable[..., Any]) -> None:
    assert choose_pad(tiny_tokenizer(), 24) == 0


@pytest.mark.parametrize("pad", [None, "</s>", "<s>"])
def test_a_missing_pad_takes_a_spare_row(tiny_tokenizer: Callable[..., Any], pad: str | None) -> None:
    tokenizer = tiny_tokenizer(pad_token=pad)
    assert choose_pad(tokenizer, 32) == 24
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == (PAD_TOKEN, 24)


def test_a_missing_pad_takes_another_special_token_or_none(tiny_tokenizer: Callable[..., Any]) -> None:
    assert choose_pad(tiny_tokenizer(pad_token=None, unk_token="w7"), 24) == 7
    tokenizer = tiny_tokenizer(pad_token=None)
    assert choose_pad(tokenizer, 24) is None
    assert tokenizer.pad_token is None


@pytest.mark.parametrize("pad", [None, "</s>"])
def test_the_end_token_is_learned_and_scored_without_a_pad(
    tiny_model: Callable[..., Any], tiny_tokenizer: Callable[..., Any], pad: str | None
) -> None:
    # pad = eos is the classic fault: the end token is masked and the model never learns to stop.
    policy = LMPolicy(tiny_model("llama", pad_token_id=None), tiny_tokenizer(pad_token=pad), CONFIG)
    assert policy.pad_id != 2
    assert policy.end_tokens == (2,)
    episodes = Episodes(
        OBS[:1], torch.tensor([[5, 2]]), torch.ones(1, 2, dtype=torch.bool), None, torch.zeros(1), torch.zeros(1)
    )
    found = policy.evaluate(episodes)
    assert float(found.logp_BT[0, 1].detach()) < 0
    found.logp_BT[0, 1].backward()
    assert float(policy.module.plain.lm_head.weight.grad[2].abs().sum()) > 0


def test_every_listed_end_token_ends(tiny_model: Callable[..., Any], tiny_tokenizer: Callable[..., Any]) -> None:
    model = tiny_model("llama")
    model.generation_config.eos_token_id = [7, 11]
    policy = LMPolicy(model, tiny_tokenizer(), CONFIG)
    assert policy.end_tokens == (2, 7, 11)
    assert LMPolicy(model, None, CONFIG).end_tokens == (7, 11)


def test_devices() -> None:
    assert pick_device("cpu").type == "cpu"
    assert pick_device("auto").type in ("cpu", "cuda", "mps")
    with pytest.raises(ConfigError, match="no device"):
        pick_device("abacus")
