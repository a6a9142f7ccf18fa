"""The page as a file: complete, self-contained, safe against what models write, and honest about what is missing."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backflip.errors import ConfigError, DataError
from backflip.report import page, write_report
from backflip.report.evidence import gather
from backflip.report.figures import kl_figures, table_figures
from backflip.report.marks import Dots, Lines
from backflip.report.page import run_page, videos
from backflip.report.render import embed, render
from backflip.report.reward import fit_figures, reward_model_figures
from backflip.run import Run

EVIL = "</script><script>window.stolen=1</script><img src=x onerror=window.stolen=1>\u2028\u2029<!--"


def data_of(page: str) -> Any:
    """Return the data block of a page, parsed."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found.group(1))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda part: st.lists(part) | st.dictionaries(st.text(), part),
)


@given(JSON)
def test_embedded_data_is_unchanged_and_cannot_end_its_element(value: Any) -> None:
    text = embed(value)
    assert json.loads(text) == value
    assert not set(text) & set("<>&\u2028\u2029")
    text.encode("utf-8")


def test_embedding_survives_half_a_character() -> None:
    assert json.loads(embed("a\ud800b")) == "a\ud800b"
    embed("a\ud800b").encode("utf-8")


def test_numbers_that_json_does_not_know_are_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        embed(float("nan"))


def test_the_page_lies_in_the_run_and_the_run_is_not_changed(fabricate: Callable[..., Path]) -> None:
    folder = fabricate()

    def content() -> dict[str, bytes]:
        return {
            str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file() and file.name != "report.html"
        }

    before = content()
    out = write_report([folder], None)
    assert out == folder / "report.html" and out.stat().st_size < 1_000_000
    assert content() == before


def test_the_page_asks_nobody_for_anything(fabricate: Callable[..., Path]) -> None:
    page = write_report([fabricate()], None).read_text(encoding="utf-8")
    page = page.replace("http://www.w3.org/2000/svg", "the name of SVG, which nobody fetches")
    assert "://" not in page and not re.search(r"//\w+\.\w", page)
    assert not re.search(r"<link[^>]+stylesheet|@import|<iframe|<img|\bsrc=|url\(", page)


def test_the_policy_names_exactly_the_script_and_style_of_the_page(fabricate: Callable[..., Path]) -> None:
    page = write_report([fabricate()], None).read_text(encoding="utf-8")
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', page).group(1))  # pyright: ignore[reportOptionalMemberAccess]
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy
    for tag, directive in (("style", "style-src"), ("script", "script-src")):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        expected = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{directive} 'sha256-{expected}'" in policy
    assert not re.search(r"\son\w+=|\sstyle=", page.split("<script", maxsplit=1)[0])


