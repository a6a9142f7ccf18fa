"""The page about a labeling study: every number of the Quality page, nobody's name or words, and one line where there is nothing to say."""

from __future__ import annotations

import html
import re
import sqlite3
from pathlib import Path

import pytest

from backflip.cli import main
from backflip.measures.quality import quality
from backflip.measures.weighting import Weighting, weighting_of_study
from backflip.report.render import render
from backflip.report.study import read_study, study_page, write_study_report
from backflip.report.study_findings import study_findings
from backflip.store import Store
from backflip.store.desk import GOLD, REPEAT, STUDY
from backflip.store.study import Known

from .study_store import AXIS, RIGHT, SECRET, SPLIT, Planted, planted, question

PAIRS = 60
ROW = re.compile(r"<tr>(.*?)</tr>", re.DOTALL)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    return planted(tmp_path_factory.mktemp("study") / "study.sqlite", PAIRS)


@pytest.fixture(scope="module")
def page(study: Planted) -> str:
    before = Path(study.store.where).read_bytes()
    assert main(["report", study.store.where]) == 0
    assert Path(study.store.where).read_bytes() == before, "a report only reads"
    return Path(study.store.where).with_suffix(".report.html").read_text(encoding="utf-8")


def cells(page: str, name: str) -> list[str]:
    """The cells of the first row that is called so, as text."""
    for row in ROW.findall(page):
        found = [re.sub("<.*?>", " ", cell).strip() for cell in re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row, re.DOTALL)]
        if found and found[0].startswith(name):
            return [" ".join(html.unescape(cell).split()) for cell in found]
    raise AssertionError(f"no row {name}")


def test_no_name_and_no_word_of_anybody_is_on_the_page(page: str) -> None:
    text = html.unescape(page)
    for part in ("Quagmire", "Zebulon", "careful", "olga", "window.caught"):
        assert part not in text, part
    assert "<script" in page and page.count("<script") == 2


