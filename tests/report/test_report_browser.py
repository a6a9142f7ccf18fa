"""The page in a real browser: no request, no script of a model's making, no overflow on a phone, usable by keys."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Error, Page, Request, expect

from backflip.report import write_report
from backflip.run import Run

EVIL = "</script><script>window.stolen=1</script><img src=x onerror='window.stolen=1'><svg onload='window.stolen=1'>"


class Watched:
    """A page with everything it asked for and complained about."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.requests: list[str] = []
        self.complaints: list[str] = []
        page.on("request", self._request)
        page.on("console", self._console)
        page.on("pageerror", self._error)

    def _request(self, request: Request) -> None:
        self.requests.append(request.url)

    def _console(self, message: ConsoleMessage) -> None:
        self.complaints.append(message.text)

    def _error(self, error: Error) -> None:
        self.complaints.append(str(error))


Open = Callable[..., Watched]


@pytest.fixture
def visit(chromium: Browser) -> Iterator[Open]:
    """Return a function that opens a file in a window of its own."""
    contexts: list[Any] = []

    def visit_file(
        path: Path, width: int = 1280, scheme: Literal["light", "dark"] = "light", scripts: bool = True
    ) -> Watched:
        context = chromium.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, java_script_enabled=scripts, offline=True
        )
        contexts.append(context)
        context.set_default_timeout(60_000)  # a guard against hanging on a busy machine, not a measurement
        watched = Watched(context.new_page())
        watched.page.goto(path.as_uri())
        if scripts:  # figures are drawn when the browser first lays the page out, which may come after its load event
            watched.page.wait_for_function("!document.querySelector('figure:not(:has(svg))')")
        return watched

    yield visit_file
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def report(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report([finished], tmp_path_factory.mktemp("report") / "report.html")


def evil_run(folder: Path) -> Path:
    """Write a run in which everything that a model, a config or a judge may say is an attack."""
    run = Run.create("reviews", {"question": EVIL, EVIL: 1}, root=folder.parent, folder=folder, seed=0)
    run.note(EVIL)
    for step in range(3):
        run.log(
            step,
            "check",
            proxy=1.0 + step,
            gold_win_rate=0.5,
            kl_nats_per_sequence=float(step),
            n=9,
            **{EVIL: 1.0 + step},
        )
        run.log(step, EVIL, **{EVIL: 1.0 + step})
    estimate = {"value": 1.0, "low": 0.0, "high": 2.0, "n": 3}
    run.table("table", [{"policy": EVIL, EVIL: estimate}, {"policy": "ppo", "gold_win_rate": estimate}])
    rows = [
        {
            "prompt": f"{i} {EVIL}",
            "base": EVIL,
            EVIL: EVIL,
            "proxy": {"base": 1.0, EVIL: 2.0},
            "gold": {"base": 1.0, EVIL: i},
        }
        for i in range(5)
    ]
    run.samples(rows)
    run.result("best_of_n", [{"n": 4, "kl_bound_nats": 0.6, "proxy": 1.0}])
    run.result("cost", {"seconds_by_phase": {EVIL: 3.0}, EVIL: 4.0})
    run.result(
        "reward_model",
        {"baselines": {EVIL: estimate}, "accuracy": estimate, "bins": [{"predicted": 0.5, "observed": 0.5, "n": 9}]},
    )
    run.finish()
    return folder


def test_the_page_opens_without_a_request_or_a_complaint(visit: Open, report: Path) -> None:
    watched = visit(report)
    watched.page.wait_for_selector("article.sample")
    assert watched.complaints == []
    assert [url for url in watched.requests if not url.startswith(("file:", "data:"))] == []
    assert watched.page.locator("figure svg").count() == watched.page.locator("figure").count() > 10


def test_what_models_write_does_nothing_but_stand_there(visit: Open, tmp_path: Path) -> None:
    watched = visit(write_report([evil_run(tmp_path / "evil")], None))
    page = watched.page
    page.wait_for_selector("article.sample")
    page.get_by_label("Search openings and answers").fill("onerror")
    for box in page.locator("select").all():
        for option in box.locator("option").all():
            box.select_option(option.get_attribute("value"))
    page.get_by_label("Show", exact=True).select_option("all")
    for drawing in page.locator("figure svg[tabindex]").all():
        drawing.focus()
        page.keyboard.press("ArrowRight")
    for closed in page.locator("details > summary").all():
        closed.click()
    assert page.evaluate("window.stolen") is None
    assert page.locator("img, script, iframe").count() == 2, "the data block and the page's own script"
    assert page.locator("article.sample p").first.inner_text() == EVIL
    assert watched.complaints == []


def test_the_policy_would_stop_an_injection_that_got_through(visit: Open, report: Path) -> None:
    attack = "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.stolen=1\">')"
    guarded = visit(report)
    guarded.page.evaluate(attack)
    guarded.page.wait_for_timeout(200)
    assert guarded.page.evaluate("window.stolen") is None and guarded.complaints
    bare = report.with_name("bare.html")
    bare.write_text(
        report.read_text(encoding="utf-8").replace("Content-Security-Policy", "x-nothing"), encoding="utf-8"
    )
    open_page = visit(bare).page
    open_page.evaluate(attack)
    open_page.wait_for_function("window.stolen === 1")


CUT_OFF = """() => [...document.querySelectorAll('figure svg')].flatMap((drawing) => {
  const box = drawing.getBoundingClientRect();
  return [...drawing.querySelectorAll('text')].filter((text) => {
    const own = text.getBoundingClientRect();
    return own.left < box.left - 1.5 || own.right > box.right + 1.5 || own.top < box.top - 1.5 || own.bottom > box.bottom + 1.5;
  }).map((text) => drawing.getAttribute('aria-label').slice(0, 30) + ': ' + text.textContent);
})"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_wider_than_the_screen_or_cut_off(
    visit: Open, fabricate: Callable[..., Path], width: int, scheme: Literal["light", "dark"]
) -> None:
    one, two = fabricate("a-run-with-a-long-name"), fabricate("another-run-with-a-longer-name", seed=1)
    for path in (write_report([one], None), write_report([one, two], None)):
        page = visit(path, width, scheme).page
        page.wait_for_selector("article.sample")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(CUT_OFF) == []


def test_the_theme_follows_the_system_until_it_is_chosen(visit: Open, report: Path) -> None:
    page = visit(report, scheme="dark").page
    paper = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(paper)
    button = page.locator("#theme")
    button.click()
    light = page.evaluate(paper)
    assert dark != light
    assert light == visit(report, scheme="light").page.evaluate(paper)
    button.click()
    assert page.evaluate(paper) == dark and button.inner_text() == "Theme: dark"


def test_a_figure_is_read_by_keys_alone(visit: Open, report: Path) -> None:
    page = visit(report).page
    data = json.loads(page.locator("#data").text_content() or "")["figures"]["ppo-entropy_nats"]["series"][0]
    figure = page.locator("figure[data-figure='ppo-entropy_nats']")
    figure.locator("svg").focus()
    page.keyboard.press("End")
    said = figure.locator("[aria-live]")
    assert f"{data['x'][-1]:.0f}" in said.inner_text() and f"{data['y'][-1]:.2f}" in said.inner_text()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert f"{data['y'][1]:.2f}" in said.inner_text() and figure.locator(".tip").is_visible()
    page.keyboard.press("Escape")
    assert figure.locator(".tip").is_hidden()


def test_keys_go_from_series_to_series_and_linked_figures_follow(visit: Open, report: Path) -> None:
    page = visit(report).page
    proxy, gold = (page.locator(f"figure[data-figure='kl-{name}']") for name in ("proxy", "gold_win_rate"))
    gold.locator("svg").focus()
    page.keyboard.press("ArrowRight")
    assert (
        "PPO: 50\u00a0%" in gold.locator(".tip").inner_text()
        and "check at update 0" in gold.locator(".tip").inner_text()
    )
    page.keyboard.press("ArrowDown")
    assert (
        "Best of n" in gold.locator(".tip").inner_text()
        and "n = 2, KL is its upper bound" in gold.locator(".tip").inner_text()
    )
    assert "Best of n: 0.450" in proxy.locator(".tip").inner_text()
    page.keyboard.press("Tab")
    assert gold.locator(".tip").is_hidden() and proxy.locator(".tip").is_hidden()


def test_pointing_shows_the_nearest_point(visit: Open, report: Path) -> None:
    page = visit(report).page
    figure = page.locator("figure[data-figure='kl-proxy']")
    point = figure.locator("svg circle.point").nth(3)
    point.scroll_into_view_if_needed()
    point.hover()
    assert "check at update 9" in figure.locator(".tip").inner_text()


def test_curves_can_be_hidden_but_never_all(visit: Open, report: Path) -> None:
    figure = visit(report).page.locator("figure[data-figure='kl-proxy']")
    buttons = figure.locator("button.series")
    assert figure.locator("polyline.curve").count() == 2
    buttons.nth(0).click()
    assert figure.locator("polyline.curve").count() == 1 and buttons.nth(0).get_attribute("aria-pressed") == "false"
    buttons.nth(1).click()
    assert figure.locator("polyline.curve").count() == 1
    buttons.nth(0).click()
    assert figure.locator("polyline.curve").count() == 2


def test_the_square_root_scale_spreads_small_kl(visit: Open, report: Path) -> None:
    figure = visit(report).page.locator("figure[data-figure='kl-proxy']")
    first = figure.locator("circle.point").nth(1)
    before = float(first.get_attribute("cx") or 0)
    figure.get_by_role("button", name="Square-root scale").click()
    assert float(first.get_attribute("cx") or 0) > before


def test_the_numbers_of_a_figure_stand_in_its_table(visit: Open, report: Path) -> None:
    page = visit(report).page
    series = json.loads(page.locator("#data").text_content() or "")["figures"]["calibration"]["series"][0]
    figure = page.locator("figure[data-figure='calibration']")
    figure.locator("summary").click()
    rows = figure.locator("tbody tr")
    expect(rows).to_have_count(len(series["x"]), timeout=60_000)  # the table is made when the toggle event arrives
    assert rows.count() == 7
    assert f"{100 * series['x'][3]:.0f}" in rows.nth(3).inner_text() and "71 pairs" in rows.nth(3).inner_text()


def shown(page: Page) -> list[int]:
    """Return the numbers of the samples on the screen."""
    return [int(text.split(".")[0]) for text in page.locator("article.sample h3").all_inner_texts()]


def test_samples_are_paged_and_only_one_page_exists(visit: Open, report: Path) -> None:
    page = visit(report).page
    page.wait_for_selector("article.sample")
    assert shown(page) == list(range(1, 11))
    page.get_by_role("button", name="Next").first.click()
    assert shown(page) == list(range(11, 21))
    page.get_by_label("A page", exact=True).select_option("100")
    assert len(shown(page)) == 100
    page.get_by_role("button", name="Next").first.click()
    page.get_by_role("button", name="Next").first.click()
    assert shown(page) == list(range(201, 231))
    assert page.get_by_role("button", name="Next").first.is_disabled()


def test_samples_are_sorted_filtered_and_searched(visit: Open, report: Path) -> None:
    page = visit(report).page
    page.wait_for_selector("article.sample")
    rows = json.loads(page.locator("#data").text_content() or "")["samples"]["rows"]
    gain = {kind: [row[place][2] - row[place][0] for row in rows] for kind, place in (("proxy", 2), ("gold", 3))}
    page.get_by_label("A page", exact=True).select_option("100")

    page.get_by_label("Sort by", exact=True).select_option(label="Gold gain, base to PPO")
    expected = sorted(range(len(rows)), key=lambda i: (-gain["gold"][i], i))[:100]
    assert shown(page) == [i + 1 for i in expected]
    page.get_by_label("Order", exact=True).select_option("up")
    assert shown(page) == [i + 1 for i in sorted(range(len(rows)), key=lambda i: (gain["gold"][i], i))[:100]]

    page.get_by_label("Sort by", exact=True).select_option("file")
    page.get_by_label("Order", exact=True).select_option("down")
    page.get_by_label("Show", exact=True).select_option("fooled")
    gamed = [i + 1 for i in range(len(rows)) if gain["proxy"][i] > 0 and gain["gold"][i] < 0]
    assert shown(page) == gamed[:100] and gamed

    page.get_by_label("Show", exact=True).select_option("all")
    page.get_by_label("Search openings and answers").fill("OPENING 17")
    assert shown(page) == [17, *range(170, 180)]
    assert page.locator("mark").first.inner_text() == "opening 17"
    page.get_by_label("Search openings and answers").fill("no such words anywhere")
    assert shown(page) == [] and "No sample matches" in page.locator(".count[role=status]").inner_text()


def test_the_explorer_draws_any_number_of_any_phase(visit: Open, report: Path) -> None:
    page = visit(report).page
    part = page.locator("#explorer-part")
    part.get_by_label("Phase", exact=True).select_option("reward")
    part.get_by_label("Number", exact=True).select_option("held_out_accuracy")
    assert part.locator("figcaption b").inner_text() == "Agreement on held-out pairs"
    assert part.locator("polyline.curve").count() == 3
    part.get_by_label("Phase", exact=True).select_option("ppo")
    part.get_by_label("Number", exact=True).select_option("grad_norm")
    part.get_by_label("Against", exact=True).select_option("kl_nats_per_sequence")
    raw = part.locator("polyline.curve").get_attribute("points")
    part.get_by_label("Smoothing", exact=True).select_option("20")
    assert part.locator("polyline.curve").get_attribute("points") != raw


def test_the_words_and_tables_need_no_script(visit: Open, report: Path) -> None:
    page = visit(report, scripts=False).page
    assert "The gold judge prefers PPO's answer" in page.locator("#headline").inner_text()
    assert page.locator("#results table tbody tr").count() >= 6
    assert "need JavaScript" in page.locator("noscript").inner_text()


def test_the_comparison_overlays_the_curves_of_its_runs(visit: Open, fabricate: Callable[..., Path]) -> None:
    watched = visit(write_report([fabricate("one"), fabricate("two", seed=1)], None))
    page = watched.page
    page.wait_for_selector("article.sample")
    assert watched.complaints == []
    assert page.locator("#explorer-part polyline.curve").count() == 2
    assert page.locator("figure[data-figure='kl-gold_win_rate'] polyline.curve").count() == 2
    assert page.locator("article.sample").first.locator(".answer").count() == 3
