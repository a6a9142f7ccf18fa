"""The figure of all methods: what is shown on which scale, and how what trains nothing is told from what does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from backflip.data import Estimate
from backflip.report import write_report
from backflip.report.frontier import FAR, frontier_section
from backflip.report.marks import Lines


def estimates(*values: float) -> list[dict[str, float]]:
    return [Estimate(one, one, one, 5).as_json() for one in values]


def results(*ends: float) -> dict[str, Any]:
    """Results of methods whose paths end at these KLs; the last one is best-of-n."""
    names = [*"abcdefghi"[: len(ends) - 1], "best_of_n"]
    paths = {
        name: {"kl_nats": estimates(0.0, end), "gold": estimates(0.0, 1.0), "gold_win_rate": estimates(0.5, 0.7)}
        for name, end in zip(names, ends, strict=True)
    }
    return {"frontier": {"paths": paths, "compared": [], "against": "a", "seeds": [0], "ends": {}, "budget": {}}}


@pytest.mark.parametrize(("ends", "rooted"), [((1.0, 2.0, 3.0), False), ((1.0, 2.0, FAR * 2.0 + 0.1), True)])
def test_a_path_that_goes_far_does_not_press_the_others_together(ends: tuple[float, ...], rooted: bool) -> None:
    faults: list[str] = []
    section = frontier_section(results(*ends), faults)
    assert section is not None and not faults
    assert [(one.x.rooted, one.wide) for one in section.figures if isinstance(one, Lines)] == [(rooted, True)] * 2


def test_the_scale_can_be_changed_and_best_of_n_is_told_by_its_shape(
    fabricate: Callable[..., Path], chromium: Browser
) -> None:
    run = fabricate("one")
    (run / "results" / "frontier.json").write_text(json.dumps(results(1.0, 2.0, 40.0, 1.5)["frontier"]))
    page = chromium.new_page(viewport={"width": 1280, "height": 800})
    page.goto(write_report([run], None).as_uri())
    figure = page.locator("figure[data-figure='frontier-gold']")
    figure.scroll_into_view_if_needed()
    assert [figure.locator(f"svg {mark}.point").count() for mark in ("circle", "path")] == [6, 2]
    assert figure.evaluate("one => one.clientWidth === one.parentElement.clientWidth")
    button, axis = figure.get_by_role("button", name="Square-root scale"), figure.get_by_text("nats an answer").last
    expect(button).to_have_attribute("aria-pressed", "true")
    expect(axis).to_contain_text("square-root scale")
    button.click()
    expect(button).to_have_attribute("aria-pressed", "false")
    expect(axis).not_to_contain_text("square-root scale")
    page.close()