def test_counts_are_those_that_were_planted(page: str, study: Planted) -> None:
    told = 3 * (PAIRS + 12 + 12) + 2 + 2
    assert cells(page, "Judgements that stand") == ["Judgements that stand", f"{told:,}"]
    assert cells(page, "Taken back")[1] == "1" and cells(page, "of these, skipped")[1] == "1"
    assert cells(page, "People who came")[1] == "5" and cells(page, "of these, erased since")[1] == "1"
    assert cells(page, "the study itself")[1:] == [str(3 * PAIRS + 2), "1"]
    assert cells(page, "silent checks")[1] == cells(page, "the same pair again")[1] == "36"
    assert cells(page, "judged blind")[1] == cells(page, "judged again")[1] == "1"
    assert cells(page, "version 0")[2] == str(3 * PAIRS // 2), "under the guideline that came first"
    assert cells(page, f"version {study.versions[-1]}")[2] == str(told - 3 * PAIRS // 2)


def test_every_number_of_a_person_is_that_of_the_quality_page(page: str, study: Planted) -> None:
    with Store.open(study.store.where, mode="read") as store:
        found = {worth.judge: worth for worth, _ in quality(store).people}
    careful = found[study.somebody["careful"].judge]
    assert careful.known_right is not None and careful.left is not None
    row = cells(page, "Person 2")
    assert row[0].endswith(study.somebody["careful"].id), "what export calls them"
    assert row[1].startswith(f"{careful.judgements} ")
    assert row[2].startswith(f"{100 * careful.known_right.value:.0f}") and row[2].endswith(
        f"n = {careful.known_right.n}"
    )
    assert row[6].startswith(f"{100 * careful.left.value:.0f}") and "too few to say" in row[3]
    gone = cells(page, "Person 5")
    assert "erased" in gone[0] and gone[1].startswith("1 1 of 2 can't tell") and set(gone[2:]) == {"too few to say"}


def test_a_planted_weakness_is_named_by_number(study: Planted) -> None:
    with Store.open(study.store.where, mode="read") as store:
        read = read_study(store)
    assert read.people[study.somebody["coin"].judge].label == "Person 4"
    weight = {worth.judge: weight for worth, weight in read.quality.people}
    by_name = {name: weight[study.somebody[name].judge] for name in RIGHT}
    assert by_name["careful"] > by_name["usual"] > by_name["coin"]
    (split, axis) = read.quality.beside
    assert (split.question, split.in_words, split.agrees) == (SPLIT, True, None)
    assert axis.question == AXIS and axis.agrees is not None and axis.agrees.value == 1.0 and axis.agrees.low < 1.0
    titles = {one.title: one for one in study_findings(read)}
    assert "every question is judged" in titles and "few pairs were skipped" in titles


def test_what_a_tie_is_to_alpha_is_said_where_the_half_of_ties_is_said(page: str) -> None:
    assert 0 < page.index("a tie against a choice is a whole disagreement") - page.index("by a half where") < 400


def test_nothing_but_what_was_stored_decides_the_numbers(page: str, study: Planted) -> None:
    """The bootstraps too: made a second time, every section but the one with the moment is the same."""
    with Store.open(study.store.where, mode="read") as store:
        again = render(study_page(read_study(store)))

    def sections(text: str) -> list[str]:
        return [part for part in text.split("<section ") if 'id="reproduce"' not in part]

    assert len(sections(page)) > 8 and sections(again) == sections(page)


def test_people_who_are_wrong_on_purpose_weigh_less_and_the_page_says_what_that_changed(tmp_path: Path) -> None:
    """One sees what is better and two say the other: alike, the two win; checks show who is right, and the weights turn the reward."""
    made = Planted(tmp_path / "s.sqlite", 40)
    made.book.add_known([Known(question(n, "known"), ((0.0, 1.0), (1.0, 0.0))[n % 2], "") for n in range(20)])
    for name, right in (("true", 1.0), ("false", 0.0), ("wrong", 0.0)):
        made.somebody[name] = made.join(name)
        for n in range(40):
            made.say(name, question(n), int((n % 2 == 0) == (right == 1.0)))
        for n in range(20):
            made.say(name, question(n, "known"), int((n % 2 == 0) == (right == 1.0)), GOLD)
    found = weighting_of_study(made.store)
    made.store.close()
    assert isinstance(found, Weighting) and found.known is not None and found.known.gain is not None
    assert (found.known.weighted.value, found.known.equal.value) == (1.0, 0.0)
    assert found.changed["turned"] == 1.0 and found.changed["comparisons"] == 120
    assert found.held.weighted.value == pytest.approx(1 / 3), (
        "what the two said of the held-out prompts counts against it"
    )
    assert write_study_report(tmp_path / "s.sqlite").is_file()
    text = (tmp_path / "s.report.html").read_text(encoding="utf-8")
    assert cells(text, "With the weights")[2].startswith("100.0") and "+100.0 points" in cells(text, "Difference")[2]


def test_what_weighting_changed_is_not_said_where_it_cannot_be(tmp_path: Path) -> None:
    made = Planted(tmp_path / "s.sqlite", 12)
    assert "no two texts" in str(weighting_of_study(made.store))
    made.somebody |= {name: made.join(name) for name in ("careful", "usual")}
    made.judge("careful", question(0))
    assert "one person judged" in str(weighting_of_study(made.store))
    made.judge("usual", question(0))
    assert "too few to say: 2 decided answers on 1 prompts" in str(weighting_of_study(made.store))
    made.store.close()
    assert main(["report", str(tmp_path / "s.sqlite"), "--out", str(tmp_path / "p.html")]) == 0
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert "What weighting changed cannot be said here: too few to say" in page and "Too few pairs were judged" in page
    assert "not every question is judged" in page.lower()


def test_a_study_in_a_database(postgres_url: str, tmp_path: Path) -> None:
    made = Planted(postgres_url, 12)
    made.somebody["usual"] = made.join("usual")
    for n in range(12):
        made.judge("usual", question(n), STUDY)
    made.judge("usual", made.again("usual", 0), REPEAT)
    made.store.close()
    assert main(["report", postgres_url, "--out", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert cells(page, "Judgements that stand")[1] == "13" and "backflip report STORE" in page
    assert postgres_url.partition("://")[2].partition("/")[0] not in page, "where the server is, and who may open it"


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, empty, other, newer, unjudged = (
        tmp_path / f"{name}.sqlite" for name in "text empty other newer unjudged".split()
    )
    text.write_text("{}\n" * 50)
    empty.touch()
    with sqlite3.connect(other) as connection:
        connection.execute("create table films (title text)")
    for path in (newer, unjudged):
        Planted(path, 3).store.close()
    with sqlite3.connect(newer) as connection:
        connection.execute("update alembic_version set version_num = '9999'")
    (tmp_path / "folder").mkdir()
    for given, said in (
        ([tmp_path / "none.sqlite"], "ConfigError: no store at"),
        ([text], "the file is something else, or damaged"),
        ([empty], "has no tables of backflip; expected a store that a run or `backflip import` made"),
        ([other], "has no tables of backflip"),
        ([newer], "has schema 9999, newer than"),
        ([unjudged], "DataError: nobody's judgement is in"),
        ([tmp_path / "folder"], "is no run folder"),
        ([unjudged, newer], "is a labeling study, of which a page has one; give it alone"),
        ([unjudged, "--out", tmp_path / "folder"], "is a folder; expected the name of the file to write"),
        (["postgresql://nobody@127.0.0.1:1/none"], "check that the database server runs"),
        (["mysql://nobody@127.0.0.1/none"], "a store cannot live in mysql"),
    ):
        assert main(["report", *map(str, given)]) == 2, given
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1, error
    assert not list(tmp_path.glob("*.html"))
    assert SECRET not in error


def test_the_page_of_a_study_in_a_browser(page: str, study: Planted, chromium: object) -> None:
    """Nothing is fetched, nothing complains, nothing is wider than a phone, in light and dark."""
    from playwright.sync_api import Browser

    assert isinstance(chromium, Browser) and page
    where = Path(study.store.where).with_suffix(".report.html").as_uri()
    for width, scheme in ((1280, "light"), (390, "dark")):
        context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
        try:
            tab, said = context.new_page(), list[str]()
            asked = list[str]()
            tab.on("console", lambda one, said=said: said.append(one.text))
            tab.on("pageerror", lambda one, said=said: said.append(str(one)))
            tab.on("request", lambda one, asked=asked: asked.append(one.url))
            tab.goto(where)
            assert tab.locator("figure svg").count() == 5
            assert tab.evaluate("document.documentElement.scrollWidth") == width
            assert said == [] and [one for one in asked if not one.startswith(("file:", "data:"))] == []
        finally:
            context.close()
