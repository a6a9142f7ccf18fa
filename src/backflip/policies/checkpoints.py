"""Read a causal LM and its tokenizer from a folder or a hub, and choose a pad token. Nothing is unpickled.

What it leaves out: writing (a policy saves itself, see `lm.py`) and reward models (`rewards/model.py`).
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as hf_logging

from backflip.checkpoint import settle
from backflip.errors import ConfigError, DataError

if TYPE_CHECKING:
    from peft import LoraConfig

PAD_TOKEN = "<|pad|>"


TOKENIZER_FILES = ("tokenizer*.json", "*vocab*", "*.model", "*.tiktoken", "merges.txt")
"""What a folder has at least one of, if a tokenizer was saved into it; transformers makes an empty one up otherwise."""


@contextmanager
def quiet_loading() -> Generator[None]:
    """Keep transformers from saying what we say in one line, and from showing progress, which the command line shows itself."""
    bars, loudness = hf_logging.is_progress_bar_enabled(), hf_logging.get_verbosity()
    hf_logging.disable_progress_bar()
    hf_logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        hf_logging.set_verbosity(loudness)
        if bars:
            hf_logging.enable_progress_bar()


def pick_device(name: str) -> torch.device:
    """Return the named device; "auto" takes CUDA, then MPS, then the CPU. Raises ConfigError for an unknown name."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f'no device "{name}"; expected auto, cpu, cuda, cuda:N or mps') from error


def read_model(where: str | Path, *, dtype: torch.dtype, device: torch.device, attention: str) -> nn.Module:
    """Load a causal LM from safetensors.

    Raises DataError, naming the place and the remedy, when the checkpoint is missing, half-written, pickled only, or lacks weights.
    """
    place = _place(where)
    try:
        loading: Any = AutoModelForCausalLM
        with quiet_loading():
            model, info = loading.from_pretrained(
                place, dtype=dtype, attn_implementation=attention, use_safetensors=True, output_loading_info=True
            )
    except Exception as error:  # transformers, safetensors and the hub client raise many kinds for a broken checkpoint
        raise _broken(where, error) from error
    absent = sorted(info["missing_keys"])
    wrong = sorted(str(key) for key in info.get("mismatched_keys") or ())
    if absent or wrong:
        raise DataError(
            f"checkpoint {where} lacks or misshapes {len(absent) + len(wrong)} weights, such as {(absent + wrong)[0]}; "
            "expected a whole causal LM: write or download it again"
        )
    for name, weight in model.named_parameters():
        if not bool(torch.isfinite(weight).all()):
            raise DataError(
                f"checkpoint {where} holds numbers that are not finite, in {name}; its training broke: use an earlier one"
            )
    return model.to(device)


def read_tokenizer(where: str | Path) -> Any:
    """Load the tokenizer beside a model. Raises DataError as `read_model` does, and for a folder without one."""
    folder = Path(where)
    if folder.is_dir() and not any(found for name in TOKENIZER_FILES for found in folder.glob(name)):
        raise DataError(
            f"{where} holds a model and no tokenizer (no tokenizer.json or vocabulary file); save the tokenizer into the same folder"
        )
    try:
        return AutoTokenizer.from_pretrained(_place(where))
    except Exception as error:
        raise _broken(where, error) from error


def read_value_head(folder: Path, width: int) -> nn.Linear:
    """Return a value head: zeros, or the weights saved in `folder`. Raises DataError where these are broken."""
    head = nn.Linear(width, 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    saved = folder / "value_head.safetensors"
    if saved.is_file():
        try:
            head.load_state_dict(load_file(saved))
        except Exception as error:
            raise DataError(
                f"cannot read {saved}: {error}; it is half-written or of another model: save the policy again"
            ) from error
    return head


def add_adapters(model: Any, lora: LoraConfig) -> Any:
    """Freeze the model and add LoRA adapters, without dropout: it would make every ratio noise."""
    from peft import get_peft_model

    with warnings.catch_warnings():
        # peft asks transformers for a property under its old name.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        return get_peft_model(model, replace(lora, lora_dropout=0.0))


def choose_pad(tokenizer: Any, embedding_rows: int) -> int | None:
    """Give the tokenizer a pad token that differs from its end token, without resizing the model. Return its id.

    In this order: the pad token it has; a new token on a spare row of the embedding; another special token that is neither
    begin nor end. None where the vocabulary has no room (GPT-2): a policy never needs the id, since its padding is -1 and masks
    are explicit; a reward model has no output head, so it can add a row of its own.
    """
    taken = {tokenizer.eos_token_id, tokenizer.bos_token_id}
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id not in taken:
        return tokenizer.pad_token_id
    if len(tokenizer) < embedding_rows:
        tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
        return tokenizer.pad_token_id
    for token, index in zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True):
        if index not in taken:
            tokenizer.pad_token = token
            return index
    return None


def end_tokens(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Return every token that ends an answer: the tokenizer's end token and those of the generation config."""
    listed = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    found = set([listed] if isinstance(listed, int) else listed or ())
    if tokenizer is not None and tokenizer.eos_token_id is not None:
        found.add(tokenizer.eos_token_id)
    return tuple(sorted(found))


def _place(where: str | Path) -> str:
    """Check a local folder before transformers does, whose messages speak of hub ids; leave hub ids alone."""
    folder = Path(where)
    settle(folder)
    looks_local = isinstance(where, Path) or str(where).startswith((".", "/", "~")) or str(where).count("/") > 1
    if not folder.exists():
        if looks_local:
            raise DataError(
                f"no checkpoint at {where}; expected a folder with config.json and model.safetensors: check the path"
            )
        return str(where)
    config = folder / "config.json"
    if not config.is_file():
        raise DataError(f"{where} is no checkpoint: it has no config.json; give the folder that holds the model itself")
    try:
        json.loads(config.read_text(encoding="utf-8"))
        AutoConfig.from_pretrained(str(folder))
    except ValueError as error:
        raise _broken(where, error) from error
    if not any(folder.glob("*.safetensors")):
        pickled = " (its .bin file is a pickle, which is never read: convert it)" if any(folder.glob("*.bin")) else ""
        raise DataError(
            f"checkpoint {where} has no .safetensors file{pickled}; it is missing or half-written: save it again"
        )
    return str(folder)


def _broken(where: str | Path, error: Exception) -> Exception:
    if isinstance(error, DataError):
        return error
    reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
    if "ignore_mismatched_sizes" in str(error):
        reason = "its weights have other shapes than its config.json says"
    return DataError(
        f"cannot read checkpoint {where}: {reason}; missing or half-written: save it again, or check the name"
    )
