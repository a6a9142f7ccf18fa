"""Smaller language models beside one that is there: its first layers, or a narrower one of its kind that has learned nothing yet.

For asking what size does, all else equal: same tokenizer, same context, same architecture. Left out: making a model shallower and keeping its
quality (distillation), and the fit of whatever is made of them.

Shapes: D hidden.
"""

from __future__ import annotations

import copy
import re
from typing import Any

import numpy as np
import torch

from backflip.errors import ConfigError

HEAD = 32
"""Width of an attention head of a narrow model; a model narrower than this has one head of its own width."""
STD = 0.02
"""Standard deviation of new weights, as Llama begins."""


def size_of(text: str) -> tuple[int, int]:
    """Read a size, LAYERSxWIDTH, such as 1x64.

    Raises:
        ConfigError: it is none.
    """
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if found is None:
        raise ConfigError(f'"{text}" is no size; expected LAYERSxWIDTH, such as 1x64')
    return int(found[1]), int(found[2])


def smaller(lm: Any, layers: int, width: int, rng: np.random.Generator) -> Any:
    """Return a causal LM of `layers` layers of `width`: the first layers of `lm` where that is its width, else new weights from `rng`.

    Embeddings, final norm and head of a shallower model are those of `lm`, copied.

    Raises:
        ConfigError: `lm` has fewer layers, is narrower, or the width is not even (rotary keys come in pairs) or no whole number of heads.
    """
    whole = lm.config
    if layers > whole.num_hidden_layers or width > whole.hidden_size:
        raise ConfigError(
            f"a model of {layers}x{width} is not smaller than the base, which is {whole.num_hidden_layers}x{whole.hidden_size}; give at most that"
        )
    if width != whole.hidden_size and (width % 2 or (width > HEAD and width % HEAD)):
        raise ConfigError(
            f"a width of {width} holds no whole number of heads; expected an even one up to {HEAD}, or a multiple of {HEAD}"
        )
    config = copy.deepcopy(whole)
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]
    if width == whole.hidden_size:
        shallow: Any = type(lm)(config)
        kept = {name: tensor for name, tensor in lm.state_dict().items() if _layer(name) < layers}
        shallow.load_state_dict(kept)
        return shallow
    config.hidden_size, config.intermediate_size = width, 2 * width
    config.head_dim = min(HEAD, width)
    config.num_attention_heads, config.num_key_value_heads = width // config.head_dim, 1
    narrow: Any = type(lm)(config)
    with torch.no_grad():
        for weight in narrow.parameters():
            # Gains of norms have one dimension and begin at 1.
            new = rng.normal(0.0, STD, weight.shape) if weight.ndim > 1 else np.ones(weight.shape)
            weight.copy_(torch.from_numpy(new))
    return narrow


def _layer(name: str) -> int:
    """Return which layer a weight belongs to; -1 for those outside."""
    found = re.search(r"\blayers\.(\d+)\.", name)
    return -1 if found is None else int(found[1])
