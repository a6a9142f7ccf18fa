"""Every page for everybody: no serious fault that axe finds, nothing that runs over the edge, and all of it by the keyboard alone.

Each page in light and dark, on a wide screen and on a phone. The pages' own strictness stays in force: axe is brought in by the
browser's debugger, not by the page.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Browser, Page

from .gallery import SCENES, Gallery, Scene, hang
from .visitors import Served

LOOKS: list[tuple[Any, int]] = [("light", 1280), ("dark", 1280), ("dark", 390), ("light", 390)]
BAD = ("serious", "critical")
OVER_THE_EDGE = "document.documentElement.scrollWidth > window.innerWidth || document.body.scrollWidth > window.innerWidth"
SMALL = """() => [...document.querySelectorAll("button, summary, select, input:not([type=hidden]), textarea, .menu a")].flatMap((one) => {
  const inside = one.closest("label, fieldset label");
  const box = (one.matches("[type=radio], [type=checkbox]") && inside ? inside : one).getBoundingClientRect();
  return box.width && box.height && box.height < 44 ? [`${one.outerHTML.slice(0, 90)} is ${box.height} high`] : [];
})"""
"""What a thumb misses: controls that are less than 44 px high."""


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gallery]:
    served = Served(tmp_path_factory.mktemp("gallery") / "store.sqlite")
    yield hang(served)
    served.stop()


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    context = chromium.new_context(reduced_motion="reduce")
    yield context.new_page()
    context.close()


def faults(page: Page) -> list[str]:
    """What axe finds that keeps people out."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE_SCRIPT)
    found = page.evaluate("axe.run({resultTypes: ['violations'], elementRef: false})")
    return [
        f"{one['id']} ({one['impact']}): {node['target']} {node['failureSummary']}"
        for one in found["violations"]
        if one["impact"] in BAD
        for node in one["nodes"]
    ]


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_every_page_is_for_everybody(gallery: Gallery, page: Page, scene: Scene) -> None:
    pictures = os.environ.get("BACKFLIP_SCREENSHOTS")
    page.set_viewport_size({"width": LOOKS[0][1], "height": 800})
    gallery.open(page, scene)
    found: list[str] = []
    for scheme, width in LOOKS:
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 800})
        look = f"{scheme} {width}: "
        found += [look + one for one in faults(page)]
        if page.evaluate(OVER_THE_EDGE):
            found.append(look + "the page scrolls sideways")
        if width < 500:
            found += [look + one for one in page.evaluate(SMALL)]
        if pictures:
            page.screenshot(path=Path(pictures) / f"{scene.name}-{scheme}-{width}.png", full_page=not scene.path.startswith("/judge"))
    assert found == [], "\n".join(found)


def test_faults_would_be_seen(page: Page) -> None:
    page.set_content("<html lang=en><title>x</title><main><img src=x><p style='color:#ccc'>pale</p><div style='width:3000px'>x</div><button>x</button>")
    page.set_viewport_size({"width": 390, "height": 800})
    assert {one.split(" ")[0] for one in faults(page)} == {"image-alt", "color-contrast"}
    assert page.evaluate(OVER_THE_EDGE) and len(page.evaluate(SMALL)) == 1
