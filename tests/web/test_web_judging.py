"""Judging without a screen: what is shown, what is recorded, and what happens to everything that goes wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from backflip.data import Item, Query
from backflip.overseers.people import GRACE_SECONDS, PeopleOverseer
from backflip.store.desk import GOLD, UNDONE, Desk, standing
from backflip.store.study import Known, Study

from .conftest import ON_BOTH, Site, pair

Make = Callable[[int], list[Known]]
QUIET = Study(gold_share=0.0, repeat_share=0.0)


def set_study(site: Site, study: Study) -> None:
    site.book.change(study, "owner", site.clock())


@ON_BOTH
def test_an_answer_is_recorded_for_the_items_as_stored(site: Site) -> None:
    set_study(site, QUIET)
    ann = site.come("Ann")
    for choice, share in (("1", 1.0), ("2", 0.0), ("=", 0.5)):
        (shown,) = ann.next()
        query = site.store.query(shown["id"])
        assert ann.send(shown["id"], choice).json() == {"recorded": True}
        told = site.store.judgements(0)[0][-1]
        assert told.answer is not None and told.judge == ann.person.judge and told.seconds == 2.0
        left = next(k for k, item in enumerate(query.items) if item.content == shown["sides"][0]["text"])
        assert told.answer[left] == share
        assert told.details["shown"][0] == left
        assert {"page", "instructions", "timing", "event", "purpose"} <= set(told.details)


def test_sides_are_drawn_and_about_half_are_swapped(site: Site) -> None:
    set_study(site, QUIET)
    site.store.add_queries([pair(n) for n in range(10, 210)])
    ann = site.come("Ann")
    swapped = 0
    for _ in range(200):
        (shown,) = ann.next()
        ann.send(shown["id"])
        swapped += site.store.judgements(0)[0][-1].details["shown"] == [1, 0]
        site.clock.now += 10
    assert 70 <= swapped <= 130


def test_cant_tell_is_no_tie(site: Site) -> None:
    ann = site.come("Ann")
    (shown,) = ann.next()
    ann.send(shown["id"], "s")
    told = site.store.judgements(0)[0][-1]
    assert told.answer is None and told.note == "can't tell"
    assert site.store.counts()["could_not_judge"] == 1


@ON_BOTH
def test_the_same_answer_sent_twice_is_one_event(site: Site) -> None:
    ann = site.come("Ann")
    (shown,) = ann.next()
    event = ann.event()
    assert ann.send(shown["id"], event=event).json() == {"recorded": True}
    assert ann.send(shown["id"], event=event).json() == {"recorded": False}
    other = ann.send(shown["id"], "2")
    assert other.status_code == 409 and "another window" in other.json()["error"]
    assert site.store.counts()["judgements"] == 1


def test_nobody_answers_what_was_not_given_to_them(site: Site) -> None:
    ann, bob = site.come("Ann"), site.come("Bob")
    (shown,) = ann.next()
    found = bob.send(shown["id"])
    assert found.status_code == 409 and "not given to you" in found.json()["error"]
    assert site.store.counts()["judgements"] == 0


@ON_BOTH
def test_people_hold_different_pairs_and_no_pair_more_than_asked(site: Site) -> None:
    set_study(site, replace(QUIET, overlap=2))
    three = [site.come(name) for name in ("Ann", "Bob", "Cy")]
    given: dict[str, int] = {}
    for _ in range(20):
        for one in three:
            for shown in one.next():
                assert one.send(shown["id"]).status_code == 200
                given[shown["id"]] = given.get(shown["id"], 0) + 1
    assert sorted(given.values()) == [2] * 10
    assert site.store.counts()["judgements"] == 20


def test_what_somebody_leaves_lying_goes_to_others_and_their_late_answer_is_kept(site: Site) -> None:
    set_study(site, QUIET)
    ann, bob = site.come("Ann"), site.come("Bob")
    held = ann.next(3)
    assert not {one["id"] for one in held} & {one["id"] for one in bob.next(3)}
    site.clock.now += 60 * QUIET.hold_minutes + 1
    seen: set[str] = set()
    while pairs := bob.next(3):
        seen |= {one["id"] for one in pairs}
        for one in pairs:
            bob.send(one["id"])
    assert len(seen) == 10
    assert ann.send(held[0]["id"]).json() == {"recorded": True}
    assert site.store.judgements(0)[0][-1].details["late"] is True


def test_a_person_alone_gets_their_own_back(site: Site) -> None:
    set_study(site, QUIET)
    ann = site.come("Ann")
    before = {one["id"] for one in ann.next(3)}
    site.clock.now += 60 * QUIET.hold_minutes + 1
    seen: set[str] = set()
    while pairs := ann.next(3):
        seen |= {one["id"] for one in pairs}
        for one in pairs:
            ann.send(one["id"])
    assert before <= seen and len(seen) == 10


@ON_BOTH
def test_undo_is_an_event_and_the_pair_comes_again(site: Site) -> None:
    ann = site.come("Ann")
    (shown,) = ann.next()
    ann.send(shown["id"], "1")
    found = ann.browser.post("/judge/undo", data={"event": ann.event()}, headers={"X-CSRF-Token": ann.csrf})
    assert found.json()["pair"]["id"] == shown["id"]
    assert ann.next()[0]["id"] == shown["id"]
    ann.send(shown["id"], "2")
    events = site.store.judgements(0)[0]
    assert [one.note for one in events] == ["", UNDONE, ""]
    (kept,) = standing(events)
    assert kept.answer != events[0].answer
    site.clock.now += QUIET.undo_seconds + GRACE_SECONDS
    late = ann.browser.post("/judge/undo", data={"event": ann.event()}, headers={"X-CSRF-Token": ann.csrf})
    assert late.status_code == 409 and "too long ago" in late.json()["error"]


def test_a_pair_taken_back_stays_with_whoever_thinks_about_it(site: Site) -> None:
    set_study(site, QUIET)
    ann, bob = site.come("Ann"), site.come("Bob")
    (shown,) = ann.next()
    ann.send(shown["id"])
    ann.browser.post("/judge/undo", data={"event": ann.event()}, headers={"X-CSRF-Token": ann.csrf})
    site.clock.now += QUIET.undo_seconds + GRACE_SECONDS
    assert shown["id"] not in {one["id"] for one in bob.next(8)}
    ann.send(shown["id"], "2")
    assert "late" not in site.store.judgements(0)[0][-1].details


@ON_BOTH
def test_training_hears_only_what_stands(site: Site) -> None:
    set_study(site, QUIET)
    overseer = PeopleOverseer(site.store, clock=site.clock)
    ann = site.come("Ann")
    first, second = ann.next(2)
    ann.send(first["id"], "1")
    assert overseer.answers(0) == ([], 0), "it may still be taken back"
    ann.browser.post("/judge/undo", data={"event": ann.event()}, headers={"X-CSRF-Token": ann.csrf})
    ann.send(first["id"], "2")
    ann.send(second["id"], "1")
    heard, cursor = overseer.answers(0)
    assert [one.query_id for one in heard] == [first["id"]] and heard[0].note == ""
    assert heard[0].answer == site.store.judgements(0)[0][2].answer
    site.clock.now += QUIET.undo_seconds + GRACE_SECONDS
    assert [one.query_id for one in overseer.answers(cursor)[0]] == [second["id"]]


def test_a_clock_that_is_set_back_loses_nothing(site: Site) -> None:
    set_study(site, QUIET)
    overseer = PeopleOverseer(site.store, clock=site.clock)
    ann = site.come("Ann")
    (shown,) = ann.next()
    ann.send(shown["id"])
    site.clock.now -= 50_000
    assert len(overseer.answers(0)[0]) == 1, "a time that is yet to come says nothing; the answer stands"
    assert len(ann.next()) == 1 and ann.send(ann.next()[0]["id"]).status_code == 200


def test_gold_comes_among_the_others_and_looks_like_them(site: Site, known: Make) -> None:
    site.store.add_queries([pair(n) for n in range(10, 90)])
    site.book.add_known(known(20))
    set_study(site, replace(QUIET, gold_share=0.3))
    ann = site.come("Ann")
    checks = set(site.book.known_ids())
    shown = [one for _ in range(60) for one in ann.next() if ann.send(one["id"]).status_code == 200]
    gold = [one for one in shown if one["id"] in checks]
    assert 8 <= len(gold) <= 20, "all 20, or as many as the draw gives"
    assert {tuple(sorted(one)) for one in shown} == {tuple(sorted(gold[0]))}
    assert {one["reason"] for one in shown} == {"random"}, "as the others are"
    purposes = [one.details["purpose"] for one in site.store.judgements(0)[0]]
    assert purposes.count("gold") == len(gold)


def test_repeated_pairs_come_with_their_sides_swapped(site: Site) -> None:
    site.store.add_queries([pair(n) for n in range(10, 90)])
    set_study(site, replace(QUIET, repeat_share=0.3))
    ann = site.come("Ann")
    sides: dict[frozenset[str], list[list[str]]] = {}
    for _ in range(60):
        (shown,) = ann.next()
        texts = [side["text"] for side in shown["sides"]]
        sides.setdefault(frozenset(texts), []).append(texts)
        ann.send(shown["id"])
        site.clock.now += 1
    twice = [each for each in sides.values() if len(each) > 1]
    assert len(twice) >= 5 and all(each[0] == each[1][::-1] for each in twice)


def test_repeats_and_checks_are_given_to_nobody_else(site: Site, known: Make) -> None:
    site.book.add_known(known(5))
    set_study(site, replace(QUIET, repeat_share=0.5))
    ann, bob = site.come("Ann"), site.come("Bob")
    for _ in range(30):
        for one in ann.next():
            ann.send(one["id"])
    asked = {one.id for one in (pair(n) for n in range(10))}
    while pairs := bob.next(3):
        assert {one["id"] for one in pairs} <= asked
        for one in pairs:
            bob.send(one["id"])


@ON_BOTH
def test_a_trial_explains_each_pair_and_the_owner_decides(site: Site, known: Make) -> None:
    site.book.add_known(known(4))
    set_study(site, replace(QUIET, trial=True))
    olga, ann = site.come("Olga", "owner"), site.come("Ann")
    checks = set(site.book.known_ids())
    for number in range(4):
        (shown,) = ann.next()
        assert shown["id"] in checks
        longer = "1" if len(shown["sides"][0]["text"]) > len(shown["sides"][1]["text"]) else "2"
        said = longer if number else {"1": "2", "2": "1"}[longer]
        found = ann.send(shown["id"], said).json()
        assert found["agrees"] == (0.0 if number == 0 else 1.0) and found["explanation"] == "It says more."
        assert found["known"] == f"{longer} is better" and found["over"] == (number == 3)
    page = ann.browser.get("/judge").text
    assert "The trial is over" in page and "4 pairs; 3" in page
    assert ann.browser.get("/judge/next").status_code == 403
    assert "3 of 4" in olga.browser.get("/people").text and "(passes the rule)" in olga.browser.get("/people").text
    assert olga.post(f"/people/{ann.person.id}/state", state="passed").status_code == 303
    assert not {one["id"] for one in ann.next(3)} & checks


def test_the_last_answer_of_a_trial_sent_again_undoes_no_decision(site: Site, known: Make) -> None:
    site.book.add_known(known(2))
    set_study(site, replace(QUIET, trial=True))
    olga, ann = site.come("Olga", "owner"), site.come("Ann")
    ann.send(ann.next()[0]["id"])
    (shown,) = ann.next()
    event = ann.event()
    first = ann.send(shown["id"], event=event).json()
    assert first["over"] and olga.post(f"/people/{ann.person.id}/state", state="passed").status_code == 303
    assert ann.send(shown["id"], event=event).json() == first | {"recorded": False}
    assert site.people.person(ann.person.id).state == "passed" and len(ann.next()) == 1
    assert len(site.people.acts(ann.person.id, "trial")) == 1


def test_a_check_is_said_to_be_asked_for_what_the_others_are_asked_for(site: Site, known: Make) -> None:
    site.store.add_queries([replace(pair(n), reason="disagreement") for n in range(100, 160)])
    site.book.add_known([replace(one, query=replace(one.query, question="Which?")) for one in known(3)])
    ann = site.come("Ann")
    for one in site.book.known_ids():
        assert Desk(site.store).deal(ann.person, one, GOLD, site.clock(), 600.0)
    found = {one["id"]: one["reason"] for one in ann.next(3)}
    assert found == dict.fromkeys(site.book.known_ids(), "disagreement")


def test_a_scale_of_seven_axes_and_sub_questions(site: Site) -> None:
    set_study(site, replace(QUIET, scale="seven", axes=("more truthful",), sub_questions=("What is claimed?",)))
    ann = site.come("Ann")
    page = ann.browser.get("/judge").text
    assert "more truthful" in page and "What is claimed?" in page and "slightly" in page
    (shown,) = ann.next()
    whole = {"axes": {"more truthful": "="}, "sub": {"What is claimed?": "all of it"}}
    assert ann.send(shown["id"], "1", **whole).status_code == 422, "the scale is asked for"
    for part in ({}, {"axes": whole["axes"]}, {"sub": whole["sub"]}, {**whole, "sub": {"What is claimed?": " "}}):
        refused = ann.send(shown["id"], None, scale=2, **part)
        assert refused.status_code == 422 and "more questions than were answered" in refused.json()["error"]
    assert site.store.counts()["judgements"] == 0
    sent = ann.send(shown["id"], None, scale=2, axes={"more truthful": "="}, sub={"What is claimed?": "all of it"})
    assert sent.status_code == 200
    told = site.store.judgements(0)[0][-1]
    assert told.answer is not None and max(told.answer) == pytest.approx(0.88)
    assert told.details["axes"] == {"more truthful": "="} and told.details["sub"] == {"What is claimed?": "all of it"}
    (shown,) = ann.next()
    assert ann.send(shown["id"], None, scale=2, axes={"of another study": "1"}).status_code == 422
    assert ann.send(shown["id"], "s").status_code == 200, "who cannot tell need not say why"


def test_the_sub_questions_are_asked_of_the_share_that_the_study_says(site: Site) -> None:
    study = replace(QUIET, sub_questions=("What is claimed?",), sub_share=0.5)
    set_study(site, study)
    ann = site.come("Ann")
    for one in ann.next(8):
        must = int(one["id"][:8], 16) / 2**32 < 0.5
        assert ann.send(one["id"]).status_code == (422 if must else 200)
    assert 0 < site.store.counts()["judgements"] < 8, "both kinds are among these pairs"


def test_pacing(site: Site) -> None:
    set_study(site, replace(QUIET, an_hour=3))
    ann = site.come("Ann")
    for _ in range(3):
        ann.send(ann.next()[0]["id"])
        site.clock.now += 1
    found = ann.browser.get("/judge/next").json()
    assert found["pairs"] == [] and found["wait"] > 0
    site.clock.now += 3601
    assert len(ann.next()) == 1


def test_an_expired_pair_goes_away(site: Site) -> None:
    set_study(site, QUIET)
    site.store.expire([pair(n).id for n in range(10)])
    assert site.come("Ann").next(3) == []


def test_a_long_item_is_cut_and_says_so(site: Site) -> None:
    long = Query((Item("p", "x" * 200_000, {}), Item("p", "y", {})), "Which?")
    site.store.add_queries([long])
    site.store.expire([pair(n).id for n in range(10)])
    sides = site.come("Ann").next()[0]["sides"]
    assert sorted((len(side["text"]), side["cut"]) for side in sides) == [(1, 0), (100_000, 200_000)]


def test_clips_are_filmed_before_they_are_asked_and_a_missing_one_is_said_to_be(site: Site, tmp_path: Path) -> None:
    site.store.expire([pair(n).id for n in range(10)])
    filmed: list[str] = []

    def film(item: Item) -> Path:
        filmed.append(item.id)
        path = tmp_path / f"{item.id}.mp4"
        path.write_bytes(b"film of " + item.content.encode())
        return path

    PeopleOverseer(site.store, film).ask([pair(1, "clip")])
    ann = site.come("Ann")
    (shown,) = ann.next()
    assert len(filmed) == 2 and not any(side["missing"] for side in shown["sides"])
    found = ann.browser.get(shown["sides"][0]["clip"])
    assert found.content.startswith(b"film of answer 1") and found.headers["content-type"] == "video/mp4"
    ann.send(shown["id"])
    site.store.add_queries([pair(2, "clip")])
    (shown,) = ann.next()
    assert all(side["missing"] for side in shown["sides"])
    assert ann.browser.get(shown["sides"][0]["clip"]).status_code == 404


@ON_BOTH
def test_markup_of_a_model_is_text_on_every_page(site: Site) -> None:
    evil = "</script><script>window.stolen=1</script><img src=x onerror=window.stolen=1>"
    site.store.add_queries([Query((Item(evil, evil, {}), Item(evil, evil + "2", {})), evil, reason=evil)])
    olga = site.come("Olga", "owner")
    for path in ("/study", "/quality", "/people"):
        assert "<img src=x" not in olga.browser.get(path).text, path


def test_settings_are_kept_in_versions_and_bad_ones_refused(site: Site) -> None:
    olga = site.come("Olga", "owner")
    form = {"scale": "seven", "axes": "a\nb", "overlap": "2"}
    rest = {name: str(value) for name, value in vars(Study()).items() if name not in form}
    rest |= {"sub_questions": "", "trial": "False"}
    assert olga.post("/study/settings", **rest | form).status_code == 303
    assert (site.book.settings().scale, site.book.settings().axes, site.book.settings().overlap) == (
        "seven",
        ("a", "b"),
        2,
    )
    for bad in ({"overlap": "many"}, {"gold_share": "2"}, {"scale": "nine"}):
        found = olga.post("/study/settings", **rest | form | bad)
        assert found.status_code == 400, bad
    assert site.book.settings().overlap == 2
    olga.post("/study/document", kind="instructions", text="Judge well.")
    version, text = site.book.document("instructions")
    assert version > 0 and text == "Judge well."
