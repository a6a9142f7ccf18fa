"""Comparison pages: the same estimates side by side, what was set differently, and what a single seed cannot say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from backflip.report import write_report
from backflip.report.compare import comparison, differing
from backflip.report.evidence import gather
from backflip.report.marks import Dots, Lines
from backflip.run_record import names_of


def test_a_comparison_lies_beside_the_first_run(fabricate: Callable[..., Path], tmp_path: Path) -> None:
    out = write_report([fabricate("one"), fabricate("two", seed=1)], None)
    assert out == tmp_path / "comparison.html"


def test_runs_that_differ_only_by_seed_show_their_spread(fabricate: Callable[..., Path]) -> None:
    found = [gather(fabricate(f"seed-{seed}", seed=seed)) for seed in range(3)]
    assert differing(found) == {}
    page = comparison(found)
    assert "Over 3 seeds" in page.lead[0]
    assert "is not shown to differ" in page.headline


def test_settings_that_differ_are_listed_and_only_those(fabricate: Callable[..., Path]) -> None:
    found = [gather(fabricate("one")), gather(fabricate("two", seed=1, comparisons=500))]
    assert differing(found) == {"comparisons": ["2000", "500"]}
    assert "may be the seed's" in comparison(found).lead[0]


def test_a_real_difference_is_said_with_its_interval(fabricate: Callable[..., Path]) -> None:
    page = comparison([gather(fabricate("good")), gather(fabricate("gamed", turn_nats=4.0, status="stopped"))])
    assert "gamed differs by -" in page.headline and "points (" in page.headline
    assert page.badge == ("1 of 2 done", "caution")
    assert any("gamed: This run was stopped" in warning for warning in page.warnings)


def test_every_run_is_in_every_figure(fabricate: Callable[..., Path]) -> None:
    page = comparison([gather(fabricate(name, seed=seed)) for seed, name in enumerate(("one", "two", "three"))])
    names = {"one", "two", "three"}
    for figure in (figure for section in page.sections for figure in section.figures):
        match figure:
            case Lines():
                assert {one.name for one in figure.series} == names
                assert len({one.role for one in figure.series}) == 3
            case Dots():
                assert {row.label for row in figure.rows} == names


def test_answers_of_the_runs_stand_beside_each_other(fabricate: Callable[..., Path]) -> None:
    page = comparison([gather(fabricate("one")), gather(fabricate("two", seed=1, samples=25))])
    samples: Any = page.data["samples"]
    assert [policy["label"] for policy in samples["policies"]] == ["Base (of the first run)", "one", "two"]
    assert len(samples["rows"]) == 25


def test_runs_without_anything_in_common_still_make_a_page(fabricate: Callable[..., Path], tmp_path: Path) -> None:
    from backflip.run import Run

    Run.create("reviews_base", {"steps": 2}, root=tmp_path, folder=tmp_path / "bare", seed=0).finish()
    page = comparison([gather(fabricate("one")), gather(tmp_path / "bare")])
    assert "share no estimate" in page.headline
    assert {"results", "settings", "cost", "reproduce"} <= {section.id for section in page.sections}


def test_folders_of_one_name_are_told_apart(fabricate: Callable[..., Path], tmp_path: Path) -> None:
    found = [gather(fabricate("a/run")), gather(fabricate("b/run", seed=1))]
    assert names_of([one.path for one in found]) == ["a/run", "b/run"]
