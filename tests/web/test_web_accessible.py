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
from playwright.sync_api import Browser, Dialog, Page

from .gallery import SCENES, Gallery, Scene, hang
from .visitors import Served, wait_for

LOOKS: list[tuple[Any, int]] = [("light", 1280), ("dark", 1280), ("dark", 390), ("light", 390)]
CONTRASTS = (("light", 1280), ("dark", 390))
"""Where contrast is looked at, the slowest rule: colours follow the scheme and not the width."""
BAD = ("serious", "critical")
OVER_THE_EDGE = (
    "document.documentElement.scrollWidth > window.innerWidth || document.body.scrollWidth > window.innerWidth"
)
SMALL = """() => [...document.querySelectorAll("button, summary, select, input:not([type=hidden]), textarea, .menu a")].flatMap((one) => {
  const inside = one.closest("label, fieldset label");
  const box = (one.matches("[type=radio], [type=checkbox]") && inside ? inside : one).getBoundingClientRect();
  return box.width && box.height && box.height < 44 ? [`${one.outerHTML.slice(0, 90)} is ${box.height} high`] : [];
})"""
"""What a thumb misses: controls that are less than 44 px high."""


RUN = """window.canary !== undefined || [...document.links].some((one) => !one.protocol.startsWith("http"))
  || !!document.querySelector("img, script:not([src]), [onerror]")"""
"""Whether something that somebody wrote became more than text; the pages' policy alone would hide that it did."""


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


