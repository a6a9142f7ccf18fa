"""What an owner may set and decide, and what no form may, forged or not."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from typing import Any

import pytest

from backflip.store.lineage import Lineage
from backflip.store.study import Study

from .conftest import ON_BOTH, Site, Somebody


def setting_form(**changed: Any) -> dict[str, str]:
    """The settings as the page sends them."""
    settings = {name: "\n".join(v) if isinstance(v, tuple) else str(v) for name, v in asdict(Study()).items()}
    return settings | {name: str(value) for name, value in changed.items()}


@ON_BOTH
@pytest.mark.parametrize("after", [2**31, 2**63 - 1, 2**63, 10**30, -1])
def test_a_place_in_the_queue_beyond_all_numbers_is_refused(site: Site, after: int) -> None:
    olga = site.come("Olga", "owner")
    assert olga.browser.get(f"/study?after={after}").status_code == 422
    assert olga.browser.get(f"/study?after={2**31 - 1}").status_code == 200


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("overlap", "3000", "overlap is 3000, expected 1 to 100"),
        ("overlap", "0", "expected 1 to 100"),
        ("an_hour", "9" * 30, "expected 0 to 10,000"),
        ("hold_minutes", "1e308", "expected 0.001 to 10,080"),
        ("undo_seconds", "1e308", "expected 0.001 to 3,600"),
        ("trial_seconds", "nan", "expected 0.001 to 3,600"),
        ("sub_questions", "\n".join(f"why {n}?" for n in range(21)), "sub_questions has 21 lines, expected 20 at most"),
        ("axes", "x" * 501, "expected 1 to 500 letters"),
    ],
)
def test_a_setting_out_of_bounds_is_refused_and_the_message_says_what_was_expected(
    site: Site, name: str, value: str, expected: str
) -> None:
    olga = site.come("Olga", "owner")
    found = olga.post("/study/settings", **setting_form(**{name: value}))
    assert found.status_code == 400 and expected in found.text
    assert site.book.settings() == Study()
    assert olga.post("/study/settings", **setting_form(overlap=100, an_hour=10_000)).status_code == 303


def test_settings_that_an_earlier_version_allowed_do_not_close_the_study(site: Site) -> None:
    """What is out of bounds now falls back to what is usual; everything else stays."""
    stored = asdict(replace(Study(), gold_share=0.5, repeat_share=0.0, scale="seven")) | {"overlap": 3000}
    site.book.write("settings", json.dumps(stored), "owner", site.clock())
    assert site.book.settings() == Study(gold_share=0.5, repeat_share=0.0, scale="seven")
    assert site.come("Olga", "owner").browser.get("/study").status_code == 200


def test_every_number_among_the_settings_is_bounded() -> None:
    for spec in fields(Study):
        if type(spec.default) in (int, float):
            for value in (-1, 10**9, float("nan")):
                with pytest.raises(Exception, match=spec.name):
                    replace(Study(), **{spec.name: value})


def decided(owner: Somebody, about: Somebody, state: str = "passed") -> int:
    return owner.post(f"/people/{about.person.id}/state", state=state).status_code


@ON_BOTH
def test_nobody_is_let_in_who_did_not_agree_or_is_erased(site: Site) -> None:
    olga, ann = site.come("Olga", "owner"), site.come("Ann", ready=False)
    assert decided(olga, ann) == 409
    assert site.people.person(ann.person.id).state == "new"
    assert ann.agree().status_code == 303
    assert decided(olga, ann, "failed") == 303 and decided(olga, ann) == 303
    assert decided(olga, ann, "trial") == 404, "whose pairs are judged would be in it for ever"
    assert site.people.person(ann.person.id).state == "passed"
    assert olga.post(f"/people/{ann.person.id}/erase", sure="yes").status_code == 303
    assert decided(olga, ann) == 409
    assert not site.people.move(ann.person.id, "passed")
    assert site.people.person(ann.person.id).state == "erased"
    assert olga.post("/people/nobody/state", state="passed").status_code == 404


def test_an_owner_is_not_made_to_take_a_trial(site: Site) -> None:
    olga, otto = site.come("Olga", "owner"), site.come("Otto", "owner")
    assert decided(olga, otto, "failed") == 409
    assert site.people.person(otto.person.id).state == "passed"


@ON_BOTH
def test_erasing_lists_the_models_that_the_judgements_taught(site: Site) -> None:
    olga, ann, bob = site.come("Olga", "owner"), site.come("Ann"), site.come("Bob")
    for one in (ann, bob):
        assert one.send(one.next(1)[0]["id"]).status_code == 200
    lineage = Lineage(site.store)
    hers, his = (
        lineage.add_reward("a-run", f"reward of {one.judge}", [told], 1.0)
        for one in (ann.person, bob.person)
        for _, _, told in site.store.judgement_events()
        if told.judge == one.judge
    )
    policy = lineage.add_policy("a-run", "policy", [hers], 2.0)
    found = olga.post(f"/people/{ann.person.id}/erase", sure="yes")
    page = olga.browser.get(found.headers["location"])
    assert page.status_code == 200 and "1 judgement stays" in page.text
    assert f'"/lineage/model/{hers}"' in page.text and f'"/lineage/model/{policy}"' in page.text
    assert his not in page.text and "Ann" not in page.text
    assert f'"/people?erased={ann.person.id}"' in olga.browser.get("/people").text, "it can be read again"
    assert olga.browser.get(f"/people?erased={bob.person.id}").status_code == 404


def test_what_people_agree_to_is_what_happens_to_their_name(site: Site) -> None:
    """Owners do see who judged what, so the text that ships says so; and that erasing leaves models as they are."""
    olga, ann = site.come("Olga", "owner"), site.come("Ann", ready=False)
    text = ann.browser.get("/judge", follow_redirects=True).text
    assert "Who sees your name: the owners of this study" in text and "are not changed by that" in text
    assert "Your name is not kept" not in text
    assert ann.agree().status_code == 303
    assert ann.send(ann.next(1)[0]["id"]).status_code == 200
    ((_, key, _),) = site.store.judgement_events()
    assert "Ann" in olga.browser.get(f"/lineage/judgement/{key}").text


def test_many_models_come_in_pages_the_newest_first_each_with_what_taught_it(site: Site) -> None:
    olga, ann = site.come("Olga", "owner"), site.come("Ann")
    for one in ann.next(2):
        ann.send(one["id"])
    told, lineage = site.store.judgements(0)[0], Lineage(site.store)
    for n in range(60):
        lineage.add_reward("a-run", f"reward {n}.", told[: 1 + n % 2], float(n))
    lineage.add_policy("a-run", "policy", [one.id for one in lineage.models()], 100.0)
    pages = [olga.browser.get(f"/lineage?page={page}").text for page in (0, 1)]
    assert [page.count("/lineage/model/") for page in pages] == [50, 11]
    assert "Older models" in pages[0] and "Older models" not in pages[1]
    assert "reward 59." in pages[0] and "reward 0." in pages[1]
    models = lineage.models()
    assert lineage.counts(models, 0, 3) == [(models[-1], 2), (models[-2], 2), (models[-3], 1)]
    assert all(count == len(lineage.teachers_of(one.id)) for one, count in lineage.counts(models, 0, 61))
