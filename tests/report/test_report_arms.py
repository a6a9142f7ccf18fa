"""The part of a page about a comparison's arms: every run is counted, spread over seeds is stated, and links lead to pages that exist."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest

from backflip.data import Estimate
from backflip.experiments.arms import ArmsConfig
from backflip.measures.stats import mean_interval
from backflip.report import write_report
from backflip.report.arms import arms_section, runs_within
from backflip.report.marks import Dots
from backflip.run import Run

RETURNS = {"labels_700": (1.0, 4.0, 10.0), "true_reward": (2.0, 2.0)}


@pytest.fixture
def comparison(tmp_path: Path) -> Path:
    with Run.create("mujoco", ArmsConfig(), root=tmp_path, folder=tmp_path / "a # sweep", seed=0) as run:
        for arm, values in RETURNS.items():
            for seed, value in enumerate(values):
                folder = run.path / "arms" / arm / f"seed_{seed}"
                with Run.create("control", ArmsConfig(seed=seed), root=tmp_path, folder=folder, seed=seed) as one:
                    one.estimate("pair_accuracy", Estimate(0.9 + 0.05 * seed, 0.8, 1.0, 20))
                    one.estimate("true_return", Estimate(value, value - 1, value + 1, 20))
    return tmp_path / "a # sweep"


def test_means_and_intervals_are_over_the_runs_of_an_arm(comparison: Path) -> None:
    section = arms_section(comparison, runs_within(comparison))
    assert section is not None
    figure, shares = section.figures
    assert isinstance(shares, Dots) and all(row.low >= 0 and row.high <= 1 for row in shares.rows)
    assert isinstance(figure, Dots)
    found = {row.label: row for row in figure.rows}
    expected = mean_interval(np.array(RETURNS["labels_700"]))
    row = found["labels 700"]
    assert (row.value, row.low, row.high, row.n) == (expected.value, expected.low, expected.high, 3)
    assert found["true reward"].value == 2.0


def test_every_run_is_listed_and_its_link_leads_to_its_page(comparison: Path) -> None:
    page = write_report([comparison]).read_text(encoding="utf-8")
    links = re.findall(r'<a href="(arms/[^"]+)">', page)
    assert len(links) == 5
    for link in links:
        own = comparison / unquote(link)
        assert "one run of control" in own.read_text(encoding="utf-8")


def test_a_run_that_is_going_on_is_listed_and_not_averaged(comparison: Path, tmp_path: Path) -> None:
    going = Run.create(
        "control", ArmsConfig(seed=2), root=tmp_path, folder=comparison / "arms" / "true_reward" / "seed_2", seed=2
    )
    going.estimate("true_return", Estimate(99.0, 98.0, 100.0, 20))
    section = arms_section(comparison, runs_within(comparison))
    assert section is not None and "5 of 6 runs" in section.intro
    assert [row[1].text for row in section.tables[0].rows].count("running") == 1
    assert isinstance(section.figures[0], Dots) and max(row.value for row in section.figures[0].rows) == 5.0
    going.finish()


def test_a_run_without_arms_has_no_such_part(tmp_path: Path) -> None:
    with Run.create("control", ArmsConfig(), root=tmp_path, folder=tmp_path / "one", seed=0):
        pass
    assert arms_section(tmp_path / "one", runs_within(tmp_path / "one")) is None
