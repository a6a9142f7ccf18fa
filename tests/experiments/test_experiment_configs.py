"""Every experiment's settings survive being written into a run folder: a resumed run has those it began with."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from backflip.experiments import find, listing
from backflip.experiments.reviews import ReviewsConfig
from backflip.experiments.text import Lora, TextConfig
from backflip.loops.stop import StopRules
from backflip.optimise.kl import AdaptiveKL
from backflip.optimise.presets import small_cpu
from backflip.run_config import config_from_json, config_to_json


@pytest.mark.parametrize("name", sorted(listing()))
def test_defaults_are_read_back_as_they_were(name: str) -> None:
    config = find(name).config()
    assert config_from_json(type(config), json.loads(json.dumps(config_to_json(config), allow_nan=False))) == config


def test_choices_are_read_back_as_they_were() -> None:
    config = TextConfig(
        weights=Lora(rank=3),
        kl=AdaptiveKL(),
        components=("a=1*b.py:c",),
        stop=StopRules(judgements=3, minutes=float("inf")),
    )
    for one in (config, replace(config, wait_seconds=2.0)):
        assert config_from_json(TextConfig, json.loads(json.dumps(config_to_json(one)))) == one


def test_the_preset_of_a_small_cpu_is_what_the_main_job_does() -> None:
    config, preset = ReviewsConfig(), small_cpu()
    assert (config.ppo, config.kl, config.scores) == (preset.ppo, preset.kl, preset.scores)
    assert (config.lr, config.adam_eps, config.decay) == (preset.learning_rate, preset.adam_eps, preset.linear_decay)
    assert (config.episodes, config.sampling.temperature) == (preset.episodes_per_update, preset.temperature)
