"""Take the pictures of a report that stand in the documents: `python docs/img/shoot.py RUN [RUN ...]`.

Needs Chromium (`make system`) and the development extra. The first run's page is taken whole at two widths, in light
and dark, and its first screen at the larger width; with several runs the first screen of their comparison too.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Literal

from playwright.sync_api import sync_playwright

from backflip.report import write_report

HERE = Path(__file__).parent
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
SHOTS: tuple[tuple[str, int, Literal["light", "dark"], bool], ...] = (
    ("report-1280-light", 1280, "light", False),
    ("report-1280-dark-whole", 1280, "dark", True),
    ("report-390-light-whole", 390, "light", True),
    ("report-390-dark", 390, "dark", False),
)


def main(runs: list[Path]) -> None:
    """Write the pictures beside this file."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        sys.exit("Chromium is not installed; `make system` installs it")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page = write_report(runs[:1], Path(folder) / "report.html")
        jobs = [(page, *shot) for shot in SHOTS]
        if len(runs) > 1:
            both = write_report(runs, Path(folder) / "comparison.html")
            jobs.append((both, "comparison-1280-light", 1280, "light", False))
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        for path, name, width, scheme, whole in jobs:
            window = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            window.goto(path.as_uri())
            window.wait_for_selector("article.sample, #results")
            window.screenshot(path=HERE / f"{name}.png", full_page=whole)
            window.close()
        browser.close()


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python docs/img/shoot.py RUN [RUN ...]")
    main([Path(argument) for argument in sys.argv[1:]])