def faults(page: Page, contrast: bool = True) -> list[str]:
    """What axe finds that keeps people out."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE_SCRIPT)
    rules = {"color-contrast": {"enabled": contrast}}
    found = page.evaluate("rules => axe.run({resultTypes: ['violations'], elementRef: false, rules})", rules)
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
    found: list[str] = []

    def dialog_opened(dialog: Dialog) -> None:
        found.append(f"it opened {dialog.message}")
        dialog.dismiss()

    page.on("dialog", dialog_opened)
    gallery.open(page, scene)
    for scheme, width in LOOKS:
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 800})
        look = f"{scheme} {width}: "
        found += [look + one for one in faults(page, contrast=(scheme, width) in CONTRASTS)]
        if page.evaluate(OVER_THE_EDGE):
            found.append(look + "the page scrolls sideways")
        if width < 500:
            found += [look + one for one in page.evaluate(SMALL)]
        if pictures:
            page.screenshot(
                path=Path(pictures) / f"{scene.name}-{scheme}-{width}.png",
                full_page=not scene.path.startswith("/judge"),
            )
    if page.evaluate(RUN):
        found.append("what somebody wrote was run, or made into a part of the page")
    assert found == [], "\n".join(found)


def test_faults_would_be_seen(page: Page) -> None:
    for written in ("<img src=x>", "<script>window.canary=1</script>", "<a href='javascript:0'>x</a>"):
        page.set_content(written)
        assert page.evaluate(RUN), written
    page.set_content(
        "<html lang=en><title>x</title><main><img src=x><p style='color:#ccc'>pale</p><div style='width:3000px'>x</div><button>x</button>"
    )
    page.set_viewport_size({"width": 390, "height": 800})
    assert {one.split(" ")[0] for one in faults(page)} == {"image-alt", "color-contrast"}
    assert page.evaluate(OVER_THE_EDGE) and len(page.evaluate(SMALL)) == 1


def tab_through(page: Page, most: int = 60) -> list[str]:
    """Go through the page by Tab alone until it comes round again; each stop, and a fault where it cannot be seen."""
    stops: list[str] = []
    for _ in range(most):
        page.keyboard.press("Tab")
        stop = page.evaluate("""() => {
          const one = document.activeElement, look = getComputedStyle(one), box = one.getBoundingClientRect();
          if (one === document.body) return null;
          const seen = look.outlineStyle !== "none" && parseFloat(look.outlineWidth) >= 2 && box.width > 0 && box.bottom > 0 && box.top < innerHeight;
          const top = document.elementFromPoint(box.x + box.width / 2, Math.max(box.y + 1, 1));
          const covered = top && !one.contains(top) && !top.contains(one) && box.height < 100;
          return (one.id || one.name || one.dataset.sub || one.innerText.slice(0, 30)) + (seen ? "" : " CANNOT BE SEEN") + (covered ? " COVERED" : "");
        }""")
        if stop is None or stop in stops[:1]:
            return stops
        stops.append(stop)
    return stops


@pytest.mark.parametrize("width", [1280, 390])
def test_the_tab_key_reaches_every_control_and_shows_where_it_is(gallery: Gallery, page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 700})
    gallery.open(page, next(one for one in SCENES if one.name == "judge-axes"))
    stops = tab_through(page)
    assert not [one for one in stops if one.isupper() or "CANNOT" in one or "COVERED" in one], stops
    wanted = page.evaluate(
        "[...document.querySelectorAll('a, button:enabled, textarea, section[tabindex]')].filter(one => one.checkVisibility()).length"
    )
    groups = page.evaluate("new Set([...document.querySelectorAll('[type=radio]')].map(one => one.name)).size")
    assert len(stops) >= wanted + groups and groups == 2, stops
    assert stops.index("side1") < stops.index("side2") < stops.index("why")


def test_a_judgement_with_all_its_parts_by_keys_alone(gallery: Gallery, page: Page) -> None:
    gallery.open(page, next(one for one in SCENES if one.name == "judge-axes"))
    before = gallery.served.store.counts()["judgements"]

    def go_to(selector: str) -> None:
        for _ in range(40):
            if page.evaluate("wanted => document.activeElement.matches(wanted)", selector):
                return
            page.keyboard.press("Tab")
        raise AssertionError(f"Tab does not reach {selector}")

    page.keyboard.press("1")
    assert "first" in page.locator("#trouble").inner_text()
    go_to("[data-sub]")
    page.keyboard.type("1 = s d ?")
    go_to("[data-sub='Is it so?']")
    page.keyboard.type("It is.")
    go_to("[type=radio]")
    page.keyboard.press("Space")
    page.keyboard.press("ArrowRight")
    go_to("[type=radio][name*=useful]")
    page.keyboard.press("Space")
    page.keyboard.press("2")
    wait_for(lambda: gallery.served.store.counts()["judgements"] == before + 1)
    told = gallery.served.store.judgements(0)[0][before]
    assert told.details["axes"] == {"more truthful": "=", "more useful to somebody who knows nothing": "1"}
    assert told.details["sub"] == {"What is claimed?": "1 = s d ?", "Is it so?": "It is."}


def test_the_guideline_opens_at_its_beginning_and_gives_the_focus_back(gallery: Gallery, page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 500})
    gallery.open(page, next(one for one in SCENES if one.name == "judge-prose"))
    page.locator("#help").focus()
    page.keyboard.press("Enter")
    assert page.locator("#guideline").is_visible()
    assert page.evaluate("document.querySelector('#guideline').scrollTop") == 0
    for _ in range(8):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement === document.body || !!document.activeElement.closest('dialog')")
    page.keyboard.press("Escape")
    assert not page.locator("#guideline").is_visible()
    assert page.evaluate("document.activeElement.id") == "help"


def test_a_long_text_is_read_by_keys_and_a_key_held_down_judges_once(gallery: Gallery, page: Page) -> None:
    gallery.open(page, next(one for one in SCENES if one.name == "judge-huge"))
    long = page.evaluate("[1, 2].find(k => document.querySelector(`#side${k}`).scrollHeight > 2000)")
    page.locator(f"#side{long}").focus()
    page.keyboard.press("ArrowDown")
    page.wait_for_function(f"() => document.querySelector('#side{long}').scrollTop > 0")
    assert page.locator(f"#side{long}").inner_text().startswith("word"), "the arrow scrolled, and did not judge"
    page.evaluate("document.activeElement.blur()")
    before = gallery.served.store.counts()["judgements"]
    for _ in range(4):
        page.keyboard.down("s")
    page.wait_for_timeout(500)
    assert gallery.served.store.counts()["judgements"] <= before + 1


def test_the_explanation_of_a_trial_comes_into_view_on_a_phone(gallery: Gallery, page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 700})
    gallery.open(page, next(one for one in SCENES if one.name == "trial-explained"))
    button, bar = page.locator("#known button").bounding_box(), page.locator(".bottom").bounding_box()
    assert button and bar and button["y"] >= 0 and button["y"] + button["height"] <= bar["y"]
