"""The main job with people: it asks in the background, somebody judges by keys alone, and what it learned is told, reported and traced."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from backflip.cli import main
from backflip.run import read_run
from backflip.store.lineage import Lineage

from .visitors import PASSWORD, QUIET, Served, Visitor, wait_for

COMPARISONS = 40
SMALL = [
    "--overseer", "people", "--wait_seconds", "300", "--comparisons", str(COMPARISONS), "--members", "1", "--normalise_on", "8",
    "--updates", "1", "--episodes", "8", "--best_of", "1", "--sampling.max_new_tokens", "12", "--fit.held_out", "0.3",
]  # fmt: skip


@pytest.fixture
def training(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The main job in a process of its own, as the command line starts it."""
    command = [sys.executable, "-m", "backflip", "run", "reviews", "--folder", str(tmp_path / "run"), "--quiet", *SMALL]
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    yield process
    process.kill()
    process.wait()


def owner_of(page: Page, served: Served) -> None:
    page.goto(f"{served.url}/join/{served.people.invite('owner', '', time.time(), 1.0)}")
    page.fill("input[name=name]", "Olga")
    page.fill("input[name=password]", PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_url("**/study")


def test_the_main_job_learns_from_keys_and_every_judgement_is_found_again(
    chromium: Browser, training: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    wait_for(lambda: (run / "store.sqlite").is_file())
    served = Served(run / "store.sqlite")
    context, owners = (chromium.new_context(viewport={"width": 1280, "height": 800}) for _ in "12")
    try:
        served.study(replace(QUIET, undo_seconds=0.5))
        ann = Visitor(context, served, "Ann", ready=False)
        for _ in range(COMPARISONS):
            ann.ready(120_000)
            first, second = (text.rstrip().endswith(".") for text in ann.texts())
            ann.press("=" if first == second else "1" if first > second else "2")
        expect(ann.page.locator("#question")).to_contain_text("Nothing to judge", timeout=30_000)
        assert training.wait(timeout=300) == 0, (tmp_path / "log").read_text()
        check_told_and_reported(run, (tmp_path / "log").read_text())
        check_traced(owners.new_page(), served)
        assert ann.complaints == []
    finally:
        context.close()
        owners.close()
        served.stop()


def check_told_and_reported(run: Path, printed: str) -> None:
    """The accuracy on Ann's own answers that the fit did not see is printed and on the report's page; nobody calls the gold judge Ann."""
    record = read_run(run)
    found = record.summary["estimates"]["reward_model_held_out_accuracy"]
    print(f"held-out accuracy {found['value']:.2f} ({found['low']:.2f} to {found['high']:.2f}) of {found['n']}")
    assert found["n"] >= 2 and found["value"] >= 0.75, "whatever came to its end was better, always"
    assert re.search(r"answers of its own judges that it was not fitted to +│ " + f"{found['value']:.1%}", printed), (
        printed
    )
    assert record.results["cost"]["judge"] == "people" and record.results["cost"]["comparisons"] == COMPARISONS
    assert main(["report", str(run), "--out", str(run / "report.html")]) == 0
    page = (run / "report.html").read_text(encoding="utf-8")
    assert f"Of {found['n']:,} answers that it was not fitted to" in page and "It agrees with the gold judge on" in page
    assert "agrees with the overseer" not in page


def check_traced(page: Page, served: Served) -> None:
    """By links alone, from the policy to a judgement that taught it, and back to the policy."""
    owner_of(page, served)
    page.get_by_role("link", name="Lineage").click()
    page.get_by_role("row", name="policy").get_by_role("link").first.click()
    expect(page.locator("h1")).to_have_text(re.compile(f"^{COMPARISONS} judgements taught this model"))
    expect(page.locator("main li").first).to_have_text(f"Ann: {COMPARISONS}")
    page.locator("tbody th a").first.click()
    expect(page.locator("main")).to_contain_text("by Ann")
    expect(page.locator("main li a", has_text="policy")).to_have_count(1)
    models = Lineage(served.store).models()
    assert [one.kind for one in models] == ["reward", "policy"] and json.dumps(models[1].parents) == json.dumps(
        [models[0].id]
    )
