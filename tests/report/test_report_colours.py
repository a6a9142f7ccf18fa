"""The colours of curves: visible on both papers, and told apart with every kind of colour vision."""

from __future__ import annotations

import re
from importlib.resources import files
from itertools import combinations

import numpy as np
import pytest

from backflip.report.marks import RUN_ROLES, run_role

STYLE = (files("backflip.report") / "templates" / "page.css").read_text(encoding="utf-8")
COLOURS = {name: (light, dark) for name, light, dark in re.findall(r"--(\w+): light-dark\((#\w{6}), (#\w{6})\)", STYLE)}
POLICIES = ("base", "best_of_n", "ppo")
RUNS = tuple(map(run_role, range(RUN_ROLES)))
# Linear-light simulation of missing cones, severity 1 (Machado, Oliveira and Fernandes 2009, table 1).
VISION = {
    "all cones": np.eye(3),
    "no red cones": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "no green cones": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}


def linear(colour: str) -> np.ndarray:
    """Return linear-light red, green, blue."""
    part = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    return np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of WCAG 2."""
    light, dark = sorted((float(linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (one, other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def lab(colour: str, cones: np.ndarray) -> np.ndarray:
    """Return CIELAB under D65 as seen with these cones."""
    seen = np.clip(cones @ linear(colour), 0, 1)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    ratio = to_xyz @ seen / np.array([0.95047, 1.0, 1.08883])
    root = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    return np.array([116 * root[1] - 16, 500 * (root[0] - root[1]), 200 * (root[1] - root[2])])


@pytest.mark.parametrize("theme", [0, 1])
def test_text_and_curves_stand_out_from_the_paper(theme: int) -> None:
    paper, panel = COLOURS["paper"][theme], COLOURS["panel"][theme]
    for name in ("ink", "soft", "link", "good", "caution", "bad", "unmeasured", *POLICIES, *RUNS):
        assert contrast(COLOURS[name][theme], paper) >= 4.5, name
    assert contrast(COLOURS["ink"][theme], panel) >= 7
    assert contrast(COLOURS["ink"][theme], COLOURS["mark"][theme]) >= 4.5


@pytest.mark.parametrize("theme", [0, 1])
@pytest.mark.parametrize("vision", VISION)
def test_policies_and_the_first_runs_are_told_apart(theme: int, vision: str) -> None:
    for names in (POLICIES, RUNS[:4]):
        for one, other in combinations(names, 2):
            gap = np.linalg.norm(lab(COLOURS[one][theme], VISION[vision]) - lab(COLOURS[other][theme], VISION[vision]))
            assert gap >= 15, f"{one} and {other} look alike ({gap:.0f})"