def test_what_a_model_or_a_config_says_cannot_become_markup(tmp_path: Path) -> None:
    run = Run.create("reviews", {"question": EVIL, EVIL: 1}, root=tmp_path, folder=tmp_path / "run", seed=0)
    run.note(EVIL)
    run.log(1, EVIL, **{EVIL: 1.0})
    run.log(2, EVIL, **{EVIL: 2.0})
    estimate = {"value": 1.0, "low": 0.0, "high": 2.0, "n": 3}
    run.table("table", [{"policy": EVIL, EVIL: estimate}])
    run.samples([{"prompt": EVIL, "base": EVIL, EVIL: EVIL, "proxy": {EVIL: 1.0}, "gold": {"base": 2.0}}])
    run.result("cost", {"seconds_by_phase": {EVIL: 3.0}, EVIL: 4.0})
    run.result("reward_model", {"baselines": {EVIL: estimate}, "accuracy": estimate})
    run.finish()
    page = write_report([tmp_path / "run"], tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<img" not in page and "<!--" not in page and page.count("<script") == 2
    assert data_of(page)["samples"]["rows"][0][0] == EVIL


def test_every_figure_has_its_place_its_numbers_and_a_unique_id(fabricate: Callable[..., Path]) -> None:
    page = run_page(gather(fabricate()))
    figures = [figure for section in page.sections for figure in section.figures]
    text = render(page)
    placed = re.findall(r'data-figure="([^"]+)"', text)
    assert sorted(placed) == sorted(figure.id for figure in figures) == sorted(data_of(text)["figures"])
    for figure in figures:
        match figure:
            case Lines():
                assert figure.series and all(len(one.x) == len(one.y) > 0 for one in figure.series)
                assert all(len(one.low) == len(one.high) and len(one.low) in (0, len(one.x)) for one in figure.series)
            case Dots():
                assert figure.rows and all(row.low <= row.value <= row.high for row in figure.rows)


def test_the_sections_of_a_whole_run(fabricate: Callable[..., Path]) -> None:
    page = run_page(gather(fabricate()))
    expected = [
        "results",
        "kl",
        "scatter",
        "training",
        "reward",
        "diversity",
        "explorer",
        "samples",
        "cost",
        "reproduce",
        "settings",
    ]
    assert [section.id for section in page.sections] == expected


def test_best_of_n_shows_its_bound_as_a_bound(fabricate: Callable[..., Path]) -> None:
    evidence = gather(fabricate())
    text = render(run_page(evidence))
    assert "\u2264 1.84" in text and "upper bound" in text
    kl = next(one for one in table_figures(evidence) if one.id == "table-kl_nats_per_sequence")
    assert [row.label.endswith("at most") for row in kl.rows] == [False, True, False]


def test_best_of_n_stands_beside_the_mean_and_the_worst(fabricate: Callable[..., Path]) -> None:
    table = next(one for one in run_page(gather(fabricate())).sections[0].tables if "worst of n" in one.columns)
    assert [cell.text for cell in table.rows[0]] == ["2", "62\u00a0%", "50\u00a0%", "38\u00a0%"]


def test_the_calibration_of_preferred_answers_starts_at_one_half(fabricate: Callable[..., Path]) -> None:
    folder = fabricate()
    path = folder / "results" / "reward_model.json"
    result = json.loads(path.read_text(encoding="utf-8"))
    result["bins"] = [{"predicted": p, "observed": 0.5, "n": 40.0} for p in (0.55, 0.9)]
    path.write_text(json.dumps(result), encoding="utf-8")
    figure = next(one for one in reward_model_figures(gather(folder)) if isinstance(one, Lines))
    assert (figure.x.low, figure.x.high, figure.y.high) == (0.5, 1.0, 1.0)
    assert figure.y.low is not None and figure.y.low <= min(figure.series[0].low)


def test_a_fit_of_one_epoch_is_dots_with_intervals(tmp_path: Path) -> None:
    run = Run.create("reviews", {"seed": 0}, root=tmp_path, folder=tmp_path / "run", seed=0)
    for member in range(3):
        run.log(
            1,
            "reward",
            round=0,
            member=member,
            epoch=1,
            loss=0.6,
            held_out_accuracy=0.6 + 0.01 * member,
            held_out_n=200,
        )
    run.finish()
    (figure,) = fit_figures(gather(tmp_path / "run"))
    assert isinstance(figure, Dots) and [row.n for row in figure.rows] == [200, 200, 200]
    assert all(row.low < row.value < row.high for row in figure.rows)


def test_the_path_against_kl_starts_at_the_base_and_ends_at_the_final_measure(fabricate: Callable[..., Path]) -> None:
    (gold, proxy) = kl_figures(gather(fabricate()))
    assert [one.name for one in gold.series] == ["PPO", "Best of n", "PPO, final"]
    assert gold.series[-1].x == (8.4,) and gold.series[-1].low < gold.series[-1].y
    assert [one.name for one in proxy.series] == ["PPO", "Best of n"]


def test_phases_without_a_part_of_their_own_get_curves(tmp_path: Path) -> None:
    run = Run.create("reviews_base", {"steps": 2}, root=tmp_path, folder=tmp_path / "run", seed=0)
    for step in range(3):
        run.log(step, "base", loss_nats_per_token=5.0 - step)
    curve = [{"step": 50, "loss": 5.0}, {"step": 100, "loss": 4.0}]
    run.result("curve", {"rerun": curve, "shipped": curve})
    run.finish()
    page = run_page(gather(tmp_path / "run"))
    assert [section.id for section in page.sections] == [
        "results",
        "overlay",
        "phase-base",
        "explorer",
        "cost",
        "reproduce",
        "settings",
    ]
    assert "It is done, and has recorded no result." in page.headline


def test_an_empty_run_says_what_is_missing(tmp_path: Path) -> None:
    Run.create("reviews", {"seed": 0}, root=tmp_path, folder=tmp_path / "run", seed=0).finish("failed")
    text = write_report([tmp_path / "run"], None).read_text(encoding="utf-8")
    assert "This run failed" in text and "has not written a result table or an estimate" in text


def test_samples_beyond_the_pages_limit_are_counted(
    fabricate: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fabricate(samples=30)
    monkeypatch.setattr("backflip.report.render.MAX_SAMPLE_BYTES", 2000)
    data = data_of(write_report([folder], None).read_text(encoding="utf-8"))["samples"]
    assert data["total"] == 30 and 0 < len(data["rows"]) < 30


def test_bad_requests_are_one_clear_line(fabricate: Callable[..., Path], tmp_path: Path) -> None:
    folder = fabricate()
    with pytest.raises(ConfigError, match="no run to report"):
        write_report([], None)
    with pytest.raises(ConfigError, match="is a folder; expected the name of the file"):
        write_report([folder], tmp_path)
    with pytest.raises(ConfigError, match="given more than once"):
        write_report([folder, folder / ".." / folder.name], None)
    with pytest.raises(DataError, match="no run folder"):
        write_report([folder, tmp_path], None)


def test_films_are_part_of_the_page_as_far_as_they_fit(
    fabricate: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fabricate()
    assert not videos(folder)
    (folder / "videos").mkdir()
    for name, size in (("b_second", 100), ("a_first<script>", 100)):
        (folder / "videos" / f"{name}.mp4").write_bytes(b"x" * size)
    text = render(run_page(gather(folder)))
    assert text.index("a first&lt;script&gt;") < text.index("b second") and "a first<script>" not in text
    assert text.count('src="data:video/mp4;base64,') == 2 and "media-src data:" in text
    monkeypatch.setattr(page, "MAX_VIDEO_BYTES", 150)
    assert [film.title for film in videos(folder)] == ["a first<script>"]
