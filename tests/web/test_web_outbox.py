"""Answers on their way: taken back though nobody knows whether they arrived, and kept where the study asks something else by now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from playwright.sync_api import expect

from backflip.store.desk import UNDONE, standing

from .conftest import ON_BOTH, Site, pair
from .test_web_judging import set_study
from .test_web_misfortune import KEPT, trouble
from .visitors import QUIET, Served, Visitor, wait_for


def test_undo_may_name_the_answer_that_it_means_and_may_be_sent_twice(site: Site) -> None:
    set_study(site, QUIET)
    ann = site.come("Ann")

    def undo(of: str) -> Any:
        return ann.browser.post(
            "/judge/undo", data={"event": ann.event(), "of": of}, headers={"X-CSRF-Token": ann.csrf}
        )

    first, second = (one["id"] for one in ann.next(2))
    events = [ann.event(), ann.event()]
    for query, event in zip((first, second), events, strict=True):
        ann.send(query, event=event)
    refused = undo(events[0])
    assert refused.status_code == 409 and "another answer since" in refused.json()["error"]
    assert len(standing(site.store.judgements(0)[0])) == 2
    assert undo(events[1]).json()["pair"]["id"] == second
    assert undo(events[1]).json() == {"pair": None}, "its reply was lost, and it is sent again"
    assert [one.query_id for one in standing(site.store.judgements(0)[0])] == [first]
    site.clock.now += QUIET.undo_seconds + 1
    assert undo(events[0]).status_code == 409, "it stands"


@ON_BOTH
@pytest.mark.parametrize("arrives", ["before and after", "after"])
def test_an_answer_that_was_taken_back_is_not_recorded_when_it_arrives_late(site: Site, arrives: str) -> None:
    """Two windows send what one of them kept, and one takes it back; or the answer was longer on its way than the undo."""
    set_study(site, QUIET)
    ann = site.come("Ann")
    (query, event) = ann.next()[0]["id"], ann.event()
    if arrives == "before and after":
        assert ann.send(query, event=event).json() == {"recorded": True}
    for _ in range(2):
        undone = ann.browser.post(
            "/judge/undo", data={"event": ann.event(), "of": event}, headers={"X-CSRF-Token": ann.csrf}
        )
        assert undone.status_code == 200
    assert ann.send(query, event=event).json() == {"recorded": False}
    assert standing(site.store.judgements(0)[0]) == []
    assert ann.send(query, "2").json() == {"recorded": True}, "the corrected one"
    assert len(site.people.acts(ann.person.id, UNDONE)) == 1


def test_an_answer_taken_back_in_one_window_is_not_sent_by_another(
    served: Served, come: Callable[..., Visitor]
) -> None:
    served.store.add_queries([pair(n) for n in range(3)])
    ann = come("Ann")
    lost = "**/judge/answer"
    ann.context.route(lost, lambda route: route.abort())
    # Kept, and not sent by this window: it believes that something is on its way.
    ann.page.evaluate("() => { window.fetch = () => new Promise(() => {}); }")
    ann.page.keyboard.press("1")
    ann.page.keyboard.press("2")
    ann.page.wait_for_function("() => Object.keys(localStorage).length === 2")
    first, second = sorted(
        ann.page.evaluate("() => Object.values(localStorage).map(one => JSON.parse(one))"),
        key=lambda one: one["number"],
    )
    assert first["sent"] and "sent" not in second
    other = ann.context.new_page()
    other.goto(f"{served.url}/judge")
    expect(other.locator("#trouble")).to_contain_text("2 answers are kept here")
    ann.page.keyboard.press("u")
    ann.page.wait_for_function("() => Object.keys(localStorage).length === 1")
    ann.context.unroute(lost)
    wait_for(lambda: served.store.counts()["judgements"] == 1)
    expect(other.locator("#trouble")).to_be_hidden(timeout=15_000)
    assert [one.details["event"] for one in served.store.judgements(0)[0]] == [first["body"]["event"]]


def test_an_answer_recorded_before_the_scale_changed_is_known_when_it_is_sent_again(site: Site) -> None:
    set_study(site, QUIET)
    ann = site.come("Ann")
    first, second = (one["id"] for one in ann.next(2))
    event = ann.event()
    assert ann.send(first, event=event).json() == {"recorded": True}
    set_study(site, replace(QUIET, scale="seven"))
    assert ann.send(first, event=event).json() == {"recorded": False}
    refused = ann.send(second)
    assert refused.status_code == 422 and "from 1 to 7" in refused.json()["error"]


@pytest.mark.parametrize("lost", ["answer", "undo", "everything for a while"])
def test_an_undo_finds_the_answer_though_a_reply_was_lost(
    served: Served, come: Callable[..., Visitor], lost: str
) -> None:
    served.store.add_queries([pair(n) for n in range(6)])
    ann = come("Ann")
    first = ann.texts()
    if lost == "undo":
        ann.press("1")
        wait_for(lambda: served.store.counts()["judgements"] == 1)
        ann.page.wait_for_timeout(300)  # the answer is acknowledged
        with served.replies_lost("/judge/undo"):
            ann.page.keyboard.press("u")
    else:
        with served.replies_lost("/judge/answer"):
            ann.press("1")
            trouble(ann).to_contain_text(KEPT)
        if lost == "everything for a while":
            ann.context.set_offline(True)
        ann.page.keyboard.press("u")
    expect(ann.page.locator("#side1 .text").first).to_have_text(first[0])
    ann.press("2")
    ann.press("1")
    if lost == "everything for a while":
        trouble(ann).to_contain_text("2 answers are kept here")
        ann.context.set_offline(False)
    wait_for(lambda: len(served.store.judgements(0)[0]) == 4)
    trouble(ann).to_be_hidden(timeout=15_000)
    events = served.store.judgements(0)[0]
    assert [one.note for one in events] == ["", UNDONE, "", ""]
    stands = standing(events)
    assert len({one.query_id for one in stands}) == 2
    assert stands[0].query_id == events[0].query_id and stands[0].answer != events[0].answer, "the corrected one"


def test_answers_that_the_study_cannot_take_any_more_are_kept_and_said_to_be(
    served: Served, come: Callable[..., Visitor]
) -> None:
    served.store.add_queries([pair(n) for n in range(6)])
    ann = come("Ann")
    refused = ann.page.locator("#refused")
    ann.page.wait_for_timeout(300)
    ann.context.set_offline(True)
    for key in "12s":
        ann.press(key)
    trouble(ann).to_contain_text("3 answers are kept here")
    served.study(replace(QUIET, scale="seven"))
    ann.context.set_offline(False)
    expect(refused).to_contain_text("2 answers could not be taken as the study asks now: this study asks how much")
    wait_for(lambda: served.store.counts()["judgements"] == 1)  # can't tell fits every scale
    assert refused.get_by_role("button").inner_text() == "Drop 2 answers for good"
    ann.page.reload()
    expect(refused).to_contain_text("2 answers could not be taken")
    served.study(QUIET)
    ann.page.reload()
    wait_for(lambda: served.store.counts()["judgements"] == 3)
    expect(refused).to_be_hidden()
    # Once more, and dropped by who knows what that means.
    served.study(replace(QUIET, scale="seven"))
    ann.press("1")
    expect(refused).to_contain_text("1 answer could not be taken")
    ann.page.keyboard.press("u")
    expect(refused).to_be_hidden()
    ann.press("1")
    refused.get_by_role("button").click()
    expect(refused).to_be_hidden()
    ann.page.reload()
    ann.ready()
    ann.page.wait_for_timeout(300)
    expect(refused).to_be_hidden()
    assert served.store.counts()["judgements"] == 3
