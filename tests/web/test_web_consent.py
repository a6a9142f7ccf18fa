"""Consent, before and after it changes; and what is taken of an answer: the study's own questions, and nothing beyond bounds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from .conftest import ON_BOTH, Site
from .test_web_judging import set_study
from .visitors import QUIET


def test_consent_comes_first_and_is_noted_with_its_version(site: Site) -> None:
    ann = site.come("Ann", ready=False)
    assert "I agree" in ann.browser.get("/judge").text
    assert ann.browser.get("/judge/next").status_code == 403
    assert ann.post("/consent").status_code == 409, "not without the tick"
    assert ann.agree().status_code == 303
    assert site.people.acts(ann.person.id, "consent")[0]["version"] == 0
    assert len(ann.next(3)) == 3


@ON_BOTH
def test_a_new_consent_is_agreed_to_before_anybody_judges_on(site: Site) -> None:
    set_study(site, QUIET)
    olga, ann = site.come("Olga", "owner"), site.come("Ann")
    held = ann.next()[0]["id"]
    assert olga.post("/study/document", kind="consent", text="Your answers are sold.").status_code == 303
    version, _ = site.book.document("consent")
    for found in (
        ann.browser.get("/judge/next"),
        ann.send(held),
        ann.browser.get("/practice/next"),
        ann.browser.get(f"/adjudicate/{held}"),
    ):
        assert found.status_code == 403 and "has changed" in found.text
    assert ann.browser.get("/practice").headers["location"] == "/judge"
    page = ann.browser.get("/judge").text
    assert "Your answers are sold." in page and "has changed since you agreed" in page
    assert site.store.counts()["judgements"] == 0
    assert ann.agree(0).status_code == 303, "what she read is not what there is now"
    assert ann.browser.get("/judge/next").status_code == 403
    assert ann.agree(version).status_code == 303
    assert ann.send(held).json() == {"recorded": True}, "what was kept meanwhile is taken"
    assert site.people.person(ann.person.id).state == "passed"
    assert [one["version"] for one in site.people.acts(ann.person.id, "consent")] == [0, version]
    assert len(olga.next()) == 1, "an owner wrote it"


@pytest.mark.parametrize(
    "bad",
    [
        {"query": "x"},
        {"event": "short"},
        {"choice": "3"},
        {"timing": {"visible": -1, "whole": 1, "idle": 0}},
        {"timing": {"visible": "nan", "whole": 1, "idle": 0}},
        {"timing": {"visible": 1e6, "whole": 0, "idle": 0}},
        {"timing": {"visible": 40, "whole": 60, "idle": 30}},
        {"comment": "x" * 5000},
        {"sub": {"why?": "x" * 5000}},
        {"claims": {"my own words": "strong"}},
        {"help": {"my own words": 1}},
        {"help": {"why": 10**400}},
        {"timing": {"visible": 1, "whole": 1, "idle": 0, "replays": [0, 10**400]}},
        {"unknown": 1},
    ],
)
def test_nonsense_is_refused_in_words(site: Site, bad: dict[str, Any]) -> None:
    ann = site.come("Ann")
    (shown,) = ann.next()
    body = {"query": shown["id"], "event": ann.event(), "choice": "1", "timing": {"visible": 1, "whole": 1, "idle": 0}}
    found = ann.browser.post("/judge/answer", json=body | bad, headers={"X-CSRF-Token": ann.csrf})
    assert found.status_code == 422 and "could not read" in found.json()["error"]
    assert site.store.counts()["judgements"] == 0


def test_parts_of_a_time_may_exceed_the_whole_by_their_rounding(site: Site) -> None:
    ann = site.come("Ann")
    sent = ann.send(ann.next()[0]["id"], timing={"visible": 40.001, "whole": 70.0, "idle": 30.0})
    assert sent.status_code == 200


@pytest.mark.parametrize("choice", ["1", "s"])
def test_words_are_taken_under_the_questions_of_the_study_alone(site: Site, choice: str) -> None:
    """What stands as a question stays when its author is erased, so nobody brings one of their own."""
    set_study(site, replace(QUIET, sub_questions=("why?",), axes=("more truthful",)))
    olga, ann = site.come("Olga", "owner"), site.come("Ann")
    (shown,) = ann.next()
    for own in ({"sub": {"my own words": "x"}}, {"axes": {"my own words": "1"}}):
        found = ann.send(shown["id"], choice, **own)
        assert found.status_code == 422 and "have changed" in found.json()["error"]
    said = {"sub": {"why?": "my own words"}, "axes": {"more truthful": "2"}, "claims": {"1.2": "weak"}}
    assert ann.send(shown["id"], choice, **said).status_code == 200
    assert olga.post(f"/people/{ann.person.id}/erase", sure="yes").status_code == 303
    (told,) = site.store.judgements(0)[0]
    kept = {name: told.details[name] for name in said}
    assert kept == {**said, "sub": {"why?": ""}}, "words go, choices stay"
    assert told.details["page"] != ""
